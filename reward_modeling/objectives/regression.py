"""Regression: one output for each attribute of an answer, trained on ratings.

Ratings are scaled to 0..1, each attribute by its range, which is given or that of the training set, and which the saved
model's config.json has. An answer has any of the ratings; the loss is over those it has.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import torch

from reward_modeling.common.errors import UserError
from reward_modeling.common.flags import LOGGED, OnResume, flag
from reward_modeling.data.examples import Example, KeptColumn, RowReader
from reward_modeling.data.read_options import ReadOptions
from reward_modeling.objectives.base import Objective
from reward_modeling.objectives.held_out_ratings import (
    EvaluatedRatings,
    rating_figures,
    rating_lines,
    rating_shares,
    rating_table,
)

if TYPE_CHECKING:
    from datasets import Dataset

    from reward_modeling.data.loader import PromptGroups
    from reward_modeling.data.report import DataReport

ANSWERS = 0  # the first of the sums; then of each attribute the ratings, squared errors


@dataclass
class RegressionFlags:
    """The flags of the loss."""

    best_metrics: ClassVar[dict[str, bool]] = {"loss": False, "spearman": True, "pair_accuracy": True}

    attributes: Annotated[str | None, OnResume.DATA, LOGGED] = flag(
        None, "The columns of the ratings, with commas between: helpfulness,correctness. One output for each."
    )
    label_ranges: Annotated[str | None, OnResume.FIXED, LOGGED] = flag(
        None, "The least and the greatest rating: helpfulness=0:4,score=1:10. Unset: those of the training set."
    )
    weights: Annotated[str | None, OnResume.FREE, LOGGED] = flag(
        None, "What the scalar reward is made of: helpfulness=0.65,verbosity=-0.4. Unset: the mean of all attributes."
    )

    def objective_problems(self) -> Iterator[str]:
        names = attribute_names(self.attributes)
        if not names:
            yield "--attributes: expected the columns of the ratings, as in helpfulness,correctness, found none"
        if len(set(names)) < len(names):
            yield f"--attributes: expected each attribute once, found {self.attributes}"
        for name, of_flag, read in (("label_ranges", self.label_ranges, _range), ("weights", self.weights, _number)):
            try:
                found = named_values(of_flag, read)
            except ValueError:
                yield f"--{name}: expected names and values, as its help has them, found {of_flag}"
                continue
            if unknown := found.keys() - set(names):
                yield f"--{name}: expected some of {', '.join(names)}, found {', '.join(sorted(unknown))}"
        if "label_ranges" in vars(self) and self.label_ranges:
            yield from self._empty_ranges()

    def _empty_ranges(self) -> Iterator[str]:
        try:
            ranges = named_values(self.label_ranges, _range)
        except ValueError:
            return
        for name, (low, high) in ranges.items():
            if not low < high:
                yield f"--label_ranges {name}: expected a smaller number before a greater one, found {low:g}:{high:g}"


def attribute_names(attributes: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (attributes or "").split(",") if name.strip())


def named_values(text: str | None, read: Any) -> dict[str, Any]:
    """name=value,name=value.

    Raises:
        ValueError: it is something else.
    """
    entries = [entry.split("=") for entry in (text or "").split(",") if entry.strip()]
    if any(len(entry) != 2 for entry in entries):
        raise ValueError(text)
    return {name.strip(): read(value) for name, value in entries}


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _range(text: str) -> tuple[float, float]:
    low, high = text.split(":")
    return _number(low), _number(high)


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

    def check_rows(self, columns: Sequence[KeptColumn], reports: Sequence["DataReport"]) -> None:
        """Count how the rows were written and how many ratings each attribute has.

        Raises:
            UserError: an unread column looks like a part of the conversation, or no answer has one of the attributes.
        """
        from reward_modeling.data.row_notes import note_rows  # needs `pyarrow`

        flags = ("--train_set_path", *["--eval_set_path"] * (len(reports) - 1))
        for flag_name, column, report in zip(flags, columns, reports, strict=True):
            note_rows(report, column, flag_name)
            ratings = np.array(column("ratings").to_pylist(), dtype=np.float64).reshape(-1, len(self.attributes))
            rated = dict(zip(self.attributes, np.isfinite(ratings).sum(axis=0).tolist(), strict=True))
            report.notes |= {f"ratings of {name}": count for name, count in rated.items()}
            if missing := [name for name, count in rated.items() if not count and report is reports[0]]:
                raise UserError(
                    f"--attributes: expected ratings of each in {flag_name}, found none of {', '.join(missing)}. Leave "
                    f"them out, or name the columns that the rows have.\n{report.table()}"
                )


class Regression(Objective):
    """The mean squared error of the ratings that an answer has."""

    flags = RegressionFlags
    kind = "ratings"

    def __init__(self, flags: RegressionFlags):
        super().__init__(flags)
        self.attributes = attribute_names(flags.attributes)
        self.num_labels = len(self.attributes)
        self.ranges = named_values(flags.label_ranges, _range)
        weights = named_values(flags.weights, _number) or dict.fromkeys(self.attributes, 1 / max(1, self.num_labels))
        self.weights = {name: weights.get(name, 0.0) for name in self.attributes}

    @property
    def reader(self) -> RatingReader:
        return RatingReader(self.attributes)

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.attributes

    def fit(self, groups: "PromptGroups") -> None:
        """Take the ranges that are not given from the ratings of the training set.

        Raises:
            UserError: all ratings of an attribute are the same, or one is outside of the range that is given.
        """
        ratings = groups.targets()
        for name, column in zip(self.attributes, ratings.T, strict=True):
            low, high = float(np.nanmin(column)), float(np.nanmax(column))
            given = self.ranges.setdefault(name, (low, high))
            if not given[0] < given[1]:
                raise UserError(
                    f"--attributes {name}: expected ratings that differ, found {low:g} everywhere. Leave it out, or "
                    f"say what its range is: --label_ranges {name}=0:4"
                )
            if low < given[0] or high > given[1]:
                raise UserError(
                    f"--label_ranges {name}: expected all ratings from {given[0]:g} to {given[1]:g}, found {low:g} to "
                    f"{high:g} in the training set."
                )

    def saved_values(self) -> dict[str, Any]:
        return {
            "label_ranges": {name: list(self.ranges[name]) for name in self.attributes},
            "reward_weights": self.weights,
        }

    @staticmethod
    def collate(units: Sequence[Sequence[int]], targets: Sequence[Sequence[float]]) -> dict[str, torch.Tensor]:
        """`answers` `(answers,)` long, the rows of the logits; `ratings` `(answers, attributes)`, NaN if unknown."""
        return {
            "answers": torch.tensor([unit[0] for unit in units], dtype=torch.long),
            "ratings": torch.tensor(targets, dtype=torch.float32).reshape(len(units), -1),
        }

    def scaled(self, ratings: torch.Tensor) -> torch.Tensor:
        """Ratings as the model is trained on them, 0..1."""
        low, high = ratings.new_tensor([self.ranges[name] for name in self.attributes]).T
        return (ratings - low) / (high - low)

    def loss(self, logits: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
        if not len(targets["answers"]):
            return logits.new_zeros(0)
        return masked_squared_error(logits[targets["answers"]], self.scaled(targets["ratings"]))

    def sums(self, logits: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
        if not len(targets["answers"]):
            return logits.new_zeros(1 + 2 * self.num_labels)
        errors = logits[targets["answers"]] - self.scaled(targets["ratings"])
        known = ~torch.isnan(errors)
        squared = torch.where(known, errors, 0.0).square()
        return torch.cat([errors.new_tensor([len(errors)]), known.sum(dim=0).to(errors.dtype), squared.sum(dim=0)])

    def figures(self, sums: Sequence[float]) -> dict[str, float]:
        known, squared = sums[1 : 1 + self.num_labels], sums[1 + self.num_labels :]
        each = zip(self.attributes, known, squared, strict=True)
        return {f"error_{name}": math.sqrt(of / count) for name, count, of in each if count}

    def evaluated(self, logits: torch.Tensor, targets: dict[str, torch.Tensor]) -> list[tuple[float, ...]]:
        """Of an answer the outputs, then the ratings as they stand in the rows."""
        return [tuple(row) for row in torch.cat([logits[targets["answers"]], targets["ratings"]], dim=1).tolist()]

    def held_out(self, rows: Sequence[tuple], groups: "PromptGroups") -> EvaluatedRatings:
        ranges = [self.ranges[name] for name in self.attributes]
        return EvaluatedRatings.from_rows(rows, groups, self.attributes, ranges, list(self.weights.values()))

    def metrics(self, held_out: EvaluatedRatings) -> dict[str, float]:
        names = ("loss", "spearman", "pair_accuracy")
        if held_out.not_finite is not None:
            return dict.fromkeys(names, math.nan) | {"answers": len(held_out)}
        figures = rating_figures(held_out)
        means = {name: figures[name] for name in names if figures[name] is not None}
        each = {f"spearman_{name}": of["spearman"]["value"] for name, of in figures["attributes"].items()}
        return means | {name: value for name, value in each.items() if value is not None} | {"answers": len(held_out)}

    def evaluation(self, held_out: EvaluatedRatings) -> dict[str, Any]:
        return rating_figures(held_out)

    evaluation_lines = staticmethod(rating_lines)
    evaluation_table = staticmethod(rating_table)
    evaluation_shares = staticmethod(rating_shares)

    def reward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits @ logits.new_tensor(list(self.weights.values()))


def masked_squared_error(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The mean of (output - label)^2 over the labels that are known, one value per answer.

    That of SteerLM 2 and HelpSteer2 (Wang et al., 2024), but that the mean is over each answer's own labels and then
    over answers, so that it does not depend on how a step is cut.

    Args:
        outputs: `(answers, attributes)`.
        labels: `(answers, attributes)`, NaN where not known; at least one of each answer is.

    Returns:
        `(answers,)`.
    """
    known = ~torch.isnan(labels)
    errors = torch.where(known, outputs - torch.where(known, labels, 0.0), 0.0)
    return errors.square().sum(dim=1) / known.sum(dim=1)
