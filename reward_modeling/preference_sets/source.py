"""What the scripts of data_prep share: from a public data set's own columns to standard pairs, every row counted.

A script says what its columns are and how a row of them becomes a pair, or a prompt with scored answers:

    result = read_pairs(arguments, SOURCE, to_pair)          # rows that are pairs already
    result = limit_pairs_per_prompt(result, 5, arguments.seed)
    answers = read_answers(arguments, SOURCE, to_answers)    # rows that are answers with scores
    result = pairs_from_answers(answers, "distinct_scores", arguments.seed)   # answer_pairs.py

What is read is cached on disk and memory-mapped (see `loading`). A random choice is a hash of the seed and of what is
chosen from: it is the same in any order of the rows and on any number of workers.
"""

import glob
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value
from numpy.typing import NDArray

from reward_modeling.common.errors import UserError
from reward_modeling.data.hub import HubOptions
from reward_modeling.data.preferences import STANDARD_FEATURES, dropped_row, mixed, read_column, standardise_row
from reward_modeling.data.report import REASON_WORDS, DataReport, DropReason, report_rows
from reward_modeling.data.sources import Columns, find_source, load_rows

CACHE_VERSION = 1  # raise it when rows are read otherwise than before
FORMATS = ("parquet", "jsonl")
EXCERPT_LENGTH = 200
SPLITS = ("train", "test", "validation", "val", "dev", "eval")  # files of a folder are named after: train.jsonl.gz
SAVED = ("dataset_dict.json", "state.json")  # what a folder of save_to_disk has

# `group_key` says which rows a limit per prompt counts together; `pair_key` is the same for the same pair.
PAIR_FEATURES = Features({**STANDARD_FEATURES, "group_key": Value("int64"), "pair_key": Value("int64")})
ANSWER_FEATURES = Features(
    {
        "where": Value("string"),
        "prompt": Value("string"),  # JSON of a message list
        "answers": List(Value("string")),
        "scores": List(Value("float64")),  # null where the source gives none
        "source": Value("string"),
        "group_key": Value("int64"),
        "reason": Value("string"),
        "excerpt": Value("string"),
    }
)


@dataclass
class SourceArguments:
    """The flags that every script of data_prep has; each sets its own defaults."""

    dataset_path: str = field(
        default="", metadata={"help": "Hub id, or a local .parquet, .jsonl, .json or .arrow file, folder or glob."}
    )
    split: str = field(
        default="train", metadata={"help": "Split; in a local folder, the files named so (train.jsonl.gz)."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit on the Hub."})
    output_path: str = field(default="", metadata={"help": "Folder to write the pairs and their manifest.json to."})
    format: str = field(default="parquet", metadata={"help": "parquet or jsonl."})
    seed: int = field(default=0, metadata={"help": "Of every random choice."})
    num_proc: int | None = field(
        default=None, metadata={"help": "Worker processes that read. Unset: one per core, at most 16."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace what is in output_path."})

    def __post_init__(self):
        problems = self.problems()
        if problems:
            raise UserError("\n".join(problems))

    def problems(self) -> list[str]:
        """Everything that is wrong with the values; a script adds its own."""
        found = []
        if self.format not in FORMATS:
            found.append(f"--format: expected one of {', '.join(FORMATS)}, found {self.format!r}")
        if self.num_proc is not None and self.num_proc < 1:
            found.append(f"--num_proc: expected at least 1, found {self.num_proc}")
        if not 0 <= self.seed < 2**32:
            found.append(f"--seed: expected 0 to {2**32 - 1}, found {self.seed}")
        return found

    def choice_problems(self, choices: Mapping[str, tuple[str, ...]]) -> list[str]:
        """For flags that take one of some words."""
        return [
            f"--{name}: expected one of {', '.join(allowed)}, found {getattr(self, name)!r}"
            for name, allowed in choices.items()
            if getattr(self, name) not in allowed
        ]


@dataclass(frozen=True)
class PreferenceSource:
    """A public data set: its name here, its columns, its licence, and how many pairs others have counted."""

    name: str
    columns: Columns
    licence: str
    published: Mapping[str, int] = field(default_factory=dict)
    """Mixture -> published number of pairs."""


@dataclass(frozen=True)
class SourcePairs:
    """The pairs of one source."""

    source: PreferenceSource
    rows: Dataset
    """`PAIR_FEATURES`, kept rows alone, in the source's order."""
    report: DataReport
    """Of the source's rows; `notes` has "pairs", "prompts" and what else is worth a number."""
    options: Mapping[str, object]
    """The arguments that decide which pairs there are."""
    made_of_answers: bool = False
    """Whether a row of the source may give several pairs, or none: then the report counts rows, not pairs."""


@dataclass(frozen=True)
class SourceAnswers:
    """The scored answers of one source, before pairs are made of them."""

    source: PreferenceSource
    rows: Dataset
    """`ANSWER_FEATURES`, kept rows alone."""
    report: DataReport
    options: Mapping[str, object]


class RowDropped(Exception):
    """Raised by a script's function for a row that is not used."""

    def __init__(self, reason: DropReason, detail: str = ""):
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


def wrong_type(row: Mapping, column: str, expected: str) -> RowDropped:
    """To raise where a column has not the type it should have."""
    return RowDropped(DropReason.WRONG_TYPE, f"{column}: expected {expected}, found {str(row.get(column))[:80]!r}")


def text_of(row: Mapping, column: str) -> str:
    """
    Raises:
        RowDropped: it is no text.
    """
    if not isinstance(row.get(column), str):
        raise wrong_type(row, column, "text")
    return row[column]


def number_of(row: Mapping, column: str) -> float:
    """
    Raises:
        RowDropped: it is missing, or no number.
    """
    number = optional_number(row, column)
    if number is None:
        raise RowDropped(DropReason.NO_SCORE, f"{column} is missing")
    return number


def optional_number(row: Mapping, column: str) -> float | None:
    """None where it is missing; infinite where float64 cannot hold it.

    Raises:
        RowDropped: it is no number.
    """
    value = row.get(column)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong_type(row, column, "a number")
    return float_of(value)


def float_of(value: float) -> float:
    """Infinite where float64 cannot hold it: JSON knows such integers, and an infinite score is dropped."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def text_key(*texts: str) -> int:
    """A signed 64-bit number that stands for texts, in this order."""
    digest = blake2b("\0".join(texts).encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


# --- reading --------------------------------------------------------------------------------------------------


def read_pairs(
    arguments: SourceArguments,
    source: PreferenceSource,
    to_pair: Callable[[dict], dict],
    *,
    hub: HubOptions | None = None,
) -> SourcePairs:
    """Every row of a source that is made of pairs.

    Args:
        to_pair: from a row of the source to `chosen` and `rejected` (and `prompt`, `source`, scores), as
            `data.standardise_row` takes them; "group" may name what a limit per prompt counts together. It raises
            `RowDropped` for a row that is not used. It must be picklable: a function, or a partial of one.
    """
    to_row = partial(_pair_row, to_pair=to_pair, required=source.columns.required)
    rows, report = _read(arguments, source, to_row, PAIR_FEATURES, to_pair, hub)
    return _counted(SourcePairs(source, rows, report, options_of(arguments)))


def read_answers(
    arguments: SourceArguments,
    source: PreferenceSource,
    to_answers: Callable[[dict], dict],
    *,
    hub: HubOptions | None = None,
) -> SourceAnswers:
    """Every row of a source that is made of scored answers.

    Args:
        to_answers: from a row of the source to {"prompt": text or message list, "answers": [text], "scores": [number
            or None], "source": name}. Rows of one prompt may each have some of its answers. Raises `RowDropped`.
    """
    to_row = partial(_answer_row, to_answers=to_answers, required=source.columns.required)
    rows, report = _read(arguments, source, to_row, ANSWER_FEATURES, to_answers, hub)
    return SourceAnswers(source, rows, report, options_of(arguments))


def _read(
    arguments: SourceArguments,
    source: PreferenceSource,
    to_row: Callable,
    features: Features,
    convert: Callable,
    hub: HubOptions | None,
) -> tuple[Dataset, DataReport]:
    try:
        rows = load_rows(
            split_files(arguments.dataset_path, arguments.split),
            to_row=to_row,
            features=features,
            version=f"{source.name} {CACHE_VERSION} {_said(convert)} {hub} {arguments.revision}",
            missing=DropReason.MISSING_COLUMN,
            num_proc=arguments.num_proc or min(16, os.cpu_count()),
            default_split=arguments.split,
            columns=source.columns,
            hub=replace(hub or HubOptions(), revision=arguments.revision),
        )
    except UserError as error:
        raise UserError(f"{source.name}: {error} The flag for the path is --dataset_path.") from error
    report = report_rows(source.name, rows)
    kept = np.flatnonzero(pc.equal(read_column(rows, "reason"), "").to_numpy())
    return rows.select(kept), report


def split_files(path: str, split: str) -> str:
    """What to read of a path: where it is a folder whose files are named after splits, those of this split alone.

    Raises:
        UserError: its files are named after other splits, or it has none.
    """
    local = Path(path).expanduser()
    if not local.is_dir() or any((local / name).is_file() for name in SAVED):
        return path
    names = [file.name for file in find_source(path, split).files]
    if any(_is_of(name, split) for name in names):
        return f"{glob.escape(str(local))}/{glob.escape(split)}[.-]*"
    if others := [name for name in names if any(_is_of(name, other) for other in SPLITS)]:
        raise UserError(
            f"expected a file of split {split} in {path}, found {', '.join(others[:5])}. Set --split to one that is "
            "there, or pass a file or a glob of the files that are meant."
        )
    return path


def _is_of(name: str, split: str) -> bool:
    return name.startswith((f"{split}.", f"{split}-"))  # train.jsonl.gz, train-00000-of-00002.parquet


def _said(convert: Callable) -> str:
    """A function's name, file and bound values: rows read with other options, or by an edited script, are others."""
    if isinstance(convert, partial):
        return f"{_said(convert.func)} {convert.args} {sorted(convert.keywords.items())}"
    file = Path(convert.__code__.co_filename)
    text = blake2b(file.read_bytes(), digest_size=8).hexdigest() if file.is_file() else ""
    return f"{convert.__module__}.{convert.__qualname__} {text}"


def _pair_row(row: object, where: str, *, to_pair: Callable, required: tuple[str, ...] = ()) -> dict[str, object]:
    try:
        pair = to_pair(_columns_of(row, required))
    except RowDropped as dropped:
        return _without_keys(dropped_row(where, dropped.reason, _excerpt(dropped, row)))
    standard = standardise_row(pair, where)
    if standard["reason"]:
        return _without_keys(standard)
    group = text_key(str(pair["group"])) if "group" in pair else standard["prompt_key"]
    pair_key = text_key(standard["prompt"], standard["chosen"], standard["rejected"])
    return {**standard, "group_key": group, "pair_key": pair_key}


def _without_keys(standard: dict) -> dict:
    return {**standard, "group_key": 0, "pair_key": 0}


def _columns_of(row: object, required: tuple[str, ...]) -> dict:
    """The row itself. A table has its columns or is refused; of JSON, any row may lack one."""
    if not isinstance(row, dict):
        raise RowDropped(DropReason.WRONG_TYPE, f"expected columns, found {type(row).__name__}")
    if missing := [name for name in required if name not in row]:
        raise RowDropped(DropReason.MISSING_COLUMN, f"no {', '.join(missing)}; columns: {', '.join(map(str, row))}")
    return row


def _excerpt(dropped: RowDropped, row: object) -> str:
    shown = dropped.detail or json.dumps(row, ensure_ascii=False, default=str)
    return shown[:EXCERPT_LENGTH].encode(errors="replace").decode()


def _answer_row(row: object, where: str, *, to_answers: Callable, required: tuple[str, ...] = ()) -> dict[str, object]:
    empty = {"prompt": "", "answers": [], "scores": [], "source": None, "group_key": 0}
    try:
        found = to_answers(_columns_of(row, required))
        prompt = found["prompt"]
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        prompt = json.dumps(messages, ensure_ascii=False)
        for text in (prompt, *found["answers"], found.get("source") or ""):
            text.encode()
    except RowDropped as dropped:
        return {"where": where, **empty, "reason": dropped.reason.value, "excerpt": _excerpt(dropped, row)}
    except UnicodeEncodeError:
        reason = DropReason.WRONG_TYPE.value
        return {"where": where, **empty, "reason": reason, "excerpt": "half a character is no text"}
    return {
        "where": where,
        "prompt": prompt,
        "answers": found["answers"],
        "scores": found["scores"],
        "source": found.get("source"),
        "group_key": text_key(prompt),
        "reason": "",
        "excerpt": "",
    }


def options_of(arguments: SourceArguments) -> dict[str, object]:
    """What decides which pairs there are, for the manifest: not where they go, nor how many workers there are.

    A local path has no revision, and a file or a glob no split: both are None there.
    """
    elsewhere = ("output_path", "format", "num_proc", "overwrite")
    options = {name: value for name, value in asdict(arguments).items() if name not in elsewhere}
    path = arguments.dataset_path
    local, before_split = Path(path).expanduser(), Path(path.rpartition(":")[0] or path).expanduser()
    if local.is_file() or (glob.has_magic(path) and not local.exists()):
        return options | {"split": None, "revision": None}
    return options | {"revision": None} if local.exists() or before_split.exists() else options


# --- choosing -------------------------------------------------------------------------------------------------


def limit_pairs_per_prompt(pairs: SourcePairs, limit: int, seed: int) -> SourcePairs:
    """At most `limit` pairs of each group, drawn at random."""
    groups, keys = column(pairs.rows, "group_key"), column(pairs.rows, "pair_key")
    order = np.lexsort((mixed(keys, seed), groups))
    starts = np.flatnonzero(np.diff(groups[order], prepend=groups[order][:1] - 1)) if len(order) else order
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    keep = np.zeros(len(order), dtype=bool)
    keep[order[rank < limit]] = True
    return keep_rows(pairs, keep, DropReason.BEYOND_PROMPT_LIMIT)


def sample_pairs(pairs: SourcePairs, count: int, seed: int) -> SourcePairs:
    """`count` pairs drawn at random, or all where there are no more."""
    numbers = mixed(column(pairs.rows, "pair_key"), seed)
    keep = np.zeros(len(numbers), dtype=bool)
    keep[np.argsort(numbers, kind="stable")[:count]] = True
    return keep_rows(pairs, keep, DropReason.NOT_SAMPLED)


def keep_rows(pairs: SourcePairs, keep: NDArray[np.bool_], reason: DropReason) -> SourcePairs:
    """The rows where `keep`, `(rows,)`; the others are counted under `reason`."""
    dropped = np.flatnonzero(~keep)
    if not len(dropped):
        return pairs
    if pairs.made_of_answers:
        note = f"pairs left out: {REASON_WORDS[reason]}"
        pairs.report.notes[note] = pairs.report.notes.get(note, 0) + len(dropped)
    else:
        first = pairs.rows[int(dropped[0])]
        pairs.report.add(reason, len(dropped), first["where"], first["chosen"][:EXCERPT_LENGTH])
    return _counted(replace(pairs, rows=pairs.rows.select(np.flatnonzero(keep))))


def column(rows: Dataset, name: str) -> NDArray:
    """A whole column of numbers."""
    return read_column(rows, name).to_numpy()


def _counted(pairs: SourcePairs) -> SourcePairs:
    prompts = column(pairs.rows, "prompt_key")
    pairs.report.notes |= {"pairs": len(prompts), "prompts": len(np.unique(prompts))}
    return pairs
