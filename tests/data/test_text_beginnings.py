"""Plain texts with one common beginning are one prompt: against all pairs of rows, with a negative control."""

import random

import datasets
import numpy as np
import pytest
from datasets import Dataset

from reward_modeling.data.preferences import (
    STANDARD_FEATURES,
    load_preference_dataset,
    split_by_prompt,
    standardise_row,
)
from reward_modeling.data.text_beginnings import common_beginning, join_beginnings


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")


def rows_of(pairs):
    rows = [
        standardise_row({"chosen": chosen, "rejected": rejected}, f"x:{n}")
        for n, (chosen, rejected) in enumerate(pairs)
    ]
    return Dataset.from_list(rows, features=STANDARD_FEATURES)


def keys_of(pairs):
    rows = rows_of(pairs)
    keys = join_beginnings(rows)
    return np.array(rows["prompt_key"]) if keys is None else keys


MOON = "月はどのくらい遠いですか、教えてください。"
Q = "Question: how far is the moon?\nAnswer:"


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        (f"{Q} Far.", f"{Q} Near.", Q),
        (f"{Q} The moon", f"{Q} There", Q),  # cut back to whole words
        (f"{Q}Far.", f"{Q}Near.", Q),
        (f"{MOON}遠い", f"{MOON}近い", MOON),
        ("The moon is far.", "The moon is near.", ""),  # too short to be a question
        ("a" * 30, "a" * 40, ""),  # no word ends there
        ("one", "two", ""),
    ],
)
def test_common_beginnings_by_hand(chosen, rejected, expected):
    assert common_beginning(chosen, rejected) == common_beginning(rejected, chosen) == expected


def test_rows_whose_answers_begin_alike_are_of_the_prompt_that_the_others_show():
    keys = keys_of([(f"{Q} Far.", f"{Q} Near."), (f"{Q} The moon is far.", f"{Q} The moon is near."), ("x", "y")])
    assert keys[0] == keys[1] != keys[2]
    alone = keys_of([(f"{Q} The moon is far.", f"{Q} The moon is near."), (f"{Q} It is far.", f"{Q} It is near.")])
    assert alone[0] != alone[1]  # nothing shows where the question ends


def brute_force(pairs):
    """Sets of rows that belong together: one's beginning is the beginning of another's, and so on."""
    beginnings = [common_beginning(*pair) for pair in pairs]
    group = list(range(len(pairs)))
    for one, first in enumerate(beginnings):
        for other, second in enumerate(beginnings):
            together = first and second and (first.startswith(second) or second.startswith(first))
            if together or pairs[one] == pairs[other]:
                old, new = group[one], group[other]
                group = [new if number == old else number for number in group]
    return group


@pytest.mark.parametrize("seed", range(20))
def test_joined_against_all_pairs_of_rows(seed):
    draw = random.Random(seed)
    questions = [" ".join(draw.choices(["moon", "sun", "tea"], k=draw.randrange(4, 9))) for _ in range(6)]
    pairs = [
        (f"{question} {alike}{draw.random()}", f"{question} {alike}{draw.random()}")
        for question in draw.choices(questions, k=40)
        for alike in [draw.choice(["", "", "The moon is "])]
    ]
    expected = brute_force(pairs)
    shuffled = draw.sample(range(len(pairs)), len(pairs))
    keys, moved = keys_of(pairs), keys_of([pairs[n] for n in shuffled])
    same = keys[:, None] == keys[None, :]
    assert (same == (np.array(expected)[:, None] == np.array(expected)[None, :])).all()
    assert (keys[shuffled] == moved).all()  # whatever the order of the rows


def test_no_question_of_plain_texts_is_on_both_sides(tmp_path):
    import json

    path = tmp_path / "texts.jsonl"
    rows = [
        {side: f"Question number {n % 20}, what is it?\nAnswer: {side} {n}" for side in ("chosen", "rejected")}
        for n in range(100)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def questions(part):
        return {text.partition("\n")[0] for text in part["chosen"]}

    loaded = load_preference_dataset(str(path))
    train, held_out = split_by_prompt(loaded, 10, seed=0)
    assert len(held_out) == 10 and not questions(train) & questions(held_out)
    pair_by_pair = loaded.remove_columns("prompt_key").add_column("prompt_key", list(range(100)))
    train, held_out = split_by_prompt(pair_by_pair, 10, seed=0)
    assert questions(train) & questions(held_out)
