"""A run that has trained nothing says so, and one of a single step trains."""

import json
import logging

import pytest
import torch
from runs import Run, train, write_rows

from reward_modeling.results.warnings import result_warnings
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.training.trainer import LargestUpdate, RewardTrainer


@pytest.fixture(scope="module")
def base(gemma_folder, tmp_path_factory) -> dict[str, object]:
    rows = learnable_preferences(10, seed=1)
    return {
        "model_name": gemma_folder,
        "train_set_path": write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", rows),
        "max_length": 256,
        "max_steps": 1,
        "pairs_per_step": 4,
        "learning_rate": 1e-3,
        "eval_size": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": "true",
        "num_proc": 1,
        "verify_saved_model": "false",
    }


def rates(run: Run) -> list[float]:
    return [entry["learning_rate"] for entry in run.history if "learning_rate" in entry]


def test_the_only_step_is_no_warm_up(base, tmp_path, caplog):
    """3% of one step are rounded up to one, whose learning rate would be 0."""
    run = train(base, tmp_path / "one")
    assert rates(run) == [1e-3]
    assert "Warm-up: left out, since its 1 of 1 steps would be all" in caplog.text
    assert json.loads((run.output / "run.json").read_text())["nothing_trained"] is None


def test_of_two_steps_the_schedule_is_that_of_transformers(base, tmp_path, caplog):
    run = train(base, tmp_path / "two", max_steps=2)
    assert rates(run) == [0, 1e-3]
    assert "Warm-up" not in caplog.text and "Nothing was trained" not in caplog.text
    assert rates(train(base, tmp_path / "all", max_steps=2, warmup_steps=2)) == [1e-3, 5e-4]


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ({"learning_rate": 0}, "the learning rate was 0 in every step"),
        ({"frozen": True}, "the gradients were 0 in every step"),
    ],
)
def test_a_run_that_has_trained_nothing_is_not_done(flags, why, base, tmp_path, caplog, monkeypatch):
    """On the screen the last line, and in the card."""
    caplog.set_level(logging.INFO)
    if flags.pop("frozen", False):
        compute_loss = RewardTrainer.compute_loss
        monkeypatch.setattr(RewardTrainer, "compute_loss", lambda *args, **options: 0 * compute_loss(*args, **options))
        flags["eval_size"] = 0
    run = train(base | flags, tmp_path / "output")
    expected = f"Nothing was trained: {why}. The weights are those that the run began with"
    assert expected in [record.getMessage().removeprefix("WARNING: ").removesuffix(".") for record in caplog.records]
    assert caplog.records[-1].levelname == "WARNING" and caplog.records[-1].getMessage().startswith("WARNING: ")
    assert not any(record.getMessage().startswith("Done") for record in caplog.records)
    assert f"> **Warning**: {expected}." in (run.model / "README.md").read_text()


def test_the_largest_update():
    update = LargestUpdate()
    assert update.nothing is None  # no step was left to train
    update.note_learning_rate(0.0)
    update.note_grad_norm(torch.tensor(2.0))
    assert update.nothing == "the learning rate was 0 in every step"
    update.note_learning_rate(1e-5)
    assert update.nothing is None
    update.note_learning_rate(0.0)
    assert update.nothing is None
    update = LargestUpdate()
    update.note_learning_rate(1e-5)
    assert update.nothing is None  # an engine that tells no norm
    for norm in (0.0, torch.tensor(0.0)):
        update = LargestUpdate()
        update.note_learning_rate(1e-5)
        update.note_grad_norm(norm)
        assert update.nothing == "the gradients were 0 in every step"


def test_warnings_of_the_data():
    report = {"name": "train", "share_dropped": 0.0, "kept": 400}
    report["notes"] = {"pairs whose prompt was cut to max_length": 114}
    (message,) = result_warnings({}, None, {"train": report})
    assert message == "train: the prompt of 114 of 400 pairs was cut to max_length"
    report["notes"] = {"pairs whose prompt was cut to max_length": 20, "prompts": 300}
    assert result_warnings({}, None, {"train": report}) == []
