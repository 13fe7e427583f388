"""How often the final answer with the greatest sum of weights among n is right, as a mean over subsets of the answers.

An answer's weight is what a model says of it, such as the least probability of its steps; equal weights give a
majority. Final answers of equal sums are equally likely to be taken. Up to `EXACT` answers the mean is over all
subsets; of more it is over the beginnings of `SHUFFLES` random orders, as in `majority`.
"""

from collections.abc import Hashable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reward_modeling.best_of_n.majority import SHUFFLES, vote_classes

EXACT = 12  # 4,096 subsets
EQUAL = 1e-9  # of the greatest sum: closer ones differ by rounding


def weighted_majority(
    finals: Sequence[Hashable], weights: ArrayLike, truths: ArrayLike, sizes: Sequence[int], seed: int = 0
) -> NDArray[np.float64]:
    """The mean truth of the final answer with the greatest sum of weights, `(sizes,)`.

    Args:
        finals, truths, seed: as `majority.majority` takes them.
        weights: `(count,)`, not below 0.
    """
    votes, weights = vote_classes(finals), np.asarray(weights, dtype=np.float64)
    counts = np.bincount(votes)
    means = np.bincount(votes, np.asarray(truths, dtype=np.float64)) / counts
    of_class = np.eye(len(counts))[votes]  # (count, classes)
    if len(votes) > EXACT:
        return _of_orders(of_class, weights, means, sizes, seed)
    subsets, drawn = _subsets(len(votes))
    taken = _shares(subsets @ (of_class * weights[:, None]), subsets @ of_class) @ means
    return np.array([taken[drawn == n].mean() for n in sizes])


@lru_cache(maxsize=EXACT)
def _subsets(count: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """`(subsets, count)`, 1 where an answer is in a subset, without the empty one; and how many are in each."""
    bits = (np.arange(1, 2**count)[:, None] >> np.arange(count)) & 1
    return bits.astype(np.float64), bits.sum(axis=1)


def _shares(sums: NDArray, counts: NDArray) -> NDArray[np.float64]:
    """`(rows, classes)`: how likely each class is to be taken.

    Args:
        sums: `(rows, classes)` of the weights; `counts` of the answers: a class without any is never taken.
    """
    sums = np.where(counts > 0, sums, -1.0)
    greatest = sums.max(axis=1, keepdims=True)
    first = sums >= greatest - EQUAL * np.abs(greatest)
    first &= counts > 0
    return first / first.sum(axis=1, keepdims=True)


def _of_orders(
    of_class: NDArray, weights: NDArray, means: NDArray, sizes: Sequence[int], seed: int
) -> NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    orders = generator.permuted(np.tile(np.arange(len(weights)), (SHUFFLES, 1)), axis=1)
    sums, counts = (np.zeros((SHUFFLES, of_class.shape[1])) for _ in range(2))
    found, done = np.zeros(len(sizes)), 0
    for row, n in enumerate(sizes):
        for drawn in orders[:, done:n].T:
            sums += of_class[drawn] * weights[drawn, None]
            counts += of_class[drawn]
        done = n
        found[row] = (_shares(sums, counts) @ means).mean()
    return found
