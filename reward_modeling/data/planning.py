"""Which units make which optimizer step, and how a step is cut into micro-batches.

A unit is what the loss is a mean over: one to n completions of a prompt, such as the two of a pair. A step is
`units_per_step` units in whole groups; all pairs of a list of answers may count as one there. Which ones depends on the
data, the seed, the epoch and `units_per_step` alone: not on the number of processes, of micro-batches, or on where a
run was resumed. Only then is the step cut into micro-batches: of about `target_tokens` and at most `max_tokens`, the
same number on every process, balanced by tokens.

Everything that is held in memory is a flat numpy array: a million pairs take some tens of megabytes.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reward_modeling.common.words import PACKED as PACKED
from reward_modeling.common.words import PADDED
from reward_modeling.common.words import SHARED_PREFIX as SHARED_PREFIX  # of which others ask here
from reward_modeling.data.micro_batches import Chunk, MicroBatch, activation_size, balance, balance_padded
from reward_modeling.data.shared_beginnings import shared_among

if TYPE_CHECKING:
    from datasets import Dataset  # training and scoring run where it is not installed


SHARE_DIGITS = 6


@dataclass(frozen=True)
class GroupSizes:
    """Lengths in tokens and units of all groups.

    `prefix_lengths` is `(groups,)`; `completion_lengths` is flat, group g owning
    `completion_offsets[g]:completion_offsets[g + 1]`, and units `unit_offsets[g]:unit_offsets[g + 1]`; `members` is
    flat, unit u owning `member_offsets[u]:member_offsets[u + 1]`: numbers of completions within their group.
    `shared_lengths` is flat as `completion_lengths`: tokens that each begins with as the one before it does.
    `unit_weights` and `unit_shares` are `(units,)`: how much each counts in the loss, and how much of a step it fills.
    """

    prefix_lengths: np.ndarray
    completion_lengths: np.ndarray
    shared_lengths: np.ndarray
    completion_offsets: np.ndarray
    members: np.ndarray
    member_offsets: np.ndarray
    unit_offsets: np.ndarray
    unit_weights: np.ndarray
    unit_shares: np.ndarray

    @classmethod
    def from_dataset(cls, groups: "Dataset") -> "GroupSizes":
        """Read from the columns that `prompt_groups.tokenize_and_group` writes."""
        lengths, units = (groups.data.column(name).combine_chunks() for name in ("completion_lengths", "units"))
        members = units.flatten()
        return cls(
            prefix_lengths=groups.data.column("prefix_length").to_numpy(),
            completion_lengths=lengths.flatten().to_numpy(),
            shared_lengths=groups.data.column("shared_lengths").combine_chunks().flatten().to_numpy(),
            completion_offsets=_offsets(lengths.value_lengths()),
            members=members.flatten().to_numpy(),
            member_offsets=_offsets(members.value_lengths()),
            unit_offsets=_offsets(units.value_lengths()),
            unit_weights=groups.data.column("weights").combine_chunks().flatten().to_numpy(),
            unit_shares=groups.data.column("shares").combine_chunks().flatten().to_numpy(),
        )

    @classmethod
    def from_rows(cls, groups: list[dict]) -> "GroupSizes":
        """Of group rows in memory, as `MicroBatchCollator` takes them."""
        units = [unit for group in groups for unit in group["units"]]
        return cls(
            prefix_lengths=np.array([len(group["prefix_ids"]) for group in groups]),
            completion_lengths=np.array([len(ids) for group in groups for ids in group["completion_ids"]]),
            shared_lengths=np.array([each for group in groups for each in shared_lengths(group)]),
            completion_offsets=_offsets([len(group["completion_ids"]) for group in groups]),
            members=np.array([number for unit in units for number in unit], dtype=np.int64),
            member_offsets=_offsets([len(unit) for unit in units]),
            unit_offsets=_offsets([len(group["units"]) for group in groups]),
            unit_weights=np.array([weight for group in groups for weight in unit_weights(group)], dtype=np.float64),
            unit_shares=np.ones(sum(len(group["units"]) for group in groups)),
        )

    def __len__(self) -> int:
        return len(self.prefix_lengths)

    @property
    def units_per_group(self) -> np.ndarray:
        return np.diff(self.unit_offsets)

    def shares_of(self, pieces: np.ndarray) -> np.ndarray:
        """`(pieces,)`: how much of a step each fills; the pairs of a list may be one together.

        Rounded, so that seven sevenths are 1.
        """
        before = np.concatenate([[0.0], np.cumsum(self.unit_shares)])
        first = self.unit_offsets[pieces[:, 0]]
        return np.round(before[first + pieces[:, 2]] - before[first + pieces[:, 1]], SHARE_DIGITS)

    def num_steps(self, units_per_step: int) -> int:
        """Of an epoch, whatever the shuffle. None is empty, also where a unit fills more than a step."""
        shares = round(float(self.unit_shares.sum()), SHARE_DIGITS)
        return min(math.ceil(shares / units_per_step), len(_cut_large_groups(self, units_per_step)))

    @property
    def num_units(self) -> int:
        return int(self.unit_offsets[-1])

    @property
    def group_of_unit(self) -> np.ndarray:
        """`(units,)`: the number of each unit's group."""
        return np.repeat(np.arange(len(self)), self.units_per_group)

    @property
    def completion_tokens(self) -> np.ndarray:
        """`(members,)`: tokens of the completions of all units, without the prefix."""
        group_of_member = np.repeat(self.group_of_unit, np.diff(self.member_offsets))
        return self.completion_lengths[self.members + self.completion_offsets[group_of_member]]

    def chunk(self, batching: str, group: int, first: int, last: int) -> Chunk:
        """The units `first:last` of a group with the completions that they need."""
        prefix = int(self.prefix_lengths[group])
        of_group = slice(*self.completion_offsets[group : group + 2])
        numbers = sorted(set(self.group_members(group, first, last).tolist()))
        lengths = self.completion_lengths[of_group][numbers].tolist()
        if batching == SHARED_PREFIX:
            shared = shared_among(self.shared_lengths[of_group], numbers)
            return Chunk(group, first, last, int(prefix + sum(lengths) - sum(shared)))
        rows = tuple(prefix + length for length in lengths) if batching == PADDED else ()
        return Chunk(group, first, last, prefix * len(lengths) + sum(lengths), rows)

    def group_members(self, group: int, start: int, end: int) -> np.ndarray:
        """Flat: the completions of these units of the group."""
        first = self.unit_offsets[group]
        return self.members[self.member_offsets[first + start] : self.member_offsets[first + end]]


def unit_weights(group: dict) -> Sequence[float]:
    """How much each unit of a group row counts; without weights they count alike."""
    return group.get("weights") or [1.0] * len(group["units"])


def shared_lengths(group: dict) -> Sequence[int]:
    """Of each completion of a group row the tokens that it begins with as the one before it does."""
    return group.get("shared_lengths") or [0] * len(group["completion_ids"])


def _offsets(lengths: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


@dataclass(frozen=True)
class EpochPlan:
    """The steps of one epoch.

    `pieces` is `(pieces, 3)`: group, first unit, end unit, in the order of training. A piece is a whole group, or a
    part of one that has more units than a step.
    """

    sizes: GroupSizes
    batching: str
    max_tokens: int
    target_tokens: int
    pieces: np.ndarray
    step_starts: np.ndarray  # (steps + 1,)

    def __len__(self) -> int:
        return len(self.step_starts) - 1

    def step_units(self, step: int) -> int:
        """Units of this step, over all processes."""
        pieces = self.pieces[self.step_starts[step] : self.step_starts[step + 1]]
        return int((pieces[:, 2] - pieces[:, 1]).sum())

    def step_weight(self, step: int) -> float:
        """What the weighted sum of this step's losses is divided by: the weights of its units, over all processes."""
        pieces = self.pieces[self.step_starts[step] : self.step_starts[step + 1]]
        first = self.sizes.unit_offsets[pieces[:, 0]]
        weights, ends = self.sizes.unit_weights, (first + pieces[:, 1], first + pieces[:, 2])
        return math.fsum(weight for start, end in zip(*ends, strict=True) for weight in weights[start:end].tolist())

    def micro_batches(self, step: int, num_processes: int) -> list[list[MicroBatch]]:
        """`[process][number]`: the same number of micro-batches for every process."""
        pieces = self.pieces[self.step_starts[step] : self.step_starts[step + 1]].tolist()
        chunks = _cut_pieces(pieces, self.sizes, self.batching, self.max_tokens)
        spread = balance_padded if self.batching == PADDED else balance
        return spread(chunks, num_processes, self.max_tokens, self.target_tokens)


def plan_epoch(
    sizes: GroupSizes,
    *,
    units_per_step: int,
    max_tokens: int,
    batching: str,
    seed: int,
    epoch: int,
    target_tokens: int | None = None,
) -> EpochPlan:
    """Shuffle the groups and cut them into steps.

    An epoch has `GroupSizes.num_steps` steps, whatever the shuffle: the Trainer counts those of the first
    epoch, and finds its place by them on a resume. A step ends where the units so far come closest to its share,
    so that steps have the same number of units on average, half a group more or less. A group of more than
    `units_per_step` units is cut into several pieces.
    """
    pieces = _cut_large_groups(sizes, units_per_step)
    pieces = pieces[np.random.default_rng([seed, epoch]).permutation(len(pieces))]
    shares = sizes.shares_of(pieces)
    num_steps = sizes.num_steps(units_per_step)
    numbers = np.arange(num_steps + 1)
    # twice the units before the middle of each piece; step k has the middles from k to k + 1 parts of the epoch
    middles = 2 * np.cumsum(shares) - shares
    step_starts = np.searchsorted(middles * num_steps, 2 * shares.sum() * numbers)
    # no step is empty, not even between two groups as large as a step
    step_starts = np.maximum.accumulate(step_starts - numbers) + numbers
    step_starts = np.minimum(step_starts, len(pieces) - num_steps + numbers)
    return EpochPlan(sizes, batching, max_tokens, target_tokens or max_tokens, pieces, step_starts)


def plan_evaluation(sizes: GroupSizes, *, max_tokens: int, batching: str, num_processes: int) -> list[list[MicroBatch]]:
    """Every unit once; `[process][number]` as for a step."""
    groups = [(group, 0, units) for group, units in enumerate(sizes.units_per_group.tolist()) if units]
    spread = balance_padded if batching == PADDED else balance
    return spread(_cut_pieces(groups, sizes, batching, max_tokens), num_processes, max_tokens)


def _cut_large_groups(sizes: GroupSizes, units_per_step: int) -> np.ndarray:
    """`(pieces, 3)`: group, first unit, end unit; a group that fills more than a step is cut, and no piece is empty."""
    units = sizes.units_per_group
    whole = np.stack([np.arange(len(units)), np.zeros_like(units), units], axis=1)
    pieces = np.minimum(np.ceil(sizes.shares_of(whole) / units_per_step).astype(np.int64), units)
    group = np.repeat(np.arange(len(units)), pieces)
    number = np.arange(len(group)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    size, count = units[group], pieces[group]
    # pieces of one group differ by at most one unit
    return np.stack([group, number * size // count, (number + 1) * size // count], axis=1)


def _cut_pieces(pieces: list[Sequence[int]], sizes: GroupSizes, batching: str, max_tokens: int) -> list[Chunk]:
    """Each piece as one chunk, or cut where it is too large for a micro-batch: its prompt is repeated, no unit is torn.

    A single unit always goes through: rm.py checks that `max_tokens` holds two rows of `max_length`.
    """
    chunks = []
    for group, first, last in pieces:
        chunk = sizes.chunk(batching, group, first, last)
        if chunk.tokens > max_tokens:
            chunk = sizes.chunk(batching, group, first, first + 1)
            for end in range(first + 2, last + 1):
                grown = sizes.chunk(batching, group, chunk.unit_start, end)
                if grown.tokens > max_tokens:
                    chunks.append(chunk)
                    grown = sizes.chunk(batching, group, end - 1, end)
                chunk = grown
        chunks.append(chunk)
    return chunks


def heaviest_micro_batch(plan: EpochPlan, num_processes: int) -> tuple[MicroBatch, int]:
    """The first micro-batch that takes the most memory of all, and how many a process has at most in a step."""
    heaviest, most, most_in_a_step = None, -1.0, 0
    for step in range(len(plan)):
        processes = plan.micro_batches(step, num_processes)
        most_in_a_step = max(most_in_a_step, len(processes[0]))
        for micro_batch in itertools.chain.from_iterable(processes):
            if (memory := activation_size(micro_batch)) > most:
                heaviest, most = micro_batch, memory
    return heaviest, most_in_a_step
