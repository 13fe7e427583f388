"""eval_bench_mark.py --from_verdicts: models that others have scored, from a table of verdicts or lines of rewards."""

import csv
import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
from runs import ROOT, as_argv
from test_benchmark_reading import SHARED
from test_comparison import run_compare, write_evaluation

import eval_bench_mark
from reward_modeling.common.errors import UserError
from reward_modeling.evaluation.benchmarks.rewardbench import SECTIONS, SUBSET_ROWS

MODELS = ("org/always-right", "org/chat-only")
REAL_TABLE, REAL_REWARDS = SHARED / "rewardbench_verdicts_3.csv.gz", SHARED / "rewardmath_rewards.json.gz"


def table_rows() -> list[dict[str, object]]:
    """Every row of RewardBench: the first model is right on all of them, the second on those of Chat alone."""
    subsets = [name for name, rows in SUBSET_ROWS.items() for _ in range(rows)]
    rows = ((row, subset, 1, int(subset in SECTIONS["Chat"])) for row, subset in enumerate(subsets))
    return [dict(zip(("row", "subset", *MODELS), values, strict=True)) for values in rows]


def write_table(path: Path, rows: list[dict[str, object]]) -> Path:
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_lines(path: Path, lines: list[object]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def evaluate(path: Path, out: Path, benchmarks: str = "rewardbench", **flags: object) -> dict[str, dict]:
    """The summary of each model."""
    given = {"from_verdicts": path, "benchmarks": benchmarks, "output_dir": out, "record_dir": out / "r.txt", **flags}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["eval_bench_mark.py", *as_argv(given)])
        eval_bench_mark.main()
    summaries = [json.loads(file.read_text()) for file in sorted(out.glob("*/summary.json"))]
    return {summary["model"]["name_or_path"]: summary for summary in summaries}


def values_of(figures: dict[str, dict]) -> dict[str, float | None]:
    return {name: figure["value"] for name, figure in figures.items()}


# --- figures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz"])
def test_a_table_of_verdicts_by_hand(name, tmp_path, capsys):
    summaries = evaluate(write_table(tmp_path / name, table_rows()[::-1]), tmp_path / "out")
    assert list(summaries) == list(MODELS)
    right, chat = (summaries[model]["benchmarks"]["rewardbench"] for model in MODELS)
    assert set(values_of(right["figures"]).values()) == {1.0} and right["warnings"] == []
    assert values_of(chat["figures"]) == dict.fromkeys(SECTIONS, 0.0) | {"Chat": 1.0, "overall": 0.25}
    assert chat["subsets"]["hep-go"]["rows"] == 164 and "pairs" not in chat
    folder = tmp_path / "out" / "org--chat-only"
    lines = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == list(range(2985))  # in the order of their numbers
    rewards = {"chosen_reward": None, "rejected_reward": None}
    assert lines[-1] == {"benchmark": "rewardbench", "id": 2984, "subset": "hep-rust", **rewards, "correct": False}
    record = [line.split("\t") for line in (tmp_path / "out" / "r.txt").read_text().splitlines()]
    assert [name for name, _ in record[:2]] == ["model", "date"] and ["overall", "0.250000"] in record
    assert [value for name, value in record if name == "model"] == list(MODELS)
    screen = capsys.readouterr().out
    assert "org/chat-only: scored elsewhere\nverdicts of " in screen and "RewardBench: 2,985 rows" in screen
    page = (folder / "report.html").read_text()
    assert "no model was run" in page and "<svg" in page


@pytest.mark.skipif(not REAL_TABLE.is_file(), reason="the real verdicts are not here")
def test_published_sections_come_out_of_published_verdicts(tmp_path):
    """The tables of May 2024, which had the two xstest weights the wrong way round."""
    summaries = evaluate(REAL_TABLE, tmp_path / "out", legacy_xstest_weights="true")
    assert {
        model: [f"{100 * summary['benchmarks']['rewardbench']['figures'][name]['value']:.1f}" for name in SECTIONS]
        for model, summary in summaries.items()
    } == {
        "weqweasdas/RM-Gemma-2B": ["94.4", "40.8", "44.0", "76.4"],
        "weqweasdas/RM-Gemma-7B": ["96.9", "49.8", "52.7", "73.6"],
        "sfairXC/FsfairX-LLaMA3-RM-v0.1": ["99.4", "65.1", "87.8", "86.4"],
    }
    today = evaluate(REAL_TABLE, tmp_path / "today")["weqweasdas/RM-Gemma-2B"]["benchmarks"]["rewardbench"]
    assert today["figures"]["Safety"]["value"] == pytest.approx(0.4986, abs=0.0001)


@pytest.mark.skipif(not REAL_REWARDS.is_file(), reason="the real rewards are not here")
def test_published_figures_of_rewardmath_come_out_of_published_rewards(tmp_path):
    with gzip.open(REAL_REWARDS, "rt") as file:
        rewards = json.load(file)
    lines = [
        {"model": model, "id": problem, "subset": "MATH", "chosen_reward": row[:1], "rejected_reward": row[1:]}
        for model, rows in rewards.items()
        for problem, row in enumerate(rows)
    ]
    summaries = evaluate(write_lines(tmp_path / "x.jsonl", lines), tmp_path / "out", "rewardmath")
    figures = {name: summary["benchmarks"]["rewardmath"]["figures"] for name, summary in summaries.items()}
    assert {
        name: (round(100 * of["accuracy"]["value"], 2), round(of["MRR"]["value"], 4)) for name, of in figures.items()
    } == {
        "Skywork-Reward-Llama-3.1-8B": (22.15, 0.4469),
        "GRM-Llama3-8B": (24.43, 0.4580),
    }
    assert not any(summary["benchmarks"]["rewardmath"]["warnings"] for summary in summaries.values())


def test_the_rewards_of_an_evaluation_give_its_figures_again(tmp_path):
    """All five older benchmarks; what needs the texts (lengths) is not there."""
    folder = write_evaluation(tmp_path / "model", 3, refused={1: "refused"})
    own = json.loads((folder / "summary.json").read_text())
    names = list(own["benchmarks"])
    (again,) = evaluate(folder / "scores.jsonl", tmp_path / "out", ",".join(names)).values()
    assert again["model"]["name_or_path"] == "model"
    for name in names[:-1]:
        for key in ("figures", "subsets", "rows"):
            assert again["benchmarks"][name][key] == own["benchmarks"][name][key], (name, key)
    pairs = again["benchmarks"]["pairs"]
    assert pairs["figures"]["accuracy"]["value"] == own["benchmarks"]["pairs"]["pairs"]["accuracy"]["value"]
    assert again["combined"] == own["combined"]
    kept = (tmp_path / "out" / "model" / "scores.jsonl").read_text()
    assert kept == (folder / "scores.jsonl").read_text()


def test_benchmarks_that_are_not_asked_for_are_left_out_and_named(tmp_path, caplog):
    folder = write_evaluation(tmp_path / "model", 3)
    (summary,) = evaluate(folder / "scores.jsonl", tmp_path / "out").values()
    assert list(summary["benchmarks"]) == ["rewardbench"]
    assert "preference_test_sets (36), rewardbench2 (40), rm_bench (25), pairs (8)" in caplog.text


def test_what_it_writes_can_be_compared_and_read_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    evaluate(write_table(tmp_path / "x.csv", table_rows()), tmp_path / "out")
    folders = sorted(path.parent for path in (tmp_path / "out").glob("*/summary.json"))
    run_compare(folders)
    comparison = json.loads((tmp_path / "bench_mark_comparison" / "comparison.json").read_text())
    difference = comparison["benchmarks"]["rewardbench"]["figures"]["overall"]["B"]["difference"]
    assert difference["value"] == -0.75 and difference["low"] < -0.74 and difference["rows"] == 2985
    assert comparison["warnings"] == ["scored elsewhere, of what texts and how is not known: A, B"]
    # an evaluation of RewardBench itself may be of other texts
    own = write_evaluation(tmp_path / "own", 1, benchmarks=("rewardbench",))
    run_compare([own, *folders], overwrite_output_dir="true")
    assert "RewardBench: B has verdicts of texts that are not known to be those of A" in " ".join(
        capsys.readouterr().out.split()
    )
    again = evaluate(folders[1] / "scores.jsonl", tmp_path / "again")
    assert again["org--chat-only"]["benchmarks"]["rewardbench"]["figures"]["overall"]["value"] == 0.25


# --- what is missing ------------------------------------------------------------------------------------------


def test_rows_that_a_model_was_not_run_on_leave_their_subset_without_a_score(tmp_path):
    rows = table_rows()
    for row in rows:
        if row["row"] < 3 or row["subset"] == "hep-go":
            row[MODELS[1]] = ""
    rows[400][MODELS[1]] = ""  # one of 134
    summaries = evaluate(write_table(tmp_path / "x.csv", rows), tmp_path / "out")
    part = summaries[MODELS[1]]["benchmarks"]["rewardbench"]
    lacking = {name for name, value in values_of(part["figures"]).items() if value is None}
    assert lacking == {"Chat", "Reasoning", "overall"}
    assert any(
        "3 of 100 rows of 'alpacaeval-easy' were not scored, which leaves" in words for words in part["warnings"]
    )
    assert any("x.csv:2: no verdict" in words for words in part["warnings"])
    assert summaries[MODELS[0]]["benchmarks"]["rewardbench"]["warnings"] == []


def test_missing_unknown_and_short_subsets_are_counted_and_named(tmp_path):
    wrong = {"donotanswer": "do not answer"}
    rows = [row | {"subset": wrong.get(row["subset"], row["subset"])} for row in table_rows() if row["row"] != 2984]
    part = evaluate(write_table(tmp_path / "x.csv", rows), tmp_path / "out")[MODELS[0]]["benchmarks"]["rewardbench"]
    unknown, missing, short = part["warnings"]
    assert "unknown subset 'do not answer' (did you mean 'donotanswer'?)" in unknown
    assert "missing: 'donotanswer' (136 rows): incomplete, and without a score: Safety, overall" in missing
    assert "(hep-rust 163 for 164)" in short
    assert part["figures"]["overall"]["value"] is None and part["figures"]["Reasoning"]["value"] == 1.0


# --- mistakes -------------------------------------------------------------------------------------------------

GOOD = "row,subset,m\n0,hep-go,1\n1,hep-go,0\n"


REWARDS_1_0 = '"subset": "hep-go", "chosen_reward": 1, "rejected_reward": 0'


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("x.csv", "row,sub,m\n0,hep-go,1\n", "found no subset among row, sub, m"),
        ("x.csv", "", "found no row and no subset among none"),
        ("x.csv", "row,subset\n0,hep-go\n", "expected a column for each model beside row and subset"),
        ("x.csv", "row,subset,m,m\n0,hep-go,1,1\n", "expected every column once, with a name, found m"),
        ("x.csv", "row,subset,m\n", "expected rows, found none"),
        (
            "x.csv",
            f"{GOOD}2,hep-go,2\n3,hep-go,yes\n",
            "line 4: expected 1, 0 or nothing for m, found '2'\n  line 5: e",
        ),
        ("x.csv", f"{GOOD}2,hep-go\n", "line 4: expected 3 cells, found 2"),
        ("x.csv", f"{GOOD}1,hep-go,1\n", "line 4: expected every row once, found '1' again, which stands in line 3"),
        ("x.csv", "row,subset,m,n\n0,hep-go,1,\n", "expected verdicts of every model, found none for n"),
        ("x.txt", GOOD, "expected a .csv, .csv.gz, .jsonl, .jsonl.gz file, found another"),
        ("x.csv.gz", GOOD, "expected a whole, readable file at --from_verdicts"),
        ("x.jsonl", '{"subset": "hep-go"}\n[]\n', "line 1: found '{\"subset\": \"hep-go\"}'\n  line 2: found '[]'"),
        (
            "x.jsonl",
            '{"benchmark": "rm_bench", "subset": "chat", "chosen_reward": [1], "rejected_reward": [0]}\n',
            "expected rows of rewardbench for any model, found those of rm_bench",
        ),
        (
            "x.jsonl",
            '{"subset": "hep-go", "chosen_reward": [1, 2], "rejected_reward": 0}\n',
            "line 1: expected 1 in chosen_reward, found 2",
        ),
        ("x.jsonl", '{"subset": "hep-go", "chosen_reward": NaN, "rejected_reward": 0}\n', "expected finite rewards"),
        ("x.jsonl", f'{{"model": 5, {REWARDS_1_0}}}\n', 'line 1: found \'{"model": 5'),
        ("x.jsonl", f'{{"model": ["a"], {REWARDS_1_0}}}\n', 'line 1: found \'{"model": ["a"]'),
        (
            "x.jsonl",
            f'{{"id": 0, {REWARDS_1_0}}}\n' * 2,
            "line 2: expected every id once, found 0 again, which stands in line 1",
        ),
        (
            "x.jsonl",
            '{"subset": "hep-go", "chosen_reward": null, "rejected_reward": null, "correct": 1}\n',
            'line 1: found \'{"subset"',
        ),
    ],
)
def test_mistakes_in_files(name, text, words, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as caught:
        evaluate(tmp_path / name, tmp_path / "out")
    assert words in str(caught.value) and str(tmp_path / name) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_mistakes_in_flags(tmp_path):
    table = tmp_path / "x.csv"
    table.write_text(GOOD)
    lines = write_lines(
        tmp_path / "x.jsonl", [{"subset": "chat", **dict.fromkeys(("chosen_reward", "rejected_reward"))}]
    )
    verdict = write_lines(tmp_path / "v.jsonl", [json.loads(lines.read_text()) | {"correct": True}])
    for path, flags, words in (
        (tmp_path / "no.csv", {}, "found none"),
        (table, {"max_length": 5}, "--from_verdicts: expected no flags beside it but --benchmarks and --legacy"),
        (table, {"rm_bench_path": "x"}, "found --rm_bench_path"),
        (table, {"benchmarks": "rm_bench"}, "a row of RM-Bench is more than right or wrong"),
        (table, {"benchmarks": "rewardbench,judgebench"}, "expected a column benchmark, because --benchmarks asks for"),
        (verdict, {"benchmarks": "rm_bench"}, "line 1: expected the rewards of a row of RM-Bench, found a verdict"),
        (table, {"benchmarks": "judgebench", "legacy_xstest_weights": "true"}, "--legacy_xstest_weights: expected rew"),
    ):
        with pytest.raises(UserError) as caught:
            evaluate(path, tmp_path / "out", **flags)
        assert words in str(caught.value)
    evaluate(table, tmp_path / "out")
    with pytest.raises(UserError, match="expected no earlier evaluation, found scores"):
        evaluate(table, tmp_path / "out")


def test_no_model_and_no_torch_is_loaded(tmp_path):
    table = write_table(tmp_path / "x.csv", table_rows())
    given = as_argv({"from_verdicts": table, "benchmarks": "rewardbench", "record_dir": tmp_path / "r.txt"})
    code = (
        f"import sys, eval_bench_mark; sys.argv[1:] = {given!r}; eval_bench_mark.main(); print('torch' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert process.stdout.splitlines()[-1] == "False", process.stderr
    assert "Side by side: python eval_bench_mark.py --compare" in process.stderr
