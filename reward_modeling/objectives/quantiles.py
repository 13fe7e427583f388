"""Quantile regression: 19 outputs for each attribute, the quantiles 0.05 to 0.95 of its rating.

Dorka (2024), "Quantile Regression for Distributional Reward Models in RLHF" (QRM). What the model says of an attribute
is the mean of its quantiles; the outer ones are the ends of an interval that holds nine of ten ratings, if the model is
right. How many it holds is measured on held-out answers.

Each quantile is an output of its own, so that a lower one may come out above a higher one. The mean does not mind. For
intervals the quantiles of an answer are put in order first, which never makes them worse (Chernozhukov,
Fernandez-Val and Galichon, 2010), and it is said in how many answers that was needed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from reward_modeling.common.intervals import share_of_rows
from reward_modeling.common.words import QUANTILE_MARK
from reward_modeling.display.text import count, interval, percent, share
from reward_modeling.objectives.held_out_ratings import EvaluatedRatings, rating_table
from reward_modeling.objectives.rating_flags import RegressionFlags
from reward_modeling.objectives.rating_statistics import drawn_sums, sums_by_prompt, with_interval
from reward_modeling.objectives.regression import Regression

LEVELS = tuple(number / 20 for number in range(1, 20))
NOMINAL = LEVELS[-1] - LEVELS[0]  # share of the ratings between the outer quantiles


def regression_of(flags: RegressionFlags) -> Regression:
    """The objective that --loss names."""
    return QuantileRegression(flags) if flags.loss == "quantile" else Regression(flags)


class QuantileRegression(Regression):
    """The pinball loss of 19 quantiles of each rating that an answer has.

    The outputs stand attribute by attribute, from the lowest level to the highest: `logits.unflatten(1, (-1, 19))` is
    `(reads, attributes, levels)`.
    """

    def __init__(self, flags: RegressionFlags):
        super().__init__(flags)
        self.label_names = tuple(f"{name}{QUANTILE_MARK}{level:.2f}" for name in self.attributes for level in LEVELS)
        self.num_labels = len(self.label_names)

    def saved_values(self) -> dict[str, Any]:
        """`quantile_levels` too: each attribute of `label_ranges`, in order, is the mean of as many outputs."""
        return super().saved_values() | {"quantile_levels": list(LEVELS)}

    def _by_attribute(self, logits: torch.Tensor) -> torch.Tensor:
        """`(reads, attributes, levels)`."""
        return logits.unflatten(1, (len(self.attributes), len(LEVELS)))

    def attributes_of(self, logits: torch.Tensor) -> torch.Tensor:
        return self._by_attribute(logits).mean(dim=2)

    def answer_loss(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return masked_pinball(self._by_attribute(outputs), labels)

    # --- figures ---

    def evaluated(self, logits: torch.Tensor, targets: dict[str, torch.Tensor]) -> list[tuple[float, ...]]:
        """Beside the loss and the attributes the outer quantiles in order, and whether some have crossed."""
        quantiles = self._by_attribute(logits[targets["answers"]])
        crossed = (quantiles.diff(dim=2) < 0).any(dim=2)
        columns = torch.cat([quantiles.amin(dim=2), quantiles.amax(dim=2), crossed.float()], dim=1).tolist()
        return [(*row, *others) for row, others in zip(super().evaluated(logits, targets), columns, strict=True)]

    def evaluation(self, held_out: EvaluatedRatings) -> dict[str, Any]:
        """With `interval` of each attribute: how many ratings lie between the outer quantiles, and how far these are
        apart, on the scale of the ratings."""
        figures = super().evaluation(held_out)
        low, high, crossed = np.split(held_out.others, 3, axis=1)
        for place, name in enumerate(self.attributes):
            least, greatest = held_out.ranges[place]
            ends = [least + of[:, place] * (greatest - least) for of in (low, high)]
            figures["attributes"][name]["interval"] = _interval_figures(held_out, place, *ends, crossed[:, place])
        return figures

    @staticmethod
    def evaluation_table(evaluation: Mapping[str, Any]) -> str:
        lines = [rating_table(evaluation)]
        for name, of in evaluation["attributes"].items():
            held, width = of["interval"]["coverage"], of["interval"]["width"]["value"]
            if held["value"] is not None:
                lines.append(
                    f"  {name}: {share(held)} of {count(held['rows'])} ratings between the outer quantiles "
                    f"({interval(held)}; meant are {percent(NOMINAL)}%), which are {width:.3g} apart; quantiles cross "
                    f"in {percent(of['interval']['crossed'])}% of the answers"
                )
        return "\n".join(lines)


def _interval_figures(
    held_out: EvaluatedRatings, place: int, low: np.ndarray, high: np.ndarray, crossed: np.ndarray
) -> dict[str, Any]:
    """Of the answers with a rating of an attribute. A rating at an end lies inside."""
    ratings = held_out.ratings[:, place]
    known = ~np.isnan(ratings)
    inside = (low <= ratings) & (ratings <= high)
    _, prompts = np.unique(held_out.prompts[known], return_inverse=True)
    widths = np.stack([np.ones(int(known.sum())), (high - low)[known]], axis=1)
    width = {"value": None, "low": None, "high": None}
    if known.any():
        rated, total = drawn_sums(sums_by_prompt(widths, prompts, int(prompts.max()) + 1)).T
        width = with_interval(float(widths[:, 1].mean()), total / rated)
    return {
        "nominal": NOMINAL,
        "coverage": share_of_rows(inside[known], np.zeros(len(prompts), dtype=bool), prompts),
        "width": width,
        "crossed": float(crossed[known].mean()) if known.any() else None,
    }


def masked_pinball(quantiles: torch.Tensor, labels: torch.Tensor, levels: Sequence[float] = LEVELS) -> torch.Tensor:
    """The mean pinball loss over the levels, and over the labels that are known, one value per answer.

    max(q (y - z), (q - 1) (y - z)) for the level q, the label y and the output z (Koenker and Bassett, 1978): its mean
    is least where z is the quantile q of y.

    Args:
        quantiles: `(answers, attributes, levels)`.
        labels: `(answers, attributes)`, NaN where not known; at least one of each answer is.

    Returns:
        `(answers,)`.
    """
    known = ~torch.isnan(labels)
    level = quantiles.new_tensor(levels)
    errors = torch.where(known, labels, 0.0)[..., None] - quantiles
    losses = torch.maximum(level * errors, (level - 1) * errors).mean(dim=2)
    return torch.where(known, losses, 0.0).sum(dim=1) / known.sum(dim=1)
