"""What a run on steps leaves: its figures against ones written out from eval_scores.jsonl, its card and its page."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from pages import Page, tables
from runs import Run, run_snippets, train, write_rows
from stepped_rows import held_out, outcome_rows, stepped_rows, up_to_last_labels
from transformers import AutoModelForTokenClassification

import rm_process
from reward_modeling.display.text import percent
from reward_modeling.objectives.held_out_steps import step_figures
from reward_modeling.results.catalog import kind_of
from reward_modeling.results.read_run import read_run
from reward_modeling.results.report import training_page
from reward_modeling.results.steps import FEW_STEPS, StepResults
from reward_modeling.scoring import StepScorer

PNG = b"\x89PNG\r\n"
NAN = math.nan


def flags_of(model: str, rows: list[dict], folder: Path) -> dict[str, object]:
    return {
        "model_name": model,
        "train_set_path": write_rows(folder / "steps.jsonl", rows),
        "max_length": 256,
        "max_steps": 30,
        "pairs_per_step": 16,
        "learning_rate": 3e-3,
        "eval_size": 30,
        "eval_every_steps": 10,
        "logging_steps": 2,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": "true",
        "num_proc": 1,
    }


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return stepped_rows(150, seed=6)


@pytest.fixture(scope="module")
def run(gemma_folder, rows, tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    return train(flags_of(gemma_folder, rows, folder), folder / "output", pages=True, main=rm_process.main)


def lines_of(run: Run) -> list[dict]:
    return [json.loads(line) for line in (run.output / "eval_scores.jsonl").open()]


def read(path: Path) -> dict:
    return json.loads(path.read_text())


# --- the figures --------------------------------------------------------------------------------------------------


def test_probabilities_in_the_files_are_those_of_the_saved_model(run, rows):
    """And the labels are those of the rows, also where another chain of a tree counts the step."""
    scorer = StepScorer.from_pretrained(run.model, dtype="float32")
    for line in lines_of(run):
        row = rows[int(line["where"].rpartition(":")[2]) - 1]
        (steps,) = [
            steps
            for steps, labels in up_to_last_labels(row)
            if scorer.score(row["prompt"], steps) == pytest.approx(line["steps"], abs=1e-4)
            and labels == pytest.approx(line["labels"])
        ]
        assert len(steps) == len(line["labels"])
        assert line["reward"] == pytest.approx(min(line["steps"]))


def test_figures_are_those_of_the_lines(run):
    """Shares of chains; a step that several chains have is in them once, as in the training."""
    evaluation, lines = read(run.output / "evaluation.json"), lines_of(run)
    errors = {True: [], False: []}
    for line in lines:
        if None in line["labels"]:
            known = line["labels"][: line["labels"].index(None)]
            if all(label > 0.5 for label in known):
                continue
        else:
            known = line["labels"]
        first = next((place for place, label in enumerate(known) if label < 0.5), None)
        found = next((place for place, probability in enumerate(line["steps"]) if probability < 0.5), None)
        errors[first is not None].append(first == found)
    with_error, without = (sum(errors[kind]) / len(errors[kind]) for kind in (True, False))
    of = evaluation["first_error"]
    assert (of["with_error"]["value"], of["without_error"]["value"]) == pytest.approx((with_error, without))
    assert of["f1"]["value"] == pytest.approx(2 * with_error * without / (with_error + without))
    assert evaluation["solutions"] == len(lines)
    assert evaluation["steps"]["all"] == sum(len(line["steps"]) for line in lines)
    assert evaluation["steps"]["labelled"] < sum(label is not None for line in lines for label in line["labels"])
    assert evaluation["reward_mean"] == pytest.approx(np.mean([line["reward"] for line in lines]))
    logged = [entry for entry in run.history if "eval_loss" in entry][-1]
    for name in ("step_accuracy", "balanced_accuracy", "auc"):
        assert evaluation[name]["value"] == pytest.approx(logged[f"eval_{name}"])
    assert evaluation["loss"] == pytest.approx(logged["eval_loss"])


def test_one_kind_of_steps_alone_has_figures():
    figures = step_figures(held_out([(0, [0.9], [1.0]), (1, [0.8], [1.0])]))
    assert figures["auc"]["value"] is None and figures["balanced_accuracy"]["value"] is None
    assert figures["first_error"]["f1"]["value"] is None and figures["step_accuracy"]["value"] == 1
    json.dumps(figures, allow_nan=False)
    (warning,) = StepResults("solutions").warnings(figures)
    assert warning == (
        "All held-out steps are of one kind, so that nothing is known of the other: 2 right and 0 wrong ones"
    )


# --- the card and the page ----------------------------------------------------------------------------------------


def test_run_json_says_of_which_kind_it_is(run):
    about, config = read(run.output / "run.json"), read(run.model / "config.json")
    assert (about["kind"], about["unit"], about["solutions_per_step"]) == ("steps", "solutions", 16)
    assert about["process"] == config["process"]
    assert isinstance(kind_of(about), StepResults)
    assert about["kinds"].startswith("Of ") and "steps with a label" in about["kinds"]


def test_the_card_has_the_figures(run):
    card, evaluation = (run.model / "README.md").read_text(), read(run.output / "evaluation.json")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if line[:1] == "|"]
    values = {row[0]: row[1] for row in rows}
    assert values["steps"] == percent(evaluation["step_accuracy"]["value"])
    assert values["wrong steps"] == percent(evaluation["found_wrong"]["value"])
    assert values["always the same verdict"] == percent(evaluation["always_the_same"]["value"])
    assert values["first errors, F1 in percent (ProcessBench)"] == percent(evaluation["first_error"]["f1"]["value"])
    assert "min (saved)" in values and {"product", "last", "mean"} <= values.keys()
    assert "steps of 16 solutions" in card and "`GemmaForTokenClassification` with 2 labels" in card
    assert "pipeline_tag: token-classification" in card and "- process-reward-model\n" in card
    assert "None of these was run where this card was written." in card and "sigmoid" not in card
    plots = re.findall(r"!\[.*?\]\((.*?)\)", card)
    assert plots == list(StepResults.card_plots)
    assert all((run.model / name).read_bytes().startswith(PNG) for name in plots)
    assert "chosen" not in card and "margin" not in card and "pipeline(" not in card


def assert_snippets_agree(folder: Path, tolerance: float = 1e-5) -> list[float]:
    """Those of the card, in plain transformers and with StepScorer."""
    transformers, scorer = run_snippets(folder / "README.md")
    assert transformers["probabilities"] == pytest.approx(scorer["probabilities"], abs=tolerance)
    assert scorer["rewards"].keys() == {"min", "product", "last", "mean"}
    return scorer["probabilities"]


def test_the_python_of_the_card_gives_the_probabilities(run):
    assert len(assert_snippets_agree(run.model)) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt_format": "plain", "step_separator": "\\n"},
        {"step_separator": ""},
        {"use_peft": "true", "lora_r": 4},
        {"eval_size": 0},
    ],
    ids=str,
)
def test_cards_of_other_forms(changes, gemma_folder, rows, tmp_path):
    flags = flags_of(gemma_folder, rows[:40], tmp_path) | {"max_steps": 2} | changes
    finished = train(flags, tmp_path / "output", main=rm_process.main)
    assert_snippets_agree(finished.model)
    assert read(finished.model / "verification.json")["passed"]


def test_an_outcome_model_and_its_page(gemma_folder, tmp_path):
    rows = outcome_rows(40, seed=1)
    sets = ",".join(
        f"{name}={write_rows(tmp_path / f'{name}.jsonl', outcome_rows(9, seed))}"
        for name, seed in (("one", 7), ("other", 8))
    )
    flags = flags_of(gemma_folder, rows, tmp_path) | {"eval_set_path": sets, "max_steps": 8}
    finished = train(flags, tmp_path / "output", pages=True, main=rm_process.main)
    assert read(finished.model / "config.json")["process"]["outcome"] is True
    card = (finished.model / "README.md").read_text()
    assert "An outcome reward model" in card and len(assert_snippets_agree(finished.model)) == 1
    evaluation = read(finished.output / "evaluation.json")
    assert list(evaluation["sets"]) == ["one", "other"]
    assert evaluation["first_error"]["with_error"]["rows"] == evaluation["first_error"]["without_error"]["rows"] == 9
    page = training_page(read_run(finished.output))
    (head,) = [head for head in tables(page) if head.startswith("evaluation set")]
    assert [row[0] for row in tables(page)[head]] == ["one", "other"]


def test_the_page(run):
    text = training_page(read_run(run.output))
    page = Page(text)
    said = " ".join(page.texts)
    evaluation = read(run.output / "evaluation.json")
    assert f"{percent(evaluation['step_accuracy']['value'])}%" in said
    for title in ("Steps and first errors", "Calibration of steps", "Balanced accuracy, percent", "AUC of steps"):
        assert title in said
    (head,) = [head for head in tables(text) if head.startswith("reward | AUC of solutions")]
    assert len(tables(text)[head]) >= 4
    assert not [reference for reference in page.references if reference.startswith("http")]


def test_warnings(run):
    evaluation = read(run.output / "evaluation.json")
    kind = StepResults("solutions")
    weak = evaluation | {"loss": 2 * evaluation["constant_loss"], "auc": {"value": 0.55, "low": 0.48, "high": 0.6}}
    weak |= {"step_accuracy": evaluation["step_accuracy"] | {"low": 0.1}}
    weak |= {"steps": evaluation["steps"] | {"wrong": FEW_STEPS - 1}}
    found = list(kind.warnings(weak))
    for words in ("Few held-out steps", "always the same verdict", "not clearly above guessing, 0.5", "is not below"):
        assert sum(words in warning for warning in found) == 1
    good = evaluation | {"loss": 0.0, "auc": {"value": 0.9, "low": 0.8, "high": 0.95}}
    good |= {"step_accuracy": evaluation["step_accuracy"] | {"low": 0.99}}
    good |= {"steps": {"all": 400, "labelled": 400, "right": 200, "wrong": 200}}
    assert list(kind.warnings(good)) == []


def test_plain_transformers_reads_the_saved_class(run):
    model, info = AutoModelForTokenClassification.from_pretrained(run.model, output_loading_info=True)
    assert type(model).__module__.startswith("transformers.") and not info["missing_keys"]
    assert not info["unexpected_keys"] and model.config.id2label == {0: "wrong", 1: "right"}
    assert model.score.weight.dtype == torch.float32
