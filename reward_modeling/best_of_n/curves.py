"""What the best of n answers is worth, for every n up to the K answers of a prompt, as a mean over all subsets.

best_of_n(rewards, sizes)                     # the mean of the greatest reward
truth_of_best(rewards, truths, sizes)         # how often the answer with the greatest reward is right
oracle(truths, sizes)                         # how often one of them is

No subset is drawn. Of K sorted values the i-th is the greatest of n in C(i-1, n-1) of the C(K, n) subsets: the mean
over them is an unbiased estimate of what n new answers would give, where the greatest of the first n is a noisy one.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

LISTED_SIZES = 32  # up to here every n has its figures; beyond, powers of two and the greatest


def sizes_up_to(greatest: int) -> list[int]:
    """The n that figures are given for.

    >>> sizes_up_to(5)
    [1, 2, 3, 4, 5]
    >>> sizes_up_to(100)[-4:]
    [32, 64, 100]
    """
    if greatest <= LISTED_SIZES:
        return list(range(1, greatest + 1))
    powers = [2**power for power in range(greatest.bit_length())]
    return sorted({*powers, greatest})


@lru_cache(maxsize=1024)
def subset_weights(count: int, sizes: tuple[int, ...]) -> NDArray[np.float64]:
    """How often the i-th smallest of `count` values is the greatest of n that are drawn without putting back.

    Args:
        sizes: the n, each at most `count`.

    Returns:
        `(sizes, count)`; every row has the sum 1.
    """
    weights = np.zeros((len(sizes), count))
    for row, n in zip(weights, sizes, strict=True):
        weight = n / count  # of the greatest; then C(i-2, n-1) / C(i-1, n-1) = (i-n) / (i-1)
        for i in range(count, n - 1, -1):
            row[i - 1] = weight
            weight *= (i - n) / max(i - 1, 1)
    return weights


def best_of_n(values: ArrayLike, sizes: Sequence[int]) -> NDArray[np.float64]:
    """The mean of the greatest of n of the `(count,)` values over all subsets, `(sizes,)`."""
    values = np.sort(np.asarray(values, dtype=np.float64))
    return subset_weights(len(values), tuple(sizes)) @ values


def truth_of_best(rewards: ArrayLike, truths: ArrayLike, sizes: Sequence[int]) -> NDArray[np.float64]:
    """The mean of the truth of the answer with the greatest reward over all subsets, `(sizes,)`.

    Of several with the greatest reward each is as likely to be taken. So of answers with equal rewards each may have
    the mean of their truths.

    Args:
        rewards: `(count,)`.
        truths: `(count,)`, 1 where an answer is right and 0 where it is not, or a part of 1.
    """
    _, level, counts = np.unique(rewards, return_inverse=True, return_counts=True)
    means = np.bincount(level, np.asarray(truths, dtype=np.float64)) / counts
    return subset_weights(len(level), tuple(sizes)) @ np.repeat(means, counts)


def oracle(truths: ArrayLike, sizes: Sequence[int]) -> NDArray[np.float64]:
    """How often one of n answers is right (pass@n), a mean over all subsets, `(sizes,)`."""
    return best_of_n(truths, sizes)
