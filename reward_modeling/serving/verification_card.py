"""What a checkpoint says of the servers that were found equal: `served.json`, and a dated line in its README.md.

Both are written where it is asked for (`--write_card true`) and the server was equal, and at no other time. served.json
also says which weights they were: other weights of the same folder were not served.
"""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reward_modeling.checkpoints.checksums import checksum
from reward_modeling.common.atomic import CONTENTS, write_whole
from reward_modeling.common.errors import UserError
from reward_modeling.display.text import make_printable
from reward_modeling.serving.verification import Report
from reward_modeling.serving.verification_rows import FLOAT32

SERVED, CARD = "served.json", "README.md"
# In the model card, around the lines.
BEGIN, END = "<!-- served equal -->", "<!-- /served equal -->"
HEADING = "## Served"


def write_served(report: Report) -> Path:
    """Add the server to both files of the checkpoint's folder; the one that it takes the place of is left out.

    Returns:
        The card.

    Raises:
        UserError: the server was not equal, the files were not compared, or the folder cannot be written.
    """
    folder = report.checkpoint.folder
    if report.local is None:
        raise UserError("--write_card true: expected the model loaded here (--load_model true), found it was not.")
    if not report.equal:
        raise UserError(f"--write_card true: expected an equal server, found a different one. {folder} is as it was.")
    entry = entry_of(report)
    try:
        entries = [one for one in read_served(folder) if not _is_replaced(one, entry)] + [entry]
        write_whole(folder / SERVED, json.dumps(entries, indent=2) + "\n")
        card = folder / CARD
        text = card.read_text(encoding="utf-8") if card.is_file() else f"# {folder.resolve().name}\n"
        write_whole(card, with_lines(text, [line_of(one) for one in entries]))
        _list_anew(folder, card)
    except OSError as error:
        raise UserError(f"--write_card true: expected to write to {folder}, found [{error}].") from error
    return card


def _list_anew(folder: Path, card: Path) -> None:
    """The card's size and hash, where the folder has a list of its files."""
    path = folder / CONTENTS
    entries = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if isinstance(entries.get(card.name), dict):
        entries[card.name] |= {"bytes": card.stat().st_size, "xxh3_128": checksum(card)}
        write_whole(path, json.dumps(entries, indent=2))


def read_served(folder: Path) -> list[dict[str, Any]]:
    """The servers that this checkpoint's folder names, of the weights that lie there now."""
    path = folder / SERVED
    entries = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return [entry for entry in entries if entry["weights"] == weights_of(folder)]


def entry_of(report: Report) -> dict[str, Any]:
    """One entry of served.json."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "server": report.server.name,
        "version": report.server.version,
        "protocol": report.protocol,
        "dtype": report.dtype,
        "dtype_by": "server" if report.server.dtype else "--served_dtype",
        "ways": [one.way.name for one in report.deciding],
        "rows": max(len(one.rows) for one in report.deciding),
        "tokens": sum(map(len, {tuple(row.ids) for row in report.checkpoint.rows})),
        "longest_row": report.longest_row,
        "messages": report.messages,
        "largest_difference": report.largest,
        "tolerance": report.tolerance,
        "weights": weights_of(report.checkpoint.folder),
    }


def weights_of(folder: Path) -> dict[str, str]:
    """Names and hashes of the files of weights."""
    return {path.name: checksum(path) for path in sorted(folder.glob("*.safetensors"))}


def _is_replaced(old: dict[str, Any], new: dict[str, Any]) -> bool:
    return all(old[name] == new[name] for name in ("server", "version", "protocol", "dtype"))


def line_of(entry: dict[str, Any]) -> str:
    """The line of the card."""
    server = " ".join(filter(None, (entry["server"], entry["version"])))
    rounding, template = "", "the chat template was not compared"
    if entry["dtype"] != FLOAT32:
        rounding = f" within the rounding of {entry['dtype']}, which hides differences up to {entry['tolerance']:.1e}"
        rounding += ", a precision that the server does not name itself" if entry["dtype_by"] != "server" else ""
    if entry["messages"]:
        template = f"{entry['messages']} conversations through its chat template"
    return (
        f"- Served equal{rounding} on {entry['date']}: {make_printable(server)}, protocol `{entry['protocol']}`, "
        f"{entry['rows']} rows of up to {entry['longest_row']:,} tokens in {entry['dtype']} "
        f"({'; '.join(entry['ways'])}), {template}; the largest difference is {entry['largest_difference']:.1e}, of "
        f"{entry['tolerance']:.1e} that are allowed."
    )


def with_lines(text: str, lines: list[str]) -> str:
    """The card with these lines between its marks, which are put at its end where it has none."""
    block = "\n".join([BEGIN, *lines, END])
    if BEGIN in text and END in text:
        return re.sub(f"{BEGIN}.*?{END}", lambda _: block, text, count=1, flags=re.DOTALL)
    return f"{text.rstrip()}\n\n{HEADING}\n\n{block}\n"
