"""Steps as a tree: alternatives that go on from the same steps.

    steps    0 "Add."  1 "So 5."  2 "So 6."  3 "Check."
    parents  -1        0          0          1               of each step the one before it; -1 where it is the first
    chains   [0, 2], [0, 1, 3]                               each from a first step to a last one

A single answer is a tree of one chain. Each step is held once, however many chains it stands in.
"""

from collections.abc import Sequence

FIRST = -1  # the parent of a first step
EVEN = 0.5  # a step is right above it, wrong below


def chains_of(parents: Sequence[int]) -> list[list[int]]:
    """The numbers of the steps of each chain, in the order of the last ones.

    >>> chains_of([-1, 0, 0, 1])
    [[0, 2], [0, 1, 3]]
    """
    inner = set(parents)
    return [_path(number, parents)[::-1] for number in range(len(parents)) if number not in inner]


def _path(number: int, parents: Sequence[int]) -> list[int]:
    path = [number]
    while parents[path[-1]] != FIRST:
        path.append(parents[path[-1]])
    return path
