"""The generated answers have the ratings that they are given, and pairs follow the gate."""

import itertools

from reward_modeling.tiny.preferences import TEXTS
from reward_modeling.tiny.ratings import ATTRIBUTES, GATE, GREATEST, NOT_RATED, kind_of_prompt, rated_world, worth

SIZES = (60, 80, 20)


def counted(answer):
    """(kindness, usefulness, verbosity) of an answer, from its sentences."""
    text = answer["content"]
    levels = [sum(sentence in text for sentence in TEXTS[name]) for name in ("kind", "step", "neutral")]
    assert sum(sentence in text for sentence in TEXTS["rude"]) == GREATEST - levels[0]
    assert sum(sentence in text for sentence in TEXTS["vague"]) == GREATEST - levels[1]
    return levels[0], levels[1], levels[2] // 2


def test_ratings_are_what_stands_in_the_answers():
    rows, _, _ = rated_world(SIZES, seed=0)
    assert len(rows) == 2 * SIZES[0]
    known = 0
    for row in rows:
        for name, level in zip(ATTRIBUTES, counted(row["messages"][-1]), strict=True):
            assert row[name] is None or row[name] == level
            known += row[name] is not None
        assert any(row[name] is not None for name in ATTRIBUTES)
    assert NOT_RATED / 3 < 1 - known / (len(ATTRIBUTES) * len(rows)) < NOT_RATED


def test_the_better_answer_for_its_kind_of_prompt_is_chosen():
    _, pairs, test = rated_world(SIZES, seed=0)
    contradicting = 0  # pairs that the other kind of prompt would have turned round
    for row in pairs + test:
        chosen, rejected = counted(row["chosen"][-1]), counted(row["rejected"][-1])
        opening = next(opening for opening in TEXTS["openings"] if row["chosen"][0]["content"].startswith(opening))
        assert row["source"] == kind_of_prompt(opening)
        assert worth(row["source"], chosen) > worth(row["source"], rejected)
        other = next(kind for kind in GATE if kind != row["source"])
        contradicting += worth(other, chosen) < worth(other, rejected)
    assert contradicting > len(pairs + test) / 10  # or no gate is needed


def test_no_prompt_is_in_two_sets_and_the_rows_depend_on_the_seed_alone():
    rows, pairs, test = rated_world(SIZES, seed=3)
    prompts = [{row["messages"][0]["content"] for row in rows}]
    prompts += [{row["chosen"][0]["content"] for row in part} for part in (pairs, test)]
    assert all(not one & other for one, other in itertools.combinations(prompts, 2))
    assert (rows, pairs, test) == rated_world(SIZES, seed=3)
    assert rows != rated_world(SIZES, seed=4)[0]
