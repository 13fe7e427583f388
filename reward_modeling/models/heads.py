"""Heads of reward models."""

import torch
from torch import nn


class ScoreHead(nn.Linear):
    """The score head, always computed in float32.

    bf16 keeps 8 bits: two close answers would tie. The state dict is that of the nn.Linear it stands for.
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        with torch.autocast(hidden_states.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.float()
            return nn.functional.linear(hidden_states.float(), self.weight.float(), bias)
