"""The scored answers of one prompt, and which of them may be chosen.

usable_answers(prompt.answers, dropped)   # without those that have no reward, say nothing, or stand there twice
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from reward_modeling.best_of_n.dropped import Dropped, Reason
from reward_modeling.data.messages import Message


@dataclass(frozen=True)
class ScoredAnswer:
    """An answer as the assistant's messages, of which there is nearly always one; or a text, with --plain_text."""

    messages: Sequence[Message] | str
    reward: float | None
    """What it is chosen by: null, and anything that is no finite number, is None."""
    key: int
    """The same for the same messages alone."""
    models: tuple[str, ...] = ()
    """Whose answer it is; several, where more than one model gave it; none where the rows do not say."""
    truth: float | None = None
    """1 where it is right and 0 where it is wrong, where the rows say so."""
    final: str | None = None
    """Its final answer, which a majority votes by."""
    label: str | None = None
    """"chosen" or "rejected", where it comes from a row that says so."""
    steps: tuple[float, ...] | None = None
    """Of a process model, P(right) of each of its steps."""

    @property
    def length(self) -> int:
        """Characters of what the assistant says, calls of tools left out."""
        if isinstance(self.messages, str):
            return len(self.messages)
        return sum(len(message["content"]) for message in self._own)

    @property
    def is_empty(self) -> bool:
        """Whether the assistant neither says anything nor calls a tool."""
        if isinstance(self.messages, str):
            return not self.messages.strip()
        return not any(message["content"].strip() or message.get("tool_calls") for message in self._own)

    @property
    def _own(self) -> list[Message]:
        """Between the assistant's messages may be the user's, and what tools have answered."""
        return [message for message in self.messages if message["role"] == "assistant"]


@dataclass
class ScoredPrompt:
    """A prompt with all answers that the rows have for it."""

    messages: Sequence[Message] | str
    options: str
    """JSON of what goes to the chat template beside the messages; "" for nothing."""
    key: int
    """The same for the same messages and options alone."""
    where: str
    """The first row that has it."""
    answers: list[ScoredAnswer] = field(default_factory=list)
    source: str | None = None
    answer_sets: int = 1
    """How many different sets of answers its rows have: win probabilities compare within one."""


def usable_answers(prompt: ScoredPrompt, dropped: Dropped) -> list[ScoredAnswer]:
    """The answers that may be chosen, and each different one once, with the mean of its rewards."""
    kept: dict[int, list[ScoredAnswer]] = {}
    for answer in prompt.answers:
        if answer.reward is None:
            dropped.add(Reason.NO_REWARD, prompt.where)
        elif answer.is_empty:
            dropped.add(Reason.EMPTY_ANSWER, prompt.where)
        else:
            kept.setdefault(answer.key, []).append(answer)
    repeated = sum(len(same) - 1 for same in kept.values())
    dropped.add(Reason.DUPLICATE_ANSWER, prompt.where, repeated)
    return [_joined(same, prompt.where, dropped) if len(same) > 1 else same[0] for same in kept.values()]


def _joined(same: Sequence[ScoredAnswer], where: str, dropped: Dropped) -> ScoredAnswer:
    """One answer for several that are the same: it does not depend on their order.

    It has their truth, final answer, label and steps where those that have one have the same, and else none.
    """
    rewards = sorted(answer.reward for answer in same)
    # The mean of equal numbers is not always the number.
    reward = rewards[0] if rewards[0] == rewards[-1] else float(np.mean(rewards))
    models = tuple(sorted({model for answer in same for model in answer.models}))
    said: dict[str, Any] = {}
    for name in ("truth", "final", "label", "steps"):
        values = {value for answer in same if (value := getattr(answer, name)) is not None}
        said[name] = values.pop() if len(values) == 1 else None
        dropped.add(Reason.SAID_OTHERWISE, where, int(len(values) > 1 and name != "steps"))
    return replace(same[0], reward=reward, models=models, **said)
