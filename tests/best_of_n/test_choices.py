"""Pairs against slow and obvious references."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_modeling.best_of_n.choices import CHOICES, PairRule, best_first, choose_pairs


def reference(scores, lengths, draws, rule):
    """One pair: all possible ones are listed, and those that another one beats are struck out."""
    possible = [
        (one, other)
        for one, other in itertools.permutations(range(len(scores)), 2)
        if scores[one] > scores[other] and scores[one] - scores[other] >= rule.min_gap
    ]
    if not possible:
        return []
    best = max((one for one, _ in possible), key=lambda one: (scores[one], -draws[one]))
    rejected = [other for one, other in possible if one == best]
    if rule.length_matched:
        nearest = min(abs(lengths[other] - lengths[best]) for other in rejected)
        rejected = [other for other in rejected if abs(lengths[other] - lengths[best]) == nearest]
        return [(best, min(rejected, key=lambda other: (scores[other], -draws[other])))]
    if rule.choose == "max_max":
        return [(best, max(rejected, key=lambda other: (scores[other], -draws[other])))]
    if rule.choose == "max_random":
        return [(best, min(rejected, key=lambda other: draws[other]))]
    return [(best, min(rejected, key=lambda other: (scores[other], -draws[other])))]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), min_size=0, max_size=7),
    st.sampled_from(sorted(CHOICES)),
    st.sampled_from([0.0, 1.0, 2.5]),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_a_pair_is_that_of_the_reference(answers, choose, min_gap, matched, random):
    scores, lengths = [score for score, _ in answers], [length for _, length in answers]
    draws = random.sample(range(100), len(answers))
    rule = PairRule(choose, min_gap, matched)
    pairs = choose_pairs(scores, lengths, draws, rule)
    assert pairs == reference(scores, lengths, draws, rule)
    order = random.sample(range(len(answers)), len(answers))
    shuffled = choose_pairs(*([values[place] for place in order] for values in (scores, lengths, draws)), rule)
    assert [(order[one], order[other]) for one, other in shuffled] == pairs


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=0, max_size=8), st.sampled_from(sorted(CHOICES)), st.integers(1, 5))
def test_further_pairs_are_those_of_the_answers_that_are_left(scores, choose, most):
    lengths, draws = [1] * len(scores), [(7 * place) % 11 for place in range(len(scores))]
    pairs = choose_pairs(scores, lengths, draws, PairRule(choose, most=most))
    used = [place for pair in pairs for place in pair]
    assert len(used) == len(set(used)) and len(pairs) <= most
    assert all(scores[chosen] > scores[rejected] for chosen, rejected in pairs)
    left = [place for place in range(len(scores)) if place not in used[:2]]
    after = (
        choose_pairs(
            [scores[place] for place in left],
            lengths[: len(left)],
            [draws[place] for place in left],
            PairRule(choose, most=most - 1),
        )
        if most > 1 and pairs
        else []
    )
    assert [(left[one], left[other]) for one, other in after] == pairs[1:]


@pytest.mark.parametrize(
    ("choose", "pairs"),
    [
        ("max_min", [(2, 0), (3, 1)]),
        ("max_max", [(2, 3), (4, 1)]),
        ("max_random", [(2, 4), (3, 1)]),
        ("max_min_p", [(2, 0), (3, 1)]),
    ],
)
def test_choices_by_hand(choose, pairs):
    assert choose_pairs([0.0, 1.0, 4.0, 3.0, 2.0], [1] * 5, [9, 2, 3, 4, 1], PairRule(choose, most=2)) == pairs


def test_of_equal_rewards_none_is_rejected_and_a_draw_decides():
    assert choose_pairs([2.0, 2.0], [1, 1], [1, 0], PairRule()) == []
    assert choose_pairs([2.0, 2.0, 1.0], [1, 1, 1], [1, 0, 0], PairRule("max_max")) == [(1, 2)]
    assert best_first([2.0, 2.0, 1.0], [1, 0, 0]) == [1, 0, 2]


def test_a_gap_is_not_missed_by_rounding():
    assert 1.2 - 0.9 < 0.3
    assert choose_pairs([1.2, 0.9], [1, 1], [0, 0], PairRule(min_gap=0.3)) == [(0, 1)]
    assert choose_pairs([1.2, 0.9], [1, 1], [0, 0], PairRule(min_gap=0.300001)) == []
    assert choose_pairs([1.0, 1.0], [1, 1], [0, 0], PairRule()) == []


def test_length_matched_takes_the_nearest_that_is_a_gap_below():
    lengths = [100, 99, 150, 40]
    assert choose_pairs([5.0, 4.9, 2.0, 1.0], lengths, [0] * 4, PairRule(min_gap=1, length_matched=True)) == [(0, 2)]
    assert choose_pairs([5.0, 4.9, 2.0, 1.0], lengths, [0] * 4, PairRule(length_matched=True)) == [(0, 1)]
