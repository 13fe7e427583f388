"""How rows of answers with ratings become units: one completion, whose targets are its ratings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from reward_modeling.common.errors import UserError, did_you_mean
from reward_modeling.data.examples import Example, KeptColumn, RowReader, ShownRow
from reward_modeling.data.read_options import RATED_TARGETS, ReadOptions

if TYPE_CHECKING:
    from datasets import Dataset

    from reward_modeling.data.report import DataReport


@dataclass(frozen=True)
class RatingReader(RowReader):
    """A row is an answer with its ratings: a unit of one completion, whose targets are the ratings, NaN if unknown."""

    unit: ClassVar[str] = "answers"
    read_off: ClassVar[str] = "the output of each attribute"
    attributes: tuple[str, ...] = ()

    def load_rows(self, path: str, num_proc: int, options: ReadOptions) -> "Dataset":
        from reward_modeling.data.rated_rows import load_rated_rows  # needs `datasets`

        return load_rated_rows(path, self.attributes, options, num_proc=num_proc)

    def read_row(self, row: dict[str, Any]) -> Example:
        ratings = tuple(math.nan if rating is None else rating for rating in row["ratings"])
        return Example((row["response"],), ((0,),), (ratings,))

    def excerpt(self, row: dict[str, Any]) -> str:
        return row["response"][:180]

    def shown_row(
        self, units: Sequence[Sequence[int]], targets: Sequence[Sequence[float]], weights: Sequence[float]
    ) -> ShownRow:
        """An answer with its ratings."""
        rated = zip(self.attributes, targets[0], strict=True)
        said = [f"{name} {'not rated' if math.isnan(rating) else f'{rating:.4g}'}" for name, rating in rated]
        return super().shown_row(units, targets, weights)._replace(names={units[0][0]: "answer"}, label=", ".join(said))

    def check_rows(self, columns: Sequence[KeptColumn], reports: Sequence["DataReport"]) -> None:
        """Count how the rows were written and how many ratings each attribute has.

        Raises:
            UserError: an unread column looks like a part of the conversation, or no answer has one of the attributes.
        """
        from reward_modeling.data.row_notes import note_rows, unread_counts  # needs `pyarrow`

        flags = ("--train_set_path", *["--eval_set_path"] * (len(reports) - 1))
        targets = (*RATED_TARGETS, *self.attributes)
        for flag_name, column, report in zip(flags, columns, reports, strict=True):
            note_rows(report, column, flag_name, targets)
            ratings = column("ratings").combine_chunks().flatten().to_numpy(zero_copy_only=False)  # null becomes NaN
            counts = np.isfinite(ratings.reshape(-1, len(self.attributes))).sum(axis=0).tolist()
            rated = dict(zip(self.attributes, counts, strict=True))
            report.notes |= {f"ratings of {name}": count for name, count in rated.items()}
            missing = [name for name, count in rated.items() if not count]
            if missing and report is reports[0]:
                close = did_you_mean(missing[0], unread_counts(column)) or "."
                raise UserError(
                    f"--attributes: expected ratings of each in {flag_name}, found none of {', '.join(missing)}{close} "
                    f"Leave them out, or name the columns that the rows have.\n{report.table()}"
                )
