"""--subsets: some of the subsets of benchmarks alone."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from reward_modeling.common.errors import UserError, did_you_mean
from reward_modeling.data.preferences import read_column
from reward_modeling.evaluation.benchmarks.base import BenchmarkRows

logger = logging.getLogger("eval_bench_mark")

MOST_NAMED = 40  # subsets in a message


def keep_subsets(data: Sequence[BenchmarkRows], subsets: Sequence[str]) -> list[BenchmarkRows]:
    """The benchmarks that have some of the subsets, with their rows alone.

    Raises:
        UserError: a name that no benchmark has.
    """
    names = {benchmark.benchmark: read_column(benchmark.rows, "subset").to_pylist() for benchmark in data}
    known = list(dict.fromkeys(name for of in names.values() for name in of))
    if unknown := [name for name in subsets if name not in known]:
        shown = "".join(f"\n  {name!r}{did_you_mean(name, known)}" for name in unknown)
        raise UserError(
            f"--subsets: expected subsets of {', '.join(names)} ({', '.join(known[:MOST_NAMED])}"
            f"{', ...' if len(known) > MOST_NAMED else ''}), found:{shown}"
        )
    kept = []
    for benchmark in data:
        rows = np.flatnonzero(np.isin(names[benchmark.benchmark], subsets))
        if len(rows):
            only = tuple(name for name in subsets if name in names[benchmark.benchmark])
            kept.append(replace(benchmark, rows=benchmark.rows.select(rows), only=only))
        else:
            logger.warning("Left out is %s, which has none of the subsets.", benchmark.benchmark)
    return kept
