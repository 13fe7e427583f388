"""A format: how a prompt with what was selected becomes a row, and what stands beside the rows."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reward_modeling.best_of_n.answers import ScoredAnswer, ScoredPrompt
from reward_modeling.best_of_n.selection import Selected
from reward_modeling.data.messages import Message

SCORE_KIND = "score_kind"  # a column of pairs
Row = dict[str, object]
Messages = Sequence[Message] | str


class NotWritable(Exception):
    """The format has no place for a part of a row; the message says for which."""


@dataclass(frozen=True)
class WriteOptions:
    """What is written beside messages, whatever the format."""

    write_margin: bool = False
    """The gap as `margin`, which trainers of reward models subtract in their loss unasked."""
    all_have_kwargs: bool = False
    """Whether some row of the set has chat_template_kwargs."""
    score_kind: str | None = None
    """What the scores of a pair are, where they are not a model's own outputs. No `reward_kind`: answers of these rows
    may be scored anew."""


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
        scores |= {SCORE_KIND: self.options.score_kind} if self.options.score_kind else {}
        return scores | ({"margin": selected.gap} if self.options.write_margin else {})

    def beside(self, name: str, *, pairs: bool) -> Mapping[str, Any] | None:
        """The entry of a file beside the rows by which the reader finds them; None where it needs none.

        Args:
            name: of the file of rows.
        """
        return None


def with_shared_turns(prompt: ScoredPrompt, *answers: ScoredAnswer) -> tuple[Messages, list[Messages]]:
    """The prompt and the answers such that these are the assistant's messages alone: a trainer learns all of them.

    What stands before belongs to the prompt, up to a last message that is not the assistant's, where it is the same in
    all answers. Texts stay as they are.

    Raises:
        NotWritable: the answers have messages of others in which, or before which, they differ.
    """
    said = [answer.messages for answer in answers]
    if isinstance(prompt.messages, str):
        return prompt.messages, said
    turns = max(_before_last_own(messages) for messages in said)
    if any(messages[:turns] != said[0][:turns] for messages in said):
        raise NotWritable("answers of several turns that differ before the last one")
    return [*prompt.messages, *said[0][:turns]], [messages[turns:] for messages in said]


def _before_last_own(messages: Sequence[Message]) -> int:
    """How many messages stand before the assistant's last ones."""
    return max((place for place, one in enumerate(messages, 1) if one["role"] != "assistant"), default=0)


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
