"""Micro-batches of like size: units dealt out over processes, and padded rows cut into blocks.

A packed micro-batch is one row of tokens. Padded rows are sorted by length, and each micro-batch is cut into blocks of
like rows (see padding.py).
"""

import heapq
import itertools
from typing import NamedTuple

from reward_modeling.data.padding import BLOCK_SHARE, FULL, cut_further, cut_loads, cut_rows_within

GROWTH = 0.02  # of the number of micro-batches, where one of them would pass the limit
# The row length at which eager attention holds as much as the rest of a layer: 5 a s^2 b and 34 s b h bytes, with
# heads of 64 (Korthikanti et al., 2022, equation 1).
AS_LARGE_AS_ATTENTION = 34 * 64 / 5


class Chunk(NamedTuple):
    """Units `unit_start:unit_end` of one group, and what they take in a micro-batch.

    `tokens` are those without padding. `rows` are the lengths of its padded rows, one for each completion that the
    units need, in the order of their numbers; `blocks` are the numbers of the blocks that they stand in, all in the
    first if there are none. Both are empty where nothing is padded. `counted` is False for a copy that only fills up a
    process.
    """

    group: int
    unit_start: int
    unit_end: int
    tokens: int
    rows: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()
    counted: bool = True


MicroBatch = list[Chunk]


def block_shapes(micro_batch: MicroBatch) -> list[tuple[int, int]]:
    """(rows, length) of each block of padded rows; a number that no row has is a block of one token."""
    lengths: dict[int, list[int]] = {}
    for chunk in micro_batch:
        for number, length in zip(chunk.blocks or [0] * len(chunk.rows), chunk.rows, strict=True):
            lengths.setdefault(number, []).append(length)
    of_blocks = (lengths.get(number, [1]) for number in range(max(lengths, default=-1) + 1))
    return [(len(of), max(of)) for of in of_blocks]


def computed_tokens(micro_batch: MicroBatch) -> int:
    """Of the tensors that the collator makes of it, padding included."""
    shapes = block_shapes(micro_batch)
    return sum(rows * length for rows, length in shapes) or sum(chunk.tokens for chunk in micro_batch)


def activation_size(micro_batch: MicroBatch) -> float:
    """In proportion to the activations: by tokens and, of padded rows, which may have attention that holds a number
    for each query and key, by their length as well."""
    attended = sum(rows * length**2 for rows, length in block_shapes(micro_batch))
    return computed_tokens(micro_batch) + attended / AS_LARGE_AS_ATTENTION


def balance(
    chunks: list[Chunk], num_processes: int, max_tokens: int, target_tokens: int | None = None
) -> list[list[MicroBatch]]:
    """`[process][number]`: the chunks in as few micro-batches as the tokens allow (of more than 100, up to 2% more).

    A micro-batch has about `target_tokens`, which sets their number, and never more than `max_tokens`. Longest first
    into the lightest micro-batch (Graham, 1969): loads differ by at most the longest chunk. A process without a chunk
    of its own gets a copy that is not counted, since under ZeRO-3 and FSDP all processes must run the same number of
    forward passes.
    """
    ordered = sorted(chunks, key=lambda chunk: (-chunk.tokens, chunk.group, chunk.unit_start))
    total = sum(chunk.tokens for chunk in ordered)
    per_process = max(1, -(-total // ((target_tokens or max_tokens) * num_processes)))
    most = -(-len(ordered) // num_processes)  # with so many, a micro-batch for each chunk
    per_process = min(per_process, most)
    while (bins := _longest_first(ordered, per_process * num_processes, max_tokens)) is None:
        # One by one, an evaluation of many long units would be dealt out a thousand times, for minutes.
        per_process = min(most, per_process + max(1, int(per_process * GROWTH)))
    filler = ordered[-1]._replace(counted=False)
    bins = [micro_batch or [filler] for micro_batch in bins]
    # the heaviest first, dealt out in turn: the n-th micro-batches of all processes are of like size
    bins.sort(key=lambda micro_batch: -sum(chunk.tokens for chunk in micro_batch))
    return [bins[process::num_processes] for process in range(num_processes)]


def _longest_first(ordered: list[Chunk], num_bins: int, max_tokens: int) -> list[MicroBatch] | None:
    """The chunks over `num_bins` micro-batches, or None if one would pass `max_tokens`."""
    bins: list[MicroBatch] = [[] for _ in range(num_bins)]
    loads = [(0, number) for number in range(num_bins)]
    for chunk in ordered:
        load, number = heapq.heappop(loads)
        if load and load + chunk.tokens > max_tokens:
            return None
        bins[number].append(chunk)
        heapq.heappush(loads, (load + chunk.tokens, number))
    return bins


def balance_padded(
    chunks: list[Chunk], num_processes: int, max_tokens: int, target_tokens: int | None = None
) -> list[list[MicroBatch]]:
    """`[process][number]`: as `balance`, for padded rows: each micro-batch has units of like length, in blocks.

    The n-th micro-batches of all processes have the same number of blocks, each of them a pass through the layers:
    under ZeRO-3 and FSDP all processes bring a layer's weights together for each of them.
    """
    target = target_tokens or max_tokens
    ordered = sorted(chunks, key=lambda chunk: (-max(chunk.rows), -chunk.tokens, chunk.group, chunk.unit_start))
    loads = [chunk.tokens for chunk in ordered]
    least = -(-sum(loads) // max(1, int(FULL * target)))
    starts = cut_loads(loads, int(FULL * max_tokens), least, num_processes)
    bins = [ordered[start:end] for start, end in itertools.pairwise(starts)]
    bins += [[ordered[-1]._replace(counted=False)] for _ in range(-len(bins) % num_processes)]
    # of like length and size side by side: at one time each process computes one of them
    dealt = [bins[first : first + num_processes] for first in range(0, len(bins), num_processes)]
    dealt = [_cut_into_blocks(together, int(BLOCK_SHARE * target), max_tokens) for together in dealt]
    return [list(of_process) for of_process in zip(*dealt, strict=True)]


def _cut_into_blocks(micro_batches: list[MicroBatch], block_cost: int, max_tokens: int) -> list[MicroBatch]:
    """The same micro-batches, one for each process, with the same number of blocks.

    What needs fewer than another one is cut further, which adds no token. If it has fewer rows than that, numbers are
    left out, and a block of one token stands for each.
    """
    places = [
        sorted((-length, chunk, row) for chunk, of in enumerate(micro_batch) for row, length in enumerate(of.rows))
        for micro_batch in micro_batches
    ]
    lengths = [[-length for length, _, _ in of] for of in places]
    cuts = [cut_rows_within(of, block_cost, max_tokens) for of in lengths]
    count = max(map(len, cuts)) - 1
    result = []
    for micro_batch, of_rows, rows, of_cuts in zip(micro_batches, lengths, places, cuts, strict=True):
        cut = cut_further(of_rows, of_cuts, count)
        numbers = [*range(len(cut) - 2), count - 1]
        blocks = [[0] * len(chunk.rows) for chunk in micro_batch]
        for number, (start, end) in zip(numbers, itertools.pairwise(cut), strict=True):
            for _, chunk, row in rows[start:end]:
                blocks[chunk][row] = number
        result.append([chunk._replace(blocks=tuple(of)) for chunk, of in zip(micro_batch, blocks, strict=True)])
    return result
