"""Values of a row, by name, and how far what was served is from what is due."""

import math
from collections.abc import Sequence

from reward_modeling.checkpoints.verification import ROUNDING_FACTOR, tolerance

Values = dict[str, float]
"""What a server gives a row, by its name."""


def tolerances_of(expected: Sequence[Values], rounding: float | None, noise: float | None = None) -> Values:
    """Of each value, as a saved model's: a share of the largest one, or of 1 where all are smaller.

    Args:
        rounding: how far a lower precision moves this model's outputs; None in float32.
        noise: how far other kernels were seen to move them in float32, which may be more than the share.
    """
    scales = {name: max(1.0, *(abs(values[name]) for values in expected)) for name in expected[0]}
    least = ROUNDING_FACTOR * (noise or 0.0)
    return {name: max(least, tolerance(scale, rounding)) for name, scale in scales.items()}


def largest_difference(expected: Values, served: Values | None) -> float:
    """Infinite where the row was refused (None), has other values, or one that is no number."""
    if served is None or expected.keys() != served.keys():
        return math.inf
    differences = [abs(served[name] - value) for name, value in expected.items()]
    return math.inf if any(map(math.isnan, differences)) else max(differences)


def distance(expected: Sequence[Values], served: Sequence[Values | None], tolerances: Values) -> float:
    """The largest difference of all, as a multiple of its tolerance: at most 1 is equal."""

    def scaled(values: Values | None) -> Values | None:
        if values is None or values.keys() != tolerances.keys():
            return None
        return {name: value / tolerances[name] for name, value in values.items()}

    both = zip(map(scaled, expected), map(scaled, served), strict=True)
    return max((largest_difference(*one) for one in both), default=math.nan)
