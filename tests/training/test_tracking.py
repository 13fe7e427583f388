"""What trackers get: read back from the files that they write."""

import http.server
import json
import os
import socket
import struct
import sys
import threading
import time
from pathlib import Path

import pytest
import wandb
from runs import launch, train, write_rows
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2 as wandb_records

from reward_modeling.common.errors import UserError
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.training import tracking
from reward_modeling.training.tracking import prepare_wandb, tracker_problems

BLOCK, HEADER, RECORD_HEADER = 32768, 7, struct.Struct("<IHB")  # of wandb's files: LevelDB's log


@pytest.fixture(scope="module")
def base(gemma_folder, tmp_path_factory) -> dict[str, object]:
    return {
        "model_name": gemma_folder,
        "train_set_path": write_rows(
            tmp_path_factory.mktemp("data") / "train.jsonl", learnable_preferences(40, seed=1)
        ),
        "max_length": 256,
        "max_steps": 2,
        "pairs_per_step": 8,
        "learning_rate": 1e-3,
        "eval_size": 10,
        "eval_every_steps": 1,
        "logging_steps": 1,
        "save_strategy": "no",
        "verify_saved_model": "false",
        "use_cpu": "true",
        "hub_token": "hf_secret",
    }


def records(path: Path) -> list:
    """The records of an offline run of wandb."""
    content, position, whole, found = path.read_bytes(), HEADER, b"", []
    while position + RECORD_HEADER.size <= len(content):
        if BLOCK - position % BLOCK < RECORD_HEADER.size:
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = RECORD_HEADER.unpack_from(content, position)
        position += RECORD_HEADER.size
        whole += content[position : position + length]
        position += length
        if kind in (1, 4):  # a whole record, or its last part
            found.append(wandb_records.Record.FromString(whole))
            whole = b""
    return found


def values(items) -> dict[str, object]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


@pytest.mark.slow
def test_wandb_without_a_login_goes_offline(base, tmp_path):
    """The default, with nobody logged in and nobody at the keyboard: it says so, does not wait, and loses nothing."""
    home = tmp_path / "home"
    home.mkdir()
    nobody = {"WANDB_MODE": None, "WANDB_API_KEY": None, "NETRC": None, "HOME": str(home)}
    output = tmp_path / "output"
    process = launch([sys.executable], base, output, **nobody)
    assert "wandb: no login found, so the run is kept offline" in process.stderr
    (path,) = (output / "wandb").glob("offline-run-*/*.wandb")
    config, summary, steps = {}, {}, []
    for record in records(path):
        config |= values(record.run.config.update) | values(record.config.update)
        summary |= values(record.summary.update)
        steps.append(values(record.history.item))
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    evaluations = [entry for entry in history if "eval_loss" in entry]
    logged = [step for step in steps if "eval/loss" in step]
    assert len(logged) == len(evaluations) == 2
    for step, entry in zip(logged, evaluations, strict=True):
        for name, value in entry.items():
            if name.startswith("eval_"):
                assert step[name.replace("eval_", "eval/", 1)] == pytest.approx(value)
    assert config["data_report"] == json.loads((output / "data_report.json").read_text())
    assert (config["learning_rate"], config["model_name"]) == (1e-3, base["model_name"])
    evaluation = json.loads((output / "evaluation.json").read_text())
    (place,) = (step["final/held_out.path"] for step in steps if "final/held_out.path" in step)
    table = json.loads((path.parent / "files" / place).read_text())
    rows = {row[0]: row[1:] for row in table["data"]}
    keys = ("value", "low", "high", "rows")
    assert rows["all"] == pytest.approx([evaluation["accuracy"][key] for key in keys])
    for name, entry in evaluation["by_source"].items():
        assert rows[f"source {name}"] == pytest.approx([entry[key] for key in keys])
    assert summary["final/reward_std"] == pytest.approx(evaluation["reward_std"])
    for file in output.rglob("*"):
        assert file.is_dir() or b"hf_secret" not in file.read_bytes(), file


def test_tensorboard(base, tmp_path):
    run = train(base | {"report_to": "tensorboard"}, tmp_path / "output")
    (folder,) = (run.output / "runs").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    for entry in run.history:
        for name, value in entry.items():
            if name.startswith("eval_"):
                logged = {event.step: event.value for event in events.Scalars(name.replace("eval_", "eval/", 1))}
                assert logged[entry["step"]] == pytest.approx(value, rel=1e-6)
    assert "train/loss" in events.Tags()["scalars"]
    assert b"hf_secret" not in b"".join(path.read_bytes() for path in folder.iterdir())


def test_a_tracker_that_is_not_installed_is_named(monkeypatch):
    assert tracker_problems(["wandb", "tensorboard"]) == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert tracker_problems(["wandb"]) == []
    (problem,) = tracker_problems(["tensorboard"])
    assert "--report_to tensorboard" in problem and "pip install tensorboard" in problem
    with pytest.raises(UserError, match=r"--report_to wandb: .* Run pip install wandb, or pass --report_to none"):
        prepare_wandb("output")


class Answer(http.server.BaseHTTPRequestHandler):
    """Of a host that is reached, and knows nobody."""

    def do_HEAD(self):
        self.send_error(401)

    def log_message(self, *args):
        pass


def test_whether_wandb_is_reached(monkeypatch):
    """A host that answers, one that refuses, one that takes the connection and says nothing, and one that is none."""
    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert tracking.is_reached(f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(tracking, "SECONDS_TO_ANSWER", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        started = time.monotonic()
        assert not tracking.is_reached(f"http://127.0.0.1:{port}")
        assert time.monotonic() - started < 5
    assert not tracking.is_reached(f"http://127.0.0.1:{port}")
    assert not tracking.is_reached("http://wandb.invalid")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}, "http://127.0.0.1:9 is not reached"),
        ({"WANDB_BASE_URL": "http://127.0.0.1:9"}, "no login found"),
        ({"WANDB_MODE": "disabled"}, None),
    ],
)
def test_wandb_that_is_not_there_goes_offline(variables, words, tmp_path, monkeypatch, caplog):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_SILENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    prepare_wandb(str(tmp_path))
    if words is None:
        assert os.environ["WANDB_MODE"] == "disabled" and not caplog.text
    else:
        assert f"wandb: {words}, so the run is kept offline" in caplog.text
        assert os.environ["WANDB_MODE"] == "offline"


def test_a_key_that_wandb_refuses(tmp_path, monkeypatch, caplog):
    """It is reached, and takes no run: the run goes on, offline."""
    calls = []

    def refuse(**options):
        calls.append(options)
        if options.get("mode") != "offline":
            raise wandb.errors.CommError("user is not logged in")

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "init", refuse)
    tracking.open_wandb("name", str(tmp_path))
    assert [call.get("mode") for call in calls] == [None, "offline"]
    assert "wandb: user is not logged in, so the run is kept offline" in caplog.text
    monkeypatch.delenv("WANDB_MODE")
