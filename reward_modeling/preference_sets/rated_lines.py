"""Rows of ratings as JSON lines, as training reads them (`data/rated_rows.py`).

    lines = rated_lines(table, order).to_lines(table.take(order))

A row has `messages`, a whole conversation, `source`, a column for each attribute that some row is rated on, and what
goes to the chat template beside the messages. An attribute that is not rated is null.
"""

import json
from collections.abc import Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from reward_modeling.data.template_options import split_options
from reward_modeling.preference_sets.rated_table import RATING, RatedTable
from reward_modeling.preference_sets.row_lines import (
    MESSAGES,
    LineForm,
    decimals,
    joined,
    objects,
    option_texts,
    quoted,
    whole_conversations,
)


def rated_lines(table: RatedTable, numbers: NDArray[np.integer]) -> LineForm:
    """How these rows of a table are written: with the attributes and template options that some of them have."""
    is_rated = ~np.isnan(table.values[numbers]).all(axis=0)
    attributes = [name for name, rated in zip(table.attributes, is_rated, strict=True) if rated]
    found = pc.unique(table.column("template_options").take(pa.array(numbers))).to_pylist()
    options = sorted({name for text in found for name in split_options(text)})
    schema = pa.schema(
        [
            ("messages", MESSAGES),
            ("source", pa.string()),
            *((name, pa.float64()) for name in attributes),
            *((name, pa.string()) for name in options),
        ]
    )
    return LineForm("answers", partial(_json_lines, attributes=attributes, options=options), lambda: schema)


def _json_lines(rows: pa.RecordBatch, attributes: Sequence[str], options: Sequence[str]) -> pa.Buffer:
    pieces = [
        _column("messages", whole_conversations(rows, "response")),
        _column("source", quoted(rows.column("source"))),
    ]
    pieces += [_column(name, decimals(rows.column(f"{RATING}{name}"))) for name in attributes]
    pieces += [_column(name, quoted(option_texts(rows, name))) for name in options]
    return objects(pieces, len(rows))


def _column(name: str, values: pa.Array) -> pa.Array:
    begin = f"{json.dumps(name, ensure_ascii=False)}: ".encode()
    return joined(begin, pc.fill_null(pc.cast(values, pa.binary()), b"null"), b", ")
