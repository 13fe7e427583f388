"""Which pairs of a mixture stay, in which order, and which are for testing.

    chosen = choose_pairs(table, shares, in_benchmark, seed)
    chosen.order                                # numbers of the pairs that stay, shuffled
    chosen.dropped[DropReason.CONTRADICTION]    # which pairs go for this reason

All of it is numbers in numpy arrays, one element for each pair. A random choice is a hash of the seed and of what the
pair says: it is the same in any order of the rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from reward_modeling.data.keys import mix_keys
from reward_modeling.data.preferences import EXCERPT_LENGTH
from reward_modeling.data.report import DataReport, DropReason
from reward_modeling.preference_sets.pair_table import SCORES, PairTable, pair_digests

# Seeds are below 2**32: each use of one has numbers of its own. A sample that was drawn by the numbers that also say
# where a pair goes would stand at the beginning of the mixture.
SAMPLE_SEED, SPLIT_SEED = 2**32, 2**33


@dataclass(frozen=True)
class Chosen:
    """Which pairs of the sources are in the mixture."""

    order: NDArray[np.int64]
    """Their numbers, shuffled."""
    dropped: Mapping[DropReason, NDArray[np.bool_]]
    """The others, `(pairs,)` for each reason."""


def choose_pairs(
    table: PairTable, shares: Sequence[tuple[float, int | None]], in_benchmark: NDArray[np.bool_], seed: int
) -> Chosen:
    """Drop a part's repeated pairs and those of benchmarks, sample, drop what repeats or contradicts, and shuffle.

    Duplicates across parts and contradictions are of the sampled pairs alone: none is dropped for a pair that a weight
    or a limit leaves out.

    Args:
        shares: for each part its weight, from 0 to 1, and its limit in pairs, or None.
        in_benchmark: `(pairs,)`.
    """
    digests, is_first = pair_digests(table)
    # 64 bits that say what a pair is: what is drawn depends on them and the seed alone
    keys = (digests[:, 0] ^ (digests[:, 1] << np.uint64(1)) ^ is_first.astype(np.uint64)).view(np.int64)
    groups = group_numbers(digests)
    repeated = duplicates(table, groups, is_first, among=np.ones(len(table), dtype=bool), within_parts=True)
    in_benchmark = in_benchmark & ~repeated
    kept = ~repeated & ~in_benchmark
    left_out = not_sampled(table.parts, keys, kept, shares, seed)
    kept &= ~left_out
    elsewhere = duplicates(table, groups, is_first, among=kept)
    kept &= ~elsewhere
    opposed = contradictions(groups, is_first, among=kept)
    dropped = {
        DropReason.DUPLICATE_PAIR: repeated | elsewhere,
        DropReason.CONTRADICTION: opposed,
        DropReason.IN_BENCHMARK: in_benchmark,
        DropReason.NOT_SAMPLED: left_out,
    }
    numbers = np.flatnonzero(kept & ~opposed)
    order = numbers[np.lexsort((*digests[numbers].T, mix_keys(keys, seed)[numbers]))]
    return Chosen(order, dropped)


def group_numbers(digests: NDArray[np.uint64]) -> NDArray[np.int64]:
    """A number for each digest of 128 bits, `(pairs,)`: equal for equal ones."""
    values = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(digests), [None, pa.py_buffer(digests)])
    return values.dictionary_encode().indices.to_numpy().astype(np.int64)


def duplicates(
    table: PairTable,
    groups: NDArray[np.int64],
    is_first: NDArray[np.bool_],
    among: NDArray[np.bool_],
    *,
    within_parts: bool = False,
) -> NDArray[np.bool_]:
    """Pairs whose prompt, chosen and rejected stand before, `(pairs,)`; of those in `among`.

    Of equal pairs that of the first part is kept; within a part the one with the smallest source, then scores, so that
    what is kept does not depend on the order of the rows.
    """
    same = 2 * groups + is_first
    if within_parts:
        same = same * (table.parts.max(initial=0) + 1) + table.parts
    numbers = np.flatnonzero(among & (np.bincount(groups)[groups] > 1))
    # null sorts last, as NaN does
    sources = pc.rank(table.column("source"), tiebreaker="dense").to_numpy()
    columns = [table.numbers(name) for name in SCORES[::-1]] + [sources, table.parts, same]
    order = numbers[np.lexsort([values[numbers] for values in columns])]
    repeated = np.zeros(len(table), dtype=bool)
    repeated[order[1:][same[order[1:]] == same[order[:-1]]]] = True
    return repeated


def contradictions(
    groups: NDArray[np.int64], is_first: NDArray[np.bool_], among: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Pairs A over B of a prompt that also has B over A, both sides of them, `(pairs,)`; of those in `among`."""
    count = groups.max(initial=0) + 1
    one, other = (np.bincount(groups[among & (is_first == side)], minlength=count) for side in (False, True))
    return among & (np.minimum(one, other) > 0)[groups]


def not_sampled(
    parts: NDArray[np.int64],
    keys: NDArray[np.int64],
    among: NDArray[np.bool_],
    shares: Sequence[tuple[float, int | None]],
    seed: int,
) -> NDArray[np.bool_]:
    """Pairs that a weight or a limit leaves out, `(pairs,)`; of those in `among`.

    Args:
        shares: for each part its weight, from 0 to 1, and its limit in pairs, or None; a part gets the fewer.
    """
    numbers, left_out = mix_keys(keys, seed + SAMPLE_SEED), np.zeros(len(keys), dtype=bool)
    for part, (weight, limit) in enumerate(shares):
        candidates = np.flatnonzero(among & (parts == part))
        count = round(weight * len(candidates))
        count = count if limit is None else min(count, limit)
        left_out[candidates[np.argsort(numbers[candidates], kind="stable")[count:]]] = True
    return left_out


def count_dropped(
    table: PairTable, names: Sequence[str], dropped: Mapping[DropReason, NDArray[np.bool_]]
) -> list[DataReport]:
    """For each part what was dropped of its pairs, with the first such pair."""
    reports = []
    for part, name in enumerate(names):
        is_here = table.parts == part
        report = DataReport(name, int(is_here.sum()))
        for reason, left_out in dropped.items():
            numbers = np.flatnonzero(left_out & is_here)
            if len(numbers):
                first = table.take(numbers[:1]).to_pylist()[0]
                report.add(reason, len(numbers), first["where"], (first["prompt"] or first["chosen"])[:EXCERPT_LENGTH])
        reports.append(report)
    return reports
