"""What processes run with: what the launcher's variables say, the name of the engine, versions of packages."""

import os
import platform
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate.state import AcceleratorState


# Variables by which a launcher tells a process its place in a distributed job.
JOB_VARIABLES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "NODE_RANK"),
    *("CROSS_RANK", "CROSS_SIZE", "LOCAL_SIZE"),
)
JOB_PREFIXES = ("MASTER_", "ROLE_", "TORCHELASTIC_", "ACCELERATE_", "FSDP_", "DEEPSPEED_", "PARALLELISM_CONFIG_")
JOB_PREFIXES += ("PMI_", "OMPI_", "MV2_")


def child_environment() -> dict[str, str]:
    """This process's variables without those that would make another one part of its distributed job."""
    variables = {
        name: value
        for name, value in os.environ.items()
        if name not in JOB_VARIABLES and not name.startswith(JOB_PREFIXES)
    }
    if "TORCHELASTIC_RUN_ID" in os.environ and variables.get("OMP_NUM_THREADS") == "1":
        del variables["OMP_NUM_THREADS"]  # torchrun's default for many processes; the others are done now
    return variables | {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}


def worker_count(num_proc: int | None) -> int:
    """Worker processes that read data: as many as asked for, else one per core, at most 16."""
    return num_proc or min(16, os.cpu_count())


WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # torchrun, MPI


def launched_with(environment: Mapping[str, str], engine: str) -> bool:
    """Whether `accelerate launch` was given a configuration of this engine: DEEPSPEED or FSDP."""
    return environment.get(f"ACCELERATE_USE_{engine}", "false").lower() == "true"


def variables_of_a_single_process(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that DeepSpeed wants of a launcher, for a run that had none; empty where there was one."""
    if not environment.keys().isdisjoint(WORLD_SIZES):
        return {}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", **address}


def engine_name(state: "AcceleratorState") -> str:
    """single, ddp, zero1, zero2, zero3 or fsdp2, for the record of a run: `engine_name(trainer.accelerator.state)`."""
    kind = state.distributed_type.value
    if kind == "DEEPSPEED":
        return f"zero{state.deepspeed_plugin.zero_stage}"
    if kind == "FSDP":
        return f"fsdp{state.fsdp_plugin.fsdp_version}"
    return "single" if kind == "NO" else "ddp"


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Of Python and of these packages, without those that are not installed: a run on one GPU needs no deepspeed."""
    found = {"python": platform.python_version()}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
