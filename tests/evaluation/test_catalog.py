"""What a benchmark has to say for itself: the formulas of the youngest, and one that nothing else has heard of."""

import json

import numpy as np
import pytest
from test_comparison import run_compare
from test_verdicts import evaluate, write_lines

from eval_bench_mark import ScriptArguments
from reward_modeling.common.intervals import estimate
from reward_modeling.evaluation.benchmarks.base import Benchmark
from reward_modeling.evaluation.benchmarks.catalog import BENCHMARKS
from reward_modeling.evaluation.benchmarks.judgebench import JUDGEBENCH_ROWS
from reward_modeling.evaluation.benchmarks.means import plain_mean
from reward_modeling.evaluation.benchmarks.scored_rows import ScoredRow

JUDGEBENCH, REWARDMATH = BENCHMARKS["judgebench"], BENCHMARKS["rewardmath"]


def figures_of(benchmark: Benchmark, rows: list[ScoredRow]) -> dict[str, float]:
    values = benchmark.values(rows)
    return {name: figure.value for name, figure in estimate(benchmark.formula_of(values), values).items()}


def scored(subset: str, chosen: list[float], rejected: list[float]) -> ScoredRow:
    return ScoredRow(0, subset, np.array(chosen), np.array(rejected))


def test_every_benchmark_is_named_after_itself_and_has_a_figure():
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.name == name and benchmark.figures
        assert benchmark.is_published == bool(benchmark.splits) == bool(benchmark.required)
        assert {part for parts in benchmark.figures.values() for part in parts} <= {*benchmark.subset_rows}


# --- JudgeBench -----------------------------------------------------------------------------------------------


def test_judgebench_is_the_accuracy_over_the_pairs_of_one_model_and_others_have_their_names():
    """GPT-4o: 77 of 154, 98 of 98, 0 of 56, 21 of 42; Claude: none. A tie is wrong."""
    right = {"gpt knowledge": 77, "gpt reasoning": 98, "gpt coding": 21}
    rows = [
        scored(name, [1.0], [0.0 if number < right.get(name, 0) else 1.0])
        for name, count in JUDGEBENCH_ROWS.items()
        for number in range(count)
    ]
    assert figures_of(JUDGEBENCH, rows) == pytest.approx(
        {
            "gpt mean of sections": (0.5 + 1 + 0 + 0.5) / 4,
            "claude": 0.0,
            "gpt and claude": 196 / 620,
            "overall": 196 / 350,
        }
    )
    assert JUDGEBENCH.check(JUDGEBENCH, rows) == []
    assert JUDGEBENCH.figure_rows(row.subset for row in rows) == {
        "gpt mean of sections": 350,
        "claude": 270,
        "gpt and claude": 620,
        "overall": 350,
    }


def test_judgebench_of_one_split_has_the_figures_of_that_split():
    figures = figures_of(JUDGEBENCH, [scored(name, [1.0], [0.0]) for name in JUDGEBENCH_ROWS if "gpt" in name])
    assert figures["overall"] == figures["gpt mean of sections"] == 1.0
    assert np.isnan([figures["claude"], figures["gpt and claude"]]).all()


# --- RewardMATH -----------------------------------------------------------------------------------------------


def test_rewardmath_by_hand():
    """Ranks 1, 3, and 2, since the right solution stands behind a wrong one of the same reward."""
    rows = [
        scored("Algebra", [5.0], [1.0, 2.0, 4.9]),
        scored("Algebra", [1.0], [2.0, 3.0, 0.0]),
        scored("Geometry", [2.0], [2.0, 1.0, 0.0]),
    ]
    assert REWARDMATH.values(rows)["Algebra"].tolist() == [[1, 1], [0, 1 / 3]]
    expected = {"MRR": (1 + 1 / 3 + 1 / 2) / 3, "accuracy": 1 / 3}
    assert figures_of(REWARDMATH, rows) == pytest.approx(expected)
    total, wrong = REWARDMATH.check(REWARDMATH, rows)
    assert "3 problems, expected 483" in total and "3 problems without 9 wrong solutions" in wrong


def test_guessing_gives_what_is_said_of_rewardmath():
    """A tenth, and for MRR (1 + 1/2 + ... + 1/10) / 10."""
    generator = np.random.default_rng(0)
    rows = [scored("x", *np.split(generator.normal(size=10), [1])) for _ in range(20_000)]
    figures = figures_of(REWARDMATH, rows)
    assert figures["accuracy"] == pytest.approx(REWARDMATH.chance / 100, abs=0.01)
    assert figures["MRR"] == pytest.approx(sum(1 / rank for rank in range(1, 11)) / 10, abs=0.01)
    assert REWARDMATH.guessing == "guessing, 10% (29.3 for MRR)"


# --- one more -------------------------------------------------------------------------------------------------


def test_a_benchmark_that_nothing_else_has_heard_of(monkeypatch, tmp_path, capsys):
    """Its file and its line in the catalog are all it takes: figures, table, page, record and comparison follow."""
    toy = Benchmark(
        name="toy",
        title="Toy bench",
        hub_id="org/toy",
        splits=("test",),
        subset_rows={"easy": 2, "hard": 2},
        figures={"toys": ("easy", "hard")},
        formula=lambda means, rows: {"toys": plain_mean(means, ("easy", "hard"))},
        unit="toys",
        chance=12,
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(BENCHMARKS, "toy", toy)
    monkeypatch.setattr(ScriptArguments, "toy_path", None, raising=False)  # made when the catalog is imported
    lines = [
        {"model": model, "id": row, "subset": subset, "chosen_reward": float(row + skill), "rejected_reward": 2.0}
        for model, skill in (("org/a", 0), ("org/b", 1))
        for row, subset in enumerate(("easy", "easy", "hard", "hard"))
    ]
    summaries = evaluate(write_lines(tmp_path / "x.jsonl", lines), tmp_path / "out", "toy")
    assert [summary["benchmarks"]["toy"]["figures"]["toys"]["value"] for summary in summaries.values()] == [0.25, 0.5]
    assert "Toy bench: 4 toys" in capsys.readouterr().out
    assert "toy/toys\t0.250000\n" in (tmp_path / "out" / "r.txt").read_text()
    page = (tmp_path / "out" / "org--a" / "report.html").read_text()
    assert "Toy bench" in page and "guessing, 12%" in page
    run_compare(sorted(path.parent for path in (tmp_path / "out").glob("*/summary.json")))
    comparison = json.loads((tmp_path / "bench_mark_comparison" / "comparison.json").read_text())
    assert comparison["benchmarks"]["toy"]["figures"]["toys"]["B"]["difference"]["value"] == 0.25
