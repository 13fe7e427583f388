"""Read benchmarks, from the Hub or from local files, into rows to be scored; nothing is left out without a word.

    read = read_benchmark("rewardbench", None)                       # the published one
    read = read_benchmark("preference_test_sets", "shp=shp.jsonl")   # one of the sets, from a file
    for row in read.rows.select(reading_order(read.rows)):
        chosen, rejected = conversations(row)

What the rows of each benchmark look like stands in `benchmark_rows`. They are cached on disk (see `loading`) and
memory-mapped: a benchmark of any size takes little memory.
"""

import json
from functools import partial
from hashlib import blake2b

import datasets
import numpy as np
import pyarrow.compute as pc
from datasets import Dataset

from reward_modeling.common.errors import UserError
from reward_modeling.data.cached_rows import load_rows
from reward_modeling.data.preferences import read_column
from reward_modeling.evaluation.benchmarks.base import (
    CACHE_VERSION,
    EVALUATION_FEATURES,
    LARGEST_SHARE_UNREADABLE,
    MISSING_COLUMN,
    PAIRS,
    TEST_SETS,
    BenchmarkRows,
    _flag,
    answer_length,
    conversations,
)
from reward_modeling.evaluation.benchmarks.catalog import _PUBLISHED, BENCHMARKS, ROW_FORMATS, evaluation_row
from reward_modeling.evaluation.benchmarks.own_pairs import _read_pairs
from reward_modeling.evaluation.benchmarks.preference_test_sets import (
    TEST_SET_ROWS,
    test_set_sources,
)
from reward_modeling.evaluation.benchmarks.rewardbench2 import _check_ties_ids

__all__ = [
    "BENCHMARKS",
    "EVALUATION_FEATURES",
    "BenchmarkRows",
    "answer_length",
    "conversations",
    "fingerprint",
    "read_benchmark",
    "reading_order",
]
SHOWN_ROWS = 3  # unreadable rows that a message shows
FINGERPRINT_COLUMNS = ["id", "subset", "prompt", "chosen", "rejected"]


def read_benchmark(benchmark: str, path: str | None, *, num_proc: int | None = None) -> BenchmarkRows:
    """Return the rows of a benchmark, every one of them; of pairs, those that training would keep.

    Args:
        benchmark: one of `BENCHMARKS`.
        path: None takes the published rows from the Hub (pairs: there are none). Else what
            `data.load_preference_dataset` takes; for the preference test sets a folder with a file or folder for each
            set, a DatasetDict folder of `save_to_disk` with a split for each set, or "name=path,name=path".

    Raises:
        UserError: nothing there, a broken file, other columns, or more than `LARGEST_SHARE_UNREADABLE` of a subset's
            rows cannot be read (fewer are kept, with a `reason`).
    """
    if benchmark == PAIRS:
        return _read_pairs(path, num_proc)
    if benchmark not in _PUBLISHED:
        raise UserError(f"expected a benchmark out of {', '.join(BENCHMARKS)}, found {benchmark!r}. Name one of them.")
    published = _PUBLISHED[benchmark]
    if benchmark != TEST_SETS:
        parts = [(None, f"{published.hub_id}:{published.split}" if path is None else path)]
    elif path is None:
        parts = [(name, f"{published.hub_id}:{name}") for name in TEST_SET_ROWS]
    else:
        parts = test_set_sources(path, _flag(TEST_SETS))
    loaded = [_load(benchmark, source, subset, path is None, num_proc) for subset, source in parts]
    rows = datasets.concatenate_datasets(loaded) if len(loaded) > 1 else loaded[0]
    _check_rows(rows, benchmark)
    if benchmark == "rewardbench2":
        _check_ties_ids(rows)
    return BenchmarkRows(benchmark, tuple(source for _, source in parts), rows)


def _load(benchmark: str, source: str, subset: str | None, from_hub: bool, num_proc: int | None) -> Dataset:
    published = _PUBLISHED[benchmark]
    try:
        return load_rows(
            source,
            to_row=partial(evaluation_row, benchmark=benchmark, subset=subset),
            features=EVALUATION_FEATURES,
            version=f"{benchmark} {CACHE_VERSION} {subset or ''}",  # one file may be read as two benchmarks
            missing=MISSING_COLUMN,
            num_proc=num_proc,
            default_split=subset or published.split,
            columns=ROW_FORMATS[benchmark].columns,
        )
    except UserError as error:
        cure = ""
        if from_hub:
            leave_out = f"; --benchmarks without {benchmark} leaves it out" if published.in_default else ""
            cure = f" The flag for the path is {_flag(benchmark)}{leave_out}."
        raise UserError(f"{published.name} ({_flag(benchmark)}): {error}{cure}") from error


def _check_rows(rows: Dataset, benchmark: str) -> None:
    """
    A few odd rows of a large set must not cost the whole evaluation: they keep their reason, and whoever scores
    names them.

    Raises:
        UserError: more rows of a subset cannot be read; a benchmark without them would be another one.
    """
    unreadable = np.flatnonzero(pc.not_equal(read_column(rows, "reason"), "").to_numpy())
    if not len(unreadable):
        return
    subsets = read_column(rows, "subset")
    total = {one["values"]: one["counts"] for one in pc.value_counts(subsets).to_pylist()}
    bad = {one["values"]: one["counts"] for one in pc.value_counts(subsets.take(unreadable)).to_pylist()}
    if all(count <= LARGEST_SHARE_UNREADABLE * total[subset] for subset, count in bad.items()):
        return
    shown = [
        f"{row['where']}: {row['reason']}: {row['excerpt']}"
        for row in (rows[int(index)] for index in unreadable[:SHOWN_ROWS])
    ]
    more = f"\n  and {len(unreadable) - SHOWN_ROWS:,} more" if len(unreadable) > SHOWN_ROWS else ""
    raise UserError(
        f"{_PUBLISHED[benchmark].name} ({_flag(benchmark)}): expected {ROW_FORMATS[benchmark].columns.row_formats}; "
        f"found {len(unreadable):,} of {len(rows):,} rows that cannot be read:\n  "
        + "\n  ".join(shown)
        + f"{more}\nNo score is given without them: put them right, or delete them if they should not count."
    )


# --- rows as a whole ----------------------------------------------------------------------------------------


def reading_order(rows: Dataset) -> np.ndarray:
    """The row numbers with equal prompts side by side, prompts as they first appear, `(rows,)`.

    Whoever scores window by window then finds the answers of a prompt in one window, and computes the prompt once.
    """
    keys = read_column(rows, "prompt_key").to_numpy()
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return np.argsort(first[inverse], kind="stable")


def fingerprint(rows: Dataset) -> str:
    """32 hex digits of what is scored, in its order: equal for equal rows, wherever they were read from."""
    digest = blake2b(digest_size=16)
    for batch in rows.select_columns(FINGERPRINT_COLUMNS).iter(batch_size=1000):
        for values in zip(*(batch[name] for name in FINGERPRINT_COLUMNS), strict=True):
            digest.update(json.dumps(values).encode() + b"\n")
    return digest.hexdigest()
