"""Which of a prompt's answers make pairs: the choices of RLHFlow's run_dpo.py under their names.

| --choose   | the rejected answer, of those that are lower than the best one                                |
|------------|-----------------------------------------------------------------------------------------------|
| max_min    | the worst one                                                                                 |
| max_max    | the best one of them                                                                          |
| max_random | one drawn at random                                                                           |
| max_min_p  | the worst one, where every score is the reward less --len_penalty for each character          |

Four things are other than there (dpo_iteration/run_dpo.py of RLHFlow/Online-RLHF, read in 2026):

- max_random draws. There it takes the first answer, or the second where the first is the best one.
- Under max_min_p the chosen answer is the one with the higher score. There a pair is turned round where its rewards
  without the penalty say so, which undoes the penalty.
- An answer of equal reward is never the rejected one: the next lower one is. There such a prompt is lost without a
  count, as are prompts with a reward that is no number; and a prompt with one answer ends the run.
- Of answers with equal rewards, which one is chosen is drawn. There it is the first (max_max: the last).

A further pair of a prompt is chosen in the same way from the answers that no pair has yet.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MAX_MIN, MAX_MAX, MAX_RANDOM, MAX_MIN_P = "max_min", "max_max", "max_random", "max_min_p"

ROUNDING = 1e-9

Pick = Callable[[list[int], Sequence[int]], int]
"""From the places of the answers that may be rejected, the best first, and the draws of all answers, to a place."""


def _worst(candidates: list[int], _: Sequence[int]) -> int:
    return candidates[-1]


def _next_best(candidates: list[int], _: Sequence[int]) -> int:
    return candidates[0]


def _drawn(candidates: list[int], draws: Sequence[int]) -> int:
    return min(candidates, key=lambda place: draws[place])


CHOICES: dict[str, Pick] = {MAX_MIN: _worst, MAX_MAX: _next_best, MAX_RANDOM: _drawn, MAX_MIN_P: _worst}


@dataclass(frozen=True)
class PairRule:
    """How pairs are chosen."""

    choose: str = MAX_MIN
    min_gap: float = 0.0
    """The least difference of the two scores; it is above 0 in any case."""
    length_matched: bool = False
    """The rejected answer is the one of nearest length to the chosen one, whatever `choose` says of it."""
    most: int = 1
    """Pairs of a prompt."""


def best_first(scores: Sequence[float], draws: Sequence[int]) -> list[int]:
    """Places from the highest score on; of equal ones the smaller draw first, so that their order in a file is nothing.

    >>> best_first([1.0, 3.0, 1.0], [7, 8, 2])
    [1, 2, 0]
    """
    return sorted(range(len(scores)), key=lambda place: (-scores[place], draws[place]))


def is_gap(gap: float, least: float) -> bool:
    """Whether a difference is not below the least one, but for rounding: 1.2 - 0.9 is a hair below 0.3."""
    return gap >= least or math.isclose(gap, least, rel_tol=ROUNDING)


def choose_pairs(
    scores: Sequence[float], lengths: Sequence[int], draws: Sequence[int], rule: PairRule
) -> list[tuple[int, int]]:
    """Pairs of one prompt, (chosen, rejected), by the places of the answers; none where no two are far enough apart.

    Args:
        scores: finite; what is chosen by.
        lengths: of the answers, in characters.
        draws: a pseudo-random number for each answer.

    >>> choose_pairs([0.5, 3.0, 1.0], [10, 20, 30], [0, 0, 0], PairRule("max_max"))
    [(1, 2)]
    """
    left, pairs = best_first(scores, draws), []
    while len(pairs) < rule.most and len(left) > 1:
        best = left[0]
        lower = [place for place in left if scores[place] < scores[best]]
        candidates = [place for place in lower if is_gap(scores[best] - scores[place], rule.min_gap)]
        if not candidates:
            break  # the lowest is not far enough below the best: then no other two are
        if rule.length_matched:  # of equally near ones the lowest
            rejected = min(reversed(candidates), key=lambda place: abs(lengths[place] - lengths[best]))
        else:
            rejected = CHOICES[rule.choose](candidates, draws)
        pairs.append((best, rejected))
        left = [place for place in left if place not in (best, rejected)]
    return pairs
