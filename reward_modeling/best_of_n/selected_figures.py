"""What was taken of the answers: how long it is, whose, and by how much it is better."""

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from reward_modeling.best_of_n.answers import ScoredAnswer
from reward_modeling.best_of_n.moments import Correlation, Mean, Moments
from reward_modeling.best_of_n.selection import Selected

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


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
        self.together: Counter[int] = Counter()

    def add(self, scored: Sequence[ScoredAnswer]) -> None:
        of: dict[str, list[float]] = {}
        for answer in scored:
            for model in answer.models:
                of.setdefault(model, []).append(answer.reward)
        self.together[len(of)] += 1
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

    def prompts_by_models(self) -> dict[str, int]:
        """How many prompts have answers of how many models: {"1": 20, "2": 300}; empty where rows name no models."""
        return {str(models): self.together[models] for models in sorted(self.together)} if self.answers else {}

    def _share_chosen(self, model: str) -> Mean:
        """Of the chosen answers of a prompt, a mean over prompts."""
        return self.shares.get(model, Moments(1)).with_zeros(self.prompts).shares()[0]  # 0 where none is chosen


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
        self.rows = self.prompts = self.tied = self.turned = self.labelled = 0
        self.gaps = array("d")
        self.rewards = Moments(1)

    def add(self, usable: Sequence[ScoredAnswer], selected: Sequence[Selected]) -> None:
        self.prompts += 1
        self.rows += len(selected)
        self.tied += sum(answer.reward == selected[0].chosen.reward for answer in usable) > 1
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
            "tied": self.tied,
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
