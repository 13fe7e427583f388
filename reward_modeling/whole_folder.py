"""A folder of pairs that appears as a whole or not at all, and replaces nothing unasked.

with new_folder("data/mixture2", overwrite=False) as folder:
    with synced_file(folder / "manifest.json") as file:
        ...
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from reward_modeling.errors import UserError
from reward_modeling.file_names import MANIFEST
from reward_modeling.json_lines import one_line

LINT_REPORT = ("lint.json", "lint.html")  # may stand beside the data
TRAIN, TEST = "train", "test"  # the test set has a folder of its own, where a reader of the training set does not look


def check_output(output_path: str | Path, overwrite: bool) -> None:
    """
    Raises:
        UserError: something is in the way, or `overwrite` would replace what no script of data_prep has written.
    """
    shown = f"--output_path {output_path}"
    if not output_path:
        raise UserError("--output_path: expected a folder to write to, found none. Name one.")
    output = Path(output_path).expanduser().resolve()
    if output.is_mount():
        raise UserError(f"{shown}: expected a folder, found a mount point, which cannot be renamed. Take one in it.")
    nearest = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise UserError(f"{shown}: expected a folder, found the file {nearest}. Take another path.")
    found = sorted(path.name for path in output.iterdir()) if output.is_dir() else []
    if found and not overwrite:
        raise UserError(
            f"{shown}: expected a new or an empty folder, found {', '.join(found[:3])} in it. Take another folder, or "
            "replace what is there with --overwrite."
        )
    others = [name for name in found if name not in (MANIFEST, TEST, *LINT_REPORT) and not name.startswith(f"{TRAIN}-")]
    if found and (others or MANIFEST not in found):
        raise UserError(
            f"{shown}: expected an earlier output, since --overwrite replaces the whole folder, found "
            f"{', '.join(others[:3]) or f'no {MANIFEST}'} in it. Empty it yourself, or take another folder."
        )


@contextmanager
def new_folder(output_path: str | Path, overwrite: bool) -> Iterator[Path]:
    """A folder to write to, which gets the name `output_path` when the block ends without an error.

    Until then it is `.NAME.unfinished` beside it, which a killed run leaves and the next run removes.

    Raises:
        UserError: see `check_output`; another run writes there; or the disk refuses.
    """
    output = Path(output_path).expanduser().resolve()  # what a link leads to is replaced, and the link stays
    check_output(output_path, overwrite)
    scratch, replaced = (output.with_name(f".{output.name}.{state}") for state in ("unfinished", "replaced"))
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        descriptor = _hold(scratch, output_path)
        try:
            if replaced.exists() and not output.exists():  # a run was killed between the two renames
                replaced.rename(output)
                check_output(output_path, overwrite)
            for left in (replaced, *scratch.iterdir()):
                _remove(left)
            yield scratch
            _publish(scratch, output, replaced)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            os.close(descriptor)
    except OSError as error:
        raise UserError(
            f"--output_path {output_path}: expected a folder that can be written, with room for the pairs, found "
            f"[{one_line(error)}]. Nothing was written."
        ) from error


def _hold(scratch: Path, output_path: str | Path) -> int:
    """A descriptor that keeps other runs from this folder until it is closed, or the process is killed."""
    descriptor = os.open(scratch, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(
            f"--output_path {output_path}: expected a folder that no other run writes to, found that one does. Wait "
            "for it, or take another folder."
        ) from None
    return descriptor


def _publish(scratch: Path, output: Path, replaced: Path) -> None:
    for folder in (path for path in (*scratch.iterdir(), scratch) if path.is_dir()):
        _sync_folder(folder)
    if output.exists() and any(output.iterdir()):
        output.rename(replaced)
    scratch.rename(output)
    _sync_folder(output.parent)
    shutil.rmtree(replaced, ignore_errors=True)  # the new one is there: what is left is removed by the next run


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def synced_file(path: Path) -> Iterator[BinaryIO]:
    """A new file that is on the disk when the block ends."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
