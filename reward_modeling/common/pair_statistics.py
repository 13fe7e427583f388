"""The figures of pairs whose answers have rewards: of a benchmark, and of held-out rows during training.

Plain dictionaries of JSON's types come out; a figure that is incomplete is None.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reward_modeling.common.intervals import accuracy_by_length, longer_wins, pair_accuracy, pair_rewards, share_right

MARGIN_BINS = 40


def pair_statistics(chosen: NDArray, rejected: NDArray, chosen_lengths: NDArray, rejected_lengths: NDArray) -> dict:
    """Everything about any pairs; all four arguments are `(pairs,)`, the lengths in characters or in tokens."""
    bins = calibration_bins(chosen, rejected)
    return {
        "accuracy": pair_accuracy(chosen, rejected),
        "longer_wins": longer_wins(chosen_lengths, rejected_lengths),
        "by_length": accuracy_by_length(chosen, rejected, chosen_lengths, rejected_lengths),
        "calibration_error": calibration_error(bins),
        "calibration": bins,
        "margins": _margins(chosen - rejected),
    }


def calibration_bins(
    chosen: ArrayLike, rejected: ArrayLike, bins: int = 10, probabilities: NDArray | None = None
) -> list[dict]:
    """Predicted probability (Bradley-Terry) against the observed share, in `bins` equal bins of [0.5, 1].

    sigmoid(chosen - rejected) cannot be held against outcomes directly: the chosen answer won in every row, so the
    observed share would be 1 in every bin. The model does not know which answer is the chosen one; it gives its own
    favourite the probability sigmoid(|chosen - rejected|), its confidence, and what is observed is how often the
    favourite is the chosen answer. (Taking every pair in both orders gives these points and their mirror images below
    0.5, and nothing new.) A tie has no favourite: confidence 0.5, half right, and counted under `ties`.

    Args:
        chosen, rejected: `(pairs,)` rewards.
        probabilities: `(pairs,)`, that chosen is the better one (of a tie one half): it takes the place of an outcome.
            None: 1 of all.

    Returns:
        Of each bin [low, high), the last of which includes its upper end: the mean confidence, and the observed share
        as an `Accuracy` has it, with value_low and value_high in place of low and high.
    """
    chosen, rejected = pair_rewards(chosen, rejected)
    margins = chosen - rejected
    confidence = 1 / (1 + np.exp(-np.abs(margins)))
    won = np.ones_like(margins) if probabilities is None else probabilities
    right = np.where(margins == 0, 0.5, np.where(margins > 0, won, 1 - won))
    edges = np.linspace(0.5, 1, bins + 1)
    bin_of = np.minimum(np.searchsorted(edges, confidence, side="right") - 1, bins - 1)
    table = []
    for index, (low, high) in enumerate(pairwise(edges.tolist())):
        inside = bin_of == index
        rows, ties = int(inside.sum()), int((margins[inside] == 0).sum())
        observed = share_right(float(right[inside].sum()), rows, ties)
        observed |= {"value_low": observed.pop("low"), "value_high": observed.pop("high")}
        mean = float(confidence[inside].mean()) if rows else None
        table.append({"low": low, "high": high, "confidence": mean, **observed})
    return table


def calibration_error(bins: Sequence[Mapping]) -> float | None:
    """Mean distance of confidence and observed share, weighted by the rows of the bins; None without rows."""
    rows = sum(of_bin["rows"] for of_bin in bins)
    filled = (of_bin for of_bin in bins if of_bin["rows"])
    return sum(b["rows"] * abs(b["confidence"] - b["value"]) for b in filled) / rows if rows else None


def _margins(margins: NDArray) -> dict:
    """A histogram in which zero is an edge, so that a bar is either right or wrong."""
    if not len(margins):
        return {"mean": None, "median": None, "standard_deviation": None, "edges": [], "counts": []}
    # A few far outliers would leave all others in one bar: what lies beyond is counted in the outermost bars.
    reach = float(np.quantile(np.abs(margins), 0.99)) or float(np.abs(margins).max()) or 1.0
    edges = np.linspace(-reach, reach, MARGIN_BINS + 1)
    edges[MARGIN_BINS // 2] = 0.0
    counts, _ = np.histogram(np.clip(margins, -reach, reach), edges)
    return {
        "mean": float(margins.mean()),
        "median": float(np.median(margins)),
        "standard_deviation": float(margins.std()),
        "edges": edges.tolist(),
        "counts": counts.tolist(),
    }
