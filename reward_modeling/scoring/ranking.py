"""From comparisons of two answers to an order of many.

round robin   every answer against every other: n (n - 1) / 2 comparisons; an answer's score is the mean probability
              that it is better than another
tournament    the winners of one round meet in the next: n - 1 comparisons, which find one best answer

Where one answer beats every other one, the tournament finds it; a round robin may prefer another that wins by more.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

from reward_modeling.common.errors import UserError, did_you_mean

ROUND_ROBIN, TOURNAMENT = "round_robin", "tournament"

Compare = Callable[[Sequence[tuple[int, int]]], Sequence[float]]
"""From pairs of answers, by their numbers, to the probabilities that the first of each is the better one."""


@dataclass(frozen=True)
class Ranking:
    """Answers from the best to the last one.

    `order` are their numbers, the best first; answers that stand alike keep their order. `ranks` are the rank of each
    answer in the order given, 1 for the best; answers that stand alike have one rank. `scores` are what the order is
    made of: of a round robin the mean probability of being better than another answer, of a tournament the rounds that
    an answer has come through, one without an opponent included: it tells the best answer, and of the others little.
    `comparisons` is how many were made, each of two orders.
    """

    order: list[int]
    ranks: list[int]
    scores: list[float]
    comparisons: int

    @property
    def best(self) -> int:
        return self.order[0]


def rank(number: int, compare: Compare, method: str) -> Ranking:
    """
    Args:
        number: of answers.

    Raises:
        UserError: there are no answers, or no such method; two answers cannot be compared, since they are too long.
    """
    if method not in METHODS:
        known = " or ".join(METHODS)
        raise UserError(f"method: expected {known}, found {method!r}{did_you_mean(str(method), list(METHODS))}.")
    if not number:
        raise UserError("answers: expected at least one answer, found none.")

    def known(pairs: Sequence[tuple[int, int]]) -> Sequence[float]:
        probabilities = compare(pairs)
        if unknown := [pair for pair, found in zip(pairs, probabilities, strict=True) if math.isnan(found)]:
            one, other = unknown[0]
            raise UserError(
                f"answers: expected answers of which any two fit into max_length, found {len(unknown):,} of "
                f"{len(pairs):,} comparisons that do not (first: answers {one} and {other}). Leave the longest out, or "
                "raise max_length."
            )
        return probabilities

    scores, comparisons = METHODS[method](number, known)
    order = sorted(range(number), key=lambda answer: -scores[answer])
    ranks = [1 + sum(other > score for other in scores) for score in scores]
    return Ranking(order, ranks, scores, comparisons)


def _round_robin(number: int, compare: Compare) -> tuple[list[float], int]:
    pairs = list(combinations(range(number), 2))
    return round_robin_scores(number, dict(zip(pairs, compare(pairs), strict=True))), len(pairs)


def round_robin_scores(number: int, probabilities: dict[tuple[int, int], float]) -> list[float]:
    """The mean probability that each answer is better than another one; one half of a single answer.

    Args:
        probabilities: that the first answer of a pair is better than the second, by their numbers, of every pair. Where
            one is not a number the scores of both answers are not either.
    """
    beside: list[list[float]] = [[] for _ in range(number)]
    for (one, other), probability in probabilities.items():
        beside[one].append(probability)
        beside[other].append(1 - probability)
    # Rounded once, whatever the order: answers that are the same stand alike to the last bit.
    return [0.5] if number == 1 else [math.fsum(of) / len(of) for of in beside]


def _tournament(number: int, compare: Compare) -> tuple[list[float], int]:
    """Neighbours meet, the last of an odd number goes through; where nobody is better the first one does."""
    won = [0.0] * number
    left, comparisons = list(range(number)), 0
    while len(left) > 1:
        pairs = list(zip(left[::2], left[1::2], strict=False))
        through = [one if p >= 0.5 else other for (one, other), p in zip(pairs, compare(pairs), strict=True)]
        comparisons += len(pairs)
        left = through + left[2 * len(pairs) :]
        for winner in left:
            won[winner] += 1
    return won, comparisons


METHODS: dict[str, Callable[[int, Compare], tuple[list[float], int]]] = {
    ROUND_ROBIN: _round_robin,
    TOURNAMENT: _tournament,
}
