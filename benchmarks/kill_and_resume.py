"""Kill rm.py with SIGKILL at random moments, start it again until it ends, and compare with an undisturbed run.

A tiny Gemma with attention dropout, so that random numbers matter, takes 40 steps over two epochs. A run is killed a
dozen times: while it starts, in a step, while a checkpoint is written, published or deleted, while the final model is
written, and after. A third of the kills wait for the folder of a checkpoint that is being written to appear. After
every kill each checkpoint-N must be complete and, bit by bit, the one of the undisturbed run, and the newest one may
not be older than it was; in the end weights, losses and evaluations must be those of the undisturbed run. Ends with
status 1 if anything differs.

    python benchmarks/kill_and_resume.py --kills 100 --output kills.json
    python benchmarks/kill_and_resume.py --kills 20 --processes 2     # DDP under torchrun
    python benchmarks/kill_and_resume.py --kills 10 --processes 2 --engine zero3 \\
        --hows all:SIGKILL rank:SIGKILL launcher:SIGKILL group:SIGINT rank:SIGUSR1
"""

import argparse
import functools
import itertools
import json
import os
import platform
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import psutil
import torch
import yaml
from safetensors.torch import load_file
from transformers.trainer_pt_utils import safe_globals

from reward_modeling.checkpoints.folders import step_of
from reward_modeling.common.atomic import DISCARDED, REPLACED, UNFINISHED
from reward_modeling.common.file_names import CHECKPOINT, LAST_CHECKPOINT, TRAINER_STATE

ENGINES = {"ddp": "cpu_two_processes", "zero2": "deepspeed_zero2", "zero3": "deepspeed_zero3", "fsdp2": "fsdp2"}
HOWS = (
    "all:SIGKILL",
    "rank:SIGKILL",
    "launcher:SIGKILL",
    "launcher:SIGINT",
    "group:SIGINT",
    "rank:SIGINT",
    "rank:SIGUSR1",
    "launcher:SIGUSR1",
    "group:SIGUSR1",
)
WITH_NINJA = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # which DeepSpeed calls
SECONDS_TO_LEAVE = 90  # for a process that saves a checkpoint first; then it is killed, which counts as a difference
SCRIPT = Path(__file__).resolve().parents[1] / "rm.py"
STEPS = 40
EXTENSIONS = "torch_extensions"  # a folder of its own: other programs wait for the lock that a kill leaves there
LONGEST = 600  # seconds that one process may take
GLANCE = 0.0005  # seconds between two looks at the output folder
FLAGS = {
    "max_length": 256,
    "max_steps": STEPS,
    "pairs_per_step": 8,
    "learning_rate": 1e-3,
    "eval_size": 10,
    "logging_steps": 1,
    "report_to": "none",
    "use_cpu": "true",
    "num_proc": 1,
}
SCENARIOS = {
    "newest": {
        "save_every_steps": 2,
        "eval_every_steps": 4,
        "save_total_limit": 2,
        "verify_saved_model": "false",
    },
    # A new best one is saved at evaluations between the regular checkpoints, too.
    "best": {
        "save_every_steps": 4,
        "eval_every_steps": 2,
        "save_total_limit": 1,
        "load_best_model_at_end": "true",
        "metric_for_best_model": "eval_loss",
        "verify_saved_model": "true",
    },
}
# Where a kill fell, by what the dead process has left.
PLACES = (
    "before the first step",
    "in training",
    "a checkpoint half written",
    "a checkpoint half deleted or replaced",
    "last_checkpoint half written",
    "after last_checkpoint was written",
)
TIMES_DIFFER = ("runtime", "per_second", "peak_memory")  # figures of the log that no two runs share


# --- what is trained ------------------------------------------------------------------------------------------


def prepare(folder: Path) -> dict[str, object]:
    """A tiny model and its pairs in `folder`. Returns the flags that name them."""
    from reward_modeling.tiny.models import build_tiny_checkpoint, tiny_config
    from reward_modeling.tiny.preferences import learnable_preferences
    from reward_modeling.tiny.tokenizers import TOKENIZER_STYLES, token_ids, train_tokenizer

    rows = learnable_preferences(60, seed=5)
    data = folder / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = train_tokenizer([row["chosen"][-1]["content"] for row in rows], 512, **TOKENIZER_STYLES["gemma"])
    config = tiny_config("gemma", len(tokenizer), attention_dropout=0.1, **token_ids(tokenizer))
    model = build_tiny_checkpoint(folder / "model", tokenizer, config)
    return FLAGS | {"model_name": model, "train_set_path": data}


def launch_file(engine: str, folder: Path, processes: int) -> Path:
    """The launch file that the project ships, for processes on this machine's CPU."""
    settings = yaml.safe_load((SCRIPT.parent / f"accelerate_configs/{ENGINES[engine]}.yaml").read_text())
    settings |= {"use_cpu": True, "num_processes": processes}
    if deepspeed := settings.get("deepspeed_config"):
        deepspeed["deepspeed_config_file"] = str(SCRIPT.parent / deepspeed["deepspeed_config_file"])
    file = folder / f"{engine}.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


def command_of(flags: dict[str, object], output: Path, processes: int, engine: str | None = None) -> list[str]:
    """`engine`: under accelerate's launcher; None for torchrun, or for no launcher of one process."""
    launcher = [sys.executable]
    if engine is not None:
        file = launch_file(engine, output.parent, processes)
        launcher += ["-m", "accelerate.commands.launch", "--config_file", str(file), "--main_process_port", "0"]
    elif processes > 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        launcher += ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={port}"]
    arguments = [token for name, value in (flags | {"output_path": output}).items() for token in (f"--{name}", value)]
    return [*launcher, str(SCRIPT), *map(str, arguments)]


# --- a process that is watched --------------------------------------------------------------------------------


def folders_in(output: Path) -> dict[int, str]:
    """Names by inode, which stays the same when a folder is renamed."""
    try:
        return {entry.inode(): entry.name for entry in os.scandir(output)}
    except FileNotFoundError:
        return {}


def is_launched(command: list[str]) -> bool:
    return bool({"torch.distributed.run", "accelerate.commands.launch"} & set(command))


class Watched:
    """A process of rm.py, what it can be seen to do, and its end."""

    def __init__(self, command: list[str], output: Path, log: Path):
        self.output, self.log, self.has_launcher = output, log, is_launched(command)
        self.stayed = False  # it was told to leave, and did not
        self.found = folders_in(output)  # what was there before, under any name
        # Of what is removed, the file system gives the inode to something new, but not while it is open.
        self.held_open = [os.open(output / name, os.O_RDONLY) for name in self.found.values()]
        self.steps: list[int] = []  # that it has logged
        environment = os.environ | {
            "PYTHONUNBUFFERED": "1",
            "PATH": WITH_NINJA,
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        environment |= {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "HF_HOME": str(log.parent / "cache")}
        environment |= {"TORCH_EXTENSIONS_DIR": str(log.parent / EXTENSIONS)}
        with log.open("wb") as sink:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True, env=environment
            )
        self.started = time.perf_counter()
        self.lines, self.partial = log.open(errors="replace"), ""

    @property
    def age(self) -> float:
        return time.perf_counter() - self.started

    def ended(self) -> bool:
        if self.age > LONGEST:
            self.kill()
            raise RuntimeError(f"the process took more than {LONGEST} s:\n{self.end_of_log()}")
        return self.process.poll() is not None

    def new_folders(self) -> list[str]:
        return [name for inode, name in folders_in(self.output).items() if inode not in self.found]

    def read_steps(self) -> None:
        *lines, self.partial = (self.partial + self.lines.read()).split("\n")
        for line in lines:
            words = line.rpartition("\r")[2].split()
            if words[:1] == ["step"] and words[2:3] == ["loss"]:
                self.steps.append(int(words[1].split("/")[0]))

    def kill(self) -> None:
        """The process first, for some moments are short, and all that it has started, if in sessions of their own."""
        family = psutil.Process(self.process.pid).children(recursive=True) if self.has_launcher else []
        os.killpg(self.process.pid, signal.SIGKILL)
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=30)
        self.process.wait(timeout=30)
        self.read_steps()

    def signal_one(self, how: str, rng: random.Random) -> None:
        """To one rank, to the launcher, or to the whole group as a terminal does; then wait until all have ended."""
        target, _, name = how.partition(":")
        number, family = getattr(signal, name), psutil.Process(self.process.pid).children(recursive=True)
        ranks = [child for child in family if str(SCRIPT) in " ".join(child.cmdline())] or [self.process]
        if target == "group":
            os.killpg(self.process.pid, number)
        elif target == "rank":
            rng.choice(ranks).send_signal(number)
        else:
            self.process.send_signal(number)
        try:
            self.process.wait(timeout=SECONDS_TO_LEAVE)
        except subprocess.TimeoutExpired:
            self.stayed = True
            self.kill()
        _, alive = psutil.wait_procs(family, timeout=SECONDS_TO_LEAVE)
        self.stayed = self.stayed or bool(alive)
        for child in alive:
            child.kill()
        self.read_steps()

    def close(self) -> None:
        self.lines.close()
        for descriptor in self.held_open:
            os.close(descriptor)

    def end_of_log(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]


# --- when to kill -----------------------------------------------------------------------------------------------


@dataclass
class Aim:
    """The moment to kill at: `delay` seconds after the event happened for the `count`th time."""

    event: str
    count: int
    delay: float

    def happened(self, watched: Watched, seen: set[str]) -> bool:
        if self.event == "start":
            return True
        if self.event == "step":
            return len(watched.steps) >= self.count
        for name in watched.new_folders():
            if self.event == "writing" and name.startswith(f"{UNFINISHED}{CHECKPOINT}"):
                seen.add(name)
            if self.event == "publishing" and name.startswith((CHECKPOINT, DISCARDED, REPLACED)):
                seen.add(name)
            if self.event == "writing the end" and name == f"{UNFINISHED}{LAST_CHECKPOINT}":
                seen.add(name)
            if self.event == "the end" and name == LAST_CHECKPOINT:
                seen.add(name)
        return len(seen) >= self.count


def choose_aim(rng: random.Random, newest: int, start_up: float, writing: float) -> Aim:
    """By weight; near the end of training the final phase. `start_up` and `writing` are how long these take."""
    if newest >= STEPS - 6 and rng.random() < 0.65:
        if rng.random() < 0.6:
            return Aim("writing the end", 1, rng.uniform(0, writing))
        return Aim("the end", 1, rng.choice((rng.uniform(0, 0.02), rng.uniform(0, 5))))
    event = rng.choices(("start", "step", "writing", "publishing"), (3, 5, 11, 3))[0]
    if event == "start":
        return Aim(event, 1, rng.uniform(0, 0.8 * start_up))  # measured with a cold cache
    if event == "step":
        return Aim(event, rng.randint(1, 6), rng.uniform(0, 0.1))
    if event == "writing":
        return Aim(event, rng.randint(1, 3), rng.uniform(0, 0.7 * writing))
    # Each checkpoint brings its own name, and from the third on a deletion.
    return Aim(event, rng.randint(1, 5), rng.uniform(0, 0.002))


def kill_in_time(watched: Watched, aim: Aim, how: str = HOWS[0], rng: random.Random | None = None) -> bool:
    """Wait for the moment and kill, or send a signal. False where the process came to its end by itself."""
    seen: set[str] = set()
    while not watched.ended():
        watched.read_steps()
        if aim.happened(watched, seen):
            moment = time.perf_counter() + aim.delay
            while time.perf_counter() < moment:
                if watched.ended():
                    return False
                time.sleep(min(0.05, max(0.0, moment - time.perf_counter())))
            if how != HOWS[0]:
                watched.signal_one(how, rng)
                return watched.process.returncode != 0
            watched.kill()
            return watched.process.returncode == -signal.SIGKILL
        time.sleep(GLANCE)
    watched.read_steps()
    return False


def place_of_death(watched: Watched) -> str:
    names = watched.new_folders()
    if f"{UNFINISHED}{LAST_CHECKPOINT}" in names:
        return PLACES[4]
    if any(name.startswith(f"{UNFINISHED}{CHECKPOINT}") for name in names):
        return PLACES[2]
    # What it is about to delete may have been there before it: the name is the sign.
    if any(name.startswith((DISCARDED, REPLACED)) for name in folders_in(watched.output).values()) and watched.steps:
        return PLACES[3]
    if LAST_CHECKPOINT in names:
        return PLACES[5]
    return PLACES[1] if watched.steps else PLACES[0]


# --- what must hold -----------------------------------------------------------------------------------------------


def same(found: object, expected: object) -> bool:
    """Equal in type, structure and every bit of their tensors and arrays."""
    if type(found) is not type(expected):
        return False
    if isinstance(expected, torch.Tensor):
        return found.dtype == expected.dtype and torch.equal(found, expected)
    if isinstance(expected, np.ndarray):
        return found.dtype == expected.dtype and np.array_equal(found, expected)
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(same, found, expected))
    return found == expected


def load(path: Path) -> object:
    with safe_globals():
        return torch.load(path, weights_only=True)


def history_of(state_file: Path) -> tuple[dict, list[dict]]:
    """The state and its losses and evaluations, without the figures that no two runs share."""
    state = json.loads(state_file.read_text())
    entries = [entry for entry in state["log_history"] if "loss" in entry or "eval_loss" in entry]
    return state, [
        {name: value for name, value in entry.items() if not any(part in name for part in TIMES_DIFFER)}
        for entry in entries
    ]


def first_difference(history: list[dict], expected: list[dict]) -> str:
    """The first figure of two logs that is not the same."""
    for found, other in zip(history, expected, strict=False):
        names = [name for name in found.keys() | other.keys() if found.get(name) != other.get(name)]
        if names:
            figures = ", ".join(f"{name} {found.get(name)} for {other.get(name)}" for name in sorted(names))
            return f"of step {other['step']} {figures}"
    return f"{len(history)} entries for {len(expected)}"


def differences_of_checkpoint(checkpoint: Path, reference: Path) -> list[str]:
    """Why `checkpoint` is not, bit by bit, that of the undisturbed run. Empty if it is."""
    if not reference.is_dir():
        return [f"{checkpoint.name}: the undisturbed run has none"]
    files = {path.name for path in reference.iterdir()}
    found = {path.name for path in checkpoint.iterdir()}
    if found != files:
        return [f"{checkpoint.name}: missing {sorted(files - found)}, unexpected {sorted(found - files)}"]
    wrong = []
    try:
        for name in sorted(files):
            if name.endswith(".safetensors") and not same(load_file(checkpoint / name), load_file(reference / name)):
                wrong.append(name)
            if name.endswith((".pt", ".pth")) and not same(load(checkpoint / name), load(reference / name)):
                wrong.append(name)
        json.loads((checkpoint / "config.json").read_text())
        json.loads((checkpoint / "resume.json").read_text())
        state, history = history_of(checkpoint / TRAINER_STATE)
    except Exception as error:  # whatever a torn file makes of it
        return [f"{checkpoint.name}: cannot be read: {type(error).__name__}: {error}"]
    expected = history_of(reference / TRAINER_STATE)[1]
    # A run that is told to leave saves before the evaluation of its step, which the resumed one makes.
    before_evaluation = [entry for entry in expected if "loss" in entry or entry["step"] != step_of(checkpoint)]
    if state["global_step"] != step_of(checkpoint) or history not in (expected, before_evaluation):
        wrong.append(f"{TRAINER_STATE} (step {state['global_step']}; {first_difference(history, expected)})")
    return [f"{checkpoint.name}: {name} differs from the undisturbed run's" for name in wrong]


def checkpoints_in(output: Path) -> list[Path]:
    """By name alone: each of them must be complete."""
    found = [path for path in output.glob(f"{CHECKPOINT}*") if path.name.removeprefix(CHECKPOINT).isdigit()]
    return sorted(found, key=step_of)


def newest_step(output: Path) -> int:
    return max(map(step_of, checkpoints_in(output)), default=0)


def differences_of_end(output: Path, reference: Path) -> list[str]:
    differences = []
    final, expected = (folder / LAST_CHECKPOINT for folder in (output, reference))
    if {path.name for path in final.iterdir()} != {path.name for path in expected.iterdir()}:
        differences.append(f"{LAST_CHECKPOINT}: other files than in the undisturbed run's")
    if not same(load_file(final / "model.safetensors"), load_file(expected / "model.safetensors")):
        differences.append(f"{LAST_CHECKPOINT}: other weights than the undisturbed run's")
    state, history = history_of(output / TRAINER_STATE)
    expected_state, expected_history = history_of(reference / TRAINER_STATE)
    if history != expected_history:
        first = first_difference(history, expected_history)
        differences.append(f"the losses or evaluations of the log differ from the undisturbed run's: {first}")
    if [entry["step"] for entry in history if "loss" in entry] != list(range(1, STEPS + 1)):
        differences.append("the log does not have every step once")
    for name in ("global_step", "best_global_step", "best_metric"):
        if state[name] != expected_state[name]:
            differences.append(f"{name}: {state[name]}, in the undisturbed run {expected_state[name]}")
    for path in output.iterdir():
        if path.name.startswith((UNFINISHED, DISCARDED, REPLACED)):
            differences.append(f"{path.name} was left behind")
    return differences


# --- runs ---------------------------------------------------------------------------------------------------------


@dataclass
class Results:
    """What happened; the JSON file holds these fields under their names."""

    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PLACES, 0))
    aims: dict[str, int] = field(default_factory=dict)
    hows: dict[str, int] = field(default_factory=dict)
    processes_started: int = 0
    checkpoints_compared: int = 0
    runs_compared: int = 0
    steps_taken: int = 0
    steps_taken_twice: int = 0
    differences: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def num_kills(self) -> int:
        return sum(self.kills.values())


class Experiment:
    """Undisturbed runs to compare with, and runs that are killed."""

    def __init__(
        self,
        folder: Path,
        flags: dict[str, object],
        processes: int,
        engine: str | None = None,
        hows: Sequence[str] = HOWS[:1],
        seed: int = 0,
    ):
        self.folder, self.flags, self.processes, self.engine, self.hows = folder, flags, processes, engine, hows
        self.rng = random.Random(seed)
        self.references: dict[str, Path] = {}
        self.start_up = 10.0  # seconds until the first step, and that a checkpoint is written for
        self.writing = 0.03
        self.results = Results()

    def start(self, name: str, output: Path, **changes: object) -> Watched:
        for lock in (self.folder / EXTENSIONS).glob("*/lock"):
            lock.unlink()  # as rm.py's message says: who was killed while DeepSpeed loaded has left it
        command = command_of(self.flags | SCENARIOS[name] | changes, output, self.processes, self.engine)
        return Watched(command, output, self.folder / f"{output.name}.log")

    def reference(self, name: str) -> Path:
        """The undisturbed run, with all the checkpoints that it made."""
        if name not in self.references:
            output = self.folder / f"undisturbed-{name}"
            if not self.references and str(self.engine).startswith("zero"):
                self._compile(name)
            # Who is told to leave saves a checkpoint at any step: there has to be one to compare it with.
            every_step = {} if all(how.endswith("SIGKILL") for how in self.hows) else {"save_every_steps": 1}
            watched = self.start(name, output, save_total_limit=STEPS, **every_step)
            self._observe(watched)
            watched.close()
            if watched.process.returncode:
                raise RuntimeError(f"the undisturbed run failed:\n{watched.end_of_log()}")
            print(
                f"undisturbed run {name!r}: {watched.age:.0f} s, {self.start_up:.0f} s of it before the first step; a "
                f"checkpoint is written in {1000 * self.writing:.0f} ms",
                flush=True,
            )
            self._require_randomness(output)
            self.references[name] = output
        return self.references[name]

    def _compile(self, name: str) -> None:
        """DeepSpeed compiles at its first start, whose length is none to aim by."""
        watched = self.start(name, self.folder / "compiled", max_steps=1)
        if status := watched.process.wait(timeout=LONGEST):
            raise RuntimeError(f"the first start ended with status {status}:\n{watched.end_of_log()}")
        watched.close()

    def _observe(self, watched: Watched) -> None:
        """How long start-up and a checkpoint's writing take: the moments to aim at."""
        began: dict[str, float] = {}
        lasted: dict[str, float] = {}
        while not watched.ended():
            watched.read_steps()
            if not watched.steps:
                self.start_up = watched.age
            writing = [name for name in watched.new_folders() if name.startswith(UNFINISHED)]
            for name in writing:
                began.setdefault(name, watched.age)
                lasted[name] = watched.age - began[name]
            time.sleep(GLANCE)
        # on a busy machine every checkpoint may be written between two glances
        self.writing = statistics.median(lasted.values()) if lasted else GLANCE

    def _require_randomness(self, output: Path) -> None:
        """Training must draw random numbers, or restoring their generators would prove nothing."""
        name = "rng_state.pth" if self.processes == 1 else "rng_state_0.pth"
        states = [load(path) for path in sorted(output.glob(f"{CHECKPOINT}*/{name}"))]
        drawn = {state["cpu"].numpy().tobytes() for state in states}
        if len(drawn) != len(states):
            raise RuntimeError("two checkpoints have the same state of the random numbers: training drew none")

    def random_aims(self, rng: random.Random, most: int) -> Callable[[int], Aim | None]:
        left = itertools.repeat(None, most)
        choose = functools.partial(choose_aim, rng, start_up=self.start_up, writing=self.writing)
        return lambda newest: next((choose(newest) for _ in left), None)

    def killed_run(self, name: str, output: Path, next_aim: Callable[[int], Aim | None]) -> None:
        """Start and kill until it ends by itself; compare. `next_aim(newest checkpoint)`: None to let it end."""
        reference, results, steps_taken, kills = self.reference(name), self.results, 0, 0
        while True:
            before = newest_step(output)
            aim = next_aim(before)
            watched = self.start(name, output, resume_from_checkpoint="true")
            results.processes_started += 1
            how = self.hows[results.num_kills % len(self.hows)]
            killed = kill_in_time(watched, aim or Aim("the end", 2, 0), how, self.rng)  # which never happens
            steps_taken += len(watched.steps)
            self.check(output, reference, before)
            if killed:
                self._count_kill(watched, name, aim, before, how)
            watched.close()
            if not killed:
                break
            kills += 1
        status = watched.process.returncode
        if status:
            results.differences.append(f"{name}: the process ended by itself with status {status}")
            print(watched.end_of_log())
            return
        found = differences_of_end(output, reference)
        results.differences += [f"{name}: {difference}" for difference in found]
        results.runs_compared += 1
        results.steps_taken += steps_taken
        results.steps_taken_twice += steps_taken - STEPS
        print(f"run {name!r} ended after {kills} kills: {'; '.join(found) or 'bit-equal'}", flush=True)

    def _count_kill(self, watched: Watched, name: str, aim: Aim, before: int, how: str) -> None:
        place = place_of_death(watched)
        self.results.hows[how] = self.results.hows.get(how, 0) + 1
        if watched.stayed:
            self.results.differences.append(f"{name}: processes outlived {how} by {SECONDS_TO_LEAVE} s")
        self.results.kills[place] += 1
        self.results.aims[aim.event] = self.results.aims.get(aim.event, 0) + 1
        last = watched.steps[-1] if watched.steps else "-"
        print(
            f"kill {self.results.num_kills:>3}  {name:<7} at {watched.age:5.1f} s  from step {before:>2}, last logged "
            f"{last:>2}, newest checkpoint {newest_step(watched.output):>2}, aim {aim.event!r} {aim.count}, "
            f"{how}: {place}",
            flush=True,
        )

    def check(self, output: Path, reference: Path, before: int) -> None:
        """Every checkpoint is what it should be, and the newest is not older than it was."""
        for checkpoint in checkpoints_in(output):
            self.results.differences += differences_of_checkpoint(checkpoint, reference / checkpoint.name)
            self.results.checkpoints_compared += 1
        if newest_step(output) < before:
            self.results.differences.append(f"the newest checkpoint went back from {before} to {newest_step(output)}")


def table(results: Results) -> str:
    rows = {
        "the signal fell": "kills",
        "---": "---",
        **results.kills,
        "all": results.num_kills,
        "runs compared": results.runs_compared,
        "checkpoints compared bit by bit": results.checkpoints_compared,
        "steps taken": results.steps_taken,
        "of these a second time": results.steps_taken_twice,
        "differences": len(results.differences),
        "minutes": f"{results.seconds / 60:.1f}",
    }
    return "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="as many in all, over several runs")
    parser.add_argument("--processes", type=int, default=1, help="2: DDP under torchrun")
    parser.add_argument("--engine", choices=list(ENGINES), help="under accelerate's launcher, with the shipped file")
    parser.add_argument(
        "--hows", nargs="+", choices=HOWS, default=list(HOWS[:1]), help="who gets which signal, in turn"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--scenarios", nargs="+", default=list(SCENARIOS), choices=list(SCENARIOS))
    parser.add_argument("--kills_per_run", type=int, default=16, help="at most; then a run is let alone")
    parser.add_argument("--output", type=Path, help="write the figures here as JSON")
    options = parser.parse_args()
    rng, started = random.Random(options.seed), time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        experiment = Experiment(folder, prepare(folder), options.processes, options.engine, options.hows, options.seed)
        results = experiment.results
        number = 0
        while results.num_kills < options.kills and not results.differences:
            name = options.scenarios[number % len(options.scenarios)]
            output = folder / f"killed-{number}"
            most = min(options.kills_per_run, options.kills - results.num_kills)
            experiment.killed_run(name, output, experiment.random_aims(rng, most))
            shutil.rmtree(output)
            number += 1
    results.seconds = time.perf_counter() - started
    packages = {name: version(name) for name in ("torch", "transformers", "accelerate", "safetensors")}
    print(table(results), f"{platform.machine()}, {os.cpu_count()} cores, {packages}", *results.differences, sep="\n")
    if options.output:
        record = asdict(results) | {"options": {k: str(v) for k, v in vars(options).items()}, "versions": packages}
        options.output.write_text(json.dumps(record, indent=2) + "\n")
    sys.exit(bool(results.differences))


if __name__ == "__main__":
    main()
