"""What each aggregation of steps is worth: how often the answer is right that has the best one of n, or that the votes
weighted by it take. Side by side with a draw at random, a majority and an oracle.

curves = StepCurves([1, 2, 3, 4], has_finals=True, seed=0)
curves.add(answers, prompt.key)        # with steps and truths
"""

from collections.abc import Sequence

import numpy as np

from reward_modeling.best_of_n.answers import ScoredAnswer
from reward_modeling.best_of_n.curves import oracle, truth_of_best
from reward_modeling.best_of_n.majority import majority
from reward_modeling.best_of_n.moments import Moments
from reward_modeling.best_of_n.weighted import weighted_majority
from reward_modeling.common.aggregations import AGGREGATIONS, aggregate
from reward_modeling.data.keys import mix_keys

RANDOM, MAJORITY, ORACLE = "random", "majority", "oracle"


def best(aggregation: str) -> str:
    return f"best by {aggregation}"


def weighted(aggregation: str) -> str:
    return f"votes by {aggregation}"


class StepCurves:
    """Shares of prompts, each way under its name: "best by min", "votes by min", and so on."""

    def __init__(self, sizes: Sequence[int], *, has_finals: bool, seed: int):
        self.sizes, self.has_finals, self.seed = sizes, has_finals, seed
        self.prompts = self.answers = 0
        votes = [MAJORITY, *map(weighted, AGGREGATIONS)] if has_finals else []
        self.shares = {name: Moments(len(sizes)) for name in (*map(best, AGGREGATIONS), *votes, RANDOM, ORACLE)}
        # what a way is above the one that needs no model
        self.over = {name: Moments(len(sizes)) for name in self.shares if name not in (RANDOM, ORACLE, MAJORITY)}

    def add(self, answers: Sequence[ScoredAnswer], key: int) -> None:
        """Those of a prompt whose truth and steps are known."""
        if not answers:
            return
        self.prompts += 1
        self.answers += len(answers)
        sizes = [n for n in self.sizes if n <= len(answers)]
        truths = [answer.truth for answer in answers]
        scores = [aggregate(answer.steps) for answer in answers]
        found = {RANDOM: np.full(len(sizes), np.mean(truths)), ORACLE: oracle(truths, sizes)}
        for name in AGGREGATIONS:
            found[best(name)] = truth_of_best([score[name] for score in scores], truths, sizes)
        if self.has_finals:
            seed = int(mix_keys(np.array([key], dtype=np.int64), self.seed)[0])
            finals = [answer.final for answer in answers]
            found[MAJORITY] = majority(finals, truths, sizes, seed)
            for name in AGGREGATIONS:
                weights = [score[name] for score in scores]
                found[weighted(name)] = weighted_majority(finals, weights, truths, sizes, seed)
        for name, values in found.items():
            self.shares[name].add(values)
            if name in self.over:
                self.over[name].add(values - found[MAJORITY if name.startswith("votes") else RANDOM])

    def to_dict(self) -> dict[str, object]:
        """{"prompts", "answers", "rows": for each n the share right by each way, and "less" what the best ones are
        above a draw at random, and weighted votes above a majority}."""
        shares = {name: moments.shares() for name, moments in self.shares.items()}
        over = {name: moments.differences() for name, moments in self.over.items()}
        rows = [
            {
                "n": n,
                "ways": {name: values[place] for name, values in shares.items()},
                "less": {name: values[place] for name, values in over.items()},
            }
            for place, n in enumerate(self.sizes)
            if shares[RANDOM][place]["prompts"]
        ]
        return {"prompts": self.prompts, "answers": self.answers, "rows": rows}
