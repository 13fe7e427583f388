"""How padded rows become blocks of like length, and units micro-batches of like rows.

    rows of a micro-batch      9 9 8 | 4 4 3 3
    its blocks                 3 x 9 and 4 x 4 tokens, 3 of them padding; as one block it were 7 x 9, 23 of them padding

A block is one padded tensor. The model computes the blocks of a micro-batch one after the other, and the loss is taken
of all their logits: so the two rows of a pair may stand in two blocks, whatever their lengths.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from itertools import accumulate, pairwise

# What a block takes beside its tokens, as a share of the tokens of a whole micro-batch. On lengths of HH-RLHF and of QA
# feedback, and on drawn ones, it leaves 1% to 28% of padding.
BLOCK_SHARE = 1 / 8
# How far rows without their padding fill a micro-batch. Filled whole, it would leave no room for padding and be cut
# into six times as many blocks.
FULL = 0.9


def cut_rows(lengths: Sequence[int], block_cost: int) -> list[int]:
    """Starts of the blocks, and the end of the last one: the least of padded tokens + `block_cost` x blocks.

    With n rows the first j of which are cut at best for best[j], a last block of the rows i:j gives best[j] =
    best[i] + block_cost + (j - i) x lengths[i]: for each i a line over j. Lines come in with falling slopes, so that
    their lower envelope is a queue ("convex hull trick"), and the whole takes time in proportion to n.

    Args:
        lengths: in descending order.
    """
    best, start_of_last = [0], [0]
    envelope: deque[tuple[int, int, int]] = deque()  # (slope, value at 0, i)
    for end in range(1, len(lengths) + 1):
        start = end - 1
        # a block never begins between two rows of one length: the whole stretch would go with the shorter rows
        if not start or lengths[start] < lengths[start - 1]:
            line = (lengths[start], best[start] + block_cost - start * lengths[start], start)
            while len(envelope) > 1 and _is_above(envelope[-1], envelope[-2], line):
                envelope.pop()
            envelope.append(line)
        while len(envelope) > 1 and _at(envelope[1], end) <= _at(envelope[0], end):
            envelope.popleft()
        best.append(_at(envelope[0], end))
        start_of_last.append(envelope[0][2])
    cuts = [len(lengths)]
    while cuts[-1]:
        cuts.append(start_of_last[cuts[-1]])
    return cuts[::-1]


def _at(line: tuple[int, int, int], place: int) -> int:
    return line[0] * place + line[1]


def _is_above(line: tuple[int, int, int], steeper: tuple[int, int, int], flatter: tuple[int, int, int]) -> bool:
    """Whether the line is nowhere below both of the others."""
    by_flatter = (flatter[1] - steeper[1]) * (steeper[0] - line[0])
    return by_flatter <= (line[1] - steeper[1]) * (steeper[0] - flatter[0])


def padded_tokens(lengths: Sequence[int], cuts: Sequence[int]) -> int:
    """Of the blocks that `cut_rows` gives."""
    return sum((end - start) * lengths[start] for start, end in pairwise(cuts))


def cut_rows_within(lengths: Sequence[int], block_cost: int, max_tokens: int) -> list[int]:
    """As `cut_rows`, with cheaper blocks where their tokens would pass `max_tokens`.

    At no cost nothing is padded. So the limit holds wherever the rows without their padding keep it.
    """
    while padded_tokens(lengths, cuts := cut_rows(lengths, block_cost)) > max_tokens and block_cost:
        block_cost = 2 * block_cost // 3
    return cuts


def cut_further(lengths: Sequence[int], cuts: list[int], count: int) -> list[int]:
    """`count` blocks, each cut where it saves most; one block a row if there are fewer rows."""
    while len(cuts) - 1 < min(count, len(lengths)):
        saved = [
            ((end - place) * (lengths[start] - lengths[place]), -place)
            for start, end in pairwise(cuts)
            for place in range(start + 1, end)
        ]
        cuts = sorted([*cuts, -max(saved)[1]])
    return cuts


def cut_loads(loads: Sequence[int], capacity: int, least: int, multiple_of: int) -> list[int]:
    """Starts of consecutive parts, and the end of the last one: as few as `capacity` allows, of nearly equal loads.

    A load beyond the capacity is a part of its own.

    Args:
        least: number of parts.
        multiple_of: the number of parts is a multiple of it, or that of the loads if there are too few.
    """
    ends = list(accumulate(loads, initial=0))

    def filled(capacity: int) -> list[int]:
        starts = [0]
        while starts[-1] < len(loads):
            start = starts[-1]
            starts.append(max(start + 1, bisect_right(ends, ends[start] + capacity) - 1))
        return starts

    count = max(least, len(filled(capacity)) - 1)
    count = min(-(-count // multiple_of) * multiple_of, len(loads))
    smallest = range(min(ends[-1] // count, capacity), capacity)  # the mean is beyond it where one load is
    starts = filled(smallest.start + bisect_left(smallest, True, key=lambda of: len(filled(of)) - 1 <= count))
    while len(starts) - 1 < count:
        heaviest = max((ends[end] - ends[start], -start, end) for start, end in pairwise(starts) if end - start > 1)
        start, end = -heaviest[1], heaviest[2]
        middle = bisect_right(ends, (ends[start] + ends[end]) // 2)
        starts = sorted([*starts, min(max(middle, start + 1), end - 1)])
    return starts
