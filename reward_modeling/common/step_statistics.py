"""What the probabilities of steps are worth: how often they are right, and whether they mean what they say.

Of a benchmark, and of held-out steps during training (objectives/step_statistics.py adds intervals of whole prompts). A
step whose label is one half is neither right nor wrong: it is compared with nothing, and has its place in calibration.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reward_modeling.common.intervals import number, share_of_rows
from reward_modeling.common.pair_statistics import calibration_error

THRESHOLD = 0.5  # a step is said to be right from here on, and wrong below
EVEN = 0.5  # a label says right above, wrong below
BINS = 10  # of P(right), all of a width


def step_statistics(probabilities: ArrayLike, labels: ArrayLike, chains: ArrayLike | None = None) -> dict:
    """Of steps whose label is known, in JSON's types.

    Args:
        probabilities: `(steps,)`, P(right).
        labels: `(steps,)`, 1 of a right step and 0 of a wrong one, or a probability.
        chains: `(steps,)`, the number of each step's answer: steps of one answer are not independent. None: they are.

    Returns:
        `right`, the share of right steps, and `accuracy`, how often the step is said to be what its label says, as an
        `intervals.Accuracy`; `brier`, the mean squared distance of probability and label; `auc`, how often a right step
        has the higher probability than a wrong one; `calibration` by ten bins of the probability, and
        `calibration_error`, the mean distance of probability and label in a bin, weighted by its steps.
    """
    probabilities, labels = (np.asarray(of, dtype=np.float64) for of in (probabilities, labels))
    chains = np.arange(len(labels)) if chains is None else np.asarray(chains)
    compared, is_right = labels != EVEN, labels > EVEN
    agrees = (says_right(probabilities) == is_right)[compared]
    bins = calibration_bins(probabilities, labels, chains)
    return {
        "steps": len(labels),
        "chains": len(np.unique(chains)),
        "right": share_of_rows(labels, np.zeros(len(labels), dtype=bool), chains),
        "accuracy": share_of_rows(agrees, np.zeros(len(agrees), dtype=bool), chains[compared]),
        "brier": number(((probabilities - labels) ** 2).mean()) if len(labels) else None,
        "auc": number(area_under_curve(probabilities[compared], is_right[compared])[0]),
        "calibration_error": calibration_error(bins),
        "calibration": bins,
    }


def says_right(probabilities: NDArray) -> NDArray[np.bool_]:
    """Of each P(right) whether the step is said to be right; one half says so."""
    return probabilities >= THRESHOLD


def bins_of(probabilities: NDArray) -> NDArray[np.int64]:
    """The number of the bin of each P(right); the last one holds 1 too.

    >>> bins_of(np.array([0.0, 0.3, 0.99, 1.0]))
    array([0, 3, 9, 9])
    """
    return np.minimum((probabilities * BINS).astype(np.int64), BINS - 1)


def calibration_bins(probabilities: NDArray, labels: NDArray, units: NDArray) -> list[dict]:
    """Of each bin [low, high) of P(right) its mean (`confidence`) and the mean label, as `share_of_rows` has it.

    Args:
        units: `(steps,)`: what is independent, the number of each step's answer or prompt.
    """
    bins, table = bins_of(probabilities), []
    for index in range(BINS):
        inside = bins == index
        observed = share_of_rows(labels[inside], np.zeros(int(inside.sum()), dtype=bool), units[inside])
        observed |= {"value_low": observed.pop("low"), "value_high": observed.pop("high")}
        confidence = float(probabilities[inside].mean()) if inside.any() else None
        table.append({"low": index / BINS, "high": (index + 1) / BINS, "confidence": confidence, **observed})
    return table


def area_under_curve(probabilities: NDArray, is_right: NDArray[np.bool_], weights: NDArray | None = None) -> NDArray:
    """How often a right step has the greater probability than a wrong one, equal ones as half.

    Args:
        probabilities, is_right: `(steps,)`.
        weights: `(draws, steps)`: how often each step is drawn. None: each once.

    Returns:
        `(draws,)`, NaN where steps of one kind are missing.

    >>> area_under_curve(np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False]))
    array([0.875])
    """
    weights = np.ones((1, len(probabilities))) if weights is None else weights
    if not len(probabilities):
        return np.full(len(weights), np.nan)
    order = np.argsort(probabilities, kind="stable")
    values, kinds = probabilities[order], is_right[order]
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    ordered = weights[:, order]
    right, wrong = (np.add.reduceat(ordered * of, starts, axis=1) for of in (kinds, ~kinds))
    below = np.cumsum(wrong, axis=1) - wrong / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return (right * below).sum(axis=1) / (right.sum(axis=1) * wrong.sum(axis=1))
