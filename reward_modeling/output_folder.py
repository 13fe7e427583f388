"""The folder that a run writes to: never over another run without being asked."""

import logging
import os
import shutil
from pathlib import Path

from reward_modeling.errors import UserError

logger = logging.getLogger(__name__)

OWN_OUTPUTS = ("checkpoint-*", "last_checkpoint", "trainer_state.json", "all_results.json")
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


def check_nothing_is_lost(output_path: str) -> None:
    """
    Raises:
        UserError: the folder holds something that a new run could write over.
    """
    output = Path(output_path)
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
        newest = _newest_checkpoint(Path(output_path))
        if newest is None:
            logger.warning("Resume: no checkpoint in %s, so training starts afresh.", output_path)
        return newest
    if not (Path(resume) / "trainer_state.json").is_file():
        raise UserError(
            f"--resume_from_checkpoint {resume}: expected true or a checkpoint-N folder, which has a "
            "trainer_state.json, found neither. To start from a model's weights pass it as --model_name."
        )
    return resume


def _newest_checkpoint(output: Path) -> str | None:
    """The newest checkpoint that was written to its end: the Trainer's state is written last."""
    numbered = [
        (int(path.name.split("-")[1]), path) for path in output.glob("checkpoint-*") if path.name[11:].isdigit()
    ]
    for _, path in sorted(numbered, reverse=True):
        if (path / "trainer_state.json").is_file():
            return str(path)
        logger.warning("Resume: %s is incomplete and passed over.", path)
    return None


def remove_earlier_run(output_path: str) -> None:
    """Only what rm.py writes: other files in the folder are somebody's."""
    for pattern in OWN_OUTPUTS:
        for path in Path(output_path).glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
