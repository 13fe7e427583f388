"""What is taken of a prompt's answers: --select best, top_k or dpo_pairs.

    chosen = SELECTIONS["dpo_pairs"](SelectionOptions(rule=PairRule("max_min")))
    chosen.select(prompt, answers)      # [Selected(chosen, rejected, ...)], or the reason why there is nothing

Which answer it is depends on the seed, the prompt and its answers alone: neither on the order of the rows nor on how
many files they are in.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from reward_modeling.best_of_n.answers import ScoredAnswer, ScoredPrompt
from reward_modeling.best_of_n.choices import PairRule, best_first, choose_pairs
from reward_modeling.best_of_n.dropped import Reason
from reward_modeling.data.keys import mix_keys, text_key


@dataclass(frozen=True)
class Selected:
    """An answer that is taken, with the one that it is better than, where pairs are made."""

    chosen: ScoredAnswer
    rejected: ScoredAnswer | None = None
    rank: int = 1
    """Of the answer among those of its prompt, or of the pair."""
    gap: float | None = None
    """By how much the score of the chosen answer is the greater one: above 0, also where a penalty is in the scores."""


@dataclass(frozen=True)
class SelectionOptions:
    """What the flags say."""

    rule: PairRule = field(default_factory=PairRule)
    top_k: int = 1
    min_answers: int = 2
    len_penalty: float = 0.0
    """Subtracted from the reward for each character."""
    seed: int = 0


class Selection(ABC):
    """A way to take answers, by its name in `SELECTIONS`."""

    pairs: ClassVar[bool] = False

    def __init__(self, options: SelectionOptions):
        self.options = options

    def select(self, prompt: ScoredPrompt, answers: Sequence[ScoredAnswer]) -> list[Selected] | Reason:
        """What is taken, or why nothing is.

        Args:
            answers: different ones, all with a reward.
        """
        if not answers:
            return Reason.NO_ANSWER
        if len(answers) < self.options.min_answers:
            return Reason.TOO_FEW_ANSWERS
        scores = [self.score(answer) for answer in answers]
        if len(answers) > 1 and min(scores) == max(scores):
            return Reason.EQUAL_REWARDS
        return self.take(answers, scores, self.draws(prompt, answers))

    def score(self, answer: ScoredAnswer) -> float:
        """What is chosen by."""
        return answer.reward - self.options.len_penalty * answer.length

    def draws(self, prompt: ScoredPrompt, answers: Sequence[ScoredAnswer]) -> list[int]:
        """A pseudo-random number for each answer."""
        keys = [text_key(str(prompt.key), str(answer.key)) for answer in answers]
        return mix_keys(np.array(keys, dtype=np.int64), self.options.seed).tolist()

    @abstractmethod
    def take(
        self, answers: Sequence[ScoredAnswer], scores: Sequence[float], draws: Sequence[int]
    ) -> list[Selected] | Reason:
        """What is taken of answers of which not all are equally good."""


class TopK(Selection):
    """The best answers, the best one first."""

    @property
    def number(self) -> int:
        return self.options.top_k

    def take(
        self, answers: Sequence[ScoredAnswer], scores: Sequence[float], draws: Sequence[int]
    ) -> list[Selected] | Reason:
        places = best_first(scores, draws)[: self.number]
        return [Selected(answers[place], rank=rank) for rank, place in enumerate(places, 1)]


class Best(TopK):
    """Rejection sampling: the best answer."""

    @property
    def number(self) -> int:
        return 1


class DpoPairs(Selection):
    """Pairs by a `PairRule`."""

    pairs = True

    def take(
        self, answers: Sequence[ScoredAnswer], scores: Sequence[float], draws: Sequence[int]
    ) -> list[Selected] | Reason:
        lengths = [answer.length for answer in answers]
        found = choose_pairs(scores, lengths, draws, self.options.rule)
        return [
            Selected(answers[chosen], answers[rejected], rank, scores[chosen] - scores[rejected])
            for rank, (chosen, rejected) in enumerate(found, 1)
        ] or Reason.GAP_TOO_SMALL


SELECTIONS: dict[str, type[Selection]] = {"best": Best, "dpo_pairs": DpoPairs, "top_k": TopK}
