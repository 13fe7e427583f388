"""What the probabilities of steps are worth: how often they are right, and whether they mean what they say.

Plain dictionaries of JSON's types come out.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reward_modeling.common.intervals import number, share_of_rows
from reward_modeling.common.pair_statistics import calibration_error

THRESHOLD = 0.5  # below it a step is said to be wrong


def step_statistics(probabilities: ArrayLike, labels: ArrayLike, chains: ArrayLike | None = None) -> dict:
    """Of steps whose label is known.

    Args:
        probabilities: `(steps,)`, P(right).
        labels: `(steps,)`, 1 of a right step and 0 of a wrong one, or a probability.
        chains: `(steps,)`, the number of each step's answer: steps of one answer are not independent. None: they are.

    Returns:
        `right`, the share of right steps, and `accuracy`, how often the step is on the side of 0.5 that its label is
        on, as an `intervals.Accuracy`; `brier`, the mean squared distance of probability and label; `auc`, how often a
        right step has the higher probability than a wrong one; `calibration` by ten bins of the probability, and
        `calibration_error`, the mean distance of probability and label in a bin, weighted by its steps.
    """
    probabilities, labels = (np.asarray(of, dtype=np.float64) for of in (probabilities, labels))
    chains = np.arange(len(labels)) if chains is None else np.asarray(chains)
    agrees = (probabilities >= THRESHOLD) == (labels >= THRESHOLD)
    bins = reliability_bins(probabilities, labels, chains)
    return {
        "steps": len(labels),
        "chains": len(np.unique(chains)),
        "right": share_of_rows(labels, np.zeros(len(labels), dtype=bool), chains),
        "accuracy": share_of_rows(agrees, np.zeros(len(labels), dtype=bool), chains),
        "brier": number(((probabilities - labels) ** 2).mean()) if len(labels) else None,
        "auc": area_under_curve(probabilities, labels >= THRESHOLD),
        "calibration_error": calibration_error(bins),
        "calibration": bins,
    }


def reliability_bins(probabilities: NDArray, labels: NDArray, chains: NDArray, bins: int = 10) -> list[dict]:
    """The predicted probability against the share of right steps, in `bins` equal bins of [0, 1].

    Returns:
        As `pair_statistics.calibration_bins`: `confidence` is the mean probability of a bin.
    """
    edges = np.linspace(0, 1, bins + 1)
    bin_of = np.minimum(np.searchsorted(edges, probabilities, side="right") - 1, bins - 1)
    table = []
    for index, (low, high) in enumerate(pairwise(edges.tolist())):
        inside = bin_of == index
        observed = share_of_rows(labels[inside], np.zeros(inside.sum(), dtype=bool), chains[inside])
        observed |= {"value_low": observed.pop("low"), "value_high": observed.pop("high")}
        confidence = float(probabilities[inside].mean()) if inside.any() else None
        table.append({"low": low, "high": high, "confidence": confidence, **observed})
    return table


def area_under_curve(probabilities: NDArray, right: NDArray[np.bool_]) -> float | None:
    """How often a right step is above a wrong one, equal ones half of the time; None where one kind is missing.

    >>> area_under_curve(np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False]))
    0.875
    """
    wrong = np.sort(probabilities[~right])
    if not len(wrong) or not right.any():
        return None
    below, up_to = (np.searchsorted(wrong, probabilities[right], side=side) for side in ("left", "right"))
    return float((below + up_to).mean() / 2 / len(wrong))
