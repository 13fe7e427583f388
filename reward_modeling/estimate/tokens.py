"""What an epoch computes, counted on its plan: exactly the tokens of the micro-batches that the run will make."""

import itertools
from dataclasses import dataclass

import numpy as np

from reward_modeling.data.planning import PACKED, PADDED, Chunk, EpochPlan, GroupSizes

UNITS_PADDED = 8  # in a padded batch, for comparison


@dataclass(frozen=True)
class EpochTokens:
    """Counts of one epoch, over all GPUs."""

    units: int
    prompts: int
    computed: int
    as_rows: int  # every unit as rows of its own without padding, also where units share an answer
    padded: int  # the same, padded in batches of UNITS_PADDED units
    attended: int  # combinations of a query and a key that it sees, in one layer
    steps: int
    passes: int  # forward passes of one GPU
    heaviest: int  # tokens of the heaviest of them


def count_epoch(plan: EpochPlan, gpus: int) -> EpochTokens:
    """Every micro-batch of the epoch, as the data loaders of so many GPUs make it."""
    sizes = plan.sizes
    computed = attended = passes = heaviest = 0
    for step in range(len(plan)):
        processes = plan.micro_batches(step, gpus)
        passes += len(processes[0])
        for micro_batch in itertools.chain.from_iterable(processes):
            row_length = max(chunk.row_length for chunk in micro_batch)
            tokens = sum(chunk.tokens_beside(row_length) for chunk in micro_batch)
            computed, heaviest = computed + tokens, max(heaviest, tokens)
            attended += sum(_attended(sizes, plan.batching, chunk, row_length) for chunk in micro_batch)
    rows, longest, members = _unit_rows(plan)
    batches = range(0, len(rows), UNITS_PADDED)
    return EpochTokens(
        units=sizes.num_units,
        prompts=int((sizes.units_per_group > 0).sum()),
        computed=computed,
        as_rows=int(rows.sum()),
        padded=int((np.maximum.reduceat(longest, batches) * np.add.reduceat(members, batches)).sum()),
        attended=attended,
        steps=len(plan),
        passes=passes,
        heaviest=heaviest,
    )


def _unit_rows(plan: EpochPlan) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(units,)` each, in the order of training: tokens of a unit's rows, tokens of the longest one, number of rows."""
    sizes, starts = plan.sizes, plan.sizes.member_offsets[:-1]
    members = np.diff(sizes.member_offsets)
    rows = np.repeat(sizes.prefix_lengths[sizes.group_of_unit], members) + sizes.completion_tokens.astype(np.int64)
    order = np.concatenate([sizes.unit_offsets[group] + np.arange(first, end) for group, first, end in plan.pieces])
    return np.add.reduceat(rows, starts)[order], np.maximum.reduceat(rows, starts)[order], members[order]


def _attended(sizes: GroupSizes, batching: str, chunk: Chunk, row_length: int) -> int:
    """Half of queries x keys, which causality leaves; padded rows are computed in full. Windows are not looked at."""
    if batching == PADDED:
        return chunk.tokens_beside(row_length) * row_length
    used = np.unique(sizes.group_members(chunk.group, chunk.unit_start, chunk.unit_end))
    prefix = int(sizes.prefix_lengths[chunk.group])
    completions = sizes.completion_lengths[sizes.completion_offsets[chunk.group] + used].astype(np.int64)
    prefixes = len(completions) if batching == PACKED else 1
    return prefixes * prefix * prefix // 2 + int((completions * (prefix + completions // 2)).sum())
