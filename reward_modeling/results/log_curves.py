"""The log of a run as curves: few points, whatever its length, and nothing hidden by that.

curve = log_curve(state["log_history"], "loss")
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MOST_POINTS = 150  # of a curve: more than a phone has room for


@dataclass(frozen=True)
class Curve:
    """Values over steps, each of one log or of several in a row."""

    steps: list[float]
    """Mean step of a point's logs."""
    values: list[float]
    """Mean of a point's logs."""
    lows: list[float]
    """Lowest of a point's logs; of an accuracy on held-out pairs, the lower end of its interval."""
    highs: list[float]
    logs_per_point: int
    """At most so many logs are one point; 1 where nothing was taken together."""
    not_finite: int
    """Logs left out, since they are no numbers."""

    @property
    def has_band(self) -> bool:
        return any(low < high for low, high in zip(self.lows, self.highs, strict=True))


def log_curve(
    history: Sequence[Mapping], name: str, *, low: str | None = None, high: str | None = None, most: int = MOST_POINTS
) -> Curve | None:
    """The curve of one figure, or None where no entry has it.

    Args:
        history: the Trainer's log_history; entries without the figure are passed over.
        low, high: names of the figure's interval, which an entry may lack.
        most: points of the curve. Of more logs than that as many as needed, in a row, become one point: their mean, and
            the lowest and the highest of them (or of their intervals), so that no peak is lost.
    """
    entries = [entry for entry in history if name in entry]
    finite = [entry for entry in entries if entry[name] is not None and math.isfinite(entry[name])]
    if not entries:
        return None
    steps = np.array([entry["step"] for entry in finite], dtype=np.float64)
    values, lows, highs = (
        np.array([entry.get(key, entry[name]) for entry in finite], dtype=np.float64)
        for key in (name, low or name, high or name)
    )
    per_point = max(1, math.ceil(len(finite) / most))
    starts = np.arange(0, len(finite), per_point)
    counts = np.diff([*starts, len(finite)])
    if not len(starts):
        return Curve([], [], [], [], 1, len(entries))
    return Curve(
        (np.add.reduceat(steps, starts) / counts).tolist(),
        (np.add.reduceat(values, starts) / counts).tolist(),
        np.minimum.reduceat(lows, starts).tolist(),
        np.maximum.reduceat(highs, starts).tolist(),
        per_point,
        len(entries) - len(finite),
    )
