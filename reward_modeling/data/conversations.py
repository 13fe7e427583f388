"""What is scored: messages, messages with options for the chat template, steps, a plain text, or tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Templated:
    """Messages with what goes to the chat template beside them, such as {"tools": [...], "enable_thinking": False}."""

    messages: Sequence[dict[str, Any]]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Tokens:
    """A whole conversation as tokens, BOS and all, which are scored as they are: `RewardScorer.tokenize` makes them.

    `gate` is where a gate reads the prompt (None of a model without one). Conversations of equal `prompt` fall into one
    window of those that are computed together, however far apart they stand in a list, and what they begin with is
    computed once; so it is without `prompt` where they begin alike. It never changes what comes out. `reads` are the
    places that a process model reads, the ends of the steps in their order (None of other models: the last place).
    """

    ids: Sequence[int]
    gate: int | None = None
    prompt: str | None = None
    reads: Sequence[int] | None = None


@dataclass(frozen=True)
class Chain:
    """A prompt and the steps of one answer to it, for a process model. Steps are texts without their separators."""

    prompt: Sequence[dict[str, Any]]
    steps: Sequence[str]
    options: Mapping[str, Any] = field(default_factory=dict)


# Messages, with or without options, steps, a plain text that is scored as it stands, or tokens.
Conversation = Sequence[dict[str, Any]] | Templated | Chain | Tokens | str


def parts_of(conversation: Sequence[dict] | Templated) -> tuple[Sequence[dict], dict[str, Any]]:
    """The messages, and what goes to the template beside them."""
    if isinstance(conversation, Templated):
        return conversation.messages, dict(conversation.options)
    return conversation, {}
