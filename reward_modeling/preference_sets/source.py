"""What the scripts of data_prep share: from a public data set's own columns to standard pairs, every row counted.

A script says what its columns are and how a row of them becomes a pair, or a prompt with scored answers:

    result = read_pairs(arguments, SOURCE, to_pair)          # rows that are pairs already
    result = limit_pairs_per_prompt(result, 5, arguments.seed)
    result = build_pairs(arguments, SOURCE, to_answers)      # rows that are answers with scores: answer_pairs.py

What is read is cached on disk and memory-mapped (see `data/cached_rows.py`).
"""

import glob
import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, List, Value
from numpy.typing import NDArray

from reward_modeling.common.errors import UserError
from reward_modeling.common.launch import worker_count
from reward_modeling.data import preferences
from reward_modeling.data.cached_rows import load_rows
from reward_modeling.data.keys import mix_keys, text_key
from reward_modeling.data.labels import TIE
from reward_modeling.data.preferences import (
    EXCERPT_LENGTH,
    NO_OPTIONS,
    STANDARD_FEATURES,
    RowDropped,
    dropped_row,
    kept_rows,
    preference_columns,
    read_column,
    standardise_row,
)
from reward_modeling.data.read_options import ReadOptions, read_options
from reward_modeling.data.report import DataReport, DropReason, report_rows
from reward_modeling.data.row_notes import note_rows
from reward_modeling.data.sources import Columns, HubOptions, find_source
from reward_modeling.data.text_beginnings import write_joined
from reward_modeling.preference_sets.arguments import FileArguments, SourceArguments

CACHE_VERSION = 2  # raise it when rows are read otherwise than before
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


@dataclass(frozen=True)
class PreferenceSource:
    """A public data set: its name here, its columns, its licence, and how many pairs others have counted."""

    name: str
    columns: Columns
    licence: str
    published: Mapping[str, int] = field(default_factory=dict)
    """Mixture -> published number of pairs."""


@dataclass(frozen=True)
class SourceRows:
    """The rows of one source that are kept, in its order: pairs, or answers (`ANSWER_FEATURES`) to make pairs of."""

    source: PreferenceSource
    rows: Dataset
    report: DataReport
    """Of the source's rows; `notes` has what else is worth a number."""
    options: Mapping[str, object]
    """The arguments that decide which pairs there are."""


@dataclass(frozen=True)
class SourcePairs(SourceRows):
    """Pairs (`PAIR_FEATURES`); the notes of the report have the numbers of "pairs" and "prompts"."""

    made_of_answers: bool = False
    """Whether a row of the source may give several pairs, or none: then the report counts rows, not pairs."""


# --- reading --------------------------------------------------------------------------------------------------


def read_pairs(
    arguments: SourceArguments,
    source: PreferenceSource,
    to_pair: Callable[..., dict],
    *,
    hub: HubOptions | None = None,
) -> SourcePairs:
    """Every row of a source that is made of pairs.

    Args:
        to_pair: from a row of the source, and the flags that its other parameters name, to `chosen` and `rejected` (and
            `prompt`, `source`, scores), as `preferences.standardise_row` takes them; "group" may name what a limit per
            prompt counts together. It raises `RowDropped` for a row that is not used. It must be picklable: a function,
            or a partial of one.
    """
    rows, report = read_source_rows(arguments, source, _pair_fields, PAIR_FEATURES, to_pair, hub)
    note_pairs(report, rows)
    return SourcePairs(source, rows, report, arguments.options())


def read_file(arguments: FileArguments, source: PreferenceSource) -> SourcePairs:
    """The preference rows of a file, in any form that rm.py takes.

    Raises:
        UserError: nothing readable there, or a part of the conversation would not be read.
    """
    options = read_options(arguments.columns, arguments.ignore_columns, preferred_values=arguments.preferred_values)
    source = replace(source, columns=preference_columns(options))
    to_fields = partial(_pair_fields, options=options)
    rows, report = read_source_rows(
        arguments, source, to_fields, PAIR_FEATURES, _keep_row, required=(), finish=write_joined
    )
    try:
        note_rows(report, partial(read_column, rows), source.name)
    except UserError as error:
        raise UserError(f"{error}. In a mixture these are options of the source: options: {{columns: ...}}") from error
    note_pairs(report, rows)
    return SourcePairs(source, rows, report, arguments.options())


def _keep_row(row: dict) -> dict:
    return row


def read_answers(arguments: SourceArguments, source: PreferenceSource, to_answers: Callable[..., dict]) -> SourceRows:
    """Every row of a source that is made of scored answers.

    Args:
        to_answers: from a row of the source, and the flags that its other parameters name, to {"prompt": text or
            message list, "answers": [text], "scores": [number or None], "source": name}. Rows of one prompt may each
            have some of its answers. Raises `RowDropped`.
    """
    rows, report = read_source_rows(arguments, source, _answer_fields, ANSWER_FEATURES, to_answers)
    return SourceRows(source, rows, report, arguments.options())


def read_source_rows(
    arguments: SourceArguments,
    source: PreferenceSource,
    to_fields: Callable[[dict, str], dict],
    features: Features,
    convert: Callable[..., dict],
    hub: HubOptions | None = None,
    required: tuple[str, ...] | None = None,
    missing: DropReason = DropReason.NO_CHOSEN_OR_REJECTED,
    **reading: object,
) -> tuple[Dataset, DataReport]:
    """The rows of a source that are kept, with `features`, and the report of all of them.

    Args:
        to_fields: from what `convert` makes of a row, and where it stands, to `features`.
        required: columns that must be there; None: those of the source.
        missing: where none must be, why rows go that have none of the columns.
    """
    convert = _bind_flags(convert, arguments)
    needed = source.columns.required if required is None else required
    versions = f"{preferences.CACHE_VERSION}.{CACHE_VERSION} {_code_key(to_fields)}"
    try:
        rows = load_rows(
            split_files(arguments.dataset_path, arguments.split),
            to_row=partial(_convert_row, convert=convert, to_fields=to_fields, required=needed),
            features=features,
            version=f"{source.name} {versions} {_code_key(convert)} {hub} {arguments.revision}",
            missing=DropReason.MISSING_COLUMN if needed else missing,
            num_proc=worker_count(arguments.num_proc),
            default_split=arguments.split,
            columns=source.columns,
            hub=replace(hub or HubOptions(), revision=arguments.revision),
            **reading,
        )
    except UserError as error:
        raise UserError(f"{source.name}: {error} The flag for the path is --dataset_path.") from error
    return rows.select(kept_rows(rows)), report_rows(source.name, rows)


def split_files(path: str, split: str) -> str:
    """What to read of a path: where it is a folder whose files are named after splits, those of this split alone.

    Raises:
        UserError: its files are named after other splits, or it has none.
    """
    local = Path(path).expanduser()
    if not local.is_dir() or any((local / name).is_file() for name in SAVED):
        return path
    names = [file.name for file in find_source(path, split).files]
    # train.jsonl.gz, train-00000-of-00002.parquet
    if any(name.startswith((f"{split}.", f"{split}-")) for name in names):
        return f"{glob.escape(str(local))}/{glob.escape(split)}[.-]*"
    if others := [name for name in names if re.split(r"[.-]", name)[0] in SPLITS]:
        raise UserError(
            f"expected a file of split {split} in {path}, found {', '.join(others[:5])}. Set --split to one that is "
            "there, or pass a file or a glob of the files that are meant."
        )
    return path


def _bind_flags(convert: Callable[..., dict], arguments: SourceArguments) -> Callable[[dict], dict]:
    """The function of a row alone: its other parameters are the flags of their names, unless they have a value."""
    _, *others = inspect.signature(convert).parameters.values()
    flags = {one.name: getattr(arguments, one.name) for one in others if one.default is one.empty}
    return partial(convert, **flags) if flags else convert


def _code_key(convert: Callable) -> str:
    """A function's name, file and bound values: rows read with other options, or by an edited script, are others."""
    if isinstance(convert, partial):
        values = {name: _code_key(value) if callable(value) else value for name, value in convert.keywords.items()}
        return f"{_code_key(convert.func)} {convert.args} {sorted(values.items())}"
    file = Path(convert.__code__.co_filename)
    text = blake2b(file.read_bytes(), digest_size=8).hexdigest() if file.is_file() else ""
    return f"{convert.__module__}.{convert.__qualname__} {text}"


def _convert_row(
    row: object,
    where: str,
    *,
    convert: Callable[[dict], dict],
    to_fields: Callable[[dict, str], dict],
    required: tuple[str, ...],
) -> dict[str, object]:
    """A table has its columns or is refused; of JSON, any row may lack one."""
    try:
        if not isinstance(row, dict):
            raise RowDropped(DropReason.WRONG_TYPE, f"expected columns, found {type(row).__name__}")
        if missing := [name for name in required if name not in row]:
            raise RowDropped(DropReason.MISSING_COLUMN, f"no {', '.join(missing)}; columns: {', '.join(map(str, row))}")
        return to_fields(convert(row), where)
    except RowDropped as dropped:
        excerpt = dropped.detail or json.dumps(row, ensure_ascii=False, default=str)
        excerpt = excerpt[:EXCERPT_LENGTH].encode(errors="replace").decode()
        row = dropped_row(where, dropped.reason, excerpt)
        return {**row, "answers": [], "scores": [], "left_out": [], "group_key": 0, "pair_key": 0}


def _pair_fields(pair: dict, where: str, options: ReadOptions = NO_OPTIONS) -> dict[str, object]:
    """`PAIR_FEATURES` of a pair."""
    standard = standardise_row(pair, where, options)
    if standard["reason"]:
        return {**standard, "group_key": 0, "pair_key": 0}
    return add_pair_keys(standard, text_key(str(pair["group"])) if "group" in pair else standard["prompt_key"])


def add_pair_keys(standard: dict[str, object], group_key: int) -> dict[str, object]:
    """A standard row with the keys of `PAIR_FEATURES`."""
    texts = standard["chosen"], standard["rejected"]
    if standard["answers"]:  # whatever their order
        texts = sorted(f"{rank} {text}" for rank, text in zip(standard["ranks"], standard["answers"], strict=True))
    elif standard["chosen_probability"] == TIE:  # whichever is called chosen
        texts = sorted(texts)
    pair_key = text_key(standard["prompt"] + standard["template_options"], *texts)
    return {**standard, "group_key": group_key, "pair_key": pair_key}


def _answer_fields(found: dict, where: str) -> dict[str, object]:
    """`ANSWER_FEATURES` of a prompt with answers."""
    prompt = found["prompt"]
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    prompt = json.dumps(messages, ensure_ascii=False)
    try:
        for text in (prompt, *found["answers"], found.get("source") or ""):
            text.encode()
    except UnicodeEncodeError:
        raise RowDropped(DropReason.WRONG_TYPE, "half a character is no text") from None
    fields = {name: found.get(name) for name in ("answers", "scores", "source")}
    return {"where": where, "prompt": prompt, **fields, "group_key": text_key(prompt), "reason": "", "excerpt": ""}


# --- choosing -------------------------------------------------------------------------------------------------


def limit_pairs_per_prompt(pairs: SourcePairs, limit: int, seed: int) -> SourcePairs:
    """At most `limit` pairs of each group, drawn at random."""
    groups, keys = number_column(pairs.rows, "group_key"), number_column(pairs.rows, "pair_key")
    order = np.lexsort((mix_keys(keys, seed), groups))
    _, starts, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    rank = np.arange(len(order)) - np.repeat(starts, sizes)
    return keep_pairs(pairs, order[rank < limit], DropReason.BEYOND_PROMPT_LIMIT)


def sample_pairs(pairs: SourcePairs, count: int, seed: int) -> SourcePairs:
    """`count` pairs drawn at random, or all where there are no more."""
    order = np.argsort(mix_keys(number_column(pairs.rows, "pair_key"), seed), kind="stable")
    return keep_pairs(pairs, order[:count], DropReason.NOT_SAMPLED)


def keep_pairs(pairs: SourcePairs, kept: NDArray[np.int64], reason: DropReason) -> SourcePairs:
    """The rows of these numbers, in their order in the source; the others are counted under `reason`."""
    dropped = np.setdiff1d(np.arange(len(pairs.rows)), kept)
    if not len(dropped):
        return pairs
    if pairs.made_of_answers:
        note = f"pairs left out: {reason.words}"
        pairs.report.notes[note] = pairs.report.notes.get(note, 0) + len(dropped)
    else:
        first = pairs.rows[int(dropped[0])]
        pairs.report.add(reason, len(dropped), first["where"], first["chosen"][:EXCERPT_LENGTH])
    rows = pairs.rows.select(np.sort(kept))
    note_pairs(pairs.report, rows)
    return replace(pairs, rows=rows)


def number_column(rows: Dataset, name: str) -> NDArray:
    """A whole column of numbers, `(rows,)`."""
    return read_column(rows, name).to_numpy()


def note_pairs(report: DataReport, rows: Dataset) -> None:
    """Note in a report how many pairs there are, and of how many prompts."""
    report.notes |= {"pairs": len(rows), "prompts": len(np.unique(number_column(rows, "prompt_key")))}
