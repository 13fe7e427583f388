"""Early stopping: where it stops, with which model, and that a resumed run stops there too."""

import shutil
import sys

import pytest
from runs import Run, same_weights, sigterm_in_step, train, write_rows
from safetensors.torch import load_file

import rm
from reward_modeling.common.errors import UserError
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.training.arguments import arguments_of
from reward_modeling.training.callbacks import EarlyStopping

PATIENCE, MOST_STEPS = 3, 14


@pytest.fixture(scope="module")
def base(gemma_folder, tmp_path_factory) -> dict[str, object]:
    """A high rate: the loss gets better for some evaluations, then worse for longer than the patience."""
    return {
        "model_name": gemma_folder,
        "train_set_path": write_rows(
            tmp_path_factory.mktemp("data") / "train.jsonl", learnable_preferences(40, seed=1)
        ),
        "max_length": 256,
        "max_steps": MOST_STEPS,
        "pairs_per_step": 8,
        "learning_rate": 3e-3,
        "eval_size": 10,
        "eval_every_steps": 1,
        "save_every_steps": 1,
        "early_stopping_patience": PATIENCE,
        "report_to": "none",
        "verify_saved_model": "false",
        "use_cpu": "true",
        "num_proc": 1,
    }


@pytest.fixture(scope="module")
def stopped(base, tmp_path_factory) -> Run:
    return train(base, tmp_path_factory.mktemp("stopped") / "output")


def losses_of_evaluations(run: Run) -> dict[int, float]:
    return {entry["step"]: entry["eval_loss"] for entry in run.history if "eval_loss" in entry}


def test_it_stops_and_keeps_the_best(stopped):
    losses = losses_of_evaluations(stopped)
    best = min(losses, key=losses.get)
    end = stopped.state["global_step"]
    assert end == max(losses) == best + PATIENCE < MOST_STEPS
    assert same_weights(stopped.model, stopped.output / f"checkpoint-{best}")
    assert not same_weights(stopped.model, stopped.output / f"checkpoint-{end}")


def test_the_last_state_where_it_is_asked_for(base, stopped, tmp_path):
    run = train(base, tmp_path / "output", load_best_model_at_end="false")
    end = stopped.state["global_step"]
    assert run.state["global_step"] == end
    assert same_weights(run.model, stopped.output / f"checkpoint-{end}")


def test_a_threshold_counts_small_gains_as_none(base, stopped, tmp_path):
    losses = losses_of_evaluations(stopped)
    run = train(base, tmp_path / "output", early_stopping_threshold=10.0)
    assert run.state["global_step"] == 1 + PATIENCE < stopped.state["global_step"]
    assert losses_of_evaluations(run) == {step: losses[step] for step in range(1, 2 + PATIENCE)}


def resumed_after_sigterm(base, output, step: int) -> Run:
    with sigterm_in_step(step), pytest.raises(SystemExit):
        train(base, output)
    return train(base, output, resume_from_checkpoint="true")


@pytest.mark.parametrize("before_the_end", [0, 1])
def test_a_resumed_run_stops_at_the_same_step(before_the_end, base, stopped, tmp_path):
    """SIGTERM leaves the evaluation of its step to the resume, and of the last step that is the one that stops it."""
    end = stopped.state["global_step"]
    run = resumed_after_sigterm(base, tmp_path / "output", end - before_the_end)
    assert run.state["global_step"] == end
    assert losses_of_evaluations(run) == losses_of_evaluations(stopped)
    assert same_weights(run.model, stopped.model)


def test_a_count_that_begins_again_stops_later(base, stopped, tmp_path, monkeypatch):
    """The negative control of the test above."""
    monkeypatch.setattr(EarlyStopping, "go_on_from", lambda *_: None)
    run = resumed_after_sigterm(base, tmp_path / "output", stopped.state["global_step"] - 1)
    assert run.state["global_step"] != stopped.state["global_step"]


def test_a_run_that_had_stopped_has_no_step_left(base, stopped, tmp_path):
    """And with more patience it goes on from there; what it had found is not given out as its end."""
    output = shutil.copytree(stopped.output, tmp_path / "output")
    end = stopped.state["global_step"]
    again = train(base, output, resume_from_checkpoint="true")
    assert again.state["global_step"] == end
    assert same_weights(again.model, stopped.model)
    longer = train(base, output, resume_from_checkpoint="true", early_stopping_patience=PATIENCE + 1)
    assert longer.state["global_step"] > end
    before = load_file(output / "superseded-last_checkpoint" / "model.safetensors")
    assert before.keys() == load_file(longer.model / "model.safetensors").keys()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"early_stopping_patience": 0}, "--early_stopping_patience: expected at least 1, found 0"),
        ({"early_stopping_threshold": -1}, "--early_stopping_threshold: expected 0 or more, found -1"),
        ({"eval_every_steps": None, "eval_strategy": "no"}, "expected evaluations"),
        ({"eval_size": 0}, "expected rows to evaluate on, found --eval_size 0"),
        ({"early_stopping_patience": None, "early_stopping_threshold": 0.1}, "--early_stopping_patience beside it"),
        ({"save_every_steps": None}, "evaluations every 1 steps and checkpoints once an epoch"),
        ({"eval_every_steps": 3, "save_every_steps": 4}, "evaluations every 3 steps and checkpoints every 4 steps"),
        ({"save_every_steps": None, "save_strategy": "no"}, "checkpoints never"),
        ({"metric_for_best_model": "reward_mean"}, "expected one of loss, accuracy, margin, calibration_error"),
    ],
)
def test_wrong_flags_in_one_message(changes, expected, base, tmp_path, monkeypatch):
    flags = {name: value for name, value in (base | changes).items() if value is not None}
    monkeypatch.setattr(sys, "argv", ["rm.py"])
    with pytest.raises(UserError) as error:
        train(flags | {"label_smoothing": 0.7}, tmp_path / "output")
    assert expected in str(error.value)
    assert "--label_smoothing" in str(error.value)


@pytest.mark.parametrize(
    ("given", "metric", "greater"),
    [
        ({}, "loss", False),
        ({"metric_for_best_model": "accuracy"}, "accuracy", True),
        ({"metric_for_best_model": "eval_calibration_error"}, "eval_calibration_error", False),
    ],
)
def test_what_is_implied(given, metric, greater):
    options = {"use_cpu": True, "report_to": "none", "early_stopping_patience": 2, **given}
    args = arguments_of(rm.ScriptArguments)(**options)
    assert (args.load_best_model_at_end, args.metric_for_best_model, args.greater_is_better) == (True, metric, greater)
    assert arguments_of(rm.ScriptArguments)(use_cpu=True, report_to="none").load_best_model_at_end is False
