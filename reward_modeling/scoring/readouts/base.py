"""What is read off a forward pass: the reward, and what else a kind of model says of a conversation.

A kind is one file with one `Readout`, and one line in the catalog.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import ModelOutput

from reward_modeling.models.reward_model import RewardModelMixin
from reward_modeling.scoring.conversations import ConversationReader

REWARD = 0  # the column


@dataclass(frozen=True)
class ScoredConversation:
    """What a model says of a conversation.

    `attributes` is None of a model of one unnamed score, and else has a value for each of its named outputs, on the
    scale of the ratings it was trained on. `gate_weights` is None of a model without a gate, and else has the weight of
    each attribute in this conversation. `intervals` has the outer quantiles of each attribute, where a model gives
    quantiles. `steps` is None of other models than process models, which give P(right) of each step; of an answer that
    is too long to be scored it is None too.
    """

    reward: float
    attributes: dict[str, float] | None = None
    gate_weights: dict[str, float] | None = None
    intervals: dict[str, tuple[float, float]] | None = None
    steps: list[float] | None = None


def columns_of_answers(scored: Sequence[ScoredConversation]) -> dict[str, list]:
    """What a model says of some answers, as columns of one entry for each answer; only those that the model has.

    >>> columns_of_answers([ScoredConversation(0.5, {"kindness": 3.0}), ScoredConversation(-1.0, {"kindness": 1.0})])
    {'rewards': [0.5, -1.0], 'attributes': [{'kindness': 3.0}, {'kindness': 1.0}]}

    Files of scores and answers of the server have them under these names. A reward is a float as the model gave it:
    it may be infinite or not a number.
    """
    rewards = {"rewards": [one.reward for one in scored]}
    names = ("attributes", "gate_weights", "intervals", "steps")
    return rewards | {name: values for name in names if any(values := [getattr(one, name) for one in scored])}


class Readout(ABC):
    """From the output of a forward pass to a row of numbers for each completion, and to what these say."""

    reward_weights: ClassVar[dict[str, float] | None] = None  # of the attributes in the reward, where they are fixed
    beside: ClassVar[tuple[str, ...]] = ()  # what of `ScoredConversation` it has beside the reward
    reads_prompts: ClassVar[bool] = False  # also where the prompt ends: then it has a `collate`
    trees: ClassVar[bool] = False  # answers of a prompt share more of their beginnings than the prompt
    # From what is read of each completion (of the prompt and then of its end, as numbers of all that is read) to
    # further inputs of the model, as `Objective.collate` makes targets of them.
    collate: ClassVar[Callable[[Sequence, Sequence], dict[str, torch.Tensor]] | None] = None

    def reader(
        self, tokenizer: PreTrainedTokenizerBase, max_length: int | None, vocabulary: int | None
    ) -> ConversationReader:
        """What makes tokens of conversations; see `ConversationReader`."""
        options = {"vocabulary": vocabulary, "reads_prompts": self.reads_prompts}
        return ConversationReader(tokenizer, max_length, **options)

    def run(self, model: PreTrainedModel, inputs: dict, reads: dict[str, torch.Tensor]) -> torch.Tensor:
        """The columns of one pass.

        Args:
            inputs: of the model's forward.
            reads: what `collate` has made; here further inputs of the model.
        """
        if not isinstance(model, RewardModelMixin):  # the class reads the last token by itself
            inputs = {name: value for name, value in inputs.items() if name != "read_positions"}
        return self.columns(model(**inputs, **reads))

    @abstractmethod
    def columns(self, output: ModelOutput) -> torch.Tensor:
        """`(completions, columns)` in float32; the column `REWARD` is the reward."""

    def rows(self, columns: torch.Tensor) -> list[list[float]]:
        """Of each completion the numbers, on the CPU."""
        return columns.tolist()

    @abstractmethod
    def describe(self, row: Sequence[float]) -> ScoredConversation:
        """Say what the columns of one completion are."""
