"""The folder that a run writes to: never over another run without being asked."""

import logging
import os
import shutil
import socket
import time
from pathlib import Path

from accelerate import PartialState

from reward_modeling.checkpoints import CHECKPOINT, LAST_CHECKPOINT, TRAINER_STATE, complete_checkpoints
from reward_modeling.errors import UserError

logger = logging.getLogger(__name__)

OWN_OUTPUTS = (
    f"{CHECKPOINT}*",
    f"*-{CHECKPOINT}*",
    LAST_CHECKPOINT,
    f"*-{LAST_CHECKPOINT}",
    TRAINER_STATE,
    "all_results.json",
)
SECONDS_TO_SEE_A_FILE = 30
DATA_REPORT = "data_report.json"  # written anew by every run, even by one that then stops


def check_output_folder(output_path: str) -> None:
    """
    Raises:
        UserError: there is a file in the way, or the folder cannot be written.
    """
    output = Path(output_path)
    nearest = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise UserError(f"--output_path {output}: expected a folder, found the file {nearest}. Take another path.")
    if not os.access(nearest, os.W_OK):
        raise UserError(f"--output_path {output}: expected a folder to write to, found that {nearest} refuses it.")


def check_all_nodes_share(output_path: str, state: PartialState) -> None:
    """On several machines: every process must see what process 0 writes, since each writes its part of a checkpoint.

    Raises:
        UserError: on a process that does not.
    """
    if state.num_processes == int(os.environ.get("LOCAL_WORLD_SIZE", state.num_processes)):
        return
    sign = Path(output_path) / f".seen-by-all-{os.environ.get('MASTER_PORT', '')}"
    if state.is_main_process:
        sign.parent.mkdir(parents=True, exist_ok=True)
        sign.touch()
    state.wait_for_everyone()
    # A network file system may show a new file a few seconds late.
    deadline = time.monotonic() + SECONDS_TO_SEE_A_FILE
    while not sign.exists() and time.monotonic() < deadline:
        time.sleep(0.5)
    if not sign.exists():
        raise UserError(
            f"--output_path {output_path}: expected a folder that all machines share, found that process "
            f"{state.process_index} on {socket.gethostname()} does not see what process 0 writes there. Take a folder "
            "on a shared disk."
        )
    state.wait_for_everyone()
    if state.is_main_process:
        sign.unlink()


def check_nothing_is_lost(output_path: str, go_on: bool = False) -> None:
    """
    Args:
        go_on: whether the run was to go on from a checkpoint of this folder, had there been one: then the reports and
            logs in it are this run's.

    Raises:
        UserError: the folder holds something that a new run could write over.
    """
    output = Path(output_path)
    if go_on:
        found = sorted(path.name for pattern in OWN_OUTPUTS for path in output.glob(pattern))
    else:
        found = sorted(path.name for path in output.iterdir() if path.name != DATA_REPORT) if output.is_dir() else []
    if found:
        raise UserError(
            f"--output_path {output}: expected a new or an empty folder, found {', '.join(found[:3])} in it. Take "
            "another folder, go on with --resume_from_checkpoint true, or replace that run with --overwrite_output_dir."
        )


def checkpoint_to_resume(output_path: str, resume: str | None) -> str | None:
    """The checkpoint that `--resume_from_checkpoint` means: true for the newest one, or a folder.

    Raises:
        UserError: the folder is not a checkpoint.
    """
    if resume is None or resume.lower() == "false":
        return None
    if resume.lower() == "true":
        complete = complete_checkpoints(Path(output_path))
        if not complete:
            logger.warning("Resume: no complete checkpoint in %s, so training starts afresh.", output_path)
            return None
        logger.info("Resume: going on from %s.", complete[-1])
        return str(complete[-1])
    if not (Path(resume) / TRAINER_STATE).is_file():
        raise UserError(
            f"--resume_from_checkpoint {resume}: expected true or a checkpoint-N folder, which has a "
            "trainer_state.json, found neither. To start from a model's weights pass it as --model_name."
        )
    return resume


def remove_earlier_run(output_path: str) -> None:
    """Only what rm.py writes: other files in the folder are somebody's."""
    for pattern in OWN_OUTPUTS:
        for path in Path(output_path).glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
