"""How rows of preferences become pairs and lists with what is known of them: for objectives that compare answers.

A pair is a unit of two completions, chosen and rejected, with the targets probability, strength and margin. A list of
K ranked answers is one unit of K completions with their ranks as targets, or the pairs of its answers of different
rank, each a unit.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from reward_modeling.common.errors import UserError
from reward_modeling.data.drop_reasons import DropReason
from reward_modeling.data.examples import Example, KeptColumn, RowReader, ShownRow
from reward_modeling.data.read_options import ReadOptions
from reward_modeling.objectives.ties import TIE, TIE_MODELS

if TYPE_CHECKING:
    from datasets import Dataset

    from reward_modeling.data.loader import PromptGroups
    from reward_modeling.data.report import DataReport

PROBABILITY, STRENGTH, MARGIN = range(3)  # the targets of a pair


@dataclass(frozen=True)
class PairReader(RowReader):
    """A row is a pair or a list of answers.

    `margin` is "auto" (the column), "scores", "strength" or "none"; `ties`, `lists` and `list_weight` are as the flags
    --ties, --list_loss and --list_weight have them. `needs_strength`: --loss scaled. `learns_ties`: a threshold of ties
    is learned.
    """

    unit: ClassVar[str] = "pairs"
    completion_names: ClassVar[tuple[str, ...]] = ("chosen", "rejected")
    smaller_units: ClassVar[str] = "--list_loss pairs, which trains on the pairs of a list one by one"
    margin: str = "auto"
    ties: str = "half"
    lists: str = "pairs"
    list_weight: str = "prompt"
    needs_strength: bool = False
    learns_ties: bool = False

    @property
    def of_evaluation(self) -> "PairReader":
        """A list is evaluated by its pairs, whatever it is trained with."""
        return replace(self, lists="pairs")

    def load_rows(self, path: str, num_proc: int, options: ReadOptions) -> "Dataset":
        from reward_modeling.data.preferences import load_preference_dataset  # needs `datasets`

        return load_preference_dataset(path, options, num_proc=num_proc)

    def read_row(self, row: dict[str, Any]) -> Example:
        if row["answers"]:
            return self._read_list(row["answers"], row["ranks"], _or_one(row["weight"]))
        probability = _or_one(row["chosen_probability"])
        # A tie has no strength: times one of 0 it would be no tie, and a threshold would learn of none. Nor may a soft
        # label with a strength of 0 (HelpSteer3's, of annotators who are two to one) lose all its loss in silence.
        strength = 1.0 if probability == TIE else row["strength"] or 1.0
        targets = (probability, strength, self._margin(row))
        return Example((row["chosen"], row["rejected"]), ((0, 1),), (targets,), (_or_one(row["weight"]),))

    def _read_list(self, answers: Sequence[str], ranks: Sequence[int], weight: float) -> Example:
        pairs = [(one, other) for one, other in combinations(range(len(answers)), 2) if ranks[one] != ranks[other]]
        pairs = [(one, other) if ranks[one] < ranks[other] else (other, one) for one, other in pairs]
        if self.lists != "pairs":
            share = float(len(pairs)) if self.list_weight == "pair" else 1.0
            targets = (tuple(map(float, ranks)),)
            return Example(answers, (tuple(range(len(answers))),), targets, (weight * share,), (share,))
        targets = [(1.0, 1.0, 0.0)] * len(pairs)
        if self.ties in TIE_MODELS:  # where a tie is no half of a preference, but said by itself
            ties = [pair for pair in combinations(range(len(answers)), 2) if ranks[pair[0]] == ranks[pair[1]]]
            pairs, targets = pairs + ties, targets + [(TIE, 1.0, 0.0)] * len(ties)
        share = 1 / len(pairs) if self.list_weight == "prompt" else 1.0
        return Example(answers, pairs, targets, [weight * share] * len(pairs), [share] * len(pairs))

    def excerpt(self, row: dict[str, Any]) -> str:
        return f"chosen {row['chosen'][:90]!r} rejected {row['rejected'][:90]!r}"

    def drop_reason(self, row: dict[str, Any]) -> DropReason | None:
        return DropReason.TIE if self.ties == "drop" and row["chosen_probability"] == TIE else None

    # --- what is shown ---

    def shown_row(
        self, units: Sequence[Sequence[int]], targets: Sequence[Sequence[float]], weights: Sequence[float]
    ) -> ShownRow:
        """A list with the rank of each answer, the best first, also where its pairs are the units."""
        if len(units) == 1 and len(units[0]) == 2:
            return super().shown_row(units, targets, weights)._replace(label=_pair_label(targets[0], weights[0]))
        if len(units) == 1:
            ranks, counted = dict(zip(units[0], map(int, targets[0]), strict=True)), "one ranking, which counts"
        else:
            ranks, counted = _ranks(units, targets), f"{len(units)} pairs, which count together"
        names = {number: f"answer {place}" for place, number in enumerate(ranks, start=1)}
        in_order = sorted(ranks, key=ranks.__getitem__)
        label = f"{len(ranks)} ranked answers: {counted} as much as {math.fsum(weights):.4g} of the usual pairs"
        return ShownRow("list", {number: f"{names[number]}, rank {ranks[number]}" for number in in_order}, label)

    def describe_kinds(self, groups: "PromptGroups") -> str:
        of_unit = groups.groups.data.column("targets").combine_chunks().flatten()
        starts = np.cumsum([0, *of_unit.value_lengths().to_numpy()[:-1]])
        members = np.diff(groups.sizes.member_offsets)
        ties = (members == 2) & (of_unit.flatten().to_numpy()[starts] == TIE)
        rows = Counter(groups.of_units("where"))
        in_pairs = [count for count in rows.values() if count > 1]
        whole = int((members > 2).sum())
        kinds = {
            f"of {len(in_pairs):,} lists of ranked answers": sum(in_pairs),
            "whole lists of ranked answers": whole,
            "ties": int(ties.sum()),
        }
        found = [f"{count:,} are {kind}" for kind, count in kinds.items() if count]
        return f"Of these {self.unit} {' and '.join(found)}." if found else ""

    def _margin(self, row: dict[str, Any]) -> float:
        if self.margin == "scores" and row["chosen_score"] is not None and row["rejected_score"] is not None:
            return row["chosen_score"] - row["rejected_score"]
        if self.margin == "strength" and row["chosen_probability"] == TIE:
            return 0.0
        if self.margin in ("auto", "strength"):
            return row["margin" if self.margin == "auto" else "strength"] or 0.0
        return 0.0

    def check_rows(self, columns: Sequence[KeptColumn], reports: Sequence["DataReport"]) -> None:
        """Count how the rows were written, what of them is not read, and which labels are used, or lacking.

        Raises:
            UserError: an unread column looks like a part of the conversation; or no row has what a flag asks for.
        """
        from reward_modeling.data.row_notes import has_ties, note_labels, note_rows  # needs `pyarrow`

        uses_strength = self.needs_strength or self.margin == "strength"
        flags = ("--train_set_path", *["--eval_set_path"] * (len(reports) - 1))
        for name, column, report in zip(flags, columns, reports, strict=True):
            note_rows(report, column, name)
            note_labels(report, column, margins=self.margin == "auto", strengths=uses_strength)
        in_lists = self.lists == "pairs"  # as a whole, a list is no part of the model of ties
        if self.learns_ties and not has_ties(columns[0], in_lists):
            raise UserError(
                f"--ties {self.ties}: expected ties among the rows of --train_set_path (a chosen_probability of 0.5"
                f"{', answers of equal rank' * in_lists}), of which the threshold is learned, found none. Pass --ties "
                "half, or a --tie_threshold."
            )
        self._refuse_missing(columns[0], reports[0])

    def _refuse_missing(self, column: KeptColumn, report: "DataReport") -> None:
        """What a flag asks for, where rows of the training set lack it."""
        if self.needs_strength:
            columns, flag, other, counts_as = ("strength",), "--loss scaled", "--loss bradley_terry", "strength is 1"
        elif self.margin in ("scores", "strength"):
            columns = ("chosen_score", "rejected_score") if self.margin == "scores" else ("strength",)
            flag, other, counts_as = f"--loss_margin {self.margin}", "--loss_margin none", "margin is 0"
        else:
            return
        missing = np.logical_or.reduce([column(name).is_null().to_numpy() for name in columns])
        if missing.all():  # every margin would be zero, or every strength one, and say nothing
            raise UserError(
                f"{flag}: expected rows with {' and '.join(columns)}, found none. Pass {other}, or data that has them."
            )
        if missing.any():
            what = "scores" if len(columns) > 1 else "a strength"
            report.notes[f"rows without {what}, whose {counts_as}"] = int(missing.sum())


def _pair_label(targets: Sequence[float], weight: float) -> str:
    """What a pair says beside its answers; "" where that is nothing."""
    probability, strength, margin = targets
    words = [f"chosen is the better one with probability {probability:.4g}"] if TIE < probability < 1 else []
    words += ["a tie"] if probability == TIE else []
    usual = {"strength": (strength, 1), "margin": (margin, 0), "weight": (weight, 1)}
    return ", ".join(words + [f"{name} {value:.4g}" for name, (value, none) in usual.items() if value != none])


def _ranks(units: Sequence[Sequence[int]], targets: Sequence[Sequence[float]]) -> dict[int, int]:
    """The rank of each completion of a list, from its pairs: those that it loses to are of better ranks."""
    numbers = sorted({number for unit in units for number in unit})
    lost = {tuple(unit) for unit, of_unit in zip(units, targets, strict=True) if of_unit[PROBABILITY] != TIE}
    losses = [sum(worse == number for _, worse in lost) for number in numbers]
    levels = sorted(set(losses))
    return {number: levels.index(count) + 1 for number, count in zip(numbers, losses, strict=True)}


def _or_one(value: float | None) -> float:
    return 1.0 if value is None else value
