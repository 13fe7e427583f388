"""`--benchmarks pairs` of rows with labels, ties, weights and ranked lists: what is scored, and what it comes to."""

import json
import math
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from evaluations import PlainModel, evaluate, flags, read_lines
from runs import as_argv, write_rows
from test_added_benchmarks import save_model

import eval_bench_mark
from reward_modeling.common.errors import UserError
from reward_modeling.evaluation.benchmarks.own_pairs import BENCHMARK
from reward_modeling.evaluation.benchmarks.reading import fingerprint, read_benchmark
from reward_modeling.evaluation.benchmarks.scored_rows import ScoredRow
from reward_modeling.evaluation.comparison import compare
from reward_modeling.evaluation.evaluations import read_evaluations
from reward_modeling.objectives.tie_predictions import tie_predictions
from reward_modeling.tiny.preferences import learnable_preferences

TOLERANCE = 1e-4
ANSWERS = [row[side][-1]["content"] for row in learnable_preferences(30, seed=8) for side in ("chosen", "rejected")]
ANSWERS = list(dict.fromkeys(ANSWERS))


def answers(number: int, count: int) -> list[str]:
    return ANSWERS[number * 4 : number * 4 + count]


PAIRS = [
    {"prompt": f"How {n}?", **dict(zip(("chosen", "rejected"), answers(n, 2), strict=True)), "source": "pairs"}
    for n in range(5)
]
LISTS = [
    {"prompt": "Why 0?", "completions": answers(6, 4), "ranks": [3, 1, 2, 1], "weight": 2.0, "source": "lists"},
    {"prompt": "Why 1?", "completions": answers(7, 3), "scores": [0.1, 7.0, None], "source": "lists"},
    {"prompt": "Why 2?", "completions": answers(8, 4), "scores": [4.0, 3.0, 2.0, 1.0], "source": "lists"},
]
ROWS = [
    PAIRS[0],
    LISTS[0],
    {**PAIRS[1], "chosen_probability": 0.7, "weight": 0.5},
    {**PAIRS[2], "chosen_probability": 0.5},
    LISTS[1],
    {**PAIRS[3], "chosen_probability": 0.2},  # turned round: 0.8 for the other one
    LISTS[2],
    {**PAIRS[4], "prompt": "Why 0?"},  # of a prompt that has a list too
]
IDS = [0, "1:2-1", "1:2-3", "1:3-1", "1:4-1", "1:4-3", 2, 3, 4, 5]
IDS += [f"6:{one}-{other}" for one, other in combinations(range(1, 5), 2)] + [7]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A random one that gives ties a probability of their own."""
    folder = save_model(tmp_path_factory.mktemp("rewards") / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_model": "davidson", "tie_threshold": 0.8}))
    return folder


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory) -> Path:
    """An evaluation, with its page."""
    tmp_path = tmp_path_factory.mktemp("evaluation")
    return evaluate(flags(model, {"pairs": write_rows(tmp_path / "rows.jsonl", ROWS)}, tmp_path), pages=True)


@pytest.fixture(scope="module")
def lines(folder) -> dict[object, dict]:
    return {line["id"]: line for line in read_lines(folder / "scores.jsonl")}


def part_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())["benchmarks"]["pairs"]


# --- what is scored ---------------------------------------------------------------------------------------------


def test_a_list_is_one_row_with_its_ranks(tmp_path):
    rows = read_benchmark("pairs", str(write_rows(tmp_path / "rows.jsonl", ROWS)), num_proc=1).rows
    assert len(rows) == len(ROWS)
    assert [len(row["chosen"]) for row in rows] == [1, 4, 1, 1, 1, 1, 4, 1]  # a list of two that are rated is a pair
    assert [row["ranks"] for row in rows if row["ranks"]] == [[3, 1, 2, 1], [1, 2, 3, 4]]
    assert rows["chosen_probability"][:] == [None, None, 0.7, 0.5, None, 0.8, None, None]
    assert rows["weight"][:] == [None, 2.0, 0.5, None, None, None, None, None]


def test_every_pair_has_the_rewards_of_its_answers(model, lines):
    """Of a list all pairs of different rank, the better one first; answers are numbered as in the row."""
    assert sorted(map(str, lines)) == sorted(map(str, IDS))
    plain = PlainModel(model)
    for row_id, line in lines.items():
        row, places = [*str(row_id).split(":"), None][:2]
        row = ROWS[int(row)]
        if places is None and "completions" in row:
            texts = row["completions"][1], row["completions"][0]
        elif places is None:
            texts = row["chosen"], row["rejected"]
            texts = texts[::-1] if row.get("chosen_probability", 1) < 0.5 else texts
        else:
            texts = [row["completions"][int(place) - 1] for place in places.split("-")]
        expected = [plain(row["prompt"], text) for text in texts]
        assert [line["chosen_reward"], line["rejected_reward"]] == pytest.approx(expected, abs=TOLERANCE)
        assert line["correct"] is (None if row_id == 3 else expected[0] > expected[1])


def test_every_answer_is_scored_once(folder):
    scoring = part_of(folder)["scoring"]
    assert scoring["conversations"] == 2 * 6 + 4 + 4 == scoring["distinct"]


def test_lines_say_what_is_known_of_a_pair(lines):
    assert lines[0].keys() == {"benchmark", "id", "subset", "chosen_reward", "rejected_reward", "correct"}
    assert (lines[2]["chosen_probability"], lines[2]["weight"]) == (0.7, 0.5)
    assert lines[5]["chosen_probability"] == pytest.approx(0.8)
    assert math.fsum(line["weight"] for row_id, line in lines.items() if str(row_id).startswith("1:")) == 2.0
    assert {row_id for row_id, line in lines.items() if line.get("prompt") == 0} == {*IDS[1:6], 7}


# --- what it comes to -------------------------------------------------------------------------------------------


def test_figures_follow_from_the_lines(folder, lines):
    part, compared = part_of(folder), [line for row_id, line in lines.items() if row_id != 3]
    pairs = part["pairs"]
    right = [line["chosen_reward"] > line["rejected_reward"] for line in compared]
    assert (part["rows"], pairs["accuracy"]["rows"], pairs["prompts"]) == (len(IDS), len(IDS) - 1, 7)
    assert pairs["accuracy"]["right"] == sum(right)
    weights = [line.get("weight", 1.0) for line in compared]
    assert pairs["weighted_accuracy"]["value"] == pytest.approx(np.average(right, weights=weights))
    for name, of_subset in part["subsets"].items():
        own = [is_right for is_right, line in zip(right, compared, strict=True) if line["subset"] == name]
        assert (of_subset["value"], of_subset["rows"]) == (pytest.approx(np.mean(own)), len(own))
    differences = np.array([line["chosen_reward"] - line["rejected_reward"] for line in compared])
    tie = lines[3]["chosen_reward"] - lines[3]["rejected_reward"]
    predict = tie_predictions("davidson", 0.8)
    assert pairs["ties"] == {
        "pairs": 1,
        "ties": {
            "mean_distance": pytest.approx(abs(tie)),
            "predicted_ties": pytest.approx(predict(np.array([tie]))[0]),
        },
        "others": {
            "mean_distance": pytest.approx(np.abs(differences).mean()),
            "predicted_ties": pytest.approx(predict(differences)[0].mean()),
        },
    }
    expected = [line.get("chosen_probability", 1.0) for line in compared]
    expected = [p if d > 0 else 1 - p for p, d in zip(expected, differences, strict=True)]
    assert sum(of_bin["right"] for of_bin in pairs["calibration"]) == pytest.approx(sum(expected))


def test_a_model_without_a_model_of_ties_predicts_none(folder, tmp_path):
    plain = save_model(tmp_path / "plain")
    other = evaluate(flags(plain, {"pairs": write_rows(tmp_path / "rows.jsonl", ROWS)}, tmp_path))
    ties = part_of(other)["pairs"]["ties"]
    assert ties["pairs"] == 1 and ties["ties"].keys() == ties["others"].keys() == {"mean_distance"}
    assert "tie_model" not in json.loads((other / "summary.json").read_text())["model"]
    assert json.loads((folder / "summary.json").read_text())["model"]["tie_threshold"] == 0.8
    # a tie is half right in this calibration, which takes it too
    assert sum(of_bin["rows"] for of_bin in part_of(other)["pairs"]["calibration"]) == len(IDS)


def test_the_page_and_the_table_say_so(folder, capsys, model, tmp_path):
    page = (folder / "report.html").read_text()
    for words in (
        "rows that are no ties",
        "By the weights of the rows",
        "probability of a tie by the model",
        "prompts",
    ):
        assert words.lower() in page.lower()
    evaluate(flags(model, {"pairs": write_rows(tmp_path / "rows.jsonl", ROWS)}, tmp_path))
    table = " ".join(capsys.readouterr().out.split())
    for words in ("rows that are ties: 1", "rows read from lists of ranked answers: 3", f"{len(IDS)} pairs"):
        assert words in table
    record = (tmp_path / "record.txt").read_text().splitlines()
    assert record[-1] == f"pairs\t{part_of(folder)['pairs']['accuracy']['value']:.6f}"


def test_ties_alone_have_no_accuracy_and_break_nothing(model, tmp_path):
    rows = [{**row, "chosen_probability": 0.5} for row in PAIRS]
    folder = evaluate(flags(model, {"pairs": write_rows(tmp_path / "rows.jsonl", rows)}, tmp_path), pages=True)
    part = part_of(folder)
    assert part["pairs"]["accuracy"]["value"] is None and part["subsets"]["pairs"]["rows"] == 0
    assert part["pairs"]["ties"]["pairs"] == 5
    assert "all rows are ties" in (folder / "report.html").read_text().lower()
    assert (tmp_path / "record.txt").read_text().splitlines()[-1] == "pairs\tincomplete"


# --- read again -------------------------------------------------------------------------------------------------


def test_lines_give_the_figures_again(folder, tmp_path):
    given = {"from_verdicts": folder / "scores.jsonl", "benchmarks": "pairs", "record_dir": tmp_path / "record.txt"}
    again, first = part_of(evaluate(given)), part_of(folder)
    assert again["figures"]["accuracy"]["value"] == pytest.approx(first["pairs"]["accuracy"]["value"])
    assert again["figures"]["accuracy"]["rows"] == first["pairs"]["accuracy"]["rows"]
    assert {name: row["rows"] for name, row in again["subsets"].items()} == {
        name: row["rows"] for name, row in first["subsets"].items()
    }
    assert again["subsets"] == first["subsets"]  # with the same intervals: prompts are known
    lines = read_lines(folder / "scores.jsonl")
    broken = write_rows(tmp_path / "broken.jsonl", [{**lines[0], "chosen_probability": 1.2}, *lines[1:]])
    with pytest.raises(UserError, match="line 1: found"):
        evaluate(given | {"from_verdicts": broken, "output_dir": tmp_path / "other"})


def test_two_models_are_compared_over_prompts(folder, model, tmp_path):
    other = save_model(tmp_path / "other", seed=1)
    rows = write_rows(tmp_path / "rows.jsonl", ROWS)
    second = evaluate(flags(other, {"pairs": rows}, tmp_path))
    part = compare(read_evaluations([str(folder), str(second)]))["benchmarks"]["pairs"]
    difference = part["figures"]["accuracy"]["B"]["difference"]
    values = [part_of(one)["pairs"]["accuracy"]["value"] for one in (folder, second)]
    assert difference["value"] == pytest.approx(values[1] - values[0])
    assert difference["rows"] == len(IDS) - 1 and difference["low"] <= difference["value"] <= difference["high"]
    assert part["subsets"]["lists"]["B"]["difference"]["rows"] == 12


def test_labels_are_part_of_the_data(tmp_path):
    """Other labels are other data; what says nothing new is none."""

    def found(*rows: dict) -> str:
        path = write_rows(tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl", list(rows))
        return fingerprint(read_benchmark("pairs", str(path), num_proc=1).rows)

    plain = found(PAIRS[0])
    assert plain == found({**PAIRS[0], "chosen_probability": 1.0, "weight": 1.0})
    different = [found({**PAIRS[0], "chosen_probability": p}) for p in (0.5, 0.7)] + [found({**PAIRS[0], "weight": 2})]
    different += [found(LISTS[2]), found({**LISTS[2], "scores": [4.0, 3.0, 2.0, 2.0]})]
    assert len({plain, *different}) == 6


def test_pairs_of_a_prompt_are_drawn_together():
    """What the bootstrap of a comparison draws: right pairs and pairs of each prompt, also where one is not known."""
    rewards = [(1.0, 0.0, 7), (0.0, 1.0, 7), (1.0, 0.0, 3), (2.0, 0.0, None), (0.0, 0.0, None)]
    rows = [ScoredRow(n, "a", np.array([c]), np.array([r]), prompt=p) for n, (c, r, p) in enumerate(rewards)]
    values = BENCHMARK.values(rows)["a"]
    assert sorted(map(tuple, values.tolist())) == [(0, 1), (1, 1), (1, 1), (1, 2)]
    assert BENCHMARK.value_rows(values) == 5
    means = {"a": values.mean(axis=0)}
    assert BENCHMARK.formula_of({"a": values})(means)["accuracy"] == pytest.approx(3 / 5)
    assert BENCHMARK.subset_scores(means)["a"] == pytest.approx(3 / 5)


# --- flags ------------------------------------------------------------------------------------------------------


def test_votes_of_several_columns(model, tmp_path):
    """As PandaLM has them, under other values."""
    votes = [("A", "A", "B"), ("B", "B", "B"), ("tie", "tie", "tie")]
    rows = [
        {"instruction": row["prompt"], "first": row["chosen"], "second": row["rejected"]}
        | dict(zip(("a1", "a2", "a3"), of_row, strict=True))
        for row, of_row in zip(PAIRS, votes, strict=False)
    ]
    given = flags(model, {"pairs": write_rows(tmp_path / "votes.jsonl", rows)}, tmp_path)
    given["columns"] = "prompt=instruction,chosen=first,rejected=second,preferred=a1+a2+a3"
    folder = evaluate(given | {"preferred_values": "A,B,tie"})
    lines = read_lines(folder / "scores.jsonl")
    assert [line.get("chosen_probability", 1.0) for line in lines] == pytest.approx([2 / 3, 1.0, 0.5])
    with pytest.raises(UserError, match="found none that can be used"):  # 1,2,0 are the usual ones
        evaluate(given | {"output_dir": tmp_path / "other"})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"preferred_values": "A,B,tie"}, "--preferred_values: expected a column that is read as preferred"),
        ({"preferred_values": "A,B", "columns": "preferred=a"}, "--preferred_values: expected three different values"),
        ({"benchmarks": "rewardbench", "preferred_values": "A,B,tie"}, "--preferred_values: expected pairs among"),
    ],
)
def test_mistakes_in_flags(changes, words, tmp_path, monkeypatch):
    given = flags(tmp_path, {"pairs": tmp_path / "rows.jsonl"}, tmp_path) | changes
    monkeypatch.setattr(sys, "argv", ["eval_bench_mark.py", *as_argv(given)])
    with pytest.raises(UserError) as caught:
        eval_bench_mark.main()
    assert words in str(caught.value)
