"""Losses of soft labels, strengths, ties and lists against numbers derived by hand."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reward_modeling.data.preferences import standardise_row
from reward_modeling.objectives.bradley_terry import bradley_terry_loss
from reward_modeling.objectives.list_losses import plackett_luce_loss
from reward_modeling.objectives.pair_reader import PairReader
from reward_modeling.objectives.ties import TIE_MODELS, TieThreshold, davidson_loss, rao_kupper_loss

LN3 = math.log(3)
TIES = {"rao_kupper": 3.0, "davidson": 1.0}  # thresholds of the tests


def values(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


# --- soft labels ------------------------------------------------------------------------------------------------------


def test_a_soft_label_is_a_cross_entropy():
    loss = bradley_terry_loss(values(LN3), values(0.0), probability=values(0.75))
    assert loss.item() == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4), abs=1e-12)


def test_a_sure_label_is_todays_loss():
    chosen, rejected, margin = values(0.3, -1.2), values(0.1, 4.0), values(0.5, -0.5)
    sure = bradley_terry_loss(chosen, rejected, margin, probability=values(1.0, 1.0), strength=values(1.0, 1.0))
    assert torch.equal(sure, bradley_terry_loss(chosen, rejected, margin))


@given(st.floats(-20, 20), st.floats(0, 1), st.floats(-3, 3))
def test_a_pair_turned_round_says_the_same(difference, probability, margin):
    one = bradley_terry_loss(values(difference), values(0.0), values(margin), probability=values(probability))
    other = bradley_terry_loss(values(0.0), values(difference), values(-margin), probability=values(1 - probability))
    assert one.item() == pytest.approx(other.item(), rel=1e-9, abs=1e-12)


@given(st.floats(0.01, 0.99))
def test_the_minimum_is_at_the_probability(probability):
    rewards = values(math.log(probability / (1 - probability))).requires_grad_()
    bradley_terry_loss(rewards, values(0.0), probability=values(probability)).sum().backward()
    assert rewards.grad.item() == pytest.approx(0, abs=1e-9)


def test_a_tie_pulls_the_rewards_together():
    rewards = values(1.0, -1.0, 0.0).requires_grad_()
    bradley_terry_loss(rewards, torch.zeros(3, dtype=torch.float64), probability=values(0.5, 0.5, 0.5)).sum().backward()
    assert rewards.grad[0].item() > 0 > rewards.grad[1].item() and rewards.grad[2].item() == 0


def test_smoothing_leaves_ties_alone():
    loss = bradley_terry_loss(values(LN3, LN3), values(0.0, 0.0), label_smoothing=0.1, probability=values(0.5, 0.8))
    q = 0.9 * 0.8 + 0.1 * 0.2
    expected = [0.5 * (math.log(4 / 3) + math.log(4)), q * math.log(4 / 3) + (1 - q) * math.log(4)]
    assert loss.tolist() == pytest.approx(expected, abs=1e-12)


def test_strength_scales_the_loss():
    loss = bradley_terry_loss(values(LN3, LN3, LN3), values(0.0, 0.0, 0.0), strength=values(3.0, 0.5, 0.0))
    assert loss.tolist() == pytest.approx([3 * math.log(4 / 3), 0.5 * math.log(4 / 3), 0.0], abs=1e-12)


# --- ties -------------------------------------------------------------------------------------------------------------


def test_rao_kupper_by_hand():
    """d = ln 3 and t = 3: P(first) = 1 / 2, P(second) = 1 / 10, P(tie) = 4 / 10."""
    loss = rao_kupper_loss(values(LN3, LN3, LN3), values(1.0, 0.0, 0.5), values(3.0)[0])
    assert loss.tolist() == pytest.approx([math.log(2), math.log(10), math.log(10 / 4)], abs=1e-12)


def test_davidson_by_hand():
    """d = 2 ln 3 and v = 2 / 3: 3 to 1/3 to 2/3, which is 9 to 1 to 2."""
    loss = davidson_loss(values(2 * LN3, 2 * LN3, 2 * LN3), values(1.0, 0.0, 0.5), values(2 / 3)[0])
    assert loss.tolist() == pytest.approx([math.log(12 / 9), math.log(12), math.log(6)], abs=1e-12)


@pytest.mark.parametrize("name", TIE_MODELS)
@given(difference=st.floats(-30, 30))
def test_the_three_outcomes_are_all(name, difference):
    model, threshold = TIE_MODELS[name], values(TIES[name])[0]
    losses = model.loss(values(difference).expand(3), values(1.0, 0.0, 0.5), threshold)
    assert torch.exp(-losses).sum().item() == pytest.approx(1, rel=1e-9)
    tie = model.probability(values(difference), threshold).item()
    assert tie == pytest.approx(math.exp(-losses[2].item()), rel=1e-9)
    assert tie <= model.probability(values(0.0), threshold).item() + 1e-12


@pytest.mark.parametrize("name", TIE_MODELS)
def test_without_ties_it_is_bradley_terry(name):
    """At the end of the threshold's range, where a tie has no probability."""
    model, difference = TIE_MODELS[name], values(-2.0, 0.0, 3.0)
    loss = model.loss(difference, values(1.0, 1.0, 1.0), values(model.lowest + 1e-12)[0])
    expected = bradley_terry_loss(difference, torch.zeros(3, dtype=torch.float64))
    assert loss.tolist() == pytest.approx(expected.tolist(), abs=1e-9)


@pytest.mark.parametrize("name", TIE_MODELS)
def test_extreme_differences_stay_finite(name):
    difference = torch.tensor([1e4, -1e4, 1e4], requires_grad=True)
    loss = TIE_MODELS[name].loss(difference, torch.tensor([1.0, 1.0, 0.5]), torch.tensor(TIES[name]))
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(difference.grad).all()


@pytest.mark.parametrize("name", TIE_MODELS)
def test_the_gradient_of_the_threshold(name):
    """Against a difference quotient; and a step goes down."""
    model = TIE_MODELS[name]
    threshold = TieThreshold(model, None, learning_rate=0.1)
    difference, probability = values(0.3, -1.0, 2.0, 0.1), values(1.0, 0.5, 0.0, 0.5)

    def total(value: torch.Tensor) -> torch.Tensor:
        return model.loss(difference, probability, value).sum()

    gradient = threshold.gradient(total, difference).item()
    moved = [model.lowest + math.exp(threshold.x + step) for step in (1e-6, -1e-6)]
    quotient = (total(values(moved[0])[0]) - total(values(moved[1])[0])).item() / 2e-6
    assert gradient == pytest.approx(quotient, rel=1e-6)
    before = total(threshold.on(difference)).item()
    threshold.step(gradient)
    assert total(threshold.on(difference)).item() < before


@pytest.mark.parametrize("name", TIE_MODELS)
@pytest.mark.parametrize("probability", [1.0, 0.5])
def test_without_ties_or_with_nothing_else_the_threshold_stays_finite(name, probability):
    """Learning would go on for ever; in float32 the loss has an end."""
    model = TIE_MODELS[name]
    threshold = TieThreshold(model, None, learning_rate=0.5)
    difference, labels = torch.zeros(3), torch.full((3,), probability)

    def gradient() -> float:
        return threshold.gradient(lambda value: model.loss(difference, labels, value).sum(), difference).item()

    direction = math.copysign(1.0, gradient())
    for _ in range(100):
        threshold.step(direction)
    end = model.least if probability == 1.0 else model.most
    assert threshold.value == pytest.approx(end, rel=1e-9) and math.isfinite(gradient())
    for label in (1.0, 0.5):
        loss = model.loss(difference, torch.full((3,), label), threshold.on(difference))
        assert torch.isfinite(loss).all()


def test_a_threshold_goes_on_to_the_last_bit():
    import json

    one, other = (TieThreshold(TIE_MODELS["davidson"], None, 0.01) for _ in range(2))
    for gradient in (0.3, -0.7, 1e-9):
        one.step(gradient)
    other.load(json.loads(json.dumps(one.state())))
    for threshold in (one, other):
        threshold.step(0.123)
    assert one.state() == other.state() and one.value == other.value


def test_a_given_threshold_is_that():
    assert TieThreshold(TIE_MODELS["rao_kupper"], 1.7, 0.01).value == 1.7
    assert not TieThreshold(TIE_MODELS["davidson"], 0.5, 0.01).is_learned


# --- lists ------------------------------------------------------------------------------------------------------------


def plackett_luce(rewards: list[float], ranks: list[int]) -> float:
    """By the definition, one choice after the other; Efron's share of those that were chosen among equals is gone.

    The worst answers are chosen from nothing else, in whatever order.
    """
    total, choices = 0.0, 0
    for rank in sorted(set(ranks))[:-1]:
        tied = [r for r, of in zip(rewards, ranks, strict=True) if of == rank]
        left = [r for r, of in zip(rewards, ranks, strict=True) if of >= rank]
        for chosen, reward in enumerate(tied):
            gone = chosen / len(tied) * sum(map(math.exp, tied))
            total += math.log(sum(map(math.exp, left)) - gone) - reward
            choices += 1
    return total / choices


def test_a_list_of_two_is_a_pair():
    loss = plackett_luce_loss(values(LN3, 0.0).reshape(1, 2), torch.tensor([[1, 2]]))
    assert loss.tolist() == pytest.approx([math.log(4 / 3)], abs=1e-12)


def test_three_answers_by_hand():
    """6 of 6 + 3 + 1, then 3 of 3 + 1."""
    loss = plackett_luce_loss(values(0.0, math.log(6), LN3).reshape(1, 3), torch.tensor([[3, 1, 2]]))
    assert loss.item() == pytest.approx((math.log(10 / 6) + math.log(4 / 3)) / 2, abs=1e-12)


def test_ties_by_hand():
    """Two best answers of 2 and 4 beside one of 1: 2 of 7, then 4 of 7 less half of 6."""
    loss = plackett_luce_loss(values(math.log(2), math.log(4), 0.0).reshape(1, 3), torch.tensor([[1, 1, 2]]))
    assert loss.item() == pytest.approx((math.log(7 / 2) + math.log(4 / 4)) / 2, abs=1e-12)


def test_one_best_answer_among_equals_is_one_choice():
    """6 of 6 + 1 + 2; whether the others are alike, nobody said."""
    rewards = values(math.log(6), 0.0, math.log(2)).reshape(1, 3).requires_grad_()
    loss = plackett_luce_loss(rewards, torch.tensor([[1, 2, 2]]))
    loss.sum().backward()
    assert loss.item() == pytest.approx(math.log(9 / 6), abs=1e-12)
    assert rewards.grad[0].tolist() == pytest.approx([-3 / 9, 1 / 9, 2 / 9], abs=1e-12)


@pytest.mark.parametrize("ranks", [[1, 2, 3, 4], [4, 1, 1, 2], [2, 2, 1, 2], [1, 1, 2, 2], [3, 2, 1, 1]])
def test_every_order_of_the_answers_gives_the_same(ranks):
    rewards = [0.3, -1.1, 2.0, 0.7]
    expected = plackett_luce(rewards, ranks)
    for order in itertools.permutations(range(4)):
        shuffled = values(*(rewards[place] for place in order)).reshape(1, 4)
        loss = plackett_luce_loss(shuffled, torch.tensor([[ranks[place] for place in order]]))
        assert loss.item() == pytest.approx(expected, abs=1e-12)


def test_what_fills_up_a_list_counts_nothing():
    """Lists of different lengths side by side: values and gradients as of each alone."""
    lists = [([0.5, -0.5], [1, 2]), ([1.0, 0.0, 2.0, -1.0], [2, 1, 1, 3]), ([0.1, 0.2, 0.3], [3, 2, 1])]
    rewards = torch.full((3, 4), 77.0, dtype=torch.float64)
    ranks = torch.zeros(3, 4, dtype=torch.long)
    for row, (of, order) in enumerate(lists):
        rewards[row, : len(of)], ranks[row, : len(of)] = values(*of), torch.tensor(order)
    rewards.requires_grad_()
    loss = plackett_luce_loss(rewards, ranks)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([plackett_luce(*each) for each in lists], abs=1e-12)
    assert (rewards.grad[ranks == 0] == 0).all() and torch.isfinite(rewards.grad).all()
    for row, (of, order) in enumerate(lists):
        alone = values(*of).reshape(1, -1).requires_grad_()
        plackett_luce_loss(alone, torch.tensor([order])).sum().backward()
        assert torch.allclose(alone.grad[0], rewards.grad[row, : len(of)], atol=1e-12)


def test_a_constant_changes_nothing_and_better_is_cheaper():
    rewards, ranks = values(0.2, 0.9, -0.4).reshape(1, 3), torch.tensor([[2, 1, 3]])
    loss = plackett_luce_loss(rewards, ranks)
    assert plackett_luce_loss(rewards + 5, ranks).item() == pytest.approx(loss.item(), abs=1e-12)
    assert plackett_luce_loss(rewards, torch.tensor([[2, 3, 1]])).item() > loss.item()
    assert plackett_luce_loss(rewards[:0], ranks[:0]).shape == (0,)


# --- what a row gives the loss ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({}, (1.0, 1.0, 0.0)),
        ({"strength": 3}, (1.0, 3.0, 3.0)),
        ({"strength": 0}, (0.5, 1.0, 0.0)),  # a tie has no strength, and no distance
        ({"strength": 0, "chosen_probability": 2 / 3}, (2 / 3, 1.0, 0.0)),  # two to one: not nothing
        ({"strength": 3, "chosen_probability": 0.5}, (0.5, 1.0, 0.0)),
    ],
)
def test_strengths_as_scale_and_as_margin(labels, expected):
    row = standardise_row({"prompt": "q", "chosen": "a", "rejected": "b", **labels}, "x:1")
    (targets,) = PairReader(margin="strength").read_row(row).targets
    assert targets == pytest.approx(expected)
