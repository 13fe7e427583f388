"""Which of a prompt's scored answers make pairs.

| how              | pairs of a prompt                                                                             |
|------------------|-----------------------------------------------------------------------------------------------|
| best_vs_random   | one: the best answer against one drawn from those with a lower score                          |
| distinct_scores  | one answer drawn for each score, every pair of those: n scores give n(n-1)/2 pairs            |
| all_pairs        | every pair of answers with different scores                                                   |

Scores are equal when they are within `TOLERANCE` of each other, or joined by a chain of such scores: so equality is
transitive, and does not depend on where a grid happens to lie. (Means of a few small whole numbers are never near
each other without being equal.)
"""

from itertools import combinations

import numpy as np

PAIR_CHOICES = ("best_vs_random", "distinct_scores", "all_pairs")
TOLERANCE = 1e-6


def score_levels(scores: list[float]) -> list[int]:
    """A number for each of some scores that are sorted downwards: the same for equal ones, less for lower ones.

    >>> score_levels([5.0, 4.333333333, 4.333333334 - 1e-9, 1.0])
    [0, -1, -1, -2]
    """
    steps = [0, *(np.diff(scores) < -TOLERANCE)]
    return (-np.cumsum(steps))[: len(scores)].tolist()


def choose_pairs(levels: list[int], numbers: list[int], how: str) -> list[tuple[int, int]]:
    """Which answers make pairs, (chosen, rejected), by their places.

    Args:
        levels: of answers sorted from the best on, as `score_levels` gives them.
        numbers: a pseudo-random one for each; the smallest is drawn.

    >>> choose_pairs([0, -1, -1, -2], [7, 9, 3, 5], "distinct_scores")
    [(0, 2), (0, 3), (2, 3)]
    """

    def drawn(places: list[int]) -> int:
        return min(places, key=lambda place: (numbers[place], place))

    places = range(len(levels))
    if how == "all_pairs":
        return [(better, worse) for better, worse in combinations(places, 2) if levels[better] > levels[worse]]
    by_level: dict[int, list[int]] = {}
    for place in places:
        by_level.setdefault(levels[place], []).append(place)
    if how == "distinct_scores":
        return list(combinations([drawn(same) for same in by_level.values()], 2))
    lower = [place for place in places if levels[place] < levels[0]]
    return [(drawn(by_level[levels[0]]), drawn(lower))] if lower else []
