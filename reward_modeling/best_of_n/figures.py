"""What the answers and the choice among them come to, prompt by prompt; a figure over prompts is a `moments.Mean`.

figures = Figures(greatest=8, has_truth=True, has_finals=False, seed=0)
figures.add(prompt)                # all its answers
figures.add_selected(answers, selected)
figures.to_dict()
"""

from collections.abc import Sequence

import numpy as np

from reward_modeling.best_of_n.answers import ScoredAnswer, ScoredPrompt
from reward_modeling.best_of_n.curves import best_of_n, oracle, sizes_up_to, truth_of_best
from reward_modeling.best_of_n.majority import majority
from reward_modeling.best_of_n.moments import Moments
from reward_modeling.best_of_n.selected_figures import Lengths, Models, SelectedFigures
from reward_modeling.best_of_n.selection import Selected
from reward_modeling.best_of_n.step_curves import StepCurves
from reward_modeling.data.keys import mix_keys


class Figures:
    """Sums over prompts."""

    def __init__(self, greatest: int, *, has_truth: bool, has_finals: bool, has_steps: bool = False, seed: int):
        self.sizes = sizes_up_to(greatest)
        self.prompts = self.answers = self.scored = 0
        self.curve = RewardCurve(self.sizes)
        self.truth = TruthCurves(self.sizes, has_finals=has_finals, seed=seed) if has_truth else None
        self.steps = StepCurves(self.sizes, has_finals=has_finals, seed=seed) if has_truth and has_steps else None
        self.lengths, self.models, self.selected = Lengths(), Models(), SelectedFigures()

    def add(self, prompt: ScoredPrompt) -> None:
        """A prompt as it was sampled, repeated and empty answers too: they are what n answers are."""
        scored = [answer for answer in prompt.answers if answer.reward is not None]
        self.prompts += 1
        self.answers += len(prompt.answers)
        self.scored += len(scored)
        if not scored:
            return
        self.curve.add([answer.reward for answer in scored])
        self.lengths.answers.add([answer.reward for answer in scored], [answer.length for answer in scored])
        self.models.add(scored)
        if self.truth is not None:
            self.truth.add([answer for answer in scored if answer.truth is not None], prompt.key)
        if self.steps is not None:
            known = (answer for answer in scored if answer.truth is not None and answer.steps is not None)
            self.steps.add(list(known), prompt.key)

    def add_selected(self, usable: Sequence[ScoredAnswer], selected: Sequence[Selected]) -> None:
        """What was written of a prompt."""
        self.selected.add(usable, selected)
        self.lengths.add(usable, selected)
        self.models.add_selected(selected)

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "prompts": self.prompts,
            "answers": self.answers,
            "scored_answers": self.scored,
            "curve": self.curve.rows(),
            "truth": None if self.truth is None else self.truth.to_dict(),
            "steps": None if self.steps is None else self.steps.to_dict(),
            "selected": self.selected.to_dict(),
            "lengths": self.lengths.to_dict(),
            "models": self.models.to_dict(),
            "prompts_by_models": self.models.prompts_by_models(),
        }


class RewardCurve:
    """The greatest reward of n answers, and what it gains over one."""

    def __init__(self, sizes: Sequence[int]):
        self.sizes = sizes
        self.best, self.gain = Moments(len(sizes)), Moments(len(sizes))

    def add(self, rewards: Sequence[float]) -> None:
        best = best_of_n(rewards, [n for n in self.sizes if n <= len(rewards)])
        self.best.add(best)
        self.gain.add(best - best[0])

    def rows(self) -> list[dict[str, object]]:
        """For each n {"n", "reward", "gain"}; over the prompts that have so many answers."""
        columns = zip(self.sizes, self.best.means(), self.gain.means(), strict=True)
        return [{"n": n, "reward": reward, "gain": gain} for n, reward, gain in columns if reward["prompts"]]


class TruthCurves:
    """How often the answer is right that is taken of n: by the reward, at random, by a majority, by an oracle."""

    def __init__(self, sizes: Sequence[int], *, has_finals: bool, seed: int):
        self.sizes, self.seed = sizes, seed
        names = ["best", "random", "oracle", *(["majority"] if has_finals else [])]
        self.shares = {name: Moments(len(sizes)) for name in names}
        self.over = {name: Moments(len(sizes)) for name in names if name != "best"}
        self.answers = 0

    def add(self, answers: Sequence[ScoredAnswer], key: int) -> None:
        """Those of a prompt whose truth is known."""
        if not answers:
            return
        self.answers += len(answers)
        rewards, truths = [answer.reward for answer in answers], [answer.truth for answer in answers]
        sizes = [n for n in self.sizes if n <= len(answers)]
        found = {
            "best": truth_of_best(rewards, truths, sizes),
            "random": np.full(len(sizes), np.mean(truths)),
            "oracle": oracle(truths, sizes),
        }
        if "majority" in self.shares:
            seed = int(mix_keys(np.array([key], dtype=np.int64), self.seed)[0])
            found["majority"] = majority([answer.final for answer in answers], truths, sizes, seed)
        for name, values in found.items():
            self.shares[name].add(values)
            if name != "best":
                self.over[name].add(found["best"] - values)

    def to_dict(self) -> dict[str, object]:
        """{"answers": with a truth, "rows": for each n the share right by each way, "best_less" what best-of-n is above
        each other way}."""
        shares = {name: moments.shares() for name, moments in self.shares.items()}
        over = {name: moments.differences() for name, moments in self.over.items()}
        rows = [
            {
                "n": n,
                **{name: values[place] for name, values in shares.items()},
                "best_less": {name: values[place] for name, values in over.items()},
            }
            for place, n in enumerate(self.sizes)
            if shares["best"][place]["prompts"]
        ]
        return {"answers": self.answers, "rows": rows}
