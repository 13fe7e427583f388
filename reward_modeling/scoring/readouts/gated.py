"""A mixture of objectives with a gate: the objectives of an answer, weighed by what its prompt asks for.

Of our own models and of those in the layout that ArmoRM published (models/gated_model.py). config.json may say
`objective_names`, and in `label_ranges` which ratings an output of 0 and of 1 are; outputs without a range are given as
they are.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from transformers import PreTrainedConfig
from transformers.utils import ModelOutput

from reward_modeling.common.errors import UserError
from reward_modeling.models.gated_model import gated_model_class, objective_names
from reward_modeling.models.rating_outputs import RANGES
from reward_modeling.scoring.readouts.base import REWARD, Readout, ScoredConversation


class Gated(Readout):
    """The score, then the objectives on the scale of their ratings, then the gate's output for each of them."""

    beside: ClassVar[tuple[str, ...]] = ("attributes", "gate_weights")
    reads_prompts: ClassVar[bool] = True

    def __init__(self, path: str, config: PreTrainedConfig):
        """
        Raises:
            UserError: it is of a family that gets no gate, or of two objectives with one name.
        """
        if gated_model_class(type(config)) is None:
            raise UserError(
                f"{path}: expected a decoder that can have a gate, found {config.model_type} with architectures "
                f"{config.architectures}. Take a model of another family, such as Llama."
            )
        self.names = objective_names(config)
        if len(set(self.names)) < len(self.names):
            raise UserError(f"{path}: expected objectives with names of their own, found {', '.join(self.names)}.")
        ranges = config.to_dict().get(RANGES) or {}
        self.ranges = [tuple(ranges.get(name, (0.0, 1.0))) for name in self.names]

    @staticmethod
    def collate(units: Sequence[Sequence[Sequence[int]]], _targets: Sequence) -> dict[str, torch.Tensor]:
        """`gate_reads` and `answer_reads`, both `(completions,)`."""
        gates, answers = torch.tensor(units, dtype=torch.long).reshape(-1, 2).T
        return {"gate_reads": gates, "answer_reads": answers}

    def columns(self, output: ModelOutput) -> torch.Tensor:
        low, high = output.rewards.new_tensor(self.ranges).T
        attributes = low + output.rewards * (high - low)
        return torch.cat([output.score[:, None], attributes, output.gating_output], dim=1).float()

    def describe(self, row: Sequence[float]) -> ScoredConversation:
        attributes, weights = row[REWARD + 1 :][: len(self.names)], row[REWARD + 1 + len(self.names) :]
        named = (dict(zip(self.names, values, strict=True)) for values in (attributes, weights))
        return ScoredConversation(row[REWARD], *named)
