"""Rows of files, folders, saved data sets and the Hub, made into rows of one form in a cache on disk.

Every source row goes through a function `to_row(row, where)`; its results are written once, as Arrow, under
`datasets.config.HF_DATASETS_CACHE / "reward_modeling"` (never beside the user's data, which may be read-only)
and memory-mapped from there. The folder's name holds path, size and time of what was read: a changed file is
read again. JSON goes through `json.loads` line by line, so that one row of other types than the rest costs
that row and not the file; in parallel by byte ranges, which a first scan cuts at newlines and numbers.
"""

import glob
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby, islice
from pathlib import Path

import datasets
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, Features
from pyarrow.dataset import ParquetFragmentScanOptions

from reward_modeling.common.errors import UserError, did_you_mean, one_line
from reward_modeling.data.column_types import type_error
from reward_modeling.data.json_lines import FILE_ERRORS, ToRow, block_rows, broken_file, json_blocks, parsed_lines
from reward_modeling.data.sources import (
    KEY_LENGTH,
    LINE_SUFFIXES,
    PREFERENCE_COLUMNS,
    Columns,
    HubOptions,
    Source,
    empty_source,
    find_source,
)
from reward_modeling.data.table_values import deep_columns, without_decoding, without_null_keys
from reward_modeling.data.text_tables import TEXT_TABLE_SUFFIXES

ROWS_PER_BATCH = 1000


def load_rows(
    path: str,
    *,
    to_row: ToRow,
    features: Features,
    version: int | str,
    missing: str,
    num_proc: int | None = None,
    default_split: str = "train",
    columns: Columns = PREFERENCE_COLUMNS,
    hub: HubOptions | None = None,
    finish: Callable[[Dataset, Path], Dataset | None] = lambda rows, folder: None,
) -> Dataset:
    """Return `to_row(row, where)` of every row of `path`, from the cache when it was read before.

    `version` is part of the cache's key: another one for every other `to_row`. `missing` is the reason that rows
    without a required column get; where all have it, the file is taken to have other columns. `finish` sees all rows,
    and a folder for what it writes; what it returns takes their place.

    Raises:
        UserError: see `preferences.load_preference_dataset`.
    """
    source = find_source(path, default_split, num_proc, hub)
    root = cache_root()
    cached = root / source.key(version)
    if not cached.is_dir():
        # Written aside and renamed when complete: an interrupted run leaves nothing that looks finished.
        scratch = Path(tempfile.mkdtemp(prefix="tmp-", dir=root))
        try:
            rows = scratch / "rows"
            rows.mkdir()
            options = {"fn_kwargs": {"to_row": to_row, "names": list(features)}, "features": features}
            parts = _parts(source, scratch, columns)
            found = _write_rows(parts, rows, cached.name[-KEY_LENGTH:], num_proc, **options)
            written = _open_rows(rows)
            if not len(written):
                raise empty_source(source.label)
            if pc.all(pc.equal(written.with_format("arrow")["reason"][:], missing)).as_py():
                raise _columns_error(source.label, found, columns)
            _finished(rows, finish).rename(cached)
        except OSError as error:
            if not cached.is_dir():  # else another process was faster, with the same rows
                raise cache_error(error) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return _open_rows(cached)


def _finished(rows: Path, finish: Callable[[Dataset, Path], Dataset | None]) -> Path:
    """The folder of the finished rows."""
    folder = rows.with_name("finished")
    folder.mkdir()
    return rows if finish(_open_rows(rows), folder) is None else folder


def cache_root() -> Path:
    """The folder that rows are cached in, which is made where it is not there."""
    root = Path(datasets.config.HF_DATASETS_CACHE) / "reward_modeling"
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cache_error(error) from error
    return root


def cache_error(error: OSError) -> UserError:
    """Rows that were read or made cannot be kept."""
    return UserError(
        f"cannot write the cache folder {datasets.config.HF_DATASETS_CACHE}/reward_modeling ({one_line(error)}). Make "
        "room, or set HF_DATASETS_CACHE to a folder that can be written, with room for a copy of the data."
    )


def map_processes(num_proc: int | None, rows: int, rows_each: int = 1) -> int | None:
    """What `Dataset.map` takes for at most so many processes with at least `rows_each` rows; None: this process."""
    processes = min(num_proc or 1, rows // rows_each)
    return processes if processes > 1 else None


def _open_rows(folder: Path) -> Dataset:
    parts = [Dataset.from_file(str(file)) for file in sorted(folder.glob("*.arrow"))]
    parts = [part for part in parts if len(part)] or parts[:1]
    return datasets.concatenate_datasets(parts) if parts else Dataset.from_dict({})


def _columns_error(label: str, found: list[str], columns: Columns) -> UserError:
    *first, last = columns.required
    every = "both" if len(first) == 1 else "all of them"
    lacking = f"a value in {every}" if set(columns.required) <= set(found) else every
    header = " (its first line)" if label.endswith(TEXT_TABLE_SUFFIXES) else ""
    return UserError(
        f"expected columns {', '.join(first)} and {last} in {label}, found no row that has {lacking}; columns found"
        f"{header}: {', '.join(found) or 'none'}. "
        f"{_closest(found, columns, label)}{_hint(found, columns)}Rename or convert them; accepted rows: "
        f"{columns.row_formats}."
    )


def _hint(found: list[str], columns: Columns) -> str:
    """What to do with rows of another kind; "" where they are of none that is known."""
    return next((words for names, words in columns.hints if set(names) <= set(found)), "")


def _closest(found: list[str], columns: Columns, label: str) -> str:
    """A first guess: names that differ in capitals alone, or a file that is one object around its rows."""
    wanted = {name.lower(): name for name in (*columns.required, *(columns.read or ("prompt",)))}
    if alike := [f"{wanted[name.lower()]} as {name}" for name in found if name != wanted.get(name.lower(), name)]:
        return f"Capitals count: found {', '.join(alike)}. "
    if len(found) == 1 and label.endswith((".json", ".json.gz")):
        return f"If the rows stand in a list {found[0]}, save that list alone. "
    return ""


# --- reading --------------------------------------------------------------------------------------------------


# What to map, and the function that makes rows of a batch of it.
Part = tuple[Dataset, Callable[..., dict[str, list]]]


def _write_rows(
    parts: Iterator[Part], folder: Path, fingerprint: str, num_proc: int | None, **options: object
) -> list[str]:
    """Write the rows of each part to a file in `folder`; returns the columns of the first part."""
    found: list[str] = []
    for number, (inputs, function) in enumerate(parts):
        if len(inputs):
            inputs.map(
                function,
                with_indices=True,
                batched=True,
                batch_size=1 if function is block_rows else ROWS_PER_BATCH,
                remove_columns=inputs.column_names,
                cache_file_name=str(folder / f"{number:05d}.arrow"),
                # datasets takes rows of one fingerprint for the same rows: each part gets its own.
                new_fingerprint=f"{fingerprint}-{number}",
                num_proc=map_processes(num_proc, len(inputs)),
                desc="reading rows",
                **options,
            )
        found = found or _column_names(inputs, function)
    return found


def _parts(source: Source, scratch: Path, columns: Columns) -> Iterator[Part]:
    """The parts of a source, in its order."""
    if source.table is not None:
        yield _table_part(source.table, source.label, columns)
        return
    # Neighbouring files of lines are one part: their blocks keep all processes busy, packed or not.
    for is_lines, files in groupby(source.files, lambda file: file.name.endswith(LINE_SUFFIXES)):
        if is_lines:
            lines = Dataset.from_list([block for file in files for block in json_blocks(file, scratch)])
            _check_named(lines, block_rows, source.label, columns)
            yield lines, block_rows
        else:
            yield from (_table_part(_open_table(file, scratch), str(file), columns) for file in files)


def _table_part(table: Dataset, label: str, columns: Columns) -> Part:
    _check_named(table, _table_rows, label, columns)
    if not columns.are_in(table.column_names):
        raise _columns_error(label, table.column_names, columns)
    if columns.read is not None:
        table = table.select_columns([name for name in columns.read if name in table.column_names])
        return table, partial(_table_rows, label=label)
    table = without_decoding(table)
    return table, partial(_table_rows, label=label, deep=deep_columns(table))


def _column_names(inputs: Dataset, function: Callable) -> list[str]:
    """The columns of a table; of JSON lines the keys of the first hundred rows."""
    return list(dict.fromkeys(_keys(inputs, 100))) if function is block_rows else inputs.column_names


def _keys(lines: Dataset, most: int | None = None) -> Iterator[str]:
    """The keys of JSON lines, row by row."""
    rows = (row for block in lines for row, _ in parsed_lines(block))
    return (key for row in islice(rows, most) if isinstance(row, dict) for key in row)


def _check_named(inputs: Dataset, function: Callable, label: str, columns: Columns) -> None:
    """
    Raises:
        UserError: a column that a flag names is in no row.
    """
    named = {name for _, names in columns.named for name in names}
    found = _column_names(inputs, function) if named else []
    if named - set(found) and function is block_rows:  # rare: a column may begin further down
        found = list(dict.fromkeys(_keys(inputs)))
    if missing := sorted(named - set(found)):
        close = did_you_mean(missing[0], found)
        raise UserError(
            f"--columns: expected a column {missing[0]} in {label}, found none{close}; columns found: "
            f"{', '.join(found) or 'none'}."
        )


def _open_table(file: Path, scratch: Path) -> Dataset:
    options = {"data_files": [glob.escape(str(file))], "cache_dir": str(scratch / "tables")}
    try:
        if file.name.endswith(".parquet"):
            if not pq.read_metadata(file).num_rows:  # the builder fails on it
                return Dataset.from_dict({name: [] for name in pq.read_schema(file).names})
            # Row group by row group: read ahead, a file of 650 MiB took twice the memory.
            options["fragment_scan_options"] = ParquetFragmentScanOptions(pre_buffer=False)
        builder = datasets.load_dataset_builder(file.suffix.removeprefix("."), **options)
        builder.download_and_prepare()
    except FILE_ERRORS as error:
        raise broken_file(str(file), error) from error
    except ValueError as error:
        raise type_error(file, error) from error
    if not builder.info.splits["train"].num_examples:  # as_dataset refuses a file without rows
        return Dataset.from_dict({name: [] for name in builder.info.features})
    return builder.as_dataset(split="train")


def _table_rows(
    batch: dict[str, list],
    indices: list[int],
    *,
    label: str,
    to_row: ToRow,
    names: list[str],
    deep: frozenset[str] = frozenset(),
) -> dict[str, list]:
    batch = {name: without_null_keys(values) if name in deep else values for name, values in batch.items()}
    values = zip(*batch.values(), strict=True)
    rows = [
        to_row(dict(zip(batch, value, strict=True)), f"{label} row {index}")
        for index, value in zip(indices, values, strict=True)
    ]
    return {name: [row[name] for row in rows] for name in names}
