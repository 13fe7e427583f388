"""From conversations to forward passes for scoring: every text once, a shared prompt once, little padding.

A window of conversations is rendered by the checkpoint's own chat template, tokenised as in training, grouped by
equal prompts, and cut into micro-batches. The plan of a window depends on its conversations alone: on however many
processes it runs, the same passes are computed, and give bit for bit the same rewards.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from reward_modeling.common.errors import UserError
from reward_modeling.data.planning import PADDED, Chunk, GroupSizes, MicroBatch, plan_evaluation
from reward_modeling.data.rendering import TemplateRefuses, render, render_prompt
from reward_modeling.data.truncation import PromptCutter, TextCutter
from reward_modeling.models.tokenizer import common_prefix_length, end_text, token_ids

# Messages, or a plain text that is scored as it stands.
Conversation = Sequence[dict[str, Any]] | str
TEXT_KEY = 256  # characters by which plain texts, which name no prompt, are taken to share one


@dataclass(frozen=True)
class Batches:
    """How texts become forward passes.

    `batching` is "shared_prefix", "packed" or "padded"; a pass has at most `max_tokens` tokens, padding included, or
    a single conversation. With `equal_lengths` only rows of one length make a padded pass: nothing is padded then.
    """

    batching: str
    max_tokens: int
    equal_lengths: bool = False


@dataclass
class ScoringCounts:
    """What a call of `RewardScorer` did. With several processes the passes and their tokens are this process's own."""

    conversations: int = 0
    scored: int = 0  # distinct texts: what is the same is computed once
    cut: int = 0  # conversations that lost tokens to max_length
    cut_tokens: int = 0
    passes: int = 0
    tokens: int = 0  # of all passes, padding included
    not_finite: int = 0  # conversations whose reward is infinite or not a number


@dataclass
class WindowPlan:
    """The passes of one window. `groups[g]` is a row for `MicroBatchCollator`, each completion a unit of its own.

    `indices[g][c]` are the conversations, by their numbers in the input, that completion c of group g stands for.
    """

    groups: list[dict]
    indices: list[list[list[int]]]
    micro_batches: list[MicroBatch]  # the heaviest first

    def scored_by(self, micro_batch: MicroBatch) -> list[list[int]]:
        """For each reward of this pass, in its order, the conversations that it belongs to."""
        return [self.indices[chunk.group][c] for chunk in micro_batch for c in range(chunk.unit_start, chunk.unit_end)]


class ConversationReader:
    """Tokens of conversations, exactly those that training makes of them; errors name a conversation by its number.

    The chat template without a generation prompt; one BOS in front where the template or the tokenizer puts one,
    and not two where both do. What is longer than `max_length` is cut as in training (`data.truncation`): the answers
    of one prompt that are scored together lose the same part of it, as much as the longest needs. An answer that
    training would drop, since it does not fit without its prompt either, loses its oldest tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int | None):
        self.tokenizer = tokenizer
        self.max_length = max_length

    def render(self, index: int, conversation: Conversation) -> str:
        """The text of a conversation, or a UserError where the template refuses it; a plain text ends in EOS."""
        if isinstance(conversation, str):
            return end_text(conversation, self.tokenizer)
        self.check_template()
        try:
            return render(conversation, {}, self.tokenizer)
        except TemplateRefuses as error:
            roles = ", ".join(message["role"] for message in conversation)
            raise UserError(
                f"conversation {index}: the chat template refuses it ({error}). Its roles are {roles}, its first "
                f"message is {conversation[0]['content'][:80]!r}. Pass roles in the order that the template knows."
            ) from error

    def check_template(self) -> None:
        """Raise a UserError where there is no chat template, or several and none for everything."""
        template = self.tokenizer.chat_template
        if not template or (isinstance(template, dict) and "default" not in template):
            raise UserError(
                f"{self.tokenizer.name_or_path}: expected a tokenizer with a chat template, found none. Set "
                "tokenizer.chat_template to the one that the model was trained with, and save the tokenizer beside "
                "the model."
            )

    def refusal(self, conversation: Conversation) -> str:
        """What the chat template says against a conversation; empty if nothing."""
        try:
            render(conversation, {}, self.tokenizer)
        except TemplateRefuses as error:
            return str(error)
        return ""

    def tokenize(self, window: list[tuple[int, Conversation]], counts: ScoringCounts) -> list[list[int]]:
        """Token ids of conversations, at most `max_length` each; `window` has (number in the input, conversation)."""
        rows = token_ids([self.render(*numbered) for numbered in window], self.tokenizer)
        for (index, _), ids in zip(window, rows, strict=True):
            if not ids:
                raise UserError(
                    f"conversation {index}: expected at least one token, found none: the chat template renders it as "
                    "an empty text."
                )
        cut = self._cut([conversation for _, conversation in window], rows)
        for before, after in zip(rows, cut, strict=True):
            counts.cut += len(after) < len(before)
            counts.cut_tokens += max(0, len(before) - len(after))
        return cut

    @cached_property
    def _text_cutter(self) -> TextCutter:
        return TextCutter(self.max_length, self.tokenizer)

    def _cut(self, conversations: list[Conversation], rows: list[list[int]]) -> list[list[int]]:
        """The rows, with those of prompts that have a row beyond `max_length` cut."""
        if self.max_length is None or all(len(ids) <= self.max_length for ids in rows):
            return rows
        cut = [self._text_cutter.cut(ids) for ids in rows]
        of_prompt: dict[str, list[int]] = {}
        for number, conversation in enumerate(conversations):
            if not isinstance(conversation, str):
                of_prompt.setdefault(prompt_key(conversation), []).append(number)
        # as in training, prompts are one where the template makes one of them
        of_text: dict[str, list[int]] = {}
        for numbers in of_prompt.values():
            of_text.setdefault(self._prompt_text(conversations[numbers[0]]), []).extend(numbers)
        for numbers in of_text.values():
            if any(len(rows[number]) > self.max_length for number in numbers):
                self._cut_prompt(numbers, conversations, cut)
        return cut

    def _prompt_text(self, conversation: Conversation) -> str:
        try:
            return render_prompt(conversation[:-1], {}, self.tokenizer)
        except TemplateRefuses:
            return prompt_key(conversation)

    def _cut_prompt(self, numbers: list[int], conversations: list[Conversation], cut: list[list[int]]) -> None:
        """Put in the conversations of one prompt, but those whose answer alone is too long."""
        prompt = list(conversations[numbers[0]][:-1])
        cutter = PromptCutter(prompt, {}, self.max_length, self.tokenizer)
        answers = {number: [conversations[number][-1]] for number in numbers}
        found = cutter.cut(list(answers.values()))
        if found is None:
            fits = cutter.fits(list(answers.values()))
            answers = {number: answers[number] for number, does in zip(numbers, fits, strict=True) if does}
            found = cutter.cut(list(answers.values())) if answers else None
        if found is not None:
            for number, ids in zip(answers, found.ids, strict=True):
                cut[number] = ids


def check_conversation(index: int, conversation: Conversation) -> None:
    """Refuse what is neither a text nor a list of at least one message, each with a role and a content as texts."""
    if isinstance(conversation, str) and conversation.strip():
        return
    if not isinstance(conversation, (list, tuple)):
        raise UserError(
            f"conversation {index}: expected a list of messages, [{{'role': ..., 'content': ...}}, ...], found "
            f"{type(conversation).__name__} {str(conversation)[:80]!r}. Pass each conversation as a list."
        )
    if not conversation:
        raise UserError(f"conversation {index}: expected at least one message, found none. Leave it out.")
    for number, message in enumerate(conversation):
        fields = [message.get(name) for name in ("role", "content")] if isinstance(message, dict) else [None]
        if not all(isinstance(value, str) for value in fields):
            raise UserError(
                f"conversation {index}, message {number}: expected role and content as texts, found "
                f"{str(message)[:120]!r}. Pass messages as {{'role': ..., 'content': ...}}."
            )


def prompt_key(conversation: Conversation) -> str:
    """Equal for conversations that differ in the last message alone, and for plain texts that begin alike.

    It decides what is computed together, never what comes out: only tokens that are really equal are shared.
    """
    if isinstance(conversation, str):
        return conversation[:TEXT_KEY]
    return json.dumps(list(conversation[:-1]), sort_keys=True, default=str)


def plan_window(
    window: list[tuple[int, Conversation]], reader: ConversationReader, batches: Batches, counts: ScoringCounts
) -> WindowPlan:
    """Forward passes that score each distinct text of the window once; `window` has (number in the input, messages)."""
    rows = reader.tokenize(window, counts)
    # By tokens: texts may be cut to the same ones, which computed apart would differ by rounding, and win a tie.
    indices_of: dict[tuple[int, ...], list[int]] = {}
    rows_of_prompt: dict[object, list[tuple[int, ...]]] = {}
    for (index, conversation), ids in zip(window, map(tuple, rows), strict=True):
        # padded rows share nothing: each one is a group of its own, and is sorted by its own length
        group = rows_of_prompt.setdefault(index if batches.batching == PADDED else prompt_key(conversation), [])
        if ids not in indices_of:
            group.append(ids)
        indices_of.setdefault(ids, []).append(index)
    counts.conversations += len(window)
    counts.scored += len(indices_of)
    distinct = list(filter(None, rows_of_prompt.values()))
    groups = [_group(sequences) for sequences in distinct]
    if batches.batching == PADDED:
        passes = _padded_batches([len(ids) for (ids,) in distinct], batches)
    else:
        options = {"max_tokens": batches.max_tokens, "batching": batches.batching, "num_processes": 1}
        (passes,) = plan_evaluation(GroupSizes.from_rows(groups), **options)
    return WindowPlan(groups, [[indices_of[ids] for ids in sequences] for sequences in distinct], passes)


def _group(sequences: list[tuple[int, ...]]) -> dict:
    """One group row, with what all sequences begin with as its prefix. A sequence alone shares nothing."""
    prefix_length = common_prefix_length(sequences) if len(sequences) > 1 else 0
    return {
        "prefix_ids": sequences[0][:prefix_length],
        "completion_ids": [ids[prefix_length:] for ids in sequences],
        "units": [[number] for number in range(len(sequences))],
        "targets": [[]] * len(sequences),
    }


def _padded_batches(lengths: list[int], batches: Batches) -> list[MicroBatch]:
    """Rows of like length together, the longest first, as one block a pass: no unit holds two of them together."""
    micro_batches: list[MicroBatch] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        chunk = Chunk(number, 0, 1, lengths[number], (lengths[number],))
        current = micro_batches[-1] if micro_batches else []
        longest = current[0].tokens if current else 0
        full = (len(current) + 1) * longest > batches.max_tokens
        if not current or full or (batches.equal_lengths and longest != chunk.tokens):
            micro_batches.append([])
        micro_batches[-1].append(chunk)
    return micro_batches
