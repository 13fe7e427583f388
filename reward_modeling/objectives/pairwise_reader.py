"""How rows of preferences become comparisons: both orders of each pair, as one unit of two completions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from reward_modeling.common.errors import UserError
from reward_modeling.data.composing import Composer
from reward_modeling.data.drop_reasons import DropReason
from reward_modeling.data.examples import Example, KeptColumn, ShownRow
from reward_modeling.data.pair_texts import COMPARISON, answer_text
from reward_modeling.objectives.pair_reader import PROBABILITY, PairReader
from reward_modeling.objectives.ties import TIE

if TYPE_CHECKING:
    from reward_modeling.data.report import DataReport

CHOSEN_LENGTH, REJECTED_LENGTH = 1, 2  # targets of a unit, beside the probability; in characters


@dataclass(frozen=True)
class PairwiseReader(PairReader):
    """A row is a pair or a list of answers: of each pair the chosen answer first, then the rejected one first.

    Targets of a unit: the probability that the chosen answer is the better one, and the lengths of both.
    """

    completion_names: ClassVar[tuple[str, ...]] = ()  # each holds both answers
    read_off: ClassVar[str] = "which answer is the better one"
    shares_beginnings: ClassVar[bool] = True  # the context, and of a list the first answer
    margin: str = "none"

    @property
    def composer(self) -> Composer:
        return COMPARISON

    def read_row(self, row: dict[str, Any]) -> Example:
        pairs = super().read_row(row)
        lengths = [float(len(answer_text(answer))) for answer in pairs.completions]
        completions, targets = [], []
        for (chosen, rejected), of_pair in zip(pairs.units, pairs.targets, strict=True):
            one, other = pairs.completions[chosen], pairs.completions[rejected]
            completions += [f"[{one}, {other}]", f"[{other}, {one}]"]
            targets.append((of_pair[PROBABILITY], lengths[chosen], lengths[rejected]))
        units = [(place, place + 1) for place in range(0, len(completions), 2)]
        return Example(completions, units, targets, pairs.weights, pairs.shares)

    def drop_reason(self, row: dict[str, Any]) -> DropReason | None:
        """Also answers that differ in white space at their ends alone: no template trims them inside a question."""
        if not row["answers"] and answer_text(row["chosen"]).strip() == answer_text(row["rejected"]).strip():
            return DropReason.IDENTICAL_TEXT
        return super().drop_reason(row)

    def shown_row(
        self, units: Sequence[Sequence[int]], targets: Sequence[Sequence[float]], weights: Sequence[float]
    ) -> ShownRow:
        """The first pair of a row in both orders."""
        probability = targets[0][PROBABILITY]
        words = [f"the first of the {len(units)} pairs of a list"] if len(units) > 1 else []
        words += [f"chosen is the better one with probability {probability:.4g}"] if TIE < probability < 1 else []
        words += ["a tie"] if probability == TIE else []
        words += [f"weight {math.fsum(weights):.4g}"] if math.fsum(weights) != 1 else []
        return ShownRow("pair", dict(zip(units[0], ("chosen first", "rejected first"), strict=True)), ", ".join(words))

    def check_rows(self, columns: Sequence[KeptColumn], reports: Sequence["DataReport"]) -> None:
        """As of pairs.

        Raises:
            UserError: also where a row is a plain text, in which no prompt is told from its answers.
        """
        super().check_rows(columns, reports)
        flags = ("--train_set_path", *["--eval_set_path"] * (len(reports) - 1))
        for name, column in zip(flags, columns, strict=True):
            if texts := sum(column("is_text").to_pylist()):
                raise UserError(
                    f"{name}: expected a prompt and two answers in each row, found {texts:,} plain texts without a "
                    "prompt. A comparison holds the prompt once and each answer by itself: if the prompt is in another "
                    "column, pass --columns prompt=NAME."
                )
