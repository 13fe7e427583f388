"""Nothing is lost when a training process dies by SIGKILL, SIGTERM or a full disk. What a resume takes, and refuses.

The model has attention dropout: without the states of the random numbers no resumed run would end bit-equal.
"""

import hashlib
import itertools
import json
import os
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from engines import BY_WEIGHTS, run_engine
from runs import ROOT, Run, same_weights, sigterm_in_step, train, write_rows

import rm
from benchmarks.kill_and_resume import PLACES, Aim, Experiment, Watched, command_of, history_of, prepare
from reward_modeling.checkpoints import output_folder
from reward_modeling.checkpoints.folders import complete_checkpoints, step_of
from reward_modeling.checkpoints.output_folder import checkpoint_to_resume
from reward_modeling.common.atomic import write_contents
from reward_modeling.common.errors import UserError, run_script
from reward_modeling.tiny.models import build_tiny_checkpoint, tiny_config
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.tiny.tokenizers import TOKENIZER_STYLES, token_ids, train_tokenizer
from reward_modeling.training.trainer import RewardTrainer

STEPS, STEPS_PER_EPOCH = 14, 6
EXIT_STATUS = 128 + signal.SIGTERM
FILES = {
    *("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    *("optimizer.pt", "scheduler.pt", "rng_state.pth", "resume.json", "trainer_state.json", "contents.json"),
}


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return learnable_preferences(20, seed=3)


@pytest.fixture(scope="module")
def build_model(rows, tmp_path_factory) -> Callable[..., Path]:
    """A tiny Gemma with attention dropout, of this seed and these sizes."""
    tokenizer = train_tokenizer([row["chosen"][-1]["content"] for row in rows], 512, **TOKENIZER_STYLES["gemma"])

    def build(seed: int = 0, **sizes: int) -> Path:
        config = tiny_config("gemma", len(tokenizer), attention_dropout=0.1, **sizes, **token_ids(tokenizer))
        return build_tiny_checkpoint(tmp_path_factory.mktemp("models"), tokenizer, config, seed)

    return build


@pytest.fixture(scope="module")
def base(build_model, rows, tmp_path_factory) -> dict[str, object]:
    return {
        "model_name": build_model(),
        "train_set_path": write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", rows[:50]),
        "max_length": 256,
        "max_steps": STEPS,
        "pairs_per_step": 8,
        "learning_rate": 1e-3,
        "eval_size": 5,
        "logging_steps": 1,
        "save_every_steps": 1,
        "eval_strategy": "epoch",
        "report_to": "none",
        "use_cpu": "true",
        "num_proc": 1,
        "verify_saved_model": "false",
    }


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory) -> Run:
    """The undisturbed run, with a checkpoint of every step."""
    return train(base, tmp_path_factory.mktemp("whole") / "output")


@pytest.fixture
def stopped_after(whole, tmp_path) -> Callable[..., Path]:
    """The folder of a run that was killed when it had these checkpoints."""

    def copy(*steps: int) -> Path:
        output = tmp_path / "output"
        for step in steps:
            shutil.copytree(whole.output / f"checkpoint-{step}", output / f"checkpoint-{step}")
        shutil.copy(whole.output / "data_report.json", output)
        return output

    return copy


def assert_same_end(run: Run, reference: Run) -> None:
    """Bit-equal weights, and the same losses and evaluations at the same steps."""
    assert same_weights(run.model, reference.model)
    assert history_of(run.output / "trainer_state.json")[1] == history_of(reference.output / "trainer_state.json")[1]


def steps_in(output: Path) -> list[int]:
    for path in complete_checkpoints(output):
        assert {file.name for file in path.iterdir()} == FILES
    return [step_of(path) for path in complete_checkpoints(output)]


def names(output: Path) -> list[str]:
    """But for the table of the preflight, which every run that begins leaves."""
    return sorted(path.name for path in output.iterdir() if path.name != "preflight.txt")


def ended(flags: dict, output: Path, capsys, **changes: object) -> tuple[int, str]:
    """Exit status and last words of a run in this process that does not come to its end."""
    main = rm.main
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(rm, "main", lambda: run_script(main))
        train(flags, output, **changes)
    return end.value.code, capsys.readouterr().err


# --- SIGKILL ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_runs_end_bit_equal(tmp_path):
    """The short version of benchmarks/kill_and_resume.py, of which it takes all the checks."""
    experiment = Experiment(tmp_path, prepare(tmp_path), processes=1)
    delay = random.Random(0).uniform(0, 0.5)
    aims = iter(
        [
            Aim("writing", 3, 0.0),
            Aim("start", 1, delay * experiment.start_up),
            Aim("writing", 2, 0.004),
            Aim("publishing", 4, 0.0),
            Aim("step", 5, 0.01),
            Aim("writing the end", 1, 0.0),
        ]
    )
    experiment.killed_run("newest", tmp_path / "output", lambda newest: next(aims, None))
    results = experiment.results
    assert results.differences == []
    assert (results.num_kills, results.processes_started, results.runs_compared) == (6, 7, 1)
    assert results.kills[PLACES[2]] + results.kills[PLACES[4]] >= 2  # while a folder was half written
    assert results.steps_taken_twice > 0


def test_without_the_random_numbers_the_end_differs(base, stopped_after, whole):
    """The negative control: what the comparison must find."""
    output = stopped_after(4)
    shutil.copy(whole.output / "checkpoint-2" / "rng_state.pth", output / "checkpoint-4")
    write_contents(output / "checkpoint-4")  # or it would be passed over
    assert not same_weights(train(base, output, resume_from_checkpoint="true").model, whole.model)


@pytest.mark.parametrize("step", [1, STEPS_PER_EPOCH - 1, STEPS_PER_EPOCH, STEPS_PER_EPOCH + 1, 2 * STEPS_PER_EPOCH])
def test_resume_from_every_kind_of_step(step, base, stopped_after, whole):
    """Within an epoch, and at its end, where the evaluation comes after the checkpoint."""
    epochs = [entry["epoch"] for entry in whole.history if "loss" in entry]
    assert epochs[STEPS_PER_EPOCH - 1] == 1
    output = stopped_after(step)
    run = train(base, output, resume_from_checkpoint="true")
    assert run.state["global_step"] == STEPS
    assert same_weights(run.model, whole.model)
    assert run.losses() == whole.losses()


def test_the_evaluation_after_the_last_checkpoint_is_made_up_for(base, stopped_after, whole):
    run = train(base, stopped_after(STEPS_PER_EPOCH), resume_from_checkpoint="true")
    assert_same_end(run, whole)


# --- SIGTERM ----------------------------------------------------------------------------------------------------


def wait_for_step(watched: Watched, step: int) -> None:
    while len(watched.steps) < step and not watched.ended():
        watched.read_steps()
        time.sleep(0.002)


def test_sigterm_saves_a_checkpoint(base, whole, tmp_path):
    """A real process, that saves nothing by itself."""
    flags = base | {"save_strategy": "no"}
    del flags["save_every_steps"]
    output = tmp_path / "output"
    watched = Watched(command_of(flags, output, 1), output, tmp_path / "log")
    wait_for_step(watched, 2)
    watched.process.send_signal(signal.SIGTERM)
    assert watched.process.wait(timeout=60) == EXIT_STATUS == 143, watched.end_of_log()
    (step,) = steps_in(output)
    assert 2 <= step < STEPS
    assert names(output) == [f"checkpoint-{step}", "data_report.json", "report.html", "run.json", "trainer_state.json"]
    message = f"Stopped by SIGTERM after step {step} of {STEPS}: checkpoint-{step} is saved in {output}. Go on with: "
    (words,) = (line for line in watched.end_of_log().splitlines() if line.startswith(message))
    assert shlex.split(words.removeprefix(message))[1:] == [
        *watched.process.args[1:],
        "--resume_from_checkpoint",
        "true",
    ]
    assert "Traceback" not in watched.end_of_log()
    run = train(flags, output, resume_from_checkpoint="true")
    assert_same_end(run, whole)


@pytest.mark.parametrize("step", [1, 3, STEPS_PER_EPOCH, STEPS])
def test_sigterm_in_any_step(step, base, whole, tmp_path, capsys):
    """In the middle of an epoch, and in the last step of one and of all."""
    flags = base | {"save_strategy": "no"}
    del flags["save_every_steps"]
    output = tmp_path / "output"
    with sigterm_in_step(step):
        status, message = ended(flags, output, capsys)
    assert status == EXIT_STATUS
    assert f"Stopped by SIGTERM after step {step} of {STEPS}: checkpoint-{step} is saved" in message
    assert steps_in(output) == [step]
    assert not (output / "last_checkpoint").exists()
    run = train(flags, output, resume_from_checkpoint="true")
    assert same_weights(run.model, whole.model)
    assert run.losses() == whole.losses()
    assert_same_end(run, whole)


def test_sigterm_where_an_evaluation_is_due(base, tmp_path, capsys):
    """It has no time for the evaluation, which may be the best: the resumed run makes it."""
    best = {"save_every_steps": 2, "eval_every_steps": 2, "load_best_model_at_end": "true", "save_total_limit": 1}
    flags = base | best | {"metric_for_best_model": "eval_loss"}
    del flags["eval_strategy"]
    reference = train(flags, tmp_path / "reference")
    with sigterm_in_step(reference.state["best_global_step"]):
        ended(flags, tmp_path / "output", capsys)
    run = train(flags, tmp_path / "output", resume_from_checkpoint="true")
    assert run.state["best_global_step"] == reference.state["best_global_step"]
    assert_same_end(run, reference)


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes(base, tmp_path):
    """All leave after the same step."""
    flags = base | {"save_every_steps": 100}
    output = tmp_path / "output"
    watched = Watched(command_of(flags, output, 2), output, tmp_path / "log")
    wait_for_step(watched, 1)
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(watched.process.pid)], capture_output=True, text=True)
    workers = [int(pid) for pid in children.stdout.split()]
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGTERM)
    assert watched.process.wait(timeout=90) != 0
    (step,) = (step_of(path) for path in complete_checkpoints(output))
    checkpoint = output / f"checkpoint-{step}"
    assert {path.name for path in checkpoint.iterdir()} == FILES - {"rng_state.pth"} | {
        "rng_state_0.pth",
        "rng_state_1.pth",
    }
    assert step < STEPS
    assert names(output) == [checkpoint.name, "data_report.json", "report.html", "run.json", "trainer_state.json"]
    assert f"Stopped by SIGTERM after step {step} of {STEPS}" in watched.end_of_log()


# --- full disks -------------------------------------------------------------------------------------------------


def limit_files(size: int) -> None:
    """The system refuses what would grow beyond it, in the middle of a write, as a quota does."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def assert_refused_by_the_disk(message: str, failed: Path, complete: Path | None) -> None:
    assert "Traceback" not in message
    (error,) = (line for line in message.splitlines() if line.startswith("error"))
    assert f"{failed}: expected to write this checkpoint, found that the disk refuses it" in error
    left = f"The last complete checkpoint is {complete}." if complete else "There is no complete checkpoint yet."
    assert left in error
    assert "--resume_from_checkpoint true" in error


@pytest.mark.slow
def test_a_process_whose_disk_is_full(base, whole, stopped_after, tmp_path):
    output = stopped_after(2, 4)
    process = subprocess.run(
        command_of(base | {"resume_from_checkpoint": "true"}, output, 1),
        preexec_fn=lambda: limit_files(800_000),  # more than the weights, less than the optimizer's states
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 2, process.stderr
    assert_refused_by_the_disk(process.stderr, output / "checkpoint-5", output / "checkpoint-4")
    assert names(output) == ["checkpoint-2", "checkpoint-4", "data_report.json", "run.json"]
    assert_same_end(train(base, output, resume_from_checkpoint="true"), whole)


@contextmanager
def limited(method: str, size: int) -> Iterator[None]:
    original = getattr(RewardTrainer, method)

    def within_limit(*args, **kwargs):
        soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
        limit_files(size)
        try:
            return original(*args, **kwargs)
        finally:
            limit_files(soft)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RewardTrainer, method, within_limit)
        yield


@pytest.mark.parametrize("size", [0, 1000, 200_000, 800_000])
def test_whatever_file_does_not_fit(size, base, stopped_after, capsys):
    """config.json, the tokenizer, the weights, the optimizer's states."""
    output = stopped_after(4)
    with limited("_save_checkpoint", size):
        status, message = ended(base, output, capsys, resume_from_checkpoint="true")
    assert status == 2
    assert_refused_by_the_disk(message, output / "checkpoint-5", output / "checkpoint-4")
    assert names(output) == ["checkpoint-4", "data_report.json", "run.json"]


@pytest.mark.parametrize("method", ["save_whole_model", "save_state"])
def test_the_final_model_does_not_fit(method, base, whole, stopped_after, capsys):
    output = stopped_after(STEPS)
    with limited(method, 200):
        status, message = ended(base, output, capsys, resume_from_checkpoint="true")
    assert status == 2
    assert_refused_by_the_disk(message, output / "last_checkpoint", output / f"checkpoint-{STEPS}")
    run = train(base, output, resume_from_checkpoint="true")
    assert_same_end(run, whole)


# rm.py whose process 1 can write no file of more than a few bytes, in a checkpoint
FULL_FOR_ONE = """
import os, resource, sys
sys.path.insert(0, {root!r})
import rm
from reward_modeling.common.errors import run_script
from reward_modeling.training.resumable_trainer import ResumableTrainer

save = ResumableTrainer._save_checkpoint

def within_limit(*args, **options):
    if os.environ["RANK"] == "1":
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    try:
        return save(*args, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

ResumableTrainer._save_checkpoint = within_limit
if __name__ == "__main__":
    run_script(rm.main)
"""


@pytest.mark.slow
@pytest.mark.parametrize("engine", BY_WEIGHTS)
def test_another_process_than_the_first_cannot_write(engine, base, tmp_path):
    """One message, of whichever process: no traceback of the others, that wait for it."""
    script = tmp_path / "rm_full_for_one.py"
    script.write_text(FULL_FOR_ONE.format(root=str(ROOT)))
    output = tmp_path / "output"
    process = run_engine(engine, base | {"save_every_steps": 3}, output, status=2, script=script)
    assert "Traceback" not in process.stderr, process.stderr[-3000:]
    (error,) = (line for line in process.stderr.splitlines() if line.startswith("error"))
    assert f"{output / 'checkpoint-3'}: expected to write this checkpoint, found that the disk refuses it" in error
    assert not complete_checkpoints(output)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Callable[[str], Path]]:
    """A file system of its own; called with a size it has that size from then on."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only who may mount a file system can make a small one")

    def resize(size: str) -> Path:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)
        return folder

    yield resize
    # lazy: weights that were read are still mapped into this process
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_small_file_system(base, whole, small_disk, capsys):
    """One checkpoint fits and a second one does not."""
    size = sum(path.stat().st_size for path in (whole.output / "checkpoint-2").iterdir())
    output = small_disk(f"{int(1.6 * size)}") / "output"
    status, message = ended(base, output, capsys)
    assert status == 2
    assert_refused_by_the_disk(message, output / "checkpoint-2", output / "checkpoint-1")
    assert "; 0.0 GiB are free" in message
    assert names(output) == ["checkpoint-1", "data_report.json", "run.json", "trainer_state.json"]
    small_disk("200m")
    assert_same_end(train(base, output, resume_from_checkpoint="true"), whole)


# --- what a resume takes ----------------------------------------------------------------------------------------


def test_nothing_to_resume_from(base, whole, tmp_path, caplog):
    output = tmp_path / "output"
    (output / "unfinished-checkpoint-2").mkdir(parents=True)
    (output / "unfinished-checkpoint-2" / "model.safetensors").write_text("half")
    run = train(base, output, resume_from_checkpoint="true")
    assert f"Resume: no complete checkpoint in {output}, so training starts afresh." in caplog.text
    assert f"removing {output / 'unfinished-checkpoint-2'}" in caplog.text
    assert_same_end(run, whole)
    assert not list(output.glob("unfinished-*"))


def test_torn_checkpoints_are_passed_over(base, whole, stopped_after, capsys):
    """A folder of somebody else's making: nothing of ours has that name before it is complete."""
    output = stopped_after(2, 4)
    (output / "checkpoint-4" / "trainer_state.json").unlink()
    run = train(base, output, resume_from_checkpoint="true", save_every_steps=100)
    assert run.losses() == whole.losses()
    history = (entry for entry in run.history if "heaviest_micro_batch_tokens" in entry)
    assert [entry["step"] for entry in history][-1] == 2  # where this process began
    assert_same_end(run, whole)


def test_a_path_takes_that_one(base, whole, stopped_after, caplog):
    output = stopped_after(2, 3, 5)
    run = train(base, output, resume_from_checkpoint=output / "checkpoint-2", save_every_steps=4)
    assert_same_end(run, whole)
    assert steps_in(output) == [2, 4, 8, 12, STEPS]
    for step in (3, 5):
        assert same_weights(output / f"superseded-checkpoint-{step}", whole.output / f"checkpoint-{step}")
        assert f"now it is superseded-checkpoint-{step}" in caplog.text


def test_a_superseded_checkpoint_can_be_taken_up_again(base, whole, stopped_after):
    output = stopped_after(2, 4)
    (output / "checkpoint-4").rename(output / "superseded-checkpoint-4")
    run = train(base, output, resume_from_checkpoint=output / "superseded-checkpoint-4", save_every_steps=100)
    assert_same_end(run, whole)
    assert (output / "superseded-checkpoint-4").is_dir()


def test_overwriting_while_resuming_from_elsewhere(base, whole, stopped_after, tmp_path):
    """What the folder held before must not be taken for this run's newest checkpoint."""
    output, other = stopped_after(13), tmp_path / "other" / "checkpoint-2"
    (output / "notes.txt").write_text("mine")
    shutil.copytree(whole.output / "checkpoint-2", other)
    flags = base | {"resume_from_checkpoint": other, "overwrite_output_dir": "true", "save_every_steps": 4}
    assert_same_end(train(flags, output), whole)
    assert steps_in(output) == [4, 8, 12, STEPS]
    assert (output / "notes.txt").is_file()


@pytest.mark.parametrize("limit", [{}, {"max_steps": -1, "num_train_epochs": 2}])
def test_a_finished_run_trains_no_further(limit, base, whole, tmp_path):
    """Ended in the middle of an epoch, or with one."""
    output = tmp_path / "output"
    flags = base | limit | {"save_every_steps": 5}
    run = train(flags, output)
    again = train(flags, output, resume_from_checkpoint="true")
    assert again.state["global_step"] == run.state["global_step"] == (STEPS if not limit else 2 * STEPS_PER_EPOCH)
    assert_same_end(again, run)
    assert again.trainer.optimizer.state_dict()["state"][0]["step"] == run.state["global_step"]


@pytest.mark.parametrize("change", [{"max_steps": STEPS + 3}, {"max_steps": -1, "num_train_epochs": 3}])
def test_more_steps_are_taken_with_a_warning(change, base, stopped_after, caplog):
    output = stopped_after(STEPS)
    run = train(base, output, resume_from_checkpoint="true", save_every_steps=100, **change)
    assert f"Resume: from here on max_steps: {STEPS} in the checkpoint, now {change['max_steps']}" in caplog.text
    if "num_train_epochs" in change:
        assert "Resume: from here on num_train_epochs: 1" in caplog.text
    assert run.state["global_step"] == (STEPS + 3 if change["max_steps"] > 0 else 3 * STEPS_PER_EPOCH)


# --- what is refused --------------------------------------------------------------------------------------------


def fingerprint(output: Path) -> dict[str, tuple]:
    return {
        str(path.relative_to(output)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in output.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rate": 2e-3}, ["learning_rate: 0.001 in the checkpoint, now 0.002"]),
        ({"pairs_per_step": 4}, ["pairs_per_step: 8 in the checkpoint, now 4"]),
        ({"seed": 7}, ["seed: 42 in the checkpoint, now 7"]),
        ({"seed": 7, "learning_rate": 2e-3}, ["seed: 42", "learning_rate: 0.001"]),
        ({"model": "weights"}, ["model_name: started from the weights"]),
        ({"model": "size"}, ["model, hidden_size: 64 in the checkpoint, now 32", "model_name: "]),
        ({"data": "other"}, ["train_set_path: "]),
        ({"data": "fewer"}, ["train_set_path: ", "training pairs: 45 in the checkpoint, now 36"]),
        ({"data": "changed"}, ["train_set_path: the same name, but other pairs or other tokens in it"]),
    ],
)
def test_another_run_is_refused(change, named, base, build_model, rows, stopped_after, tmp_path, capsys):
    output = stopped_after(2, 4)
    train_file = base["train_set_path"]
    flags = base | {name: value for name, value in change.items() if name not in ("model", "data")}
    if "model" in change:
        flags["model_name"] = build_model(seed=1) if change["model"] == "weights" else build_model(hidden_size=32)
    original = train_file.read_text()
    if "data" in change:
        others = {"other": learnable_preferences(20, seed=4)[:50], "fewer": rows[:40], "changed": rows[:50]}
        changed = json.loads(json.dumps(others[change["data"]]))
        if change["data"] == "changed":  # one word in one row, under the same name
            changed[20]["chosen"][-1]["content"] += " Yes."
        flags["train_set_path"] = train_file if change["data"] == "changed" else tmp_path / "other.jsonl"
        write_rows(flags["train_set_path"], changed)
    before = fingerprint(output)
    try:
        status, message = ended(flags, output, capsys, resume_from_checkpoint="true")
    finally:
        train_file.write_text(original)
    assert status == 2
    assert f"--resume_from_checkpoint {output / 'checkpoint-4'}: expected the run that this" in message
    assert all(name in message for name in named), message
    assert fingerprint(output) == before


# --- the best model ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("metric", "limit"), [("eval_accuracy", 1), ("eval_loss", 2)])
def test_the_best_model_is_kept(metric, limit, base, tmp_path):
    """Evaluated more often than saved: a new best one is saved all the same. Of a high rate the last is not best."""
    best = {"load_best_model_at_end": "true", "metric_for_best_model": metric, "save_total_limit": limit}
    flags = base | best | {"save_every_steps": 4, "eval_every_steps": 1, "learning_rate": 2e-2}
    del flags["eval_strategy"]
    output = tmp_path / "output"
    run = train(flags, output)
    measured = {entry["step"]: entry[metric] for entry in run.history if metric in entry}
    assert len(measured) == STEPS
    top = max(measured.values()) if metric == "eval_accuracy" else min(measured.values())
    step = next(step for step, value in measured.items() if value == top)
    assert run.state["best_global_step"] == step < STEPS
    assert steps_in(output) == [step, STEPS]
    assert same_weights(run.model, output / f"checkpoint-{step}")
    assert not same_weights(run.model, output / f"checkpoint-{STEPS}")
    again = train(flags, output, resume_from_checkpoint="true")
    assert same_weights(again.model, output / f"checkpoint-{step}")


def test_save_total_limit(base, tmp_path):
    """Every number of it: test_checkpoints.py."""
    output = tmp_path / "output"
    train(base, output, save_every_steps=2, save_total_limit=2)
    assert steps_in(output) == [12, STEPS]


def test_the_best_of_another_folder(base, tmp_path):
    """Resumed elsewhere, the best checkpoint is still the one beside the checkpoint that was taken."""
    best = {"load_best_model_at_end": "true", "metric_for_best_model": "eval_loss"}
    flags = base | best | {"eval_every_steps": 1, "learning_rate": 2e-2}
    del flags["eval_strategy"]
    first = train(flags, tmp_path / "first")
    step = first.state["best_global_step"]
    assert step < STEPS - 1
    run = train(flags, tmp_path / "second", resume_from_checkpoint=tmp_path / "first" / f"checkpoint-{STEPS - 1}")
    assert run.state["best_global_step"] == step
    assert same_weights(run.model, tmp_path / "first" / f"checkpoint-{step}")


# --- two runs in one folder ---------------------------------------------------------------------------------


def test_a_folder_that_another_run_writes_to_is_refused(base, tmp_path, monkeypatch):
    """As the workers of a killed launcher do; once they have ended, it is free."""
    monkeypatch.setattr(output_folder, "SECONDS_TO_WAIT_FOR_A_RUN", 0)
    with output_folder.only_run_in(str(tmp_path / "output"), 0):
        with pytest.raises(UserError, match="no other run writes to"):
            train(base, tmp_path / "output", resume_from_checkpoint="true")
        assert not list((tmp_path / "output").iterdir())
    train(base, tmp_path / "output", resume_from_checkpoint="true")


HOLD_AND_DIE = """
import os, signal, sys, time
from reward_modeling.checkpoints.output_folder import only_run_in
with only_run_in(sys.argv[1], 0):
    if os.fork() == 0:
        time.sleep(60)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_that_outlive_a_killed_run_do_not_hold_its_folder(base, tmp_path, monkeypatch):
    """As those do that tokenise."""
    group = subprocess.Popen([sys.executable, "-c", HOLD_AND_DIE, tmp_path / "output"], start_new_session=True)
    assert group.wait(timeout=60) == -signal.SIGKILL
    monkeypatch.setattr(output_folder, "SECONDS_TO_WAIT_FOR_A_RUN", 0)
    try:
        with output_folder.only_run_in(str(tmp_path / "output"), 0):
            os.killpg(group.pid, 0)  # one is still there
    finally:
        os.killpg(group.pid, signal.SIGKILL)


# --- what fresh eyes found --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_sigterm_to_the_launcher(base, whole, tmp_path):
    """accelerate's launcher of one process dies at once and tells nobody."""
    flags = base | {"save_every_steps": 100}
    output = tmp_path / "output"
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"]
    _, *rest = command_of(flags, output, 1)
    watched = Watched([*launcher, "--mixed_precision", "no", "--dynamo_backend", "no", *rest], output, tmp_path / "log")
    wait_for_step(watched, 2)
    watched.process.send_signal(signal.SIGTERM)
    watched.process.wait(timeout=60)
    deadline = time.monotonic() + 60
    while "Stopped by SIGTERM" not in watched.end_of_log() and time.monotonic() < deadline:
        time.sleep(0.1)
    (step,) = steps_in(output)
    assert step < STEPS
    assert_same_end(train(flags, output, resume_from_checkpoint="true"), whole)


def test_sigterm_during_an_evaluation(base, tmp_path, capsys):
    """It is left half done, and made up for."""
    flags = base | {"save_strategy": "no", "eval_every_steps": 4}
    for name in ("save_every_steps", "eval_strategy"):
        del flags[name]
    reference = train(flags, tmp_path / "reference")
    with pytest.MonkeyPatch.context() as patch:
        compute_loss, get_eval_dataloader = RewardTrainer.compute_loss, RewardTrainer.get_eval_dataloader

        def interrupted(trainer, model, inputs, return_outputs=False, **kwargs):
            if return_outputs and trainer.state.global_step == 8:
                os.kill(os.getpid(), signal.SIGTERM)
            return compute_loss(trainer, model, inputs, return_outputs, **kwargs)

        def twice(trainer, dataset=None):
            """So that there is a micro-batch after the signal. Read when it is asked for: a loader draws a number."""
            loader = get_eval_dataloader(trainer, dataset)
            return itertools.chain(loader, loader) if trainer.state.global_step == 8 else loader

        patch.setattr(RewardTrainer, "compute_loss", interrupted)
        patch.setattr(RewardTrainer, "get_eval_dataloader", twice)
        status, _ = ended(flags, tmp_path / "output", capsys)
    assert status == EXIT_STATUS
    assert steps_in(tmp_path / "output") == [8]
    run = train(flags, tmp_path / "output", resume_from_checkpoint="true")
    assert_same_end(run, reference)


@contextmanager
def sigterm_in_the_next_evaluation() -> Iterator[None]:
    """Before a micro-batch of it that is not the last one."""
    get_eval_dataloader = RewardTrainer.get_eval_dataloader

    def interrupted(trainer, dataset=None):
        loader = get_eval_dataloader(trainer, dataset)
        os.kill(os.getpid(), signal.SIGTERM)
        return itertools.chain(loader, loader)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RewardTrainer, "get_eval_dataloader", interrupted)
        yield


def test_sigterm_before_the_first_step(base, whole, tmp_path, capsys):
    """In the evaluation before it: no checkpoint is spoken of that is not there."""
    flags = base | {"eval_on_start": "true"}
    with sigterm_in_the_next_evaluation():
        status, message = ended(flags, tmp_path / "output", capsys)
    assert status == EXIT_STATUS and steps_in(tmp_path / "output") == []
    assert f"Stopped by SIGTERM before the first step of {STEPS}: there is nothing to save" in message
    run = train(flags, tmp_path / "output", resume_from_checkpoint="true")
    assert same_weights(run.model, whole.model)


def test_sigterm_before_the_first_step_of_a_resume_from_elsewhere(base, whole, tmp_path, capsys):
    """In the evaluation that is made up for: --resume_from_checkpoint true would start afresh."""
    checkpoint = whole.output / f"checkpoint-{STEPS_PER_EPOCH}"
    with sigterm_in_the_next_evaluation():
        status, message = ended(base, tmp_path / "output", capsys, resume_from_checkpoint=checkpoint)
    assert status == EXIT_STATUS and steps_in(tmp_path / "output") == []
    assert f"--resume_from_checkpoint {checkpoint} --overwrite_output_dir true" in message
    run = train(base, tmp_path / "output", resume_from_checkpoint=checkpoint, overwrite_output_dir="true")
    assert_same_end(run, whole)


@pytest.mark.parametrize("name", ["optimizer.pt", "model.safetensors", "trainer_state.json", "contents.json"])
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_a_checkpoint_that_a_copy_has_torn_is_refused_and_passed_over(name, how, stopped_after):
    """Never the optimizer from nothing without a word."""
    output = stopped_after(2, 4)
    tear(output / "checkpoint-4" / name, how)
    with pytest.raises(UserError, match=r"with all the files that its contents\.json lists"):
        checkpoint_to_resume(str(output), str(output / "checkpoint-4"))
    assert checkpoint_to_resume(str(output), "true") == str(output / "checkpoint-2")


@pytest.mark.parametrize("name", ["optimizer.pt", "model.safetensors", "rng_state.pth"])
def test_a_damaged_file_of_the_right_size_is_found(name, stopped_after, caplog):
    """One bit. A checkpoint of an earlier version, which lists sizes alone, is taken as it is."""
    output = stopped_after(1, 2, 4)
    for step in (2, 4):
        file = output / f"checkpoint-{step}" / name
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    with pytest.raises(UserError, match=f"found that {name} is not"):
        checkpoint_to_resume(str(output), str(output / "checkpoint-4"))
    assert checkpoint_to_resume(str(output), "true") == str(output / "checkpoint-1")
    assert caplog.text.count("is damaged, and is passed over") == 2
    contents = output / "checkpoint-4" / "contents.json"
    entries = json.loads(contents.read_text())
    assert entries.keys() == FILES - {"contents.json"} and all("xxh3_128" in entry for entry in entries.values())
    contents.write_text(json.dumps({file: entry["bytes"] for file, entry in entries.items()}))
    assert checkpoint_to_resume(str(output), "true") == str(output / "checkpoint-4")


def tear(file: Path, how: str) -> None:
    if how == "cut":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        file.unlink()


def test_the_run_of_a_checkpoint_that_a_copy_has_torn(base, whole, stopped_after, capsys):
    """Never a traceback."""
    output = stopped_after(2, 4)
    tear(output / "checkpoint-4" / "optimizer.pt", "cut")
    status, message = ended(base, output, capsys, resume_from_checkpoint=output / "checkpoint-4")
    assert status == 2
    assert "with all the files that its contents.json lists" in message
    run = train(base | {"save_every_steps": 100}, output, resume_from_checkpoint="true")
    assert run.losses() == whole.losses()
    assert same_weights(run.model, whole.model)


def test_an_output_folder_is_no_checkpoint(base, whole, tmp_path, capsys):
    """It has a trainer_state.json; with leave to overwrite, all its checkpoints would go first."""
    output = Path(shutil.copytree(whole.output, tmp_path / "output"))
    before = names(output)
    status, message = ended(base, output, capsys, resume_from_checkpoint=output, overwrite_output_dir="true")
    assert status == 2
    assert "expected true or a checkpoint-N folder" in message
    assert names(output) == before


def test_a_checkpoint_that_is_a_link(base, whole, stopped_after, tmp_path):
    """Moved to another disk: it is still of this folder."""
    output = stopped_after(2, 4)
    (output / "checkpoint-4").rename(tmp_path / "elsewhere")
    (output / "checkpoint-4").symlink_to(tmp_path / "elsewhere")
    run = train(base, output, resume_from_checkpoint="true", overwrite_output_dir="true")
    assert same_weights(run.model, whole.model)
    assert (output / "checkpoint-2").is_dir() and (tmp_path / "elsewhere").is_dir()


@pytest.mark.parametrize(
    "changes",
    [
        {"adam_beta1": 0.5},
        {"adam_epsilon": 1e-3},
        {"metric_for_best_model": "accuracy"},
        {"lr_scheduler_type": "linear"},
    ],
    ids=str,
)
def test_flags_that_would_have_no_effect_are_refused(changes, base, stopped_after, capsys):
    status, message = ended(base, stopped_after(4), capsys, resume_from_checkpoint="true", **changes)
    assert status == 2
    assert f"- {next(iter(changes))}: " in message


def test_another_evaluation_set_is_refused_where_it_changes_the_training_set(base, stopped_after, rows, tmp_path):
    other = write_rows(tmp_path / "eval.jsonl", rows[-4:])
    run = train(base, stopped_after(4), resume_from_checkpoint="true")
    flags = {"eval_set_path": other, "resume_from_checkpoint": run.output / "checkpoint-4"}
    with pytest.raises(
        UserError, match="eval_set_path: None in the checkpoint"
    ):  # the rows held out are trained on now
        train(base, run.output, **flags)


def test_the_final_model_of_an_earlier_run_is_put_aside(base, whole, tmp_path):
    output = Path(shutil.copytree(whole.output, tmp_path / "output"))
    train(base, output, resume_from_checkpoint=output / "checkpoint-3", max_steps=STEPS + 2)
    assert same_weights(output / "superseded-last_checkpoint", whole.model)
    assert not same_weights(output / "last_checkpoint", whole.model)
