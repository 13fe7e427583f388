"""What is scored: messages, messages with options for the chat template, or a plain text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Templated:
    """Messages with what goes to the chat template beside them, such as {"tools": [...], "enable_thinking": False}."""

    messages: Sequence[dict[str, Any]]
    options: Mapping[str, Any] = field(default_factory=dict)


# Messages, with or without options, or a plain text that is scored as it stands.
Conversation = Sequence[dict[str, Any]] | Templated | str


def parts_of(conversation: Sequence[dict] | Templated) -> tuple[Sequence[dict], dict[str, Any]]:
    """The messages, and what goes to the template beside them."""
    if isinstance(conversation, Templated):
        return conversation.messages, dict(conversation.options)
    return conversation, {}
