"""Tables of text (CSV, TSV) as lines of JSON, which are then read like any others: every column is text.

Fields may hold line breaks and be of any length. A header is needed: its names are the keys of every row.
"""

import csv
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from reward_modeling.common.errors import UserError

TEXT_TABLE_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
TAB = "\t"
SHOWN = 60  # characters of a field in a message


def write_table_lines(file: Path, out_file: Path, label: str) -> None:
    """One row per line.

    Args:
        file: unpacked; `label` is what the user calls it.

    Raises:
        UserError: see `table_rows`.
    """
    with file.open(encoding="utf-8-sig", newline="") as stream, out_file.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table_rows(stream, label))


def table_rows(stream: TextIO, label: str) -> Iterator[dict[str, str | None]]:
    """Row by row; an empty field is null.

    Args:
        stream: opened as utf-8-sig and with newline "".
        label: what the user calls the file; its end says whether tabs or commas separate.

    Raises:
        UserError: two columns have one name, or a row has more or fewer fields than the header.
    """
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    tabs = label.removesuffix(".gz").endswith(".tsv")
    return _rows(csv.reader(stream, delimiter=TAB if tabs else ",", strict=True), label)


def _rows(rows: Iterator[list[str]], label: str) -> Iterator[dict[str, str | None]]:
    try:
        header = next(rows, [])
        if repeated := [repr(name) for name, count in Counter(header).items() if count > 1]:
            raise UserError(f"expected a header of different names in {label}, found {', '.join(repeated)} twice.")
        if len(header) == 1 and (other := next((mark for mark in ";\t,|" if mark in header[0]), None)):
            raise UserError(
                f"expected {'tabs' if rows.dialect.delimiter == TAB else 'commas'} between the columns of {label}, "
                f"found {other!r} in its header: {header[0][:SHOWN]!r}. A .csv file has commas, a .tsv file tabs."
            )
        for row in rows:
            if not row:
                continue
            if len(row) != len(header):
                raise UserError(
                    f"expected {len(header)} fields, as in the header, at line {rows.line_num} of {label}, found "
                    f"{len(row)}: {row[0][:SHOWN]!r}. Put fields that hold separators or line breaks in double quotes."
                )
            yield {name: value or None for name, value in zip(header, row, strict=True)}
    except csv.Error as error:
        raise UserError(
            f"expected a table of text in {label}, found one that is broken at line {rows.line_num} [{error}]. "
            "Write it again, with fields that hold separators, quotes or line breaks in double quotes."
        ) from error
