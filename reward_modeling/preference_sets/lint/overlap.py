"""Which prompts of a preference set stand in benchmarks, as the linter says it; `decontamination` looks them up."""

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from reward_modeling.common.errors import UserError
from reward_modeling.preference_sets.benchmark_prompts import read_named_prompts
from reward_modeling.preference_sets.decontamination import EXACT, RUNS, PromptIndex, find_overlap, index_prompts
from reward_modeling.preference_sets.source import number_column


def read_benchmarks(names: str | None, num_proc: int) -> PromptIndex | None:
    """The prompts that `--benchmarks` names; None where it names none.

    Raises:
        UserError: one of them cannot be read, or has no prompts.
    """
    if not names:
        return None
    try:
        return index_prompts(read_named_prompts(names, num_proc))
    except UserError as error:
        raise UserError(str(error).replace("--decontaminate", "--benchmarks")) from error


def benchmark_overlap(
    rows: Dataset, kept: NDArray[np.int64], index: PromptIndex | None, num_proc: int
) -> list[dict[str, object]]:
    """For each benchmark how many prompts and pairs of the set are in it, exactly or by a run of words.

    Args:
        rows: standard rows; those of the numbers `kept` are looked up.
    """
    if index is None or not len(kept):
        return []
    part = rows if len(kept) == len(rows) else rows.select(kept)
    overlap = find_overlap([part], index, num_proc)
    keys = number_column(part, "prompt_key")
    found = []
    for number, benchmark in enumerate(index.prompts):
        exact = overlap.exact & (1 << number) != 0
        hit = exact | (overlap.runs & (1 << number) != 0)
        found.append(
            {
                "benchmark": benchmark.name,
                "sources": list(benchmark.sources),
                "prompts": len(benchmark.texts),
                "prompts_found": len(np.unique(keys[hit])),
                "pairs": int(hit.sum()),
                EXACT: _counts(keys, exact),
                RUNS: _counts(keys, hit & ~exact),
                "first": part[int(np.argmax(hit))]["where"] if hit.any() else None,
                "examples": overlap.examples[number],
            }
        )
    return found


def _counts(keys: NDArray[np.int64], hit: NDArray[np.bool_]) -> dict[str, int]:
    return {"prompts": len(np.unique(keys[hit])), "pairs": int(hit.sum())}
