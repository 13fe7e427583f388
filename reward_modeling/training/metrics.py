"""Figures of a run, summed on the device and read only when they are logged."""

import torch
from accelerate import Accelerator

from reward_modeling.objectives.base import Objective


class RunningSums:
    """Sums over the units since the last log. Adding to them never waits for the device."""

    def __init__(self, objective: Objective, device: torch.device):
        self.objective = objective
        self.dtype = torch.float64 if device.type == "cpu" else torch.float32
        self.on_device: torch.Tensor | None = None  # the objective's own
        self.num_tokens = 0
        self.row_tokens = 0

    def count_units(self, logits: torch.Tensor, targets: dict[str, torch.Tensor]) -> None:
        """
        Args:
            logits: `(reads, labels)`, detached.
        """
        sums = self.objective.sums(logits, targets).to(self.dtype)
        self.on_device = sums if self.on_device is None else self.on_device + sums

    def count_step(self, step: dict) -> None:
        """Tokens that this process computed, and those that one unpadded row per completion would have had.

        Micro-batches that only fill up a process have no such rows, and are left out.
        """
        for batch in step["micro_batches"]:
            if batch["row_tokens"]:
                self.num_tokens += batch["num_tokens"]
                self.row_tokens += batch["row_tokens"]

    def drain(self, accelerator: Accelerator, seconds: float) -> dict[str, float]:
        """Figures over all processes since the last call; everything starts from zero again."""
        tokens = torch.tensor([self.num_tokens, self.row_tokens], device=self.on_device.device)
        sums = torch.cat([self.on_device, tokens.to(self.dtype)])
        sums = accelerator.reduce(sums, reduction="sum").tolist()
        self.on_device.zero_()
        self.num_tokens = self.row_tokens = 0
        units, num_tokens, row_tokens = sums[0], sums[-2], sums[-1]
        if not units:
            return {}
        return {
            **self.objective.figures(sums[:-2]),
            f"{self.objective.reader.unit}_per_second": units / seconds,
            "tokens_per_second": num_tokens / seconds,
            "tokens_saved": 1 - num_tokens / row_tokens,
        }
