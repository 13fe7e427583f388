"""Rows of a preference set as JSON lines, and these lines as a table of parquet.

    columns = written_columns(table, order)             # ["chosen", "rejected", "source"]
    lines = json_lines(table.take(order), columns)

A pair has `chosen` and `rejected`, whole conversations; a list of ranked answers is one record of `prompt`,
`completions` and `ranks`. What else some row has a value for, numbers and labels, stands behind them, null where a row
has none. Reading a written file gives the rows that were written.

Arrow joins the texts: no row becomes a Python object. How another kind of rows is written stands in a file of its own
(`rated_lines.py`), which gives a `LineForm` as `pair_lines` does here.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
from numpy.typing import NDArray

from reward_modeling.common.errors import UserError, one_line
from reward_modeling.data.template_options import OPTION_COLUMNS, split_options
from reward_modeling.preference_sets.pair_table import NUMBERS, PairTable

PAIR, LIST = ("chosen", "rejected"), ("prompt", "completions", "ranks")
TEXT_COLUMNS = ("source", *OPTION_COLUMNS)
KEYS = {"role", "content"}  # of a message in parquet
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


@dataclass(frozen=True)
class LineForm:
    """How the rows of one kind are written."""

    unit: str
    """What a row is called, in the plural."""
    to_lines: Callable[[pa.RecordBatch], pa.Buffer]
    """JSON lines of rows that a table gives."""
    schema: Callable[[], pa.Schema]
    """Of a parquet file of them; raises `UserError` where it cannot hold them."""


def pair_lines(table: PairTable, columns: Sequence[str]) -> LineForm:
    """Pairs and lists with these columns."""
    return LineForm("pairs", partial(json_lines, columns=columns), partial(parquet_schema, table, columns))


def written_columns(table: PairTable, numbers: NDArray[np.integer]) -> list[str]:
    """The columns in which some of these rows have something to say."""
    chosen = pa.array(numbers)
    is_list = pc.greater(pc.list_value_length(table.column("answers").take(chosen)), 0)
    has_lists, has_pairs = pc.any(is_list).as_py(), not pc.all(is_list).as_py()
    is_text = table.column("is_text").take(chosen)
    with_prompt = has_lists and pc.any(pc.and_not(is_list, is_text)).as_py()
    texts = [*PAIR] * has_pairs + ["prompt"] * with_prompt + ["completions", "ranks"] * has_lists
    columns = {name: table.column(name).take(chosen) for name in ("source", *NUMBERS)}
    options = {
        name
        for text in pc.unique(table.column("template_options").take(chosen)).to_pylist()
        for name in split_options(text)
    }
    return [*texts, *(name for name, values in columns.items() if values.null_count < len(values)), *sorted(options)]


# --- JSON -----------------------------------------------------------------------------------------------------


def json_lines(rows: pa.RecordBatch, columns: Sequence[str]) -> pa.Buffer:
    """The rows as JSON, one line each, with these columns; a text that a row has not is left out."""
    texts = _texts(rows)
    pieces: list[pa.Array | bytes] = []
    for name in columns:
        begin = f'"{name}": '.encode()
        if name in texts:
            pieces.append(pc.fill_null(joined(begin, texts[name], b", "), b""))
        else:
            values = option_texts(rows, name) if name in OPTION_COLUMNS else rows.column(name)
            value = quoted(values) if name in TEXT_COLUMNS else decimals(values)
            pieces.append(joined(begin, pc.fill_null(value, "null"), b", "))
    return objects(pieces, len(rows))


def objects(pieces: Sequence[pa.Array], rows: int) -> pa.Buffer:
    """A JSON object on each line, of pieces that end in a comma and a space, of which the last one goes."""
    whole = joined(*pieces) if pieces else pa.array([b""] * rows)
    lines = joined(b"{", pc.binary_slice(whole, 0, -2), b"}\n")
    return lines.buffers()[2][: len(lines) and np.frombuffer(lines.buffers()[1], np.int32, len(lines) + 1)[-1]]


def joined(*pieces: pa.Array | bytes) -> pa.Array:
    """Row by row one after the other; null where a piece is null."""
    pieces = [piece if isinstance(piece, bytes) else pc.cast(piece, pa.binary()) for piece in pieces]
    return pc.binary_join_element_wise(*pieces, b"", null_handling="emit_null")


def _texts(rows: pa.RecordBatch) -> dict[str, pa.Array]:
    """The columns of `PAIR` and `LIST` as JSON, null where a row has none."""
    is_list, is_text = pc.greater(pc.list_value_length(rows.column("answers")), 0), rows.column("is_text")
    of_pairs = {side: pc.if_else(is_list, None, _conversations(rows, side)) for side in PAIR}
    if not pc.any(is_list).as_py():
        return of_pairs | dict.fromkeys(LIST, pa.nulls(len(rows), pa.binary()))
    lists = {
        "prompt": pc.if_else(is_text, None, pc.cast(rows.column("prompt"), pa.binary())),
        "completions": _completions(rows),
        "ranks": _brackets(pc.cast(rows.column("ranks"), pa.list_(pa.string()))),
    }
    return of_pairs | {name: pc.if_else(is_list, values, None) for name, values in lists.items()}


def whole_conversations(rows: pa.RecordBatch, answer: str) -> pa.Array:
    """Prompt and answer, two JSON arrays, as one."""
    prompt, answer = (pc.cast(rows.column(name), pa.binary()) for name in ("prompt", answer))
    between = pc.if_else(pc.equal(prompt, b"[]"), b"", b", ")
    return joined(pc.binary_slice(prompt, 0, -1), between, pc.binary_slice(answer, 1, 2**31 - 1))


def _conversations(rows: pa.RecordBatch, side: str) -> pa.Array:
    """Whole conversations; a plain text as a JSON string."""
    whole = whole_conversations(rows, side)
    is_text = rows.column("is_text")
    if not pc.any(is_text).as_py():
        return whole
    texts = pa.array([json.dumps(text, ensure_ascii=False) for text in rows.column(side).to_pylist()], pa.string())
    return pc.if_else(is_text, pc.cast(texts, pa.binary()), whole)


def _completions(rows: pa.RecordBatch) -> pa.Array:
    """The answers of lists, each its messages or a plain text, as one JSON array."""
    answers, is_text = rows.column("answers"), rows.column("is_text")
    if not pc.any(is_text).as_py():
        return _brackets(answers)
    texts = [json.dumps(texts, ensure_ascii=False) for texts in answers.to_pylist()]
    return pc.if_else(is_text, pc.cast(pa.array(texts, pa.string()), pa.binary()), _brackets(answers))


def _brackets(lists: pa.Array) -> pa.Array:
    """Lists of JSON values as JSON arrays."""
    return joined(b"[", pc.binary_join(lists, ", "), b"]")


def option_texts(rows: pa.RecordBatch, name: str) -> pa.Array:
    """`tools` or `chat_template_kwargs` of the rows as JSON; few different ones."""
    options = rows.column("template_options").dictionary_encode()
    found = [split_options(text).get(name) for text in options.dictionary.to_pylist()]
    return pa.array(found, pa.string()).take(options.indices)


def quoted(values: pa.Array) -> pa.Array:
    """Texts as JSON strings; few different ones, as names of sources are."""
    names = values.dictionary_encode()
    quoted = [json.dumps(name, ensure_ascii=False) for name in names.dictionary.to_pylist()]
    return pa.array(quoted, pa.string()).take(names.indices)


def decimals(values: pa.Array) -> pa.Array:
    """Numbers as JSON that nobody takes for integers, with all their digits."""
    return pc.replace_substring_regex(pc.cast(values, pa.string()), r"^(-?\d+)$", r"\1.0")


# --- parquet --------------------------------------------------------------------------------------------------


def parquet_schema(table: PairTable, columns: Sequence[str]) -> pa.Schema:
    """
    Raises:
        UserError: there are both conversations and plain texts.
    """
    is_text = pc.unique(table.column("is_text")).to_pylist()
    if len(is_text) > 1:
        raise UserError(
            "expected either conversations or plain texts, as a parquet column holds one type, found both. Pass "
            "--format jsonl, or write them to folders of their own."
        )
    answer = pa.string() if is_text == [True] else MESSAGES
    types = {
        **dict.fromkeys(PAIR, answer),
        "prompt": MESSAGES,
        "completions": pa.list_(answer),
        "ranks": pa.list_(pa.int32()),
        **dict.fromkeys(TEXT_COLUMNS, pa.string()),
        **dict.fromkeys(NUMBERS, pa.float64()),
    }
    return pa.schema([(name, types[name]) for name in columns])


def _objects_in(values: Iterable[object]) -> Iterator[dict]:
    """The messages in a row's columns, which are lists of them or lists of such lists."""
    for value in values:
        if isinstance(value, dict):
            yield value
        elif isinstance(value, list):
            yield from _objects_in(value)


def parse_lines(lines: pa.Buffer, rows: pa.RecordBatch, schema: pa.Schema) -> pa.Table:
    """The columns of some rows, of their JSON lines.

    Raises:
        UserError: a message has other keys than role and content.
    """
    # One block: no line is longer, and so nothing depends on the number of threads.
    reading = pj.ReadOptions(block_size=len(lines) + 1)
    parsing = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
    try:
        return pj.read_json(pa.BufferReader(lines), reading, parsing)
    except pa.ArrowInvalid as error:
        found = f"[{one_line(error)}]"
        written = bytes(lines).split(b"\n")
        for line, where in zip(written, rows.column("where").to_pylist(), strict=False):  # the last line is empty
            if keys := sorted({key for message in _objects_in(json.loads(line).values()) for key in message} - KEYS):
                found = f"{', '.join(keys)} at {where}"
                break
        raise UserError(
            f"expected messages of role and content, as the columns of parquet are, found {found}. Pass --format jsonl."
        ) from error
