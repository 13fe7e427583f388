"""One unnamed score, whoever has trained it: the only output is the reward."""

from collections.abc import Sequence

import torch
from transformers.utils import ModelOutput

from reward_modeling.scoring.readouts.base import REWARD, Readout, ScoredConversation


class OneLabel(Readout):
    """As Bradley-Terry models have it."""

    def columns(self, output: ModelOutput) -> torch.Tensor:
        return output.logits.float()

    def describe(self, row: Sequence[float]) -> ScoredConversation:
        return ScoredConversation(row[REWARD])
