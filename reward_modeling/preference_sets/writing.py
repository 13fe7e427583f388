"""Write pairs as a folder that rm.py reads: shards and a manifest, as a whole or not at all.

    run_source(ScriptArguments, build)                      # one source, as the scripts of data_prep do

    with new_output("data/mixture2", overwrite=False) as folder:
        written = write_pairs(table, order, folder, "train", "parquet", written_columns(table, order))
        write_manifest(manifest, {"train": written}, "parquet", folder)

Rows go batch by batch from the memory-mapped cache to disk, as JSON lines that Arrow joins and, for parquet, parses: no
row becomes a Python object. The sha256 of these lines is that of the content, whatever the format.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import file_digest, sha256
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from reward_modeling.common.arguments import parse_script_arguments
from reward_modeling.common.atomic import check_writable, whole_folder
from reward_modeling.common.errors import UserError, one_line, run_script
from reward_modeling.common.file_names import MANIFEST
from reward_modeling.common.flags import flag_names
from reward_modeling.preference_sets.arguments import SourceArguments, rows_problem
from reward_modeling.preference_sets.manifest import write_manifest
from reward_modeling.preference_sets.pair_table import PairTable, RowTable
from reward_modeling.preference_sets.row_kinds import kind_of
from reward_modeling.preference_sets.row_lines import LineForm, pair_lines, parse_lines
from reward_modeling.preference_sets.source import SourceRows

TRAIN, TEST = "train", "test"  # the test set has a folder of its own, where a reader of the training set does not look
ROWS_PER_SHARD = 100_000
ROWS_PER_BATCH = 5_000
BYTES_PER_BATCH = 32 << 20  # of texts: a batch takes some five times as much while it is written


def run_source(arguments_class: type[SourceArguments], build: Callable[[SourceArguments], SourceRows]) -> None:
    """The job of a script of data_prep: from flags to files. An output in the way is refused before all the reading."""

    script = Path(sys.argv[0]).stem

    def run() -> None:
        if "rows" not in flag_names(arguments_class) and any(token.split("=")[0] == "--rows" for token in sys.argv):
            raise UserError(f"--{rows_problem(script)}")
        arguments, _ = parse_script_arguments(arguments_class)
        check_output(arguments.output_path, arguments.overwrite)
        write_source(build(arguments), arguments)

    sys.argv[0] = f"data_prep/{Path(sys.argv[0]).name}"  # as messages name the script
    run_script(run)


def write_source(found: SourceRows, arguments: SourceArguments) -> None:
    """Write the rows of one source to `arguments.output_path`, and print their counts.

    Raises:
        UserError: there are no rows, something is in the way, or the disk is full.
    """
    name, kind = found.source.name, kind_of(found)
    table = kind.table([(name, found)])
    if not len(table):
        raise UserError(f"{name}: expected {kind.unit}, found none that can be used.\n{found.report.table()}")
    entry, order = kind.entry(found, found.source.published), np.arange(len(table))
    manifest = {"name": name, "arguments": arguments.options(), **kind.summary([entry], table, order)}
    with new_output(arguments.output_path, arguments.overwrite) as folder:
        written = write_rows(table, order, folder, TRAIN, arguments.format, kind.lines(table, order))
        manifest |= {"sources": [entry]}
        manifest = write_manifest(manifest, {TRAIN: written}, arguments.format, folder, kind.unit)
    print(f"{kind.screen(manifest)}\nwritten to {Path(arguments.output_path)}", flush=True)


# --- rows -----------------------------------------------------------------------------------------------------


def write_pairs(
    table: PairTable,
    order: NDArray[np.integer],
    folder: Path,
    split: str,
    file_format: str,
    columns: Sequence[str],
) -> dict[str, object]:
    """`write_rows` of pairs, with `columns`."""
    return write_rows(table, order, folder, split, file_format, pair_lines(table, columns))


def write_rows(
    table: RowTable, order: NDArray[np.integer], folder: Path, split: str, file_format: str, form: LineForm
) -> dict[str, object]:
    """Write rows of a table, in this order, as shards of about `ROWS_PER_SHARD` rows.

    Returns:
        What the manifest says of them: their number, the sha256 of the rows as JSON lines, in their order, which is the
        same for parquet and jsonl, and that of each file.

    Raises:
        UserError: rows that parquet cannot hold.
    """
    folder.mkdir(exist_ok=True)
    schema = form.schema() if file_format == "parquet" else None
    sizes, content, files = table.bytes_of_rows(), sha256(), {}
    shards = np.array_split(order, max(1, -(-len(order) // ROWS_PER_SHARD)))
    with tqdm(total=len(order), desc=f"writing {split}", unit=f" {form.unit}") as bar:
        for number, shard in enumerate(shards):
            path = folder / f"{split}-{number:05d}-of-{len(shards):05d}.{file_format}"
            shard_file = path.open("wb") if schema is None else pq.ParquetWriter(path, schema, compression="zstd")
            with shard_file as file:
                for numbers in np.split(shard, _cuts(sizes[shard])):
                    rows = table.take(numbers)
                    lines = form.to_lines(rows)
                    content.update(lines)
                    if schema is None:
                        file.write(lines)
                    else:
                        file.write_table(parse_lines(lines, rows, schema))
                    bar.update(len(numbers))
            with path.open("rb") as file:
                files[path.name] = file_digest(file, "sha256").hexdigest()
    return {form.unit: len(order), "content_sha256": content.hexdigest(), "files": files}


def _cuts(sizes: NDArray[np.int64]) -> list[int]:
    """Where batches end that have neither too many rows nor, by their texts' `sizes`, too many bytes."""
    ends, start, totals = [], 0, np.cumsum(sizes)
    while start < len(sizes):
        before = totals[start - 1] if start else 0
        fitting = int(np.searchsorted(totals, before + BYTES_PER_BATCH, side="right"))
        start = min(max(fitting, start + 1), start + ROWS_PER_BATCH)
        ends.append(start)
    return ends[:-1]  # the last batch ends where the rows do


# --- folders --------------------------------------------------------------------------------------------------

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
