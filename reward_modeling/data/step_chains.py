"""Steps as a tree: alternatives that go on from the same steps.

    steps    0 "Add."  1 "So 5."  2 "So 6."  3 "Check."
    parents  -1        0          0          1               of each step the one before it; -1 where it is the first
    chains   [0, 2], [0, 1, 3]                               each from a first step to a last one

A single answer is a tree of one chain. Each step is held once, however many chains it stands in. A step comes before
those that go on from it.
"""

from collections.abc import Iterable, Sequence

FIRST = -1  # the parent of a first step


def chains_of(parents: Sequence[int], numbers: Iterable[int] | None = None) -> list[list[int]]:
    """The numbers of the steps of each chain, in the order of the last ones.

    Args:
        numbers: of the steps that are left, in ascending order, with all before each; None: all.

    >>> chains_of([-1, 0, 0, 1])
    [[0, 2], [0, 1, 3]]
    """
    numbers = range(len(parents)) if numbers is None else list(numbers)
    inner = {parents[number] for number in numbers}
    return [_path(number, parents)[::-1] for number in numbers if number not in inner]


def up_to_labels(parents: Sequence[int], labels: Sequence[float | None]) -> list[int]:
    """The steps that have a label, and those before them: behind these no label says anything.

    >>> up_to_labels([-1, 0, 1, 1], [None, 1.0, None, None])
    [0, 1]
    """
    is_kept = [label is not None for label in labels]
    for number in reversed(range(len(parents))):
        if is_kept[number] and parents[number] != FIRST:
            is_kept[parents[number]] = True
    return [number for number, kept in enumerate(is_kept) if kept]


def _path(number: int, parents: Sequence[int]) -> list[int]:
    path = [number]
    while parents[path[-1]] != FIRST:
        path.append(parents[path[-1]])
    return path
