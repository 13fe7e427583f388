"""Read preference rows from files, folders, globs, saved data sets and the Hub into one cache on disk.

Every source row goes through a function `to_row(row, where)`; its results are written once, as Arrow, under
`datasets.config.HF_DATASETS_CACHE / "reward_modeling"` (never beside the user's data, which may be read-only)
and memory-mapped from there. The folder's name holds path, size and time of what was read: a changed file is
read again. JSON goes through `json.loads` line by line, so that one row of other types than the rest costs
that row and not the file; in parallel by byte ranges, which a first scan cuts at newlines and numbers.
"""

import glob
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from itertools import groupby, islice
from pathlib import Path

import datasets
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, Features
from pyarrow.dataset import ParquetFragmentScanOptions

from reward_modeling.common.errors import UserError, one_line
from reward_modeling.data.hub import HubOptions, load_hub_splits
from reward_modeling.data.json_lines import FILE_ERRORS, ToRow, block_rows, broken_file, json_blocks, parsed_lines

KEY_LENGTH = 24  # hex digits that name a cached source
COLUMNS = ("prompt", "chosen", "rejected", "margin", "chosen_score", "rejected_score", "source")
JSON_SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
TABLE_SUFFIXES = (".parquet", ".arrow")
SUFFIXES = ", ".join(JSON_SUFFIXES + TABLE_SUFFIXES)
# Stand beside data without being data; "manifest.json" as the end of a name too (train.manifest.json).
NOT_DATA = ("dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json", "lint.json")
LOCAL_HINT = (
    f"To use a local copy, pass its path: a {SUFFIXES} file, a folder or glob of them, or a save_to_disk folder"
)
ROW_FORMATS = "chosen and rejected as two message lists, or prompt with the two completions, or two plain texts"


@dataclass(frozen=True)
class Columns:
    """Which columns a source must have, which are read where it has them, and its rows in words (for an error)."""

    required: tuple[str, ...] = ("chosen", "rejected")
    read: tuple[str, ...] = COLUMNS
    row_formats: str = ROW_FORMATS


PREFERENCE_COLUMNS = Columns()


@dataclass(frozen=True)
class Source:
    """Files, or a data set that `datasets` has opened; `shown` is how the user names it."""

    shown: str
    files: tuple[Path, ...]
    table: Dataset | None = None

    def key(self, version: int | str) -> str:
        """A folder name that changes with what is read, and with how the rows are named or made."""
        stats = [(str(file.resolve()), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in self.files]
        digest = blake2b(json.dumps([version, self.shown, stats]).encode(), digest_size=KEY_LENGTH // 2).hexdigest()
        return f"{re.sub(r'[^A-Za-z0-9]+', '-', self.shown)[-40:].strip('-')}-{digest}"


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
) -> Dataset:
    """Return `to_row(row, where)` of every row of `path`, from the cache when it was read before.

    `version` is part of the cache's key: another one for every other `to_row`. `missing` is the reason that rows
    without a required column get; where all have it, the file is taken to have other columns.

    Raises:
        UserError: see `data.load_preference_dataset`.
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
            found: list[str] = []
            for number, (inputs, function) in enumerate(_parts(source, scratch, columns)):
                function = partial(function, to_row=to_row, names=list(features))
                # datasets takes rows of one fingerprint for the same rows: each part gets its own.
                fingerprint = f"{cached.name[-KEY_LENGTH:]}-{number}"
                _write_rows(inputs, function, rows / f"{number:05d}.arrow", features, fingerprint, num_proc)
                found = found or _columns(inputs)
            _check_rows(_open_rows(rows), source, found, missing, columns)
            _move(rows, cached)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return _open_rows(cached)


def map_processes(num_proc: int | None, rows: int, rows_each: int = 1) -> int | None:
    """What `Dataset.map` takes for at most so many processes with at least `rows_each` rows; None: this process."""
    processes = min(num_proc or 1, rows // rows_each)
    return processes if processes > 1 else None


def cache_root() -> Path:
    """The folder that rows are cached in.

    Raises:
        UserError: it cannot be made.
    """
    root = Path(datasets.config.HF_DATASETS_CACHE) / "reward_modeling"
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write the cache folder {root} ({one_line(error)}). Set HF_DATASETS_CACHE to a folder "
            "that can be written, with room for a copy of the data."
        ) from error
    return root


def cache_error(error: OSError) -> UserError:
    """Rows that were read or made cannot be kept."""
    return UserError(
        f"cannot write the cache folder {cache_root()} ({one_line(error)}). Make room, or set HF_DATASETS_CACHE to a "
        "folder with room for a copy of the data."
    )


def _move(rows: Path, cached: Path) -> None:
    try:
        rows.rename(cached)
    except OSError:
        if not cached.is_dir():  # else another process was faster, with the same rows
            raise


def _open_rows(folder: Path) -> Dataset:
    parts = [Dataset.from_file(str(file)) for file in sorted(folder.glob("*.arrow"))]
    parts = [part for part in parts if len(part)] or parts[:1]
    return datasets.concatenate_datasets(parts) if parts else Dataset.from_dict({})


def _check_rows(rows: Dataset, source: Source, found: list[str], missing: str, columns: Columns) -> None:
    if not len(rows):
        raise _empty(source.shown)
    if pc.all(pc.equal(rows.with_format("arrow")["reason"][:], missing)).as_py():
        raise _columns_error(source.shown, found, columns)


def _empty(shown: str) -> UserError:
    return UserError(f"expected preference rows in {shown}, found none: it is empty. Check the path.")


def _columns_error(shown: str, found: list[str], columns: Columns) -> UserError:
    *first, last = columns.required
    every = "both" if len(first) == 1 else "all of them"
    return UserError(
        f"expected columns {', '.join(first)} and {last} in {shown}, found no row that has {every}; columns found: "
        f"{', '.join(found) or 'none'}. Rename or convert them; accepted rows: {columns.row_formats}."
    )


# --- finding ------------------------------------------------------------------------------------------------


def find_source(path: str, default_split: str, num_proc: int | None = None, hub: HubOptions | None = None) -> Source:
    """Say what `path` stands for: a local file, folder or glob where there is one, else a Hub id.

    `hub` says which of the Hub's versions and parts of a data set is meant; a local path has but one.

    Raises:
        UserError: it is neither, is empty, or lacks the split.
    """
    local = Path(path).expanduser()
    if local.exists():
        return _find_local(path, local, None, default_split)
    if glob.has_magic(path):
        matches = sorted(glob.glob(str(local), recursive=True))  # noqa: PTH207 (Path.glob takes no absolute one)
        return Source(path, _data_files(path, [Path(match) for match in matches]))
    name, _, split = path.rpartition(":")
    if name and Path(name).expanduser().exists():
        return _find_local(path, Path(name).expanduser(), split, default_split)
    on_hub = hub_name(path)
    if on_hub is None:
        raise UserError(
            f"expected an existing path or a Hub id (org/name or org/name:split), found neither: {path} does "
            f"not exist in {Path.cwd()}. Check the path."
        )
    name, split = on_hub
    splits = load_hub_splits(path, name, hub or HubOptions(), LOCAL_HINT, num_proc)
    return _table_source(path, splits[_chosen_split(path, split or default_split, list(splits))])


def hub_name(path: str) -> tuple[str, str | None] | None:
    """The Hub id and the split (if it says one) of org/name[:split]; None where it looks like anything else."""
    found = re.fullmatch(r"([\w.-]+/[\w.-]+)(?::([\w.-]+))?", path)
    if found is None or found[1].endswith((*JSON_SUFFIXES, *TABLE_SUFFIXES)):
        return None
    return found[1], found[2]


def _find_local(path: str, local: Path, split: str | None, default_split: str) -> Source:
    if local.is_dir() and (local / "dataset_dict.json").is_file():
        try:
            splits = json.loads((local / "dataset_dict.json").read_text())["splits"]
        except (*FILE_ERRORS, KeyError, TypeError) as error:
            raise broken_file(path, error) from error
        return _open_saved(path, local / _chosen_split(path, split or default_split, splits))
    if split is not None:
        raise UserError(
            f"expected splits in {local}, because {path} asks for {split}, found none: only Hub ids and "
            f"DatasetDict folders of save_to_disk have them. Pass {local} alone."
        )
    if local.is_dir() and (local / "state.json").is_file():
        return _open_saved(path, local)
    if local.is_dir():
        return Source(path, _data_files(path, sorted(local.iterdir())))
    if not local.name.endswith((*JSON_SUFFIXES, *TABLE_SUFFIXES)):
        raise UserError(f"expected a {SUFFIXES} file, found {path}. Convert it, or give it its real extension.")
    return Source(path, (local,))


def _data_files(path: str, candidates: list[Path]) -> tuple[Path, ...]:
    files = [
        file
        for file in candidates
        if file.name.endswith((*JSON_SUFFIXES, *TABLE_SUFFIXES))
        and not file.name.startswith((".", "_"))
        and not file.name.endswith("manifest.json")
        and file.name not in NOT_DATA
        and file.is_file()
    ]
    if not files:
        found = ", ".join(file.name for file in candidates[:5]) or "nothing"
        raise UserError(
            f"expected {SUFFIXES} files in {path}, found {found}. Pass the folder that holds the files "
            "itself, or a glob such as 'data/**/*.parquet'."
        )
    return tuple(files)


def _chosen_split(shown: str, split: str, splits: list[str]) -> str:
    if split not in splits:
        raise UserError(
            f"expected split {split} in {shown}, found {', '.join(splits)}. "
            f"Name one of them: {shown.rpartition(':')[0] or shown}:{splits[0]}"
        )
    return split


def _open_saved(shown: str, folder: Path) -> Source:
    try:
        if not json.loads((folder / "state.json").read_text())["_data_files"]:  # load_from_disk fails on it
            raise _empty(shown)
        table = datasets.load_from_disk(str(folder))
    except (*FILE_ERRORS, KeyError, TypeError) as error:
        raise broken_file(shown, error) from error
    return _table_source(shown, table)


def _table_source(shown: str, table: Dataset) -> Source:
    return Source(shown, tuple(Path(file["filename"]) for file in table.cache_files), table)


# --- reading ------------------------------------------------------------------------------------------------


def _parts(source: Source, scratch: Path, columns: Columns) -> Iterator[tuple[Dataset, Callable[..., dict[str, list]]]]:
    """What to map, and the function that makes rows of a batch of it, in the source's order."""
    if source.table is not None:
        yield _checked_table(source.table, source.shown, columns), partial(_table_rows, shown=source.shown)
    else:
        # Neighbouring JSON files are one part: their blocks keep all processes busy, packed or not.
        for is_json, files in groupby(source.files, lambda file: file.name.endswith(JSON_SUFFIXES)):
            if is_json:
                blocks = [block for file in files for block in json_blocks(file, scratch)]
                yield Dataset.from_list(blocks), block_rows
            else:
                for file in files:
                    table = _open_table(file, scratch)
                    yield _checked_table(table, str(file), columns), partial(_table_rows, shown=str(file))


def _write_rows(
    inputs: Dataset,
    function: Callable[..., dict[str, list]],
    out_file: Path,
    features: Features,
    fingerprint: str,
    num_proc: int | None,
) -> None:
    if not len(inputs):
        return
    is_blocks = "first" in inputs.column_names
    try:
        _map_rows(inputs, function, out_file, features, fingerprint, num_proc, is_blocks)
    except OSError as error:
        raise cache_error(error) from error


def _map_rows(
    inputs: Dataset,
    function: Callable[..., dict[str, list]],
    out_file: Path,
    features: Features,
    fingerprint: str,
    num_proc: int | None,
    is_blocks: bool,
) -> None:
    inputs.map(
        function,
        with_indices=True,
        batched=True,
        batch_size=1 if is_blocks else 1000,
        remove_columns=inputs.column_names,
        features=features,
        cache_file_name=str(out_file),
        new_fingerprint=fingerprint,
        num_proc=map_processes(num_proc, len(inputs)),
        desc="reading preference rows",
    )


def _checked_table(table: Dataset, shown: str, columns: Columns) -> Dataset:
    if not set(columns.required) <= set(table.column_names):
        raise _columns_error(shown, table.column_names, columns)
    return table.select_columns([name for name in columns.read if name in table.column_names])


def _open_table(file: Path, scratch: Path) -> Dataset:
    options = {"data_files": [glob.escape(str(file))], "cache_dir": str(scratch / "tables")}
    try:
        if file.name.endswith(".parquet"):
            if not pq.read_metadata(file).num_rows:  # the builder fails on it
                return Dataset.from_dict({name: [] for name in pq.read_schema(file).names})
            # Row group by row group: read ahead, a file of 650 MiB took twice the memory.
            scan = ParquetFragmentScanOptions(pre_buffer=False)
            builder = datasets.load_dataset_builder("parquet", fragment_scan_options=scan, **options)
        else:
            builder = datasets.load_dataset_builder("arrow", **options)
        builder.download_and_prepare()
    except FILE_ERRORS as error:
        raise broken_file(str(file), error) from error
    if not builder.info.splits["train"].num_examples:  # as_dataset refuses a file without rows
        return Dataset.from_dict({name: [] for name in builder.info.features})
    return builder.as_dataset(split="train")


def _table_rows(
    batch: dict[str, list], indices: list[int], *, shown: str, to_row: ToRow, names: list[str]
) -> dict[str, list]:
    columns = list(batch)
    values = zip(*(batch[column] for column in columns), strict=True)
    rows = [
        to_row(dict(zip(columns, value, strict=True)), f"{shown} row {index}")
        for index, value in zip(indices, values, strict=True)
    ]
    return {name: [row[name] for row in rows] for name in names}


def _columns(inputs: Dataset) -> list[str]:
    """The columns of a table; of JSON lines the keys of the first hundred rows."""
    if "first" not in inputs.column_names:
        return inputs.column_names
    if not len(inputs):
        return []
    rows = (row for row, _ in islice(parsed_lines(inputs[0]), 100) if isinstance(row, dict))
    return list(dict.fromkeys(key for row in rows for key in row))
