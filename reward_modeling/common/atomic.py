"""Files and folders that are written as a whole or not at all, whatever kills the process."""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from reward_modeling.common.errors import UserError, one_line


@contextmanager
def new_folder(output_path: str | Path, check: Callable[[], None]) -> Iterator[Path]:
    """A folder to write to, which gets the name `output_path` when the block ends without an error.

    Until then it is `.NAME.unfinished` beside it, which a killed run leaves and the next run removes.

    Args:
        check: refuses what must not be replaced; called before anything is written, and again where the folder of a
            killed run came back.

    Raises:
        UserError: `check` refuses; another run writes there; or the disk refuses.
    """
    output = Path(output_path).expanduser().resolve()  # what a link leads to is replaced, and the link stays
    check()
    scratch, replaced = (output.with_name(f".{output.name}.{state}") for state in ("unfinished", "replaced"))
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        descriptor = _hold(scratch, output_path)
        try:
            if replaced.exists() and not output.exists():  # a run was killed between the two renames
                replaced.rename(output)
                check()
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


UNFINISHED, DISCARDED, REPLACED, SUPERSEDED = "unfinished-", "discarded-", "replaced-", "superseded-"
CONTENTS = "contents.json"  # every file with its size, written when all the others are there


def unfinished(folder: Path) -> Path:
    """Where `folder` is written until it is complete."""
    return folder.with_name(UNFINISHED + folder.name)


def commit(folder: Path) -> None:
    """Give the folder that was written as `unfinished(folder)` its name; one that has it already makes way."""
    write_contents(unfinished(folder))
    sync_to_disk(unfinished(folder))
    replaced = folder.with_name(REPLACED + folder.name)
    if folder.exists():
        folder.rename(replaced)
    unfinished(folder).rename(folder)
    _sync(folder.parent)
    if replaced.exists():
        remove_folder(replaced)


def remove_folder(folder: Path) -> None:
    """Delete a folder; a kill on the way leaves nothing under its name."""
    if not folder.name.startswith(DISCARDED):
        folder = folder.rename(_free_name(folder.with_name(DISCARDED + folder.name)))
    if folder.is_symlink():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def archive(folder: Path) -> Path:
    """Rename a folder that is not of this run any more; nothing is lost."""
    target = _free_name(folder.with_name(SUPERSEDED + folder.name))
    return folder.rename(target)


def write_contents(folder: Path) -> None:
    """The list that `is_complete` compares."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != CONTENTS)
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    (folder / CONTENTS).write_text(json.dumps(sizes, indent=2), encoding="utf-8")


def _free_name(path: Path) -> Path:
    """`path`, or with the first number behind it that nothing has."""
    names = (path, *(path.with_name(f"{path.name}-{number}") for number in range(2, 1000)))
    return next(name for name in names if not name.exists())


def sync_to_disk(folder: Path) -> None:
    """A rename may reach the disk before the bytes it is about, unless these are asked for."""
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF):  # file systems that cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def write_page(path: Path, text: str) -> None:
    """The file is there whole, or as it was before."""
    unfinished = path.with_name(f".unfinished-{path.name}")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
