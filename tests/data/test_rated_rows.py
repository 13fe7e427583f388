"""Answers with ratings: every way to write them down, and every row kept or dropped for a counted reason."""

import csv
import gzip
import json
import math
import resource
import time
from decimal import Decimal
from pathlib import Path

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_modeling.common.errors import UserError
from reward_modeling.data.preferences import NO_OPTIONS, load_preference_dataset
from reward_modeling.data.rated_rows import RATED_FEATURES, load_rated_rows, rated_row
from reward_modeling.data.read_options import RATED_TARGETS, ReadOptions, read_options, read_options_problems
from reward_modeling.data.report import report_rows

NAMES = ("helpsteer-helpfulness", "is_safe")
PROMPT = [{"role": "user", "content": "How far is the moon?"}]
ANSWER = [{"role": "assistant", "content": "384,400 km."}]


def read(row: object, attributes: tuple[str, ...] = NAMES, options: ReadOptions = NO_OPTIONS) -> dict:
    found = rated_row(row, "x:1", attributes, options)
    assert found.keys() == RATED_FEATURES.keys()
    return found


def of(row: dict, **ratings: object) -> dict:
    return row | {"helpsteer-helpfulness": 3, "is_safe": None} | ratings


CONVERSATIONS = {
    "messages": {"messages": [*PROMPT, *ANSWER]},
    "texts": {"prompt": PROMPT[0]["content"], "response": ANSWER[0]["content"]},
    "message lists": {"prompt": PROMPT, "response": ANSWER},
    "one message": {"prompt": PROMPT[0], "response": ANSWER[0]},
    "JSON texts": {"prompt": json.dumps(PROMPT), "response": json.dumps(ANSWER)},
    "JSON text": {"messages": json.dumps([*PROMPT, *ANSWER])},
    "ShareGPT": {
        "messages": [{"from": "human", "value": PROMPT[0]["content"]}, {"from": "gpt", "value": ANSWER[0]["content"]}]
    },
    "a transcript": {"prompt": "\n\nHuman: How far is the moon?\n\nAssistant:", "response": " 384,400 km."},
    "empty messages beside texts": {"messages": [], "prompt": PROMPT, "response": ANSWER},
    "messages with the same texts beside them": {
        "messages": [*PROMPT, *ANSWER],
        "prompt": PROMPT[0]["content"],
        "response": ANSWER[0]["content"],
    },
}


@pytest.mark.parametrize("form", CONVERSATIONS)
def test_every_form_is_the_same_conversation(form):
    row = read(of(CONVERSATIONS[form]))
    assert (row["reason"], row["unread"], row["excerpt"]) == ("", "", "")
    assert (json.loads(row["prompt"]), json.loads(row["response"])) == (PROMPT, ANSWER)
    assert row["ratings"] == [3.0, None]
    assert row["prompt_key"] == read(of(CONVERSATIONS["messages"]))["prompt_key"]


def test_a_system_message_and_tools_belong_to_the_prompt():
    system = {"role": "system", "content": "Be brief."}
    row = read(of({"prompt": "q", "response": "a", "system": "Be brief.", "tools": [{"name": "f"}], "source": 7}))
    assert json.loads(row["prompt"]) == [system, {"role": "user", "content": "q"}]
    assert json.loads(row["template_options"]) == {"tools": [{"name": "f"}]} and row["source"] == "7"
    assert row["prompt_key"] != read(of({"prompt": "q", "response": "a"}))["prompt_key"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3.0),
        (-0.5, -0.5),
        (True, 1.0),
        (False, 0.0),
        ("4", 4.0),
        (" 2.5 ", 2.5),
        ("True", 1.0),
        ("false", 0.0),
        ("1e-3", 0.001),
        (Decimal("1.5"), 1.5),
        (0, 0.0),
    ],
)
@pytest.mark.parametrize("place", ["column", "ratings", "JSON"])
def test_what_is_a_number(value, expected, place):
    rated = {"is_safe": value}
    where = {"column": rated, "ratings": {"ratings": rated}, "JSON": {"ratings": json.dumps(rated, default=str)}}[place]
    assert read(CONVERSATIONS["texts"] | where)["ratings"] == [None, expected]


@pytest.mark.parametrize("nothing", [None, math.nan, "", " ", "nan", "NaN"], ids=repr)
@pytest.mark.parametrize("place", ["column", "ratings"])
def test_what_is_no_rating(nothing, place):
    rated = {"helpsteer-helpfulness": nothing, "is_safe": 1}
    row = CONVERSATIONS["texts"] | (rated if place == "column" else {"ratings": rated})
    assert read(row)["ratings"] == [None, 1.0]
    alone = read(row | {"is_safe": None} if place == "column" else row | {"ratings": {"is_safe": nothing}})
    assert alone["reason"] == "not_rated"


@pytest.mark.parametrize("ratings", [None, "", "null", math.nan, {}, {"is_safe": None}], ids=repr)
def test_a_column_counts_where_the_object_has_no_rating(ratings):
    assert read(CONVERSATIONS["texts"] | {"ratings": ratings, "is_safe": True})["ratings"] == [None, 1.0]


def test_the_object_counts_before_the_column():
    row = read(CONVERSATIONS["texts"] | {"ratings": {"is_safe": 0}, "is_safe": 1})
    assert row["ratings"] == [None, 0.0]


def test_a_column_that_is_named_counts_before_the_object():
    options = read_options("is_safe=safe", None, targets=(*RATED_TARGETS, *NAMES))
    ratings = {"is_safe": 0, "helpsteer-helpfulness": 2}
    row = read(CONVERSATIONS["texts"] | {"ratings": ratings, "safe": 1}, options=options)
    assert row["ratings"] == [2.0, 1.0]
    assert json.loads(row["unread"]) == ["ratings.is_safe"]
    without = read(CONVERSATIONS["texts"] | {"ratings": ratings, "safe": None}, options=options)
    assert without["ratings"] == [2.0, None]


def test_an_underscore_makes_no_number():
    assert read(CONVERSATIONS["texts"] | {"is_safe": "1_000"})["reason"] == "wrong_type"


DROPPED = {
    "no row": (["a list"], "wrong_type", ""),
    "no answer": ({"prompt": "q", "is_safe": 1}, "no_response", ""),
    "nothing at all": ({}, "no_response", ""),
    "an empty answer": ({"prompt": "q", "response": " ", "is_safe": 1}, "empty_reply", ""),
    "no message in the answer": ({"prompt": "q", "response": [], "is_safe": 1}, "empty_reply", ""),
    "an empty answer in messages": (
        {"messages": [*PROMPT, {"role": "assistant", "content": ""}], "is_safe": 1},
        "empty_reply",
        "",
    ),
    "no answer at the end": ({"messages": PROMPT, "is_safe": 1}, "last_not_assistant", "messages end with user"),
    "an answer of the user's": (
        {"prompt": "q", "response": PROMPT, "is_safe": 1},
        "last_not_assistant",
        "ends with user",
    ),
    "a conversation as answer": (
        {"prompt": "q", "response": [*PROMPT, *ANSWER], "is_safe": 1},
        "wrong_type",
        "is read as messages",
    ),
    "an unknown role": ({"messages": [{"role": "oracle", "content": "x"}], "is_safe": 1}, "unknown_role", "'oracle'"),
    "broken JSON": ({"messages": '[{"role": "user", "content": ', "is_safe": 1}, "wrong_type", "no JSON"),
    "a number as answer": ({"prompt": "q", "response": 7, "is_safe": 1}, "wrong_type", "a number"),
    "half a character": ({"prompt": "q", "response": "\ud800", "is_safe": 1}, "wrong_type", "half a character"),
    "half a character in a rating": ({"prompt": "q", "response": "a", "is_safe": "\ud800"}, "wrong_type", "is_safe"),
    "a word as rating": ({"prompt": "q", "response": "a", "is_safe": "high"}, "wrong_type", "is_safe is a text"),
    "a list as rating": ({"prompt": "q", "response": "a", "is_safe": [1, 2]}, "wrong_type", "is_safe is a list"),
    "an infinite rating": ({"prompt": "q", "response": "a", "is_safe": math.inf}, "nan_margin", "is_safe inf"),
    "a huge rating": ({"prompt": "q", "response": "a", "is_safe": 10**400}, "nan_margin", "is_safe inf"),
    "beyond float32": ({"prompt": "q", "response": "a", "is_safe": "1e39"}, "nan_margin", "is_safe 1e+39"),
    "a list of ratings": ({"prompt": "q", "response": "a", "ratings": [1]}, "wrong_type", "ratings is a list"),
    "a text for ratings": ({"prompt": "q", "response": "a", "ratings": "good"}, "wrong_type", "no object"),
    "a number for ratings": ({"prompt": "q", "response": "a", "ratings": 3}, "wrong_type", "ratings is a number"),
    "other ratings": (
        {"prompt": "q", "response": "a", "quality": 3, "ratings": {"humor": 1}},
        "not_rated",
        "its numbers: quality, humor",
    ),
}


@pytest.mark.parametrize("name", DROPPED)
def test_what_is_dropped(name):
    source, reason, detail = DROPPED[name]
    row = read(source)
    assert row["reason"] == reason and detail in row["excerpt"]
    assert len(row["excerpt"]) <= 200 and row["excerpt"].encode()
    assert row["where"] == "x:1" and row["ratings"] == []


def test_what_nobody_reads_is_named():
    row = read(of({"prompt": "q", "response": "a", "annotator": "someone", "ratings": {"humor": 2, "wit": None}}))
    assert json.loads(row["unread"]) == ["annotator", "ratings.humor"] and row["excerpt"] == ""
    row = read(of({"messages": [*PROMPT, {**ANSWER[0], "verdict": "fine"}], "prompt": "Another question altogether?"}))
    assert json.loads(row["unread"]) == ["prompt", "verdict (of messages)"]
    assert json.loads(row["excerpt"]) == {"prompt": '"Another question altogether?"'}


def test_columns_under_other_names():
    targets = (*RATED_TARGETS, *NAMES)
    flag = "prompt=question,response=answer,is_safe=safe"
    options = read_options(flag, "id", targets=targets)
    row = read({"question": "q", "answer": "a", "safe": "yes", "id": 3}, options=options)
    assert (row["reason"], row["excerpt"].partition(" |")[0]) == ("wrong_type", "is_safe is a text")
    row = read({"question": "q", "answer": "a", "safe": "1", "id": 3}, options=options)
    assert (row["ratings"], row["unread"]) == ([None, 1.0], "")
    assert json.loads(row["prompt"])[0]["content"] == "q"
    assert read_options_problems(flag, None, None, targets) == []
    (problem,) = read_options_problems("is_saf=safe", None, None, targets)
    assert problem.endswith("found is_saf=safe; did you mean is_safe?")
    (problem,) = read_options_problems("chosen=a", None, None, targets)
    assert "what is read: messages, prompt, response, ratings" in problem and problem.endswith(", is_safe")
    assert len(read_options_problems("response=answer", None)) == 1  # of preferences


NUMBERS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([1]), st.just({"a": 1})
)


@settings(deadline=None)
@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys((*NAMES, "prompt", "response", "messages", "ratings"), NUMBERS))
)
def test_any_row_is_kept_or_dropped(row):
    """And a kept one has a finite rating."""
    found = read(row)
    if found["reason"]:
        assert found["ratings"] == []
        return
    known = [rating for rating in found["ratings"] if rating is not None]
    assert len(found["ratings"]) == 2 and known and all(math.isfinite(rating) for rating in known)


# --- files ------------------------------------------------------------------------------------------------------------

ROWS = [
    {"prompt": "one, two?", "response": 'say "three"', "helpsteer-helpfulness": 4, "is_safe": 1, "id": "a"},
    {"prompt": "two\nlines?", "response": "four\n\nlines", "helpsteer-helpfulness": 0.5, "is_safe": None, "id": "b"},
    {"prompt": "ünï?", "response": "nothing", "helpsteer-helpfulness": None, "is_safe": 0, "id": "c"},
]


def write(path: Path, rows: list[dict]) -> Path:
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        Dataset.from_list(rows).to_parquet(path)
        return path
    if name.endswith((".csv", ".tsv")):
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, rows[0], delimiter="\t" if ".tsv" in name else ",")
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(path.read_bytes()))
    return path


def load(path: Path, attributes: tuple[str, ...] = NAMES, options: ReadOptions = NO_OPTIONS) -> Dataset:
    return load_rated_rows(str(path), attributes, options)


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("name", ["x.jsonl", "x.json.gz", "x.csv", "x.tsv.gz", "x.parquet"])
def test_every_kind_of_file(name, tmp_path):
    rows = load(write(tmp_path / name, ROWS))
    assert rows["ratings"][:] == [[4.0, 1.0], [0.5, None], [None, 0.0]]
    assert [json.loads(text)[0]["content"] for text in rows["response"]] == [row["response"] for row in ROWS]
    assert rows["reason"][:] == [""] * 3 and rows["unread"][:] == ['["id"]'] * 3
    assert rows["where"][:] == [
        f"{tmp_path / name}{end}" for end in ([":1", ":2", ":3"] if "json" in name else [" row 0", " row 1", " row 2"])
    ]


@pytest.mark.usefixtures("own_cache")
def test_a_struct_of_ratings_in_parquet(tmp_path):
    """Arrow gives every object the keys of all."""
    rows = [
        {"messages": [*PROMPT, *ANSWER], "ratings": {"helpsteer-helpfulness": 3}},
        {"messages": [*PROMPT, *ANSWER], "ratings": {"is_safe": True}},
    ]
    assert load(write(tmp_path / "x.parquet", rows))["ratings"][:] == [[3.0, None], [None, 1.0]]


@pytest.mark.usefixtures("own_cache")
def test_other_attributes_are_other_rows(tmp_path):
    """In the cache, too; and in the order that was asked for."""
    path = write(tmp_path / "x.jsonl", ROWS)
    assert load(path, NAMES[::-1])["ratings"][0] == [1.0, 4.0]
    assert load(path, NAMES)["ratings"][0] == [4.0, 1.0]
    assert load(path, NAMES[:1])["ratings"][:] == [[4.0], [0.5], []]


@pytest.mark.usefixtures("own_cache")
def test_dropped_rows_are_counted(tmp_path):
    bad = [ROWS[0] | {"is_safe": "high"}, ROWS[0] | {"helpsteer-helpfulness": None, "is_safe": None}]
    report = report_rows("train", load(write(tmp_path / "x.jsonl", ROWS + bad)))
    assert (report.rows_read, report.kept) == (5, 3)
    assert {reason: dropped.count for reason, dropped in report.dropped.items()} == {"wrong_type": 1, "not_rated": 1}
    assert "none of the attributes is rated" in report.table() and "is_safe is a text" in report.table()


PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "csv"])
def test_rows_of_the_other_script_are_sent_there(suffix, tmp_path):
    pairs, rated = write(tmp_path / f"pairs.{suffix}", [PAIR]), write(tmp_path / f"rated.{suffix}", ROWS)
    with pytest.raises(UserError, match=r"expected columns prompt and response in .*pairs.*what rm\.py trains on"):
        load(pairs)
    with pytest.raises(UserError, match=r"expected columns chosen and rejected in .*what rm_regression\.py trains on"):
        load_preference_dataset(str(rated))
    assert len(load(rated)) == 3 and len(load_preference_dataset(str(pairs))) == 1


@pytest.mark.usefixtures("own_cache")
def test_other_names_are_named(tmp_path):
    rows = [{"prompt": "q", "completion": "a", "is_safe": 1}]
    with pytest.raises(UserError, match="To read completion: --columns response=completion"):
        load(write(tmp_path / "x.jsonl", rows))
    options = read_options("response=completion", None, targets=(*RATED_TARGETS, *NAMES))
    assert load(tmp_path / "x.jsonl", options=options)["ratings"][:] == [[None, 1.0]]
    with pytest.raises(UserError, match="expected a column answer in"):
        load(tmp_path / "x.jsonl", options=read_options("response=answer", None, targets=RATED_TARGETS))


@pytest.mark.usefixtures("own_cache")
def test_a_hundred_thousand_rows(tmp_path):
    names = tuple(f"attribute-{number}" for number in range(19))
    path = tmp_path / "x.jsonl"
    with path.open("w") as stream:
        for number in range(100_000):
            rated = {name: number % 5 for place, name in enumerate(names) if (number + place) % 3}
            row = {"prompt": f"question {number // 4}?", "response": f"answer {number} " * 20, "ratings": rated}
            stream.write(json.dumps(row) + "\n")
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    rows = load(path, names)
    assert len(rows) == 100_000 and set(rows["reason"]) == {""}
    assert len(set(rows["prompt_key"])) == 25_000
    # Rows are mapped from disk (80 MB of them), and made in batches; 10 s here.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 * 1024
    assert time.perf_counter() - started < 120
