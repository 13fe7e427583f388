"""Checkpoint folders that are complete or not there, whatever kills the process that writes them.

A folder is written under the name `unfinished-checkpoint-N`, brought to the disk, and gets its own name by one
rename. What is deleted is renamed to `discarded-...` first, so that a kill in the middle of a deletion leaves nothing
that looks like a checkpoint. `clean_up` puts right what a killed process has left behind.
"""

import json
import logging
import shutil
from pathlib import Path

from reward_modeling.common.atomic import CONTENTS, DISCARDED, REPLACED, UNFINISHED, archive, remove_folder
from reward_modeling.common.errors import UserError
from reward_modeling.common.file_names import CHECKPOINT, TRAINER_STATE

logger = logging.getLogger(__name__)
# Of libraries that do not raise OSError: safetensors and tokenizers, and torch.save, whose stream has its own words.
DISK_ERRORS = ("(os error", "PytorchStreamWriter", "iostream error")


def is_complete(folder: Path) -> bool:
    """Whether every file that was published is there, as long as it was: copies and full disks tear folders too."""
    try:
        entries = json.loads((folder / CONTENTS).read_text(encoding="utf-8"))
        # an earlier version listed sizes alone
        sizes = {name: entry["bytes"] if isinstance(entry, dict) else entry for name, entry in entries.items()}
        return TRAINER_STATE in sizes and all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def clean_up(output: Path) -> None:
    """Finish or undo what an earlier process was about when it died."""
    for path in sorted(output.glob(f"{REPLACED}*")):
        original = path.with_name(path.name.removeprefix(REPLACED))
        if original.exists():
            remove_folder(path)
        else:
            path.rename(original)
    for path in sorted(output.glob(f"{UNFINISHED}*")):
        logger.warning("Output: removing %s, which an earlier process did not finish writing.", path)
        remove_folder(path)
    for path in output.glob(f"{DISCARDED}*"):
        remove_folder(path)


def complete_checkpoints(output: Path) -> list[Path]:
    """The checkpoints of a run, in the order of their steps, without those that are torn."""
    return sorted(filter(is_complete, numbered_checkpoints(output)), key=step_of)


def numbered_checkpoints(output: Path) -> list[Path]:
    """Whatever has the name of a checkpoint."""
    return [path for path in output.glob(f"{CHECKPOINT}*") if path.name.removeprefix(CHECKPOINT).isdigit()]


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(CHECKPOINT))


def delete_old_checkpoints(output: Path, most: int | None, keep: set[Path]) -> None:
    """Leave `most` checkpoints (None or 0: all), the newest and those of `keep` among them."""
    if not most:
        return
    checkpoints = complete_checkpoints(output)
    keep = {*checkpoints[-1:]} | keep.intersection(checkpoints)
    others = [checkpoint for checkpoint in checkpoints if checkpoint not in keep]
    for checkpoint in others[: max(0, len(checkpoints) - max(most, len(keep)))]:
        remove_folder(checkpoint)


def archive_later_checkpoints(checkpoint: Path) -> None:
    """Rename those after the one that a run goes on from: the newest is to be of this run, and none is lost."""
    step = json.loads((checkpoint / TRAINER_STATE).read_text(encoding="utf-8"))["global_step"]  # under any name
    for later in complete_checkpoints(checkpoint.parent):
        if step_of(later) < step or later.name == checkpoint.name:
            continue
        target = archive(later)
        logger.warning("Resume: %s is later than the checkpoint to go on from; now it is %s.", later, target.name)


def saving_failed(folder: Path, error: BaseException) -> UserError | None:
    """The message for a checkpoint that could not be written, or None if `error` is about something else."""
    # What a process of several met is told to all of them by torch's distributed checkpoints.
    failures = getattr(error, "failures", None) or {}
    causes = [error, *(failure for failure, _ in failures.values())]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    text = " ".join(str(cause) for cause in causes)
    about_disk = any(isinstance(cause, OSError) and cause.errno is not None for cause in causes)
    if not about_disk and not any(sign in text for sign in DISK_ERRORS):
        return None
    complete = complete_checkpoints(folder.parent)
    left = f"The last complete checkpoint is {complete[-1]}" if complete else "There is no complete checkpoint yet"
    free = shutil.disk_usage(folder.parent).free / 2**30
    reason = str(next(iter(failures.values()))[0] if failures else error).splitlines()[0]
    return UserError(
        f"{folder}: expected to write this checkpoint, found that the disk refuses it ({reason}); {free:.1f} GiB are "
        f"free. {left}. Make room (--save_total_limit keeps fewer), then go on with --resume_from_checkpoint true."
    )
