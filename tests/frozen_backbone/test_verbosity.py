"""Objectives less verbosity: the least lambda, what it does to the order of answers, and what no lambda does."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from reward_modeling.common.errors import UserError
from reward_modeling.common.intervals import share_of_rows
from reward_modeling.common.prompt_differences import difference_of_shares
from reward_modeling.frozen_backbone.ridge import fit_ridge, predict
from reward_modeling.frozen_backbone.verbosity import BOUND, PRECISION, debias, least_lambda, with_interval
from reward_modeling.objectives.rating_statistics import ranks_of

PROMPTS, HIDDEN = 1500, 64
VERBOSITY, QUALITY, PLAIN = 0, 1, 2


@pytest.fixture(scope="module")
def world():
    return make_world(PROMPTS)


def make_world(number_of_prompts: int, seed: int = 0, overrated: float = 0.6, worth_of_length: float = 0.0):
    """Two answers to each prompt, their lengths, outputs of ridge regression on features, and the answers' true worth.

    The raters' quality goes up with the length by `overrated`, what is true of an answer by `worth_of_length`; another
    objective is free of it.
    """
    rng = np.random.default_rng(seed)
    answers = 2 * number_of_prompts
    prompts = np.arange(answers) // 2
    true, wordy, other = rng.normal(size=(3, answers))
    lengths = np.exp(5 + 0.5 * wordy + 0.05 * rng.normal(size=answers)).astype(np.int64)
    features = np.stack([true, wordy, other], axis=1) @ rng.normal(size=(3, HIDDEN))
    features = (features + 0.1 * rng.normal(size=features.shape)).astype(np.float32)
    labels = np.stack([wordy, true + overrated * wordy, other], axis=1) + 0.3 * rng.normal(size=(answers, 3))
    blocks = lambda: iter([(slice(0, answers), features)])  # noqa: E731
    fit = fit_ridge(blocks, labels, prompts, seed=0)
    return predict(blocks(), fit.weights), lengths, prompts, true + worth_of_length * wordy


def spearman(one, other) -> float:
    return spearmanr(one, other).statistic


def right_of(rewards, true) -> np.ndarray:
    """Of the two answers to each prompt, 1 where the one that is truly better has the higher reward."""
    better = np.where(true[0::2] > true[1::2], 1, -1)
    return (better * (rewards[0::2] - rewards[1::2]) > 0).astype(float)


def test_what_it_says_of_the_reference_set(world):
    outputs, lengths, prompts, _ = world
    debiasing = debias(outputs, VERBOSITY, lengths, prompts=prompts)
    after = outputs @ debiasing.matrix
    assert debiasing.before[QUALITY]["value"] == pytest.approx(spearman(outputs[:, QUALITY], lengths))
    assert debiasing.after[QUALITY]["value"] == pytest.approx(spearman(after[:, QUALITY], lengths))
    assert not debiasing.not_reached
    assert debiasing.lambdas[PLAIN] == 0  # needs nothing, and keeps all it has
    np.testing.assert_array_equal(after[:, PLAIN], outputs[:, PLAIN])
    table = debiasing.table(("verbosity", "quality", "plain"))
    assert "is subtracted" in table
    assert "above the bound" not in table


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_on_answers_that_lambda_has_not_seen_the_correlation_falls_from_above_0_4_to_0_03(seed):
    """Found on one half of 20,000 prompts and measured on the other: the interval of either reaches 0.014 to each side.

    Both halves are samples, so that the difference between them has the interval of both.
    """
    outputs, lengths, prompts, _ = make_world(20_000, seed)
    half = len(outputs) // 2
    debiasing = debias(outputs[:half], VERBOSITY, lengths[:half], prompts=prompts[:half])
    there = ranks_of(lengths[half:]), prompts[half:]
    before = with_interval(outputs[half:, QUALITY], *there)
    after = with_interval((outputs[half:] @ debiasing.matrix)[:, QUALITY], *there)
    assert before["low"] > 0.4
    widths = [found["high"] - found["value"] for found in (debiasing.after[QUALITY], after)]
    assert max(widths) < 0.015
    assert abs(after["value"] - BOUND) < np.hypot(*widths)
    # a negative control: nine tenths of that lambda are too little
    too_little = outputs[half:, QUALITY] - 0.9 * debiasing.lambdas[QUALITY] * outputs[half:, VERBOSITY]
    assert with_interval(too_little, *there)["value"] - BOUND > np.hypot(*widths)


def test_where_length_is_worth_something_the_accuracy_falls_by_less_than_its_interval():
    """Raters overrate a length that is worth a little, so that debiasing takes a little too much.

    Lambda is found on 1,500 prompts. On 60,000 others the fall is real; of 1,500 it is within the interval.
    """
    outputs, lengths, prompts, true = make_world(61_500, overrated=0.5, worth_of_length=0.27)
    reference = slice(0, 2 * PROMPTS)
    debiasing = debias(outputs[reference], VERBOSITY, lengths[reference], prompts=prompts[reference])
    assert debiasing.before[QUALITY]["value"] > 0.4
    measured = slice(2 * PROMPTS, None)

    def right_with(value: float) -> np.ndarray:
        return right_of(outputs[measured, QUALITY] - value * outputs[measured, VERBOSITY], true[measured])

    before, after = right_with(0.0), right_with(debiasing.lambdas[QUALITY])
    numbers = np.arange(len(before))
    fall = difference_of_shares(before, after, numbers)
    assert fall["low"] > 0
    interval = share_of_rows(before[:PROMPTS], np.zeros(PROMPTS, dtype=bool))
    assert fall["high"] < (interval["high"] - interval["low"]) / 2
    assert interval["low"] < after[:PROMPTS].mean() < interval["high"]
    # a negative control: one half more of it is far too much
    too_much = difference_of_shares(before, right_with(1.5 * debiasing.lambdas[QUALITY]), numbers)
    assert too_much["low"] > (interval["high"] - interval["low"]) / 2


def test_where_length_is_worth_nothing_the_accuracy_rises(world):
    outputs, lengths, prompts, true = world
    after = outputs @ debias(outputs, VERBOSITY, lengths, prompts=prompts).matrix
    gain = difference_of_shares(right_of(after[:, QUALITY], true), right_of(outputs[:, QUALITY], true), prompts[::2])
    assert gain["low"] > 0.05


def test_lambda_is_the_least_that_keeps_the_bound(world):
    outputs, lengths, _, _ = world
    found = least_lambda(outputs[:, QUALITY], outputs[:, VERBOSITY], ranks_of(lengths), BOUND)

    def at(value: float) -> float:
        return spearman(outputs[:, QUALITY] - value * outputs[:, VERBOSITY], lengths)

    assert at(found) <= BOUND < at(found - 2 * PRECISION - 1e-4)
    grid = np.linspace(0, 1, 400)
    assert abs(grid[np.argmax([at(value) <= BOUND for value in grid])] - found) < 1 / 300  # a slow search


def test_the_correlation_with_the_verbosity_itself_never_rises_with_lambda(world):
    """Which is why its least lambda is the only place where the bound is crossed."""
    outputs, _, prompts, _ = world
    values = [
        spearman(outputs[:, QUALITY] - value * outputs[:, VERBOSITY], outputs[:, VERBOSITY])
        for value in np.linspace(0, 3, 60)
    ]
    assert (np.diff(values) <= 1e-12).all()
    debiasing = debias(outputs, VERBOSITY, prompts=prompts, bound=0.1)
    after = outputs @ debiasing.matrix
    assert spearman(outputs[:, QUALITY], outputs[:, VERBOSITY]) > 0.4
    assert 0.1 - 1e-3 < spearman(after[:, QUALITY], outputs[:, VERBOSITY]) <= 0.1


def test_the_matrix_has_the_published_layout(world):
    """RLHFlow/ArmoRM-Llama3-8B-v0.1: rewards @ reward_transform_matrix, whose verbosity drops out altogether."""
    outputs, lengths, prompts, _ = world
    debiasing = debias(outputs, VERBOSITY, lengths, prompts=prompts)
    by_hand = outputs - debiasing.lambdas * outputs[:, [VERBOSITY]]
    np.testing.assert_allclose(outputs @ debiasing.matrix, by_hand, atol=1e-12)
    assert debiasing.lambdas[VERBOSITY] == 1
    assert not debiasing.matrix[:, VERBOSITY].any()
    assert debiasing.after[VERBOSITY]["value"] is None


def test_what_no_lambda_frees_of_the_length_is_named_and_not_set_to_one():
    """A verbosity that has nothing to do with the length cannot take it out of another objective."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(10, 500, 2000)
    outputs = np.stack([0.01 * rng.normal(size=2000), lengths / 100.0], axis=1)
    debiasing = debias(outputs, 0, lengths, prompts=np.arange(2000))
    assert debiasing.not_reached == [1]
    assert "above the bound" in debiasing.table(("verbosity", "quality"))
    assert debiasing.lambdas[1] != 1
    assert debiasing.after[1]["value"] <= debiasing.before[1]["value"]


def test_steps_and_equal_values_stay_on_the_side_of_the_bound():
    """Ten answers: the correlation is a step function with few steps."""
    rng = np.random.default_rng(2)
    for _ in range(50):
        verbosity, rewards = rng.integers(0, 4, (2, 10)).astype(float)
        measure = ranks_of(verbosity)
        if verbosity.std() == 0:
            continue
        found = least_lambda(rewards, verbosity, measure, BOUND)
        left = rewards - found * verbosity
        assert left.std() < 1e-9 or spearman(left, verbosity) <= BOUND


def test_intervals_are_those_of_drawn_prompts(world):
    """Against a slow bootstrap over prompts; rows drawn one by one would give another interval."""
    outputs, lengths, prompts, _ = world
    doubled = np.concatenate([prompts, prompts])  # each answer twice: no more is known than before
    found = with_interval(outputs[:, QUALITY], ranks_of(lengths), prompts)
    twice = with_interval(np.tile(outputs[:, QUALITY], 2), ranks_of(np.tile(lengths, 2)), doubled)
    assert (twice["low"], twice["high"]) == pytest.approx((found["low"], found["high"]), abs=1e-3)
    x, y = ranks_of(outputs[:, QUALITY]), ranks_of(lengths)
    rng, draws = np.random.default_rng(0), []
    for _ in range(400):
        rows = np.concatenate([[2 * number, 2 * number + 1] for number in rng.integers(0, PROMPTS, PROMPTS)])
        draws.append(np.corrcoef(x[rows], y[rows])[0, 1])
    low, high = np.quantile(draws, [0.025, 0.975])
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=0.008)


def test_a_set_of_one_length_is_refused():
    with pytest.raises(UserError, match="expected answers of different lengths"):
        debias(np.random.default_rng(0).normal(size=(10, 2)), 0, np.ones(10), prompts=np.arange(10))
