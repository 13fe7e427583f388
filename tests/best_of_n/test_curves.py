"""Curves against all subsets written out, and intervals against repeated draws."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_modeling.best_of_n.curves import best_of_n, oracle, sizes_up_to, subset_weights, truth_of_best
from reward_modeling.best_of_n.majority import EXACT, majority, shuffled_wins, win_shares
from reward_modeling.best_of_n.moments import Correlation, Moments
from reward_modeling.common.prompt_differences import difference_of_means, difference_of_shares

FEW = st.lists(st.integers(-2, 2), min_size=1, max_size=6)


def over_subsets(count, n, figure):
    """The mean of a figure over all subsets of n places."""
    return np.mean([figure(list(subset)) for subset in itertools.combinations(range(count), n)])


def fair_truth(values, truths, places):
    """The mean truth of those with the greatest value."""
    greatest = max(values[place] for place in places)
    return np.mean([truths[place] for place in places if values[place] == greatest])


def voted_truth(finals, truths, places):
    """The mean truth of the most frequent final answers; each final answer has one truth."""
    votes = {}
    for place in places:
        votes.setdefault(("none", place) if finals[place] is None else finals[place], []).append(truths[place])
    most = max(map(len, votes.values()))
    return np.mean([np.mean(found) for found in votes.values() if len(found) == most])


@settings(max_examples=60, deadline=None)
@given(FEW, st.data())
def test_curves_are_means_over_all_subsets(rewards, data):
    count = len(rewards)
    truths = data.draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    sizes = list(range(1, count + 1))
    expected = [over_subsets(count, n, lambda places: max(rewards[place] for place in places)) for n in sizes]
    assert best_of_n(rewards, sizes) == pytest.approx(expected, abs=1e-12)
    expected = [over_subsets(count, n, lambda places: fair_truth(rewards, truths, places)) for n in sizes]
    assert truth_of_best(rewards, truths, sizes) == pytest.approx(expected, abs=1e-12)
    expected = [over_subsets(count, n, lambda places: max(truths[place] for place in places)) for n in sizes]
    assert oracle(truths, sizes) == pytest.approx(expected, abs=1e-12)


def test_ties_that_go_to_the_first_answer_give_another_curve():
    """Negative control of the fair split."""
    rewards, truths = [1.0, 1.0, 0.0], [1, 0, 0]
    first = [
        over_subsets(3, n, lambda places: truths[max(places, key=lambda place: rewards[place])]) for n in (1, 2, 3)
    ]
    assert truth_of_best(rewards, truths, [1, 2, 3]) != pytest.approx(first, abs=0.1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["1", "2", "3", None]), min_size=1, max_size=6), st.data())
def test_a_majority_is_a_mean_over_all_subsets(finals, data):
    of = {name: data.draw(st.integers(0, 1)) for name in ("1", "2", "3")}
    truths = [data.draw(st.integers(0, 1)) if final is None else of[final] for final in finals]
    sizes = list(range(1, len(finals) + 1))
    expected = [over_subsets(len(finals), n, lambda places: voted_truth(finals, truths, places)) for n in sizes]
    assert majority(finals, truths, sizes) == pytest.approx(expected, abs=1e-12)


def test_shuffled_majorities_come_near_the_exact_ones():
    votes = np.repeat([0, 1, 2], [6, 5, 5])
    exact = win_shares((6, 5, 5), (1, 4, 9, 16))
    drawn = np.mean([shuffled_wins(votes, (1, 4, 9, 16), seed) for seed in range(40)], axis=0)
    # 40 x 256 orders: a standard error of at most 0.005
    assert drawn == pytest.approx(exact, abs=0.02)
    assert drawn[-1].tolist() == [1, 0, 0]
    assert majority(["x"] * EXACT + ["y"], [1] * EXACT + [0], [1, EXACT + 1])[1] == 1


def test_weights_stay_exact_for_many_answers():
    weights = subset_weights(1000, (1, 500, 1000))
    assert weights.sum(axis=1) == pytest.approx([1, 1, 1], rel=1e-12)
    assert weights[2].tolist() == [0.0] * 999 + [1.0]
    assert best_of_n(np.arange(1000), [1, 10]) == pytest.approx([499.5, 10 * 1001 / 11 - 1], rel=1e-12)
    assert sizes_up_to(33) == [1, 2, 4, 8, 16, 32, 33]


def test_intervals_are_those_of_prompt_differences():
    values = np.random.default_rng(0).uniform(size=(30, 3))
    moments = Moments(3)
    for row in values:
        moments.add(row)
    moments.add([0.5])  # of a prompt that has the first figure alone
    prompts, zeros = np.arange(30), np.zeros(30)
    for place in (1, 2):
        expected = difference_of_means(values[:, place], zeros, prompts)
        assert moments.means()[place] == pytest.approx(expected, rel=1e-9)
        expected = difference_of_shares(values[:, place], zeros, prompts)
        expected.pop("differ")
        assert moments.differences()[place] == pytest.approx(expected, rel=1e-9)
        twice = difference_of_shares(values[:, place], 1 - values[:, place], prompts)
        share = moments.shares()[place]
        assert [2 * share[name] - 1 for name in ("value", "low", "high")] == pytest.approx(
            [twice[name] for name in ("value", "low", "high")], rel=1e-9
        )
    assert [row["prompts"] for row in moments.means()] == [31, 30, 30]


def test_intervals_of_values_far_from_0_have_their_width():
    values = np.random.default_rng(0).uniform(size=50)
    near, far = Moments(1), Moments(1)
    for value in values:
        near.add([value])
        far.add([1e9 + value])
    (near,), (far,) = near.means(), far.means()
    # 1e9 + value keeps 7 digits of the value
    assert far["high"] - far["low"] == pytest.approx(near["high"] - near["low"], rel=1e-5)


def test_zeros_count_as_if_they_were_added():
    one, other = Moments(1), Moments(1)
    for value in (1.0, 0.5, 0.25):
        one.add([value])
        other.add([value])
    for _ in range(4):
        other.add([0.0])
    assert one.with_zeros(7).shares()[0] == pytest.approx(other.shares()[0], rel=1e-12)
    assert Moments(1).with_zeros(0).shares()[0]["value"] is None


def test_intervals_of_nothing_and_of_one_prompt():
    moments = Moments(1)
    assert moments.means() == moments.shares() == moments.differences()
    assert moments.means()[0] == {"value": None, "low": None, "high": None, "prompts": 0}
    moments.add([1.0])
    assert moments.means()[0] == {"value": 1.0, "low": None, "high": None, "prompts": 1}
    assert (moments.shares()[0]["low"], moments.differences()[0]["low"]) == (0, -1)


def narrowed(row):
    """Half as wide."""
    return {name: (row[name] + row["value"]) / 2 for name in ("low", "high")}


def covered(truth, rows):
    return np.mean([row["low"] <= truth <= row["high"] for row in rows])


@pytest.mark.parametrize("prompts", [12, 100])
def test_intervals_hold_what_they_should(prompts):
    """Of 1,000 draws of prompts with answers of their own, 95% of the intervals hold the true figure, within 2%.

    The two prompts that are added to shares make their intervals wider where there are few, and never too narrow.
    """
    generator, rows = np.random.default_rng(prompts), {"accuracy": [], "gain": [], "reward": []}
    hard = generator.uniform(size=200_000)
    of = {}

    def figures(difficulty):
        right = generator.uniform(size=4) > difficulty
        rewards = right + generator.normal(size=4)
        return truth_of_best(rewards, right, [1, 4]), best_of_n(rewards, [4])[0]

    many = [figures(difficulty) for difficulty in hard[:20_000]]
    of["accuracy"] = np.mean([truth[1] for truth, _ in many])
    of["gain"] = np.mean([truth[1] - truth[0] for truth, _ in many])
    of["reward"] = np.mean([reward for _, reward in many])
    for _ in range(1000):
        moments, gains, rewards = Moments(1), Moments(1), Moments(1)
        for truth, reward in (many[place] for place in generator.integers(len(many), size=prompts)):
            moments.add([truth[1]])
            gains.add([truth[1] - truth[0]])
            rewards.add([reward])
        rows["accuracy"] += moments.shares()
        rows["gain"] += gains.differences()
        rows["reward"] += rewards.means()
    # Negative control: intervals of answers that are taken for four times as many, each a prompt of its own, hold less.
    assert covered(of["reward"], [narrowed(row) for row in rows["reward"]]) < 0.8
    for name, found in rows.items():
        assert 0.93 <= covered(of[name], found) <= (0.97 if name == "reward" else 0.99 if prompts == 100 else 1), name


def test_a_correlation_within_prompts_holds_what_it_should():
    """Prompts differ in both numbers, which counts nothing; 95% of 400 intervals hold the correlation, 0.6."""
    generator, found = np.random.default_rng(5), []
    for _ in range(400):
        correlation = Correlation()
        for level in generator.normal(scale=10, size=60):
            shared = generator.normal(size=(2, 5))
            correlation.add(level + shared[0], 0.6 * shared[0] + 0.8 * shared[1] - level)
        found.append(correlation.value())
    assert 0.92 <= covered(0.6, found) <= 0.98
    assert np.mean([row["value"] for row in found]) == pytest.approx(0.6, abs=0.01)


def test_a_correlation_with_what_never_changes_is_none():
    correlation = Correlation()
    correlation.add([1, 2], [5, 5])
    correlation.add([1], [5])
    assert correlation.value() == {"value": None, "low": None, "high": None, "prompts": 1}
