"""Means over subsets, of which the figures of benchmarks are made: each in one line, NaN where something is missing."""

import math
from collections.abc import Iterable, Mapping

from numpy.typing import ArrayLike

Means = Mapping[str, ArrayLike]  # by subset


def weighted_mean(values: Means, weights: Mapping[str, float]) -> float:
    """Sum of weight x value / sum of weights over the names in `weights`; NaN where one has no value."""
    total = sum(weights.values())
    if not total or not weights.keys() <= values.keys():
        return math.nan
    return sum(weight * values[name] for name, weight in weights.items()) / total


def plain_mean(values: Means, names: Iterable[str]) -> float:
    """The mean of the values under `names`; NaN where one has no value."""
    return weighted_mean(values, dict.fromkeys(names, 1))


def pooled_mean(values: Means, names: Iterable[str], rows: Mapping[str, int]) -> float:
    """The mean over all rows of the subsets in `names`; NaN where one is missing."""
    return weighted_mean(values, {name: rows.get(name, 0) for name in names})
