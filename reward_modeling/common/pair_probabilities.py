"""From the outputs of a pairwise model on two answers, one for each order, to a probability, and to shares of pairs.

An output is the logit of "A" less that of "B": its sigmoid is the probability that the answer that stands first is the
better one. Arrays of any shape, in float64.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reward_modeling.common.intervals import Accuracy, share_of_rows

ORDERS = ("chosen first", "rejected first")
LEAST = np.nextafter(0, 1)  # above zero


def mean_probability(first: ArrayLike, second: ArrayLike) -> NDArray:
    """The probability that an answer is the better one, the mean over both orders.

    (sigmoid(first) + sigmoid(-second)) / 2: exactly one half where the outputs are equal, as they are of equal answers.
    The probability of the other answer, for which the outputs change places, is 1 less this one to the last bit.

    Args:
        first: the output where the answer stands first.
        second: the output where it stands second.
    """
    first, second = (np.asarray(of, dtype=np.float64) for of in (first, second))
    # Of the likelier answer: from one half to 1 the difference to 1 is exact.
    more, less = np.maximum(first, second), np.minimum(first, second)
    likelier = np.maximum(0.5, (sigmoid(more) + sigmoid(-less)) / 2)
    return np.where(first == second, 0.5, np.where(first > second, likelier, 1 - likelier))


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


def sigmoid(x: NDArray) -> NDArray:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


def _log_sigmoid(x: NDArray) -> NDArray:
    return -np.logaddexp(0, -x)


# --- shares of pairs ------------------------------------------------------------------------------------------


def verdicts(chosen_first: NDArray, rejected_first: NDArray, prompts: NDArray) -> Accuracy:
    """How often the mean probability of the chosen answer is above one half; at exactly one half it is half right.

    Args:
        chosen_first, rejected_first: `(pairs,)` outputs.
        prompts: as `share_of_rows` takes them.
    """
    ties = chosen_first == rejected_first
    return share_of_rows(np.where(ties, 0.5, chosen_first > rejected_first), ties, prompts)


def accuracy_of_orders(chosen_first: NDArray, rejected_first: NDArray, prompts: NDArray) -> dict[str, Accuracy]:
    """The accuracy of each order alone. A model without a liking for a place has the same in both."""
    zeros = np.zeros_like(chosen_first)
    outputs = ((chosen_first, zeros), (zeros, rejected_first))
    return {name: verdicts(*of, prompts) for name, of in zip(ORDERS, outputs, strict=True)}


def flip_figures(chosen_first: NDArray, rejected_first: NDArray, prompts: NDArray) -> dict[str, Accuracy]:
    """How often the verdict flips with the order, and which place then wins: shares of all pairs.

    `ties` are the pairs that have no verdict in one of the orders, at exactly one half; they do not flip.
    """
    no_verdict = (chosen_first == 0) | (rejected_first == 0)
    first = (chosen_first > 0) & (rejected_first > 0)
    second = (chosen_first < 0) & (rejected_first < 0)
    of_kinds = {"flips": first | second, "always_first": first, "always_second": second}
    return {name: share_of_rows(of, no_verdict, prompts) for name, of in of_kinds.items()}
