"""Rows of ratings: an answer to a prompt, with a number for each attribute that it is rated on.

    ratings = read_ratings(arguments, SOURCE, {"helpfulness": (0, 4), "honesty": None}, to_ratings)
    ratings.attributes, ratings.values       # names; (answers, attributes), NaN where not rated

A source's row is an answer, or a prompt with several. One that is empty, or has no rating at all, goes. An answer that
a prompt has several times (white space around messages does not count) is one with the mean of its ratings, attribute
by attribute: that is what a squared error would learn of them, and what the makers of pairs do (`answer_pairs.py`).

What else makes rows of ratings (training, `data/rated_rows.py`) reads the columns that are written here.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import datasets
import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value
from numpy.typing import NDArray

from reward_modeling.common.errors import UserError
from reward_modeling.common.launch import worker_count
from reward_modeling.data import rated_rows
from reward_modeling.data.cached_rows import cache_error, cache_root, map_processes
from reward_modeling.data.keys import text_key
from reward_modeling.data.messages import parse_json, to_json
from reward_modeling.data.preferences import NO_OPTIONS, read_column
from reward_modeling.data.rated_rows import HINTS, ROW_FORMATS, rated_row
from reward_modeling.data.read_options import RATED_TARGETS, ReadOptions, read_options
from reward_modeling.data.report import DataReport, DropReason
from reward_modeling.data.row_forms import RowDropped
from reward_modeling.data.row_notes import note_rows
from reward_modeling.data.sources import Columns
from reward_modeling.preference_sets.arguments import FileArguments, SourceArguments, prefixed_name
from reward_modeling.preference_sets.repeated_answers import join_repeats
from reward_modeling.preference_sets.row_values import optional_number, wrong_type
from reward_modeling.preference_sets.source import PreferenceSource, SourceRows, read_source_rows

CACHE_VERSION = 1  # to be raised when other rows come out than before
Scale = tuple[float, float] | None
"""The least and the greatest rating that an attribute can have; None where its makers do not say."""

TEXTS = ("prompt", "response", "template_options", "source", "form", "unread", "excerpt")
NUMBERS = ("prompt_key", "answer_key", "text_key")
# `answer_key` is the same for the same answer to the same prompt, `text_key` for the same letters of both.
ANSWER = {
    **{name: Value("string") for name in TEXTS},
    "ratings": List(Value("float64")),  # in the order of the attributes; null where not rated
    **{name: Value("int64") for name in NUMBERS},
    "is_text": Value("bool"),
}
SOURCE_FEATURES = Features(
    {
        "where": Value("string"),
        "answers": List(ANSWER),
        "left_out": List(Value("string")),  # why other answers of the row are not used
        "reason": Value("string"),
        "excerpt": Value("string"),
    }
)
ANSWER_FEATURES = Features({"where": Value("string"), **ANSWER})

LEFT_OUT = {  # in the words of the report
    DropReason.NOT_RATED: "answers without a rating",
    DropReason.EMPTY_REPLY: "empty answers",
}
REPEATED = "answers that repeat another"


@dataclass(frozen=True)
class SourceRatings(SourceRows):
    """Answers (`ANSWER_FEATURES`) of one source."""

    attributes: tuple[str, ...]
    values: NDArray[np.float64]
    """`(answers, attributes)`, NaN where not rated."""
    scales: Mapping[str, Scale]
    """Of each attribute."""


# --- what a script makes of a row -----------------------------------------------------------------------------


def answer_row(
    prompt: str | list[dict], response: str, ratings: Mapping[str, float | None], source: str
) -> dict[str, object]:
    """A row of ratings as a script gives it: an answer to a text or to messages."""
    asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    answer = {"role": "assistant", "content": response}
    return {"messages": [*asked, answer], "ratings": dict(ratings), "source": source}


def rating_of(row: Mapping, column: str, scale: Scale) -> float | None:
    """A rating on its scale; None where it is missing or NaN, which is a table's null.

    Raises:
        RowDropped: it is no number, or not on the scale.
    """
    rating = optional_number(row, column)
    if rating is None or math.isnan(rating):
        return None
    if scale is not None and not scale[0] <= rating <= scale[1]:
        raise wrong_type(row, column, f"a number from {scale[0]:g} to {scale[1]:g}")
    return rating


# --- reading --------------------------------------------------------------------------------------------------


def read_ratings(
    arguments: SourceArguments,
    source: PreferenceSource,
    scales: Mapping[str, Scale],
    to_ratings: Callable[..., dict | list[dict]],
    prefix: str = "",
) -> SourceRatings:
    """Every answer of a source that rates its answers.

    Args:
        scales: the attributes by the names that `to_ratings` gives them.
        to_ratings: from a row of the source, and the flags that its other parameters name, to `answer_row`, or to a
            list of them. It raises `RowDropped` for a row that is not used, and must be picklable.
        prefix: goes before the names of the attributes.
    """
    named = {prefixed_name(prefix, name): scale for name, scale in scales.items()}
    to_fields = partial(_rated_fields, attributes=tuple(scales), options=NO_OPTIONS)
    rows, report = read_source_rows(arguments, source, to_fields, SOURCE_FEATURES, to_ratings)
    return _answers_of(arguments, source, rows, report, named)


def read_rated_file(arguments: FileArguments, source: PreferenceSource, scales: Mapping[str, Scale]) -> SourceRatings:
    """The rows of ratings of a file, in any form that rm_regression.py takes.

    Args:
        scales: of the attributes, by the names that the file has.

    Raises:
        UserError: nothing readable there, or a part of the conversation would not be read; or with the prefix an
            attribute has the name of another column.
    """
    named = {prefixed_name(arguments.attribute_prefix, name): scale for name, scale in scales.items()}
    targets = (*RATED_TARGETS, *scales)
    options = read_options(arguments.columns, arguments.ignore_columns, targets=targets)
    columns = Columns(("prompt", "response"), None, ROW_FORMATS, (("messages",),), options.columns, HINTS)
    source, to_fields = (
        replace(source, columns=columns),
        partial(_rated_fields, attributes=tuple(scales), options=options),
    )
    reading = {"required": (), "missing": DropReason.NO_RESPONSE}
    rows, report = read_source_rows(arguments, source, to_fields, SOURCE_FEATURES, _keep_row, **reading)
    ratings = _answers_of(arguments, source, rows, report, named)
    try:
        note_rows(report, partial(read_column, ratings.rows), source.name, targets)
    except UserError as error:
        raise UserError(f"{error}. In a mixture these are options of the source: options: {{columns: ...}}") from error
    return ratings


def _keep_row(row: dict) -> dict:
    return row


def _rated_fields(
    found: dict | list[dict], where: str, attributes: tuple[str, ...], options: ReadOptions
) -> dict[str, object]:
    """`SOURCE_FEATURES` of what a row of a source became."""
    rows = found if isinstance(found, list) else [found]
    if not rows:
        raise RowDropped(DropReason.NOT_RATED, "no answers")
    read = [rated_row(row, where, attributes, options) for row in rows]
    kept = [_with_keys(row) for row in read if not row["reason"]]
    if not kept:
        return {
            "where": where,
            "answers": [],
            "left_out": [],
            "reason": read[0]["reason"],
            "excerpt": read[0]["excerpt"],
        }
    left_out = [row["reason"] for row in read if row["reason"]]
    return {"where": where, "answers": kept, "left_out": left_out, "reason": "", "excerpt": ""}


def _with_keys(row: dict[str, object]) -> dict[str, object]:
    # Templates trim messages: answers that differ in the white space around them are one.
    said = to_json([{**one, "content": one["content"].strip()} for one in parse_json(row["response"])])
    keys = {
        "answer_key": text_key(str(row["prompt_key"]), said),
        "text_key": text_key(row["prompt"], row["template_options"], row["response"]),
    }
    return {name: value for name, value in (row | keys).items() if name in ANSWER}


def _answers_of(
    arguments: SourceArguments,
    source: PreferenceSource,
    rows: Dataset,
    report: DataReport,
    scales: Mapping[str, Scale],
) -> SourceRatings:
    """The answers of a source's rows, each once, and what the report says of them."""
    left_out = pc.value_counts(pc.list_flatten(read_column(rows, "left_out"))).to_pylist() if len(rows) else []
    answers = _one_row_each(rows, arguments.num_proc)
    lists = read_column(answers, "ratings").combine_chunks()
    values = pc.list_flatten(lists).to_numpy(zero_copy_only=False).astype(np.float64).reshape(-1, len(scales))
    report.notes["answers"] = len(answers) + sum(entry["counts"] for entry in left_out)
    for entry in left_out:
        reason = DropReason(entry["values"])
        report.notes[LEFT_OUT.get(reason, f"answers left out: {reason.words}")] = entry["counts"]
    answers, values, repeated = join_repeats(answers, values)
    report.notes |= {REPEATED: repeated} if repeated else {}
    options = arguments.options()
    return SourceRatings(source, answers, report, options, tuple(scales), values, scales)


def _one_row_each(rows: Dataset, num_proc: int | None) -> Dataset:
    """`ANSWER_FEATURES`, from the cache where they were made before."""
    if not len(rows):
        return Dataset.from_dict({name: [] for name in ANSWER_FEATURES}, features=ANSWER_FEATURES)
    versions = [rated_rows.CACHE_VERSION, CACHE_VERSION]
    fingerprint = datasets.fingerprint.Hasher.hash([versions, rows._fingerprint])
    try:
        return rows.map(
            _flat_batch,
            batched=True,
            remove_columns=rows.column_names,
            features=ANSWER_FEATURES,
            num_proc=map_processes(worker_count(num_proc), len(rows), 2000),
            cache_file_name=str(cache_root() / f"answers-{fingerprint}.arrow"),
            new_fingerprint=fingerprint,
            desc="taking answers apart",
        )
    except OSError as error:
        raise cache_error(error) from error


def _flat_batch(batch: dict[str, list]) -> dict[str, list]:
    flat = [
        {"where": where, **answer}
        for where, answers in zip(batch["where"], batch["answers"], strict=True)
        for answer in answers
    ]
    return {name: [row[name] for row in flat] for name in ANSWER_FEATURES}
