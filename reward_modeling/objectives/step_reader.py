"""How rows of steps become units: a chain of steps is a unit of one completion, with a number for each of its steps.

A row may be a tree of alternatives: it is a unit for each of its leaves, and a step that several chains begin with has
its label in the first of them alone, so that it counts once.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from reward_modeling.data.examples import Example, KeptColumn, RowReader, ShownRow
from reward_modeling.data.read_options import ReadOptions
from reward_modeling.data.step_texts import StepComposer
from reward_modeling.models.process_format import last_places

if TYPE_CHECKING:
    from datasets import Dataset

    from reward_modeling.data.report import DataReport


@dataclass(frozen=True)
class StepReader(RowReader):
    """The targets of a unit are P(right) of its steps, NaN where a step has no label or has it in another unit.

    A unit weighs as much as it has labels, so that the mean over units of the mean over a unit's labels is the mean
    over all labels.
    """

    unit: ClassVar[str] = "solutions"
    read_off: ClassVar[str] = "whether each step is right"
    shares_beginnings: ClassVar[bool] = True
    separator: str = "\n\n"
    chat: bool = True
    last_step_only: bool = False
    neutral_steps: str | None = None
    """What a step of PRM800K that is rated 0 is: "right", "wrong", "half" or "drop"; None: rows must have none."""

    @property
    def composer(self) -> StepComposer:
        return StepComposer(self.separator, self.chat)

    def load_rows(self, path: str, num_proc: int, options: ReadOptions) -> "Dataset":
        from reward_modeling.data.step_rows import StepOptions, load_step_rows  # needs `datasets`

        return load_step_rows(path, StepOptions(self.separator, self.neutral_steps), options, num_proc=num_proc)

    def read_row(self, row: dict[str, Any]) -> Example:
        targets = [[math.nan if label is None else label for label in labels] for labels in row["labels"]]
        if self.last_step_only:
            targets = [[*[math.nan] * (len(labels) - 1), labels[-1]] for labels in targets]
        weights = tuple(float(sum(not math.isnan(label) for label in labels)) for labels in targets)
        units = tuple((number,) for number in range(len(targets)))
        return Example(tuple(row["chains"]), units, tuple(map(tuple, targets)), weights)

    def read_positions(
        self, ids: Sequence[int], prompt_length: Callable[[], int], piece_lengths: Sequence[int]
    ) -> list[int]:
        """The last token of each separator; of each step where there is no separator."""
        lost = sum(piece_lengths) - len(ids)  # of the prompt
        return [place - lost for place in last_places(piece_lengths, self.separator)]

    def excerpt(self, row: dict[str, Any]) -> str:
        return row["chains"][0][:180]

    def shown_row(
        self, units: Sequence[Sequence[int]], targets: Sequence[Sequence[float]], weights: Sequence[float]
    ) -> ShownRow:
        """The chains with the labels of their steps."""
        several = len(units) > 1
        names = {unit[0]: f"steps {number}" if several else "steps" for number, unit in enumerate(units, start=1)}
        said = (" ".join("-" if math.isnan(label) else f"{label:.4g}" for label in labels) for labels in targets)
        return ShownRow("solution", names, f"labels of the steps {'; '.join(said)}")

    def check_rows(self, columns: Sequence[KeptColumn], reports: Sequence["DataReport"]) -> None:
        """Count how the rows were written, and how many steps are right and wrong.

        Raises:
            UserError: an unread column looks like a part of the conversation; steps are rated 0 and nothing says what
                that is; or all steps of the training set have the same label.
        """
        from reward_modeling.data.step_balance import check_steps  # needs `pyarrow`

        check_steps(columns, reports, self.neutral_steps)
