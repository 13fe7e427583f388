"""One group from the rendered rows of one prompt: checked, cut where it is too long, split at what its answers share.

`prompt_groups` calls this for a batch of groups; nothing here knows files or caches.
"""

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from reward_modeling.common.prefixes import common_prefix_length
from reward_modeling.data.examples import RowReader
from reward_modeling.data.losses import unwritten_tools
from reward_modeling.data.rendered_rows import GroupRow, PieceIds
from reward_modeling.data.rendering import PROBE_ANSWER, read_options, render
from reward_modeling.data.report import DropReason
from reward_modeling.data.shared_beginnings import shared_with_previous
from reward_modeling.data.truncation import PromptCutter, TextCutter
from reward_modeling.models.tokenizer import token_ids


@dataclass(frozen=True)
class TokenizeOptions:
    """What decides, beside the rows, their reader and the tokenizer, which tokens a group has.

    `overlong` is "truncate" or "drop".
    """

    max_length: int
    overlong: str = "truncate"


class Cut(NamedTuple):
    """What is kept of a group, and the ids of its conversations by what they were before they were cut."""

    rows: list[GroupRow]
    sequences: dict[PieceIds, list[int]]
    prompt: list[dict] | None = None  # what is left of the messages, where some were cut


class GroupBuilder:
    """Makes groups for one tokenizer, one reader and one set of options."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, reader: RowReader, options: TokenizeOptions) -> None:
        self.tokenizer, self.reader, self.options = tokenizer, reader, options
        self.text_cutter = TextCutter(options.max_length, tokenizer)
        # GPT-2 and its like call EOS unknown, and know every text
        others = (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id)
        self.unknown = None if tokenizer.unk_token_id in others else tokenizer.unk_token_id

    def build(self, group: list[GroupRow]) -> dict[str, object]:
        """Check the rows of one prompt against their tokens, cut what is too long, split off the shared prefix."""
        notes = _Notes(self.reader)
        kept = _usable_rows(group, self.reader, notes.drop)
        cut = Cut(kept, {key: list(key.ids) for key in _distinct_keys(kept)})
        if any(len(key.ids) > self.options.max_length for key in cut.sequences):
            cut = self._cut_texts(kept, notes) if group[0].columns["is_text"] else self._cut_prompt(kept, notes)
        if self.reader.shares_beginnings:
            cut = cut._replace(sequences=dict(sorted(cut.sequences.items(), key=lambda item: item[1])))
        sequences = list(cut.sequences.values())
        prefix_length = common_prefix_length(sequences)
        shared = [0] * len(sequences)
        if self.reader.shares_beginnings:
            shared = shared_with_previous(sequences, prefix_length)
        number_of = {key: number for number, key in enumerate(cut.sequences)}
        characters = {each.key: each.characters for row in cut.rows for each in row.completions}
        for row in cut.rows:
            self._note(row, cut, notes)
        units = [
            (row, [number_of[row.completions[place].key] for place in unit])
            for row in cut.rows
            for unit in row.example.units
        ]
        is_cut = cut.prompt is not None or any(len(whole.ids) > len(ids) for whole, ids in cut.sequences.items())
        return {
            "prefix_ids": sequences[0][:prefix_length] if sequences else [],
            "completion_ids": [ids[prefix_length:] for ids in sequences],
            "prefix_length": prefix_length,
            "completion_lengths": [len(ids) - prefix_length for ids in sequences],
            "shared_lengths": shared,
            "characters": [characters[key] for key in cut.sequences],
            "read_positions": self._read_positions(group[0], cut),
            "units": [numbers for _, numbers in units],
            "targets": [targets for row in cut.rows for targets in row.example.targets],
            "weights": [each for row in cut.rows for each in row.example.weights or [1.0] * len(row.example.units)],
            "shares": [each for row in cut.rows for each in row.example.shares or [1.0] * len(row.example.units)],
            "unfinished": [each for row in cut.rows for each in row.example.unfinished],
            "sources": [row.columns["source"] for row, _ in units],
            "where": [row.columns["where"] for row, _ in units],
            "truncated_units": len(units) if is_cut else 0,
            "unknown_tokens": [0 if self.unknown is None else ids.count(self.unknown) for ids in sequences],
            **notes.columns,
        }

    def _cut_texts(self, rows: list[GroupRow], notes: "_Notes") -> Cut:
        """Each by itself, as far as the beginning that they share reaches."""
        usable = _distinct_keys(rows)
        cut = {key: self.text_cutter.cut(key.ids) for key in usable}
        shared = common_prefix_length([key.ids for key in usable])
        loses = {key: len(key.ids) - len(cut[key]) + len(self.text_cutter.mark) for key in usable}
        bos = 1 if usable[0].ids[:1] == (self.text_cutter.bos,) else 0
        too_long = {key for key in usable if len(cut[key]) < len(key.ids) and loses[key] > shared - bos}
        rows = self._drop_too_long(rows, too_long, notes)
        return Cut(rows, {key: cut[key] for key in _distinct_keys(rows)})

    def _cut_prompt(self, rows: list[GroupRow], notes: "_Notes") -> Cut:
        """The prompt, by the same messages for all answers."""
        columns = rows[0].columns
        options = read_options(columns["template_options"])
        prompt, composer = json.loads(columns["prompt"]), self.reader.composer
        cutter = PromptCutter(prompt, options, self.options.max_length, self.tokenizer, composer)
        answers = {each.key: each.answer for row in rows for each in row.completions}
        cut = None if self.options.overlong == "drop" else cutter.cut(list(answers.values()))
        if cut is None:
            fits = dict(zip(answers, cutter.fits(list(answers.values())), strict=True))
            too_long = {key for key in answers if not fits[key]}
            rows = self._drop_too_long(rows, too_long, notes, cutter.words_of_system)
            answers = {key: answers[key] for key in _distinct_keys(rows)}
            if all(len(key.ids) <= self.options.max_length for key in answers):
                return Cut(rows, {key: list(key.ids) for key in answers})
            cut = cutter.cut(list(answers.values()))
        if cut is None:  # a template that refuses what is left, or writes more of it than of the whole
            for row in rows:
                notes.drop(row, DropReason.OVERLONG)
            return Cut([], {})
        return Cut(rows, dict(zip(answers, cut.ids, strict=True)), cut.prompt)

    def _drop_too_long(
        self, rows: list[GroupRow], too_long: set[PieceIds], notes: "_Notes", detail: str = ""
    ) -> list[GroupRow]:
        kept = []
        for row in rows:
            if any(completion.key in too_long for completion in row.completions):
                notes.drop(row, DropReason.COMPLETION_TOO_LONG, detail)
            elif self.options.overlong == "drop" and _longest(row) > self.options.max_length:
                notes.drop(row, DropReason.OVERLONG)
            else:
                kept.append(row)
        return kept

    def _read_positions(self, row: GroupRow, cut: Cut) -> list[list[int]]:
        """Which tokens of each conversation are read, counted from its beginning."""
        if cut.prompt is None:
            length = functools.cache(lambda: self._prompt_length(row, [key.ids for key in cut.sequences], None))
            positions = ((key, self.reader.read_positions(key.ids, length, key.piece_lengths)) for key in cut.sequences)
            lost = {key: len(key.ids) - len(ids) for key, ids in cut.sequences.items()}
            return [[position - lost[key] for position in of_one] for key, of_one in positions]
        length = functools.cache(lambda: self._prompt_length(row, list(cut.sequences.values()), cut.prompt))
        return [self.reader.read_positions(ids, length, key.piece_lengths) for key, ids in cut.sequences.items()]

    def _prompt_length(self, row: GroupRow, sequences: list[Sequence[int]], prompt: list[dict] | None) -> int:
        """Tokens of the prompt, the header of the answer included: what all answers share with one more, unlike them.

        Plain texts name no prompt: there it is what the texts share.
        """
        if not row.columns["is_text"]:
            prompt = json.loads(row.columns["prompt"]) if prompt is None else prompt
            answer = {"role": "assistant", "content": PROBE_ANSWER}
            text = render([*prompt, answer], read_options(row.columns["template_options"]), self.tokenizer)
            kind = type(sequences[0])
            sequences = [*sequences, kind(token_ids([text], self.tokenizer)[0])]
        return common_prefix_length(sequences)

    # --- what is worth a word ---

    def _note(self, row: GroupRow, cut: Cut, notes: "_Notes") -> None:
        """What a report counts of a row that is kept."""
        lost = sum(len(each.ids) - len(cut.sequences[each.key]) for each in row.completions)
        if lost > 0:
            notes.add(row, "cut", lost)
        names, found = self.reader.completion_names, {}
        for number, completion in enumerate(row.completions):
            side = names[number] if len(row.completions) == len(names) else "answers"
            if mark := completion.control_token or completion.foreign_mark:
                found.setdefault(f"{'control' if completion.control_token else 'foreign'} {side}", mark)
            if completion.escaped_mark:
                found.setdefault("escaped", completion.escaped_mark)
        for what in self.reader.notes(row.columns):
            notes.add(row, what, 1)
        for what, mark in found.items():
            notes.add(row, what, 1, repr(mark))
        if self.unknown is not None and (unknown := sum(each.ids.count(self.unknown) for each in row.completions)):
            notes.add(row, "unknown", unknown)
        if any(completion.losses.thoughts for completion in row.completions):
            notes.add(row, "thoughts", 1)
        if row.columns["template_options"] and (text := row.completions[0].rendered) is not None:
            tools = unwritten_tools(read_options(row.columns["template_options"]), text)
            if tools:
                notes.add(row, "tools", 1, ", ".join(tools))


class _Notes:
    """Columns of a group that say which rows were dropped, and what is noted of rows that are kept."""

    def __init__(self, reader: RowReader) -> None:
        self.reader = reader
        self.columns: dict[str, list] = {
            **{f"dropped_{name}": [] for name in ("reason", "where", "excerpt")},
            **{f"noted_{name}": [] for name in ("what", "count", "where", "excerpt")},
        }

    def drop(self, row: GroupRow, reason: DropReason, detail: str = "") -> None:
        self.columns["dropped_reason"].append(reason)
        self.columns["dropped_where"].append(row.columns["where"])
        self.columns["dropped_excerpt"].append(detail or self.reader.excerpt(row.columns))

    def add(self, row: GroupRow, what: str, count: int, excerpt: str = "") -> None:
        self.columns["noted_what"].append(what)
        self.columns["noted_count"].append(count)
        self.columns["noted_where"].append(row.columns["where"])
        self.columns["noted_excerpt"].append(excerpt)


def _usable_rows(group: list[GroupRow], reader: RowReader, drop: Callable) -> list[GroupRow]:
    """Rows whose completions the template renders whole, differ in tokens, and are not those of an earlier row."""
    # By tokens and pieces, since texts that differ in white space are one, and by what is said of them: two people who
    # do not agree on a pair, or on the order of a list, are two rows.
    kept: dict[tuple, GroupRow] = {}
    for row in group:
        refusals = [completion.refusal for completion in row.completions if completion.rendered is None]
        losses = [completion.losses for completion in row.completions]
        ids = tuple(completion.ids for completion in row.completions)
        example, keys = row.example, tuple(completion.key for completion in row.completions)
        said = (keys, *(tuple(map(tuple, of)) for of in (example.units, example.targets)), tuple(example.weights))
        if (reason := reader.drop_reason(row.columns)) is not None:
            drop(row, reason)
        elif refusals:
            drop(row, DropReason.TEMPLATE_REFUSES, next(filter(None, refusals), ""))
        elif words := next((each.answer for each in losses if each.answer), ""):
            drop(row, DropReason.ANSWER_LOSES_TEXT, words)
        elif words := next((each.message for each in losses if each.message), ""):
            drop(row, DropReason.MESSAGE_VANISHES, words)
        elif any(len({ids[number] for number in unit}) < len(unit) for unit in row.example.units):
            drop(row, DropReason.IDENTICAL_TOKENS)
        elif said in kept:
            drop(row, DropReason.DUPLICATE_PAIR)
        else:
            kept[said] = row
    return list(kept.values())


def _distinct_keys(rows: list[GroupRow]) -> list[PieceIds]:
    """Of the completions in order of first use, each once: different texts may have the same tokens."""
    return list(dict.fromkeys(completion.key for row in rows for completion in row.completions))


def _longest(row: GroupRow) -> int:
    return max(len(completion.ids) for completion in row.completions)
