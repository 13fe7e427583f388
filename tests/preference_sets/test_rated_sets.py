"""Sets that rate their answers, written as rows of ratings: every trap in rows of the published columns, by hand."""

import json
import math
import random
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, List, Value
from runs import write_rows
from test_data_prep_answers import (
    DIALOGUE,
    HELPSTEER2_ROWS,
    HELPSTEER_FEATURES,
    HELPSTEER_ROWS,
    ULTRAFEEDBACK_FEATURES,
    build,
    completion,
    drops,
    instruction,
    rated,
    write,
)

import rm_regression
from data_prep import armorm_ratings, capybara, helpsteer, helpsteer2, helpsteer3, ultrafeedback
from reward_modeling.common.errors import UserError
from reward_modeling.data.rated_rows import load_rated_rows
from reward_modeling.data.read_options import ReadOptions
from reward_modeling.preference_sets.rated_lines import rated_lines
from reward_modeling.preference_sets.rated_table import RatedTable
from reward_modeling.preference_sets.ratings import ANSWER_FEATURES
from reward_modeling.preference_sets.repeated_answers import join_repeats
from reward_modeling.preference_sets.writing import run_source

pytestmark = pytest.mark.usefixtures("own_cache")


def said(ratings):
    """(prompt, answer, ratings in the order of the attributes), None where not rated."""
    found = []
    for row, values in zip(ratings.rows, ratings.values.tolist(), strict=True):
        texts = (json.loads(row[name])[-1]["content"] for name in ("prompt", "response"))
        found.append((*texts, [None if math.isnan(value) else value for value in values]))
    return found


def run_script(script, monkeypatch, **flags):
    argv = [token for name, value in flags.items() for token in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", [f"{script.__name__.rpartition('.')[2]}.py", *argv])
    run_source(script.ScriptArguments, script.build)


def written(folder):
    return [json.loads(line) for file in sorted(Path(folder).glob("*.jsonl")) for line in file.read_text().splitlines()]


# --- HelpSteer and HelpSteer2 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_helpsteer(tmp_path, suffix):
    path = write(tmp_path / f"train{suffix}", HELPSTEER_ROWS, HELPSTEER_FEATURES)
    ratings = build(helpsteer, path, rows="ratings")
    assert ratings.attributes == ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    assert said(ratings) == [
        ("A", "a1", [4, 4, 4, 2, 1]),
        ("A", "a2", [4, 3, 4, 2, 3]),
        ("B", "b1", [2, 2, 4, 2, 1]),
        ("A", "a3", [3, 4, 4, 2, 1]),
        ("A", "a4", [0, 1, 4, 2, 1]),
        ("B", "b2", [1, 3, 4, 2, 1]),
        ("A ", "another prompt", [4, 4, 4, 2, 1]),
        ("C", "c1", [4, None, 4, 2, 1]),
        ("C", "c2", [1, 1, 4, 2, 1]),
        ("D", "same", [2, 2, 4, 2, 1]),  # the mean of 3 and 1
        ("D", "other", [0, 0, 4, 2, 1]),
    ]
    assert ratings.rows["source"][:] == ["helpsteer"] * 11
    assert ratings.report.notes == {"answers": 12, "answers that repeat another": 1}
    assert drops(ratings) == {}


def test_helpsteer_rows_that_are_not_used(tmp_path):
    rows = [
        rated("A", "good", 4, 3),
        rated("A", " \n", 4, 4),
        rated("A", None, 4, 4),
        rated("A", "half \ud800", 4, 4),
        rated("A", "beyond", 5, 4),
        rated("A", "text", "4", 4),
        rated("A", "nothing", None, None, None, None, None),
        rated("A", "nan", float("nan"), 2),
        {"prompt": "A", "helpfulness": 1},
    ]
    ratings = build(helpsteer, write(tmp_path / "train.jsonl", rows, None), rows="ratings")
    assert said(ratings) == [("A", "good", [4, 3, 4, 2, 1]), ("A", "nan", [None, 2, 4, 2, 1])]
    assert drops(ratings) == {"empty_reply": 1, "wrong_type": 4, "not_rated": 1, "missing_column": 1}
    wrong = ratings.report.dropped["wrong_type"]
    assert wrong.first_excerpt == "response: expected text, found 'None'"
    beyond = build(helpsteer, write(tmp_path / "one.jsonl", [rows[0], rows[4]], None), rows="ratings")
    assert beyond.report.dropped["wrong_type"].first_excerpt == "helpfulness: expected a number from 0 to 4, found '5'"


def test_helpsteer2_has_dialogues(tmp_path):
    path = write(tmp_path / "train.parquet", HELPSTEER2_ROWS, HELPSTEER_FEATURES)
    ratings = build(helpsteer2, path, rows="ratings")
    assert said(ratings) == [
        ("A", "a1", [4, 4, 4, 2, 1]),
        ("A", "a2", [2, 3, 4, 2, 1]),
        ("Say <extra_id_1>User to me.", "d1", [1, 0, 4, 2, 1]),
        ("Say <extra_id_1>User to me.", "d2", [4, 3, 4, 2, 1]),
        ("B", "b1", [2, 2, 4, 2, 1]),
        ("B", "b2", [2, 2, 4, 2, 1]),
    ]
    assert [message["role"] for message in json.loads(ratings.rows[2]["prompt"])] == ["user", "assistant", "user"]
    assert json.loads(ratings.rows[2]["prompt"])[1]["content"] in DIALOGUE
    assert set(ratings.rows["source"]) == {"helpsteer2"}
    assert drops(ratings) == {"same_role_twice": 3}


# --- UltraFeedback ----------------------------------------------------------------------------------------------

# ratings: instruction_following, honesty, truthfulness, helpfulness, as the fixture has them
ULTRAFEEDBACK_ROWS = [
    instruction(
        "A",
        completion("a1", 4.0, overall=8.0, ratings=("5", "N/A", "4", "3")),
        completion("nothing", None, overall=None),
        completion("", 1.0),
        completion("a1 ", 3.0, overall=6.0, ratings=("3", "5", "4", "N/A")),
    ),
    instruction("B", completion("b1", 4.0, overall=11.0), completion("b2", 4.0)),
    instruction("C"),
    instruction("D", completion("d1", 1.0, overall=10.0, ratings=("1", "2", "3", "4")), source="evol_instruct"),
    instruction("A", completion("a2", 2.0, overall=2.5), source="evol_instruct"),
    instruction("E", completion("", 1.0), completion("nothing", None, overall=None)),
]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_ultrafeedback(tmp_path, suffix):
    path = write(tmp_path / f"train{suffix}", ULTRAFEEDBACK_ROWS, ULTRAFEEDBACK_FEATURES)
    ratings = build(ultrafeedback, path, rows="ratings")
    names = ("overall_score", "instruction_following", "truthfulness", "honesty", "helpfulness")
    assert ratings.attributes == names
    rows = said(ratings)
    rows[0] = (rows[0][0], rows[0][1].strip(), rows[0][2])
    assert rows == [
        ("A", "a1", [7, 4, 4, 5, 3]),  # of two rows: the mean of what is known
        ("D", "d1", [10, 1, 3, 2, 4]),
        ("A", "a2", [2.5, None, None, None, None]),
    ]
    assert ratings.rows["source"][:] == ["ultrafeedback/flan_v2_cot"] + ["ultrafeedback/evol_instruct"] * 2
    assert drops(ratings) == {"wrong_type": 1, "not_rated": 1, "empty_reply": 1}  # a score of 11; no answers; none said
    assert ratings.report.notes == {
        "answers": 6,
        "answers without a rating": 1,
        "empty answers": 1,
        "answers that repeat another": 1,
    }
    doubted = build(ultrafeedback, path, rows="ratings", drop_doubtful_tens=True)
    assert said(doubted)[1] == ("D", "d1", [None, 1, 3, 2, 4])
    prefixed = build(ultrafeedback, path, rows="ratings", attribute_prefix="ultrafeedback-")
    assert prefixed.attributes == tuple(f"ultrafeedback-{name}" for name in names)
    assert set(prefixed.attributes) <= set(armorm_ratings.ATTRIBUTES)


def test_ultrafeedback_whose_ratings_are_numbers(tmp_path):
    rows = [
        instruction(
            "A",
            completion("numbers", 4.0, ratings=(4, 4.5, "4.0", " 3 ")),
            completion("nothing", 4.0, ratings=("N/A", None, "N/A", "5")),
            completion("word", 4.0, ratings=("good", "5", "5", "5")),
            completion("beyond", 4.0, ratings=(6, "5", "5", "5")),
            completion("empty", 4.0, ratings=("5", "", "5", "5")),
        ),
        instruction("B", completion("true", 4.0, ratings=(True, "5", "5", "5"))),
    ]
    path = write(tmp_path / "train.jsonl", rows, None)
    ratings = build(ultrafeedback, path, rows="ratings")
    assert said(ratings) == [
        ("A", "numbers", [5, 4, 4, 4.5, 3]),
        ("A", "nothing", [5, None, None, None, 5]),
    ]
    assert ratings.report.notes["answers left out: a field has the wrong type"] == 3
    assert drops(ratings) == {"wrong_type": 1}
    # the mean of those that there are, where the column has none
    assert ultrafeedback.fine_grained(completion("a", None, ratings=(4, "5.0", "good", "N/A"))) == 4.5


def test_an_instruction_that_looks_like_messages_is_a_text(tmp_path):
    text = '[{"role": "user", "content": "x"}]'
    rows = [instruction(text, completion(text, 4.0))]
    ratings = build(ultrafeedback, write(tmp_path / "train.jsonl", rows, None), rows="ratings")
    assert [row[:2] for row in said(ratings)] == [(text, text)]


# --- the merged set of ArmoRM -----------------------------------------------------------------------------------

MESSAGES = List({"role": Value("string"), "content": Value("string")})
ARMORM_FEATURES = Features(
    {
        "messages": MESSAGES,
        **{name: Value("float64") for name in armorm_ratings.ATTRIBUTES},
        "beavertails-is_safe": Value("bool"),  # or a number: what it is could not be looked up
    }
)


def merged(*texts, **ratings):
    roles = ("user", "assistant", "user", "assistant")
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    known = {name.replace("__", "-"): value for name, value in ratings.items()}
    return {"messages": messages, **{name: known.get(name) for name in armorm_ratings.ATTRIBUTES}}


ARMORM_ROWS = [
    merged("q", "a", helpsteer__helpfulness=0.9, helpsteer__verbosity=0.1),
    merged("q", "b", "r", "c", beavertails__is_safe=True),
    merged("q", "d", beavertails__is_safe=False),
    merged("q", "e"),
    merged("q", "b", "r", ultrafeedback__honesty=0.5),
    merged("q", "a", ultrafeedback__honesty=0.25),
]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_the_merged_set(tmp_path, suffix):
    ratings = build(armorm_ratings, write(tmp_path / f"train{suffix}", ARMORM_ROWS, ARMORM_FEATURES))
    place = {name: number for number, name in enumerate(ratings.attributes)}
    assert len(place) == 19
    known = [
        (prompt, answer, {name: values[place[name]] for name in place if values[place[name]] is not None})
        for prompt, answer, values in said(ratings)
    ]
    both = {"helpsteer-helpfulness": 0.9, "helpsteer-verbosity": 0.1, "ultrafeedback-honesty": 0.25}
    assert known == [
        ("q", "a", both),
        ("r", "c", {"beavertails-is_safe": 1.0}),
        ("q", "d", {"beavertails-is_safe": 0.0}),
    ]
    assert ratings.rows["source"][:] == ["armorm/helpsteer", "armorm/beavertails", "armorm/beavertails"]
    assert drops(ratings) == {"not_rated": 1, "last_not_assistant": 1}


def test_the_names_are_those_of_the_published_model():
    counts = {name.split("-")[0]: 0 for name in armorm_ratings.ATTRIBUTES}
    for name in armorm_ratings.ATTRIBUTES:
        counts[name.split("-")[0]] += 1
    sets = {"helpsteer": 5, "ultrafeedback": 5, "beavertails": 1, "prometheus": 1, "argilla": 2, "code": 5}
    assert counts == sets
    assert armorm_ratings.ATTRIBUTES[4:8] == (
        "helpsteer-verbosity",
        "ultrafeedback-overall_score",
        "ultrafeedback-instruction_following",
        "ultrafeedback-truthfulness",
    )


# --- the same answer several times ------------------------------------------------------------------------------


def dataset_of(rows):
    """`rows`: (answer_key, text_key, source)."""
    columns = {name: [None if name == "source" else 0] * len(rows) for name in ("answer_key", "text_key", "source")}
    for place, name in enumerate(columns):
        columns[name] = [row[place] for row in rows]
    kinds = Features({name: ANSWER_FEATURES[name] for name in columns})
    return Dataset.from_dict(columns, features=kinds)


@pytest.mark.parametrize("seed", range(4))
def test_repeated_answers_against_brute_force(seed):
    draw = random.Random(seed)
    rows = [(draw.randrange(40), draw.randrange(3), draw.choice(["s", "t", None])) for _ in range(120)]
    values = np.array([[draw.choice([math.nan, 0.1, 0.2, 0.7, 3.0]) for _ in range(3)] for _ in rows])
    kept, means, repeated = join_repeats(dataset_of(rows), values)
    found = list(zip(kept["answer_key"], kept["text_key"], kept["source"], means.tolist(), strict=True))
    expected = []
    for key in dict.fromkeys(key for key, *_ in rows):  # in the order in which they first stand
        same = [place for place, row in enumerate(rows) if row[0] == key]
        best = min(same, key=lambda place: (rows[place][2] is None, rows[place][2] or "", rows[place][1]))
        columns = [[values[place][column] for place in same] for column in range(3)]
        known = [[value for value in column if not math.isnan(value)] for column in columns]
        mean = [math.fsum(column) / len(column) if column else math.nan for column in known]
        expected.append((*rows[best], mean))
    assert repeated == len(rows) - len(expected) > 60
    assert [row[:3] for row in found] == [row[:3] for row in expected]
    np.testing.assert_allclose([row[3] for row in found], [row[3] for row in expected], rtol=1e-15)
    # in any order of the rows the same, to the bit
    order = draw.sample(range(len(rows)), len(rows))
    shuffled, other_means, _ = join_repeats(dataset_of([rows[place] for place in order]), values[order])
    columns = (shuffled["answer_key"], shuffled["text_key"], shuffled["source"], other_means.tolist())
    by_key = {key: str(rest) for key, *rest in zip(*columns, strict=True)}  # as texts, in which NaN is NaN
    assert by_key == {key: str(rest) for key, *rest in found}


# --- what is written --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["parquet", "jsonl"])
def test_what_is_written_is_what_training_reads(file_format, tmp_path, monkeypatch):
    path, output = write(tmp_path / "train.parquet", HELPSTEER_ROWS, HELPSTEER_FEATURES), tmp_path / "ratings"
    run_script(helpsteer, monkeypatch, dataset_path=path, output_path=output, format=file_format, rows="ratings")
    made = build(helpsteer, path, rows="ratings")
    read = load_rated_rows(str(output), made.attributes, ReadOptions(), num_proc=1)
    assert read["reason"][:] == [""] * 11
    assert [read[name][:] for name in ("prompt", "response", "source", "prompt_key")] == [
        made.rows[name][:] for name in ("prompt", "response", "source", "prompt_key")
    ]
    values = np.array([[math.nan if one is None else one for one in row] for row in read["ratings"]])
    np.testing.assert_array_equal(values, made.values)
    assert set(read["unread"]) == {""}


def test_rows_and_manifest(tmp_path, monkeypatch, capsys):
    path = write(tmp_path / "train.parquet", ULTRAFEEDBACK_ROWS, ULTRAFEEDBACK_FEATURES)
    flags = {"dataset_path": path, "rows": "ratings", "attribute_prefix": "uf-"}
    run_script(ultrafeedback, monkeypatch, output_path=tmp_path / "lines", format="jsonl", **flags)
    shown = capsys.readouterr().out
    run_script(ultrafeedback, monkeypatch, output_path=tmp_path / "table", **flags)
    rows = written(tmp_path / "lines")
    assert rows[2] == {
        "messages": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "a2"}],
        "source": "ultrafeedback/evol_instruct",
        "uf-overall_score": 2.5,
        "uf-instruction_following": None,
        "uf-truthfulness": None,
        "uf-honesty": None,
        "uf-helpfulness": None,
    }
    assert pq.read_table(tmp_path / "table" / "train-00000-of-00001.parquet").to_pylist() == rows
    lines, table = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("lines", "table"))
    assert lines["written"]["train"]["content_sha256"] == table["written"]["train"]["content_sha256"]
    assert (lines["rows"], lines["answers"], lines["written"]["train"]["answers"]) == ("ratings", 3, 3)
    assert lines["attributes"]["uf-overall_score"] == {
        "rated": 3,
        "low": 2.5,
        "high": 10.0,
        "mean": 6.5,
        "scale": [1.0, 10.0],
    }
    honesty = {"rated": 2, "low": 2.0, "high": 5.0, "mean": 3.5, "scale": [1.0, 5.0]}
    assert lines["attributes"]["uf-honesty"] == honesty
    (source,) = lines["sources"]
    assert (source["answers"], source["prompts"], source["answers_per_prompt"]) == (3, 2, {"1": 1, "2": 1})
    assert source["read"]["rows"] == 6 and source["read"]["kept"] == 3
    assert source["options"]["attribute_prefix"] == "uf-"
    assert "ultrafeedback: 3 answers" in shown
    assert ["uf-honesty", "2", "66.7%", "2", "5", "3.500", "1", "to", "5"] in [
        line.split() for line in shown.splitlines()
    ]


def test_an_attribute_that_nobody_rated_is_no_column(tmp_path, monkeypatch):
    path = write(tmp_path / "train.parquet", ARMORM_ROWS, ARMORM_FEATURES)
    run_script(armorm_ratings, monkeypatch, dataset_path=path, output_path=tmp_path / "out", format="jsonl")
    rated_on = ["helpsteer-helpfulness", "helpsteer-verbosity", "ultrafeedback-honesty", "beavertails-is_safe"]
    assert all(list(row) == ["messages", "source", *rated_on] for row in written(tmp_path / "out"))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert list(manifest["attributes"]) == rated_on
    assert manifest["attributes"]["beavertails-is_safe"]["scale"] is None
    assert manifest["sources"][0]["attributes"]["prometheus-score"]["rated"] == 0


ODD_TEXTS = ["]", "[][", '"', "\\", "\\u0041", "b\n\t\r", "c\0", "\u2028a", "é", "😀", "\U0010ffff", "\x7f", ", "]


def test_lines_are_what_json_says(tmp_path):
    rows = [rated(prompt, f"a{answer}", 1, 2) for prompt in ODD_TEXTS for answer in ODD_TEXTS]
    ratings = build(helpsteer, write(tmp_path / "train.jsonl", rows, None), rows="ratings")
    table = RatedTable([("s", ratings)])
    order = np.random.default_rng(0).permutation(len(table))
    lines = rated_lines(table, order).to_lines(table.take(order)).to_pybytes().decode().split("\n")
    assert lines.pop() == ""
    for line, place in zip(lines, order, strict=True):
        messages = [{"role": "user", "content": rows[place]["prompt"]}]
        messages.append({"role": "assistant", "content": rows[place]["response"]})
        numbers = {name: float(rows[place][name]) for name in helpsteer.ATTRIBUTES}
        assert line == json.dumps({"messages": messages, "source": "helpsteer", **numbers}, ensure_ascii=False)


def test_nothing_to_write(tmp_path, monkeypatch, capsys):
    path = write(tmp_path / "train.jsonl", [rated("A", "", 1, 2)], None)
    with pytest.raises(SystemExit) as caught:
        run_script(helpsteer, monkeypatch, dataset_path=path, output_path=tmp_path / "out", rows="ratings")
    assert caught.value.code == 2
    assert "helpsteer: expected answers, found none that can be used" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --- mistakes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "options", "message"),
    [
        (helpsteer, {"rows": "rating"}, "--rows: expected one of pairs, ratings, found 'rating'"),
        (
            helpsteer,
            {"rows": "ratings", "pairs": "lists"},
            "--rows ratings: expected none of --pairs, --score, .*lists",
        ),
        (helpsteer2, {"rows": "ratings", "score": "helpfulness"}, "which are for pairs, found --score helpfulness"),
        (ultrafeedback, {"rows": "ratings", "write_margin": True}, "which are for pairs, found --write_margin True"),
        (ultrafeedback, {"attribute_prefix": "x-"}, "--attribute_prefix: expected with --rows ratings, found"),
        (
            helpsteer2,
            {"rows": "ratings", "preference": True},
            "--preference: expected without --rows, .*--rows ratings",
        ),
    ],
)
def test_flags_that_do_not_go_together(script, options, message):
    with pytest.raises(UserError, match=message):
        script.ScriptArguments(**options)


@pytest.mark.parametrize("script", [capybara, helpsteer3, armorm_ratings])
def test_a_set_without_the_choice_says_which_have_it(script, monkeypatch, capsys):
    with pytest.raises(SystemExit) as caught:
        run_script(script, monkeypatch, rows="ratings")
    assert caught.value.code == 2
    kind = "ratings" if script is armorm_ratings else "pairs"
    expected = "--rows: expected with a set that has pairs and ratings (helpsteer, helpsteer2, ultrafeedback), found "
    assert f"{expected}{script.__name__.rpartition('.')[2]}: {kind} alone" in capsys.readouterr().err


# --- training ---------------------------------------------------------------------------------------------------


def test_rm_regression_reads_it_without_further_flags(gemma_folder, tmp_path, monkeypatch, capsys):
    rows = [rated(f"question {place}", f"answer {place % 7}", place % 5, 4 - place % 5) for place in range(60)]
    path, output = write(tmp_path / "train.parquet", rows, HELPSTEER_FEATURES), tmp_path / "ratings"
    run_script(helpsteer, monkeypatch, dataset_path=path, output_path=output, rows="ratings")
    flags = {"model_name": gemma_folder, "train_set_path": output, "attributes": "helpfulness,correctness"}
    flags |= {
        "output_path": tmp_path / "model",
        "preflight_only": "true",
        "max_length": 512,
        "use_cpu": "true",
        "report_to": "none",
    }
    argv = [token for name, value in flags.items() for token in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["rm_regression.py", *argv])
    rm_regression.main()
    shown = capsys.readouterr().out
    assert "60 rows read, 60 kept" in shown
    assert "ratings of helpfulness: 60" in shown


def test_template_options_stay(tmp_path):
    """A file of ratings may have tools; they are read and written as those of pairs."""
    from data_prep import build_mixture

    tools = [{"type": "function", "function": {"name": "look_up"}}]
    rows = [
        {"prompt": "q", "response": "a", "kindness": 1, "tools": tools},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "kindness": 2},
    ]
    mixture = tmp_path / "m.yaml"
    path = write_rows(tmp_path / "rows.jsonl", rows)
    mixture.write_text(f"sources: [{{path: {path}, options: {{attributes: kindness}}}}]\n")
    flags = {"mixture": str(mixture), "output_path": str(tmp_path / "out"), "format": "jsonl", "num_proc": 1}
    build_mixture.build(build_mixture.ScriptArguments(**flags))
    found = sorted(written(tmp_path / "out"), key=lambda row: row["kindness"])
    assert [row["tools"] for row in found] == [json.dumps(tools), None]  # two prompts: no repetition
