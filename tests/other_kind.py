"""A kind of reward model of the tests' own, which nothing in the package knows by name.

Its units have one to n completions; it reads several tokens of a completion and the end of the prompt.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch

from reward_modeling.common.flags import LOGGED, NOT_NEGATIVE, OnResume
from reward_modeling.data.examples import Example, RowReader
from reward_modeling.objectives.base import Objective

LABELS = 3


@dataclass
class RankedFlags:
    best_metrics: ClassVar[dict[str, bool]] = {"loss": False}
    temperature: Annotated[float, NOT_NEGATIVE, OnResume.FIXED, LOGGED] = field(default=1.0, metadata={"help": "T"})


@dataclass(frozen=True)
class RankedReader(RowReader):
    """A row is a list of K answers, the best first: one unit."""

    unit: ClassVar[str] = "lists"

    def load_rows(self, path: str, num_proc: int, options):
        raise NotImplementedError

    def read_row(self, row: dict[str, Any]) -> Example:
        answers = row["completions"]
        return Example(answers, (tuple(range(len(answers))),), ((float(len(answers)),),))

    def read_positions(
        self, ids: Sequence[int], prompt_length: Callable[[], int], piece_lengths: Sequence[int]
    ) -> list[int]:
        return [prompt_length() - 1, len(ids) - 1]


class Ranked(Objective):
    """Of each completion three labels at three tokens: the prompt's end, its middle and its end."""

    flags = RankedFlags
    num_labels = LABELS

    @property
    def reader(self) -> RankedReader:
        return RankedReader()

    @staticmethod
    def collate(units, targets):
        reads = [read for unit in units for read in unit]
        unit_of_read = [number for number, unit in enumerate(units) for _ in unit]
        return {
            "reads": torch.tensor(reads, dtype=torch.long),
            "unit_of_read": torch.tensor(unit_of_read, dtype=torch.long),
            "sizes": torch.tensor(targets, dtype=torch.float32).reshape(-1),
        }

    def loss(self, logits, targets):
        per_read = torch.tanh(logits[targets["reads"]]).square().sum(dim=1) / self.options.temperature
        sums = per_read.new_zeros(len(targets["sizes"])).index_add(0, targets["unit_of_read"], per_read)
        return sums / targets["sizes"]

    def sums(self, logits, targets):
        return torch.stack([logits.new_tensor(len(targets["sizes"])), self.loss(logits, targets).sum()])

    def figures(self, sums):
        return {"mean": sums[1] / sums[0]}

    def evaluated(self, logits, targets):
        return [(value,) for value in self.loss(logits, targets).tolist()]

    def held_out(self, rows, groups):
        return sorted(rows)

    def metrics(self, held_out):
        return {"loss": sum(value for _, value in held_out) / len(held_out)}

    def evaluation(self, held_out):
        return self.metrics(held_out)
