"""How well P(right) of held-out steps agrees with their labels, with intervals that draw whole prompts.

Steps of one solution, and solutions of one prompt, are not independent. Accuracies and bins are sums over steps, which
are summed once by prompt: a draw is a weighted sum over prompts. The area under the curve is computed of every draw.
What needs no draws is in common/step_statistics.py.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.intervals import RESAMPLES
from reward_modeling.common.step_statistics import BINS, EVEN, area_under_curve, bins_of
from reward_modeling.objectives.rating_statistics import (
    NUMBERS_AT_ONCE,
    SEED,
    Figure,
    drawn_sums,
    sums_by_prompt,
    with_interval,
)

NO_ERROR = -1  # the place of the first wrong step of a solution that has none
UNKNOWN = -2  # of one whose labels do not say it


def first_error(labels: Sequence[float]) -> int:
    """The place of the first wrong step, as ProcessBench counts it: from 0, -1 where all are right.

    UNKNOWN where a step has no label, or one of one half, before the first wrong one.

    >>> first_error([1.0, 0.1, math.nan]), first_error([1.0, 0.9]), first_error([math.nan, 0.0])
    (1, -1, -2)
    """
    for place, label in enumerate(labels):
        if not label > EVEN:
            return place if label < EVEN else UNKNOWN
    return NO_ERROR


def balanced(sums: NDArray) -> NDArray:
    """`(...)`, the mean of two shares, of `(..., 4)`: right steps, those found, wrong steps, those found."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (sums[..., 1] / sums[..., 0] + sums[..., 3] / sums[..., 2]) / 2


def harmonic(sums: NDArray) -> NDArray:
    """`(...)`, the harmonic mean of the same two shares: ProcessBench's F1. 0 where both are."""
    with np.errstate(divide="ignore", invalid="ignore"):
        one, other = sums[..., 1] / sums[..., 0], sums[..., 3] / sums[..., 2]
        mean = 2 * one * other / (one + other)
    return np.where((one == 0) & (other == 0), 0.0, mean)


def two_shares(of_first: NDArray[np.bool_], found: NDArray[np.bool_]) -> NDArray:
    """`(rows, 4)`: what `balanced` and `harmonic` take of each row.

    Args:
        of_first: `(rows,)`, whether a row is of the first kind, and not of the second.
        found: `(rows,)`, whether the model finds what it is.
    """
    return np.stack([of_first, of_first & found, ~of_first, ~of_first & found], axis=1).astype(np.float64)


def figure_of_sums(formula, rows: NDArray, prompts: NDArray) -> Figure:
    """A formula of sums over rows, with the interval of draws of whole prompts.

    Args:
        formula: `(...)` from `(..., columns)`.
        rows: `(rows, columns)`.
        prompts: `(rows,)`.
    """
    distinct, numbers = np.unique(prompts, return_inverse=True)
    sums = sums_by_prompt(rows, numbers, len(distinct))
    return with_interval(float(formula(sums.sum(axis=0))), formula(drawn_sums(sums)))


# --- the area under the curve -----------------------------------------------------------------------------------------


def area_with_interval(probabilities: NDArray, is_right: NDArray[np.bool_], prompts: NDArray) -> Figure:
    """`area_under_curve` with the middle 95% of draws of whole prompts."""
    distinct, numbers = np.unique(prompts, return_inverse=True)
    generator, draws = np.random.default_rng(SEED), []
    at_once = max(1, NUMBERS_AT_ONCE // max(1, len(probabilities)))
    for start in range(0, RESAMPLES if len(distinct) else 0, at_once):
        count = min(at_once, RESAMPLES - start)
        drawn = [
            np.bincount(generator.integers(len(distinct), size=len(distinct)), minlength=len(distinct))
            for _ in range(count)
        ]
        draws.append(area_under_curve(probabilities, is_right, np.array(drawn, dtype=np.float64)[:, numbers]))
    value = float(area_under_curve(probabilities, is_right)[0])
    return with_interval(value, np.concatenate(draws) if draws else np.zeros(0))


# --- calibration ------------------------------------------------------------------------------------------------------


def bin_sums(probabilities: NDArray, labels: NDArray) -> NDArray:
    """`(steps, 3 BINS)`: of each bin of P(right) whether a step is in it, its probability, and its label."""
    inside = bins_of(probabilities)[:, None] == np.arange(BINS)
    return np.hstack([inside, inside * probabilities[:, None], inside * labels[:, None]]).astype(np.float64)


def calibration_error(sums: NDArray) -> NDArray:
    """`(...)` of `(..., 3 BINS)`: how far the mean of P(right) is from that of the labels, the mean over steps."""
    rows, predicted, observed = np.split(sums, 3, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.abs(predicted - observed).sum(axis=-1) / rows.sum(axis=-1)


def constant_loss(labels: NDArray) -> float:
    """The cross-entropy of a judge who always says the mean of these labels."""
    mean = float(labels.mean()) if len(labels) else math.nan
    return -sum(share * math.log(share) for share in (mean, 1 - mean) if share > 0)
