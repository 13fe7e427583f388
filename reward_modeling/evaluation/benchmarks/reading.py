"""Read benchmarks, from the Hub or from local files, into rows to be scored; nothing is left out without a word.

    read = read_benchmark("rewardbench", None)                       # the published one
    read = read_benchmark("preference_test_sets", "shp=shp.jsonl")   # one of the sets, from a file
    for row in read.rows.select(reading_order(read.rows)):
        chosen, rejected = conversations(row)

They are cached on disk and memory-mapped: a benchmark of any size takes little memory.
"""

import json
from collections import Counter
from collections.abc import Iterable
from functools import partial
from hashlib import blake2b

import datasets
import numpy as np
import pyarrow.compute as pc
from datasets import Dataset

from reward_modeling.common.errors import UserError
from reward_modeling.data.cached_rows import load_rows
from reward_modeling.data.preferences import NO_OPTIONS, read_column
from reward_modeling.data.read_options import ReadOptions
from reward_modeling.evaluation.benchmarks.base import LARGEST_SHARE_UNREADABLE, Benchmark, BenchmarkRows
from reward_modeling.evaluation.benchmarks.catalog import BENCHMARKS
from reward_modeling.evaluation.benchmarks.rows import (
    CACHE_VERSION,
    EVALUATION_FEATURES,
    MISSING_COLUMN,
    evaluation_row,
)
from reward_modeling.evaluation.benchmarks.scored_rows import Rows

SHOWN_ROWS = 3  # unreadable rows that a message shows
FINGERPRINT_COLUMNS = ["id", "subset", "prompt", "chosen", "rejected"]
LABEL_COLUMNS = ["ranks", "chosen_probability", "weight"]
STEP_COLUMNS = ["steps", "step_labels"]


def read_benchmark(
    name: str, path: str | None, *, num_proc: int | None = None, options: ReadOptions = NO_OPTIONS
) -> BenchmarkRows:
    """Return the rows of a benchmark, every one of them; of pairs, those that training would keep.

    Args:
        path: None takes the published rows from the Hub (pairs: there are none). Else what
            `data.preferences.load_preference_dataset` takes; for the preference test sets a folder with a file or
            folder for each set, a DatasetDict folder of `save_to_disk` with a split for each set, or
            "name=path,name=path".
        options: of pairs, which of their columns to read as what.

    Raises:
        UserError: nothing there, a broken file, other columns, or more than `LARGEST_SHARE_UNREADABLE` of a subset's
            rows cannot be read (fewer are kept, with a `reason`).
    """
    benchmark = BENCHMARKS[name]
    if benchmark.read is not None:
        return benchmark.read(path, num_proc, options)
    if path is None:
        parts = [(split, f"{benchmark.hub_id}:{split}") for split in benchmark.splits]
    elif benchmark.local_sources is not None:
        parts = benchmark.local_sources(path, benchmark.path_flag)
    else:
        parts = [(benchmark.splits[0], path)]
    loaded = [_load(benchmark, source, split, path is None, num_proc) for split, source in parts]
    rows = datasets.concatenate_datasets(loaded) if len(loaded) > 1 else loaded[0]
    _check_rows(rows, benchmark)
    return BenchmarkRows(name, tuple(source for _, source in parts), benchmark.finish(rows))


def _load(benchmark: Benchmark, source: str, split: str, from_hub: bool, num_proc: int | None) -> Dataset:
    subset = split if benchmark.local_sources is not None else None  # where the rows do not say it
    try:
        return load_rows(
            source,
            to_row=partial(_to_row, name=benchmark.name, subset=subset),
            features=EVALUATION_FEATURES,
            version=f"{benchmark.name} {CACHE_VERSION} {subset or ''}",  # one file may be read as two benchmarks
            missing=MISSING_COLUMN,
            num_proc=num_proc,
            default_split=split,
            columns=benchmark.columns,
        )
    except UserError as error:
        flag, hint = benchmark.path_flag, ""
        if from_hub:
            hint = f" The flag for the path is {flag}; --benchmarks without {benchmark.name} leaves it out."
        raise UserError(f"{benchmark.title} ({flag}): {error}{hint}") from error


def _to_row(row: object, where: str, *, name: str, subset: str | None) -> dict[str, object]:
    """What worker processes call: a benchmark crosses to them as its name."""
    return evaluation_row(row, where, benchmark=BENCHMARKS[name], subset=subset)


def _check_rows(rows: Dataset, benchmark: Benchmark) -> None:
    """Refuse a benchmark that lacks many rows of a subset: it would be another one.

    A few odd rows must not cost the whole evaluation: they keep their reason, and whoever scores names them.
    """
    unreadable = np.flatnonzero(pc.not_equal(read_column(rows, "reason"), "").to_numpy())
    subsets = read_column(rows, "subset")
    total, bad = Counter(subsets.to_pylist()), Counter(subsets.take(unreadable).to_pylist())
    if all(count <= LARGEST_SHARE_UNREADABLE * total[subset] for subset, count in bad.items()):
        return
    shown = "".join(
        f"\n  {row['where']}: {row['reason']}: {row['excerpt']}" for row in rows.select(unreadable[:SHOWN_ROWS])
    )
    more = f"\n  and {len(unreadable) - SHOWN_ROWS:,} more" if len(unreadable) > SHOWN_ROWS else ""
    raise UserError(
        f"{benchmark.title} ({benchmark.path_flag}): expected {benchmark.columns.row_formats}; "
        f"found {len(unreadable):,} of {len(rows):,} rows that cannot be read:{shown}{more}\n"
        "No score is given without them: put them right, or delete them if they should not count."
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
    records = rows.select_columns([*FINGERPRINT_COLUMNS, "template_options", *LABEL_COLUMNS, *STEP_COLUMNS])
    # only where there are some: the digests of published rows are in earlier summaries
    return _digest(tuple(record[name] for name in FINGERPRINT_COLUMNS) + _labels(record) for record in records)


def _labels(record: dict) -> tuple:
    """What a row says beside its texts; () where it only says what is preferred."""
    options, labels = record["template_options"], tuple(record[name] for name in LABEL_COLUMNS)
    steps = tuple(record[name] for name in STEP_COLUMNS)
    return ((options,) if options else ()) + (labels if any(labels) else ()) + (steps if any(steps) else ())


def fingerprint_without_texts(rows: Rows) -> str:
    """The same of rows that were scored elsewhere."""
    return _digest((row.id, row.subset, len(row.chosen), len(row.rejected)) for row in rows)


def _digest(rows: Iterable[tuple]) -> str:
    digest = blake2b(digest_size=16)
    for row in rows:
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()
