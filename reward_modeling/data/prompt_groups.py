"""From standard rows to groups of tokens: one prompt, its distinct completions, and the units over them.

Every completion is rendered and tokenised as the whole conversation that it ends, then the longest common
*token* prefix of the group is split off. So nothing depends on how a template cuts its turns, and a completion's
tokens are exactly those of its own row.
"""

from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value
from transformers import PreTrainedTokenizerBase

from reward_modeling.data.examples import RowReader
from reward_modeling.data.group_rows import GroupBuilder, TokenizeOptions
from reward_modeling.data.preferences import read_column
from reward_modeling.data.rendered_rows import GroupRow, RowRenderer
from reward_modeling.data.report import CUT_UNITS, NOTED_ROWS, TOKENS_CUT, DataReport

CACHE_VERSION = 12  # to be raised when what is written below changes
GROUPS_PER_BATCH = 64
ROWS_PER_WORKER = 2000  # a worker process costs about as much as tokenising this many rows

GROUP_FEATURES = Features(
    {
        "prefix_ids": List(Value("int32")),
        "completion_ids": List(List(Value("int32"))),
        "prefix_length": Value("int32"),
        "completion_lengths": List(Value("int32")),
        "shared_lengths": List(Value("int32")),  # per completion, with the one before it, see shared_beginnings.py
        "characters": List(Value("int32")),  # of what each completion says, without the marks of the template
        "read_positions": List(List(Value("int32"))),  # per completion, counted from the beginning of the prefix
        "units": List(List(Value("int32"))),  # per unit the numbers of its completions
        "targets": List(List(Value("float32"))),
        "weights": List(Value("float64")),  # of each unit in the loss
        "shares": List(Value("float64")),  # of each unit in a step
        "unfinished": List(Value("bool")),  # of each unit, see `examples.Example`
        "sources": List(Value("string")),
        "where": List(Value("string")),
        "truncated_units": Value("int32"),
        "unknown_tokens": List(Value("int32")),  # per completion, those of the prefix with it
        "dropped_reason": List(Value("string")),
        "dropped_where": List(Value("string")),
        "dropped_excerpt": List(Value("string")),
        "noted_what": List(Value("string")),  # see `report.NOTED_ROWS`
        "noted_count": List(Value("int32")),
        "noted_where": List(Value("string")),
        "noted_excerpt": List(Value("string")),
    }
)


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


def _tokenize_batch(
    batch: dict, rows: Dataset, tokenizer: PreTrainedTokenizerBase, reader: RowReader, options: TokenizeOptions
) -> dict:
    first = batch["start"][0]
    columns = rows[first : batch["end"][-1]]
    table = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    renderer, builder = RowRenderer(tokenizer, reader), GroupBuilder(tokenizer, reader, options)
    groups: list[list[GroupRow]] = []
    for start, end in zip(batch["start"], batch["end"], strict=True):
        for of_prompt in renderer.split_by_prompt(table[start - first : end - first]):
            groups.append(renderer.render_rows(of_prompt))
    renderer.tokenize(groups)
    records = [builder.build(group) for group in groups]
    return {name: [record[name] for record in records] for name in GROUP_FEATURES}


def report_groups(report: DataReport, groups: Dataset, unit: str) -> None:
    """Add to the report of the rows what tokenising dropped and cut, and what it met in rows that are kept.

    Training and held-out groups add to one report.
    """
    column = groups.data.column

    def flat(prefix: str, *names: str) -> Iterator[tuple]:
        return zip(*(column(f"{prefix}_{name}").combine_chunks().flatten().to_pylist() for name in names), strict=True)

    for reason, where, excerpt in flat("dropped", "reason", "where", "excerpt"):
        report.add(reason, 1, where, excerpt)
    report.note(f"{unit} {CUT_UNITS}", int(column("truncated_units").to_numpy().sum()))
    lengths = column("completion_lengths").combine_chunks()
    shared = pc.multiply(column("prefix_length").combine_chunks(), pc.list_value_length(lengths))
    report.tokens += (pc.sum(lengths.flatten()).as_py() or 0) + (pc.sum(shared).as_py() or 0)
    report.unknown_tokens += pc.sum(column("unknown_tokens").combine_chunks().flatten()).as_py() or 0
    noted = flat("noted", "what", "count", "where", "excerpt")
    for what, count, where, excerpt in sorted(noted, key=lambda note: note[0]):  # of each kind in the rows' order
        if what == "cut":
            report.note(TOKENS_CUT, count, where)
        else:
            report.note(NOTED_ROWS[what.partition(" ")[0]].format(what.partition(" ")[2]), 1, f"{where}  {excerpt}")
