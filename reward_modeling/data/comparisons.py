"""What a pairwise model reads: a prompt and two answers to it, in the order in which they stand in the text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Comparison:
    """Two answers to one prompt: `a` stands first. An answer is the messages after the prompt, mostly one."""

    prompt: Messages
    a: Messages
    b: Messages
    options: Mapping[str, Any] = field(default_factory=dict)
    """What goes to the chat template beside the messages, such as {"tools": [...]}."""

    def swapped(self) -> "Comparison":
        """The other order."""
        return Comparison(self.prompt, self.b, self.a, self.options)
