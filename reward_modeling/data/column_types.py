"""Columns of tables whose Arrow type `datasets` has no name for, as maps are."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features

from reward_modeling.common.errors import UserError


def type_error(file: Path, error: ValueError) -> Exception:
    """What to raise where opening a table failed so: a `UserError` that names the columns, or the error itself."""
    columns = [f"{field.name} ({field.type})" for field in _schema(file) if not _is_known(field)]
    if not columns:
        return error
    return UserError(
        f"{file}: expected columns of types that can be read, found {', '.join(columns)}. Write each as a struct or as "
        "JSON text, or leave it out."
    )


def _schema(file: Path) -> pa.Schema:
    if file.name.endswith(".parquet"):
        return pq.read_schema(file)
    with pa.memory_map(str(file)) as source:
        try:
            return pa.ipc.open_stream(source).schema
        except pa.ArrowInvalid:  # the other of the two formats
            return pa.ipc.open_file(source).schema


def _is_known(field: pa.Field) -> bool:
    try:
        Features.from_arrow_schema(pa.schema([field.remove_metadata()]))
        return True
    except ValueError:
        return False
