"""lint.json and lint.html: both, or neither, and never over another report without being asked."""

import json
from collections.abc import Mapping
from pathlib import Path

from reward_modeling.common.atomic import check_writable, whole_file
from reward_modeling.common.errors import UserError
from reward_modeling.preference_sets.lint.report import lint_page

LINT_JSON, LINT_HTML = "lint.json", "lint.html"


def check_output(folder: Path, overwrite: bool) -> None:
    """Before the work is done.

    Raises:
        UserError: a report stands there and is not to be replaced, or the folder cannot be written.
    """
    check_writable("--output_path", folder)
    there = [name for name in (LINT_JSON, LINT_HTML) if (folder / name).exists()]
    if there and not overwrite:
        raise UserError(
            f"--output_path {folder}: expected no report there, found {' and '.join(there)}. "
            "Pass --overwrite to replace it, or another --output_path."
        )


def write_output(summary: Mapping, folder: Path) -> None:
    """Write both files aside, then give them their names."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / LINT_JSON) as json_path, whole_file(folder / LINT_HTML) as html_path:
            json_path.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            html_path.write_text(lint_page(summary), encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output_path {folder}: cannot write there ({error.strerror}). Take another path.") from error
