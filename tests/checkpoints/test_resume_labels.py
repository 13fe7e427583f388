"""A learned threshold of ties is not lost: not by a killed run, not with the best model, not with an adapter."""

import itertools
import json
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from labelled_rows import FLAGS, labelled_rows
from runs import TO_BE_RESUMED, Run, same_weights, sigterm_in_step, train, write_rows
from safetensors.torch import load_file

from benchmarks.kill_and_resume import Watched, command_of
from reward_modeling.checkpoints.output_folder import checkpoint_to_resume
from reward_modeling.common.errors import UserError
from reward_modeling.models.reward_normalization import tie_values_of
from reward_modeling.scoring import RewardScorer
from reward_modeling.training.trainer import RewardTrainer

STEPS = 9


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return labelled_rows(30, seed=4)


@pytest.fixture(scope="module")
def base(gemma_folder, rows, tmp_path_factory) -> dict[str, object]:
    """More than an epoch."""
    return (
        TO_BE_RESUMED
        | FLAGS
        | {
            "model_name": gemma_folder,
            "train_set_path": write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", rows),
            "max_steps": STEPS,
        }
    )


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory) -> Run:
    """The undisturbed run, with a checkpoint of every step."""
    return train(base, tmp_path_factory.mktemp("whole") / "output")


def state_of(run: Run, step: int) -> dict[str, float]:
    return json.loads((run.output / f"checkpoint-{step}" / "objective_state.json").read_text())


def threshold_in(folder: Path, file: str = "config.json") -> float:
    saved = json.loads((folder / file).read_text())
    assert saved["tie_model"] == "davidson"
    return saved["tie_threshold"]


def stopped_after(run: Run, step: int, output: Path) -> Path:
    """The folder of a run that was killed when it had this checkpoint."""
    shutil.copytree(run.output / f"checkpoint-{step}", output / f"checkpoint-{step}")
    shutil.copy(run.output / "data_report.json", output)
    return output


def assert_same_end(run: Run, reference: Run) -> None:
    """To the last bit."""
    assert same_weights(run.model, reference.model)
    assert run.losses() == reference.losses()
    assert state_of(run, STEPS) == state_of(reference, STEPS)
    assert threshold_in(run.model) == threshold_in(reference.model)


def test_what_is_saved(whole):
    thresholds = [entry["tie_threshold"] for entry in whole.history if "loss" in entry]
    assert len(set(thresholds)) == STEPS  # it moves in every step
    for step in range(1, STEPS + 1):
        checkpoint = whole.output / f"checkpoint-{step}"
        assert threshold_in(checkpoint) == thresholds[step - 1]
        assert state_of(whole, step)["steps"] == step
        assert "objective_state.json" in json.loads((checkpoint / "contents.json").read_text())
    assert threshold_in(whole.model) == thresholds[-1]


@pytest.mark.parametrize("step", [1, 5, STEPS - 1])
def test_a_killed_run_ends_bit_equal(step, base, whole, tmp_path):
    output = stopped_after(whole, step, tmp_path / "output")
    assert_same_end(train(base, output, resume_from_checkpoint="true"), whole)


def test_a_run_that_sigterm_stopped_ends_bit_equal(base, whole, tmp_path):
    with sigterm_in_step(4), pytest.raises(SystemExit):
        train(base | {"save_every_steps": 100}, tmp_path / "output")
    run = train(base, tmp_path / "output", resume_from_checkpoint="true")
    assert_same_end(run, whole)


@pytest.mark.slow
def test_a_process_killed_at_any_moment_ends_bit_equal(base, whole, tmp_path):
    output = tmp_path / "output"
    watched = Watched(command_of(base, output, 1), output, tmp_path / "log")
    while len(watched.steps) < 4 and not watched.ended():
        watched.read_steps()
        time.sleep(0.002)
    watched.process.send_signal(signal.SIGKILL)
    watched.process.wait(timeout=30)
    watched.close()
    assert_same_end(train(base, output, resume_from_checkpoint="true"), whole)


def test_without_its_state_the_end_is_another(base, whole, tmp_path, monkeypatch):
    """The negative control."""
    monkeypatch.setattr(RewardTrainer, "load_objective_state", lambda self, state: None)
    run = train(base, stopped_after(whole, 5, tmp_path / "output"), resume_from_checkpoint="true")
    assert run.losses() != whole.losses() and threshold_in(run.model) != threshold_in(whole.model)


def test_a_checkpoint_that_has_lost_it_is_passed_over(whole, tmp_path):
    for step in (4, 5):
        output = stopped_after(whole, step, tmp_path / "output")
    (output / "checkpoint-5" / "objective_state.json").unlink()
    assert checkpoint_to_resume(str(output), "true") == str(output / "checkpoint-4")
    with pytest.raises(UserError, match=r"with all the files that its contents\.json lists"):
        checkpoint_to_resume(str(output), str(output / "checkpoint-5"))


@pytest.mark.parametrize(
    "changes",
    [
        {"tie_threshold": 0.5, "tie_learning_rate": 0.01},  # the second is for one that is learned
        {"tie_learning_rate": 0.2},
        {"ties": "rao_kupper"},
        {"list_weight": "pair"},
        {"loss": "margin"},
    ],
    ids=str,
)
def test_other_flags_are_refused(changes, base, whole, tmp_path):
    output = stopped_after(whole, 5, tmp_path / "output")
    with pytest.raises(UserError, match=f"- {next(iter(changes))}: "):
        train(base | changes, output, resume_from_checkpoint="true")


@pytest.mark.parametrize("label", ["weight", "chosen_probability", "strength"])
def test_other_labels_are_refused(label, base, rows, whole, tmp_path):
    """In one row, under the same name."""
    output = stopped_after(whole, 5, tmp_path / "output")
    number = next(n for n, row in enumerate(rows) if row.get(label) not in (None, 0, 0.5))
    changed = [row | ({label: 0.6} if n == number else {}) for n, row in enumerate(rows)]
    original = base["train_set_path"].read_text()
    write_rows(base["train_set_path"], changed)
    try:
        with pytest.raises(UserError, match="train_set_path: the same name, but other pairs"):
            train(base, output, resume_from_checkpoint="true")
    finally:
        base["train_set_path"].write_text(original)


def test_the_best_model_has_its_own_threshold(base, tmp_path):
    """Of a high rate the last model is not the best."""
    best = {"load_best_model_at_end": "true", "metric_for_best_model": "eval_loss", "save_total_limit": 1}
    flags = base | best | {"eval_every_steps": 1, "learning_rate": 2e-2, "save_every_steps": 4}
    del flags["eval_strategy"]
    run = train(flags, tmp_path / "output")
    step = run.state["best_global_step"]
    assert step < STEPS
    thresholds = {entry["step"]: entry["tie_threshold"] for entry in run.history if "loss" in entry}
    assert same_weights(run.model, run.output / f"checkpoint-{step}")
    assert threshold_in(run.model) == thresholds[step] != thresholds[STEPS]
    evaluated = [entry["eval_loss"] for entry in run.history if entry["step"] == step and "eval_loss" in entry]
    assert json.loads((run.output / "evaluation.json").read_text())["loss"] == pytest.approx(evaluated[0], abs=1e-6)
    again = train(flags, tmp_path / "output", resume_from_checkpoint="true")
    assert threshold_in(again.model) == thresholds[step]


# --- adapters ---------------------------------------------------------------------------------------------------------

STATISTICS = "reward_statistics.json"  # an adapter has no config.json


@pytest.fixture(scope="module")
def with_adapter(base) -> dict[str, object]:
    return base | {"use_peft": "true", "lora_r": 4, "learning_rate": 1e-2, "merge_adapter": "true"}


@pytest.fixture(scope="module")
def adapter(with_adapter, tmp_path_factory) -> Run:
    return train(with_adapter, tmp_path_factory.mktemp("adapter") / "output")


def test_an_adapter_carries_its_threshold(adapter):
    """And so does what it is merged into, and every checkpoint; a scorer reads it of all of them."""
    last = [entry["tie_threshold"] for entry in adapter.history if "loss" in entry]
    saved = json.loads((adapter.model / STATISTICS).read_text())
    assert saved["tie_threshold"] == last[-1] and saved.keys() >= {"tie_model", "reward_mean", "reward_std"}
    assert threshold_in(adapter.output / "merged_checkpoint") == last[-1]
    assert threshold_in(adapter.output / "checkpoint-4", STATISTICS) == last[3]
    folders = {"last_checkpoint": last[-1], "merged_checkpoint": last[-1], "checkpoint-4": last[3]}
    for name, threshold in folders.items():
        scorer = RewardScorer.from_pretrained(adapter.output / name)
        assert tie_values_of(scorer.model.config) == {"tie_model": "davidson", "tie_threshold": threshold}


def test_a_killed_adapter_ends_bit_equal(with_adapter, adapter, tmp_path):
    output = stopped_after(adapter, 5, tmp_path / "output")
    run = train(with_adapter | {"merge_adapter": "false"}, output, resume_from_checkpoint="true")
    found, expected = (load_file(of.model / "adapter_model.safetensors") for of in (run, adapter))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert state_of(run, STEPS) == state_of(adapter, STEPS)
    assert threshold_in(run.model, STATISTICS) == threshold_in(adapter.model, STATISTICS)


def test_a_run_without_ties_leaves_none_behind(base, whole, tmp_path):
    """It starts from a model with a threshold; neither its checkpoints nor its model have it."""
    flags = base | {"model_name": whole.model, "ties": "half", "tie_learning_rate": 0.01, "max_steps": 2}
    run = train(flags, tmp_path / "output")
    for folder, name in itertools.product([run.model, run.output / "checkpoint-1"], ["tie_model", "tie_threshold"]):
        assert name not in json.loads((folder / "config.json").read_text())
    assert not (run.output / "checkpoint-1" / "objective_state.json").exists()
