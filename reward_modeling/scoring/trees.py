"""Rows of tokens in groups that are computed as trees: whatever some of them begin with is computed once.

    groups = group_as_trees(rows, max_tokens=2048)   # numbers of rows, each group in the order of its tokens

In the order of the tokens each row shares most with the one before it. A group is a stretch of this order; cut before a
row, what this one shares is computed again. The cut that costs the fewest tokens is found exactly, by dynamic
programming.
"""

from collections.abc import Sequence

import numpy as np

from reward_modeling.scoring.beginnings import LEAST_SHARED, order_of_tokens, shared_with_the_row_before


def group_as_trees(rows: Sequence[Sequence[int]], max_tokens: int, least_shared: int = LEAST_SHARED) -> list[list[int]]:
    """Numbers of the rows, each once; a group has at most `max_tokens` tokens, each computed once, or one row.

    Rows that share less than `least_shared` tokens with the one before them begin a group.
    """
    if not rows:
        return []
    numbers = sorted(range(len(rows)), key=lambda number: order_of_tokens(rows[number]))
    ends = _best_ends([rows[number] for number in numbers], max_tokens, least_shared)
    return [numbers[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _best_ends(rows: list[Sequence[int]], max_tokens: int, least_shared: int) -> list[int]:
    """Where each group of sorted rows ends, so that their tokens are as few as can be; of equal cuts, small groups."""
    shared = shared_with_the_row_before(rows)
    shared[shared < least_shared] = 0
    own = np.array([len(row) for row in rows]) - shared
    before = np.concatenate([[0], np.cumsum(own)])  # own tokens of the rows before each
    fewest = np.zeros(len(rows) + 1, dtype=np.int64)  # tokens of the groups before each row
    starts = np.zeros(len(rows), dtype=np.int64)  # of the group that ends with each row, where a group ends there
    first = 0  # rows before it are in no group with the current one
    for row in range(len(rows)):
        if not shared[row]:
            first = row
        tokens = before[row + 1] - before[first : row + 1] + shared[first : row + 1]
        # fewer rows have fewer tokens, but for what the first of them shares; a row alone goes through
        fits = tokens <= max_tokens
        fits[-1] = True
        totals = np.where(fits, fewest[first : row + 1] + tokens, np.iinfo(np.int64).max)
        starts[row] = row - int(totals[::-1].argmin())
        fewest[row + 1] = totals[starts[row] - first]
    ends, end = [], len(rows)
    while end:
        ends.append(end)
        end = int(starts[end - 1])
    return ends[::-1]
