"""The file of scored rows: whole under its name, or OUTPUT.partial beside what says how far it is.

A window of rows is appended, reaches the disk, and only then counts in OUTPUT.partial.state. So a run that was killed
at any moment goes on where the last counted window ends: what stands behind it is cut off.
"""

import gzip
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from reward_modeling.common.atomic import check_writable, hold_folder, whole_file
from reward_modeling.common.errors import UserError

logger = logging.getLogger(__name__)

SUFFIXES = (".jsonl", ".jsonl.gz")
# A run may go on with others: memory may have run out, and a launcher decides how many threads a process has.
FREE = ("max_tokens_per_batch", "threads")
STATE_VERSION = 1  # raise it when windows are cut, or rows written, otherwise than before
GZIP_LEVEL = 6


@dataclass
class Progress:
    """What of the output has reached the disk."""

    rows: int = 0
    bytes: int = 0
    counts: dict = field(default_factory=dict)


class OutputFile:
    """OUTPUT, OUTPUT.partial, OUTPUT.partial.state and OUTPUT.manifest.json.

    Where OUTPUT is a link, what it leads to is written, all four beside each other there, and the link stays.
    """

    def __init__(self, path: str | Path):
        given = Path(path).expanduser()
        self.path = given.resolve() if given.is_symlink() else given
        self.partial = self.path.with_name(f"{self.path.name}.partial")
        self.state = self.path.with_name(f"{self.path.name}.partial.state")
        self.manifest = self.path.with_name(f"{self.path.name}.manifest.json")

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Refuse what is in the way, before any work is done.

        Raises:
            UserError: a name of another kind, an output that is there, one that was begun and shall not go on.
        """
        if not self.path.name.endswith(SUFFIXES):
            raise UserError(f"--output: expected a file named *.jsonl or *.jsonl.gz, found {self.path}. Rename it.")
        check_writable("--output", self.path.parent)
        if self.path.exists() and not overwrite and not (resume and self.is_whole):
            raise UserError(
                f"--output {self.path}: expected a new file, found one. Take another path, or pass --overwrite_output "
                "true to replace it when all rows are scored."
            )
        if self.state.exists() and not (resume or overwrite):
            raise UserError(
                f"--output {self.path}: found {self.partial.name}, which an earlier run has begun. Pass --resume true "
                "to go on where it ended, or --overwrite_output true to begin anew."
            )

    @property
    def is_whole(self) -> bool:
        """Whether an earlier run has written all of it."""
        return self.path.exists() and self.manifest.exists() and not self.partial.exists()

    def is_finished(self, run: Mapping) -> bool:
        """Whether this very run has written all of it, so that one that is started blindly again has nothing to do.

        Raises:
            UserError: another one has.
        """
        if not self.is_whole:
            return False
        anew = "To replace it, pass --overwrite_output true without --resume."
        try:
            then = dict(json.loads(self.manifest.read_text(encoding="utf-8"))["run"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"--resume: expected a manifest in {self.manifest}, found [{error}]. {anew}") from error
        _check_same(then, run, self.path, anew)
        self.state.unlink(missing_ok=True)
        return True

    def check_is_no_input(self, files: Iterable[Path]) -> None:
        """
        Raises:
            UserError: the output is one of the files that are read.
        """
        if any(file.resolve() in (self.path.resolve(), self.partial.resolve()) for file in files):
            raise UserError(f"--output {self.path}: expected a file of its own, found it among those of --input.")

    def begin(self, run: Mapping, *, resume: bool) -> Progress:
        """Where to begin: behind what an earlier run has written, where that is to go on, or anew.

        Raises:
            UserError: see `earlier`.
        """
        progress = self.earlier(run) if resume else None
        if progress is None:
            return Progress()
        logger.info("Going on behind %s rows in %s.", f"{progress.rows:,}", self.partial)
        return progress

    def earlier(self, run: Mapping) -> Progress | None:
        """What an earlier run has written; None where there is none.

        Args:
            run: what this run computes; what an earlier one computed has to be the same.

        Raises:
            UserError: it was made otherwise, or its files are not what it has left.
        """
        if not (self.partial.exists() and self.state.exists()):
            return None  # it ended before its first window
        anew = "To begin anew, pass --overwrite_output true without --resume."
        try:
            state = json.loads(self.state.read_text(encoding="utf-8"))
            progress, then = Progress(**state["progress"]), dict(state["run"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"--resume: expected the state of a run in {self.state}, found [{error}]. {anew}"
            ) from error
        now = json.loads(json.dumps(run))  # as it was written
        _check_same(then, now, self.partial, anew)
        if (size := self.partial.stat().st_size) < progress.bytes:
            raise UserError(
                f"--resume: expected at least {progress.bytes:,} bytes in {self.partial}, found {size:,}: it was "
                f"changed. {anew}"
            )
        for name in FREE:
            if then.get(name) != now.get(name):
                words = "Resume: from here on %s is %s, and was %s: rewards may differ in their last digits."
                logger.warning(words, name, now.get(name), then.get(name))
        return progress

    @contextmanager
    def writing(self, progress: Progress, run: Mapping) -> Iterator["Writer"]:
        """Hold the partial file, cut it to what of it counts, and append to it.

        Raises:
            UserError: another run writes it, or the disk is full or refuses.
        """
        in_use = UserError(f"{self.partial}: expected a file of this run alone, found that another run writes it.")
        with self.explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.partial.touch()
            with hold_folder(self.partial, in_use), self.partial.open("r+b") as file:
                if not progress.bytes:
                    self.state.unlink(missing_ok=True)  # of a run that shall not go on
                file.truncate(progress.bytes)
                file.seek(progress.bytes)
                yield Writer(self, file, progress, run)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """
        Raises:
            UserError: a disk is full, or refuses to be written.
        """
        try:
            yield
        except OSError as error:
            raise UserError(
                f"cannot write {error.filename or self.partial} ({error.strerror}). Make room, and go on with --resume "
                "true."
            ) from error

    def finish(self, manifest: Mapping) -> None:
        """Give the output its name, with its manifest beside it."""
        with self.explained():
            write_json(self.manifest, manifest)
            self.partial.replace(self.path)
            _sync(self.path.parent)
            self.state.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove what an earlier run has begun."""
        for path in (self.state, self.partial):
            path.unlink(missing_ok=True)


class Writer:
    """Appends windows of rows."""

    def __init__(self, output: OutputFile, file: IO[bytes], progress: Progress, run: Mapping):
        self.output, self.file, self.progress, self.run = output, file, progress, run
        self.is_packed = output.path.name.endswith(".gz")

    def append(self, lines: list[str], counts: dict) -> None:
        """A window, which counts when it has reached the disk; packed, each is a member of its own."""
        data = "".join(f"{line}\n" for line in lines).encode()
        data = gzip.compress(data, GZIP_LEVEL, mtime=0) if self.is_packed else data
        with self.output.explained():
            self.file.write(data)
            self.file.flush()
            os.fsync(self.file.fileno())
            self.progress = Progress(self.progress.rows + len(lines), self.progress.bytes + len(data), counts)
            write_json(self.output.state, {"run": self.run, "progress": vars(self.progress)})


def write_json(path: Path, content: Mapping) -> None:
    """The file is there whole, on the disk, or as it was before."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    with whole_file(path) as unfinished:
        unfinished.write_text(f"{text}\n", encoding="utf-8")
        _sync(unfinished)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_same(then: Mapping, run: Mapping, path: Path, anew: str) -> None:
    """
    Raises:
        UserError: a run differs from that of a file in more than what is `FREE`.
    """
    now = json.loads(json.dumps(run))  # as it was written
    if differences := list(_differences(then, {name: now[name] for name in now if name not in FREE})):
        lines = "\n- ".join(differences)
        raise UserError(
            f"--resume: expected the run that {path} is of, found another:\n- {lines}\nPass what it was begun with. "
            f"{anew}"
        )


def _differences(then: Mapping, now: Mapping, prefix: str = "") -> Iterator[str]:
    for name in now:
        before, after = then.get(name), now[name]
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _differences(before, after, f"{prefix}{name}, ")
        elif before != after:
            yield f"{prefix}{name}: {before} then, {after} now"
