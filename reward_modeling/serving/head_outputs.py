"""What a served model says of a conversation: what a scorer says, and beside it the outputs of the head."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput

from reward_modeling.scoring import ScoredConversation
from reward_modeling.scoring.readouts.base import Readout

OF_ITS_OWN = ("run", "rows", "reader")  # what some readouts do beside `columns`


@dataclass(frozen=True)
class Answer:
    """What a model says of a conversation, and the raw outputs of its head, as a classifier in vLLM has them.

    Of a process model these are all outputs of the first token that is read, then those of the next one.
    """

    scored: ScoredConversation
    outputs: Sequence[float]


class WithOutputs(Readout):
    """A readout, and beside it the outputs of the head that it reads: `(labels,)`; of a gated model its score."""

    def __init__(self, inner: Readout):
        """
        Raises:
            TypeError: it makes its columns or its tokens in a way of its own, which would be passed over in silence.
        """
        own = [name for name in OF_ITS_OWN if getattr(type(inner), name) is not getattr(Readout, name)]
        if own:
            raise TypeError(
                f"{type(inner).__name__} has its own {', '.join(own)}: serve its kind of model by a file of it"
            )
        self.inner = inner
        self.reward_weights = inner.reward_weights
        self.reads_prompts = inner.reads_prompts
        self.collate = inner.collate
        self._labels = 0

    def columns(self, output: ModelOutput) -> torch.Tensor:
        values = output.score[:, None] if self.reads_prompts else output.logits
        self._labels = values.shape[1]
        return torch.cat([self.inner.columns(output), values.float()], dim=1)

    def describe(self, row: Sequence[float]) -> Answer:
        end = len(row) - self._labels
        return Answer(self.inner.describe(row[:end]), row[end:])
