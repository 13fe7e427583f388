"""Bytes of the tensors that are alive, and the most that were: counted operation by operation, on any device.

Beside `torch.cuda.max_memory_allocated` this counts on a CPU too, and where tensors have no memory at all: inside
torch's FakeTensorMode a model of any size is run forward and backward within seconds, and its bytes counted.
"""

import weakref
from collections.abc import Iterable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary


class LiveBytes(TorchDispatchMode):
    """Counts, while it is active, each storage that an operation makes, until it is freed.

    `live` are the bytes of now, `peak` the most so far. Tensors that were there before do not count if they are named
    in `before`; otherwise a view of one brings its storage in. Meta tensors have no bytes. What a kernel takes and
    gives back within one operation is not seen.
    """

    def __init__(self, before: Iterable[torch.Tensor] = ()):
        super().__init__()
        self.live = self.peak = 0
        self._known = WeakIdKeyDictionary()
        for tensor in before:
            self._known[tensor.untyped_storage()] = True

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        outputs = function(*args, **(kwargs or {}))
        for output in tree_leaves(outputs):
            if isinstance(output, torch.Tensor) and output.device.type != "meta":
                self._count(output)
        return outputs

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known[storage] = True
        size = storage.nbytes()
        weakref.finalize(storage, self._forget, size)
        self.live += size
        self.peak = max(self.peak, self.live)

    def _forget(self, size: int) -> None:
        self.live -= size
