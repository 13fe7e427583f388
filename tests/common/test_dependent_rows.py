"""Intervals and figures of pairs of which several are of one prompt, and of pairs with labels."""

import numpy as np
import pytest

from reward_modeling.common.intervals import (
    independent_rows,
    pair_accuracy,
    share_of_rows,
    share_right,
    wilson_interval,
)
from reward_modeling.common.pair_statistics import PairLabels, calibration_error, pair_statistics, tie_figures
from reward_modeling.objectives.tie_predictions import predict_ties, tie_predictions
from reward_modeling.objectives.ties import TIE_MODELS


def lists_of_pairs(lists: int, seed: int, answers: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Which pairs of ranked lists come out right under a model of which some lists are harder than others; prompts."""
    generator = np.random.default_rng(seed)
    quality = -np.arange(answers) * generator.choice([0.1, 2.0], (lists, 1))
    rewards = quality + generator.normal(size=(lists, answers))
    better, worse = np.triu_indices(answers, 1)
    right = rewards[:, better] > rewards[:, worse]
    return right.ravel(), np.repeat(np.arange(lists), len(better))


# --- intervals --------------------------------------------------------------------------------------------------


def test_rows_of_prompts_of_their_own_have_wilsons_interval():
    generator = np.random.default_rng(0)
    right, prompts = generator.random(40) < 0.7, generator.permutation(40)
    expected = share_right(int(right.sum()), 40, 0)
    assert share_of_rows(right, np.zeros(40, bool), prompts) == expected == share_of_rows(right, np.zeros(40, bool))
    assert independent_rows(right, prompts) == 40
    assert share_of_rows([], [], []) == share_right(0, 0)


def test_copies_of_a_row_say_no_more_than_the_row():
    """Each row five times, all of one prompt: the interval is that of the rows taken once."""
    generator = np.random.default_rng(1)
    right = generator.random(60) < 0.8
    copies = share_of_rows(np.repeat(right, 5), np.zeros(300, bool), np.repeat(np.arange(60), 5))
    once = share_right(int(right.sum()), 60)
    assert independent_rows(np.repeat(right, 5), np.repeat(np.arange(60), 5)) == pytest.approx(60, rel=0.02)
    assert (copies["value"], copies["rows"], copies["right"]) == (once["value"], 300, 5 * once["right"])
    assert (copies["low"], copies["high"]) == pytest.approx((once["low"], once["high"]), abs=2e-3)
    too_narrow = share_right(5 * int(right.sum()), 300)
    assert copies["high"] - copies["low"] > 2 * (too_narrow["high"] - too_narrow["low"])


@pytest.mark.parametrize("weighted", [False, True])
def test_the_interval_is_that_of_a_bootstrap_that_draws_prompts(weighted):
    right, prompts = lists_of_pairs(300, seed=2)
    generator = np.random.default_rng(3)
    weights = np.repeat(generator.uniform(0.2, 3, 300), 10) if weighted else None
    found = share_of_rows(right, np.zeros(len(right), bool), prompts, weights)
    of_rows = np.ones(len(right)) if weights is None else weights
    sums = np.stack([np.bincount(prompts, of_rows * right), np.bincount(prompts, of_rows)], axis=1)
    draws = generator.multinomial(300, np.full(300, 1 / 300), size=4000) @ sums
    low, high = np.quantile(draws[:, 0] / draws[:, 1], [0.025, 0.975])
    assert found["value"] == pytest.approx(np.average(right, weights=weights))
    assert found["high"] - found["low"] == pytest.approx(high - low, rel=0.08)
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=0.15 * (high - low))


def test_the_interval_holds_the_truth_as_often_as_it_says_and_wilsons_over_pairs_does_not():
    """1,000 sets of 60 lists; the share of right pairs of ever more lists is the truth."""
    truth = lists_of_pairs(60_000, seed=4)[0].mean()
    held = {"prompts": 0, "pairs": 0}
    for seed in range(1000):
        right, prompts = lists_of_pairs(60, seed)
        found = share_of_rows(right, np.zeros(len(right), bool), prompts)
        low, high = wilson_interval(right.sum(), len(right))
        held["prompts"] += found["low"] <= truth <= found["high"]
        held["pairs"] += low <= truth <= high
    # the standard error of a share of 0.95 of 1,000 is 0.7 points
    assert held["prompts"] > 930 and held["pairs"] < 850


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_where_all_rows_agree_each_prompt_is_one_row(value):
    right = np.full(12, value)
    found = share_of_rows(right, np.zeros(12, bool), np.repeat(np.arange(4), 3))
    assert (found["low"], found["high"]) == pytest.approx(wilson_interval(4 * value, 4))
    assert independent_rows(right, np.zeros(12)) == 1


def test_prompts_that_are_alike_narrow_nothing():
    right = np.tile([1, 0], 20)  # of each prompt one pair is right
    assert independent_rows(right, np.repeat(np.arange(20), 2)) == 40


# --- figures of labelled pairs ------------------------------------------------------------------------------------


def test_figures_of_labelled_pairs_by_hand():
    """Four pairs of three prompts, one of them a tie."""
    chosen, rejected = np.array([2.0, 0.0, 1.0, 3.0]), np.array([1.0, 1.0, -1.0, 3.0])
    lengths = np.array([5, 5, 5, 9]), np.array([4, 4, 6, 1])
    labels = PairLabels(np.array([1.0, 0.8, 0.5, 1.0]), np.array([1.0, 2.0, 9.0, 3.0]), np.array([0, 0, 1, 2]))
    figures = pair_statistics(chosen, rejected, *lengths, labels)
    assert figures["accuracy"] | {"low": 0, "high": 0} == {
        **{"value": 1 / 3, "low": 0, "high": 0, "rows": 3, "right": 1, "ties": 1}
    }
    assert figures["weighted_accuracy"]["value"] == 1 / 6  # (1 x 1 + 2 x 0 + 3 x 0) / 6
    assert figures["prompts"] == 3
    assert figures["ties"] == {"pairs": 1, "ties": {"mean_distance": 2.0}, "others": {"mean_distance": 2 / 3}}
    assert figures["margins"]["mean"] == 0.0
    assert figures["longer_wins"]["value"] == 1.0  # the tie, whose rejected answer is longer, is not asked
    # all four in the calibration: of the favourites 1, 1 - 0.8, one half (a tie) and one half (equal rewards)
    assert sum(of_bin["right"] for of_bin in figures["calibration"]) == pytest.approx(1 + 0.2 + 0.5 + 0.5)
    assert sum(of_bin["rows"] for of_bin in figures["calibration"]) == 4


def test_pairs_that_only_say_what_is_preferred_have_no_other_figures():
    chosen, rejected, lengths = np.array([2.0, 0.0]), np.array([1.0, 1.0]), np.ones(2)
    plain = pair_statistics(chosen, rejected, lengths, lengths)
    assert plain == pair_statistics(chosen, rejected, lengths, lengths, PairLabels.of_preferences(2))
    assert not {"ties", "prompts", "weighted_accuracy"} & plain.keys()
    assert plain["accuracy"] == pair_accuracy(chosen, rejected)


def test_ties_alone():
    labels = PairLabels(np.full(3, 0.5), np.ones(3), np.arange(3))
    figures = pair_statistics(np.arange(3.0), np.zeros(3), np.ones(3), np.ones(3), labels)
    assert figures["accuracy"]["value"] is None and figures["accuracy"]["rows"] == 0
    assert figures["margins"]["mean"] is None
    assert figures["ties"] == {"pairs": 3, "ties": {"mean_distance": 1.0}, "others": {"mean_distance": None}}


# --- models of ties -----------------------------------------------------------------------------------------------


def test_predictions_by_hand():
    """Davidson with v = 1 at d = 0: a third each. Rao-Kupper with t = 2 at d = 0: (4 - 1) / 9."""
    for name, threshold, tie in (("davidson", 1.0, 1 / 3), ("rao_kupper", 2.0, 1 / 3)):
        ties, first = tie_predictions(name, threshold)(np.zeros(1))
        assert (ties[0], first[0]) == pytest.approx((tie, 0.5))
    difference = np.array([1.5])
    assert tie_predictions("davidson", 1.0)(difference)[1] == pytest.approx(1 / (1 + np.exp(-difference)))
    first, second = (1 / (1 + np.exp(-(sign * 1.5 - np.log(2)))) for sign in (1, -1))
    assert tie_predictions("rao_kupper", 2.0)(difference)[1] == pytest.approx(first / (first + second))
    far = tie_predictions("rao_kupper", 2.0)(np.array([-1e5, 1e5]))
    assert far[1].tolist() == [0.0, 1.0] and np.isfinite(far[0]).all()


@pytest.mark.parametrize(("name", "threshold"), [("davidson", 1.2), ("rao_kupper", 3.0)])
def test_a_model_that_drew_the_labels_itself_is_calibrated(name, threshold):
    """And is not by the probabilities of Bradley and Terry, with ties as half right."""
    generator = np.random.default_rng(5)
    pairs = 40_000
    difference = generator.normal(0, 2.5, pairs)
    ties, first = predict_ties(difference, TIE_MODELS[name], threshold)
    is_tie, is_first = generator.random(pairs) < ties, generator.random(pairs) < first
    signed = np.where(is_tie | is_first, difference, -difference)  # of the answer that was chosen
    labels = PairLabels(np.where(is_tie, 0.5, 1.0), np.ones(pairs), np.arange(pairs))
    sides = (signed, np.zeros(pairs), np.ones(pairs), np.ones(pairs))
    figures = pair_statistics(*sides, labels, tie_predictions(name, threshold))
    assert figures["calibration_error"] < 0.012
    assert pair_statistics(*sides, labels)["calibration_error"] > 0.025
    assert calibration_error(figures["calibration"]) == figures["calibration_error"]
    # the mean probability of a tie is the share of them, and greater on ties
    found = figures["ties"]
    mean = (found["pairs"] * found["ties"]["predicted_ties"]) + (pairs - found["pairs"]) * found["others"][
        "predicted_ties"
    ]
    assert mean == pytest.approx(found["pairs"], rel=0.03)
    assert found["ties"]["predicted_ties"] > found["others"]["predicted_ties"] + 0.03
    assert tie_figures(signed, is_tie)["pairs"] == is_tie.sum()
