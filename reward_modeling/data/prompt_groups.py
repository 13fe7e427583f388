"""From standard rows to groups of tokens: one prompt, its distinct completions, and the units over them.

Every completion is rendered and tokenised as the whole conversation that it ends, then the longest common
*token* prefix of the group is split off. So nothing depends on how a template cuts its turns, and a completion's
tokens are exactly those of its own row.
"""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value
from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from reward_modeling.data.examples import Example, RowReader
from reward_modeling.data.preferences import read_column
from reward_modeling.data.report import DataReport, DropReason
from reward_modeling.models.tokenizer import common_prefix_length, cut_oldest, end_text, token_ids

CACHE_VERSION = 3  # to be raised when what is written below changes
GROUPS_PER_BATCH = 64
PROBE_ANSWER = "\u00a4"  # a sign that no answer begins with
ROWS_PER_WORKER = 2000  # a worker process costs about as much as tokenising this many rows

GROUP_FEATURES = Features(
    {
        "prefix_ids": List(Value("int32")),
        "completion_ids": List(List(Value("int32"))),
        "prefix_length": Value("int32"),
        "completion_lengths": List(Value("int32")),
        "read_positions": List(List(Value("int32"))),  # per completion, counted from the beginning of the prefix
        "units": List(List(Value("int32"))),  # per unit the numbers of its completions
        "targets": List(List(Value("float32"))),
        "sources": List(Value("string")),
        "where": List(Value("string")),
        "truncated_units": Value("int32"),
        "dropped_reason": List(Value("string")),
        "dropped_where": List(Value("string")),
        "dropped_excerpt": List(Value("string")),
    }
)


@dataclass(frozen=True)
class TokenizeOptions:
    """What decides, beside the rows, their reader and the tokenizer, which tokens a group has.

    `overlong` is "truncate" or "drop".
    """

    max_length: int
    overlong: str = "truncate"


def tokenize_and_group(
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    reader: RowReader,
    options: TokenizeOptions,
    num_proc: int = 1,
) -> Dataset:
    """One row of `GROUP_FEATURES` per prompt, cached on disk; a group may be left without units.

    Args:
        rows: standard rows of the reader; those with a reason are passed over.
    """
    order, starts = _group_order(rows)
    if len(order) == 0:  # map would return no columns
        return Dataset.from_dict({name: [] for name in GROUP_FEATURES}, features=GROUP_FEATURES)
    ranges = Dataset.from_dict({"start": starts[:-1], "end": starts[1:]})
    fingerprint = _fingerprint(rows, tokenizer, reader, options)
    cache_folder = Path(datasets.config.HF_DATASETS_CACHE) / "reward_modeling"
    cache_folder.mkdir(parents=True, exist_ok=True)
    workers = max(1, min(num_proc, len(order) // ROWS_PER_WORKER))
    return ranges.map(
        _tokenize_batch,
        batched=True,
        batch_size=GROUPS_PER_BATCH,
        remove_columns=["start", "end"],
        features=GROUP_FEATURES,
        fn_kwargs={"rows": rows.select(order), "tokenizer": tokenizer, "reader": reader, "options": options},
        num_proc=workers if workers > 1 else None,
        cache_file_name=str(cache_folder / f"groups-{fingerprint}.arrow"),
        new_fingerprint=fingerprint,
        desc="Tokenising groups",
    )


def _group_order(rows: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The kept rows with equal prompts side by side, and where each group starts, `(groups + 1,)`.

    Groups stand in the order in which their prompts first appear, so that reading them is nearly sequential.
    """
    kept = np.flatnonzero(pc.equal(read_column(rows, "reason"), "").to_numpy())
    keys = read_column(rows, "prompt_key").to_numpy()[kept]
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    group = np.argsort(np.argsort(first))[inverse]
    order = np.argsort(group, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=len(first)))])
    return kept[order], starts.astype(np.int64)


def _fingerprint(rows: Dataset, tokenizer: PreTrainedTokenizerBase, reader: RowReader, options: TokenizeOptions) -> str:
    parts = [
        CACHE_VERSION,
        rows._fingerprint,
        tokenizer.backend_tokenizer.to_str(),
        tokenizer.chat_template,
        tokenizer.special_tokens_map,
        repr(reader),
        options,
    ]
    return datasets.fingerprint.Hasher.hash(parts)


@dataclass
class _Completion:
    rendered: str | None  # None: the template refuses it
    refusal: str = ""
    ids: tuple[int, ...] = ()


class _Row(NamedTuple):
    columns: dict
    example: Example
    completions: list[_Completion]  # those of the example; rows of a group share equal ones


def _tokenize_batch(
    batch: dict, rows: Dataset, tokenizer: PreTrainedTokenizerBase, reader: RowReader, options: TokenizeOptions
) -> dict:
    first = batch["start"][0]
    columns = rows[first : batch["end"][-1]]
    table = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    groups: list[list[_Row]] = []
    for start, end in zip(batch["start"], batch["end"], strict=True):
        # equal keys of different prompts are all but impossible, and would share a prefix that is not theirs
        by_prompt: dict[str, list[dict]] = {}
        for row in table[start - first : end - first]:
            by_prompt.setdefault(row["prompt"], []).append(row)
        groups += [_render_group(group, tokenizer, reader) for group in by_prompt.values()]
    _tokenize_completions([each for group in groups for row in group for each in row.completions], tokenizer)
    records = [_build_group(group, tokenizer, reader, options) for group in groups]
    return {name: [record[name] for record in records] for name in GROUP_FEATURES}


def _render_group(rows: list[dict], tokenizer: PreTrainedTokenizerBase, reader: RowReader) -> list[_Row]:
    """The rows of one prompt, each distinct completion rendered once as the whole conversation that it ends."""
    prompt = None if rows[0]["is_text"] else json.loads(rows[0]["prompt"])
    render = functools.cache(lambda completion: _render(prompt, completion, tokenizer))
    examples = [reader.read_row(row) for row in rows]
    return [
        _Row(row, example, list(map(render, example.completions))) for row, example in zip(rows, examples, strict=True)
    ]


def _render(prompt: list[dict] | None, completion: str, tokenizer: PreTrainedTokenizerBase) -> _Completion:
    if prompt is None:
        return _Completion(end_text(completion, tokenizer))
    try:
        return _Completion(tokenizer.apply_chat_template(prompt + json.loads(completion), tokenize=False))
    except TemplateError as error:
        return _Completion(None, refusal=str(error))


def _tokenize_completions(completions: list[_Completion], tokenizer: PreTrainedTokenizerBase) -> None:
    """Fill in the ids, of each completion once."""
    renderable = [each for each in {id(each): each for each in completions}.values() if each.rendered is not None]
    if not renderable:
        return
    texts = [completion.rendered for completion in renderable]
    for completion, ids in zip(renderable, token_ids(texts, tokenizer), strict=True):
        completion.ids = tuple(ids)


def _build_group(
    group: list[_Row], tokenizer: PreTrainedTokenizerBase, reader: RowReader, options: TokenizeOptions
) -> dict:
    """Check the rows of one prompt against their tokens, cut what is too long, split off the shared prefix."""
    record = {name: [] for name in GROUP_FEATURES}

    def drop(row: _Row, reason: DropReason, detail: str = "") -> None:
        record["dropped_reason"].append(reason)
        record["dropped_where"].append(row.columns["where"])
        record["dropped_excerpt"].append(detail or reader.excerpt(row.columns))

    kept = _usable_rows(group, drop)
    usable = _distinct_ids(kept)
    prompt_length = functools.cache(lambda: _prompt_length(group[0], usable, tokenizer))
    if any(len(ids) > options.max_length for ids in usable):
        kept_bos = 1 if usable[0][:1] == (tokenizer.bos_token_id,) else 0
        kept = _drop_too_long(kept, prompt_length() - kept_bos, options, drop)
    whole = _distinct_ids(kept)
    # the oldest tokens of the prompt go, the same number for every completion
    cut = max([0, *(len(ids) - options.max_length for ids in whole)])
    sequences = [cut_oldest(list(ids), cut, tokenizer) for ids in whole]
    prefix_length = common_prefix_length(sequences)
    record["prefix_ids"] = sequences[0][:prefix_length] if sequences else []
    record["completion_ids"] = [ids[prefix_length:] for ids in sequences]
    record["prefix_length"] = prefix_length
    record["completion_lengths"] = list(map(len, record["completion_ids"]))
    positions = (reader.read_positions(ids, prompt_length) for ids in whole)
    record["read_positions"] = [[position - cut for position in of_completion] for of_completion in positions]
    number_of = {ids: number for number, ids in enumerate(whole)}
    for row in kept:
        numbers = [number_of[completion.ids] for completion in row.completions]
        units = [[numbers[place] for place in unit] for unit in row.example.units]
        record["units"] += units
        record["targets"] += row.example.targets
        record["sources"] += [row.columns["source"]] * len(units)
        record["where"] += [row.columns["where"]] * len(units)
    record["truncated_units"] = len(record["units"]) if cut else 0
    return record


def _usable_rows(group: list[_Row], drop: Callable) -> list[_Row]:
    """The rows whose completions the template renders, differ in tokens, and are not those of an earlier row."""
    kept: dict[tuple, _Row] = {}  # by tokens: texts that differ in white space are one
    for row in group:
        refusals = [completion.refusal for completion in row.completions if completion.rendered is None]
        ids = tuple(completion.ids for completion in row.completions)
        if refusals:
            drop(row, DropReason.TEMPLATE_REFUSES, next(filter(None, refusals), ""))
        elif any(len(unit) > 1 and len({ids[number] for number in unit}) == 1 for unit in row.example.units):
            drop(row, DropReason.IDENTICAL_TOKENS)
        elif ids in kept:
            drop(row, DropReason.DUPLICATE_PAIR)
        else:
            kept[ids] = row
    return list(kept.values())


def _prompt_length(row: _Row, sequences: list[tuple[int, ...]], tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of the prompt, the header of the answer included: what all answers share with one more, unlike them all.

    Plain texts name no prompt: there it is what the texts share.
    """
    if not row.columns["is_text"]:
        answer = json.dumps([{"role": "assistant", "content": PROBE_ANSWER}])
        probe = _render(json.loads(row.columns["prompt"]), answer, tokenizer)
        _tokenize_completions([probe], tokenizer)
        sequences = [*sequences, probe.ids]
    return common_prefix_length(sequences)


def _drop_too_long(rows: list[_Row], removable: int, options: TokenizeOptions, drop: Callable) -> list[_Row]:
    """The rows that fit once the prompt is cut by up to `removable` tokens; what is not prompt is never cut."""
    kept = []
    for row in rows:
        excess = max(len(completion.ids) for completion in row.completions) - options.max_length
        if excess > max(0, removable):
            drop(row, DropReason.COMPLETION_TOO_LONG)
        elif excess > 0 and options.overlong == "drop":
            drop(row, DropReason.OVERLONG)
        else:
            kept.append(row)
    return kept


def _distinct_ids(rows: list[_Row]) -> list[tuple[int, ...]]:
    """Token sequences in order of first use, each once: different texts may have the same tokens."""
    return list(dict.fromkeys(completion.ids for row in rows for completion in row.completions))


def report_groups(report: DataReport, groups: Dataset, unit: str) -> None:
    """Add to the report of the rows what tokenising dropped and cut."""
    column = groups.data.column
    names = ("dropped_reason", "dropped_where", "dropped_excerpt")
    dropped = (column(name).combine_chunks().flatten().to_pylist() for name in names)
    for reason, where, excerpt in zip(*dropped, strict=True):
        report.add(reason, 1, where, excerpt)
    note = f"{unit} whose prompt was cut to max_length"  # training and held-out groups add to one report
    report.notes[note] = report.notes.get(note, 0) + int(column("truncated_units").to_numpy().sum())
