"""Conversations made to fit into `max_length` tokens, the same way in training and in scoring.

The system message stays. Whole turns of the prompt go, the oldest first; of the last one, where it is too long by
itself, the beginning of its messages goes, with `MARK` where text is missing. Answers are never cut: all answers of a
prompt lose the same part of it, as much as the longest needs.

    cutter = PromptCutter(prompt, options, max_length, tokenizer)
    cut = cutter.cut(answers)   # the prompt that is left, and the ids of each whole conversation

A plain text names no prompt. It loses its oldest tokens after BOS, each by itself, whatever else is scored with it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from reward_modeling.data.composing import CONVERSATION, Composer, composed_ids
from reward_modeling.data.rendering import MOVED_ROLES, TemplateRefuses

MARK = "[...]"
LONGEST_MARK = 0.25  # of max_length: where the mark takes more, it is left out
WORD = 24  # characters in which the end of a word is looked for
Messages = list[dict[str, Any]]


class CutConversations(NamedTuple):
    """What is left of a prompt, and the ids of each of its conversations."""

    prompt: Messages
    ids: list[list[int]]


class PromptCutter:
    """One prompt, to be cut for its answers, which are what the composer takes."""

    def __init__(
        self,
        prompt: Messages,
        options: dict[str, Any],
        max_length: int,
        tokenizer: PreTrainedTokenizerBase,
        composer: Composer = CONVERSATION,
    ) -> None:
        self.options, self.max_length, self.tokenizer, self.composer = options, max_length, tokenizer, composer
        heads = next((number for number, message in enumerate(prompt) if message["role"] not in MOVED_ROLES), None)
        self.head = prompt[:heads]
        turns = [] if heads is None else prompt[heads:]
        is_question = [message["role"] == "user" for message in turns]
        starts = [n for n, asks in enumerate(is_question) if asks and (n == 0 or not is_question[n - 1])]
        self.candidates = [self.head + turns[start:] for start in starts if start]
        """The prompt without its oldest turn, without its two oldest, and so on."""
        self.last_turn = turns[starts[-1] :] if starts else turns

    @property
    def words_of_system(self) -> str:
        """Where the system message, which stays, is itself too long, says so; else ""."""
        tokens = sum(len(self._tokenize(message.get("content"))) for message in self.head)
        return f"the system message alone has {tokens:,} tokens" if tokens > self.max_length else ""

    def fits(self, answers: Sequence[Any]) -> list[bool]:
        """Whether each answer fits beside the shortest prompt: the system message, and marks in the last turn."""
        marked = [self._shortened(message, None) for message in self.last_turn]
        ids = self._ids(self.head + marked, answers)
        return [False] * len(answers) if ids is None else [len(each) <= self.max_length for each in ids]

    def cut(self, answers: Sequence[Any]) -> CutConversations | None:
        """The prompt without as much as the longest of these answers needs; None where that does not do."""
        return self._without_turns(answers) or self._with_marks(answers)

    def _without_turns(self, answers: Sequence[Any]) -> CutConversations | None:
        """As many whole turns as need be, found by halving."""
        low, high, found = 0, len(self.candidates), None
        while low < high:
            middle = (low + high) // 2
            ids = self._ids(self.candidates[middle], answers)
            if ids is not None and max(map(len, ids)) <= self.max_length:
                high, found = middle, CutConversations(self.candidates[middle], ids)
            else:
                low = middle + 1
        return found

    def _with_marks(self, answers: Sequence[Any]) -> CutConversations | None:
        """The last turn alone, with the beginnings of its messages cut, the oldest first."""
        turn = list(self.last_turn)
        for number, message in enumerate(turn):
            length, removed = len(self._tokenize(message.get("content"))), 0
            while length:
                prompt = self.head + turn
                ids = self._ids(prompt, answers)
                if ids is None:
                    return None
                excess = max(map(len, ids)) - self.max_length
                if excess <= 0:
                    return CutConversations(prompt, ids)
                if removed >= length:
                    break
                removed += excess if removed else excess + len(self._tokenize(MARK))
                turn[number] = self._shortened(message, removed)
        ids = self._ids(self.head + turn, answers)
        if ids is None or max(map(len, ids)) > self.max_length:
            return None
        return CutConversations(self.head + turn, ids)

    def _shortened(self, message: dict, tokens: int | None) -> dict:
        """A message without its first tokens (None: without any), the mark in their place."""
        content = message.get("content")
        if not isinstance(content, str) or not content.strip():
            return message
        rest = "" if tokens is None else self._rest(content, tokens)
        return {**message, "content": f"{MARK} {rest}" if rest else MARK}

    def _rest(self, content: str, tokens: int) -> str:
        """What stands after the first tokens of a text, from the beginning of a word on where one is near."""
        encoded = self.tokenizer(content, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        offsets = encoded["offset_mapping"]
        if tokens >= len(offsets):
            return ""
        rest = content[offsets[tokens][0] :]
        if content[offsets[tokens][0] - 1].isspace() or rest[0].isspace():
            return rest.lstrip()
        in_word = len(rest[:WORD].split(maxsplit=1)[0])
        return rest[in_word:].lstrip() if in_word < min(WORD, len(rest)) else rest

    def _tokenize(self, text: object) -> list[int]:
        if not isinstance(text, str):
            return []
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _ids(self, prompt: Messages, answers: Sequence[Any]) -> list[list[int]] | None:
        """The ids of each whole conversation; None where the template refuses what is left."""
        try:
            rows = [self.composer.pieces(prompt, answer, self.options, self.tokenizer) for answer in answers]
        except TemplateRefuses:
            return None
        return composed_ids(rows, self.tokenizer)


class TextCutter:
    """Plain texts, each cut by itself; also conversations whose answer alone is too long, where they must be scored."""

    def __init__(self, max_length: int, tokenizer: PreTrainedTokenizerBase) -> None:
        self.max_length, self.bos = max_length, tokenizer.bos_token_id
        mark = tokenizer(MARK, add_special_tokens=False, verbose=False)["input_ids"]
        unknown = tokenizer.unk_token_id is not None and tokenizer.unk_token_id in mark
        self.mark = [] if unknown or len(mark) > LONGEST_MARK * max_length else list(mark)

    def cut(self, ids: Sequence[int]) -> list[int]:
        """At most `max_length` ids: BOS, the mark where it has room, and the last ones."""
        ids = list(ids)
        if len(ids) <= self.max_length:
            return ids
        bos = ids[:1] if ids[0] == self.bos else []
        return bos + self.mark + ids[len(ids) - self.max_length + len(bos) + len(self.mark) :]
