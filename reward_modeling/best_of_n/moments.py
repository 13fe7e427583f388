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
    """Counts, means and sums of squared differences from these, of some figures.

    They are updated value by value, as Welford does ("Note on a method for calculating corrected sums of squares and
    products", 1962): sums of squares would lose what differs between values that are far from 0.
    """

    def __init__(self, figures: int):
        self.counts = np.zeros(figures, dtype=np.int64)
        self.centres, self.squares = np.zeros(figures), np.zeros(figures)

    def add(self, values: ArrayLike) -> None:
        """A value of one prompt for each of the first figures; it has none of the others."""
        values = np.asarray(values, dtype=np.float64)
        first = slice(len(values))
        self.counts[first] += 1
        before = values - self.centres[first]
        self.centres[first] += before / self.counts[first]
        self.squares[first] += before * (values - self.centres[first])

    def with_zeros(self, prompts: int) -> "Moments":
        """The same with zeros of as many more prompts as make it so many."""
        found = Moments(len(self.counts))
        found.counts[:] = prompts
        found.centres = self.centres * self.counts / np.maximum(prompts, 1)
        found.squares = self.squares + self.centres**2 * self.counts * (prompts - self.counts) / np.maximum(prompts, 1)
        return found

    def means(self) -> list[Mean]:
        """Of values of any size."""
        return [_mean(*row) for row in self._rows()]

    def shares(self) -> list[Mean]:
        """Of values from 0 to 1."""
        # The share is half of what 1 and -1 come to, less what they come to at 1/2.
        return [_halved(_difference(count, 2 * centre - 1, 4 * squares)) for count, centre, squares in self._rows()]

    def differences(self) -> list[Mean]:
        """Of values from -1 to 1, each the difference of two shares."""
        return [_difference(*row) for row in self._rows()]

    def _rows(self) -> list[tuple[int, float, float]]:
        return list(zip(self.counts.tolist(), self.centres.tolist(), self.squares.tolist(), strict=True))


def _mean(count: int, value: float, squares: float) -> Mean:
    if not count:
        return {"value": None, "low": None, "high": None, "prompts": 0}
    if count == 1:
        return {"value": value, "low": None, "high": None, "prompts": 1}
    half = t_95(count - 1) * math.sqrt(squares / count / (count - 1))
    return {"value": value, "low": value - half, "high": value + half, "prompts": count}


def _difference(count: int, value: float, squares: float) -> Mean:
    """See `prompt_differences.difference_of_shares`: a prompt of 1 and one of -1 are added."""
    if not count:
        return {"value": None, "low": None, "high": None, "prompts": 0}
    centre = value * count / (count + 2)
    spread = (squares + 2 + count * value**2) / (count + 2) - centre**2
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
