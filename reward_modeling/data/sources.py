"""What a path stands for: a file, a folder or glob of files, a folder of `save_to_disk`, or a data set of the Hub."""

import glob
import json
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import datasets
from datasets import Dataset, DatasetDict
from datasets.exceptions import DatasetsError
from huggingface_hub import HfApi
from huggingface_hub.utils import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError, httpx

from reward_modeling.common.errors import HUB_ERRORS, UserError, one_line
from reward_modeling.data.json_lines import FILE_ERRORS, broken_file
from reward_modeling.data.text_tables import TEXT_TABLE_SUFFIXES

KEY_LENGTH = 24  # hex digits that name a cached source
JSON_SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
TABLE_SUFFIXES = (".parquet", ".arrow")
LINE_SUFFIXES = JSON_SUFFIXES + TEXT_TABLE_SUFFIXES  # become lines of JSON
ALL_SUFFIXES = LINE_SUFFIXES + TABLE_SUFFIXES
SUFFIXES = ", ".join(ALL_SUFFIXES)
# Stand beside data without being data; those of BESIDE as ends of names too (train.manifest.json).
NOT_DATA = ("dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json", "lint.json")
BESIDE = ("manifest.json", "report.json")
LOCAL_HINT = (
    f"To use a local copy, pass its path: a {SUFFIXES} file, a folder or glob of them, or a save_to_disk folder"
)
HUB_TIMEOUT = 10.0  # seconds for the question whether a Hub id exists
# load_dataset raises ValueError for a missing config name, RuntimeError for a data set that is a script.
LOAD_ERRORS = (*HUB_ERRORS, DatasetsError, RuntimeError, httpx.RequestError)
ROW_FORMATS = (
    "chosen and rejected as two message lists, or prompt with the two completions, or two plain texts, and the forms "
    "of docs/DATA.md. Columns of other names are read by --columns prompt=NAME,chosen=NAME,rejected=NAME"
)


@dataclass(frozen=True)
class Columns:
    """Which columns a source must have, which are read where it has them, and its rows in words (for an error)."""

    required: tuple[str, ...] = ("chosen", "rejected")
    read: tuple[str, ...] | None = None
    """None: all of them."""
    row_formats: str = ROW_FORMATS
    others: tuple[tuple[str, ...], ...] = ()
    """Columns of which all do as well as those that are required."""
    named: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """What a user says to read, with the columns that it is made of: see `read_options`."""
    hints: tuple[tuple[tuple[str, ...], str], ...] = ()
    """Of rows of another kind the columns, and what to do with them."""

    def are_in(self, names: Collection[str]) -> bool:
        """Whether a table with columns of these names has what must be there."""
        found = {*names, *(target for target, _ in self.named)}
        return any(found.issuperset(columns) for columns in (self.required, *self.others))


_RATED = "Answers with ratings, one in a row, are what rm_regression.py trains on. "
PREFERENCE_COLUMNS = Columns(hints=((("response",), _RATED), (("messages",), _RATED)))


@dataclass(frozen=True)
class HubOptions:
    """Which version and part of a data set of the Hub: as `datasets.load_dataset` names them."""

    revision: str | None = None
    config: str | None = None
    data_dir: str | None = None


@dataclass(frozen=True)
class Source:
    """Files, or a data set that `datasets` has opened; `label` is how the user names it."""

    label: str
    files: tuple[Path, ...]
    table: Dataset | None = None

    def key(self, version: int | str) -> str:
        """A folder name that changes with what is read, and with how the rows are named or made."""
        stats = [(str(file.resolve()), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in self.files]
        digest = blake2b(json.dumps([version, self.label, stats]).encode(), digest_size=KEY_LENGTH // 2).hexdigest()
        return f"{re.sub(r'[^A-Za-z0-9]+', '-', self.label)[-40:].strip('-')}-{digest}"


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
            "expected an existing path or a Hub id (org/name, org/name:split or org/name:config:split), found neither: "
            f"{path} does not exist in {Path.cwd()}. Check the path."
        )
    options = hub or HubOptions()
    options = replace(options, config=on_hub.config or options.config)
    splits = _load_hub_splits(path, on_hub.name, options, num_proc)
    return _table_source(path, splits[_check_split(path, on_hub.split or default_split, list(splits))])


class HubName(NamedTuple):
    """org/name, org/name:split or org/name:config:split."""

    name: str
    config: str | None
    split: str | None


def hub_name(path: str) -> HubName | None:
    """What a path names on the Hub; None where it looks like anything else."""
    found = re.fullmatch(r"([\w.-]+/[\w.-]+)(?::([\w.-]+))??(?::([\w.-]+))?", path)
    return None if found is None or found[1].endswith(ALL_SUFFIXES) else HubName(*found.groups())


def _load_hub_splits(path: str, name: str, options: HubOptions, num_proc: int | None) -> DatasetDict:
    """All splits of the data set `name`; asked for once, so that a mistake costs seconds and not minutes of retries."""
    try:
        # load_dataset asks an unreachable Hub for half a minute before it gives up: ask once ourselves,
        # unless it was downloaded before, when it answers without the Hub.
        if not (Path(datasets.config.HF_DATASETS_CACHE) / name.replace("/", "___")).is_dir():
            HfApi().dataset_info(name, revision=options.revision, timeout=HUB_TIMEOUT)
        return datasets.load_dataset(
            name, options.config, data_dir=options.data_dir, revision=options.revision, num_proc=num_proc
        )
    except LOAD_ERRORS as error:
        if isinstance(error, RepositoryNotFoundError):
            why = f"no data set {name} on the Hub (or it is private: run `hf auth login`)"
        elif isinstance(error, OfflineModeIsEnabled):
            why = f"{name} is not downloaded and HF_HUB_OFFLINE is set"
        elif isinstance(error, (httpx.RequestError, HfHubHTTPError, ConnectionError)):
            why = f"the Hub cannot be reached for {name}"
        else:
            why = f"the Hub's data set {name} cannot be loaded"
        raise UserError(
            f"expected a local path or a Hub id, found neither for {path}: it does not exist in {Path.cwd()}, and "
            f"{why} [{one_line(error)}]. {LOCAL_HINT}."
        ) from error


def _find_local(path: str, local: Path, split: str | None, default_split: str) -> Source:
    if local.is_dir() and (local / "dataset_dict.json").is_file():
        splits = saved_splits(path, local)
        return _open_saved(path, local / _check_split(path, split or default_split, splits))
    if split is not None:
        raise UserError(
            f"expected splits in {local}, because {path} asks for {split}, found none: only Hub ids and "
            f"DatasetDict folders of save_to_disk have them. Pass {local} alone."
        )
    if local.is_dir() and (local / "state.json").is_file():
        return _open_saved(path, local)
    if local.is_dir():
        return Source(path, _data_files(path, sorted(local.iterdir())))
    if not local.name.endswith(ALL_SUFFIXES):
        raise UserError(f"expected a {SUFFIXES} file, found {path}. Convert it, or give it its real extension.")
    return Source(path, (local,))


def is_data_file(file: Path) -> bool:
    """Whether a name is one of a data file, and not of what stands beside data."""
    hidden = file.name.startswith((".", "_")) or file.name.endswith(BESIDE) or file.name in NOT_DATA
    return file.name.endswith(ALL_SUFFIXES) and not hidden


def _data_files(path: str, candidates: list[Path]) -> tuple[Path, ...]:
    files = tuple(file for file in candidates if is_data_file(file) and file.is_file())
    if not files:
        found = ", ".join(file.name for file in candidates[:5]) or "nothing"
        raise UserError(
            f"expected {SUFFIXES} files in {path}, found {found}. Pass the folder that holds the files "
            "itself, or a glob such as 'data/**/*.parquet'."
        )
    return files


def _check_split(label: str, split: str, splits: list[str]) -> str:
    if split not in splits:
        raise UserError(
            f"expected split {split} in {label}, found {', '.join(splits)}. "
            f"Name one of them: {label.rpartition(':')[0] or label}:{splits[0]}"
        )
    return split


def saved_splits(label: str, folder: Path) -> list[str]:
    """The splits of a DatasetDict folder of `save_to_disk`."""
    try:
        return json.loads((folder / "dataset_dict.json").read_text())["splits"]
    except (*FILE_ERRORS, KeyError, TypeError) as error:
        raise broken_file(label, error) from error


def _open_saved(label: str, folder: Path) -> Source:
    try:
        if not json.loads((folder / "state.json").read_text())["_data_files"]:  # load_from_disk fails on it
            raise empty_source(label)
        table = datasets.load_from_disk(str(folder))
    except (*FILE_ERRORS, KeyError, TypeError) as error:
        raise broken_file(label, error) from error
    return _table_source(label, table)


def _table_source(label: str, table: Dataset) -> Source:
    return Source(label, tuple(Path(file["filename"]) for file in table.cache_files), table)


def empty_source(label: str) -> UserError:
    """There is nothing in it."""
    return UserError(f"expected rows in {label}, found none: it is empty. Check the path.")
