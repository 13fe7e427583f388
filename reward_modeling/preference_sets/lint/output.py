"""lint.json and lint.html: both, or neither, and never over another report without being asked."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from reward_modeling.common.errors import UserError
from reward_modeling.preference_sets.lint.report import lint_page

LINT_JSON, LINT_HTML = "lint.json", "lint.html"


def check_output(folder: Path, overwrite: bool) -> None:
    """Before the work is done.

    Raises:
        UserError: a report stands there and is not to be replaced, or the folder cannot be written.
    """
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise UserError(f"--output_path {folder}: expected a folder, found the file {nearest}. Take another path.")
    if not os.access(nearest, os.W_OK):
        raise UserError(f"--output_path {folder}: expected a folder to write to, found that {nearest} refuses it.")
    there = [name for name in (LINT_JSON, LINT_HTML) if (folder / name).exists()]
    if there and not overwrite:
        raise UserError(
            f"--output_path {folder}: expected no report there, found {' and '.join(there)}. "
            "Pass --overwrite to replace it, or another --output_path."
        )


def write_output(summary: Mapping, folder: Path) -> None:
    """Write both files aside, then give them their names."""
    contents = {LINT_JSON: json.dumps(summary, indent=2, ensure_ascii=False) + "\n", LINT_HTML: lint_page(summary)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (folder / f".unfinished-{name}").write_text(content, encoding="utf-8")
        for name in contents:
            (folder / f".unfinished-{name}").replace(folder / name)
    except OSError as error:
        raise UserError(f"--output_path {folder}: cannot write there ({error.strerror}). Take another path.") from error
    finally:
        for name in contents:
            (folder / f".unfinished-{name}").unlink(missing_ok=True)
