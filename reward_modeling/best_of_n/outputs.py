"""The files that a run leaves: the rows and what stands beside them, all of them or none.

    OUTPUT                       the rows
    OUTPUT.manifest.json         what they were made of and how
    OUTPUT.report.json, .html    what the choice is worth
    dataset_info.json            an entry for LLaMA-Factory, in --format llama_factory alone

The rows get their name last: where they are there, the others are. Until then one run alone writes them, and the next
one is refused. A name that is a link stays one: what it leads to is written.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reward_modeling.common.atomic import check_writable, hold_folder, whole_file
from reward_modeling.common.errors import UserError, one_line

SUFFIXES = (".jsonl", ".jsonl.gz")
MANIFEST, REPORT, PAGE = ".manifest.json", ".report.json", ".report.html"
DATASET_INFO = "dataset_info.json"
LOCK_SECONDS = 60  # that a run waits for what another one does in a moment


@dataclass(frozen=True)
class Outputs:
    """Where a run writes to."""

    rows: Path
    overwrite: bool = False
    has_dataset_info: bool = False

    @property
    def folder(self) -> Path:
        return self.rows.absolute().parent

    @property
    def name(self) -> str:
        """Of the data set, which an entry of dataset_info.json has."""
        return self.rows.name.removesuffix(".gz").removesuffix(".jsonl")

    def beside(self, ending: str) -> Path:
        return self.rows.with_name(self.rows.name + ending)

    def check(self) -> None:
        """
        Raises:
            UserError: something is in the way.
        """
        check_writable("--output", self.folder)
        check_writable("--output", self.rows.resolve().parent)
        if self.rows.is_dir():
            raise UserError(f"--output {self.rows}: expected a file to write, found a folder. Name a file in it.")
        files = [self.rows, *map(self.beside, (MANIFEST, REPORT, PAGE))]
        there = [path.name for path in files if path.exists()]
        if there and not self.overwrite:
            raise UserError(
                f"--output {self.rows}: expected nothing of this name, found {', '.join(there)}. Take another name, or "
                "replace what is there: --overwrite_output true."
            )
        if self.has_dataset_info:
            self._known_sets()

    def check_not_among(self, inputs: Iterable[Path]) -> None:
        """
        Raises:
            UserError: the output is one of the files that are read.
        """
        for path in inputs:
            if path.resolve() == self.rows.resolve():
                raise UserError(f"--output {self.rows}: expected another file than those that are read, found {path}.")

    def make_folder(self) -> None:
        """
        Raises:
            UserError: it cannot be made.
        """
        with self.reported():
            self.folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def reported(self) -> Iterator[None]:
        """What the disk refuses, in one message."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"--output {self.rows}: expected a place that can be written, with room for the rows, found "
                f"[{one_line(error)}]. Nothing was written."
            ) from error

    @contextmanager
    def open(self) -> Iterator["Paths"]:
        """Paths to write to, which get their names when the block ends without an error."""
        with ExitStack() as stack:
            names = [self.rows, *map(self.beside, (MANIFEST, REPORT, PAGE))]
            # Named from the last to the first.
            paths = [stack.enter_context(whole_file(name.resolve())) for name in names]
            yield Paths(*paths)

    @contextmanager
    def held(self) -> Iterator[None]:
        """No other run writes the same output until the block ends.

        Raises:
            UserError: another one does; or an output has come to be there since `check`.
        """
        rows = self.rows.resolve()
        lock = rows.with_name(f".{rows.name}.lock")
        in_use = UserError(
            f"--output {self.rows}: expected an output of this run alone, found that another run writes it. Wait for "
            "it, or take another name."
        )
        with ExitStack() as stack:
            with self.reported(), self._folder_held(rows.parent):
                lock.touch()
                stack.enter_context(hold_folder(lock, in_use))
            try:
                self.check()  # again: a run that held it may have ended
                yield
            finally:
                with self.reported(), self._folder_held(rows.parent):
                    lock.unlink(missing_ok=True)

    def _folder_held(self, folder: Path) -> AbstractContextManager[None]:
        """For a moment: a lock is made, held and removed by one run at a time, and so is dataset_info.json written."""
        busy = UserError(
            f"--output {self.rows}: expected to hold {folder} for a moment, found that another process has held it for "
            f"{LOCK_SECONDS} seconds. Take another folder, or wait for it."
        )
        return hold_folder(folder, busy, LOCK_SECONDS)

    def add_dataset_info(self, entry: Mapping[str, Any]) -> None:
        """Write the entry of this output into dataset_info.json, beside the other entries that are there."""
        path = (self.folder / DATASET_INFO).resolve()
        with self._folder_held(path.parent):
            known = self._known_sets() | {self.name: dict(entry)}
            with whole_file(path) as unfinished:
                write_json(unfinished, known)

    def _known_sets(self) -> dict[str, Any]:
        path = self.folder / DATASET_INFO
        if not path.exists():
            return {}
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"expected JSON in {path}, to add an entry to, found [{one_line(error)}]. Mend it."
            ) from error
        if not isinstance(known, dict):
            raise UserError(f"expected an object of data sets in {path}, found {type(known).__name__}. Mend it.")
        if self.name in known and not self.overwrite:
            raise UserError(
                f"--output {self.rows}: expected no data set {self.name} in {path}, found one. Take another name, or "
                "replace it: --overwrite_output true."
            )
        return known


@dataclass(frozen=True)
class Paths:
    """Unfinished files."""

    rows: Path
    manifest: Path
    report: Path
    page: Path


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Indented, for people too; without NaN, which JSON has not. Half a character, as in the name of a file that is not
    in UTF-8, is written as JSON does without others: "\\udcff"."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(f"{text}\n", encoding="utf-8", errors="backslashreplace")
