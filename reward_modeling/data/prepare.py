"""From paths to groups of tokens, for training and for evaluation, with the report of what was kept."""

import json
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow.compute as pc
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from reward_modeling.common.errors import UserError
from reward_modeling.data.examples import RowReader
from reward_modeling.data.loader import PromptGroups
from reward_modeling.data.preferences import NO_OPTIONS, kept_column, split_by_prompt
from reward_modeling.data.prompt_groups import TokenizeOptions, report_groups, tokenize_and_group
from reward_modeling.data.read_options import ReadOptions
from reward_modeling.data.report import LOUD_SHARE_DROPPED, DataReport, report_rows
from reward_modeling.models.tokenizer import no_chat_template, refuse_plain_texts

logger = logging.getLogger(__name__)


@dataclass
class PreparedPairs:
    """What a run trains on, what it is evaluated on (or None), and the count of every row."""

    train: PromptGroups
    evaluation: PromptGroups | None
    reports: list[DataReport]
    conversations: bool


def prepare_pairs(
    train_set_path: str,
    eval_set_path: str | None,
    tokenizer: PreTrainedTokenizerBase,
    reader: RowReader,
    options: TokenizeOptions,
    *,
    eval_size: int,
    seed: int,
    num_proc: int,
    read: ReadOptions = NO_OPTIONS,
    plain_text: bool = False,
) -> PreparedPairs:
    """Read, check, hold out by prompt where there is no evaluation set, tokenise and group.

    Raises:
        UserError: unreadable data, no usable row, conversations for a tokenizer without a chat template.
    """
    rows = _load(reader, "--train_set_path", train_set_path, num_proc, read)
    report = report_rows("train", rows)
    if report.kept == 0:
        raise UserError(f"--train_set_path {train_set_path}: no row is left to train on.\n{report.table()}")
    if eval_set_path is None:
        train_rows, eval_rows = split_by_prompt(rows, eval_size, seed)
        reports = [report]
    else:
        train_rows, eval_rows = rows, _load(reader, "--eval_set_path", eval_set_path, num_proc, read)
        reports = [report, report_rows("eval", eval_rows)]
    whole_sets = [rows] if eval_set_path is None else [rows, eval_rows]
    reader.check_rows([partial(kept_column, whole) for whole in whole_sets], reports)
    conversations = has_conversations(rows) or has_conversations(eval_rows)
    if conversations and tokenizer.chat_template is None:
        raise UserError(no_chat_template(tokenizer))
    if not plain_text:
        for flag, whole in zip(("--train_set_path", "--eval_set_path"), whole_sets, strict=False):
            refuse_plain_texts(int(pc.sum(kept_column(whole, "is_text")).as_py() or 0), flag, tokenizer)

    groups = []
    for part, its_report in ((train_rows, report), (eval_rows, reports[-1])):
        tokenized = tokenize_and_group(part, tokenizer, reader, options, num_proc)
        report_groups(its_report, tokenized, reader.unit)
        groups.append(PromptGroups(tokenized))
    train_groups, eval_groups = groups
    report.notes["prompts"] = int((train_groups.sizes.units_per_group > 0).sum())
    if eval_set_path is None:
        report.notes[f"{reader.unit} held out for evaluation"] = len(eval_groups)
    elif not len(eval_groups):
        raise UserError(f"--eval_set_path {eval_set_path}: no row is left to evaluate on.\n{reports[1].table()}")
    else:
        _report_overlap(train_rows, eval_rows, reports[1])
    return PreparedPairs(train_groups, eval_groups if len(eval_groups) else None, reports, conversations)


def _report_overlap(train_rows: Dataset, eval_rows: Dataset, report: DataReport) -> None:
    """Say how many evaluation rows have a prompt that is trained on."""
    train_keys, eval_keys = (kept_column(rows, "prompt_key") for rows in (train_rows, eval_rows))
    shared = pc.sum(pc.is_in(eval_keys, value_set=train_keys.combine_chunks())).as_py() or 0
    if shared:
        report.notes["rows whose prompt is also trained on"] = shared
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
