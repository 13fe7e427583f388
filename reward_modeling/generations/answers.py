"""The answers of one row: what is scored, and in the order in which `rewards` gives the rewards."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from reward_modeling.data.conversations import Conversation, Templated
from reward_modeling.data.messages import Message


class NotScored(StrEnum):
    """Why a row, or one answer of it, has no reward: its name in the manifest, and its words."""

    words: str

    def __new__(cls, value: str, words: str) -> "NotScored":
        reason = str.__new__(cls, value)
        reason._value_, reason.words = value, words
        return reason

    NO_FORM = "no_form", "its columns are of no form that is read: name them with --columns"
    NO_PROMPT = "no_prompt", "the prompt is missing"
    NO_ANSWER = "no_answer", "there is no answer"
    NO_QUESTION = "no_question", "its question is not in --questions"
    WRONG_TYPE = "wrong_type", "a field has the wrong type"
    UNKNOWN_ROLE = "unknown_role", "the role of a message is not known"
    PART_NOT_TEXT = "part_not_text", "a part of a message is no text"
    LAST_NOT_ASSISTANT = "last_not_assistant", "the last message is not the assistant's"
    PROMPTS_DIFFER = "prompts_differ", "the prompts differ"
    NOT_A_TRANSCRIPT = "not_a_transcript", "it is no transcript of Human and Assistant"
    PLAIN_TEXT = "plain_text", "a text without a prompt, which --plain_text true scores as it stands"
    TEMPLATE_REFUSES = "template_refuses", "the chat template refuses it"
    NO_PROMPT_END = "no_prompt_end", "it is not known where the prompt ends, which the model's gate reads"
    ALONE = "alone", "there is no other answer in its row to compare it with"
    NO_STEP = "no_step", "it has no step that could be scored"
    TOO_LONG = "too_long", "it does not fit into max_length, whatever is cut of the prompt"
    NOT_FINITE = "not_finite", "the reward is infinite or not a number"


class Unreadable(Exception):
    """A row, or one answer of it, that cannot be scored."""

    def __init__(self, reason: NotScored, detail: str = "") -> None:
        detail = detail.encode(errors="backslashreplace").decode()  # it may show a part of the row
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    @property
    def text(self) -> str:
        """In words, as a row's `not_scored` has it."""
        return f"{self.reason.words} ({self.detail})" if self.detail else self.reason.words


@dataclass(frozen=True)
class Answers:
    """A prompt and its answers. A conversation is the prompt's messages, then those of one answer."""

    prompt: list[Message] | str | None
    """Messages; a text only where it is scored as it stands (`--plain_text true`); None where answers are whole."""
    answers: list[list[Message] | str | None]
    """Each one the messages that follow the prompt, mostly a single one of the assistant's; a text is scored as it
    stands, behind the prompt's; None cannot be scored."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What goes to the chat template beside the messages: {"tools": [...], "enable_thinking": False}."""
    unreadable: Mapping[int, Unreadable] = field(default_factory=dict)
    """Of each answer that is None what is wrong with it."""
    steps: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """Of each answer that is given as a list of steps these, by its place; its message has them as one text."""
    notes: frozenset[str] = frozenset()
    """How it is written, where that is worth counting."""

    def __len__(self) -> int:
        return len(self.answers)

    def conversation(self, place: int) -> Conversation | None:
        """What is scored as the answer at this place; None where it cannot be."""
        answer = self.answers[place]
        if answer is None:
            return None
        if isinstance(answer, str):
            return (self.prompt or "") + answer if isinstance(self.prompt or "", str) else answer
        messages = [*(self.prompt or []), *answer]
        return Templated(messages, self.options) if self.options else messages

    def conversations(self) -> Iterator[tuple[int, Conversation]]:
        """(place, conversation) of all that can be scored."""
        for place in range(len(self.answers)):
            if (conversation := self.conversation(place)) is not None:
                yield place, conversation

    def text(self, place: int) -> str:
        """What the answer at this place says: the content of its last message. "" where it cannot be read."""
        answer = self.answers[place]
        return answer[-1]["content"] if isinstance(answer, list) else answer or ""
