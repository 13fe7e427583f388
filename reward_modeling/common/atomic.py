"""Files and folders that are written as a whole or not at all, whatever kills the process.

    write_whole(Path("report.html"), text)
    with whole_file(output / "trainer_state.json") as path: state.save_to_json(path)
    with whole_folder(Path("data/mixture2"), check, in_use) as folder: ...    # beside files of the user's

Checkpoints, which several processes write, are written to `unfinished(folder)` and get their name by `commit(folder)`.
"""

import errno
import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from reward_modeling.common.errors import UserError

logger = logging.getLogger(__name__)

UNFINISHED, DISCARDED, REPLACED, SUPERSEDED = "unfinished-", "discarded-", "replaced-", "superseded-"
CONTENTS = "contents.json"  # every file with its size and hash, written when all the others are there


def check_writable(flag: str, folder: Path) -> None:
    """Refuse a folder that cannot be made or written, before any work is done.

    Raises:
        UserError: there is a file in the way, or the folder is not this user's to write.
    """
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise UserError(f"{flag} {folder}: expected a folder, found the file {nearest}. Take another path.")
    if not os.access(nearest, os.W_OK):
        raise UserError(f"{flag} {folder}: expected a folder to write to, found that {nearest} refuses it.")


# --- files ----------------------------------------------------------------------------------------------------


def write_whole(path: Path, text: str) -> None:
    """The file is there whole, or as it was before."""
    with whole_file(path) as unfinished_file:
        unfinished_file.write_text(text, encoding="utf-8")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, which is renamed to `path` when the block ends without an error."""
    unfinished_file = path.with_name(f".unfinished-{path.name}")
    try:
        yield unfinished_file
        unfinished_file.replace(path)
    finally:
        unfinished_file.unlink(missing_ok=True)


# --- folders --------------------------------------------------------------------------------------------------


@contextmanager
def whole_folder(folder: Path, check: Callable[[], None], in_use: UserError) -> Iterator[Path]:
    """A folder to write to, which gets the name `folder` when the block ends without an error.

    Until then it is `.NAME.unfinished` beside it, which a killed run leaves and the next run removes.

    Args:
        check: refuses what must not be replaced; called before anything is written, and again where the folder of a
            killed run came back.
        in_use: raised where another run writes there.
    """
    folder = folder.expanduser().resolve()  # what a link leads to is replaced, and the link stays
    check()
    scratch, replaced = (folder.with_name(f".{folder.name}.{state}") for state in ("unfinished", "replaced"))
    scratch.mkdir(parents=True, exist_ok=True)
    with hold_folder(scratch, in_use):
        try:
            if replaced.exists() and not folder.exists():  # a run was killed between the two renames
                replaced.rename(folder)
                check()
            for left in (replaced, *scratch.iterdir()):
                shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
            yield scratch
            sync_to_disk(scratch)
            _rename_over(scratch, folder, replaced)
            shutil.rmtree(replaced, ignore_errors=True)  # the new one is there: the next run removes what is left
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def unfinished(folder: Path) -> Path:
    """Where `folder` is written until it is complete."""
    return folder.with_name(UNFINISHED + folder.name)


def commit(folder: Path, checksums: Mapping[str, str] | None = None) -> None:
    """Give the folder that was written as `unfinished(folder)` its name; one that has it already makes way."""
    write_contents(unfinished(folder), checksums)
    sync_to_disk(unfinished(folder))
    replaced = folder.with_name(REPLACED + folder.name)
    _rename_over(unfinished(folder), folder, replaced)
    if replaced.exists():
        remove_folder(replaced)


def _rename_over(new: Path, folder: Path, replaced: Path) -> None:
    """Two renames: a kill between them leaves `replaced`, which is then all there is."""
    if folder.exists():
        folder.rename(replaced)
    new.rename(folder)
    _sync(folder.parent)


def remove_folder(folder: Path) -> None:
    """Delete a folder; a kill on the way leaves nothing under its name."""
    if not folder.name.startswith(DISCARDED):
        folder = folder.rename(_free_name(folder.with_name(DISCARDED + folder.name)))
    if folder.is_symlink():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def archive(folder: Path) -> Path:
    """Rename a folder that is not of this run any more; nothing is lost."""
    return folder.rename(_free_name(folder.with_name(SUPERSEDED + folder.name)))


def _free_name(path: Path) -> Path:
    """`path`, or with the first number behind it that nothing has."""
    names = (path, *(path.with_name(f"{path.name}-{number}") for number in range(2, 1000)))
    return next(name for name in names if not name.exists())


def write_contents(folder: Path, checksums: Mapping[str, str] | None = None) -> None:
    """The list that `is_complete` compares: {file: {"bytes": size}}, with "xxh3_128" where the hashes are known."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != CONTENTS)
    entries: dict[str, dict] = {path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size} for path in files}
    for name, value in (checksums or {}).items():
        entries[name]["xxh3_128"] = value
    (folder / CONTENTS).write_text(json.dumps(entries, indent=2), encoding="utf-8")


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


# --- one process in a folder ----------------------------------------------------------------------------------

_held: set[int] = set()  # descriptors that hold a folder


def _let_go_in_child() -> None:
    """A lock is shared with forked processes: workers that outlive this one would keep the folder from the next run."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go_in_child)


@contextmanager
def hold_folder(folder: Path, in_use: UserError, seconds: float = 0) -> Iterator[None]:
    """Keep other processes from holding this folder until the block ends, or this process does, whatever ends it.

    Args:
        in_use: raised where another process holds it and has not let go after `seconds`.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    _held.add(descriptor)
    try:
        deadline = time.monotonic() + seconds
        while not _lock(descriptor):
            if time.monotonic() >= deadline:
                raise in_use
            time.sleep(0.5)
        yield
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # some network file systems lock no folders: then there is nothing to tell by
        logger.debug("Output: %s", error)
    return True
