"""Write pairs as a folder that rm.py reads: shards and a manifest, as a whole or not at all.

    run_source(ScriptArguments, build)                      # one source, as the scripts of data_prep do

    with new_output("data/mixture2", overwrite=False) as folder:
        written = write_pairs(table, order, folder, "train", "parquet", value_columns(table, order))
        write_manifest(manifest, {"train": written}, "parquet", folder)

Rows go batch by batch from the memory-mapped cache to disk, as JSON lines that Arrow joins and, for parquet, parses: no
row becomes a Python object. The sha256 of these lines is that of the content, whatever the format.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import file_digest, sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from reward_modeling.common.arguments import parse_script_arguments
from reward_modeling.common.atomic import check_writable, whole_folder
from reward_modeling.common.errors import UserError, one_line, run_script
from reward_modeling.common.file_names import MANIFEST
from reward_modeling.data.template_options import OPTION_COLUMNS, split_options
from reward_modeling.preference_sets.arguments import SourceArguments
from reward_modeling.preference_sets.manifest import manifest_table, source_entry, write_manifest
from reward_modeling.preference_sets.pair_table import SCORES, TEXTS, PairTable
from reward_modeling.preference_sets.source import SourcePairs

TRAIN, TEST = "train", "test"  # the test set has a folder of its own, where a reader of the training set does not look
ROWS_PER_SHARD = 100_000
ROWS_PER_BATCH = 5_000
BYTES_PER_BATCH = 32 << 20  # of texts: a batch takes some five times as much while it is written
TEXT_COLUMNS = ("source", *OPTION_COLUMNS)
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def run_source(arguments_class: type[SourceArguments], build: Callable[[SourceArguments], SourcePairs]) -> None:
    """The job of a script of data_prep: from flags to files. An output in the way is refused before all the reading."""

    def run() -> None:
        arguments, _ = parse_script_arguments(arguments_class)
        check_output(arguments.output_path, arguments.overwrite)
        write_source(build(arguments), arguments)

    sys.argv[0] = f"data_prep/{Path(sys.argv[0]).name}"  # as messages name the script
    run_script(run)


def write_source(pairs: SourcePairs, arguments: SourceArguments) -> None:
    """Write the pairs of one source to `arguments.output_path`, and print their counts.

    Raises:
        UserError: there are no pairs, something is in the way, or the disk is full.
    """
    table = PairTable([(pairs.source.name, pairs.rows)])
    if not len(table):
        raise UserError(f"{pairs.source.name}: expected pairs, found none that can be used.\n{pairs.report.table()}")
    entry = source_entry(pairs, pairs.source.published)
    with new_output(arguments.output_path, arguments.overwrite) as folder:
        order = np.arange(len(table))
        written = write_pairs(table, order, folder, TRAIN, arguments.format, value_columns(table, order))
        manifest = {"name": pairs.source.name, "arguments": arguments.options(), "sources": [entry]}
        manifest = write_manifest(manifest, {TRAIN: written}, arguments.format, folder)
    print(f"{manifest_table(manifest)}\nwritten to {Path(arguments.output_path)}", flush=True)


# --- rows -----------------------------------------------------------------------------------------------------


def value_columns(table: PairTable, numbers: NDArray[np.integer]) -> list[str]:
    """The columns beside chosen and rejected in which some of these pairs have a value."""
    chosen = pa.array(numbers)
    columns = {name: table.column(name).take(chosen) for name in ("source", *SCORES)}
    options = {
        name
        for text in pc.unique(table.column("template_options").take(chosen)).to_pylist()
        for name in split_options(text)
    }
    return [name for name, values in columns.items() if values.null_count < len(values)] + sorted(options)


def write_pairs(
    table: PairTable,
    order: NDArray[np.integer],
    folder: Path,
    split: str,
    file_format: str,
    columns: Sequence[str],
) -> dict[str, object]:
    """Write pairs of a table, in this order, as shards of about `ROWS_PER_SHARD` rows with `columns`.

    Returns:
        What the manifest says of them: their number, the sha256 of the rows as JSON lines, in their order, which is the
        same for parquet and jsonl, and that of each file.

    Raises:
        UserError: rows that parquet cannot hold.
    """
    folder.mkdir(exist_ok=True)
    schema = _parquet_schema(table, columns) if file_format == "parquet" else None
    sizes, content, files = table.bytes_of_rows(), sha256(), {}
    shards = np.array_split(order, max(1, -(-len(order) // ROWS_PER_SHARD)))
    with tqdm(total=len(order), desc=f"writing {split}", unit=" pairs") as bar:
        for number, shard in enumerate(shards):
            path = folder / f"{split}-{number:05d}-of-{len(shards):05d}.{file_format}"
            shard_file = path.open("wb") if schema is None else pq.ParquetWriter(path, schema, compression="zstd")
            with shard_file as file:
                for numbers in np.split(shard, _cuts(sizes[shard])):
                    rows = table.take(numbers)
                    lines = json_lines(rows, columns)
                    content.update(lines)
                    if schema is None:
                        file.write(lines)
                    else:
                        file.write_table(_parse_lines(lines, rows, schema))
                    bar.update(len(numbers))
            with path.open("rb") as file:
                files[path.name] = file_digest(file, "sha256").hexdigest()
    return {"pairs": len(order), "content_sha256": content.hexdigest(), "files": files}


def _cuts(sizes: NDArray[np.int64]) -> list[int]:
    """Where batches end that have neither too many rows nor, by their texts' `sizes`, too many bytes."""
    ends, start, totals = [], 0, np.cumsum(sizes)
    while start < len(sizes):
        before = totals[start - 1] if start else 0
        fitting = int(np.searchsorted(totals, before + BYTES_PER_BATCH, side="right"))
        start = min(max(fitting, start + 1), start + ROWS_PER_BATCH)
        ends.append(start)
    return ends[:-1]  # the last batch ends where the rows do


def json_lines(rows: pa.RecordBatch, columns: Sequence[str]) -> pa.Buffer:
    """The rows as JSON, one line each: `chosen` and `rejected`, then these columns; null where there is no value."""
    pieces = ['{"chosen": ', _conversations(rows, "chosen"), ', "rejected": ', _conversations(rows, "rejected")]
    for name in columns:
        values = _options(rows, name) if name in OPTION_COLUMNS else rows.column(name)
        text = _quoted(values) if name in TEXT_COLUMNS else _decimals(values)
        pieces += [f', "{name}": ', pc.fill_null(text, "null")]
    pieces = [piece.encode() if isinstance(piece, str) else pc.cast(piece, pa.binary()) for piece in (*pieces, "}\n")]
    lines = pc.binary_join_element_wise(*pieces, b"", null_handling="emit_null")
    return lines.buffers()[2][: len(lines) and np.frombuffer(lines.buffers()[1], np.int32, len(lines) + 1)[-1]]


def _conversations(rows: pa.RecordBatch, side: str) -> pa.Array:
    """Prompt and answer, two JSON arrays, as one; a plain text as a JSON string."""
    prompt, answer = (pc.cast(rows.column(name), pa.binary()) for name in ("prompt", side))
    between = pc.if_else(pc.equal(prompt, b"[]"), b"", b", ")
    joined = pc.binary_join_element_wise(
        pc.binary_slice(prompt, 0, -1), between, pc.binary_slice(answer, 1, 2**31 - 1), b"", null_handling="emit_null"
    )
    is_text = rows.column("is_text")
    if not pc.any(is_text).as_py():
        return joined
    texts = pa.array([json.dumps(text, ensure_ascii=False) for text in rows.column(side).to_pylist()], pa.string())
    return pc.if_else(is_text, pc.cast(texts, pa.binary()), joined)


def _options(rows: pa.RecordBatch, name: str) -> pa.Array:
    """`tools` or `chat_template_kwargs` of the rows as JSON; few different ones."""
    options = rows.column("template_options").dictionary_encode()
    found = [split_options(text).get(name) for text in options.dictionary.to_pylist()]
    return pa.array(found, pa.string()).take(options.indices)


def _quoted(values: pa.Array) -> pa.Array:
    """Texts as JSON strings; few different ones, as names of sources are."""
    names = values.dictionary_encode()
    quoted = [json.dumps(name, ensure_ascii=False) for name in names.dictionary.to_pylist()]
    return pa.array(quoted, pa.string()).take(names.indices)


def _decimals(values: pa.Array) -> pa.Array:
    """Numbers as JSON that nobody takes for integers, with all their digits."""
    return pc.replace_substring_regex(pc.cast(values, pa.string()), r"^(-?\d+)$", r"\1.0")


def _parquet_schema(table: PairTable, columns: Sequence[str]) -> pa.Schema:
    is_text = pc.unique(table.column("is_text")).to_pylist()
    if len(is_text) > 1:
        raise UserError(
            "expected either conversations or plain texts, as a parquet column holds one type, found both. Pass "
            "--format jsonl, or write them to folders of their own."
        )
    side = pa.string() if is_text == [True] else MESSAGES
    types = {
        "chosen": side,
        "rejected": side,
        **dict.fromkeys(TEXT_COLUMNS, pa.string()),
        **dict.fromkeys(SCORES, pa.float64()),
    }
    return pa.schema([(name, types[name]) for name in ("chosen", "rejected", *columns)])


def _parse_lines(lines: pa.Buffer, rows: pa.RecordBatch, schema: pa.Schema) -> pa.Table:
    """The columns of some rows, of their JSON lines."""
    # One block: no line is longer, and so nothing depends on the number of threads.
    reading = pj.ReadOptions(block_size=len(lines) + 1)
    parsing = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
    try:
        return pj.read_json(pa.BufferReader(lines), reading, parsing)
    except pa.ArrowInvalid as error:
        found = f"[{one_line(error)}]"
        for row in rows.select([*TEXTS, "is_text", "where"]).to_pylist():
            messages = [] if row["is_text"] else [message for name in TEXTS for message in json.loads(row[name])]
            if keys := sorted({key for message in messages for key in message} - {"role", "content"}):
                found = f"{', '.join(keys)} at {row['where']}"
                break
        raise UserError(
            f"expected messages of role and content, as the columns of parquet are, found {found}. Pass --format jsonl."
        ) from error


LINT_REPORT = ("lint.json", "lint.html")  # may stand beside the data


@contextmanager
def new_output(output_path: str | Path, overwrite: bool) -> Iterator[Path]:
    """A folder of pairs that appears as a whole when the block ends; see `check_output` and `atomic.whole_folder`.

    Raises:
        UserError: as `check_output`; another run writes there; or the disk refuses.
    """
    in_use = UserError(
        f"--output_path {output_path}: expected a folder that no other run writes to, found that one does. Wait for "
        "it, or take another folder."
    )
    try:
        with whole_folder(Path(output_path), partial(check_output, output_path, overwrite), in_use) as folder:
            yield folder
    except OSError as error:
        raise UserError(
            f"--output_path {output_path}: expected a folder that can be written, with room for the pairs, found "
            f"[{one_line(error)}]. Nothing was written."
        ) from error


def check_output(output_path: str | Path, overwrite: bool) -> None:
    """
    Raises:
        UserError: something is in the way, or `overwrite` would replace what no script of data_prep has written.
    """
    shown = f"--output_path {output_path}"
    if not output_path:
        raise UserError("--output_path: expected a folder to write to, found none. Name one.")
    output = Path(output_path).expanduser().resolve()
    if output.is_mount():
        raise UserError(f"{shown}: expected a folder, found a mount point, which cannot be renamed. Take one in it.")
    check_writable("--output_path", Path(output_path).expanduser())
    found = sorted(path.name for path in output.iterdir()) if output.is_dir() else []
    if found and not overwrite:
        raise UserError(
            f"{shown}: expected a new or an empty folder, found {', '.join(found[:3])} in it. Take another folder, or "
            "replace what is there with --overwrite."
        )
    others = [name for name in found if name not in (MANIFEST, TEST, *LINT_REPORT) and not name.startswith(f"{TRAIN}-")]
    if found and (others or MANIFEST not in found):
        raise UserError(
            f"{shown}: expected an earlier output, since --overwrite replaces the whole folder, found "
            f"{', '.join(others[:3]) or f'no {MANIFEST}'} in it. Empty it yourself, or take another folder."
        )
