"""The losses against numbers derived by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reward_modeling.objectives.bradley_terry import bradley_terry_loss, center_rewards_penalty


def rewards(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# ln 3 as a difference gives sigmoid = 3 / 4, so that every expected value below is a short logarithm.
LN3 = math.log(3)


def test_the_loss_is_minus_log_sigmoid_of_the_difference():
    loss = bradley_terry_loss(rewards(LN3, 1.0, -2.0), rewards(0.0, 1.0, LN3 - 2.0))
    assert loss.tolist() == pytest.approx([math.log(4 / 3), math.log(2), math.log(4)], abs=1e-12)


def test_one_value_per_pair_and_no_mean():
    assert bradley_terry_loss(rewards(1.0, 2.0, 3.0), rewards(0.0, 0.0, 0.0)).shape == (3,)
    assert bradley_terry_loss(rewards(), rewards()).shape == (0,)


def test_the_margin_is_subtracted_from_the_difference():
    loss = bradley_terry_loss(rewards(2 * LN3, 0.0), rewards(0.0, 0.0), margin=rewards(LN3, LN3))
    assert loss.tolist() == pytest.approx([math.log(4 / 3), math.log(4)], abs=1e-12)


def test_label_smoothing_mixes_both_directions():
    loss = bradley_terry_loss(rewards(LN3), rewards(0.0), label_smoothing=0.1)
    assert loss.item() == pytest.approx(0.9 * math.log(4 / 3) + 0.1 * math.log(4), abs=1e-12)


def test_margin_and_label_smoothing_together():
    """Both directions see the difference less the margin: ln 3 - 2 ln 3 = -ln 3."""
    loss = bradley_terry_loss(rewards(LN3), rewards(0.0), margin=rewards(2 * LN3), label_smoothing=0.2)
    assert loss.item() == pytest.approx(0.8 * math.log(4) + 0.2 * math.log(4 / 3), abs=1e-12)


def test_a_zero_margin_is_no_margin():
    chosen, rejected = rewards(0.3, -1.2), rewards(0.1, 4.0)
    without = bradley_terry_loss(chosen, rejected)
    assert torch.equal(bradley_terry_loss(chosen, rejected, margin=torch.zeros(2, dtype=torch.float64)), without)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_extreme_differences_stay_finite(smoothing):
    chosen = torch.tensor([1e4, -1e4, 3e38], requires_grad=True)
    rejected = torch.tensor([-1e4, 1e4, 0.0], requires_grad=True)
    loss = bradley_terry_loss(chosen, rejected, label_smoothing=smoothing)
    loss[:2].sum().backward()
    assert torch.isfinite(loss).all()
    assert loss[:2].tolist() == pytest.approx([smoothing * 2e4, (1 - smoothing) * 2e4])
    assert chosen.grad[:2].tolist() == pytest.approx([smoothing, smoothing - 1])


@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(-5, 5))
def test_the_gradient_raises_the_chosen_reward_and_is_sigmoid(chosen, rejected, margin):
    chosen, rejected = rewards(chosen).requires_grad_(), rewards(rejected).requires_grad_()
    bradley_terry_loss(chosen, rejected, margin=rewards(margin)).sum().backward()
    expected = -1 / (1 + math.exp(chosen.item() - rejected.item() - margin))
    assert chosen.grad.item() < 0 < rejected.grad.item()
    assert chosen.grad.item() == pytest.approx(expected, rel=1e-9)
    assert rejected.grad.item() == -chosen.grad.item()


def test_smoothing_makes_a_too_sure_model_pay():
    """The minimum lies at sigmoid(difference) = 1 - s; beyond it the gradient turns round."""
    chosen = rewards(math.log(9) - 0.01, math.log(9), math.log(9) + 0.01).requires_grad_()
    bradley_terry_loss(chosen, torch.zeros(3, dtype=torch.float64), label_smoothing=0.1).sum().backward()
    below, at, above = chosen.grad.tolist()
    assert below < 0 < above
    assert at == pytest.approx(0, abs=1e-12)


def test_the_center_penalty_is_the_square_of_the_sum():
    chosen = rewards(1.0, 2.0, -0.5).requires_grad_()
    penalty = center_rewards_penalty(chosen, rewards(2.0, -2.0, -1.0))
    penalty.sum().backward()
    assert penalty.tolist() == [9.0, 0.0, 2.25]
    assert chosen.grad.tolist() == [6.0, 0.0, -3.0]
