"""The files of scored rows, and whose answers each has: those of --input, or those of --mix."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reward_modeling.common.errors import UserError
from reward_modeling.common.paths import named_paths, split_list
from reward_modeling.data.sources import ALL_SUFFIXES
from reward_modeling.generations.input_files import find_files


@dataclass(frozen=True)
class InputFile:
    """A file of rows."""

    path: Path
    model: str | None = None
    """Whose answers it has, where --mix says so."""


def input_files(paths: str | Sequence[str]) -> list[InputFile]:
    """The files of --input: one or several, folders and globs of them.

    Raises:
        UserError: there is none, one is of another kind, or one is there twice.
    """
    return [InputFile(path) for path in find_files("--input", paths)]


def mixed_files(paths: str | Sequence[str]) -> list[InputFile]:
    """The files of --mix, each with its model: name=path, or the file's own name.

    Raises:
        UserError: as `input_files`; or there are fewer than two models, or two of one name.
    """
    texts = [paths] if isinstance(paths, str) else list(paths)
    entries = [entry for text in texts for entry in _entries(text)]
    if len(entries) < 2:
        raise UserError(
            f"--mix: expected the files of two models or more, as in A.jsonl,B.jsonl, found {', '.join(texts)}. One "
            "file goes to --input."
        )
    names = [name for name, _ in entries]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        first, second, *_ = (path for name, path in entries if name == repeated)
        raise UserError(
            f"--mix: expected a name of its own for each model, found {repeated} twice. Name them: "
            f"--mix one={first},two={second}"
        )
    find_files("--mix", [path for _, path in entries])  # each once
    return [InputFile(file, name) for name, path in entries for file in find_files("--mix", path)]


def _entries(text: str) -> list[tuple[str, str]]:
    """(name, path) of each model."""
    if Path(text).exists() or "=" not in text:
        return [(_stem(Path(path)), path) for path in split_list(text)]
    return [
        (name if name and path else _stem(Path(one)), one)
        for name, path in named_paths(text)
        for one in ([path] if path else split_list(name))
    ]


def _stem(path: Path) -> str:
    """The name of a file without its suffixes."""
    return next((path.name.removesuffix(suffix) for suffix in ALL_SUFFIXES if path.name.endswith(suffix)), path.name)
