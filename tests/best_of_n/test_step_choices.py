"""Best of n by every aggregation of steps, and weighted votes, against all subsets one by one."""

import itertools
import random

import numpy as np
import pytest
from scored import choose, report_of, write_rows

from reward_modeling.best_of_n import weighted as weighted_module
from reward_modeling.best_of_n.majority import majority
from reward_modeling.best_of_n.weighted import weighted_majority
from reward_modeling.common.aggregations import AGGREGATIONS, aggregate
from reward_modeling.common.prompt_differences import t_95


@pytest.fixture
def run(monkeypatch, capsys):
    return lambda *flags: choose(monkeypatch, capsys, *flags)


def brute_vote(finals, weights, truths, n) -> float:
    """Of every subset of n the final answer with the greatest sum; of equal sums each."""
    means = {final: np.mean([t for f, t in zip(finals, truths, strict=True) if f == final]) for final in finals}
    found = []
    for subset in itertools.combinations(range(len(finals)), n):
        sums: dict = {}
        for place in subset:
            sums[finals[place]] = sums.get(finals[place], 0.0) + weights[place]
        greatest = max(sums.values())
        found.append(np.mean([means[final] for final, each in sums.items() if abs(each - greatest) < 1e-9]))
    return float(np.mean(found))


def drawn(draw: random.Random, count: int):
    finals = [draw.choice("abcd") for _ in range(count)]
    truths = [float(final == "a") for final in finals]
    return finals, [draw.choice([0.0, 0.1, 0.2, 0.3, 0.7]) for _ in finals], truths


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_weighted_votes_are_those_of_all_subsets(count):
    draw = random.Random(count)
    for _ in range(20):
        finals, weights, truths = drawn(draw, count)
        sizes = list(range(1, count + 1))
        expected = [brute_vote(finals, weights, truths, n) for n in sizes]
        assert weighted_majority(finals, weights, truths, sizes) == pytest.approx(expected)


def test_equal_weights_are_a_majority_and_others_are_not():
    draw = random.Random(0)
    differs = 0
    for _ in range(20):
        finals, weights, truths = drawn(draw, 7)
        finals[0], truths[0] = None, 1.0
        sizes = [1, 2, 3, 5, 7]
        expected = majority(finals, truths, sizes)
        assert weighted_majority(finals, [0.4] * 7, truths, sizes) == pytest.approx(expected)
        differs += not np.allclose(weighted_majority(finals, weights, truths, sizes), expected)
    assert differs > 10


def test_of_many_answers_a_sample_of_orders_is_unbiased(monkeypatch):
    finals, weights, truths = drawn(random.Random(1), 10)
    exact = weighted_majority(finals, weights, truths, [1, 3, 6, 10])
    monkeypatch.setattr(weighted_module, "EXACT", 5)
    sampled = np.mean([weighted_majority(finals, weights, truths, [1, 3, 6, 10], seed) for seed in range(40)], axis=0)
    assert sampled == pytest.approx(exact, abs=0.02)
    assert sampled[-1] == pytest.approx(exact[-1])


def step_rows(count: int = 30, seed: int = 0) -> list[dict]:
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        finals = [draw.choice("1234") for _ in range(4)]
        steps = [[round(draw.random(), 2) for _ in range(draw.randint(1, 4))] for _ in finals]
        rows.append(
            {
                "prompt": f"Question {number}?",
                "responses": [f"{'word ' * place}{final}" for place, final in enumerate(finals)],
                "rewards": [min(each) for each in steps],
                "steps": steps,
                "is_correct": [final == "1" for final in finals],
                "final": finals,
            }
        )
    return rows


def share(rows: list[dict], n: int, way) -> list[float]:
    """A value of each prompt."""
    return [way(row, n) for row in rows]


def best_by(name):
    def of(row, n):
        scores = [aggregate(steps)[name] for steps in row["steps"]]
        found = []
        for subset in itertools.combinations(range(4), n):
            greatest = max(scores[place] for place in subset)
            found.append(np.mean([row["is_correct"][place] for place in subset if scores[place] == greatest]))
        return np.mean(found)

    return of


def votes_by(name):
    def of(row, n):
        weights = [aggregate(steps)[name] for steps in row["steps"]]
        return brute_vote(row["final"], weights, row["is_correct"], n)

    return of


def test_the_report_has_every_aggregation_side_by_side(run, tmp_path):
    rows, output = step_rows(), tmp_path / "best.jsonl"
    given = write_rows(tmp_path / "in.jsonl", rows)
    words = run("--input", given, "--select", "best", "--answer_column", "final", "--output", output)
    report = report_of(output)
    steps = report["steps"]
    assert (steps["prompts"], steps["answers"]) == (30, 120)
    for row in steps["rows"]:
        for name in AGGREGATIONS:
            for kind, way in (("best by", best_by(name)), ("votes by", votes_by(name))):
                found = row["ways"][f"{kind} {name}"]
                assert found["value"] == pytest.approx(np.mean(share(rows, row["n"], way)))
                assert found["low"] <= found["value"] <= found["high"]
    truth = report["truth"]["rows"]
    for row, of_truth in zip(steps["rows"], truth, strict=True):
        assert row["ways"]["best by min"] == of_truth["best"]  # whose rewards are the least
        for name in ("random", "majority", "oracle"):
            assert row["ways"][name] == of_truth[name]
    last = steps["rows"][-1]
    values = np.array(share(rows, 4, best_by("product"))) - share(rows, 4, best_by_random)
    less = last["less"]["best by product"]
    assert less["value"] == pytest.approx(values.mean())
    spread = (values**2).sum() / 32 + 2 / 32 - (values.sum() / 32) ** 2
    assert less["high"] == pytest.approx(values.sum() / 32 + t_95(29) * np.sqrt(spread / 32))
    for expected in ("min", "product", "last", "mean", "majority", "oracle", "Votes by steps, of 4"):
        assert expected in words
    page = output.with_name("best.jsonl.report.html").read_text()
    assert "Votes weighted by the steps" in page
    assert "Best by the steps" in page


def best_by_random(row, n):
    return np.mean(row["is_correct"])


def test_without_final_answers_or_truth_there_is_less(run, tmp_path):
    rows = step_rows()
    given = write_rows(tmp_path / "in.jsonl", [{k: v for k, v in row.items() if k != "final"} for row in rows])
    words = run("--input", given, "--select", "best", "--output", tmp_path / "a.jsonl")
    ways = report_of(tmp_path / "a.jsonl")["steps"]["rows"][-1]["ways"]
    assert "best by mean" in ways
    assert "votes by mean" not in ways
    assert "No votes" in words
    blind = [{k: v for k, v in row.items() if k not in ("is_correct", "final")} for row in rows]
    run("--input", write_rows(tmp_path / "blind.jsonl", blind), "--select", "best", "--output", tmp_path / "b.jsonl")
    assert report_of(tmp_path / "b.jsonl")["steps"] is None


def test_only_probabilities_are_steps(run, tmp_path):
    """Texts of steps, numbers of another kind, and lists of another length are not."""
    rows = step_rows(6)
    rows[0]["steps"] = ["a text"] * 4
    rows[1]["steps"] = rows[1]["steps"][:3]
    rows[2]["steps"][1] = [0.5, 2.0]
    rows[3]["steps"][0] = None
    rows[4]["steps"][3] = []
    run("--input", write_rows(tmp_path / "in.jsonl", rows), "--select", "best", "--output", tmp_path / "a.jsonl")
    steps = report_of(tmp_path / "a.jsonl")["steps"]
    assert (steps["prompts"], steps["answers"]) == (4, 13)
