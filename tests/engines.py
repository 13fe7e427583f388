"""Runs of rm.py over several processes of this machine's CPU: DDP, ZeRO-2, ZeRO-3 and FSDP2.

The launch files and DeepSpeed settings are those that the project ships, with the CPU switched on. `launch_engine`
calls the launcher of accelerate, as a person does, and takes some 15 seconds of imports. `run_engine` gives the same
variables to processes that are forked from one which has imported everything.
"""

import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from multiprocessing.connection import wait
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import patch_environment
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env, prepare_simple_launcher_cmd_env
from runs import ROOT, Run, as_argv, free_port, launch, weights_of, without_pages

import rm
from reward_modeling.common.errors import run_script

NEEDS_COMPILER = pytest.mark.skipif(
    shutil.which("c++") is None, reason="on a CPU, DeepSpeed compiles its communication: no compiler"
)
ENGINES = {
    "ddp": "cpu_two_processes",
    "zero2": "deepspeed_zero2",
    "zero3": "deepspeed_zero3",
    "fsdp2": "fsdp2",
}
EVERY_ENGINE = [pytest.param(engine, marks=NEEDS_COMPILER if engine.startswith("zero") else []) for engine in ENGINES]
# ZeRO-2 holds whole weights, as DDP does: what is about weights alone is shown without it.
BY_WEIGHTS = [parameter for parameter in EVERY_ENGINE if parameter.values[0] != "zero2"]
SHARDED_WEIGHTS = [parameter for parameter in BY_WEIGHTS if parameter.values[0] != "ddp"]
WITH_NINJA = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # which DeepSpeed calls
SECONDS_TO_END = 600  # where it is the first time, DeepSpeed compiles its parts for the CPU

warm_processes = multiprocessing.get_context("forkserver")
IMPORTED = [
    *("engines", "datasets", "deepspeed", "peft", "transformers.integrations.deepspeed"),
    *("torch.distributed.checkpoint", "torch.distributed.fsdp", "reward_modeling.data.prepare"),
    *("transformers.models.gemma.modeling_gemma", "transformers.models.llama.modeling_llama"),
]
warm_processes.set_forkserver_preload(IMPORTED)


def launcher(engine: str, folder: Path, processes: int = 2) -> list[str]:
    """`accelerate launch` with the file that the project ships, for processes on this machine's CPU."""
    settings = yaml.safe_load((ROOT / f"accelerate_configs/{ENGINES[engine]}.yaml").read_text())
    settings |= {"use_cpu": True, "num_processes": processes}
    deepspeed = settings.get("deepspeed_config")
    if deepspeed:
        deepspeed["deepspeed_config_file"] = str(ROOT / deepspeed["deepspeed_config_file"])
    config = folder / f"{engine}.yaml"
    config.write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    return [*command, "--main_process_port", free_port()]


def launch_engine(engine: str, flags: dict[str, object], output: Path) -> subprocess.CompletedProcess:
    """Two processes that accelerate's launcher starts."""
    output.parent.mkdir(parents=True, exist_ok=True)
    return launch(launcher(engine, output.parent), flags, output, PATH=WITH_NINJA, OMP_NUM_THREADS="1")


def run_engine(
    engine: str, flags: dict[str, object], output: Path, *, processes: int = 2, status: int = 0
) -> subprocess.CompletedProcess:
    """Forked processes with the variables that accelerate's launcher would set, which are expected to end like this."""
    output.parent.mkdir(parents=True, exist_ok=True)
    command = [*launcher(engine, output.parent, processes), "rm.py"]
    environment = launch_environment(command[3:])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": command[-2], "WORLD_SIZE": str(processes)}
    place |= {"LOCAL_WORLD_SIZE": str(processes), "TORCHELASTIC_RUN_ID": "none", "OMP_NUM_THREADS": "1"}
    argv = ["rm.py", *as_argv(flags | {"output_path": output})]
    return fork(environment | place | {"PATH": WITH_NINJA}, argv, output.parent, processes, status)


def launch_environment(arguments: list[str]) -> dict[str, str]:
    """What `accelerate launch` with these arguments hands to each process, but for its place among them."""
    args, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    if args.use_deepspeed:
        args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)  # as launch_command does
        return prepare_deepspeed_cmd_env(args)[1] | {"WORLD_SIZE": str(args.num_processes)}
    if args.multi_gpu or args.use_fsdp:
        return prepare_multi_gpu_env(args) | {"WORLD_SIZE": str(args.num_processes)}
    return prepare_simple_launcher_cmd_env(args)[1]


def fork(
    environment: dict[str, str], argv: list[str], folder: Path, processes: int, status: int
) -> subprocess.CompletedProcess:
    """rm.py in forked processes of these variables; what all of them wrote, in the order of their ranks."""
    logs = [(folder / f"stdout-{rank}.txt", folder / f"stderr-{rank}.txt") for rank in range(processes)]
    with patch_environment(PYTHONPATH=f"{ROOT}{os.pathsep}{ROOT / 'tests'}"):  # for the one that they are forked from
        ranks = [
            warm_processes.Process(
                target=be_rank, args=(environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, argv, folder, log)
            )
            for rank, log in enumerate(logs)
        ]
        for process in ranks:
            process.start()
    join_all(ranks)
    stdout, stderr = ("".join(log.read_text() for log in of) for of in zip(*logs, strict=True))
    returncode = int(any(process.exitcode for process in ranks))  # as the launcher's
    assert returncode == status, stdout[-3000:] + stderr[-6000:]
    return subprocess.CompletedProcess(argv, returncode, stdout, stderr)


def join_all(ranks: list) -> None:
    """Wait for the end of all; where one fails the others are ended, as by the launcher."""
    deadline = time.monotonic() + SECONDS_TO_END
    while running := [process for process in ranks if process.exitcode is None]:
        wait([process.sentinel for process in running], timeout=max(0, deadline - time.monotonic()))
        if any(process.exitcode for process in ranks) or time.monotonic() > deadline:
            for process in running:
                process.kill()


def be_rank(environment: dict[str, str], argv: list[str], folder: Path, log: tuple[Path, Path]) -> None:
    """One process of a launch, from its fork to its end."""
    for descriptor, path in enumerate(log, start=1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = argv
    with pytest.MonkeyPatch.context() as patch:
        without_pages(patch)
        run_script(rm.main)


def assert_same_weights(run: Run, reference: Run, share_of_largest: float) -> None:
    """All weights, each within this share of the largest one of all; 0 for the same bits."""
    weights, expected = weights_of(run.model), weights_of(reference.model)
    assert weights.keys() == expected.keys()
    largest = max(value.abs().max().item() for value in expected.values())
    for name, value in expected.items():
        assert weights[name].dtype == value.dtype == torch.float32
        assert (weights[name] - value).abs().max().item() <= share_of_largest * largest, name
