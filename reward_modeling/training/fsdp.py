"""FSDP cuts a model layer by layer, also under an adapter."""

import functools

from accelerate.utils import FullyShardedDataParallelPlugin


class LayerByLayer(FullyShardedDataParallelPlugin):
    """FSDP that keeps its own way of cutting a model: layer by layer, unless it was told otherwise.

    transformers gives every model with an adapter FSDP 1's way for such models, which accelerate does not know under
    FSDP 2: the whole model would be one piece, and each process would hold all of it in a forward pass.
    """

    @property
    def auto_wrap_policy(self):
        return vars(self)["auto_wrap_policy"]

    @auto_wrap_policy.setter
    def auto_wrap_policy(self, policy):
        if not isinstance(policy, functools.partial):
            vars(self)["auto_wrap_policy"] = policy


def layer_by_layer(plugin: FullyShardedDataParallelPlugin) -> LayerByLayer:
    kept = LayerByLayer.__new__(LayerByLayer)
    vars(kept).update(vars(plugin))
    return kept
