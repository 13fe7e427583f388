"""What is learned from data of a known model: its rewards, its threshold of ties, and more from richer labels.

Rewards are linear in random features of the answers, and learned by plain gradient descent through the objective: no
transformer, fixed seeds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pytest
import torch

from reward_modeling.objectives.bradley_terry import BradleyTerry, BradleyTerryFlags
from reward_modeling.objectives.pair_reader import PairReader

CORRELATION = 0.98
HELD_OUT = 2000


@dataclass
class World:
    """Answers as random features, with rewards whose standard deviation is `spread`."""

    answers: int
    features: int
    spread: float = 1.5
    seed: int = 0

    def __post_init__(self):
        self.generator = torch.Generator().manual_seed(self.seed)
        direction = self.normal(self.features)
        self.weights = self.spread * direction / direction.norm()
        self.x, self.held_out = self.normal(self.answers, self.features), self.normal(HELD_OUT, self.features)

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator)

    def uniform(self, *shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=self.generator)

    def shuffled(self, values: torch.Tensor) -> torch.Tensor:
        return values[torch.randperm(len(values), generator=self.generator)]

    @property
    def rewards(self) -> torch.Tensor:
        return self.x @ self.weights

    @property
    def differences(self) -> torch.Tensor:
        """`(answers / 2,)`, of the pairs of neighbours."""
        return self.rewards[0::2] - self.rewards[1::2]

    def correlation(self, learned: torch.Tensor) -> float:
        """Of the rewards of answers that were not trained on."""
        both = torch.stack([self.held_out @ self.weights, self.held_out @ learned])
        return torch.corrcoef(both)[0, 1].item()


def neighbours(better_is_first: torch.Tensor) -> list[tuple[int, int]]:
    """Units of the pairs of neighbours, the better answer first."""
    first = range(0, 2 * len(better_is_first), 2)
    return [
        (one, one + 1) if is_first else (one + 1, one)
        for one, is_first in zip(first, better_is_first.tolist(), strict=True)
    ]


def labels(probabilities: torch.Tensor, strengths: torch.Tensor | None = None) -> list[tuple[float, float, float]]:
    strengths = torch.ones_like(probabilities) if strengths is None else strengths
    return [(p, k, 0.0) for p, k in zip(probabilities.tolist(), strengths.tolist(), strict=True)]


def learn(
    flags: BradleyTerryFlags, x: torch.Tensor, units: Sequence, targets: Sequence, steps: int = 300, rate: float = 1.0
) -> tuple[torch.Tensor, BradleyTerry]:
    """The weights after gradient descent from zero on all units at once, and the objective with its threshold."""
    objective, batch = BradleyTerry(flags), BradleyTerry.collate(units, targets)
    weights = torch.zeros(x.shape[1], requires_grad=True)
    shares = torch.full((len(units),), 1 / len(units))
    for _ in range(steps):
        logits = (x @ weights).unsqueeze(1)
        (gradient,) = torch.autograd.grad((objective.loss(logits, batch) * shares).sum(), weights)
        of_threshold = objective.gradient(logits.detach(), batch, shares)
        if of_threshold is not None:
            objective.step(of_threshold.item())
        weights = (weights - rate * gradient).detach().requires_grad_()
    return weights.detach(), objective


def flags_of(**changes: Any) -> BradleyTerryFlags:
    return BradleyTerryFlags(**({"loss": "bradley_terry"} | changes))


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_preferences_recover_the_rewards():
    """And labels that say nothing do not."""
    world = World(answers=8000, features=8)
    is_first = world.uniform(4000) < torch.sigmoid(world.differences)
    sure = labels(torch.ones(4000))
    learned, _ = learn(flags_of(), world.x, neighbours(is_first), sure)
    assert world.correlation(learned) > CORRELATION
    assert learned.norm() == pytest.approx(world.spread, rel=0.1)  # the scale too
    coins, _ = learn(flags_of(), world.x, neighbours(world.uniform(4000) < 0.5), sure)
    assert abs(world.correlation(coins)) < 0.9


def expected_loss(world: World, learned: torch.Tensor) -> float:
    """The cross-entropy of held-out pairs with the probabilities of the known model."""
    rewards, true = world.held_out @ learned, world.held_out @ world.weights
    difference, probability = rewards[0::2] - rewards[1::2], torch.sigmoid(true[0::2] - true[1::2])
    return torch.nn.functional.binary_cross_entropy_with_logits(difference, probability).item()


@pytest.mark.parametrize("seed", range(3))
def test_soft_labels_give_a_lower_held_out_loss_than_hard_ones_drawn_from_them(seed):
    """Few pairs of many features. Probabilities of other pairs, the negative control, are worse than both."""
    world = World(answers=400, features=20, seed=seed)
    probability = torch.sigmoid(world.differences)
    pairs = neighbours(torch.ones(200))
    drawn = (world.uniform(200) < probability).float()
    of = {"soft": probability, "hard": drawn, "others'": world.shuffled(probability)}
    losses = {
        name: expected_loss(world, learn(flags_of(), world.x, pairs, labels(values))[0]) for name, values in of.items()
    }
    least = expected_loss(world, world.weights)
    assert least - 1e-5 < losses["soft"] < least + 0.005 < least + 0.02 < losses["hard"] < losses["others'"]


# --- ties -------------------------------------------------------------------------------------------------------------


def rao_kupper(difference: torch.Tensor, threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
    """P(first) and P(tie) in the words of the paper, with the merits exp(reward)."""
    first, second = torch.exp(difference), torch.ones_like(difference)
    wins, loses = first / (first + threshold * second), second / (second + threshold * first)
    return wins, 1 - wins - loses


def davidson(difference: torch.Tensor, threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = torch.exp(difference), torch.ones_like(difference)
    tie = threshold * torch.sqrt(first * second)
    return first / (first + second + tie), tie / (first + second + tie)


@pytest.mark.parametrize(
    ("ties", "probabilities", "threshold"),
    [("rao_kupper", rao_kupper, 3.0), ("davidson", davidson, 0.5), ("davidson", davidson, 1.6)],
)
def test_ties_recover_their_threshold(ties: str, probabilities: Callable, threshold: float):
    """Learned together with the rewards. The negative control: a coin is tossed for each tie."""
    world = World(answers=8000, features=8)
    wins, tied = probabilities(world.differences, threshold)
    draw = world.uniform(4000)
    is_tie = (wins <= draw) & (draw < wins + tied)
    assert 0.1 < is_tie.float().mean() < 0.6
    flags = flags_of(ties=ties, tie_learning_rate=0.05)
    learned, objective = learn(flags, world.x, neighbours(draw < wins), labels(1 - 0.5 * is_tie.float()))
    assert objective.threshold.value == pytest.approx(threshold, rel=0.1)
    assert world.correlation(learned) > CORRELATION
    assert learned.norm() == pytest.approx(world.spread, rel=0.1)
    is_first = torch.where(is_tie, world.uniform(4000) < 0.5, draw < wins)
    _, objective = learn(flags, world.x, neighbours(is_first), labels(torch.ones(4000)))
    lowest = objective.threshold.model.lowest
    assert objective.threshold.value - lowest < 0.2 * (threshold - lowest)


def test_a_given_threshold_is_not_learned():
    world = World(answers=200, features=4)
    flags = flags_of(ties="davidson", tie_threshold=0.7)
    _, objective = learn(flags, world.x, neighbours(world.differences > 0), labels(torch.full((100,), 0.5)), steps=5)
    assert objective.threshold.value == 0.7 and objective.state() == {}


# --- lists ------------------------------------------------------------------------------------------------------------


def row(answers: Sequence[str], ranks: Sequence[int] = (), **numbers: float) -> dict[str, Any]:
    """A standard row: a list, or without ranks a pair."""
    names = ("chosen_probability", "strength", "weight", "margin", "chosen_score", "rejected_score")
    texts = {"answers": list(answers) if ranks else [], "ranks": list(ranks), "chosen": answers[0]}
    return dict.fromkeys(names) | texts | {"rejected": answers[-1]} | numbers


def weighted_sum(reader: PairReader, rows: list[dict], x: dict[str, torch.Tensor]) -> tuple[float, torch.Tensor]:
    """The weighted sum of the losses of the rows, as they are read, and its gradient with respect to linear weights."""
    units, targets, weights, texts = [], [], [], []
    for example in map(reader.read_row, rows):
        units += [[len(texts) + number for number in unit] for unit in example.units]
        targets += example.targets
        weights += example.weights
        texts += example.completions
    linear = torch.linspace(-1, 1, 6, dtype=torch.float64, requires_grad=True)
    logits = (torch.stack([x[text] for text in texts]) @ linear).unsqueeze(1)
    loss = (BradleyTerry(flags_of()).loss(logits, BradleyTerry.collate(units, targets)) * torch.tensor(weights)).sum()
    (gradient,) = torch.autograd.grad(loss, linear)
    return loss.item(), gradient


def test_lists_are_their_pairs():
    """The same loss and gradient as of rows written out; by prompt, of rows that have the pairs' share as weight."""
    generator = torch.Generator().manual_seed(0)
    x = {name: torch.randn(6, generator=generator, dtype=torch.float64) for name in "abcdefghi"}
    lists = [("abcd", (2, 1, 4, 3)), ("efghi", (1, 1, 2, 3, 3)), ("cdf", (3, 2, 1))]

    def pairs(answers: str, ranks: tuple[int, ...]) -> list[tuple[str, str]]:
        ranked = sorted(zip(ranks, answers, strict=True))
        return [(better, worse) for (one, better), (other, worse) in combinations(ranked, 2) if one < other]

    rows = [row(answers, ranks) for answers, ranks in lists]
    written_out = [row(pair) for answers, ranks in lists for pair in pairs(answers, ranks)]
    shares = [row(pair, weight=1 / len(pairs(*of))) for of in lists for pair in pairs(*of)]
    assert [len(pairs(*of)) for of in lists] == [6, 8, 3]
    found = {name: weighted_sum(PairReader(list_weight=name), rows, x) for name in ("pair", "prompt")}
    for name, expected in (("pair", written_out), ("prompt", shares)):
        loss, gradient = weighted_sum(PairReader(), expected, x)
        assert found[name][0] == pytest.approx(loss, rel=1e-6)  # the shares of a list are float32 in a batch
        assert torch.allclose(found[name][1], gradient, rtol=1e-6)
    direction = [gradient / gradient.norm() for _, gradient in found.values()]
    assert torch.dot(*direction) < 0.999  # long lists count more by pair: no mere factor


def test_rankings_and_their_pairs_recover_the_same_rewards():
    """Lists of five drawn from Plackett and Luce's model; a list turned round, the negative control, does not."""
    world = World(answers=4000, features=8)
    gumbel = -torch.log(-torch.log(world.uniform(800, 5)))
    order = (world.rewards.reshape(800, 5) + gumbel).argsort(dim=1, descending=True)
    ranks = (order.argsort(dim=1) + 1).tolist()
    texts = [str(number) for number in range(5)]

    def learned(rows: list[list[int]], lists: str) -> torch.Tensor:
        examples = [PairReader(lists=lists, list_weight="pair").read_row(row(texts, of)) for of in rows]
        units = [[5 * n + number for number in unit] for n, of in enumerate(examples) for unit in of.units]
        return learn(flags_of(list_loss=lists), world.x, units, [target for of in examples for target in of.targets])[0]

    of_lists, of_pairs = learned(ranks, "plackett_luce"), learned(ranks, "pairs")
    for weights in (of_lists, of_pairs):
        assert world.correlation(weights) > CORRELATION
        assert weights.norm() == pytest.approx(world.spread, rel=0.1)
    assert (of_lists - of_pairs).norm() < 0.1 * world.spread
    reversed_lists = learned([[6 - rank for rank in of] for of in ranks], "plackett_luce")
    assert world.correlation(reversed_lists) < -CORRELATION


# --- strengths --------------------------------------------------------------------------------------------------------


def test_scaled_beats_plain_where_strengths_say_something():
    """Judges see the difference with an error, and say how large it seems to them. Strengths of other pairs, the
    negative control, are no help."""
    plain, scaled, control = [], [], []
    for seed in range(12):
        world = World(answers=600, features=30, seed=seed)
        seen = world.differences + 3 * world.normal(300)
        strengths = (seen.abs() / 2).ceil().clamp(max=3)  # slightly, better, much better
        pairs = neighbours(seen > 0)
        for loss, of, into in (
            ("bradley_terry", strengths, plain),
            ("scaled", strengths, scaled),
            ("scaled", world.shuffled(strengths), control),
        ):
            learned, _ = learn(flags_of(loss=loss), world.x, pairs, labels(torch.ones(300), of), steps=100)
            into.append(world.correlation(learned))
    mean = {name: sum(of) / len(of) for name, of in (("plain", plain), ("scaled", scaled), ("control", control))}
    assert mean["scaled"] > mean["plain"] + 0.02
    assert sum(one > other for one, other in zip(scaled, plain, strict=True)) >= 10
    assert mean["control"] < mean["plain"]
