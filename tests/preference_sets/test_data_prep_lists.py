"""Sources whose answers to a prompt stay together: one row with all of them and their ranks."""

import json
import sys

import pytest
from test_data_prep_answers import (
    NECTAR_FEATURES,
    NECTAR_ROWS,
    ULTRAFEEDBACK_FEATURES,
    ULTRAFEEDBACK_NOTES,
    ULTRAFEEDBACK_ROWS,
    answers_of,
    build,
    drops,
    random_rows,
    rated,
    reference_groups,
    triples,
    write,
)

from data_prep import helpsteer, nectar, ultrafeedback
from reward_modeling.common.errors import UserError
from reward_modeling.data.preferences import load_preference_dataset
from reward_modeling.preference_sets.answer_pairs import LISTS, pairs_from_answers
from reward_modeling.preference_sets.writing import run_source

pytestmark = pytest.mark.usefixtures("own_cache")


def ranked_answers(row):
    """Answer -> rank; of a pair 1 and 2."""
    texts = row["answers"] or [row["chosen"], row["rejected"]]
    ranks = row["ranks"] or [1, 2]
    return {json.loads(text)[-1]["content"]: rank for text, rank in zip(texts, ranks, strict=True)}


def lists_of(rows):
    return {json.loads(row["prompt"])[-1]["content"]: ranked_answers(row) for row in rows}


@pytest.mark.parametrize("seed", range(3))
def test_lists_against_brute_force(seed):
    rows = random_rows(seed)
    result = pairs_from_answers(answers_of(rows), LISTS, seed)
    expected = {
        prompt: {text.strip(): rank for rank, texts in enumerate(classes, 1) for text in texts}
        for prompt, classes in reference_groups(rows).items()
        if len(classes) > 1
    }
    assert lists_of(result.rows) == expected
    assert len(result.rows) == len(expected) > 50  # one row for each prompt
    ties = [list(ranks.values()) for ranks in expected.values() if len(set(ranks.values())) < len(ranks)]
    assert len(ties) > 20
    assert {len(ranks) for ranks in expected.values()} >= {2, 3, 4}


def test_a_list_stands_from_the_best_on_and_its_ends_are_the_pair():
    rows = [("q", ["bad", "good", "as good", "best", "not rated", ""], [1.0, 3.0, 3.0, 4.0, None, 2.0])]
    (row,) = pairs_from_answers(answers_of(rows), LISTS, 0).rows
    assert [json.loads(text)[0]["content"] for text in row["answers"]] == ["best", "as good", "good", "bad"]
    assert row["ranks"] == [1, 2, 2, 3]
    assert (row["chosen"], row["rejected"]) == (row["answers"][0], row["answers"][-1])
    assert row["chosen_score"] is row["margin"] is row["chosen_probability"] is None


def test_every_row_of_a_list_is_kept_and_the_others_have_a_reason():
    rows = [
        ("q", ["good"], [3.0], "b"),
        ("r", ["x", "y"], [1.0, 1.0]),
        ("q", ["bad"], [1.0], "a"),
        ("q", ["unknown"], [None], "a"),
        ("q", ["middle", "good"], [2.0, 3.0], "c"),
    ]
    result = pairs_from_answers(answers_of(rows), LISTS, 0)
    assert drops(result) == {"too_few_answers": 1, "no_score": 1}
    assert result.report.kept == 3
    assert lists_of(result.rows) == {"q": {"good": 1, "middle": 2, "bad": 3}}
    assert result.rows["source"][:] == ["b"]  # of those that have the best answer, the first by name
    assert result.rows["where"][0] == "row 0, row 2, row 4"


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_nectar_as_lists(suffix, tmp_path):
    result = build(nectar, write(tmp_path / f"rlaif{suffix}", NECTAR_ROWS, NECTAR_FEATURES), pairs=LISTS)
    seven, two = result.rows
    assert ranked_answers(seven) == {f"answer {rank}": rank for rank in range(1, 8)}
    assert seven["ranks"] == [1, 2, 3, 4, 5, 6, 7]
    assert (two["answers"], two["ranks"]) == ([], [])  # two answers are a pair
    assert triples(result)[1] == ("Three", "best", "worst")
    assert drops(result) == {"too_few_answers": 1, "no_score": 1, "not_a_transcript": 1, "same_role_twice": 1}


def test_ultrafeedback_as_lists(tmp_path):
    result = build(
        ultrafeedback, write(tmp_path / "train.parquet", ULTRAFEEDBACK_ROWS, ULTRAFEEDBACK_FEATURES), pairs=LISTS
    )
    assert lists_of(result.rows) == {
        "A": {"a1": 1, "a2": 1, "a3": 2, "a5": 3, "a4": 4},
        "B": {f"b{13 / 3}": 1, "b4.3333333": 1, f"b{11 / 3}": 2, "b3.6666667": 2},  # thirds, each written in two ways
        "C": {"mean of the ratings": 1, "low": 2},
        "F": {"Paris": 1, "Lyon": 2},
    }
    assert result.report.notes == {**ULTRAFEEDBACK_NOTES, "pairs": 4}
    assert drops(result) == {"too_few_answers": 3, "no_score": 1}


def test_helpsteer_as_lists(tmp_path):
    rows = [rated("q", f"answer {mean}", mean, mean) for mean in (1, 4, 2)]
    result = build(helpsteer, write(tmp_path / "train.jsonl", rows, None), pairs=LISTS)
    assert lists_of(result.rows) == {"q": {"answer 4": 1, "answer 2": 2, "answer 1": 3}}


@pytest.mark.parametrize("script", [nectar, ultrafeedback, helpsteer])
def test_a_list_has_no_margin(script):
    with pytest.raises(UserError, match="--write_margin: expected with pairs, as a list has ranks alone"):
        script.ScriptArguments(pairs=LISTS, write_margin=True)
    with pytest.raises(UserError, match="all_pairs, lists, found 'list'"):
        script.ScriptArguments(pairs="list")


@pytest.mark.parametrize(
    ("script", "rows", "features"),
    [(nectar, NECTAR_ROWS, NECTAR_FEATURES), (ultrafeedback, ULTRAFEEDBACK_ROWS, ULTRAFEEDBACK_FEATURES)],
)
@pytest.mark.parametrize("file_format", ["parquet", "jsonl"])
def test_lists_are_written_as_rm_reads_them(script, rows, features, file_format, tmp_path, monkeypatch):
    path, output = write(tmp_path / "train.parquet", rows, features), tmp_path / "lists"
    flags = ["--dataset_path", path, "--output_path", str(output), "--format", file_format, "--pairs", LISTS]
    monkeypatch.setattr(sys, "argv", ["script", *flags, "--num_proc", "1"])
    run_source(script.ScriptArguments, script.build)
    written, made = load_preference_dataset(str(output)), build(script, path, pairs=LISTS)
    assert sum(1 for row in written if row["answers"]) >= 1
    (source,) = json.loads((output / "manifest.json").read_text())["sources"]
    answers = [len(row["answers"]) for row in written if row["answers"]]
    assert source["labels"] == {"lists": len(answers), "answers_in_lists": sum(answers)}
    columns = ["prompt", "chosen", "rejected", "answers", "ranks", "source", "reason"]
    assert written.select_columns(columns).to_list() == made.rows.select_columns(columns).to_list()
