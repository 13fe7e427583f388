"""Models in which two answers may be equally good: their losses, and the threshold that says how near that is.

Both have one number beside the rewards. It is given, or learned from the ties among the pairs: one number for all
answers, which is no weight of the network. So it has an optimizer of its own, whose gradient is that of the whole step
on any number of processes, and whose state goes into checkpoints as numbers.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from reward_modeling.common.words import TIE

FIRST_STEPS, SQUARES = 0.9, 0.999  # Adam's averages
EPSILON = 1e-8
# How far above its lowest a threshold may be: where there are no ties, or nothing else, learning would go on for ever,
# and in float32 the logarithms of its distance come to an end.
NEAREST, FARTHEST = 1e-4, 1e4


def rao_kupper_loss(difference: torch.Tensor, probability: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of preferences and ties, one value per pair (Rao and Kupper, 1967).

    With t the threshold and m = log t: P(first) = sigmoid(d - m), P(second) = sigmoid(-d - m), and
    P(tie) = (t^2 - 1) sigmoid(d - m) sigmoid(-d - m). A pair with probability one half is a tie; of other ones the loss
    is the cross-entropy with P(first) and P(second).

    Args:
        difference: `(pairs,)`, reward of the first answer less that of the second.
        probability: `(pairs,)`, that the first one is the better one.
        threshold: scalar, above 1.
    """
    first = F.logsigmoid(difference - threshold.log())
    second = F.logsigmoid(-difference - threshold.log())
    tie = torch.log(threshold - 1) + torch.log(threshold + 1) + first + second
    return -torch.where(probability == TIE, tie, probability * first + (1 - probability) * second)


def davidson_loss(difference: torch.Tensor, probability: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of preferences and ties, one value per pair (Davidson, 1970).

    With v the threshold: P(first) : P(second) : P(tie) = exp(d / 2) : exp(-d / 2) : v.

    Args:
        difference, probability: as `rao_kupper_loss`.
        threshold: scalar, above 0.
    """
    half = difference / 2
    tie = threshold.log().expand_as(half)
    total = torch.logsumexp(torch.stack([half, -half, tie]), dim=0)
    said = torch.where(probability == TIE, tie, (2 * probability - 1) * half)
    return total - said


def rao_kupper_tie(difference: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """P(tie) under Rao and Kupper, of the shape of `difference`."""
    return torch.exp(-rao_kupper_loss(difference, torch.full_like(difference, TIE), threshold))


def davidson_tie(difference: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """P(tie) under Davidson, of the shape of `difference`."""
    return torch.exp(-davidson_loss(difference, torch.full_like(difference, TIE), threshold))


@dataclass(frozen=True)
class TieModel:
    """A model of ties; `lowest` is what its threshold is above, at which there are none."""

    loss: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    probability: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    lowest: float
    first: float
    """Where learning begins: a third of the pairs of equal rewards are ties."""

    @property
    def least(self) -> float:
        return self.lowest + NEAREST

    @property
    def most(self) -> float:
        return self.lowest + FARTHEST


TIE_MODELS = {
    "rao_kupper": TieModel(rao_kupper_loss, rao_kupper_tie, lowest=1.0, first=2.0),
    "davidson": TieModel(davidson_loss, davidson_tie, lowest=0.0, first=1.0),
}


class TieThreshold:
    """The threshold of a model of ties, given or learned.

    What is learned is x = log(threshold - lowest), by Adam (Kingma and Ba, 2015) in float64, between the logarithms
    of `NEAREST` and `FARTHEST`.

    Args:
        given: None for one that is learned.
        learning_rate: of x, in each step.
    """

    def __init__(self, model: TieModel, given: float | None, learning_rate: float):
        self.model, self.learning_rate = model, learning_rate
        self.given = given
        self.x = math.log((model.first if given is None else given) - model.lowest)
        self.mean = self.square = 0.0
        self.steps = 0

    @property
    def is_learned(self) -> bool:
        return self.given is None

    @property
    def value(self) -> float:
        return self.model.lowest + math.exp(self.x) if self.given is None else self.given

    def on(self, tensor: torch.Tensor) -> torch.Tensor:
        """The threshold beside a tensor, a scalar of its type."""
        return tensor.new_tensor(self.value)

    def gradient(self, loss: Callable[[torch.Tensor], torch.Tensor], like: torch.Tensor) -> torch.Tensor:
        """Of a sum of losses, given as a function of the threshold, with respect to x; a scalar in float64."""
        x = torch.tensor(self.x, dtype=torch.float64, device=like.device, requires_grad=True)
        with torch.enable_grad():
            total = loss((self.model.lowest + x.exp()).to(like.dtype))
            return torch.autograd.grad(total, x)[0]

    def step(self, gradient: float) -> None:
        """One step down the gradient of the mean loss of an optimizer step."""
        self.steps += 1
        self.mean = FIRST_STEPS * self.mean + (1 - FIRST_STEPS) * gradient
        self.square = SQUARES * self.square + (1 - SQUARES) * gradient**2
        mean = self.mean / (1 - FIRST_STEPS**self.steps)
        square = self.square / (1 - SQUARES**self.steps)
        x = self.x - self.learning_rate * mean / (math.sqrt(square) + EPSILON)
        self.x = min(max(x, math.log(NEAREST)), math.log(FARTHEST))

    def state(self) -> dict[str, float]:
        """What a resumed run needs, in numbers that JSON keeps to the last bit."""
        return {"x": self.x, "mean": self.mean, "square": self.square, "steps": self.steps}

    def load(self, state: Mapping[str, float]) -> None:
        self.x, self.mean, self.square = (float(state[name]) for name in ("x", "mean", "square"))
        self.steps = int(state["steps"])
