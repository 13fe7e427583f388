"""Which pairs of a mixture stay, in which order, and which are for testing.

    chosen = choose_pairs(table, shares, in_benchmark, seed)
    chosen.order                                # numbers of the pairs that stay, shuffled
    chosen.dropped[DropReason.CONTRADICTION]    # which pairs go for this reason

All of it is numbers in numpy arrays, one element for each row: a pair, or a list of ranked answers. A random choice is
a hash of the seed and of what the row says: it is the same in any order of the rows.

A row repeats others where everything that it says of two answers each is said before, and contradicts others where
everything that it prefers is preferred the other way round elsewhere (see `comparisons`). For two pairs that is what
one expects. A pair that a list has too goes, and so does a pair that a list contradicts: the list, which says more,
stays whole. Two rankings of the same answers that differ in some of them both stay, as people who rank do differ.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from reward_modeling.data.keys import mix_keys
from reward_modeling.data.preferences import EXCERPT_LENGTH
from reward_modeling.data.report import DataReport, DropReason
from reward_modeling.preference_sets.comparisons import EQUAL, FIRST, SECOND, Comparisons, read_comparisons
from reward_modeling.preference_sets.pair_table import NUMBERS, PairTable, RowTable

# Seeds are below 2**32: each use of one has numbers of its own. A sample that was drawn by the numbers that also say
# where a pair goes would stand at the beginning of the mixture.
SAMPLE_SEED, SPLIT_SEED = 2**32, 2**33


@dataclass(frozen=True)
class Chosen:
    """Which rows of the sources are in the mixture."""

    order: NDArray[np.int64]
    """Their numbers, shuffled."""
    dropped: Mapping[DropReason, NDArray[np.bool_]]
    """The others, `(pairs,)` for each reason."""
    noted: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    """What is worth a number of those that stay, `(pairs,)` each."""


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
    said = read_comparisons(table)
    keys = said.row_keys
    repeated = duplicates(table, said, among=np.ones(len(table), dtype=bool), within_parts=True)
    in_benchmark = in_benchmark & ~repeated
    kept = ~repeated & ~in_benchmark
    left_out = not_sampled(table.parts, keys, kept, shares, seed)
    kept &= ~left_out
    elsewhere = duplicates(table, said, among=kept)
    kept &= ~elsewhere
    opposed = contradictions(said, among=kept)
    dropped = {
        DropReason.DUPLICATE_PAIR: repeated | elsewhere,
        DropReason.CONTRADICTION: opposed,
        DropReason.IN_BENCHMARK: in_benchmark,
        DropReason.NOT_SAMPLED: left_out,
    }
    numbers = np.flatnonzero(kept & ~opposed)
    order = numbers[np.lexsort((*said.digests[numbers].T, mix_keys(keys, seed)[numbers]))]
    return Chosen(order, dropped)


def duplicates(
    table: PairTable, said: Comparisons, among: NDArray[np.bool_], *, within_parts: bool = False
) -> NDArray[np.bool_]:
    """Rows that say nothing of their answers that is not said before, `(rows,)`; of those in `among`.

    Lists come before pairs. Of equal rows that of the first part is kept; within a part the one with the smallest
    source, then scores and labels, so that what is kept does not depend on the order of the rows.
    """
    same = 3 * said.group + said.says
    if within_parts:
        same = same * (table.parts.max(initial=0) + 1) + table.parts[said.row]
    sizes = np.bincount(said.row, minlength=len(table))
    # null sorts last, as NaN does
    sources = pc.rank(table.column("source"), tiebreaker="dense").to_numpy()
    columns = [said.written, *(table.numbers(name) for name in NUMBERS[::-1]), sources, table.parts, -sizes]
    numbers = np.flatnonzero(among[said.row] & (np.bincount(said.group)[said.group] > 1))
    rows, same = said.row[numbers], same[numbers]
    order = np.lexsort([*(values[rows] for values in columns), same])
    later = order[1:][same[order[1:]] == same[order[:-1]]]
    return (sizes > 0) & (np.bincount(rows[later], minlength=len(table)) == sizes)


def contradictions(said: Comparisons, among: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Rows whose every preference, A over B, is the other way round in another row, `(rows,)`; of those in `among`.

    A tie is no preference, and contradicts none.
    """
    count = said.group.max(initial=0) + 1
    is_strict = among[said.row] & (said.says != EQUAL)
    one, other = (np.bincount(said.group[is_strict & (said.says == side)], minlength=count) for side in (FIRST, SECOND))
    is_opposed = is_strict & (np.minimum(one, other) > 0)[said.group]
    strict, opposed = (np.bincount(said.row[which], minlength=len(among)) for which in (is_strict, is_opposed))
    return (strict > 0) & (strict == opposed)


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
    table: RowTable, names: Sequence[str], dropped: Mapping[DropReason, NDArray[np.bool_]]
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
                report.add(
                    reason, len(numbers), first["where"], (first["prompt"] or first.get("chosen", ""))[:EXCERPT_LENGTH]
                )
        reports.append(report)
    return reports
