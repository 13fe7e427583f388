"""One output for each attribute, or several quantiles of it; the reward is the weighted sum of the attributes."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from transformers.utils import ModelOutput

from reward_modeling.models.rating_outputs import RatingOutputs
from reward_modeling.scoring.readouts.base import REWARD, Readout, ScoredConversation


class Ratings(Readout):
    """The attributes on the scale of their ratings."""

    beside: ClassVar[tuple[str, ...]] = ("attributes",)

    def __init__(self, outputs: RatingOutputs):
        self.outputs = outputs
        self.reward_weights = outputs.weights

    def columns(self, output: ModelOutput) -> torch.Tensor:
        """The reward, then the attributes."""
        values = output.logits.float()
        reward = (values * values.new_tensor(self.outputs.output_weights)).sum(dim=1, keepdim=True)
        return torch.cat([reward, self.outputs.quantiles(values).mean(dim=2)], dim=1)

    def describe(self, row: Sequence[float]) -> ScoredConversation:
        return ScoredConversation(row[REWARD], self._named(row[REWARD + 1 :]))

    def _named(self, values: Sequence[float]) -> dict[str, float]:
        return dict(zip(self.outputs.attributes, values, strict=True))


class Quantiles(Ratings):
    """The attributes, and of each the ends of the interval between its outer quantiles.

    Quantiles that come out crossed are put in order: the ends are the least and the greatest.
    """

    beside: ClassVar[tuple[str, ...]] = ("attributes", "intervals")

    def columns(self, output: ModelOutput) -> torch.Tensor:
        """The reward, then the attributes, their lower ends, their upper ends."""
        low, high = self.outputs.quantiles(output.logits.float()).aminmax(dim=2)
        return torch.cat([super().columns(output), low, high], dim=1)

    def describe(self, row: Sequence[float]) -> ScoredConversation:
        count = len(self.outputs.attributes)
        values, low, high = (row[REWARD + 1 + n * count : REWARD + 1 + (n + 1) * count] for n in range(3))
        ends = list(zip(low, high, strict=True))
        return ScoredConversation(row[REWARD], self._named(values), intervals=self._named(ends))
