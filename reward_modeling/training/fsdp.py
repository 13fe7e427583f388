"""FSDP2 as it is needed here: on a CPU too, with rewards and gradients in float32, cut by layer under an adapter."""

import functools
import os

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import Trainer

from reward_modeling.common.launch import launched_with
from reward_modeling.models.adapters import has_adapter


def set_up_fsdp(trainer: Trainer) -> None:
    """Put right what accelerate and transformers would do otherwise. Nothing where FSDP is not asked for."""
    state = trainer.accelerator.state
    # accelerate 1.15 passes over FSDP where the processes are CPUs, and would train copies.
    if launched_with(os.environ, "FSDP") and trainer.accelerator.distributed_type == DistributedType.MULTI_CPU:
        state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
        state.fsdp_plugin = FullyShardedDataParallelPlugin()
        trainer.is_fsdp_enabled = True
    if trainer.accelerator.is_fsdp2 and has_adapter(trainer.model):
        state.fsdp_plugin = layer_by_layer(state.fsdp_plugin)
    if trainer.accelerator.is_fsdp2 and trainer.args.bf16:
        # accelerate's own choice reduces gradients in bfloat16, and rounds the float32 rewards to it.
        state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32
        )


class LayerByLayer(FullyShardedDataParallelPlugin):
    """FSDP that keeps its own way of cutting a model: layer by layer, unless a setting says otherwise.

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
