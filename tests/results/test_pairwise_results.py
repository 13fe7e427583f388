"""What a run on comparisons leaves: its figures against ones written out from eval_scores.jsonl, its card, its page."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from compared_rows import compared_rows
from pages import Page, tables
from runs import Run, run_snippets, train, write_rows

import rm_pairwise
from reward_modeling.results.catalog import kind_of
from reward_modeling.results.comparisons import ComparisonResults
from reward_modeling.results.model_card import model_card
from reward_modeling.results.read_run import read_run
from reward_modeling.results.report import training_page
from reward_modeling.scoring import PairScorer
from reward_modeling.tiny.preferences import learnable_preferences

PNG = b"\x89PNG\r\n"
PROMPT = [{"role": "user", "content": "How do I brew green tea?"}]
ANSWERS = "Heat the water to eighty degrees, and let it draw for two minutes.", "Boil it."


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    sources = ("helpful", "harmless", None)
    return [row | {"source": sources[number % 3]} for number, row in enumerate(compared_rows(60, seed=3))]


@pytest.fixture(scope="module")
def flags(gemma_folder, rows, tmp_path_factory) -> dict[str, object]:
    return {
        "model_name": gemma_folder,
        "train_set_path": write_rows(tmp_path_factory.mktemp("data") / "pairs.jsonl", rows),
        "max_length": 512,
        "max_steps": 12,
        "pairs_per_step": 16,
        "learning_rate": 1e-3,
        "eval_size": 30,
        "eval_every_steps": 4,
        "logging_steps": 2,
        "save_strategy": "no",
        "report_to": "none",
        "verify_saved_model": "false",
        "use_cpu": "true",
        "num_proc": 1,
    }


def train_pairwise(flags: dict, output: Path, **changes: object) -> Run:
    return train(flags, output, pages=True, main=rm_pairwise.main, **changes)


@pytest.fixture(scope="module")
def run(flags, tmp_path_factory) -> Run:
    return train_pairwise(flags, tmp_path_factory.mktemp("run") / "output", verify_saved_model="true")


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def lines_of(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "eval_scores.jsonl").read_text().splitlines()]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


# --- the figures, written out -----------------------------------------------------------------------------------------


def test_every_figure_is_that_of_the_scores(run):
    """By loops over the lines, as RLHFlow's own evaluation has it: right above one half, half right at one half."""
    evaluation, lines = read(run.output / "evaluation.json"), lines_of(run.output)
    assert evaluation["pairs"] == len(lines) > 15
    compared = [line for line in lines if line.get("chosen_probability", 1) != 0.5]
    assert 0 < len(compared) < len(lines) and evaluation["label_ties"]["pairs"] == len(lines) - len(compared)
    right, orders, first, second = 0.0, [0.0, 0.0], 0, 0
    for line in compared:
        in_orders = sigmoid(line["chosen_first"]), 1 - sigmoid(line["rejected_first"])
        mean = sum(in_orders) / 2
        assert line["probability"] == pytest.approx(mean)
        right += 1 if mean > 0.5 else 0.5 if mean == 0.5 else 0
        for place, probability in enumerate(in_orders):
            orders[place] += probability > 0.5
        first += in_orders[0] > 0.5 and in_orders[1] < 0.5
        second += in_orders[0] < 0.5 and in_orders[1] > 0.5
    count = len(compared)
    assert evaluation["accuracy"]["value"] == pytest.approx(right / count)
    assert [of["value"] for of in evaluation["by_order"].values()] == pytest.approx([of / count for of in orders])
    assert evaluation["flips"]["value"] == pytest.approx((first + second) / count) and first + second
    assert evaluation["always_first"]["value"] == pytest.approx(first / count)
    firsts = [(sigmoid(line["chosen_first"]) + sigmoid(line["rejected_first"])) / 2 for line in lines]
    assert evaluation["first_probability"] == pytest.approx(sum(firsts) / len(lines))
    longer = [line["chosen_characters"] > line["rejected_characters"] for line in compared]
    assert evaluation["longer_wins"]["value"] == pytest.approx(sum(longer) / count, abs=0.5 / count)
    for of in (evaluation["accuracy"], evaluation["flips"], *evaluation["by_order"].values()):
        assert of["low"] <= of["value"] <= of["high"]
    logged = [entry for entry in run.history if "eval_accuracy" in entry][-1]
    assert logged["eval_accuracy"] == pytest.approx(evaluation["accuracy"]["value"])
    assert logged["eval_flips"] == pytest.approx(evaluation["flips"]["value"])
    assert logged["eval_loss"] == pytest.approx(evaluation["loss"])
    assert {"eval_accuracy_helpful", "eval_accuracy_harmless"} <= logged.keys()


# --- the card ---------------------------------------------------------------------------------------------------------


def test_the_card(run):
    card = (run.model / "README.md").read_text()
    evaluation = read(run.output / "evaluation.json")
    assert "preference-model" in card.split("---")[1] and "verdict flips with the order" in card
    assert f"**{100 * evaluation['accuracy']['value']:.1f}%**" in card and "| chosen first |" in card
    assert "add_generation_prompt=True" in card and "RewardScorer" not in card
    assert "`python serve.py --reward_name_or_path" in card and "at least two `responses`" in card
    assert "--protocol vllm" in card and "openrlhf" not in card
    assert "\n\n## Training data\n" in card and "order of the answers. Always" in card
    assert "\n\n\n" not in re.sub(r"```python\n.*?```", "code", card, flags=re.DOTALL)
    for name in ComparisonResults.card_plots:
        assert (run.model / name).read_bytes().startswith(PNG) and f"({name})" in card


def test_its_python_gives_the_probability(run):
    """In transformers, in a pipeline, and by PairScorer: the same."""
    transformers, piped, scorer = run_snippets(run.model / "README.md")
    expected = PairScorer.from_pretrained(run.model).compare(PROMPT, *ANSWERS)
    assert 0 < expected < 1
    for namespace in (transformers, piped, scorer):
        assert namespace["probability"] == pytest.approx(expected, abs=1e-5)
    assert scorer["best"] == int(expected < 0.5)


def test_its_python_for_an_adapter(flags, tmp_path):
    adapter = train_pairwise(flags, tmp_path / "output", use_peft="true", merge_adapter="true", max_steps=2)
    transformers, scorer = run_snippets(adapter.model / "README.md")
    merged, *_ = run_snippets(adapter.output / "merged_checkpoint" / "README.md")
    assert transformers["probability"] == pytest.approx(scorer["probability"], abs=1e-5)
    assert transformers["probability"] == pytest.approx(merged["probability"], abs=1e-5)


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page(run):
    text = training_page(read_run(run.output))
    page = Page(text)
    shown = " ".join(" ".join(page.texts).split())
    evaluation = read(run.output / "evaluation.json")
    assert "Verdicts that flip" in shown and "each order alone" in shown
    assert f"{100 * evaluation['flips']['value']:.1f}%" in shown
    found = tables(text)
    log = next(rows for head, rows in found.items() if "chosen first | rejected first | flips" in head)
    assert len(log) == 3
    assert "Accuracy of each order, percent" in shown and "Calibration" in shown
    assert "inf" not in shown.split() and "nan" not in shown.lower().split()


def test_while_it_runs_and_without_run_json(run):
    evaluation = read(run.output / "evaluation.json")
    assert isinstance(kind_of(read(run.output / "run.json")), ComparisonResults)
    assert isinstance(kind_of(None, evaluation), ComparisonResults)
    assert read(run.output / "run.json")["pairwise"] == {"format": "rlhflow", "answers": ["A", "B"]}


def test_sets_with_names(flags, tmp_path):
    """Each has its figures in the log, in evaluation.json and on the page."""
    sets = [
        write_rows(tmp_path / f"{name}.jsonl", learnable_preferences(12, seed)) for name, seed in (("a", 5), ("b", 6))
    ]
    given = flags | {"eval_set_path": f"easy={sets[0]},hard={sets[1]}", "max_steps": 4}
    finished = train_pairwise(given, tmp_path / "output")
    evaluation = read(finished.output / "evaluation.json")
    assert evaluation["sets"].keys() == {"easy", "hard"} and evaluation["set"] == "easy"
    assert {"eval_easy_flips", "eval_hard_flips", "eval_flips"} <= set().union(*finished.history)
    assert "hard" in training_page(read_run(finished.output))
    assert "| evaluation set: hard |" in (finished.model / "README.md").read_text()


def test_held_out_pairs_that_are_all_ties(flags, tmp_path):
    """No accuracy, and nothing breaks for want of one."""
    ties = [row | {"chosen_probability": 0.5} for row in learnable_preferences(10, seed=7)]
    given = flags | {"eval_set_path": write_rows(tmp_path / "ties.jsonl", ties), "max_steps": 4}
    finished = train_pairwise(given, tmp_path / "output")
    evaluation = read(finished.output / "evaluation.json")
    assert evaluation["accuracy"]["value"] is None and evaluation["label_ties"]["pairs"] == evaluation["pairs"]
    assert "are ties" in (finished.model / "README.md").read_text()
    assert "ties: " in training_page(read_run(finished.output))


def test_outputs_that_are_not_finite(run, caplog):
    """An evaluation says so, and has no figures: every comparison with NaN would be false."""
    held_out = run.trainer.evaluate_final_model()[""]
    assert held_out.not_finite is None
    broken = replace(held_out, chosen_first=np.where(np.arange(len(held_out)) == 1, np.nan, held_out.chosen_first))
    metrics = run.trainer.objective.metrics(broken)
    assert metrics["pairs"] == len(held_out) and math.isnan(metrics["accuracy"]) and math.isnan(metrics["flips"])
    assert f"not finite in 1 of {len(held_out)} pairs, the first {held_out.where[1]}" in caplog.text


def test_warnings():
    def evaluation(accuracy: tuple, longer: float, flips: tuple) -> dict:
        names = ("value", "low", "high")
        return {
            "accuracy": dict(zip(names, accuracy, strict=True)) | {"rows": 100, "ties": 0},
            "longer_wins": {"value": longer, "low": longer, "high": longer, "rows": 100, "ties": 0},
            "flips": dict(zip(names, flips, strict=True)) | {"rows": 100, "ties": 0},
        }

    kind = ComparisonResults("pairs")
    assert list(kind.warnings(evaluation((0.9, 0.85, 0.94), 0.6, (0.1, 0.05, 0.2)))) == []
    guessing, length, order = kind.warnings(evaluation((0.55, 0.45, 0.64), 0.6, (0.4, 0.3, 0.5)))
    assert "not clearly above guessing, 50%" in guessing and "always taking the longer answer, 60.0%" in length
    assert order.startswith("The order of the answers decides 40.0% (30.0-50.0) of the held-out verdicts")
    assert callable(model_card)
