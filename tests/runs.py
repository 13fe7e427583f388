"""Running rm.py in tests: in this process, or launched as a person would."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
import transformers
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import rm
from reward_modeling.common.file_names import REPORT
from reward_modeling.evaluation import files
from reward_modeling.objectives.bradley_terry import BradleyTerry
from reward_modeling.results import model_card, report
from reward_modeling.training import job
from reward_modeling.training.trainer import RewardTrainer

ROOT = Path(__file__).parents[1]


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def as_argv(flags: dict[str, object]) -> list[str]:
    return [token for name, value in flags.items() for token in (f"--{name}", str(value))]


# Of a tiny model: each step is logged.
FEW_STEPS = {
    "max_length": 256,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "report_to": "none",
    "use_cpu": "true",
    "num_proc": 1,
    "verify_saved_model": "false",
}
TO_BE_RESUMED = FEW_STEPS | {"pairs_per_step": 8, "eval_size": 8, "save_every_steps": 1, "eval_strategy": "epoch"}
# The same on several devices, by these two flags.
ON_ENGINES = FEW_STEPS | {
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 8,
    "eval_size": 10,
    "save_every_steps": 6,
    "eval_every_steps": 6,
}


class Run:
    """A finished run: its folder, its log and, where it ran in this process, its trainer and evaluations."""

    def __init__(self, output: Path, trainer: RewardTrainer | None = None, evaluations: list | None = None):
        self.output = output
        self.model = output / "last_checkpoint"
        self.trainer = trainer
        self.evaluations = evaluations
        self.state = json.loads((output / "trainer_state.json").read_text())
        self.history = self.state["log_history"]

    def losses(self) -> list[float]:
        return [entry["loss"] for entry in self.history if "loss" in entry]

    def last(self, name: str) -> float:
        return [entry[name] for entry in self.history if name in entry][-1]


def without_pages(patch: pytest.MonkeyPatch) -> None:
    """Leave out both reports and the model card's plots, which take longer than the training of a tiny model."""
    patch.setattr(report, "write_training_report", lambda output: (output / REPORT).write_text("left out by a test"))
    patch.setattr(files, "write_report", lambda summary, path: path.write_text("left out by a test"))
    patch.setattr(model_card, "_write_plots", lambda folder, kind, evaluation: None)


def train(
    flags: dict[str, object],
    output: Path,
    *,
    pages: bool = False,
    main: Callable[[], None] | None = None,
    **changes: object,
) -> Run:
    """rm.py, or another script's `main`, in this process; without report and plots, unless a test asks for `pages`."""
    trainers, evaluations = [], []
    save_final_model, held_out = job.save_final_model, BradleyTerry.held_out

    def save(trainer, results):
        trainers.append(trainer)
        return save_final_model(trainer, results)

    def keep_rows(self, rows, groups):
        evaluations.append(rows)
        return held_out(self, rows, groups)

    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    with pytest.MonkeyPatch.context() as patch:
        if not pages:
            without_pages(patch)
        patch.setattr(job, "save_final_model", save)
        patch.setattr(BradleyTerry, "held_out", keep_rows)
        patch.setattr(sys, "argv", ["rm.py", *as_argv(flags | {"output_path": output} | changes)])
        (main or rm.main)()  # looked up now: tests put another one in its place
    return Run(output, trainers[0], evaluations)


def launch(
    launcher: list[str],
    flags: dict[str, object],
    output: Path,
    *,
    status: int = 0,
    script: Path = ROOT / "rm.py",
    **environment: str | None,
) -> subprocess.CompletedProcess:
    """rm.py in processes of its own, which are expected to end with this status."""
    variables = {name: value for name, value in (os.environ | environment).items() if value is not None}
    process = subprocess.run(
        [*launcher, str(script), *as_argv(flags | {"output_path": output})],
        env=variables,
        cwd=output.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,  # where it is the first time, DeepSpeed compiles its parts for the CPU
    )
    assert process.returncode == status, process.stdout[-3000:] + process.stderr[-6000:]
    return process


def free_port() -> str:
    """Below those that the system gives to connections, so that none of these takes it before it is used."""
    while True:
        port = random.SystemRandom().randrange(12_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return str(port)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """Of a saved model."""
    return load_file(folder / "model.safetensors")


def same_weights(folder: Path, expected: Path) -> bool:
    """Whether two folders hold the same model, bit for bit."""
    found, expected = weights_of(folder), weights_of(expected)
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@contextmanager
def sigterm_in_step(step: int) -> Iterator[None]:
    """To this process while it computes that step, as a scheduler ends a job."""
    training_step = RewardTrainer.training_step

    def interrupted(trainer, *args, **options):
        if trainer.state.global_step == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return training_step(trainer, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RewardTrainer, "training_step", interrupted)
        yield


def plain_rewards(folder: Path, conversations: list[list[dict]], together: bool) -> list[float]:
    """Rewards as any user of transformers reads them, in one padded batch or each row alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    assert type(model) is getattr(transformers, type(model).__name__)  # none of our code
    texts = tokenizer.apply_chat_template(conversations, tokenize=False)
    batches = [texts] if together else [[text] for text in texts]
    rewards = []
    with torch.no_grad():
        for batch in batches:
            inputs = tokenizer(batch, padding=True, add_special_tokens=False, return_tensors="pt")
            rewards += model(**inputs).logits[:, 0].tolist()
    return rewards


def run_snippets(card: Path) -> list[dict]:
    """The names that each piece of Python of a model card leaves behind."""
    namespaces = []
    for code in re.findall(r"```python\n(.*?)```", card.read_text(encoding="utf-8"), flags=re.DOTALL):
        namespaces.append({})
        exec(code, namespaces[-1])
    return namespaces


def assert_same_figures(run: Run, expected: Run) -> None:
    """evaluation.json and the lines of eval_scores.jsonl, in the same order, of engines that round differently."""
    found, wanted = ([json.loads(line) for line in (of.output / "eval_scores.jsonl").open()] for of in (run, expected))
    assert [line["where"] for line in found] == [line["where"] for line in wanted]
    for name in ("chosen_reward", "rejected_reward", "chosen_tokens", "rejected_tokens"):
        assert [line[name] for line in found] == pytest.approx([line[name] for line in wanted], abs=1e-4)
    found, wanted = (json.loads((of.output / "evaluation.json").read_text()) for of in (run, expected))
    assert (found["step"], found["accuracy"], found["by_source"]) == tuple(
        wanted[name] for name in ("step", "accuracy", "by_source")
    )
    assert found["reward_mean"] == pytest.approx(wanted["reward_mean"], abs=1e-4)
    assert json.loads((run.output / "run.json").read_text())["processes"] == 2
