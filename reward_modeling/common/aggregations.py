"""From the probabilities of an answer's steps to one number for the answer.

aggregate([0.9, 0.5, 0.8])    # {"min": 0.5, "product": 0.36, "last": 0.8, "mean": 0.733}
"""

import math
from collections.abc import Callable, Sequence

AGGREGATIONS: dict[str, Callable[[Sequence[float]], float]] = {
    "min": min,
    "product": math.prod,
    "last": lambda probabilities: probabilities[-1],
    "mean": lambda probabilities: math.fsum(probabilities) / len(probabilities),
}


def aggregate(probabilities: Sequence[float]) -> dict[str, float]:
    """All aggregations by their names.

    Where a probability is NaN, each of them is: `min` of Python would take whatever stands first.

    Args:
        probabilities: that a step is right, of each step in its order; at least one.

    >>> aggregate([0.5, 1.0])
    {'min': 0.5, 'product': 0.5, 'last': 1.0, 'mean': 0.75}
    """
    if any(math.isnan(each) for each in probabilities):
        return dict.fromkeys(AGGREGATIONS, math.nan)
    return {name: float(of_steps(probabilities)) for name, of_steps in AGGREGATIONS.items()}
