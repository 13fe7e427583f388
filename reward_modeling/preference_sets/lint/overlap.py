"""Which prompts of a preference set stand in benchmarks, as the linter says it; `decontamination` looks them up."""

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from reward_modeling.preference_sets.decontamination import (
    PromptIndex,
    count_pairs,
    find_overlap,
    overlap_examples,
)
from reward_modeling.preference_sets.source import number_column


def benchmark_overlap(
    rows: Dataset, kept: NDArray[np.int64], index: PromptIndex | None, num_proc: int
) -> list[dict[str, object]]:
    """For each benchmark how many prompts and pairs of the set are in it, exactly or by a run of words.

    Args:
        rows: standard rows; those of the numbers `kept` are looked up.
    """
    if index is None or not len(kept):
        return []
    rows = rows if len(kept) == len(rows) else rows.select(kept)
    keys, overlap = number_column(rows, "prompt_key"), find_overlap(rows, index, num_proc)
    entries = []
    for number, benchmark in enumerate(index.prompts):
        hits = overlap.rows_in(number)
        hit = np.logical_or(*hits.values())
        total = count_pairs(keys, hit)
        entries.append(
            {
                "benchmark": benchmark.name,
                "sources": list(benchmark.sources),
                "prompts": len(benchmark.texts),
                "prompts_found": total["prompts"],
                "pairs": total["pairs"],
                **{kind: count_pairs(keys, mask) for kind, mask in hits.items()},
                "first": rows[int(np.argmax(hit))]["where"] if hit.any() else None,
                "examples": overlap_examples(benchmark, hits, rows, keys),
            }
        )
    return entries
