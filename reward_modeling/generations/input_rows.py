"""Rows of files one after the other, in memory that does not grow with their number, each as it stands.

for row in stream_rows([Path("samples.jsonl.gz"), Path("more.parquet")]):
    row.where, row.values, row.text
"""

import gzip
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import IO, NamedTuple
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq

from reward_modeling.common.errors import UserError
from reward_modeling.data.json_lines import ARRAY, FILE_ERRORS, array_elements, broken_file, unreadable_line
from reward_modeling.data.table_values import without_null_keys
from reward_modeling.data.text_tables import TEXT_TABLE_SUFFIXES, table_rows

ROWS_PER_BATCH = 256  # of a parquet file
# LMFlow's files, which Online-RLHF writes: {"type": "text_only", "instances": [...]}.
INSTANCES = re.compile(r'\s*\{(?:\s*"\w+"\s*:\s*"[^"]*"\s*,)*\s*"instances"\s*:\s*\[')
HEAD = 4096  # characters that say what a .json file is
JSON_SUFFIXES = (".json", ".json.gz")
BOM = b"\xef\xbb\xbf"


class InputRow(NamedTuple):
    """A row of a file."""

    where: str
    """Such as samples.jsonl:12, counted from 1 as editors do, or samples.parquet row 11, counted from 0."""
    values: dict[str, object]
    text: str | None
    """Its JSON on one line as it stands; None of a row that stands there otherwise."""
    is_text: bool = False
    """Whether it stands in a table of text (CSV, TSV), which has lists as JSON."""
    has_no_number: bool = False
    """Whether it had NaN or Infinity, which JSON has not: they are None in `values`."""


def stream_rows(files: Iterable[Path]) -> Iterator[InputRow]:
    """Every row of the files, in order.

    Raises:
        UserError: a file is broken, or has what is no row, or what JSON cannot hold; after the rows before it.
    """
    for file in files:
        try:
            if file.name.endswith((".parquet", ".arrow")):
                yield from _table(file)
            else:
                yield from _texts(file)
        except FILE_ERRORS as error:
            raise broken_file(str(file), error) from error


# --- texts ------------------------------------------------------------------------------------------------------------


def _texts(file: Path) -> Iterator[InputRow]:
    if file.name.endswith(TEXT_TABLE_SUFFIXES):
        with _open_text(file) as stream:
            for number, row in enumerate(table_rows(stream, str(file))):
                yield InputRow(f"{file} row {number}", row, None, is_text=True)
    elif file.name.endswith(JSON_SUFFIXES) and (begins := _beginning_of_array(file)) is not None:
        with _open_text(file) as stream:
            for number, text in enumerate(array_elements(stream, str(file), begins)):
                yield _json_row(f"{file} row {number}", text.encode(), is_one_line="\n" not in text)
    else:
        yield from _lines(file)


def _lines(file: Path) -> Iterator[InputRow]:
    """The rows of JSON lines; blank lines are none, but count."""
    with _open(file) as stream:
        for number, line in zip(count(1), stream, strict=False):
            said = line.removeprefix(BOM) if number == 1 else line
            if not said.isspace():
                yield _json_row(f"{file}:{number}", said)


class _Constants:
    """NaN and Infinity, which Python's JSON takes: whether there were some, and None in the place of each."""

    found = False

    def __call__(self, _name: str) -> None:
        self.found = True


def _json_row(where: str, line: bytes, *, is_one_line: bool = True) -> InputRow:
    constants = _Constants()
    try:
        text = line.decode().strip()
        row = json.loads(text, parse_constant=constants)
    except (ValueError, RecursionError) as error:
        raise unreadable_line(where, line, error) from error
    if not isinstance(row, dict):
        raise UserError(
            f"expected one object with columns at {where}, found {text[:80]!r}. Write each row as {{'prompt': ..., "
            "'responses': [...]}."
        )
    as_it_stands = is_one_line and not constants.found
    return InputRow(where, row, text if as_it_stands else None, has_no_number=constants.found)


def _beginning_of_array(file: Path) -> re.Pattern | None:
    """What stands before the first row of an array; None where the file is no array."""
    with _open_text(file) as stream:
        head = stream.read(HEAD)
    return next((begins for begins in (ARRAY, INSTANCES) if begins.match(head)), None)


@contextmanager
def _open(file: Path) -> Iterator[IO[bytes]]:
    with gzip.open(file, "rb") if file.name.endswith(".gz") else file.open("rb") as stream:
        yield stream


@contextmanager
def _open_text(file: Path) -> Iterator[IO[str]]:
    opened = gzip.open if file.name.endswith(".gz") else open
    with opened(file, "rt", encoding="utf-8-sig", newline="") as stream:
        yield stream


# --- tables -----------------------------------------------------------------------------------------------------------


def _table(file: Path) -> Iterator[InputRow]:
    """The rows of a parquet file, batch by batch, or of one that `datasets` has saved."""
    if file.name.endswith(".arrow"):
        with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as reader:
            _check_columns(file, reader.schema)
            pieces = (batch.slice(start, ROWS_PER_BATCH) for batch in reader for start in _starts(batch))
            yield from _rows_of_batches(file, pieces)
        return
    with pq.ParquetFile(file, pre_buffer=False) as table:  # read ahead, a file takes twice the memory
        _check_columns(file, table.schema_arrow)
        yield from _rows_of_batches(file, table.iter_batches(ROWS_PER_BATCH))


def _starts(batch: pa.RecordBatch) -> range:
    return range(0, batch.num_rows, ROWS_PER_BATCH)


def _rows_of_batches(file: Path, batches: Iterable[pa.RecordBatch]) -> Iterator[InputRow]:
    numbers = count()
    for batch in batches:
        values = [_values(file, field, column) for field, column in zip(batch.schema, batch.columns, strict=True)]
        names = [field.name for field in batch.schema if any(map(pa.types.is_floating, _types(field.type)))]
        for row in zip(*values, strict=True):
            named = dict(zip(batch.schema.names, row, strict=True))
            has_no_number = not all(map(_is_finite, (named[name] for name in names)))
            yield InputRow(f"{file} row {next(numbers)}", named, None, has_no_number=has_no_number)


def _values(file: Path, field: pa.Field, column: pa.Array) -> list:
    """
    Raises:
        UserError: a date is beyond those of Python.
    """
    try:
        return column.to_pylist()
    except (OverflowError, ValueError) as error:
        raise UserError(
            f"expected dates of the years 1 to 9999 in {file}, found others in {field.name} ({field.type}). Write the "
            "file again without that column, or with it as text."
        ) from error


def _check_columns(file: Path, schema: pa.Schema) -> None:
    """
    Raises:
        UserError: a column holds bytes, such as pictures, which no JSON holds; or two have one name.
    """
    if repeated := next((name for name in schema.names if schema.names.count(name) > 1), None):
        raise UserError(f"expected columns of different names in {file}, found {repeated!r} twice. Rename one of them.")
    for field in schema:
        if any(map(_is_binary, _types(field.type))):
            raise UserError(
                f"expected columns that JSON can hold in {file}, found bytes in {field.name} ({field.type}). Write the "
                "file again without that column."
            )


def _types(of: pa.DataType) -> Iterator[pa.DataType]:
    yield of
    for number in range(of.num_fields):
        yield from _types(of.field(number).type)


def _is_binary(of: pa.DataType) -> bool:
    return pa.types.is_binary(of) or pa.types.is_large_binary(of) or pa.types.is_fixed_size_binary(of)


# --- as JSON ----------------------------------------------------------------------------------------------------------


def values_to_read(row: InputRow) -> Mapping[str, object]:
    """What of a row its conversations are read from: without the null keys that a table gives every object."""
    return row.values if row.text is not None else without_null_keys(row.values)


def json_of(values: Mapping[str, object]) -> str:
    """A row as JSON on one line: dates and decimal numbers as text, no number as null."""
    try:
        text = _TO_JSON(values)
    except ValueError:  # NaN or infinity
        text = _TO_JSON(_finite(values))
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character, which JSON can write and UTF-8 cannot
        return json.dumps(json.loads(text))
    return text


def _as_text(value: object) -> str:
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal | timedelta | UUID):
        return str(value)
    raise TypeError(f"no JSON for {type(value).__name__}")


_TO_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_as_text).encode


def _is_finite(value: object) -> bool:
    """Whether no number in a value is infinite or NaN."""
    if isinstance(value, float):
        return value - value == 0
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return all(map(_is_finite, inner))


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value
