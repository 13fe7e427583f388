"""A row of a benchmark with what a model made of its answers: rewards, comparisons, or probabilities of steps."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.pair_probabilities import log_odds
from reward_modeling.common.words import TIE
from reward_modeling.data.losses import NOTHING_LOST, Losses


@dataclass(frozen=True)
class ScoredRow:
    """A row of a benchmark with the rewards of its answers."""

    id: object
    subset: str
    chosen: NDArray
    """`(answers,)`: the rewards of its right answers; NaN where they are not known."""
    rejected: NDArray
    where: str = ""
    """Its place in the file."""
    refused: str = ""
    """Why it was not scored, if it was not."""
    is_verdict: bool = False
    """Whether 1 and 0 stand for the side that won and the one that lost, since the rewards are not known."""
    losses: Losses = NOTHING_LOST
    """What the chat template leaves out of it; its rewards are then of something else than what it says."""

    # Of pairs of one's own.
    probability: float = 1.0
    """That chosen is the better one; of a tie one half."""
    weight: float = 1.0
    prompt: int | None = None
    """The same for rows of one prompt; None where it is not known."""
    lengths: tuple[int, int] | None = None
    """Characters of the two answers, where the row has them."""

    logits: NDArray | None = None
    """`(answers, answers)`: of a model that compares answers two by two, and gives none a reward, its output with the
    answer of the line standing first; NaN of what was not compared. The right answers come before the wrong ones."""

    @classmethod
    def compared(cls, row_id: object, subset: str, logits: NDArray, right: int, **others: object) -> "ScoredRow":
        """A row whose answers were compared two by two, the first `right` of which are its right ones.

        In the place of rewards stand log odds: of a single right answer 0, and of each wrong one those that it is the
        better one. So every comparison of rewards is one of answers. Of several right ones they are means, and what
        counts is `margins`.
        """
        margins = log_odds(logits, logits.T)[:right, right:]
        with np.errstate(invalid="ignore"):
            chosen = np.zeros(right) if right == 1 or not margins.size else margins.mean(axis=1)
            rejected = -margins[0] if right == 1 else -margins.mean(axis=0) if margins.size else np.empty(0)
        return cls(row_id, subset, chosen, rejected, logits=logits, **others)

    def of_pair(self, better: int, worse: int) -> "ScoredRow":
        """Two of its answers, by their numbers, as a row of their own."""
        numbers = [better, worse]
        if self.logits is None:
            return replace(self, chosen=self.rewards[[better]], rejected=self.rewards[[worse]])
        of_pair = ScoredRow.compared(self.id, self.subset, self.logits[np.ix_(numbers, numbers)], 1)
        return replace(self, chosen=of_pair.chosen, rejected=of_pair.rejected, logits=of_pair.logits)

    @property
    def margins(self) -> NDArray:
        """`(right, wrong)`: how far each right answer is above each wrong one, in rewards or in log odds."""
        if self.logits is None:
            return self.chosen[:, None] - self.rejected
        right = len(self.chosen)
        return log_odds(self.logits, self.logits.T)[:right, right:]

    @property
    def rewards(self) -> NDArray:
        return np.concatenate([self.chosen, self.rejected])

    @property
    def is_scored(self) -> bool:
        return not self.refused and bool(np.isfinite(self.rewards).all())

    @property
    def is_right(self) -> bool:
        """Whether every right answer is above every wrong one; a tie is wrong."""
        return bool(self.margins.min() > 0)

    @property
    def is_tie(self) -> bool:
        """Whether the rewards tie."""
        return bool(self.margins.min() == 0)

    @property
    def is_labelled_tie(self) -> bool:
        """Whether nobody is preferred: then neither side is right."""
        return self.probability == TIE


Rows = Sequence[ScoredRow]
"""In the order of the file."""


def subsets_of(rows: Rows) -> list[str]:
    return [row.subset for row in rows]


def prompts_of(rows: Rows) -> list[int]:
    """The number of each row's prompt; a row of which it is not known has one of its own."""
    numbers: dict[tuple, int] = {}
    keys = (("row", place) if row.prompt is None else ("prompt", row.prompt) for place, row in enumerate(rows))
    return [numbers.setdefault(key, len(numbers)) for key in keys]
