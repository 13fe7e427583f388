"""Intervals of what one model is ahead of another, most of all on few prompts and where they mostly agree."""

import math

import numpy as np
import pytest
from scipy import stats

from reward_modeling.common.prompt_differences import difference_of_means, difference_of_shares, t_95

WORLDS = 1000


def draw(generator: np.random.Generator, rows: int, ahead: float, behind: float) -> np.ndarray:
    """Of each row 1, -1 or 0: who alone is right."""
    place = generator.random(rows)
    return np.where(place < ahead, 1.0, np.where(place < ahead + behind, -1.0, 0.0))


def apart(differences: np.ndarray, prompts: np.ndarray | None = None) -> dict:
    prompts = np.arange(len(differences)) if prompts is None else prompts
    return difference_of_shares(np.maximum(differences, 0), np.maximum(-differences, 0), prompts)


def percentile_bootstrap(differences: np.ndarray, generator: np.random.Generator) -> tuple[float, float]:
    drawn = differences[generator.integers(len(differences), size=(500, len(differences)))]
    return tuple(np.quantile(drawn.mean(axis=1), [0.025, 0.975]).tolist())


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("prompts", "ahead", "behind"),
    [
        *[(20, 0.10, 0.02), (20, 0.20, 0.20), (20, 0.50, 0.00)],
        *[(30, 0.03, 0.00), (30, 0.05, 0.05), (30, 0.90, 0.00)],
        *[(50, 0.10, 0.05), (50, 0.30, 0.00), (140, 0.08, 0.03), (500, 0.06, 0.03)],
    ],
)
def test_the_interval_holds_the_truth_in_95_of_100_worlds(prompts, ahead, behind, seed):
    """Above 93% of a thousand worlds, whose share has a standard error of 0.7 points."""
    generator = np.random.default_rng(seed)
    found = [apart(draw(generator, prompts, ahead, behind)) for _ in range(WORLDS)]
    assert np.mean([of["low"] <= ahead - behind <= of["high"] for of in found]) > 0.93
    assert all(of["low"] < of["high"] for of in found)


def test_a_percentile_bootstrap_would_not():
    """The negative control of the test above."""
    generator = np.random.default_rng(0)
    found = [percentile_bootstrap(draw(generator, 30, 0.03, 0.0), generator) for _ in range(300)]
    assert np.mean([low <= 0.03 <= high for low, high in found]) < 0.7
    assert np.mean([low == high for low, high in found]) > 0.3


@pytest.mark.parametrize("prompts", [1, 2, 5, 10, 30, 140])
def test_of_two_models_that_are_equally_good_neither_is_shown_to_be_better(prompts):
    """In more than one of 40 worlds to either side, where the standard error is 0.35 points."""
    for seed, share in enumerate((0.1, 0.5, 1.0)):
        generator = np.random.default_rng(seed)
        found = [apart(draw(generator, prompts, share / 2, share / 2)) for _ in range(2 * WORLDS)]
        assert np.mean([of["low"] > 0 for of in found]) < 0.025 + 3 * 0.0035
        assert np.mean([of["high"] < 0 for of in found]) < 0.025 + 3 * 0.0035


@pytest.mark.parametrize("same", [0.0, 1.0])
def test_it_holds_where_prompts_have_several_pairs(same):
    """Of one to many pairs, which are alike or independent: 50 prompts, a thousand worlds."""
    generator, held, narrow = np.random.default_rng(3), [], []
    for _ in range(WORLDS):
        prompts = np.repeat(np.arange(50), generator.geometric(0.3, size=50))
        alike, alone = draw(generator, 50, 0.15, 0.05)[prompts], draw(generator, len(prompts), 0.15, 0.05)
        differences = np.where(generator.random(len(prompts)) < same, alike, alone)
        of, by_row = apart(differences, prompts), apart(differences)
        held.append(of["low"] <= 0.10 <= of["high"])
        narrow.append(by_row["low"] <= 0.10 <= by_row["high"])
    assert np.mean(held) > 0.93
    assert (np.mean(narrow) < 0.8) == (same == 1.0)  # a negative control: rows for prompts


def test_six_prompts_that_agree_are_needed():
    """As of a sign test: its one-sided p is 1/32 of five prompts and 1/64 of six."""
    for prompts in range(1, 9):
        found = apart(np.ones(prompts))
        assert found["value"] == found["high"] == 1
        assert (found["low"] > 0) == (0.5**prompts < 0.025)
    one = apart(np.ones(10), np.zeros(10))  # ten pairs of one prompt
    assert (one["low"], one["high"], one["prompts"], one["differ"]) == (-1, 1, 1, 1)


def test_it_is_the_interval_of_bonett_and_price():
    """Where each prompt has one pair: 60 rows, 9 to 3, by the formula of the paper with t for 1.96."""
    differences = np.concatenate([np.ones(9), -np.ones(3), np.zeros(48)])
    found = apart(differences)
    ahead, behind = 10 / 62, 4 / 62
    half = stats.t.ppf(0.975, 59) * math.sqrt((ahead + behind - (ahead - behind) ** 2) / 62)
    assert (found["low"], found["high"]) == pytest.approx((ahead - behind - half, ahead - behind + half), abs=1e-6)
    assert (found["value"], found["prompts"], found["differ"]) == (pytest.approx(0.1), 60, 12)


def test_prompts_are_counted_and_not_their_pairs():
    generator = np.random.default_rng(0)
    prompts = np.repeat(np.arange(400), 10)
    one = np.repeat(generator.integers(2, size=400), 10).astype(float)  # all pairs of a prompt alike
    together = difference_of_shares(one, np.zeros(4000), prompts)
    by_row = difference_of_shares(one, np.zeros(4000), np.arange(4000))
    assert together["value"] == by_row["value"] == one.mean()
    wide, narrow = (found["high"] - found["low"] for found in (together, by_row))
    assert wide == pytest.approx(2 * 1.96 * one.std() / np.sqrt(400), rel=0.02)
    assert narrow < wide / 3


def test_a_difference_of_means_is_that_of_student():
    values = np.random.default_rng(0).normal(0.3, 1.0, size=12)
    found = difference_of_means(values, np.zeros(12), np.arange(12))
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), rel=1e-4)
    twice = difference_of_means(np.tile(values, 2), np.zeros(24), np.tile(np.arange(12), 2))
    assert twice == pytest.approx(found)
    one = difference_of_means(values, np.zeros(12), np.zeros(12))
    assert one == {"value": pytest.approx(values.mean()), "low": None, "high": None, "prompts": 1}


def test_no_pairs():
    none = np.zeros(0)
    assert difference_of_shares(none, none, none)["value"] is None
    assert difference_of_means(none, none, none)["value"] is None


def test_quantiles_of_student():
    for degrees in (1, 2, 3, 5, 10, 30, 1000):
        tolerance = 2e-3 if degrees < 10 else 1e-5
        assert t_95(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=tolerance)
    assert t_95(0) == math.inf
