"""From paths to groups of tokens, for training and for evaluation, with the report of what was kept."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

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
    def evaluation_sets(self) -> list[PromptGroups]:
        """Every one, with a name or without; the first decides which model is best."""
        return list(self.evaluations.values()) or ([] if self.evaluation is None else [self.evaluation])

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
    read_rows = partial(_load, reader, num_proc=num_proc, read=read)
    sets = _read_sets(train_set_path, eval_set_path, read_rows, read.revision)
    report, *eval_reports = sets.reports
    reader.check_rows([partial(kept_column, whole) for whole in sets.rows.values()], sets.reports)
    conversations = any(map(has_conversations, sets.rows.values()))
    composer = reader.composer
    rendered = conversations and composer.uses_template
    _check_tokenizer(sets.rows, tokenizer, rendered, ends_answers=composer.ends_answers, plain_text=plain_text)
    parts = [key_by_template(whole, tokenizer, num_proc) for whole in sets.rows.values()]
    if not eval_reports:
        parts = list(split_by_prompt(parts[0], eval_size, seed))
    if max_train_samples is not None:
        parts[0] = _sample(parts[0], max_train_samples, seed, report, reader.unit)
    readers = [reader, *[reader.of_evaluation] * (len(parts) - 1)]
    tokenized = [
        tokenize_and_group(part, tokenizer, its_reader, options, num_proc)
        for part, its_reader in zip(parts, readers, strict=True)
    ]
    for part, its_report in zip(tokenized, sets.reports if eval_reports else [report, report], strict=True):
        report_groups(its_report, part, reader.unit)
    train_groups, *others = map(PromptGroups, tokenized)
    report.notes["prompts"] = int((train_groups.sizes.units_per_group > 0).sum())
    if not eval_reports:
        report.notes[f"{reader.unit} held out for evaluation"] = len(others[0])
    for part, groups, its_report in zip(parts[1:], others, eval_reports, strict=False):
        if not len(groups):
            raise UserError(
                f"--eval_set_path {in_words(sets.eval_paths)}: no row is left to evaluate on.\n{its_report.table()}"
            )
        _report_overlap(parts[0], part, its_report)
    return PreparedPairs(
        train_groups,
        others[0] if len(others[0]) else None,
        sets.reports,
        conversations,
        {} if "" in sets.eval_paths else dict(zip(sets.eval_paths, others, strict=False)),
        reports_of_sets("train", sets.train_paths, sets.train_rows, tokenized[: 1 if eval_reports else 2]),
    )


class _Sets(NamedTuple):
    """The rows as they were read, with the counts of each set."""

    train_paths: list[str]
    eval_paths: dict[str, list[str]]
    train_rows: list[Dataset]
    rows: dict[str, Dataset]
    """By the name of the report: all training sets joined under "train", then each evaluation set."""
    reports: list[DataReport]


def _read_sets(
    train_set_path: str | Sequence[str],
    eval_set_path: str | Sequence[str] | None,
    read_rows: Callable[[str, str], Dataset],
    revision: str | None,
) -> _Sets:
    """
    Args:
        read_rows: from a flag and a path to rows.

    Raises:
        UserError: unreadable data, or no usable row to train on.
    """
    paths, eval_paths = set_paths(train_set_path), evaluation_paths(eval_set_path)
    check_revision(revision, [*paths, *(path for of in eval_paths.values() for path in of)])
    train_rows = [read_rows("--train_set_path", path) for path in paths]
    rows = {"train": join_sets(train_rows)}
    reports = [report_rows("train", rows["train"])]
    if reports[0].kept == 0:
        raise UserError(f"--train_set_path {', '.join(paths)}: no row is left to train on.\n{reports[0].table()}")
    for name, of in eval_paths.items():
        words = f"eval {name}".strip()
        rows[words] = join_sets([read_rows("--eval_set_path", path) for path in of])
        reports.append(report_rows(words, rows[words]))
    return _Sets(paths, eval_paths, train_rows, rows, reports)


def _check_tokenizer(
    sets: dict[str, Dataset],
    tokenizer: PreTrainedTokenizerBase,
    rendered: bool,
    *,
    ends_answers: bool,
    plain_text: bool,
) -> None:
    """
    Args:
        rendered: whether rows are written by the chat template.
        ends_answers: of the composer of the rows.

    Raises:
        UserError: conversations beside a tokenizer without a fit chat template; plain texts beside one that has one.
    """
    if rendered:
        check_chat_template(tokenizer, ends_answers=ends_answers)
    if plain_text:
        return
    for words, rows in sets.items():
        flag = "--train_set_path" if words == "train" else "--eval_set_path"
        refuse_plain_texts(int(pc.sum(kept_column(rows, "is_text")).as_py() or 0), flag, tokenizer)


def _sample(rows: Dataset, most: int, seed: int, report: DataReport, unit: str) -> Dataset:
    """The part of the training rows that --max_train_samples asks for."""
    sample, left_out = sample_by_prompt(rows, most, seed)
    report.notes[f"{unit} left out by --max_train_samples"] = left_out
    if len(kept_rows(sample)):
        return sample
    raise UserError(
        f"--max_train_samples {most}: expected at least as many as one prompt has, found no prompt with so few {unit}."
    )


def check_chat_template(tokenizer: PreTrainedTokenizerBase, *, ends_answers: bool = True) -> None:
    """
    Args:
        ends_answers: rows end in an answer, as the template ends it.

    Raises:
        UserError: there is none, or it cannot be trained on.
    """
    if tokenizer.chat_template is None:
        raise UserError(no_chat_template(tokenizer))
    if ends_answers:
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
