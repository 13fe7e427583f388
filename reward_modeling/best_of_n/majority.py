"""How often the most frequent final answer of n is right, as a mean over subsets of a prompt's answers.

Final answers that are equally frequent are equally likely to be taken. Up to `EXACT` answers the mean is over all
subsets, and exact. Of more answers it is over the beginnings of `SHUFFLES` random orders, which a seed gives: unbiased,
with a noise that the intervals over prompts contain.
"""

from collections.abc import Hashable, Sequence
from functools import lru_cache
from math import comb

import numpy as np
from numpy.typing import ArrayLike, NDArray

EXACT = 16
SHUFFLES = 256


def majority(finals: Sequence[Hashable], truths: ArrayLike, sizes: Sequence[int], seed: int = 0) -> NDArray[np.float64]:
    """The mean truth of the most frequent final answer of n, `(sizes,)`.

    Args:
        finals: the final answer of each answer; None is none, and votes for itself alone.
        truths: `(count,)`. Where answers with one final answer have several truths, it counts their mean.
        seed: of the random orders.
    """
    votes = vote_classes(finals)
    counts = np.bincount(votes)
    means = np.bincount(votes, np.asarray(truths, dtype=np.float64)) / counts
    if len(votes) > EXACT:
        return shuffled_wins(votes, sizes, seed) @ means
    order = np.argsort(-counts, kind="stable")
    return win_shares(tuple(counts[order].tolist()), tuple(sizes)) @ means[order]


def vote_classes(finals: Sequence[Hashable]) -> NDArray[np.int64]:
    """`(count,)`: the number of each answer's final answer; where there is none, a number of its own."""
    names = {final: place for place, final in enumerate(dict.fromkeys(final for final in finals if final is not None))}
    votes = np.array([len(names) + place if final is None else names[final] for place, final in enumerate(finals)])
    return np.unique(votes, return_inverse=True)[1]


@lru_cache(maxsize=4096)
def win_shares(counts: tuple[int, ...], sizes: tuple[int, ...]) -> NDArray[np.float64]:
    """How often each of some classes is the most frequent one of n that are drawn without putting back.

    Args:
        counts: of the classes.

    Returns:
        `(sizes, classes)`; every row has the sum 1.
    """
    wins = np.zeros((len(sizes), len(counts)))
    for place, count in enumerate(counts):
        others = counts[:place] + counts[place + 1 :]
        for votes in range(1, count + 1):
            for (drawn, ties), ways in _ways_below(others, votes).items():
                if drawn + votes in sizes:
                    wins[sizes.index(drawn + votes), place] += comb(count, votes) * ways / (ties + 1)
    return wins / np.array([[comb(sum(counts), n)] for n in sizes])


@lru_cache(maxsize=4096)
def _ways_below(counts: tuple[int, ...], most: int) -> dict[tuple[int, int], int]:
    """In how many ways classes have at most `most` each: {(drawn in all, classes with just `most`): ways}."""
    if not counts:
        return {(0, 0): 1}
    found: dict[tuple[int, int], int] = {}
    for (drawn, ties), ways in _ways_below(counts[1:], most).items():
        for votes in range(min(counts[0], most) + 1):
            key = drawn + votes, ties + (votes == most)
            found[key] = found.get(key, 0) + ways * comb(counts[0], votes)
    return found


def shuffled_wins(votes: NDArray[np.integer], sizes: Sequence[int], seed: int) -> NDArray[np.float64]:
    """`win_shares` over the first n answers of `SHUFFLES` random orders.

    Args:
        votes: `(count,)`, the class of each answer.
    """
    generator = np.random.default_rng(seed)
    orders = generator.permuted(np.tile(votes, (SHUFFLES, 1)), axis=1)
    tallies = np.zeros((SHUFFLES, votes.max() + 1), dtype=np.int64)
    shares, done = np.zeros((len(sizes), tallies.shape[1])), 0
    for row, n in enumerate(sizes):
        for drawn in orders[:, done:n].T:
            tallies[np.arange(SHUFFLES), drawn] += 1
        done = n
        first = tallies == tallies.max(axis=1, keepdims=True)
        shares[row] = (first / first.sum(axis=1, keepdims=True)).mean(axis=0)
    return shares
