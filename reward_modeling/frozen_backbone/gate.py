"""Stage 2 of a mixture of objectives: the gate, trained by Bradley-Terry on features that were computed before.

    fitted = fit_gate(pairs, parts, settings, GateTraining())
    fitted.gate(prompts)          # (prompts, objectives)

The margin of a pair is the sum over objectives of gate(prompt) x (debiased reward of chosen less rejected). Backbone
and objectives are frozen, so that the hidden states of answers are not needed any more.

Two things are done in other units than they are saved in, and folded into the weights at the end, so that the saved
gate has the published layout: hidden states are standardised (folded into the first layer), and the scale of the
rewards begins where Bradley-Terry has it for equal weights (folded into `logit_scale`).
"""

import copy
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from reward_modeling.frozen_backbone.features import read_rows
from reward_modeling.frozen_backbone.fixed_weights import fit_fixed_weights
from reward_modeling.frozen_backbone.gate_pairs import GatePairs, Parts
from reward_modeling.models.gated_model import Gate, GateSettings

logger = logging.getLogger(__name__)

LEAST_DEVIATION = 1e-3  # of the mean deviation: a hidden unit that hardly differs between prompts is left small
LOGGED = 8  # evaluations to a line in the log
FASTER = 10  # the scale is one number, and its logarithm has farther to go than a weight


@dataclass(frozen=True)
class GateTraining:
    """How a gate is trained; the defaults are those of ArmoRM's script but for the early choice."""

    steps: int = 2000
    pairs_per_step: int = 1024
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    dropout: float = 0.2
    evaluations: int = 40  # over all steps; the step with the least held-out loss is taken
    seed: int = 42


@dataclass
class FittedGate:
    """The gate of the best step, for hidden states and debiased rewards as they are."""

    gate: Gate
    best_step: int
    history: list[dict[str, float]] = field(default_factory=list)
    """`step`, `loss` (of the training pairs since the last entry; None at step 0), `held_out_loss`."""


def fit_gate(
    pairs: GatePairs,
    parts: Parts,
    settings: GateSettings,
    training: GateTraining,
    progress: Callable[[int], object] = lambda steps: None,
) -> FittedGate:
    """The same pairs, settings and seed give the same gate.

    Args:
        progress: called with a number of steps when they are done.
    """
    mean, deviation = moments(pairs, parts.train)
    unit = reward_unit(pairs, parts.train)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        gate = _with_linear_init(Gate(len(mean), settings, training.dropout))
        trainer = _GateTrainer(pairs, gate, (mean, deviation), unit, training)
        fitted = trainer.run(parts, progress)
    _fold(fitted.gate, mean, deviation, unit)
    return fitted


def moments(pairs: GatePairs, of: NDArray[np.int64]) -> tuple[NDArray, NDArray]:
    """Mean and deviation of the hidden states of the prompts of these pairs, both `(hidden,)` float32."""
    count, total, squares = 0, 0.0, 0.0
    for _, block in pairs.blocks_of_prompts(of):
        values = block.astype(np.float64)
        count, total, squares = count + len(values), total + values.sum(axis=0), squares + (values**2).sum(axis=0)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    least = max(LEAST_DEVIATION * float(deviation.mean()), 1e-6)
    return mean.astype(np.float32), np.maximum(deviation, least).astype(np.float32)


def reward_unit(pairs: GatePairs, of: NDArray[np.int64]) -> float:
    """What a difference of rewards is multiplied by: Bradley-Terry's scale for equal weights, or what makes it 1."""
    differences = pairs.differences[of].mean(axis=1, keepdims=True, dtype=np.float64)
    (scale,) = fit_fixed_weights(differences, pairs.probability[of], pairs.weights[of])
    spread = float(pairs.differences[of].std(dtype=np.float64))
    usual = 1 / spread if spread > 0 else 1.0
    return float(scale) if usual / 10 < scale < 100 * usual else usual


def _with_linear_init(gate: Gate) -> Gate:
    """As torch draws a linear layer; the last one begins at 0, so that all objectives count alike at first."""
    nn.init.zeros_(gate.layers[-1].weight)
    nn.init.zeros_(gate.layers[-1].bias)
    return gate


class _GateTrainer:
    """One training of one gate on standardised prompts and scaled differences."""

    def __init__(
        self, pairs: GatePairs, gate: Gate, moments: tuple[NDArray, NDArray], unit: float, training: GateTraining
    ) -> None:
        self.pairs, self.gate, self.training = pairs, gate, training
        self.mean, self.deviation = moments
        self.differences = pairs.differences * np.float32(unit)
        self.log_scale = nn.Parameter(torch.zeros(()))
        groups = [
            {"params": list(gate.layers.parameters())},
            {"params": [self.log_scale], "lr": FASTER * training.learning_rate, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=training.learning_rate, weight_decay=training.weight_decay)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(1.0, step / training.steps)))
        )

    def run(self, parts: Parts, progress: Callable[[int], object]) -> FittedGate:
        """Train, and come back to the step with the least loss on `parts.choose`."""
        training = self.training
        every = max(1, training.steps // training.evaluations)
        fitted = FittedGate(self.gate, 0, [{"step": 0, "loss": None, "held_out_loss": self.loss_on(parts.choose)}])
        best = self._state()
        batches = _batches(parts.train, training.pairs_per_step, training.seed)
        losses: list[float] = []
        for step in range(1, training.steps + 1):
            losses.append(self._step(next(batches)))
            if step % every and step != training.steps:
                continue
            progress(len(losses))
            entry = {"step": step, "loss": float(np.mean(losses)), "held_out_loss": self.loss_on(parts.choose)}
            if entry["held_out_loss"] < min(each["held_out_loss"] for each in fitted.history):
                best, fitted.best_step = self._state(), step
            fitted.history.append(entry)
            losses = []
            if len(fitted.history) % LOGGED == 0:
                words = "Gate: step %s of %s, loss %.4f, on held-out pairs %.4f."
                logger.info(words, f"{step:,}", f"{training.steps:,}", entry["loss"], entry["held_out_loss"])
        weights, scale = best
        self.gate.load_state_dict(weights)
        with torch.no_grad():
            self.gate.logit_scale.fill_(math.exp(scale))
        self.gate.eval().dropout = 0.0
        return fitted

    def _state(self) -> tuple[dict[str, torch.Tensor], float]:
        return copy.deepcopy(self.gate.state_dict()), float(self.log_scale.detach())

    def _step(self, batch: NDArray[np.int64]) -> float:
        self.gate.train()
        rows, place = np.unique(self.pairs.prompt[batch], return_inverse=True)
        losses = self._losses(batch, self._gate_of(read_rows(self.pairs.prompts, rows))[torch.from_numpy(place)])
        weights = torch.from_numpy(self.pairs.weights[batch]).float()
        loss = (losses * weights).sum() / weights.sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        return float(loss.detach())

    def _gate_of(self, prompts: NDArray) -> torch.Tensor:
        standardised = torch.from_numpy((prompts - self.mean) / self.deviation)
        return self.gate.weights(standardised) * self.log_scale.exp()

    def _losses(self, batch: NDArray[np.int64], gating: torch.Tensor) -> torch.Tensor:
        margins = (gating * torch.from_numpy(self.differences[batch])).sum(dim=1)
        return pair_losses(margins, torch.from_numpy(self.pairs.probability[batch]).float())

    @torch.no_grad()
    def loss_on(self, part: NDArray[np.int64]) -> float:
        self.gate.eval()
        total, place_of = 0.0, np.argsort(self.pairs.prompt[part], kind="stable")
        ordered = part[place_of]
        for rows, block in self.pairs.blocks_of_prompts(part):
            first, last = np.searchsorted(self.pairs.prompt[ordered], [rows[0], rows[-1] + 1])
            batch = ordered[first:last]
            gating = self._gate_of(block)[torch.from_numpy(np.searchsorted(rows, self.pairs.prompt[batch]))]
            weights = torch.from_numpy(self.pairs.weights[batch])
            total += float((self._losses(batch, gating).double() * weights).sum())
        return total / float(self.pairs.weights[part].sum())


def pair_losses(margins: torch.Tensor, probability: torch.Tensor) -> torch.Tensor:
    """-p log s(margin) - (1 - p) log s(-margin), `(pairs,)`: Bradley-Terry with a probability."""
    return -(probability * nn.functional.logsigmoid(margins) + (1 - probability) * nn.functional.logsigmoid(-margins))


def _batches(pairs: NDArray[np.int64], size: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Pairs in an order drawn anew for each pass over them; the last batch of a pass goes on into the next one."""
    generator = np.random.default_rng(seed)
    left = np.zeros(0, dtype=np.int64)
    while True:
        while len(left) < min(size, len(pairs)):
            left = np.concatenate([left, generator.permutation(pairs)])
        yield left[:size]
        left = left[size:]


@torch.no_grad()
def _fold(gate: Gate, mean: NDArray, deviation: NDArray, unit: float) -> None:
    """Let the gate take hidden states and rewards as they are: W (x - m) / d + b = (W / d) x + (b - W m / d)."""
    first = gate.layers[0]
    weight = first.weight.double() / torch.from_numpy(deviation).double()
    first.bias.copy_(first.bias.double() - weight @ torch.from_numpy(mean).double())
    first.weight.copy_(weight)
    gate.logit_scale.mul_(unit)
