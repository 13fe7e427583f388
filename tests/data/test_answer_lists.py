"""Lists of answers to one prompt: what is kept of them, and how they are written."""

import json

import pytest
from datasets import Dataset

from reward_modeling.data.answer_lists import LISTS, NOT_RATED, REPEATED, WITHOUT_WORDS, dense_ranks
from reward_modeling.data.preferences import STANDARD_FEATURES, load_preference_dataset, standardise_row
from reward_modeling.data.read_options import read_options

USER = {"role": "user", "content": "Name a colour."}


def said(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


def read(row: dict, *options: str) -> dict:
    standard = standardise_row(row, "x:1", *([read_options(*options)] if options else []))
    Dataset.from_list([standard], features=STANDARD_FEATURES)  # Arrow takes it
    return standard


def texts(standard: dict) -> list[str]:
    return [json.loads(answer)[0]["content"] for answer in standard["answers"]]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Name a colour.", "completions": ["Red.", "Blue.", "Green."], "ranks": [2, 1, 2]},
        {"prompt": "Name a colour.", "completions": ["Red.", "Blue.", "Green."], "scores": [0.5, 7, 0.5]},
        {"prompt": [USER], "completions": [said("Red."), said("Blue."), said("Green.")], "ranks": [9, 1.5, 9]},
        {"prompt": [USER], "completions": json.dumps(["Red.", "Blue.", "Green."]), "scores": "[1, 2, 1]"},
        {"prompt": [USER], "completions": json.dumps(["Red.", "Blue.", "Green."]), "ranks": "2, 1, 2"},
        {"completions": [[USER, *said("Red.")], [USER, *said("Blue.")], [USER, *said("Green.")]], "ranks": [3, 2, 3]},
    ],
)
def test_every_way_of_writing_a_list_gives_the_same(row):
    found = read(row)
    assert found["reason"] == "" and LISTS in found["form"]
    assert texts(found) == ["Red.", "Blue.", "Green."] and found["ranks"] == [2, 1, 2]
    assert json.loads(found["prompt"]) == [USER]
    # the first of the best, and the first of the worst
    assert (json.loads(found["chosen"]), json.loads(found["rejected"])) == (said("Blue."), said("Red."))


def test_a_list_counts_as_it_says():
    found = read({"prompt": "q", "completions": ["a", "b", "c"], "ranks": [1, 2, 3], "weight": 2.5, "margin": 7})
    assert (found["weight"], found["margin"], found["unread"]) == (2.5, None, '["margin"]')


def test_two_answers_are_a_pair():
    found = read({"prompt": "q", "completions": ["a", "b", "c"], "scores": [1, None, 3]})
    assert found["answers"] == found["ranks"] == []
    assert (json.loads(found["chosen"]), json.loads(found["rejected"])) == (said("c"), said("a"))
    assert found["form"] == f"{LISTS}; {NOT_RATED}"


def test_what_is_left_out_is_named():
    found = read({"prompt": "q", "completions": ["a", " ", "b", "a ", "c"], "scores": [1, 9, 2, 3, 4]})
    assert texts(found) == ["a", "b", "c"] and found["ranks"] == [2, 2, 1]  # "a" has the mean of 1 and 3
    assert WITHOUT_WORDS in found["form"] and REPEATED in found["form"] and NOT_RATED not in found["form"]


@pytest.mark.parametrize(
    ("row", "reason", "words"),
    [
        ({"ranks": [1, 2]}, "lengths_differ", "3 completions and 2 ranks"),
        ({"ranks": [1, 1, 1]}, "equal_scores", "3 answers, all of one rank"),
        ({"scores": ["1", "2", "3"]}, "wrong_type", "scores has a text"),
        ({"scores": [True, False, True]}, "wrong_type", "scores has true or false"),
        ({"scores": [1, None, None]}, "no_score", "1 of 3 completions have words and a rank or a score"),
        ({}, "no_score", "neither ranks nor scores"),
        ({"completions": ["a"], "ranks": [1]}, "too_few_answers", ""),
        ({"completions": ["a", "a", "a"], "ranks": [1, 2, 3]}, "identical_text", ""),
        ({"completions": "a, b", "ranks": [1, 2]}, "wrong_type", "completions is a text"),
        ({"completions": ["a", "b", 7], "ranks": [1, 2, 3]}, "wrong_type", ""),
        ({"completions": [[USER, *said("a")], [*said("b")]], "ranks": [1, 2], "prompt": None}, "prompts_differ", ""),
    ],
)
def test_what_is_no_list_is_dropped_by_name(row, reason, words):
    found = read({"prompt": "q", "completions": ["a", "b", "c"], **row})
    assert found["reason"] == reason and words in found["excerpt"]


def test_columns_become_places_of_a_list():
    row = {"question": "q", "a1": "x", "a2": "y", "a3": "z", "s1": 1, "s2": 3, "s3": 2}
    found = read(row, "prompt=question,completions=a1+a2+a3,scores=s1+s2+s3", None)
    assert texts(found) == ["x", "y", "z"] and found["ranks"] == [3, 1, 2] and found["unread"] == ""


def test_columns_of_a_table_of_text_are_numbers():
    row = {"prompt": "q", "a1": "x", "a2": "y", "a3": "z", "s1": "1", "s2": "3.5", "s3": ""}
    found = read(row, "completions=a1+a2+a3,scores=s1+s2+s3", None)
    assert found["reason"] == "" and json.loads(found["chosen"]) == said("y") and NOT_RATED in found["form"]
    wrong = read({**row, "s3": "good"}, "completions=a1+a2+a3,scores=s1+s2+s3", None)
    assert wrong["reason"] == "wrong_type" and "scores has a text" in wrong["excerpt"]


def test_scores_beside_ranks_are_not_read():
    found = read({"prompt": "q", "completions": ["a", "b", "c"], "ranks": [1, 2, 3], "scores": [1, 2, 3]})
    assert found["ranks"] == [1, 2, 3] and found["unread"] == '["scores"]'


def test_plain_texts():
    found = read({"completions": ["Red is it.", "Blue is it.", "No."], "ranks": [1, 2, 3]})
    assert found["is_text"] and found["answers"] == ["Red is it.", "Blue is it.", "No."]


def test_ranks_leave_none_out():
    assert dense_ranks([-1.0, -5.0, -1.0, 0.5]) == [2, 3, 2, 1]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "csv"])
def test_a_file_of_lists(tmp_path, suffix, own_cache):
    rows = [{"prompt": f"q {n}", "completions": ["a", "b", "c"], "scores": [1.0, 3.0, None]} for n in range(3)]
    table = Dataset.from_list(rows)
    path = tmp_path / f"x.{suffix}"
    if suffix == "csv":
        lines = [
            {name: value if name == "prompt" else json.dumps(value) for name, value in row.items()} for row in rows
        ]
        Dataset.from_list(lines).to_csv(path)
    else:
        table.to_parquet(path) if suffix == "parquet" else table.to_json(path)
    found = load_preference_dataset(str(path), num_proc=1)
    assert found["reason"][:] == [""] * 3
    assert [json.loads(text) for text in found["chosen"]] == [said("b")] * 3
