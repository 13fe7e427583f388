"""Which pairs make which optimizer step, and how a step is cut into micro-batches.

A step is `pairs_per_step` pairs in whole groups. Which ones depends on the data, the seed, the epoch and
`pairs_per_step` alone: not on the number of processes, of micro-batches, or on where a run was resumed. Only
then is the step cut into micro-batches: of about `target_tokens` and at most `max_tokens`, the same number on
every process, balanced by tokens.

Everything that is held in memory is a flat numpy array: a million pairs take some tens of megabytes.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset  # training and scoring run where it is not installed
import itertools

SHARED_PREFIX, PACKED, PADDED = "shared_prefix", "packed", "padded"
GROWTH = 0.02  # of the number of micro-batches, where one of them would pass the limit


class Chunk(NamedTuple):
    """Pairs `pair_start:pair_end` of one group, and what they take in a micro-batch.

    `row_length` is the length of its padded rows, 0 where nothing is padded. `counted` is False for a copy that
    only fills up a process.
    """

    group: int
    pair_start: int
    pair_end: int
    tokens: int
    row_length: int = 0
    counted: bool = True

    def tokens_beside(self, row_length: int) -> int:
        """Tokens of this chunk in a micro-batch whose longest padded row has `row_length`."""
        if not self.row_length:
            return self.tokens
        return self.tokens // self.row_length * max(self.row_length, row_length)


MicroBatch = list[Chunk]


@dataclass(frozen=True)
class GroupSizes:
    """Lengths in tokens and pairs of all groups.

    `prefix_lengths` is `(groups,)`; `completion_lengths` is flat, group g owning
    `completion_offsets[g]:completion_offsets[g + 1]`; `pairs` is `(pairs, 2)`, the (chosen, rejected) numbers of
    completions within their group, group g owning `pair_offsets[g]:pair_offsets[g + 1]`.
    """

    prefix_lengths: np.ndarray
    completion_lengths: np.ndarray
    completion_offsets: np.ndarray
    pairs: np.ndarray
    pair_offsets: np.ndarray

    @classmethod
    def from_dataset(cls, groups: "Dataset") -> "GroupSizes":
        """Read from the columns that `grouping.tokenize_and_group` writes."""
        completion_lengths, completion_offsets = _flat_column(groups, "completion_lengths")
        chosen, pair_offsets = _flat_column(groups, "chosen_index")
        rejected, _ = _flat_column(groups, "rejected_index")
        return cls(
            prefix_lengths=groups.data.column("prefix_length").to_numpy(),
            completion_lengths=completion_lengths,
            completion_offsets=completion_offsets,
            pairs=np.stack([chosen, rejected], axis=1),
            pair_offsets=pair_offsets,
        )

    @classmethod
    def from_rows(cls, groups: list[dict]) -> "GroupSizes":
        """Of group rows in memory, as `MicroBatchCollator` takes them."""
        completions = [len(group["completion_ids"]) for group in groups]
        pairs = [len(group["chosen_index"]) for group in groups]
        chosen, rejected = (
            np.array([number for group in groups for number in group[name]], dtype=np.int64)
            for name in ("chosen_index", "rejected_index")
        )
        return cls(
            prefix_lengths=np.array([len(group["prefix_ids"]) for group in groups]),
            completion_lengths=np.array([len(ids) for group in groups for ids in group["completion_ids"]]),
            completion_offsets=np.concatenate([[0], np.cumsum(completions)]).astype(np.int64),
            pairs=np.stack([chosen, rejected], axis=1),
            pair_offsets=np.concatenate([[0], np.cumsum(pairs)]).astype(np.int64),
        )

    def __len__(self) -> int:
        return len(self.prefix_lengths)

    @property
    def pairs_per_group(self) -> np.ndarray:
        return np.diff(self.pair_offsets)

    @property
    def num_pairs(self) -> int:
        return int(self.pair_offsets[-1])

    @property
    def group_of_pair(self) -> np.ndarray:
        """`(pairs,)`: the number of each pair's group."""
        return np.repeat(np.arange(len(self)), self.pairs_per_group)

    @property
    def answer_tokens(self) -> np.ndarray:
        """`(pairs, 2)`: tokens of each pair's chosen and rejected completion."""
        return self.completion_lengths[self.pairs + self.completion_offsets[self.group_of_pair, None]]

    def group_tokens(self, batching: str) -> np.ndarray:
        """`(groups,)`: tokens that a whole group takes in a packed micro-batch."""
        completions = np.diff(self.completion_offsets)
        cumulative = np.concatenate([[0], np.cumsum(self.completion_lengths, dtype=np.int64)])
        total = cumulative[self.completion_offsets[1:]] - cumulative[self.completion_offsets[:-1]]
        return self.prefix_lengths * (completions if batching == PACKED else 1) + total

    def chunk(self, batching: str, group: int, first: int, last: int) -> Chunk:
        """The pairs `first:last` of a group with the completions that they need."""
        completions = set(self.group_pairs(group, first, last).flatten().tolist())
        prefix = int(self.prefix_lengths[group])
        start = self.completion_offsets[group]
        lengths = [int(self.completion_lengths[start + number]) for number in completions]
        if batching == PADDED:
            row_length = prefix + max(lengths)
            return Chunk(group, first, last, row_length * len(lengths), row_length)
        prefixes = len(lengths) if batching == PACKED else 1
        return Chunk(group, first, last, prefix * prefixes + sum(lengths))

    def group_pairs(self, group: int, start: int, end: int) -> np.ndarray:
        """`(end - start, 2)`: these pairs of the group."""
        offset = self.pair_offsets[group]
        return self.pairs[offset + start : offset + end]


def _flat_column(groups: "Dataset", name: str) -> tuple[np.ndarray, np.ndarray]:
    """The values of a list column and the offsets of its rows."""
    values, lengths = [], []
    for chunk in groups.data.column(name).chunks:
        values.append(chunk.flatten().to_numpy(zero_copy_only=False))
        lengths.append(np.diff(chunk.offsets.to_numpy()))
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    return np.concatenate(values), offsets


@dataclass(frozen=True)
class EpochPlan:
    """The steps of one epoch. `units` is `(units, 3)`: group, first pair, end pair, in the order of training."""

    sizes: GroupSizes
    batching: str
    max_tokens: int
    target_tokens: int
    units: np.ndarray
    whole_group_tokens: np.ndarray  # (units,); 0 where the unit has to be measured on its own
    step_starts: np.ndarray  # (steps + 1,)

    def __len__(self) -> int:
        return len(self.step_starts) - 1

    def step_pairs(self, step: int) -> int:
        """Pairs of this step, over all processes."""
        units = self.units[self.step_starts[step] : self.step_starts[step + 1]]
        return int((units[:, 2] - units[:, 1]).sum())

    def micro_batches(self, step: int, num_processes: int) -> list[list[MicroBatch]]:
        """`[process][number]`: the same number of micro-batches for every process."""
        start, end = self.step_starts[step], self.step_starts[step + 1]
        units = zip(self.units[start:end].tolist(), self.whole_group_tokens[start:end].tolist(), strict=True)
        chunks: list[Chunk] = []
        for (group, first, last), tokens in units:
            chunks += _chunks(self.sizes, self.batching, self.max_tokens, group, first, last, tokens)
        return balance(chunks, num_processes, self.max_tokens, self.target_tokens)


def plan_epoch(
    sizes: GroupSizes,
    *,
    pairs_per_step: int,
    max_tokens: int,
    batching: str,
    seed: int,
    epoch: int,
    target_tokens: int | None = None,
) -> EpochPlan:
    """Shuffle the groups and cut them into steps.

    An epoch has `ceil(pairs / pairs_per_step)` steps, whatever the shuffle: the Trainer counts those of the first
    epoch, and finds its place by them on a resume. A step ends where the pairs so far come closest to its share,
    so that steps have the same number of pairs on average, half a group more or less. A group of more than
    `pairs_per_step` pairs is cut into several units.
    """
    units = _cut_large_groups(sizes.pairs_per_group, pairs_per_step)
    units = units[np.random.default_rng([seed, epoch]).permutation(len(units))]
    unit_pairs = units[:, 2] - units[:, 1]
    tokens = np.zeros(len(units), dtype=np.int64)
    if batching != PADDED:
        whole = unit_pairs == sizes.pairs_per_group[units[:, 0]]
        tokens[whole] = sizes.group_tokens(batching)[units[whole, 0]]
    num_steps = -(-sizes.num_pairs // pairs_per_step)
    numbers = np.arange(num_steps + 1)
    # twice the pairs before the middle of each unit; step k has the middles from k to k + 1 shares
    middles = 2 * np.cumsum(unit_pairs) - unit_pairs
    step_starts = np.searchsorted(middles * num_steps, 2 * sizes.num_pairs * numbers)
    # no step is empty, not even between two groups as large as a step
    step_starts = np.maximum.accumulate(step_starts - numbers) + numbers
    step_starts = np.minimum(step_starts, len(units) - num_steps + numbers)
    return EpochPlan(sizes, batching, max_tokens, target_tokens or max_tokens, units, tokens, step_starts)


def plan_evaluation(sizes: GroupSizes, *, max_tokens: int, batching: str, num_processes: int) -> list[list[MicroBatch]]:
    """Every pair once; `[process][number]` as for a step."""
    tokens_of_group = [0] * len(sizes) if batching == PADDED else sizes.group_tokens(batching).tolist()
    chunks: list[Chunk] = []
    for group, (pairs, tokens) in enumerate(zip(sizes.pairs_per_group.tolist(), tokens_of_group, strict=True)):
        if pairs:
            chunks += _chunks(sizes, batching, max_tokens, group, 0, pairs, tokens)
    return balance(chunks, num_processes, max_tokens)


def _cut_large_groups(pairs_per_group: np.ndarray, pairs_per_step: int) -> np.ndarray:
    """`(units, 3)`: group, first pair, end pair; no unit has more than `pairs_per_step` pairs or none."""
    pieces = -(-pairs_per_group // pairs_per_step)
    group = np.repeat(np.arange(len(pairs_per_group)), pieces)
    number = np.arange(len(group)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    size, count = pairs_per_group[group], pieces[group]
    # pieces of one group differ by at most one pair
    return np.stack([group, number * size // count, (number + 1) * size // count], axis=1)


def _chunks(
    sizes: GroupSizes, batching: str, max_tokens: int, group: int, first: int, last: int, tokens: int
) -> list[Chunk]:
    """The unit as one chunk, or as several where it is too large for a micro-batch."""
    chunk = Chunk(group, first, last, tokens) if tokens else sizes.chunk(batching, group, first, last)
    if chunk.tokens <= max_tokens:
        return [chunk]
    return list(split_by_tokens(sizes, batching, group, first, last, max_tokens))


def split_by_tokens(
    sizes: GroupSizes, batching: str, group: int, first: int, last: int, max_tokens: int
) -> Iterator[Chunk]:
    """Cut a unit that is too large for a micro-batch; its prompt is repeated, no pair is torn apart.

    A single pair always goes through: rm.py checks that `max_tokens` holds two rows of `max_length`.
    """
    start, chunk = first, sizes.chunk(batching, group, first, first + 1)
    for end in range(first + 2, last + 1):
        grown = sizes.chunk(batching, group, start, end)
        if grown.tokens > max_tokens:
            yield chunk
            start, grown = end - 1, sizes.chunk(batching, group, end - 1, end)
        chunk = grown
    yield chunk


def balance(
    chunks: list[Chunk], num_processes: int, max_tokens: int, target_tokens: int | None = None
) -> list[list[MicroBatch]]:
    """Put the chunks into as few micro-batches as the tokens allow (of more than 100, up to 2% more), then deal these
    out to the processes.

    A micro-batch has about `target_tokens`, which sets their number, and never more than `max_tokens`.

    Longest first into the lightest micro-batch (Graham, 1969): loads differ by at most the longest chunk. A
    process without a chunk of its own gets a copy that is not counted, since under ZeRO-3 and FSDP all
    processes must run the same number of forward passes.

    Returns:
        `[process][number]`
    """
    ordered = sorted(chunks, key=lambda chunk: (-chunk.row_length, -chunk.tokens, chunk.group, chunk.pair_start))
    total = sum(chunk.tokens for chunk in ordered)
    per_process = max(1, -(-total // ((target_tokens or max_tokens) * num_processes)))
    most = -(-len(ordered) // num_processes)  # with so many, a micro-batch for each chunk
    per_process = min(per_process, most)
    while (bins := _longest_first(ordered, per_process * num_processes, max_tokens)) is None:
        # One by one, an evaluation of 40,000 padded pairs would be dealt out a thousand times, for two minutes.
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
        row_length = bins[number][0].row_length if bins[number] else 0
        load_after = load + chunk.tokens_beside(row_length)
        if load and load_after > max_tokens:
            return None
        bins[number].append(chunk)
        heapq.heappush(loads, (load_after, number))
    return bins


def heaviest_micro_batch(plan: EpochPlan, num_processes: int) -> tuple[MicroBatch, int]:
    """The micro-batch with the most tokens among all steps and processes, and how many a process has at most in a step.

    Of several that are equal the first.
    """
    heaviest, most_tokens, most_in_a_step = None, -1, 0
    for step in range(len(plan)):
        processes = plan.micro_batches(step, num_processes)
        most_in_a_step = max(most_in_a_step, len(processes[0]))
        for micro_batch in itertools.chain.from_iterable(processes):
            row_length = max(chunk.row_length for chunk in micro_batch)
            tokens = sum(chunk.tokens_beside(row_length) for chunk in micro_batch)
            if tokens > most_tokens:
                heaviest, most_tokens = micro_batch, tokens
    return heaviest, most_in_a_step
