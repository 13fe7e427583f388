"""Scripts in processes of their own, forked from a warm one that has imported what takes an interpreter 5 seconds.

A forked process runs the script as `__main__`, with the arguments, variables, folder and output of a process that a
shell or a launcher had started; and it can be ended by a signal. What it cannot show is that the imports work, and what
happens at an interpreter's exit: that a cold process does, once for each script.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import wait
from pathlib import Path

import pytest
from accelerate.utils import patch_environment
from runs import ROOT, free_port, without_pages

SECONDS_TO_END = 600  # where it is the first time, DeepSpeed compiles its parts for the CPU
SECONDS_TO_LEAVE = 30  # after SIGTERM, as torch's launcher has it
SUFFIXES = (".stdout", ".stderr")
IMPORTED = [
    *("processes", "rm", "eval_bench_mark", "reward_modeling.training.job", "reward_modeling.data.prepare"),
    "reward_modeling.results.report",
    *("datasets", "peft", "deepspeed", "transformers.integrations.deepspeed"),
    *("torch.distributed.checkpoint", "torch.distributed.fsdp", "torch.distributed.device_mesh"),
    *("transformers.models.gemma.modeling_gemma", "transformers.models.llama.modeling_llama"),
]
warm_process = multiprocessing.get_context("forkserver")
warm_process.set_forkserver_preload(IMPORTED)


def fork(
    script: Path,
    arguments: Sequence[str],
    folder: Path,
    *,
    environment: dict[str, str] | None = None,
    processes: int | None = None,
    status: int = 0,
) -> subprocess.CompletedProcess:
    """Run the script in forked processes, which are expected to end with this status.

    Args:
        folder: where they work.
        environment: their variables, this process's where it is None.
        processes: how many, with the variables of their place that torchrun sets; None for one without them.

    Returns:
        The status of the first that failed, and what all of them wrote, in the order of their ranks.
    """
    environment = dict(os.environ) if environment is None else environment
    places = [{}] if processes is None else places_of(processes)
    argv = [str(script), *arguments]
    with tempfile.TemporaryDirectory() as logs:
        with patch_environment(PYTHONPATH=f"{ROOT}{os.pathsep}{ROOT / 'tests'}"):  # of the warm process
            ranks = [
                warm_process.Process(target=run_script, args=(argv, environment | place, folder, Path(logs, str(rank))))
                for rank, place in enumerate(places)
            ]
            for process in ranks:
                process.start()
        returncode = join_all(ranks)
        stdout, stderr = (
            "".join(Path(logs, f"{rank}{suffix}").read_text() for rank in range(len(places))) for suffix in SUFFIXES
        )
    assert returncode == status, stdout[-3000:] + stderr[-6000:]
    return subprocess.CompletedProcess(argv, returncode, stdout, stderr)


def places_of(processes: int) -> list[dict[str, str]]:
    """The variables that tell each process its place."""
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "TORCHELASTIC_RUN_ID": "none"}
    together |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1"}
    return [together | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def join_all(ranks: list) -> int:
    """Wait for the end of all. Where one fails its status is returned and the others are ended, as by a launcher."""
    deadline = time.monotonic() + SECONDS_TO_END
    failed = 0
    while running := [process for process in ranks if process.exitcode is None]:
        wait([process.sentinel for process in running], timeout=max(0, deadline - time.monotonic()))
        failed = failed or next((process.exitcode for process in ranks if process.exitcode), 0)
        if failed or time.monotonic() > deadline:
            for process in running:
                process.terminate()
                process.join(SECONDS_TO_LEAVE)
                process.kill()
    return failed


def run_script(argv: list[str], environment: dict[str, str], folder: Path, log: Path) -> None:
    """What a forked process does, from its fork to its end."""
    for descriptor, suffix in enumerate(SUFFIXES, start=1):
        file = os.open(log.with_suffix(suffix), os.O_WRONLY | os.O_CREAT)
        os.dup2(file, descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = argv
    sys.path.insert(0, str(Path(argv[0]).parent))
    with pytest.MonkeyPatch.context() as patch:
        without_pages(patch)
        runpy.run_path(argv[0], run_name="__main__")
