"""rm.py that measures its tensors: bytes by part, and the peak. tests/estimate/test_memory_estimate.py launches it.

Writes `bytes-RANK.json` beside the output folder.
"""

import gc
import json
import os
import sys
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

sys.path.insert(0, str(Path(__file__).parents[1]))

import rm
from reward_modeling.common.launch import launched_with
from reward_modeling.estimate.live_bytes import LiveBytes
from reward_modeling.training.trainer import RewardTrainer


class RealBytes(LiveBytes):
    """Also sees the parts of tensors that FSDP has cut, and what is freed by making a storage smaller."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        outputs = super().__torch_dispatch__(function, types, args, kwargs)
        if launched_with(os.environ, "FSDP"):
            self.live = sum(storage.nbytes() for storage in self._known)
            self.peak = max(self.peak, self.live)
        return outputs

    def _count(self, output: torch.Tensor) -> None:
        super()._count(output.to_local() if isinstance(output, DTensor) else output)


def bytes_of(tensors) -> int:
    """Each storage once."""
    sizes = {}
    for tensor in tensors:
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        sizes[local.untyped_storage().data_ptr()] = local.untyped_storage().nbytes()
    return sum(sizes.values())


def weights_of(trainer: RewardTrainer, optimizer) -> list[torch.Tensor]:
    """What holds the weights between two passes: DeepSpeed's own copies too."""
    weights = [getattr(weight, "ds_tensor", weight.data) for weight in trainer.model.parameters()]
    for name in ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat"):
        weights += getattr(optimizer, name, [])
    return weights


def gradients_of(trainer: RewardTrainer, optimizer) -> list[torch.Tensor]:
    if not hasattr(optimizer, "averaged_gradients"):
        return [weight.grad for weight in trainer.model.parameters() if weight.grad is not None]
    groups = [group for group in optimizer.averaged_gradients.values() if group is not None]
    return [gradient for group in groups for gradient in group]


def parts(trainer: RewardTrainer) -> dict[str, int]:
    optimizer = trainer.optimizer
    while not hasattr(optimizer, "averaged_gradients") and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    inner = optimizer.optimizer if hasattr(optimizer, "averaged_gradients") else optimizer
    states = [value for state in inner.state.values() for value in state.values() if torch.is_tensor(value)]
    return {
        "weights": bytes_of(weights_of(trainer, optimizer)),
        "gradients": bytes_of(gradients_of(trainer, optimizer)),
        "optimizer": bytes_of(value for value in states if value.ndim),
    }


def main() -> None:
    live, passes = RealBytes(), []
    forward_backward = RewardTrainer.forward_backward

    def counted(trainer, model, micro_batch, scale, *, last):
        gc.collect()
        before = parts(trainer)
        rest, live.peak = live.live - sum(before.values()), live.live
        loss = forward_backward(trainer, model, micro_batch, scale, last=last)
        passes.append(
            {
                "step": trainer.state.global_step,
                "last": last,
                "tokens": micro_batch["num_tokens"],
                "rest": rest,  # data, layouts, and what an engine keeps beside the parts
                "peak": live.peak,
                **parts(trainer),
            }
        )
        return loss

    RewardTrainer.forward_backward = counted
    with live:
        rm.main()
    output = Path(sys.argv[sys.argv.index("--output_path") + 1])
    Path(f"{output}-bytes-{os.environ['RANK']}.json").write_text(json.dumps(passes))


if __name__ == "__main__":
    main()
