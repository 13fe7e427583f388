"""Runs of rm.py over several processes of this machine's CPU: DDP, ZeRO-2, ZeRO-3 and FSDP2.

The launch files and DeepSpeed settings are those that the project ships, with the CPU switched on. `launch_engine`
calls the launcher of accelerate, as a person does, and takes some 15 seconds of imports. `run_engine` gives the same
variables to processes that are forked from one which has imported everything.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env, prepare_simple_launcher_cmd_env
from processes import fork
from runs import ROOT, Run, as_argv, free_port, launch, weights_of

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
    engine: str,
    flags: dict[str, object],
    output: Path,
    *,
    processes: int = 2,
    status: int = 0,
    script: Path = ROOT / "rm.py",
    **environment: str,
) -> subprocess.CompletedProcess:
    """Forked processes with the variables of accelerate's launcher, which are expected to end with this status."""
    output.parent.mkdir(parents=True, exist_ok=True)
    command = [*launcher(engine, output.parent, processes), str(script)]
    variables = launch_environment(command[3:]) | {"PATH": WITH_NINJA} | environment
    argv = as_argv(flags | {"output_path": output})
    return fork(script, argv, output.parent, environment=variables, processes=processes, status=status)


def launch_environment(arguments: list[str]) -> dict[str, str]:
    """What `accelerate launch` with these arguments hands to each process, but for its place among them."""
    args, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    if args.use_deepspeed:
        args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)  # as launch_command does
        return prepare_deepspeed_cmd_env(args)[1] | {"WORLD_SIZE": str(args.num_processes)}
    if args.multi_gpu or args.use_fsdp:
        return prepare_multi_gpu_env(args) | {"WORLD_SIZE": str(args.num_processes)}
    return prepare_simple_launcher_cmd_env(args)[1]


def assert_same_weights(run: Run, reference: Run, share_of_largest: float) -> None:
    """All weights, each within this share of the largest one of all; 0 for the same bits."""
    weights, expected = weights_of(run.model), weights_of(reference.model)
    assert weights.keys() == expected.keys()
    largest = max(value.abs().max().item() for value in expected.values())
    for name, value in expected.items():
        assert weights[name].dtype == value.dtype == torch.float32
        assert (weights[name] - value).abs().max().item() <= share_of_largest * largest, name
