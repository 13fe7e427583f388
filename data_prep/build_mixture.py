"""Build a mixture of preference sets: one folder that rm.py reads, and a manifest that says what is in it.

    python data_prep/build_mixture.py --mixture mixture2 --output_path data/mixture2
    accelerate launch rm.py --train_set_path data/mixture2 ...

    python data_prep/build_mixture.py --mixture my.yaml --output_path data/my --test_size 1000 \\
        --source_paths 'shp=copies/SHP/*/train.json,orca=orca.parquet' --decontaminate rewardbench,rm_bench

Mixtures are small YAML files: those of data_prep/mixtures/ by their names, or your own
(reward_modeling/preference_sets/mixture.py says what stands in them). In this order: the sources are read; of each,
pairs that stand in it twice go, and those whose prompt is in a benchmark; weights and limits sample what each has left;
of what was sampled, pairs that an earlier source has too go, then pairs that contradict each other; the rest is
shuffled, and a test set split off by prompt. So no pair goes for one that a weight or a limit leaves out; and a source
may end up with fewer pairs than its limit or weight asks for. A list of ranked answers counts as one pair and is
written as one record (what it repeats or contradicts: reward_modeling/preference_sets/mixing.py). Labels are written as
they are. Nothing of this depends on the order of a source's rows, nor on the number of workers.

Sets of ratings make mixtures of their own, which rm_regression.py reads. Their rows have the attributes of all sources,
null where a source has not one; weights and limits count answers, whole prompts only; and an answer that several
sources have becomes one row with the ratings of all where they agree (reward_modeling/preference_sets/rated_mixing.py).
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Annotated

if not __package__:  # run as a script
    import _path  # noqa: F401

import numpy as np
import pyarrow as pa
from datasets import concatenate_datasets
from numpy.typing import NDArray

from reward_modeling.common.arguments import parse_script_arguments
from reward_modeling.common.errors import UserError, run_script
from reward_modeling.common.flags import PATH, at_least, flag, one_of
from reward_modeling.common.launch import worker_count
from reward_modeling.data.keys import draw_prompts
from reward_modeling.data.report import DropReason
from reward_modeling.preference_sets.arguments import FORMATS, OUTPUT_FLAGS, PAIRS, SEED, check_flags
from reward_modeling.preference_sets.benchmark_prompts import read_named_prompts
from reward_modeling.preference_sets.decontamination import find_overlap, index_prompts, overlap_entries
from reward_modeling.preference_sets.manifest import dropped_entry, write_manifest
from reward_modeling.preference_sets.mixing import SPLIT_SEED, Chosen, count_dropped
from reward_modeling.preference_sets.mixture import Mixture, check_source_names, read_mixture
from reward_modeling.preference_sets.mixture_reading import read_source, row_kind
from reward_modeling.preference_sets.pair_table import RowTable
from reward_modeling.preference_sets.row_kinds import KINDS, RowKind
from reward_modeling.preference_sets.source import SourceRows
from reward_modeling.preference_sets.writing import (
    TEST,
    TRAIN,
    check_output,
    new_output,
    write_rows,
)


@dataclass
class ScriptArguments:
    """The defaults to edit."""

    mixture: Annotated[str, PATH] = flag("mixture2", "A mixture of data_prep/mixtures/, or a YAML file.")
    output_path: Annotated[str, PATH] = flag("data/mixture2", "Folder to write the pairs to.")
    source_paths: Annotated[str | None, PATH] = flag(
        None, "Local copies to read instead of the Hub: shp=path,hh_rlhf=path, by the names of sources."
    )
    seed: Annotated[int | None, SEED] = flag(
        None, "Of every random choice. Unset: the mixture's, which is 0 unless it says one."
    )
    test_size: float = flag(
        0.0,
        "Pairs to split off by prompt, into test/: a number, or a share below 1. Plain texts that are "
        "no transcripts name no prompt: there each pair counts as one.",
    )
    decontaminate: Annotated[str | None, PATH] = flag(
        None,
        "Drop prompts that are in these: rewardbench, rewardbench2, rm_bench, preference_test_sets, "
        "any of them as name=path for a local copy, or files; with commas between them.",
    )
    format: Annotated[str, one_of(*FORMATS)] = flag("parquet", "parquet or jsonl.")
    num_proc: Annotated[int | None, at_least(1)] = flag(None, "Worker processes. Unset: one per core, at most 16.")
    overwrite: bool = flag(False, "Replace what is in output_path.")

    def __post_init__(self):
        check_flags(self)

    def problems(self) -> list[str]:
        if 0 <= self.test_size < 1 or (self.test_size >= 1 and self.test_size % 1 == 0):
            return []
        return [f"--test_size: expected a number of pairs or a share below 1, found {self.test_size}"]


def build(arguments: ScriptArguments) -> dict[str, object]:
    """Read, choose, write; returns the manifest."""
    mixture = read_mixture(arguments.mixture)
    paths = check_source_names(mixture, arguments.source_paths)
    kind = KINDS[row_kind(mixture, paths)]
    seed = mixture.seed if arguments.seed is None else arguments.seed
    num_proc = worker_count(arguments.num_proc)
    check_output(arguments.output_path, arguments.overwrite)  # before all the reading
    benchmarks = None
    if arguments.decontaminate:
        with stage("reading benchmarks"):
            benchmarks = index_prompts(read_named_prompts(arguments.decontaminate, num_proc))
    sources = []
    for number, source in enumerate(mixture.sources, 1):
        with stage(f"reading {source.label} ({number} of {len(mixture.sources)})"):
            sources.append(read_source(source, seed, paths.get(source.label), num_proc))
        pa.default_memory_pool().release_unused()  # what a parquet file took while it was read
    with stage(f"choosing {kind.unit}"):
        rows = concatenate_datasets([found.rows for found in sources])
        table = kind.table([(source.label, found) for source, found in zip(mixture.sources, sources, strict=True)])
        overlap = find_overlap(rows, benchmarks, num_proc) if benchmarks else None
        in_benchmark = overlap.found if overlap else np.zeros(len(table), dtype=bool)
        shares = [(source.weight, source.limit) for source in mixture.sources]
        chosen, table = kind.choose(table, shares, in_benchmark, seed)
        repeated = chosen.dropped.get(DropReason.DUPLICATE_PAIR, np.zeros(len(table), dtype=bool))
        entries = source_entries(kind, table, mixture, sources, chosen)
        splits = split_off_test(table, chosen.order, arguments.test_size, seed, kind.unit)
        manifest = {
            "name": mixture.name,
            "description": mixture.description,
            "seed": seed,
            "arguments": {name: value for name, value in asdict(arguments).items() if name not in OUTPUT_FLAGS},
            **kind.summary(entries, table, chosen.order),
            "sources": entries,
            "decontamination": overlap_entries(benchmarks, overlap, rows, ~repeated, kind.unit) if overlap else [],
        }
    form = kind.lines(table, chosen.order)
    with stage("writing"), new_output(arguments.output_path, arguments.overwrite) as folder:
        written = {}
        for split, numbers in splits.items():
            place = folder / TEST if split == TEST else folder
            written[split] = write_rows(table, numbers, place, split, arguments.format, form)
        return write_manifest(manifest, written, arguments.format, folder, kind.unit)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Say on the screen what is done, and how long it took."""
    print(f"{name} ...", flush=True)
    started = time.perf_counter()
    yield
    print(f"{name}: {time.perf_counter() - started:.1f} s", flush=True)


def source_entries(
    kind: RowKind, table: RowTable, mixture: Mixture, sources: list[SourceRows], chosen: Chosen
) -> list[dict[str, object]]:
    """What the manifest says of each source: as it was read, and what of it is in the mixture.

    Raises:
        UserError: no row is in the mixture.
    """
    reports = count_dropped(table, [source.label for source in mixture.sources], chosen.dropped)
    if not len(chosen.order):
        tables = "\n".join(report.table() for report in reports)
        raise UserError(f"expected {kind.unit}, found none that is left.\n{tables}")
    parts, entries = table.parts[chosen.order], []
    for part, (source, found, report) in enumerate(zip(mixture.sources, sources, reports, strict=True)):
        count = found.source.published.get(source.mixture)
        entry = kind.entry(found, {} if count is None else {source.mixture: count}) | {"name": source.label}
        numbers = chosen.order[parts == part]
        mixed = {"weight": source.weight, "limit": source.limit, "dropped": dropped_entry(report)}
        mixed |= kind.counts(table, numbers)
        if chosen.noted:
            mixed["noted"] = {words: int(noted[numbers].sum()) for words, noted in chosen.noted.items()}
        entries.append(entry | {"mixed": mixed})
    return entries


def split_off_test(
    table: RowTable, order: NDArray[np.int64], test_size: float, seed: int, unit: str
) -> dict[str, NDArray[np.int64]]:
    """Split -> the numbers of its rows.

    Raises:
        UserError: a split would be empty.
    """
    if not test_size:
        return {TRAIN: order}
    count = int(test_size) if test_size >= 1 else int(test_size * len(order))
    is_test = draw_prompts(table.numbers("prompt_key")[order], count, seed + SPLIT_SEED)
    if is_test.all() or not is_test.any():
        raise UserError(
            f"--test_size {test_size:g}: expected {unit} on both sides, found {int(is_test.sum()):,} of {len(order):,} "
            f"for testing, whole prompts only. {'Lower' if is_test.all() else 'Raise'} it."
        )
    return {TRAIN: order[~is_test], TEST: order[is_test]}


def main() -> None:
    arguments, _ = parse_script_arguments(ScriptArguments)
    manifest = build(arguments)
    kind = KINDS[manifest.get("rows", PAIRS)]  # that of pairs does not say so
    print(f"{kind.screen(manifest)}\nwritten to {arguments.output_path}", flush=True)


if __name__ == "__main__":
    sys.argv[0] = "data_prep/build_mixture.py"
    run_script(main)
