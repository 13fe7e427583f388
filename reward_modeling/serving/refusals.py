"""Conversations that a reward model does not take: an error, or a reward that is given in their place.

refusals = Refusals(reward=-5.0)
columns = refusals.columns(conversations, ask)  # `ask` raises Refusal where one of those that it gets is not taken
"""

import logging
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

from reward_modeling.common.errors import UserError, first_line

logger = logging.getLogger(__name__)

Columns = dict[str, list]  # `rewards`, and `attributes` where the model has some
_counting = threading.Lock()  # of all, so that a reward function can be pickled


class Refusal(UserError):
    """What was sent is not scored: one of the conversations, or so many of them at once."""


class Refusals:
    """`reward` is that of a conversation which is refused; None: the refusal is raised. `count` is how many were."""

    def __init__(self, reward: float | None = None):
        if reward is not None and not (isinstance(reward, int | float) and math.isfinite(reward)):
            raise UserError(f"on_refusal: expected a finite number or None, found {reward!r}.")
        self.reward, self.count = reward, 0

    def columns(self, rows: Sequence[Any], ask: Callable[[Sequence[Any]], Columns]) -> Columns:
        """Of all rows; where some are refused they are halved until it is known which.

        Raises:
            Refusal: one is, and there is no reward for it.
        """
        try:
            return ask(rows)
        except Refusal as refusal:
            if self.reward is None:
                raise
            if len(rows) > 1:
                half = len(rows) // 2
                return joined([self.columns(part, ask) for part in (rows[:half], rows[half:])])
            self._say(refusal)
            return {"rewards": [self.reward]}

    def _say(self, refusal: Refusal) -> None:
        """The first one, and then how many, ten times as many each time."""
        with _counting:
            self.count += 1
            count = self.count
        if count == 1:
            logger.warning("A conversation is refused and gets the reward %g: %s", self.reward, first_line(refusal))
        elif math.log10(count).is_integer():
            logger.warning("%d conversations were refused so far and got the reward %g.", count, self.reward)


def joined(parts: Sequence[Columns]) -> Columns:
    """One behind the other; what was refused has None as its attributes."""
    names = dict.fromkeys(name for part in parts for name in part) or ["rewards"]
    columns: Columns = {name: [] for name in names}
    for part in parts:
        for name, values in columns.items():
            values += part.get(name, [None] * len(part["rewards"]))
    return columns
