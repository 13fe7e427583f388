"""The files that rows are read from: what the user's paths stand for, and what tells them from other files."""

import glob
from collections.abc import Iterable, Sequence
from pathlib import Path

import xxhash

from reward_modeling.common.errors import UserError
from reward_modeling.common.paths import split_list
from reward_modeling.data.sources import ALL_SUFFIXES, SUFFIXES, is_data_file

HASHED_AT_ONCE = 2**22  # bytes
SHOWN = 5


def find_files(flag: str, paths: str | Sequence[str]) -> list[Path]:
    """The files of paths, in their order; those of a folder or a glob by name.

    Args:
        paths: files, folders and globs, one or several, also with commas between.

    Raises:
        UserError: there is none, or one is no data file, or one is named twice.
    """
    given = [part for path in ([paths] if isinstance(paths, str) else paths) for part in split_list(path)]
    files = [file for path in given for file in _files_of(flag, path)]
    if not files:
        raise UserError(f"{flag}: expected a {SUFFIXES} file, or a folder or glob of them, found nothing.")
    resolved = [file.resolve() for file in files]
    if repeated := next((file for file, path in zip(files, resolved, strict=True) if resolved.count(path) > 1), None):
        raise UserError(f"{flag}: expected each file once, found {repeated} twice.")
    return files


def folders_passed_over(paths: str | Sequence[str]) -> list[Path]:
    """The folders in folders among the paths, whose files are not read."""
    given = [
        Path(part).expanduser() for path in ([paths] if isinstance(paths, str) else paths) for part in split_list(path)
    ]
    return [
        one
        for folder in given
        if folder.is_dir()
        for one in sorted(folder.iterdir())
        if one.is_dir() and not one.name.startswith(".")
    ]


def _files_of(flag: str, path: str) -> list[Path]:
    local = Path(path).expanduser()
    if local.is_dir():
        return _data_files(flag, path, sorted(local.iterdir()))
    if local.exists():
        if not local.name.endswith(ALL_SUFFIXES):
            raise UserError(
                f"{flag}: expected a {SUFFIXES} file, found {path}. Convert it, or give it its real extension."
            )
        return [local]
    if glob.has_magic(path):
        matches = sorted(glob.glob(str(local), recursive=True))  # noqa: PTH207 (Path.glob takes no absolute one)
        return _data_files(flag, path, [Path(match) for match in matches])
    raise UserError(f"{flag}: expected an existing path, found none: {path} does not exist in {Path.cwd()}.")


def _data_files(flag: str, path: str, candidates: list[Path]) -> list[Path]:
    files = [file for file in candidates if is_data_file(file) and file.is_file()]
    if not files:
        found = ", ".join(file.name for file in candidates[:SHOWN]) or "nothing"
        raise UserError(
            f"{flag}: expected {SUFFIXES} files in {path}, found {found}. Pass the folder that holds the files itself, "
            "or a glob such as 'samples/**/*.jsonl'."
        )
    return files


def fingerprint_of_files(files: Iterable[Path]) -> str:
    """32 hex digits of the names and the bytes of files, in their order."""
    digest = xxhash.xxh3_128()
    for file in files:
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        with file.open("rb") as stream:
            while part := stream.read(HASHED_AT_ONCE):
                digest.update(part)
    return digest.hexdigest()
