"""Read JSON lines and JSON arrays row by row, in parallel, with the place of every row.

A file is cut into byte ranges of whole lines, which worker processes read with `json.loads`: one row of other
types than the rest costs that row and not the file. A packed file, or one array, becomes lines in a scratch
folder first. (Not by ijson: it refuses a whole file for a NaN or 1e400, which here costs the row that has it.)
"""

import gzip
import json
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pyarrow as pa
from datasets.exceptions import DatasetsError

from reward_modeling.common.errors import UserError, one_line
from reward_modeling.data.text_tables import TEXT_TABLE_SUFFIXES, write_table_lines

BLOCK_BYTES = 1 << 20  # what one call of a worker reads of a JSON file: some hundred rows
ARRAY = re.compile(r"\s*\[")
LONGEST_ELEMENT = 1 << 26  # characters of one element of a JSON array: beyond it the array is broken
FILE_ERRORS = (
    DatasetsError,
    OSError,
    EOFError,
    zlib.error,
    pa.ArrowException,
    UnicodeDecodeError,
    json.JSONDecodeError,
)

ToRow = Callable[[object, str], dict[str, object]]


def broken_file(label: str, error: Exception) -> UserError:
    return UserError(
        f"expected a whole, readable file at {label}, found a broken one [{one_line(error)}]. "
        "Download or write it again."
    )


def json_blocks(file: Path, scratch: Path) -> list[dict[str, object]]:
    """Byte ranges of whole lines; of a copy below `scratch` where the file is packed, an array or a table of text."""
    lines = file
    is_array = False
    try:
        if file.name.endswith(".gz"):
            lines = _new_file(scratch)
            with gzip.open(file, "rb") as packed, lines.open("wb") as out:
                shutil.copyfileobj(packed, out, BLOCK_BYTES)
        if file.name.endswith((".json", ".json.gz")) and _starts_array(lines):
            is_array = True
            packed_lines, lines = lines, _new_file(scratch)
            _write_array_lines(packed_lines, lines, str(file))
        elif file.name.endswith(TEXT_TABLE_SUFFIXES):
            is_array = True
            table, lines = lines, _new_file(scratch)
            write_table_lines(table, lines, str(file))
        return list(_line_blocks(lines, str(file), is_array))
    except FILE_ERRORS as error:
        raise broken_file(str(file), error) from error


def _new_file(scratch: Path) -> Path:
    return scratch / f"lines-{len(list(scratch.glob('lines-*')))}"


def _line_blocks(lines: Path, label: str, is_array: bool) -> Iterator[dict[str, object]]:
    prefix = f"{label} row " if is_array else f"{label}:"
    start, first = 0, 0 if is_array else 1
    with lines.open("rb") as stream:
        while data := stream.read(BLOCK_BYTES) + stream.readline():
            stop = start + len(data)
            yield {"lines": str(lines), "start": start, "stop": stop, "first": first, "prefix": prefix}
            start, first = stop, first + data.count(b"\n")


def block_rows(batch: dict[str, list], indices: list[int], *, to_row: ToRow, names: list[str]) -> dict[str, list]:
    rows = [to_row(row, where) for row, where in parsed_lines({name: batch[name][0] for name in batch})]
    return {name: [row[name] for row in rows] for name in names}


def parsed_lines(block: dict[str, object]) -> Iterator[tuple[object, str]]:
    """The rows of a block and where they stand; blank lines are no rows, but count as lines."""
    with Path(block["lines"]).open("rb") as stream:
        stream.seek(block["start"])
        data = stream.read(block["stop"] - block["start"])
    for number, line in enumerate(data.split(b"\n"), block["first"]):
        if not line or line.isspace():
            continue
        where = f"{block['prefix']}{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise unreadable_line(where, line, error) from error
        yield row, where


def unreadable_line(where: str, line: bytes, error: Exception) -> UserError:
    """The error about a line, or an element of an array, that is no JSON."""
    if b"\0" in line:  # UTF-16, as Windows saves it, or no text at all
        return UserError(f"expected JSON lines in UTF-8, found zero bytes at {where}. Save the file in UTF-8.")
    advice = "Save the file in UTF-8" if isinstance(error, UnicodeDecodeError) else "Mend or delete it"
    return UserError(
        f"expected one JSON object per line (or, in a .json file, one array of them), found at {where}: "
        f"{line[:120].decode(errors='replace')!r} [{one_line(error)}]. {advice}."
    )


def _starts_array(file: Path) -> bool:
    with file.open(encoding="utf-8-sig") as stream:
        return stream.read(4096).lstrip().startswith("[")


def _write_array_lines(file: Path, out_file: Path, label: str) -> None:
    """One element per line, as it stands: newlines between tokens become spaces; inside strings are none."""
    with file.open(encoding="utf-8-sig") as stream, out_file.open("w", encoding="utf-8") as out:
        for element in array_elements(stream, label):
            out.write(element.replace("\n", " ") + "\n")


def array_elements(stream: TextIO, label: str, begins: re.Pattern = ARRAY) -> Iterator[str]:
    """The texts of an array's elements, with no more of the file in memory than a block and an element.

    Args:
        begins: what the file begins with, to the bracket before the first element.
    """
    decoder, spaces = json.JSONDecoder(), re.compile(r"\s*")
    text, index = stream.read(BLOCK_BYTES), 0
    position = begins.match(text).end()
    while True:
        start = spaces.match(text, position).end()
        if text[start : start + 1] == "]":
            return
        try:
            stop = decoder.raw_decode(text, start)[1]
            end = spaces.match(text, stop).end()
            error = None if text[end : end + 1] in ("", ",", "]") else ValueError("expected , or ]")
        except (ValueError, RecursionError) as raised:
            end, error = len(text), raised
        if end < len(text) and error is None:
            yield text[start:stop]
            index, position = index + 1, end + (text[end] == ",")
            continue
        # The element may go on behind the text that was read: read on, twice as much each time.
        more = "" if len(text) - start > LONGEST_ELEMENT else stream.read(max(BLOCK_BYTES, len(text) - start))
        if not more or (error is not None and end < len(text)):
            error = error or EOFError("the array is not closed")
            raise unreadable_line(
                f"{label} row {index}", text[start : start + 120].encode(errors="replace"), error
            ) from error
        text, position = text[start:] + more, 0
