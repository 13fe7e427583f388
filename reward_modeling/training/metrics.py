"""Figures of a run, summed on the device and read only when they are logged."""

import logging
import math

import torch
from accelerate import Accelerator

logger = logging.getLogger(__name__)

# Order of the sums that are kept on the device.
PAIRS, CORRECT, MARGIN, REWARD, REWARD_SQUARED = range(5)


class PairSums:
    """Sums over the pairs since the last log. Adding to them never waits for the device."""

    def __init__(self, device: torch.device):
        self.on_device = torch.zeros(5, dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)
        self.num_tokens = 0
        self.row_tokens = 0

    def count_pairs(self, chosen: torch.Tensor, rejected: torch.Tensor) -> None:
        """
        Args:
            chosen, rejected: `(pairs,)` rewards.
        """
        rewards = torch.cat([chosen, rejected])
        self.on_device[PAIRS] += chosen.numel()
        self.on_device[CORRECT] += (chosen > rejected).sum()
        self.on_device[MARGIN] += (chosen - rejected).sum()
        self.on_device[REWARD] += rewards.sum()
        self.on_device[REWARD_SQUARED] += rewards.square().sum()

    def count_step(self, step: dict) -> None:
        """Tokens that this process computed, and those that one unpadded row per answer would have had.

        Micro-batches that only fill up a process have no such rows, and are left out.
        """
        for batch in step["micro_batches"]:
            if batch["row_tokens"]:
                self.num_tokens += batch["num_tokens"]
                self.row_tokens += batch["row_tokens"]

    def drain(self, accelerator: Accelerator, seconds: float) -> dict[str, float]:
        """Figures over all processes since the last call; everything starts from zero again."""
        tokens = torch.tensor([self.num_tokens, self.row_tokens], device=self.on_device.device)
        sums = torch.cat([self.on_device, tokens.to(self.on_device.dtype)])
        sums = accelerator.reduce(sums, reduction="sum").tolist()
        self.on_device.zero_()
        self.num_tokens = self.row_tokens = 0
        pairs, num_tokens, row_tokens = sums[PAIRS], sums[-2], sums[-1]
        if not pairs:
            return {}
        mean = sums[REWARD] / (2 * pairs)
        return {
            "accuracy": sums[CORRECT] / pairs,
            "margin": sums[MARGIN] / pairs,
            "reward_mean": mean,
            "reward_std": math.sqrt(max(0.0, sums[REWARD_SQUARED] / (2 * pairs) - mean**2)),
            "pairs_per_second": pairs / seconds,
            "tokens_per_second": num_tokens / seconds,
            "tokens_saved": 1 - num_tokens / row_tokens,
        }
