"""Bradley-Terry: one scalar per conversation, trained on pairs of which one answer was preferred, and on ranked lists.

Its flags, the loss, the figures that are logged. What it reads of a row: pair_reader.py; losses of ties and of lists:
ties.py and list_losses.py.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from reward_modeling.common.flags import LOGGED, NOT_NEGATIVE, OnResume, below, flag, one_of, unsupported
from reward_modeling.common.pair_statistics import PredictTies
from reward_modeling.objectives.base import Objective
from reward_modeling.objectives.held_out_pairs import (
    EvaluatedPairs,
    evaluation_lines,
    held_out_figures,
    held_out_table,
    named_shares,
    pair_metrics,
)
from reward_modeling.objectives.list_losses import plackett_luce_loss
from reward_modeling.objectives.pair_reader import MARGIN, PROBABILITY, STRENGTH, PairReader
from reward_modeling.objectives.tie_predictions import tie_predictions
from reward_modeling.objectives.ties import TIE, TIE_MODELS, TieThreshold

if TYPE_CHECKING:
    from reward_modeling.data.loader import PromptGroups

# Order of the sums that are kept during training. Compared are the pairs that are no ties.
UNITS, COMPARED, CORRECT, DIFFERENCE, REWARDS, REWARD, REWARD_SQUARED = range(7)


@dataclass
class BradleyTerryFlags:
    """The flags of the loss."""

    best_metrics: ClassVar[dict[str, bool]] = {
        "loss": False,
        "accuracy": True,
        "margin": True,
        "calibration_error": False,
    }

    loss: Annotated[str, one_of("bradley_terry", "margin", "scaled"), OnResume.FIXED, LOGGED] = flag(
        "margin",
        "Of a pair: margin subtracts its margin from the difference of the rewards (see loss_margin; rows without one "
        "have 0); bradley_terry passes over margins; scaled does so, and multiplies the loss by the pair's strength.",
    )
    loss_margin: Annotated[str, one_of("auto", "scores", "strength", "none"), OnResume.DATA, LOGGED] = flag(
        "auto",
        "auto: the rows' margin column where there is one; scores: chosen_score - rejected_score; strength: the rows' "
        "strength; none: no margin.",
    )
    ties: Annotated[str, one_of("half", "drop", *TIE_MODELS), OnResume.FIXED, LOGGED] = flag(
        "half",
        "Pairs with a chosen_probability of 0.5: half takes it as it is, drop leaves them out, rao_kupper and davidson "
        "give ties a probability of their own.",
    )
    tie_threshold: Annotated[float | None, OnResume.FIXED, LOGGED] = flag(
        None, "Of rao_kupper (above 1) or davidson (above 0). Unset: it is learned."
    )
    tie_learning_rate: Annotated[float, NOT_NEGATIVE, OnResume.FIXED, LOGGED] = flag(
        0.01, "Of the logarithm of a threshold that is learned."
    )
    list_loss: Annotated[str, one_of("pairs", "plackett_luce"), OnResume.DATA, LOGGED] = flag(
        "pairs", "Of a list of ranked answers: all pairs of different rank, or the likelihood of the whole ranking."
    )
    list_weight: Annotated[str, one_of("prompt", "pair"), OnResume.DATA, LOGGED] = flag(
        "prompt", "A list counts as much as one pair, whatever its length (prompt), or as much as all its pairs (pair)."
    )
    center_rewards_coefficient: Annotated[float, NOT_NEGATIVE, OnResume.FREE, LOGGED] = flag(
        0.0, "Weight of (chosen + rejected)^2, which keeps rewards around zero."
    )
    label_smoothing: Annotated[float, below(0.5), OnResume.FREE, LOGGED] = flag(
        0.0, "Assumed share of flipped labels, below 0.5."
    )
    label_smoothing_factor: Annotated[float, unsupported(0.0, "It is for classifiers: pass --label_smoothing")] = 0.0

    def objective_problems(self) -> Iterator[str]:
        model = TIE_MODELS.get(self.ties)
        if self.tie_threshold is not None and model is None:
            yield f"--tie_threshold: expected --ties {' or '.join(TIE_MODELS)} beside it, found --ties {self.ties}"
        elif self.tie_threshold is not None and not model.least <= self.tie_threshold <= model.most:
            ends = f"{model.least:g} to {model.most:g}"
            yield f"--tie_threshold: expected {ends} for {self.ties}, found {self.tie_threshold:g}"
        if self.tie_learning_rate != BradleyTerryFlags.tie_learning_rate and (model is None or self.tie_threshold):
            yield "--tie_learning_rate: expected a threshold that is learned (--ties davidson, rao_kupper), found none"
        if self.loss != "margin" and self.loss_margin not in ("auto", "none"):
            yield f"--loss_margin {self.loss_margin}: expected --loss margin beside it, found --loss {self.loss}"


class BradleyTerry(Objective):
    """P(chosen over rejected) = sigmoid(reward of chosen - reward of rejected)."""

    flags = BradleyTerryFlags
    kind = "pairs"
    progress_figures = ("accuracy", "margin")

    def __init__(self, flags: BradleyTerryFlags):
        super().__init__(flags)
        model = TIE_MODELS.get(flags.ties)
        of_model = model and TieThreshold(model, flags.tie_threshold, flags.tie_learning_rate)
        self.threshold: TieThreshold | None = of_model

    @property
    def reader(self) -> PairReader:
        return PairReader(
            margin=self.options.loss_margin if self.options.loss == "margin" else "none",
            ties=self.options.ties,
            lists=self.options.list_loss,
            list_weight=self.options.list_weight,
            needs_strength=self.options.loss == "scaled",
            learns_ties=self.threshold is not None and self.threshold.is_learned,
        )

    @staticmethod
    def collate(units: Sequence[Sequence[int]], targets: Sequence[Sequence[float]]) -> dict[str, torch.Tensor]:
        """Of the pairs, units of two: `pairs` `(pairs, 2)`, the rows of the logits of chosen and rejected;
        `probabilities`, `strengths` and `margins`, `(pairs,)` float32; `unit_of_pair` `(pairs,)`.

        Of the lists: `lists` `(lists, answers)`, padded with row 0; `ranks`, of that shape, padded with 0;
        `unit_of_list` `(lists,)`. `compared` `(compared, 2)` are better and worse answers of both.
        """
        pairs = [number for number, unit in enumerate(units) if len(unit) == 2]
        lists = [number for number, unit in enumerate(units) if len(unit) > 2]
        labels = torch.tensor([targets[number] for number in pairs], dtype=torch.float32).reshape(-1, 3)
        compared = [units[number] for number in pairs if targets[number][PROBABILITY] != TIE]
        for number in lists:
            ranked = list(zip(units[number], targets[number], strict=True))
            compared += [(one, other) for one, of_one in ranked for other, of_other in ranked if of_one < of_other]

        def padded(rows: Sequence[Sequence[float]]) -> torch.Tensor:
            whole = [torch.tensor(rows[number], dtype=torch.long) for number in lists]
            return pad_sequence(whole, batch_first=True) if whole else torch.zeros(0, 0, dtype=torch.long)

        return {
            "pairs": torch.tensor([units[number] for number in pairs], dtype=torch.long).reshape(-1, 2),
            "probabilities": labels[:, PROBABILITY],
            "strengths": labels[:, STRENGTH],
            "margins": labels[:, MARGIN],
            "unit_of_pair": torch.tensor(pairs, dtype=torch.long),
            "lists": padded(units),
            "ranks": padded(targets),
            "unit_of_list": torch.tensor(lists, dtype=torch.long),
            "compared": torch.tensor(compared, dtype=torch.long).reshape(-1, 2),
        }

    def loss(self, logits: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
        return self._loss(logits, targets, self.threshold and self.threshold.on(logits))

    def _loss(
        self, logits: torch.Tensor, targets: dict[str, torch.Tensor], threshold: torch.Tensor | None
    ) -> torch.Tensor:
        chosen, rejected = pair_rewards(logits, targets)
        loss = self._pair_loss(chosen, rejected, targets, threshold)
        lists = targets["lists"]
        if lists.numel() == 0:
            return loss + self._penalty((chosen + rejected) / 2)
        rewards = logits[:, 0][lists]
        means = torch.where(targets["ranks"] > 0, rewards, 0.0).sum(dim=1) / (targets["ranks"] > 0).sum(dim=1)
        of_lists = plackett_luce_loss(rewards, targets["ranks"]) + self._penalty(means)
        units = torch.cat([targets["unit_of_pair"], targets["unit_of_list"]])
        losses = torch.cat([loss + self._penalty((chosen + rejected) / 2), of_lists])
        return torch.zeros_like(losses).index_copy(0, units, losses)

    def _pair_loss(
        self,
        chosen: torch.Tensor,
        rejected: torch.Tensor,
        labels: Mapping[str, torch.Tensor],
        threshold: torch.Tensor | None,
    ) -> torch.Tensor:
        """`(pairs,)`, without the penalty on large rewards."""
        probability, smoothing = labels["probabilities"], self.options.label_smoothing
        strength = labels["strengths"] if self.options.loss == "scaled" else None
        if self.threshold is None:
            return bradley_terry_loss(chosen, rejected, labels["margins"], smoothing, probability, strength)
        difference = chosen - rejected - labels["margins"]
        loss = self.threshold.model.loss(difference, smoothed(probability, smoothing), threshold)
        return loss if strength is None else strength * loss

    def _penalty(self, mean_rewards: torch.Tensor) -> torch.Tensor | float:
        """Of each unit, from the mean of its rewards."""
        coefficient = self.options.center_rewards_coefficient
        return coefficient * center_rewards_penalty(mean_rewards, mean_rewards) if coefficient else 0.0

    # --- the threshold of ties ---

    def gradient(
        self, logits: torch.Tensor, targets: dict[str, torch.Tensor], weights: torch.Tensor
    ) -> torch.Tensor | None:
        if self.threshold is None or not self.threshold.is_learned:
            return None
        logits = logits.double()  # a threshold near its lowest has few digits in float32
        return self.threshold.gradient(lambda value: (self._loss(logits, targets, value) * weights).sum(), logits)

    def step(self, gradient: float) -> None:
        self.threshold.step(gradient)

    def state(self) -> dict[str, float]:
        return self.threshold.state() if self.threshold is not None and self.threshold.is_learned else {}

    def load_state(self, state: Mapping[str, float]) -> None:
        if self.threshold is not None:
            self.threshold.load(state)

    def saved_values(self) -> dict[str, Any]:
        if self.threshold is None:
            return {}
        return {"tie_model": self.options.ties, "tie_threshold": self.threshold.value}

    # --- figures ---

    def sums(self, logits: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
        rewards = logits[:, 0]
        better, worse = rewards[targets["compared"]].unbind(dim=1)
        of_lists = rewards[targets["lists"]][targets["ranks"] > 0]
        used = torch.cat([*pair_rewards(logits, targets), of_lists])
        units = len(targets["unit_of_pair"]) + len(targets["unit_of_list"])
        numbers = [rewards.new_tensor(number) for number in (units, len(better), len(used))]
        sums = [value.to(rewards.dtype) for value in ((better > worse).sum(), (better - worse).sum())]
        return torch.stack([*numbers[:2], *sums, numbers[2], used.sum(), used.square().sum()])

    def figures(self, sums: Sequence[float]) -> dict[str, float]:
        mean, compared = sums[REWARD] / sums[REWARDS], sums[COMPARED]
        of_compared = {"accuracy": CORRECT, "margin": DIFFERENCE} if compared else {}  # of ties alone there are none
        figures = {name: sums[place] / compared for name, place in of_compared.items()} | {
            "reward_mean": mean,
            "reward_std": math.sqrt(max(0.0, sums[REWARD_SQUARED] / sums[REWARDS] - mean**2)),
        }
        return figures | ({"tie_threshold": self.threshold.value} if self.threshold is not None else {})

    def evaluated(self, logits: torch.Tensor, targets: dict[str, torch.Tensor]) -> list[tuple[float, ...]]:
        """Of a pair the reward of the chosen and of the rejected answer, its probability, strength and margin."""
        labels = (targets[name] for name in ("probabilities", "strengths", "margins"))
        columns = (*pair_rewards(logits, targets), *labels)
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def held_out(self, rows: Sequence[tuple], groups: "PromptGroups") -> EvaluatedPairs:
        return EvaluatedPairs.from_rows(rows, groups)

    def metrics(self, held_out: EvaluatedPairs) -> dict[str, float]:
        return pair_metrics(held_out, self.evaluation_loss, self._predict_ties)

    def evaluation(self, held_out: EvaluatedPairs) -> dict[str, Any]:
        return {"loss": self.evaluation_loss(held_out), **held_out_figures(held_out, self._predict_ties)}

    @property
    def _predict_ties(self) -> PredictTies | None:
        """What the model says of pairs, where it gives ties a probability of their own."""
        return None if self.threshold is None else tie_predictions(self.options.ties, self.threshold.value)

    evaluation_lines = staticmethod(evaluation_lines)
    evaluation_table = staticmethod(held_out_table)
    evaluation_shares = staticmethod(named_shares)

    def evaluation_loss(self, pairs: EvaluatedPairs) -> float:
        """The weighted mean loss of the pairs, without the penalty on large rewards."""
        names = ("chosen", "rejected", "probabilities", "strengths", "margins", "weights")
        columns = {name: torch.tensor(getattr(pairs, name)) for name in names}  # a copy: the data are read-only
        threshold = self.threshold and self.threshold.on(columns["chosen"])
        losses = self._pair_loss(columns["chosen"], columns["rejected"], columns, threshold)
        return ((losses * columns["weights"]).sum() / columns["weights"].sum()).item()


def pair_rewards(logits: torch.Tensor, targets: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards of the chosen and of the rejected answers, `(pairs,)` each."""
    chosen, rejected = logits[:, 0][targets["pairs"]].unbind(dim=1)
    return chosen, rejected


def bradley_terry_loss(
    chosen_rewards: torch.Tensor,
    rejected_rewards: torch.Tensor,
    margin: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
    probability: torch.Tensor | None = None,
    strength: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-entropy of the preferences, one value per pair.

    k (-q log sigmoid(r_chosen - r_rejected - m) - (1 - q) log sigmoid(-(r_chosen - r_rejected - m)))

    With q = 1, m = 0 and k = 1 this is equation 1 of "Learning to summarize from human feedback" (Stiennon et al.,
    2020). The margin m is that of Llama 2 (Touvron et al., 2023, equation 2). q is the probability that the chosen
    answer is the better one, less what label smoothing takes of it: (1 - s) p + s (1 - p), s being the probability that
    a label is flipped (conservative DPO's smoothing, applied to rewards). The strength k makes the scaled loss of
    HelpSteer2-Preference (Wang et al., 2024).

    Args:
        chosen_rewards: `(pairs,)`, float32.
        rejected_rewards: `(pairs,)`, float32.
        margin: `(pairs,)` or None for no margin.
        label_smoothing: s, in [0, 0.5).
        probability: p, `(pairs,)`, in [0, 1], or None for 1.
        strength: k, `(pairs,)`, at least 0, or None for 1.

    Returns:
        `(pairs,)`.
    """
    difference = chosen_rewards - rejected_rewards
    if margin is not None:
        difference = difference - margin
    loss = -F.logsigmoid(difference)
    if label_smoothing or probability is not None:
        q = smoothed(torch.ones_like(difference) if probability is None else probability, label_smoothing)
        loss = q * loss - (1 - q) * F.logsigmoid(-difference)
    return loss if strength is None else strength * loss


def smoothed(probability: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """(1 - s) p + s (1 - p): the probability of a label of which a share s is flipped; that of a tie stays as it is."""
    if not label_smoothing:
        return probability
    flipped = (1 - label_smoothing) * probability + label_smoothing * (1 - probability)
    return torch.where(probability == TIE, probability, flipped)


def center_rewards_penalty(chosen_rewards: torch.Tensor, rejected_rewards: torch.Tensor) -> torch.Tensor:
    """(r_chosen + r_rejected)^2 per pair, `(pairs,)`: pulls the mean reward to zero.

    A Bradley-Terry loss leaves the rewards free by a constant per prompt; see "Helping or Herding?"
    (Eisenstein et al., 2023, equation 2).
    """
    return (chosen_rewards + rejected_rewards).square()
