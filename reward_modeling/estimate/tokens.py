"""What an epoch computes, counted on its plan: exactly the tokens of the micro-batches that the run will make."""

import itertools
from dataclasses import dataclass

import numpy as np

from reward_modeling.data.planning import PACKED, PADDED, Chunk, EpochPlan, GroupSizes

PAIRS_PADDED = 8  # in a padded batch, for comparison


@dataclass(frozen=True)
class EpochTokens:
    """Counts of one epoch, over all GPUs. `attended` are pairs of a query and a key that it sees, in one layer."""

    pairs: int
    prompts: int
    computed: int
    as_rows: int  # two rows without padding per pair, also where pairs share an answer
    padded: int  # the same, padded in batches of PAIRS_PADDED pairs
    attended: int
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
    rows = _row_lengths(sizes, plan.pieces)
    batches = np.split(rows, range(2 * PAIRS_PADDED, len(rows), 2 * PAIRS_PADDED))
    return EpochTokens(
        pairs=sizes.num_units,
        prompts=int((sizes.units_per_group > 0).sum()),
        computed=computed,
        as_rows=int(rows.sum()),
        padded=int(sum(batch.max() * batch.size for batch in batches)),
        attended=attended,
        steps=len(plan),
        passes=passes,
        heaviest=heaviest,
    )


def _attended(sizes: GroupSizes, batching: str, chunk: Chunk, row_length: int) -> int:
    """Half of queries x keys, which causality leaves; padded rows are computed in full. Windows are not looked at."""
    if batching == PADDED:
        return chunk.tokens_beside(row_length) * row_length
    used = np.unique(sizes.group_members(chunk.group, chunk.unit_start, chunk.unit_end))
    prefix = int(sizes.prefix_lengths[chunk.group])
    completions = sizes.completion_lengths[sizes.completion_offsets[chunk.group] + used].astype(np.int64)
    prefixes = len(completions) if batching == PACKED else 1
    return prefixes * prefix * prefix // 2 + int((completions * (prefix + completions // 2)).sum())


def _row_lengths(sizes: GroupSizes, pieces: np.ndarray) -> np.ndarray:
    """`(members,)`: tokens of the whole rows of all units, in the order of training."""
    starts, ends = (sizes.member_offsets[sizes.unit_offsets[pieces[:, 0]] + pieces[:, end]] for end in (1, 2))
    numbers = np.concatenate([np.arange(start, end) for start, end in zip(starts, ends, strict=True)])
    groups = np.repeat(pieces[:, 0], ends - starts)
    completions = sizes.completion_offsets[groups] + sizes.members[numbers]
    return sizes.prefix_lengths[groups].astype(np.int64) + sizes.completion_lengths[completions]
