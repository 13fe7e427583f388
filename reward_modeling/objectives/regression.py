"""Regression: one output for each attribute of an answer, trained on ratings.

Ratings are scaled to 0..1, each attribute by its range, which is given or that of the training set, and which the saved
model's config.json has. An answer has any of the ratings; the loss is over those it has. The flags: rating_flags.py;
what it reads of a row: rating_reader.py; quantiles instead of a mean: quantiles.py.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from reward_modeling.common.errors import UserError
from reward_modeling.models.rating_outputs import RANGES
from reward_modeling.objectives.base import Objective
from reward_modeling.objectives.held_out_ratings import (
    EvaluatedRatings,
    rated_pairs,
    rating_figures,
    rating_lines,
    rating_metrics,
    rating_shares,
    rating_table,
)
from reward_modeling.objectives.rating_flags import (
    RegressionFlags,
    attribute_names,
    named_values,
    read_range,
    read_weight,
)
from reward_modeling.objectives.rating_reader import RatingReader
from reward_modeling.objectives.rating_statistics import is_outside, shortest

if TYPE_CHECKING:
    from reward_modeling.data.loader import PromptGroups

logger = logging.getLogger(__name__)


class Regression(Objective):
    """The mean squared error of the ratings that an answer has."""

    flags = RegressionFlags
    kind = "ratings"

    def __init__(self, flags: RegressionFlags):
        super().__init__(flags)
        self.attributes = attribute_names(flags.attributes)
        self.num_labels = len(self.attributes)
        self.label_names = self.attributes
        self.ranges = named_values(flags.label_ranges, read_range)
        weights = named_values(flags.weights, read_weight) or dict.fromkeys(self.attributes, 1 / len(self.attributes))
        self.weights = {name: weights.get(name, 0.0) for name in self.attributes}

    @property
    def reader(self) -> RatingReader:
        return RatingReader(self.attributes)

    # --- the ranges of the ratings ---

    def go_on_from(self, saved: Mapping[str, Any]) -> None:
        """Take the ranges that are not given from the model: its outputs of 0 and 1 are their ends."""
        ranges = {name: tuple(of) for name, of in (saved.get(RANGES) or {}).items() if name in self.attributes}
        if other := [name for name, of in ranges.items() if self.ranges.get(name, of) != of]:
            logger.warning(
                "--label_ranges: those of %s are others than the model was trained with, so that what its head has "
                "learned is on another scale.",
                ", ".join(other),
            )
        if taken := {name: of for name, of in ranges.items() if name not in self.ranges}:
            words = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in taken.items())
            logger.info("Label ranges: those of the model, %s.", words)
        self.ranges = ranges | self.ranges

    def fit(self, groups: "PromptGroups", evaluations: Sequence["PromptGroups"] = ()) -> None:
        """Take the ranges that are not given from the ratings of the training set.

        Raises:
            UserError: an attribute has no ratings, or all the same, or one outside of the range that is given; or the
                first evaluation set has nothing to compute the --metric_for_best_model of.
        """
        for name, ratings in zip(self.attributes, groups.targets().T, strict=True):
            self._fit_one(name, ratings[~np.isnan(ratings)])
        for number, evaluation in enumerate(evaluations):
            self._say_what_is_outside(evaluation.targets())
            if number == 0:
                self._check_metric(evaluation)

    def _fit_one(self, name: str, ratings: np.ndarray) -> None:
        if not len(ratings):
            raise UserError(
                f"--attributes {name}: expected ratings among the answers to train on, found none: all of them are "
                "held out, left out by --max_train_samples, or dropped."
            )
        low, high = (shortest(end) for end in (ratings.min(), ratings.max()))
        given = self.ranges.setdefault(name, (low, high))
        if is_outside(ratings, given).any():
            raise UserError(
                f"--label_ranges {name}: expected all ratings from {given[0]:g} to {given[1]:g}, as the flag or the "
                f"model to go on from says, found {low:g} to {high:g} in the training set."
            )
        if not given[0] < given[1]:
            raise UserError(
                f"--attributes {name}: expected ratings that differ, found {low:g} everywhere. Leave it out, or say "
                f"what its range is: --label_ranges {name}=0:4"
            )
        with np.errstate(over="ignore"):
            width = float(np.float32(given[1]) - np.float32(given[0]))  # as the loss computes it
        if not 0 < width < math.inf:
            raise UserError(
                f"--attributes {name}: expected a range that float32 can tell apart, found {given[0]!r} to "
                f"{given[1]!r}."
            )

    def _say_what_is_outside(self, ratings: np.ndarray) -> None:
        """Ratings of an evaluation set beyond the ranges count as they are: the model cannot be asked to know them."""
        for name, column in zip(self.attributes, ratings.T, strict=True):
            low, high = self.ranges[name]
            if outside := int(is_outside(column, (low, high)).sum()):
                logger.warning(
                    "Evaluation: %s of %s ratings of %s are outside of %g to %g, the range of the training set.",
                    *(f"{outside:,}", f"{int((~np.isnan(column)).sum()):,}", name, low, high),
                )

    def _check_metric(self, groups: "PromptGroups") -> None:
        metric = (self.options.metric_for_best_model or "").removeprefix("eval_")
        ratings, prompts = groups.targets(), groups.sizes.group_of_unit
        columns = [(column[known], prompts[known], groups.sizes.members[known]) for column, known in _known(ratings)]
        if metric == "pair_accuracy" and not any(len(rated_pairs(*column)[0]) for column in columns):
            needed = "prompts with several answers of different ratings"
        elif metric == "spearman" and not any(len(np.unique(column)) > 1 for column, _, _ in columns):
            needed = "ratings that differ"
        else:
            return
        raise UserError(
            f"--metric_for_best_model {metric}: expected {needed} in the evaluation set, found none. Take loss."
        )

    def saved_values(self) -> dict[str, Any]:
        """`label_ranges` and `reward_weights`, both in the order of the attributes; the weights are of 0..1 outputs."""
        return {
            "label_ranges": {name: list(self.ranges[name]) for name in self.attributes},
            "reward_weights": self.weights,
        }

    # --- the loss ---

    @staticmethod
    def collate(units: Sequence[Sequence[int]], targets: Sequence[Sequence[float]]) -> dict[str, torch.Tensor]:
        """`answers` `(answers,)` long, the rows of the logits; `ratings` `(answers, attributes)`, NaN if unknown."""
        return {
            "answers": torch.tensor([unit[0] for unit in units], dtype=torch.long),
            "ratings": torch.tensor(targets, dtype=torch.float32).reshape(
                len(units), len(targets[0]) if targets else 0
            ),
        }

    def scaled(self, ratings: torch.Tensor) -> torch.Tensor:
        """Ratings as the model is trained on them, 0..1."""
        low, high = ratings.new_tensor([self.ranges[name] for name in self.attributes]).T
        return (ratings - low) / (high - low)

    def attributes_of(self, logits: torch.Tensor) -> torch.Tensor:
        """`(reads, attributes)` from `(reads, labels)`: what the outputs say of each attribute, linear in them."""
        return logits

    def loss(self, logits: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
        if not len(targets["answers"]):
            return logits.new_zeros(0)
        return self.answer_loss(logits[targets["answers"]], self.scaled(targets["ratings"]))

    def answer_loss(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """`(answers,)` from `(answers, labels)` and `(answers, attributes)`, NaN where not known."""
        return masked_squared_error(outputs, labels)

    # --- figures ---

    def sums(self, logits: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
        """The answers; then of each attribute the ratings; then of each the squared errors on the scale 0..1."""
        if not len(targets["answers"]):
            return logits.new_zeros(1 + 2 * len(self.attributes))
        labels = self.scaled(targets["ratings"])
        known = ~torch.isnan(labels)
        errors = torch.where(known, self.attributes_of(logits[targets["answers"]]) - labels, 0.0)
        return torch.cat([errors.new_tensor([len(errors)]), known.sum(dim=0).float(), errors.square().sum(dim=0)])

    def figures(self, sums: Sequence[float]) -> dict[str, float]:
        """The root of the mean squared error of each attribute that was rated, as a share of its range."""
        rated, squared = sums[1 : 1 + len(self.attributes)], sums[1 + len(self.attributes) :]
        each = zip(self.attributes, rated, squared, strict=True)
        return {f"error_{name}": math.sqrt(of / count) for name, count, of in each if count}

    def evaluated(self, logits: torch.Tensor, targets: dict[str, torch.Tensor]) -> list[tuple[float, ...]]:
        """Of an answer its loss, and what the outputs say of each attribute, 0..1."""
        outputs = logits[targets["answers"]]
        columns = [self.loss(logits, targets)[:, None], self.attributes_of(outputs)]
        return [tuple(row) for row in torch.cat(columns, dim=1).tolist()]

    def held_out(self, rows: Sequence[tuple], groups: "PromptGroups") -> EvaluatedRatings:
        ranges = [self.ranges[name] for name in self.attributes]
        return EvaluatedRatings.from_rows(rows, groups, self.attributes, ranges, list(self.weights.values()))

    def metrics(self, held_out: EvaluatedRatings) -> dict[str, float]:
        return rating_metrics(held_out)

    def evaluation(self, held_out: EvaluatedRatings) -> dict[str, Any]:
        return rating_figures(held_out)

    evaluation_lines = staticmethod(rating_lines)
    evaluation_table = staticmethod(rating_table)
    evaluation_shares = staticmethod(rating_shares)


def _known(ratings: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each column, and where it is known."""
    return [(column, ~np.isnan(column)) for column in ratings.T]


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
