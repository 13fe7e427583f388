"""Means over prompts with 95% intervals, from sums alone: a million prompts take no more memory than ten.

moments = Moments(4)
moments.add([0.1, 0.5])                # of a prompt that has the first two of four figures
moments.means()[1]                     # {"value": ..., "low": ..., "high": ..., "prompts": ...}

The intervals are those of `common.prompt_differences`, for one value of each prompt: Student's t, and for shares with
two prompts added, so that they hold for few prompts, and where all prompts agree.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from reward_modeling.common.prompt_differences import t_95

Mean = Mapping[str, float | int | None]
"""`value`, `low`, `high`, and over how many `prompts`; None where so many say nothing of it."""


class Moments:
    """Counts, sums and sums of squares of some figures."""

    def __init__(self, figures: int):
        self.counts = np.zeros(figures, dtype=np.int64)
        self.sums, self.squares = np.zeros(figures), np.zeros(figures)

    def add(self, values: ArrayLike) -> None:
        """A value of one prompt for each of the first figures; it has none of the others."""
        values = np.asarray(values, dtype=np.float64)
        self.counts[: len(values)] += 1
        self.sums[: len(values)] += values
        self.squares[: len(values)] += values**2

    def means(self) -> list[Mean]:
        """Of values of any size."""
        return [_mean(*row) for row in self._rows()]

    def shares(self) -> list[Mean]:
        """Of values from 0 to 1."""
        # The share is half of what 1 and -1 come to, less what they come to at 1/2.
        return [
            _halved(_difference(count, 2 * total - count, 4 * (squares - total) + count))
            for count, total, squares in self._rows()
        ]

    def differences(self) -> list[Mean]:
        """Of values from -1 to 1, each the difference of two shares."""
        return [_difference(*row) for row in self._rows()]

    def _rows(self) -> list[tuple[int, float, float]]:
        return list(zip(self.counts.tolist(), self.sums.tolist(), self.squares.tolist(), strict=True))


def _mean(count: int, total: float, squares: float) -> Mean:
    if not count:
        return {"value": None, "low": None, "high": None, "prompts": 0}
    value = total / count
    if count == 1:
        return {"value": value, "low": None, "high": None, "prompts": 1}
    spread = max(squares / count - value**2, 0.0)
    half = t_95(count - 1) * math.sqrt(spread / (count - 1))
    return {"value": value, "low": value - half, "high": value + half, "prompts": count}


def _difference(count: int, total: float, squares: float) -> Mean:
    """See `prompt_differences.difference_of_shares`: a prompt of 1 and one of -1 are added."""
    if not count:
        return {"value": None, "low": None, "high": None, "prompts": 0}
    value, centre = total / count, total / (count + 2)
    spread = max((squares + 2) / (count + 2) - centre**2, 0.0)
    half = t_95(count - 1) * math.sqrt(spread / (count + 2))
    low, high = max(-1.0, min(value, centre - half)), min(1.0, max(value, centre + half))
    return {"value": value, "low": low, "high": high, "prompts": count}


def _halved(difference: Mean) -> Mean:
    """From -1..1 to 0..1."""
    ends = {name: difference[name] for name in ("value", "low", "high")}
    return {name: None if end is None else (1 + end) / 2 for name, end in ends.items()} | {
        "prompts": difference["prompts"]
    }


class Correlation:
    """Pearson's correlation of two numbers among the answers of a prompt, pooled over prompts.

    What differs between prompts is taken out: a hard prompt may have long answers and low rewards, which says nothing
    of what a choice among its answers does. The interval is over prompts: the variance of the linearised correlation,
    on Fisher's scale, with Student's t.
    """

    def __init__(self) -> None:
        self.prompts = 0
        self.totals = np.zeros(3)
        self.products = np.zeros((3, 3))

    def add(self, one: ArrayLike, other: ArrayLike) -> None:
        """The `(answers,)` numbers of one prompt; of a single answer they say nothing."""
        one, other = (np.asarray(values, dtype=np.float64) - np.mean(values) for values in (one, other))
        if len(one) < 2:
            return
        sums = np.array([one @ other, one @ one, other @ other])
        self.prompts += 1
        self.totals += sums
        self.products += np.outer(sums, sums)

    def value(self) -> Mean:
        """The correlation; None where one of the two is always the same."""
        both, one, other = self.totals
        nothing = {"value": None, "low": None, "high": None, "prompts": self.prompts}
        if not self.prompts or min(one, other) <= 0:
            return nothing
        size = math.sqrt(one * other)
        value = float(np.clip(both / size, -1, 1))
        if self.prompts == 1 or abs(value) == 1:
            return nothing | {"value": value}
        gradient = np.array([1 / size, -value / 2 / one, -value / 2 / other])
        variance = float(gradient @ self.products @ gradient) * self.prompts / (self.prompts - 1)
        half = t_95(self.prompts - 1) * math.sqrt(max(variance, 0.0)) / (1 - value**2)
        low, high = (math.tanh(math.atanh(value) + end) for end in (-half, half))
        return {"value": value, "low": low, "high": high, "prompts": self.prompts}
