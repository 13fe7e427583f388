"""From conversations to tokens for scoring: rendered by the checkpoint's own chat template, cut as in training.

reader = ConversationReader(tokenizer, max_length=4096)
rows = reader.tokenize([(0, messages), (1, Templated(messages, {"tools": [...]}))], ScoringCounts())
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from reward_modeling.common.errors import UserError
from reward_modeling.data.conversations import Conversation, Templated, parts_of
from reward_modeling.data.losses import NOTHING_LOST, Losses, find_losses
from reward_modeling.data.rendering import TemplateRefuses, render, render_prompt
from reward_modeling.data.truncation import PromptCutter, TextCutter
from reward_modeling.models.tokenizer import end_text, token_ids
from reward_modeling.scoring.prompt_ends import PromptEnds

TEXT_KEY = 256  # characters by which plain texts, which name no prompt, are taken to share one


def with_options(
    conversations: Sequence[Conversation], options: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None
) -> Sequence[Conversation]:
    """The conversations with options for the chat template, one object for all of them or one for each.

    Raises:
        UserError: there are other numbers of options than of conversations, or a plain text would get some.
    """
    if not options:
        return conversations
    each = [options] * len(conversations) if isinstance(options, Mapping) else list(options)
    if len(each) != len(conversations):
        raise UserError(
            f"template_options: expected one for each of {len(conversations)} conversations, found {len(each)}. Pass "
            "None for those without, or one dict for all."
        )
    for index, (conversation, one) in enumerate(zip(conversations, each, strict=True)):
        if one and isinstance(conversation, str):
            raise UserError(
                f"conversation {index}: expected messages beside template options, found a plain text, which no "
                "template renders. Pass None for it."
            )
    pairs = zip(conversations, each, strict=True)
    return [Templated(conversation, one) if one else conversation for conversation, one in pairs]


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
        messages, options = parts_of(conversation)
        try:
            return render(messages, options, self.tokenizer)
        except TemplateRefuses as error:
            roles = ", ".join(message["role"] for message in messages)
            raise UserError(
                f"conversation {index}: the chat template refuses it ({error}). Its roles are {roles}, its first "
                f"message is {messages[0]['content'][:80]!r}. Pass roles in the order that the template knows."
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

    def check(self, conversation: Sequence[dict] | Templated, answers: int = 1) -> tuple[str, Losses]:
        """What the chat template says against a conversation, empty if nothing, and what it leaves out of it.

        Args:
            answers: how many of the last messages are the answer.
        """
        messages, options = parts_of(conversation)
        try:
            text = render(messages, options, self.tokenizer)
        except TemplateRefuses as error:
            return str(error), NOTHING_LOST
        return "", find_losses(messages, text, answers)

    def tokenize(self, window: list[tuple[int, Conversation]], counts: ScoringCounts) -> list[list[int]]:
        """Token ids of conversations, at most `max_length` each; `window` has (number in the input, conversation)."""
        return self._cut_and_count(window, self._whole(window), counts)

    def tokenize_with_gates(
        self, window: list[tuple[int, Conversation]], counts: ScoringCounts
    ) -> tuple[list[list[int]], list[int]]:
        """As `tokenize`, and of each conversation where a gate reads its prompt: see `data.gate_position`.

        Of a conversation that is cut it is the same token; the first one where that is cut away.

        Raises:
            UserError: of a plain text it is not known where the prompt ends.
        """
        whole = self._whole(window)
        keys = [prompt_key(conversation) for _, conversation in window]
        places = self._prompt_ends.positions(window, keys, whole)
        cut = self._cut_and_count(window, whole, counts)
        lost = [len(before) - len(after) for before, after in zip(whole, cut, strict=True)]
        return cut, [max(0, place - less) for place, less in zip(places, lost, strict=True)]

    def _whole(self, window: list[tuple[int, Conversation]]) -> list[list[int]]:
        rows = token_ids([self.render(*numbered) for numbered in window], self.tokenizer)
        for (index, _), ids in zip(window, rows, strict=True):
            if not ids:
                raise UserError(
                    f"conversation {index}: expected at least one token, found none: the chat template renders it as "
                    "an empty text."
                )
        return rows

    def _cut_and_count(
        self, window: list[tuple[int, Conversation]], rows: list[list[int]], counts: ScoringCounts
    ) -> list[list[int]]:
        cut = self._cut([conversation for _, conversation in window], rows)
        for before, after in zip(rows, cut, strict=True):
            counts.cut += len(after) < len(before)
            counts.cut_tokens += max(0, len(before) - len(after))
        return cut

    @cached_property
    def _prompt_ends(self) -> PromptEnds:
        return PromptEnds(self.tokenizer)

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

    def _prompt_text(self, conversation: Sequence[dict] | Templated) -> str:
        messages, options = parts_of(conversation)
        try:
            return render_prompt(messages[:-1], options, self.tokenizer)
        except TemplateRefuses:
            return prompt_key(conversation)

    def _cut_prompt(self, numbers: list[int], conversations: list[Conversation], cut: list[list[int]]) -> None:
        """Put in the conversations of one prompt, but those whose answer alone is too long."""
        messages, options = parts_of(conversations[numbers[0]])
        cutter = PromptCutter(list(messages[:-1]), options, self.max_length, self.tokenizer)
        answers = {number: [parts_of(conversations[number])[0][-1]] for number in numbers}
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
    if isinstance(conversation, Templated):
        if not isinstance(conversation.options, Mapping):
            found = f"{type(conversation.options).__name__} {str(conversation.options)[:80]!r}"
            raise UserError(f"conversation {index}: expected template options as a dict, found {found}.")
        conversation = conversation.messages
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
    messages, options = parts_of(conversation)
    said = [list(messages[:-1]), options] if options else list(messages[:-1])
    return json.dumps(said, sort_keys=True, default=str)
