"""What the answers and the choice among them come to, prompt by prompt; a figure over prompts is a `moments.Mean`.

figures = Figures(greatest=8, has_truth=True, has_finals=False, seed=0)
figures.add(prompt)                # all its answers
figures.add_selected(answers, selected)
figures.to_dict()
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from reward_modeling.best_of_n.answers import ScoredAnswer, ScoredPrompt
from reward_modeling.best_of_n.curves import best_of_n, oracle, sizes_up_to, truth_of_best
from reward_modeling.best_of_n.majority import majority
from reward_modeling.best_of_n.moments import Correlation, Mean, Moments
from reward_modeling.best_of_n.selection import Selected
from reward_modeling.data.keys import mix_keys

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Figures:
    """Sums over prompts."""

    def __init__(self, greatest: int, *, has_truth: bool, has_finals: bool, seed: int):
        self.sizes = sizes_up_to(greatest)
        self.prompts = self.answers = self.scored = 0
        self.curve = RewardCurve(self.sizes)
        self.truth = TruthCurves(self.sizes, has_finals=has_finals, seed=seed) if has_truth else None
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

    def add_selected(self, usable: Sequence[ScoredAnswer], selected: Sequence[Selected]) -> None:
        """What was written of a prompt."""
        self.selected.add(selected)
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
            "selected": self.selected.to_dict(),
            "lengths": self.lengths.to_dict(),
            "models": self.models.to_dict(),
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


class Lengths:
    """Characters of the answers: do they go with the reward, and how long is what was taken."""

    def __init__(self) -> None:
        self.answers = Correlation()
        self.means = Moments(3)
        self.longer = Moments(1)
        self.are_pairs = False

    def add(self, usable: Sequence[ScoredAnswer], selected: Sequence[Selected]) -> None:
        chosen = [one.chosen.length for one in selected]
        rejected = [one.rejected.length for one in selected if one.rejected is not None]
        self.are_pairs = bool(rejected)
        others = rejected or [answer.length for answer in usable]
        self.means.add([np.mean(chosen), np.mean(others), np.mean(chosen) - np.mean(others)])
        if rejected:
            pairs = zip(chosen, rejected, strict=True)
            self.longer.add([np.mean([0.5 if one == other else float(one > other) for one, other in pairs])])

    def to_dict(self) -> dict[str, object]:
        chosen, others, difference = self.means.means()
        found = {"reward_and_length": self.answers.value(), "chosen": chosen, "difference": difference}
        if self.are_pairs:
            return found | {"rejected": others, "longer_chosen": self.longer.shares()[0]}
        return found | {"usable": others}


class Models:
    """Whose answers there are, and whose were taken."""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self.rewards: dict[str, Moments] = {}
        self.chosen: dict[str, float] = {}
        self.rejected: dict[str, float] = {}
        self.shares: dict[str, Moments] = {}
        self.prompts = 0

    def add(self, scored: Sequence[ScoredAnswer]) -> None:
        of: dict[str, list[float]] = {}
        for answer in scored:
            for model in answer.models:
                of.setdefault(model, []).append(answer.reward)
        for model, rewards in of.items():
            self.answers[model] += len(rewards)
            self.rewards.setdefault(model, Moments(1)).add([np.mean(rewards)])

    def add_selected(self, selected: Sequence[Selected]) -> None:
        self.prompts += 1
        chosen = _parts(one.chosen for one in selected)
        for counts, parts in (
            (self.chosen, chosen),
            (self.rejected, _parts(one.rejected for one in selected if one.rejected is not None)),
        ):
            for model, part in parts.items():
                counts[model] = counts.get(model, 0.0) + part
        for model, part in chosen.items():
            self.shares.setdefault(model, Moments(1)).add([part / len(selected)])

    def to_dict(self) -> dict[str, dict[str, object]]:
        total = sum(self.answers.values())
        return {
            model: {
                "answers": self.answers[model],
                "share_of_answers": self.answers[model] / total,
                "reward": self.rewards[model].means()[0],
                "chosen": self.chosen.get(model, 0.0),
                "share_chosen": self._share_chosen(model),
                "rejected": self.rejected.get(model, 0.0),
            }
            for model in sorted(self.answers)
        }

    def _share_chosen(self, model: str) -> Mean:
        """Of the chosen answers of a prompt, a mean over prompts."""
        share = self.shares.get(model, Moments(1))
        share.counts[:] = self.prompts  # where none is chosen it is 0
        return share.shares()[0]


def _parts(answers: Iterable[ScoredAnswer]) -> dict[str, float]:
    """How many of the answers are each model's; of an answer that several have given each has a part."""
    found: dict[str, float] = {}
    for answer in answers:
        for model in answer.models:
            found[model] = found.get(model, 0.0) + 1 / len(answer.models)
    return found


class SelectedFigures:
    """What was written, and by how much the chosen answers are better."""

    def __init__(self) -> None:
        self.rows = self.prompts = self.turned = self.labelled = 0
        self.gaps = array("d")
        self.rewards = Moments(1)

    def add(self, selected: Sequence[Selected]) -> None:
        self.prompts += 1
        self.rows += len(selected)
        self.gaps.extend(one.gap for one in selected if one.gap is not None)
        self.rewards.add([np.mean([one.chosen.reward for one in selected])])
        labels = [(one.chosen.label, one.rejected.label) for one in selected if one.rejected is not None]
        self.turned += labels.count(("rejected", "chosen"))
        self.labelled += labels.count(("rejected", "chosen")) + labels.count(("chosen", "rejected"))

    def to_dict(self) -> dict[str, object]:
        return {
            "rows": self.rows,
            "prompts": self.prompts,
            "reward": self.rewards.means()[0],
            "gaps": self._gaps(),
            "labelled": self.labelled,
            "turned": self.turned,
        }

    def _gaps(self) -> dict[str, float] | None:
        if not len(self.gaps):
            return None
        gaps = np.frombuffer(self.gaps, dtype=np.float64)
        quantiles = np.quantile(gaps, QUANTILES).tolist()
        named = {f"{100 * level:g}%": value for level, value in zip(QUANTILES, quantiles, strict=True)}
        return {"least": float(gaps.min()), **named, "greatest": float(gaps.max()), "mean": float(gaps.mean())}
