"""The files of scored rows, row by row: .jsonl and .jsonl.gz, which score.py writes, and .json.

    for file in input_files("a.jsonl,b.jsonl"):
        for row, where in rows_of(file.path): ...

A .json file may be one array, or an object with the rows under `instances`, as Online-RLHF writes it: it is read as a
whole, where lines take no more memory than the longest of them.
"""

import glob
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from reward_modeling.common.errors import UserError, one_line
from reward_modeling.common.paths import named_paths, split_list

LINES, WHOLE = (".jsonl", ".jsonl.gz"), (".json", ".json.gz")
SUFFIXES = (*LINES, *WHOLE)
BESIDE = ("manifest.json", "report.json", "dataset_info.json", "state.json")  # stand beside rows without being rows
SHOWN = 120


@dataclass(frozen=True)
class InputFile:
    """A file of rows."""

    path: Path
    model: str | None = None
    """Whose answers it has, where --mix says so."""


def input_files(text: str, flag: str = "--input") -> list[InputFile]:
    """The files of --input: one, several with commas between, a folder or a glob of them.

    Raises:
        UserError: there is none, one is of another kind, or one is there twice.
    """
    return _different([InputFile(path) for part in split_list(text, _exists) for path in _files(part, flag)], flag)


def mixed_files(text: str) -> list[InputFile]:
    """The files of --mix, each with its model: name=path, or the file's own name.

    Raises:
        UserError: as `input_files`; or there are fewer than two models, or two of one name.
    """
    parts = [part for part in text.split(",") if part.strip()]
    is_named = bool(parts) and all("=" in part and not _exists(part) for part in parts)
    entries = named_paths(text) if is_named else [("", part) for part in split_list(text, _exists)]
    found: list[InputFile] = []
    for name, path in entries:
        name = name or _stem(Path(path))
        if any(file.model == name for file in found):
            raise UserError(
                f"--mix: expected a name of its own for each model, found {name} twice. Name them: "
                f"one={entries[0][1]},two={path}"
            )
        found += [InputFile(file, name) for file in _files(path, "--mix")]
    if len(entries) < 2:
        raise UserError(
            f"--mix: expected the files of two models or more, as in A.jsonl,B.jsonl, found {text!r}. One file goes "
            "to --input."
        )
    return _different(found, "--mix")


def _different(files: list[InputFile], flag: str) -> list[InputFile]:
    seen: set[Path] = set()
    for file in files:
        place = file.path.resolve()
        if place in seen:
            raise UserError(f"{flag}: expected each file once, found {file.path} twice. Its answers would count twice.")
        seen.add(place)
    return files


def _exists(text: str) -> bool:
    return Path(text).exists() or (glob.has_magic(text) and any(glob.iglob(text, recursive=True)))  # noqa: PTH207


def _files(text: str, flag: str) -> list[Path]:
    path = Path(text)
    if path.is_file():
        if not path.name.endswith(SUFFIXES):
            raise UserError(
                f"{flag} {text}: expected a file of scored rows, {', '.join(SUFFIXES)}, found {path.name}. score.py "
                "reads other files and writes these."
            )
        return [path]
    candidates = sorted(path.iterdir()) if path.is_dir() else sorted(map(Path, glob.glob(text, recursive=True)))  # noqa: PTH207
    found = [file for file in candidates if file.is_file() and _is_rows(file.name)]
    if not found:
        there = "a folder without any" if path.is_dir() else f"nothing of this name in {Path.cwd()}"
        raise UserError(f"{flag} {text}: expected {', '.join(SUFFIXES)} files, found {there}. Check the path.")
    return found


def _is_rows(name: str) -> bool:
    return name.endswith(SUFFIXES) and not name.startswith((".", "_")) and not name.endswith(BESIDE)


def _stem(path: Path) -> str:
    name = path.name
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)


# --- rows -----------------------------------------------------------------------------------------------------


def rows_of(path: Path) -> Iterator[tuple[object, str]]:
    """The rows of a file, and where each stands.

    Raises:
        UserError: the file is broken, with the place.
    """
    try:
        with gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb") as stream:
            yield from _whole(stream, path) if path.name.endswith(WHOLE) else _lines(stream, path)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"expected a whole, readable file at {path}, found a broken one [{one_line(error)}]. Write it again."
        ) from error


def _lines(lines: Iterable[bytes], path: Path) -> Iterator[tuple[object, str]]:
    for number, line in enumerate(lines, 1):
        if not line.isspace():
            yield _parsed(line, f"{path}:{number}"), f"{path}:{number}"


def _whole(stream: IO[bytes], path: Path) -> Iterator[tuple[object, str]]:
    text = stream.read()
    if b"\n" in text.strip() and text.lstrip()[:1] == b"{" and _is_json(text.strip().split(b"\n", 1)[0]):
        lines = text.split(b"\n")  # lines of JSON in a file that is called .json
        yield from (
            (_parsed(line, f"{path}:{place}"), f"{path}:{place}") for place, line in enumerate(lines, 1) if line
        )
        return
    value = _parsed(text, str(path))
    rows = value.get("instances", [value]) if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise UserError(f"expected an array of rows in {path}, found {type(rows).__name__}.")
    yield from ((row, f"{path} row {place}") for place, row in enumerate(rows))


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _parsed(text: bytes, where: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"expected one JSON object a line (in a .json file one array of them), found at {where}: "
            f"{text[:SHOWN].decode(errors='replace').strip()!r} [{one_line(error)}]. Mend or delete it."
        ) from error
