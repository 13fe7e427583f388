"""Read benchmarks, from the Hub or from local files, into rows to be scored; nothing is left out without a word.

    read = read_benchmark("rewardbench", None)                       # the published one
    read = read_benchmark("preference_test_sets", "shp=shp.jsonl")   # one of the sets, from a file
    for row in read.rows.select(reading_order(read.rows)):
        chosen, rejected = conversations(row)

What the rows of each benchmark look like stands in `benchmark_rows`. They are cached on disk (see `loading`) and
memory-mapped: a benchmark of any size takes little memory.
"""

import json
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b

import datasets
import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from datasets.fingerprint import Hasher

from reward_modeling.benchmark_files import test_set_sources
from reward_modeling.benchmark_rows import (
    CACHE_VERSION,
    EVALUATION_FEATURES,
    MISSING_COLUMN,
    ROW_FORMATS,
    answer_length,
    conversations,
    evaluation_row,
    filled_row,
)
from reward_modeling.benchmarks import PREFERENCE_TEST_SETS, REWARDBENCH, TEST_SET_ROWS
from reward_modeling.data import load_preference_dataset, read_column
from reward_modeling.data_report import DataReport, report_rows
from reward_modeling.errors import UserError
from reward_modeling.loading import cache_root, load_rows
from reward_modeling.ranking_benchmarks import REWARDBENCH2

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

PAIRS = "pairs"
TEST_SETS = "preference_test_sets"
LARGEST_SHARE_UNREADABLE = 0.01
SHOWN_ROWS = 3  # unreadable rows that a message shows
FINGERPRINT_COLUMNS = ["id", "subset", "prompt", "chosen", "rejected"]


@dataclass(frozen=True)
class _Published:
    """What a benchmark is called, and where the Hub has it (`split` is also the one taken of a local folder)."""

    name: str
    hub_id: str
    split: str
    in_default: bool = False  # whether it is scored unless `--benchmarks` says otherwise


_PUBLISHED = {
    "rewardbench": _Published(REWARDBENCH.name, "allenai/reward-bench", "filtered", in_default=True),
    TEST_SETS: _Published(PREFERENCE_TEST_SETS.name, "allenai/preference-test-sets", "", in_default=True),
    "rewardbench2": _Published(REWARDBENCH2.name, "allenai/reward-bench-2", "test"),
    "rm_bench": _Published("RM-Bench", "THU-KEG/RM-Bench", "train"),
}
BENCHMARKS = (*_PUBLISHED, PAIRS)


@dataclass(frozen=True)
class BenchmarkRows:
    """A benchmark as it was read."""

    benchmark: str
    """One of `BENCHMARKS`."""
    sources: tuple[str, ...]
    """What was read, as the user or the Hub names it."""
    rows: Dataset
    """`EVALUATION_FEATURES`, memory-mapped, in the order of the input; test sets in the order of `TEST_SET_ROWS`, then
    those of other names."""
    report: DataReport | None = None
    """Pairs alone: what was read and what was dropped."""


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


def _flag(benchmark: str) -> str:
    return f"--{benchmark}_path"


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


def _check_ties_ids(rows: Dataset) -> None:
    """
    Raises:
        UserError: two rows of Ties have one id, so that which belong together cannot be told.
    """
    seen: dict[str, str] = {}
    for row in rows.select_columns(["where", "id", "subset"]):
        if row["subset"] == "Ties" and (first := seen.setdefault(row["id"], row["where"])) != row["where"]:
            raise UserError(
                f"{REWARDBENCH2.name} ({_flag('rewardbench2')}): expected every id of Ties once, found {row['id']} at "
                f"{first} and at {row['where']}. Remove one of them."
            )


# --- pairs --------------------------------------------------------------------------------------------------


def _read_pairs(path: str | None, num_proc: int | None) -> BenchmarkRows:
    if path is None:
        raise UserError(
            f"{_flag(PAIRS)}: expected a path or a Hub id, because pairs are rows of your own, found none. "
            f"Pass it, or leave pairs out of --benchmarks."
        )
    try:
        standard = load_preference_dataset(path, num_proc=num_proc)
    except UserError as error:
        raise UserError(f"{_flag(PAIRS)}: {error}") from error
    report = report_rows(PAIRS, standard)
    if not report.kept:
        raise UserError(f"{_flag(PAIRS)}: expected pairs in {path}, found none that can be used.\n{report.table()}")
    rows_fingerprint = Hasher.hash([CACHE_VERSION, standard._fingerprint])
    rows = standard.map(
        _pair_rows,
        with_indices=True,
        batched=True,
        remove_columns=standard.column_names,
        features=EVALUATION_FEATURES,
        cache_file_name=str(cache_root() / f"pairs-{rows_fingerprint}.arrow"),
        new_fingerprint=rows_fingerprint,
        desc="reading pairs",
    )
    return BenchmarkRows(PAIRS, (path,), rows, report)


def _pair_rows(batch: dict[str, list], indices: list[int]) -> dict[str, list]:
    """The kept rows of a batch; the id is the number of the row in the file."""
    rows = []
    for index, values in zip(indices, zip(*batch.values(), strict=True), strict=True):
        row = dict(zip(batch, values, strict=True))
        if not row["reason"]:
            prompt = None if row["is_text"] else json.loads(row["prompt"])
            chosen, rejected = (
                [text if prompt is None else json.loads(text)] for text in (row["chosen"], row["rejected"])
            )
            fields = {"subset": row["source"] or PAIRS, "prompt": prompt, "chosen": chosen, "rejected": rejected}
            rows.append(filled_row(row["where"], index, **fields))
    return {name: [row[name] for row in rows] for name in EVALUATION_FEATURES}


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
