"""A process model: P(right) of each step, read where the step ends, and an aggregation of these as the reward."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import ModelOutput

from reward_modeling.common.aggregations import aggregate
from reward_modeling.models.process_format import RIGHT, ProcessFormat
from reward_modeling.scoring.chains import ChainReader
from reward_modeling.scoring.readouts.base import REWARD, Readout, ScoredConversation

NO_STEP = -1  # no number of a token that is read, and no probability


class Steps(Readout):
    """Columns are the probabilities, as many as the longest answer of the pass has steps."""

    beside: ClassVar[tuple[str, ...]] = ("steps",)
    trees: ClassVar[bool] = True

    def __init__(self, process: ProcessFormat):
        self.process = process

    def reader(self, tokenizer: PreTrainedTokenizerBase, max_length: int | None, vocabulary: int | None) -> ChainReader:
        return ChainReader(tokenizer, max_length, self.process, vocabulary=vocabulary)

    @staticmethod
    def collate(units: Sequence[Sequence[int]], _targets: Sequence) -> dict[str, torch.Tensor]:
        """`steps`, `(completions, most)`: the tokens that are read of each, by their numbers among all."""
        most = max(map(len, units))
        rows = [[*reads, *[NO_STEP] * (most - len(reads))] for reads in units]
        return {"steps": torch.tensor(rows, dtype=torch.long)}

    def run(self, model: PreTrainedModel, inputs: dict, reads: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = model(**inputs).logits  # of what is read: with any class, see `models.reward_model.with_blocks`
        right = logits.float().softmax(dim=-1)[:, RIGHT]
        return right[reads["steps"].clamp(min=0)].masked_fill(reads["steps"] == NO_STEP, NO_STEP)

    def columns(self, output: ModelOutput) -> torch.Tensor:
        """Of answers of one step each."""
        return output.logits.float().softmax(dim=-1)[:, RIGHT, None]

    def rows(self, columns: torch.Tensor) -> list[list[float]]:
        """The reward, then the probabilities of the steps that there are."""
        steps = ([each for each in row if each != NO_STEP] for row in columns.tolist())
        return [[aggregate(row)[self.process.aggregation], *row] for row in steps]

    def describe(self, row: Sequence[float]) -> ScoredConversation:
        """Of a row without steps, since it did not fit, the reward is not a number."""
        return ScoredConversation(row[REWARD], steps=list(row[REWARD + 1 :]) or None)
