"""The command line of rm_regression.py: its flags and defaults, and one clear message for every mistake."""

import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
from rated_rows import rated_rows
from runs import ROOT, as_argv, train, write_rows

import rm
import rm_regression
from reward_modeling.common.arguments import parse_script_arguments
from reward_modeling.common.errors import UserError
from reward_modeling.common.flags import help_of
from reward_modeling.objectives.bradley_terry import BradleyTerryFlags
from reward_modeling.objectives.quantiles import QuantileRegression, regression_of
from reward_modeling.objectives.regression import Regression
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.tiny.ratings import ATTRIBUTES
from reward_modeling.training.arguments import arguments_of

WEIGHTS_FORM = "as in helpfulness=0.65,verbosity=-0.4"


@pytest.fixture(scope="module")
def rows_path(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", rated_rows(12, seed=1))


@pytest.fixture
def flags(gemma_folder, rows_path, tmp_path) -> dict[str, object]:
    """A command line that works and takes no time."""
    return {
        "model_name": gemma_folder,
        "train_set_path": rows_path,
        "attributes": ",".join(ATTRIBUTES),
        "output_path": tmp_path / "output",
        "max_length": 256,
        "max_steps": 1,
        "pairs_per_step": 4,
        "eval_size": 0,
        "report_to": "none",
        "save_strategy": "no",
        "verify_saved_model": "false",
        "use_cpu": "true",
        "num_proc": 1,
    }


def test_every_default_of_rm_that_is_not_of_its_loss_can_be_edited():
    of_loss = {field.name for field in fields(BradleyTerryFlags)}
    declared = {*rm.ScriptArguments.__annotations__} - of_loss
    assert declared <= {*rm_regression.ScriptArguments.__annotations__}
    own = {"attributes", "label_ranges", "weights", "loss", "metric_for_best_model"}
    assert own <= {*rm_regression.ScriptArguments.__annotations__}
    arguments = arguments_of(rm_regression.ScriptArguments)
    for name in rm_regression.ScriptArguments.__annotations__:
        assert help_of(arguments, name), name


def test_help_is_quick_and_speaks_of_answers():
    """Before torch is imported: 0.3 s here."""
    started = time.perf_counter()
    process = subprocess.run(
        [sys.executable, "-X", "importtime", ROOT / "rm_regression.py", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 0 and time.perf_counter() - started < 20
    assert not {"torch", "transformers", "datasets"} & {
        line.split("|")[-1].strip() for line in process.stderr.splitlines()
    }
    said = " ".join(process.stdout.split())
    assert "Answers in a step over all devices" in said and "--label_smoothing" not in said
    assert "Train on at most so many answers" in said and "response=answer" in said


def test_the_loss_names_the_objective():
    arguments = arguments_of(rm_regression.ScriptArguments)
    args = arguments(use_cpu=True, report_to="none", attributes="a,b")
    assert type(regression_of(args)) is Regression and regression_of(args).num_labels == 2
    args = arguments(use_cpu=True, report_to="none", attributes="a,b", loss="quantile")
    assert type(regression_of(args)) is QuantileRegression and regression_of(args).num_labels == 38
    best = arguments(
        use_cpu=True, report_to="none", metric_for_best_model="spearman", eval_every_steps=2, save_every_steps=2
    )
    assert best.greater_is_better
    stops = arguments(use_cpu=True, report_to="none", early_stopping_patience=2)
    assert (stops.metric_for_best_model, stops.greater_is_better) == ("loss", False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"attributes": "kindness,kindness"}, "--attributes: expected each once, found kindness twice"),
        ({"attributes": "prompt"}, "--attributes: expected columns of ratings, found prompt"),
        ({"label_ranges": "kindness=3:0"}, "--label_ranges kindness: expected a smaller number before a greater one"),
        ({"label_ranges": "kindness"}, "--label_ranges: expected each name once with its value"),
        ({"label_ranges": "humor=0:3"}, "--label_ranges: expected some of --attributes, kindness, .*found humor"),
        ({"weights": "humor=1"}, "--weights: expected some of --attributes, kindness, .*found humor"),
        ({"weights": "kindness=0"}, "--weights: expected one other than 0, found none"),
        ({"metric_for_best_model": "accuracy"}, "expected one of loss, spearman, pair_accuracy, found 'accuracy'"),
        ({"loss": "scaled"}, "--loss: expected one of squared_error, quantile, found 'scaled'"),
        ({"preferred_values": "a,b,c"}, "--preferred_values: .*which rm.py trains on"),
        ({"plain_text": "true"}, "--plain_text: expected false, found true. An answer stands after its prompt"),
        ({"columns": "chosen=a"}, "--columns: expected what is read and its column.*, kindness, usefulness, verbosity"),
        ({"center_rewards_coefficient": "1"}, "unknown flag --center_rewards_coefficient"),
        ({"early_stopping_patience": 2, "eval_size": 0}, "--early_stopping_patience: expected"),
    ],
    ids=str,
)
def test_wrong_flags_are_refused_before_anything_is_read(changes, said, flags):
    with pytest.raises(UserError, match=said):
        parse_script_arguments(arguments_of(rm_regression.ScriptArguments), as_argv(flags | changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"attributes": "kindness,usefulnes"},
            r"expected ratings of each in --train_set_path, found none of usefulnes; did you mean usefulness\?",
        ),
        (
            {"attributes": "quality"},
            r"no row is left to train on.*none of the attributes is rated.*its numbers: kindness",
        ),
        ({"label_ranges": "kindness=0:2"}, "--label_ranges kindness: expected all ratings from 0 to 2, as the flag"),
        (
            {"ignore_columns": "kindness", "columns": "kindness=kind"},
            "--columns: expected a column kind in .*found none",
        ),
        (
            {"max_train_samples": 1},
            "expected ratings that differ|found no prompt with so few answers|found none: all of",
        ),
        (
            {"metric_for_best_model": "spearman", "eval_set_path": "ALIKE"},
            "expected ratings that differ in the evaluation",
        ),
        (
            {"eval_set_path": "PAIRS"},
            r"--eval_set_path: expected columns prompt and response in .*what rm\.py trains on",
        ),
        ({"train_set_path": "PAIRS"}, r"--train_set_path: expected columns prompt and response in .*rm\.py trains on"),
        (
            {"train_set_path": "LABEL"},
            r"found columns that look like one.*  label in 2 of 2 rows.*--ignore_columns label",
        ),
    ],
    ids=str,
)
def test_data_that_do_not_fit_are_refused(changes, said, flags, tmp_path):
    answer = {"prompt": "q", "response": "a", "kindness": 1, "usefulness": 1, "verbosity": 1}
    others = {
        "PAIRS": learnable_preferences(4, seed=1),
        "ALIKE": [answer, answer | {"response": "b"}],
        "LABEL": [answer | {"label": 1}, answer | {"label": 0, "kindness": 2}],
    }
    for name, value in changes.items():
        if value in others:
            changes = changes | {name: write_rows(tmp_path / "other.jsonl", others[value])}
    with pytest.raises(UserError, match=f"(?s){said}"):
        train(flags | changes, tmp_path / "output", main=rm_regression.main)
    assert not (tmp_path / "output" / "last_checkpoint").exists()


def test_rated_rows_given_to_rm_are_sent_to_rm_regression(flags, tmp_path):
    del flags["attributes"]
    with pytest.raises(UserError, match=r"expected columns chosen and rejected in .*what rm_regression\.py trains on"):
        train(flags, tmp_path / "output")


def test_columns_of_other_names_are_trained_on(flags, rows_path, tmp_path):
    """Names with odd characters, a rename, JSON text of ratings, a CSV: all of it in one run."""
    import csv
    import json

    rows = rated_rows(12, seed=1)
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["question", "answer", "score", "ratings", "lang"])
        for row in rows:
            rated = row.get("ratings", row)
            asked, said = (message["content"] for message in row["messages"])
            safe = json.dumps({"is-safe (0/1)": rated.get("usefulness") in (2, 3)})
            writer.writerow([asked, said, rated.get("kindness"), safe, "en"])
    flags |= {"attributes": "helpsteer-helpfulness,is-safe (0/1)", "train_set_path": path, "max_train_samples": 10}
    columns = "prompt=question,response=answer,helpsteer-helpfulness=score"
    run = train(flags | {"columns": columns, "max_steps": 2}, tmp_path / "output", main=rm_regression.main)
    config = json.loads((run.model / "config.json").read_text())
    assert config["id2label"] == {"0": "helpsteer-helpfulness", "1": "is-safe (0/1)"}
    assert config["label_ranges"]["is-safe (0/1)"] == [0.0, 1.0]
    assert len(run.trainer.train_dataset) <= 10
    report = json.loads((run.output / "data_report.json").read_text())["train"]
    assert report["notes"]["rows with a column lang, not read"] == len(rows)
    assert report["notes"]["ratings of is-safe (0/1)"] == len(rows)


def test_a_single_answer_is_shown_with_its_prompt(flags, tmp_path, capsys):
    """All its tokens but the last are what the answers of its prompt share, which would say nothing."""
    row = {"prompt": "How far?", "response": "Very far.", "kindness": 1.5, "usefulness": None, "verbosity": 0}
    rows = [row, row | {"prompt": "Why?", "kindness": 2, "usefulness": 1, "verbosity": 1}]
    rows.append(rows[1] | {"usefulness": 2, "prompt": "When?"})
    path = write_rows(tmp_path / "single.jsonl", rows)
    train(flags | {"train_set_path": path}, tmp_path / "output", main=rm_regression.main)
    said = capsys.readouterr().out
    assert "kindness 1.5, usefulness not rated, verbosity 0" in said and "shared by the answers" not in said
    assert "answer with its prompt, " in said and "| How far?" in said and "| Very far." in said
