"""--columns and --ignore_columns: what they read, and every way to get them wrong."""

import json

import datasets
import pytest
from datasets import Dataset

from reward_modeling.common.errors import UserError
from reward_modeling.data.preferences import load_preference_dataset, standardise_row
from reward_modeling.data.read_options import ReadOptions, read_options, read_options_problems

ROW = {"question": "How?", "more": "Now.", "a": "good", "b": "bad", "delta": 2}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    datasets.disable_progress_bars()


def test_columns_are_read_under_other_names():
    row = standardise_row(ROW, "", read_options("prompt=question, chosen = a,rejected=b,margin=delta", "more"))
    assert [json.loads(row[name])[0]["content"] for name in ("prompt", "chosen", "rejected")] == ["How?", "good", "bad"]
    assert (row["margin"], row["unread"], row["reason"]) == (2.0, "", "")


def test_texts_of_several_columns_are_joined():
    options = read_options("prompt=question+more,chosen=a,rejected=b", None)
    assert json.loads(standardise_row(ROW, "", options)["prompt"])[0]["content"] == "How?\nNow."
    assert json.loads(standardise_row({**ROW, "more": " "}, "", options)["prompt"])[0]["content"] == "How?"


def test_columns_may_change_places():
    row = standardise_row(
        {"prompt": "q", "chosen": "b", "rejected": "a"}, "", read_options("chosen=rejected,rejected=chosen", None)
    )
    assert json.loads(row["chosen"])[0]["content"] == "a"
    assert row["unread"] == ""


def test_a_column_in_whose_place_another_is_read_is_not_forgotten():
    row = {"prompt": "Something else.", "question": "q", "chosen": "a", "rejected": "b"}
    assert standardise_row(row, "", read_options("prompt=question", None))["unread"] == '["prompt (the file\'s own)"]'
    assert standardise_row(row, "", read_options("prompt=question", "prompt"))["unread"] == ""


@pytest.mark.parametrize(
    ("columns", "ignored", "said"),
    [
        ("promt=q", None, "found promt=q; did you mean prompt?"),
        ("prompt", None, "as in prompt=question, found prompt="),
        ("xyz=q", None, "what is read: prompt, chosen"),
        ("prompt=a,prompt=b", None, "expected prompt to be read once, found it twice"),
        ("prompt=a,chosen=a", None, "expected each column once, found a twice"),
        ("prompt=a", "b,a", "found a in both"),
    ],
)
def test_wrong_flags_are_named(columns, ignored, said):
    assert said in "\n".join(read_options_problems(columns, ignored))
    with pytest.raises(UserError, match="--columns"):
        read_options(columns, ignored)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_column_that_the_file_lacks_is_named(kind, tmp_path):
    path = tmp_path / f"x.{kind}"
    rows = [{**ROW, **({"late": "x"} if n == 150 or kind == "parquet" else {})} for n in range(160)]
    if kind == "parquet":
        Dataset.from_list(rows).to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(
        UserError, match=r"expected a column questoin .* found none; did you mean question.*question, more"
    ):
        load_preference_dataset(str(path), read_options("prompt=questoin,chosen=a,rejected=b", None))
    found = load_preference_dataset(str(path), read_options("prompt=late,chosen=a,rejected=b", None))
    assert set(found["reason"]) == {""}


def test_other_options_are_other_rows_of_the_cache(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({**ROW, "chosen": "c", "rejected": "d"}) + "\n")
    one, other = (
        load_preference_dataset(str(path), read_options(columns, None)) for columns in (None, "prompt=question")
    )
    assert (one["prompt"][0], one["is_text"][0]) == ("", True)
    assert json.loads(other["prompt"][0])[0]["content"] == "How?"
    assert ReadOptions().key == ""
