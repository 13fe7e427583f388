"""A format: how a prompt with what was selected becomes a row, and what stands beside the rows."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reward_modeling.best_of_n.answers import ScoredPrompt
from reward_modeling.best_of_n.selection import Selected

Row = dict[str, object]


class NotWritable(Exception):
    """The format has no place for a part of a row; the message says for which."""


@dataclass(frozen=True)
class WriteOptions:
    """What is written beside messages, whatever the format."""

    write_margin: bool = False
    """The gap as `margin`, which trainers of reward models subtract in their loss unasked."""
    all_have_kwargs: bool = False
    """Whether some row of the set has chat_template_kwargs."""


class RowFormat(ABC):
    """A format by its name in `catalog.FORMATS`."""

    def __init__(self, options: WriteOptions):
        self.options = options

    def row(self, prompt: ScoredPrompt, selected: Selected) -> Row:
        """
        Raises:
            NotWritable: a part of it has no place.
        """
        conversation = self.pair(prompt, selected) if selected.rejected is not None else self.answer(prompt, selected)
        return conversation | self.template_options(prompt) | self.numbers(selected) | labels(prompt, selected)

    @abstractmethod
    def pair(self, prompt: ScoredPrompt, selected: Selected) -> Row:
        """Prompt, chosen and rejected."""

    @abstractmethod
    def answer(self, prompt: ScoredPrompt, selected: Selected) -> Row:
        """A conversation for supervised fine-tuning."""

    @abstractmethod
    def template_options(self, prompt: ScoredPrompt) -> Row:
        """What goes to the chat template beside the messages."""

    def numbers(self, selected: Selected) -> Row:
        """The rewards; `margin` only where it is asked for."""
        if selected.rejected is None:
            return {"reward": selected.chosen.reward, "rank": selected.rank}
        scores = {"chosen_score": selected.chosen.reward, "rejected_score": selected.rejected.reward}
        return scores | ({"margin": selected.gap} if self.options.write_margin else {})

    def beside(self, name: str, *, pairs: bool) -> Mapping[str, Any] | None:
        """The entry of a file beside the rows by which the reader finds them; None where it needs none.

        Args:
            name: of the file of rows.
        """
        return None


def labels(prompt: ScoredPrompt, selected: Selected) -> Row:
    """Whose answers they are, and the row's `source`, where these are known."""
    found: Row = {} if prompt.source is None else {"source": prompt.source}
    if selected.rejected is None:
        return found | ({"model": " + ".join(selected.chosen.models)} if selected.chosen.models else {})
    sides = {"chosen_model": selected.chosen, "rejected_model": selected.rejected}
    return found | {name: " + ".join(answer.models) for name, answer in sides.items() if answer.models}


def options_of(prompt: ScoredPrompt) -> tuple[list | None, dict[str, Any]]:
    """The tools of a prompt, and its chat_template_kwargs."""
    options = json.loads(prompt.options) if prompt.options else {}
    return options.pop("tools", None), options
