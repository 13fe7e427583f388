"""From the two outputs of a pairwise model on two answers, one for each order, to one probability.

An output is the logit of "A" less that of "B": its sigmoid is the probability that the answer that stands first is the
better one. Arrays of any shape, in float64.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEAST = np.nextafter(0, 1)  # above zero


def mean_probability(first: ArrayLike, second: ArrayLike) -> NDArray:
    """The probability that an answer is the better one, the mean over both orders.

    (sigmoid(first) + sigmoid(-second)) / 2: exactly one half where the outputs are equal, as they are of equal answers.

    Args:
        first: the output where the answer stands first.
        second: the output where it stands second.
    """
    first, second = (np.asarray(of, dtype=np.float64) for of in (first, second))
    return np.where(first == second, 0.5, (_sigmoid(first) + _sigmoid(-second)) / 2)


def log_odds(first: ArrayLike, second: ArrayLike) -> NDArray:
    """Those of `mean_probability`, log(p / (1 - p)), without its loss of digits near 0 and 1.

    The mean is above one half where `first` is above `second`, so that the sign is known without rounding.
    """
    first, second = (np.asarray(of, dtype=np.float64) for of in (first, second))
    with np.errstate(invalid="ignore"):  # NaN of what was not compared
        for_it = np.logaddexp(_log_sigmoid(first), _log_sigmoid(-second))
        against = np.logaddexp(_log_sigmoid(-first), _log_sigmoid(second))
        odds, sign = for_it - against, np.sign(first - second)
    return np.where(odds * sign > 0, odds, sign * LEAST)


def _sigmoid(x: NDArray) -> NDArray:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


def _log_sigmoid(x: NDArray) -> NDArray:
    return -np.logaddexp(0, -x)
