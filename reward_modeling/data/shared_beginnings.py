"""Completions of one prompt that begin alike, as a tree: what several begin with is computed once for them.

    completions   1 2 3 4 | 1 2 3 5 6 | 1 2 7        in this order, by their tokens
    shared        0         3           2             tokens that each begins with as the one before it does
    segments      [1 2] -> [3] -> [4]                 what is computed: 7 tokens in the place of 12
                            3  -> [5 6]
                   2   -> [7]

Any two completions share the least of `shared` between them, so that one number for each says the whole tree. All are 0
where only the prompt is shared.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from reward_modeling.common.prefixes import common_prefix_length

FEWEST_SHARED = 8  # tokens that are worth a span of their own


class Segment(NamedTuple):
    """Tokens `start:end` of a completion, which those below it in the tree have too.

    `parent` is the number of the segment that it follows; None is the prompt.
    """

    completion: int
    start: int
    end: int
    parent: int | None


def shared_with_previous(sequences: Sequence[Sequence[int]], prefix_length: int) -> list[int]:
    """Of each sequence the tokens after the prefix that it shares with the one before it.

    Each keeps its last token to itself.

    Args:
        sequences: sorted.
    """
    shared = [common_prefix_length(pair) - prefix_length for pair in pairwise(sequences)]
    return [0, *(each if each >= FEWEST_SHARED else 0 for each in shared)][: len(sequences)]


def shared_among(shared: Sequence[int], numbers: Sequence[int]) -> list[int]:
    """`shared` of some of the completions, by their numbers in ascending order."""
    between = [min(shared[before + 1 : number + 1]) for before, number in pairwise(numbers)]
    return [0, *between] if len(numbers) else []


def segments(lengths: Sequence[int], shared: Sequence[int]) -> tuple[list[Segment], list[int]]:
    """The tree, each segment behind its parent; and of each completion the segment that it ends in."""
    found: list[Segment] = []
    last_of = [0] * len(lengths)
    waiting: list[tuple[int, int, int, int | None]] = [(0, len(lengths), 0, None)] if len(lengths) else []
    while waiting:
        first, last, start, parent = waiting.pop()
        alone = last - first == 1
        end = lengths[first] if alone else min(shared[first + 1 : last])
        if alone or end > start:
            found.append(Segment(first, start, end, parent))
            parent = len(found) - 1
        if alone:
            last_of[first] = parent
            continue
        cuts = [first, *(number for number in range(first + 1, last) if shared[number] == end), last]
        waiting.extend((one, other, end, parent) for one, other in reversed(list(pairwise(cuts))))
    return found, last_of
