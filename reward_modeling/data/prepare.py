"""From paths to groups of tokens, for training and for evaluation, with the report of what was kept."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyarrow.compute as pc
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from reward_modeling.common.errors import UserError
from reward_modeling.data.examples import RowReader
from reward_modeling.data.group_rows import TokenizeOptions
from reward_modeling.data.loader import PromptGroups
from reward_modeling.data.preferences import NO_OPTIONS, kept_column, kept_rows, sample_by_prompt, split_by_prompt
from reward_modeling.data.prompt_groups import report_groups, tokenize_and_group
from reward_modeling.data.prompt_keys import key_by_template
from reward_modeling.data.read_options import ReadOptions
from reward_modeling.data.rendering import check_template
from reward_modeling.data.report import LOUD_SHARE_DROPPED, DataReport, report_rows
from reward_modeling.data.row_sets import join_sets, reports_of_sets
from reward_modeling.data.set_paths import check_revision, evaluation_paths, in_words, set_paths
from reward_modeling.models.tokenizer import no_chat_template, refuse_plain_texts

logger = logging.getLogger(__name__)

OVERLAP = "rows whose prompt is also trained on"


@dataclass
class PreparedPairs:
    """What a run trains on, what it is evaluated on (or None), and the count of every row.

    `evaluation` is the first of `evaluations`, the sets that have names (none, where the only one has no name).
    `reports` count each row once; `set_reports` are those of several training sets, which the first of them sums up.
    """

    train: PromptGroups
    evaluation: PromptGroups | None
    reports: list[DataReport]
    conversations: bool
    evaluations: dict[str, PromptGroups] = field(default_factory=dict)
    set_reports: list[DataReport] = field(default_factory=list)

    @property
    def all_reports(self) -> list[DataReport]:
        return [*self.reports, *self.set_reports]


def prepare_pairs(
    train_set_path: str | Sequence[str],
    eval_set_path: str | Sequence[str] | None,
    tokenizer: PreTrainedTokenizerBase,
    reader: RowReader,
    options: TokenizeOptions,
    *,
    eval_size: int,
    seed: int,
    num_proc: int,
    read: ReadOptions = NO_OPTIONS,
    plain_text: bool = False,
    max_train_samples: int | None = None,
) -> PreparedPairs:
    """Read, check, hold out by prompt where there is no evaluation set, tokenise and group.

    Args:
        train_set_path, eval_set_path: as `set_paths` and `evaluation_paths` take them.
        max_train_samples: the most pairs to train on, whole prompts only; None for all.

    Raises:
        UserError: unreadable data, no usable row, conversations for a tokenizer whose chat template is none or unfit.
    """
    paths, evaluation_sets = set_paths(train_set_path), evaluation_paths(eval_set_path)
    check_revision(read.revision, [*paths, *(path for of in evaluation_sets.values() for path in of)])
    sets = [_load(reader, "--train_set_path", path, num_proc, read) for path in paths]
    rows = join_sets(sets)
    report = report_rows("train", rows)
    if report.kept == 0:
        raise UserError(f"--train_set_path {', '.join(paths)}: no row is left to train on.\n{report.table()}")
    whole_sets, reports = {"train": rows}, [report]
    for name, of in evaluation_sets.items():
        words = f"eval {name}".strip()
        whole_sets[words] = join_sets([_load(reader, "--eval_set_path", path, num_proc, read) for path in of])
        reports.append(report_rows(words, whole_sets[words]))
    reader.check_rows([partial(kept_column, whole) for whole in whole_sets.values()], reports)
    conversations = any(map(has_conversations, whole_sets.values()))
    if conversations:
        check_chat_template(tokenizer)
    if not plain_text:
        for words, whole in whole_sets.items():
            flag = "--train_set_path" if words == "train" else "--eval_set_path"
            refuse_plain_texts(int(pc.sum(kept_column(whole, "is_text")).as_py() or 0), flag, tokenizer)
    parts = [key_by_template(whole, tokenizer, num_proc) for whole in whole_sets.values()]
    if not evaluation_sets:
        parts = list(split_by_prompt(parts[0], eval_size, seed))
    if max_train_samples is not None:
        parts[0] = _sample(parts[0], max_train_samples, seed, report, reader.unit)
    tokenized = [tokenize_and_group(part, tokenizer, reader, options, num_proc) for part in parts]
    for part, its_report in zip(tokenized, reports if evaluation_sets else [report, report], strict=True):
        report_groups(its_report, part, reader.unit)
    train_groups, *others = map(PromptGroups, tokenized)
    report.notes["prompts"] = int((train_groups.sizes.units_per_group > 0).sum())
    if not evaluation_sets:
        report.notes[f"{reader.unit} held out for evaluation"] = len(others[0])
    for part, groups, its_report in zip(parts[1:], others, reports[1:], strict=False):
        if not len(groups):
            raise UserError(
                f"--eval_set_path {in_words(evaluation_sets)}: no row is left to evaluate on.\n{its_report.table()}"
            )
        _report_overlap(parts[0], part, its_report)
    of_sets = reports_of_sets("train", paths, sets, tokenized[: 1 if evaluation_sets else 2])
    named = {} if "" in evaluation_sets else dict(zip(evaluation_sets, others, strict=False))
    return PreparedPairs(train_groups, others[0] if len(others[0]) else None, reports, conversations, named, of_sets)


def _sample(rows: Dataset, most: int, seed: int, report: DataReport, unit: str) -> Dataset:
    """The part of the training rows that --max_train_samples asks for."""
    sample, left_out = sample_by_prompt(rows, most, seed)
    report.notes[f"{unit} left out by --max_train_samples"] = left_out
    if len(kept_rows(sample)):
        return sample
    raise UserError(
        f"--max_train_samples {most}: expected at least as many as one prompt has, found no prompt with so few pairs."
    )


def check_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """
    Raises:
        UserError: there is none, or it cannot be trained on.
    """
    if tokenizer.chat_template is None:
        raise UserError(no_chat_template(tokenizer))
    check_template(tokenizer)


def _report_overlap(train_rows: Dataset, eval_rows: Dataset, report: DataReport) -> None:
    """Say how many evaluation rows have a prompt that is trained on."""
    train_keys, eval_keys = (kept_column(rows, "prompt_key") for rows in (train_rows, eval_rows))
    shared = pc.sum(pc.is_in(eval_keys, value_set=train_keys.combine_chunks())).as_py() or 0
    if shared:
        report.notes[OVERLAP] = shared
        logger.warning("!!! %d evaluation rows have prompts of the training set: expect figures too good !!!", shared)


def _load(reader: RowReader, flag: str, path: str, num_proc: int, read: ReadOptions) -> Dataset:
    try:
        return reader.load_rows(path, num_proc, read)
    except UserError as error:
        raise UserError(f"{flag}: {error}") from error


def has_conversations(rows: Dataset) -> bool:
    """Whether any kept row is made of messages rather than of plain texts."""
    return bool(pc.any(pc.invert(kept_column(rows, "is_text"))).as_py())


def show_reports(reports: list[DataReport]) -> None:
    """The counts on the screen."""
    for report in reports:
        print(report.table(), flush=True)
        if report.share_dropped > LOUD_SHARE_DROPPED:
            share = 100 * report.share_dropped
            logger.warning("!!! %s: %.1f%% of the rows were dropped; the table above says why !!!", report.name, share)


def write_reports(reports: list[DataReport], json_path: Path) -> None:
    """The counts as JSON."""
    json_path.parent.mkdir(parents=True, exist_ok=True)
    content = {report.name: report.to_dict() for report in reports}
    json_path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
