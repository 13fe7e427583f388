"""What is said of pairs whose answers have rewards: of a benchmark, and of held-out rows during training.

Plain dictionaries of JSON's types come out; a figure that is incomplete is None.
"""

import math

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.intervals import (
    Accuracy,
    accuracy_by_length,
    calibration_error,
    calibration_table,
    longer_wins,
    pair_accuracy,
)

MARGIN_BINS = 40


def number(value: float) -> float | None:
    """JSON has no NaN."""
    return float(value) if math.isfinite(value) else None


def accuracy_entry(share: Accuracy) -> dict:
    """An accuracy as it stands in JSON."""
    interval = {"value": number(share.accuracy), "low": number(share.low), "high": number(share.high)}
    return interval | {"rows": share.rows, "right": share.right, "ties": share.ties}


def pair_statistics(chosen: NDArray, rejected: NDArray, chosen_lengths: NDArray, rejected_lengths: NDArray) -> dict:
    """What is told of any pairs; all four arguments are `(pairs,)`, the lengths in characters or in tokens."""
    by_length = accuracy_by_length(chosen, rejected, chosen_lengths, rejected_lengths)
    table = calibration_table(chosen, rejected)
    bins = []
    for one in table:
        observed = accuracy_entry(one.observed)
        observed |= {"value_low": observed.pop("low"), "value_high": observed.pop("high")}
        bins.append({"low": one.low, "high": one.high, "confidence": number(one.confidence)} | observed)
    return {
        "accuracy": accuracy_entry(pair_accuracy(chosen, rejected)),
        "longer_wins": accuracy_entry(longer_wins(chosen_lengths, rejected_lengths)),
        "by_length": {name: accuracy_entry(share) for name, share in by_length.items()},
        "calibration_error": number(calibration_error(table)),
        "calibration": bins,
        "margins": _margins(chosen - rejected),
    }


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
