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
may end up with fewer pairs than its limit or weight asks for. Nothing of this depends on the order of a source's rows,
nor on the number of workers."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray

from reward_modeling.common.arguments import parse_script_arguments
from reward_modeling.common.errors import UserError, run_script
from reward_modeling.data.report import DataReport, DropReason
from reward_modeling.preference_sets.benchmark_prompts import NamedPrompts, read_named_prompts
from reward_modeling.preference_sets.decontamination import find_overlap, index_prompts, overlap_entries
from reward_modeling.preference_sets.manifest import dropped_entry, manifest_table, pairs_per_prompt, source_entry
from reward_modeling.preference_sets.mixing import (
    content_keys,
    contradictions,
    count_dropped,
    duplicates,
    held_out,
    not_sampled,
    shuffled,
)
from reward_modeling.preference_sets.mixture import (
    DECIDED_ELSEWHERE,
    Mixture,
    check_source_names,
    read_mixture,
    read_source,
)
from reward_modeling.preference_sets.pair_table import PairTable, pair_digests, split_keys
from reward_modeling.preference_sets.source import FORMATS, SourcePairs
from reward_modeling.preference_sets.writing import (
    TEST,
    TRAIN,
    check_output,
    new_output,
    value_columns,
    write_manifest,
    write_pairs,
)


@dataclass
class ScriptArguments:
    """The defaults to edit."""

    mixture: str = field(default="mixture2", metadata={"help": "A mixture of data_prep/mixtures/, or a YAML file."})
    output_path: str = field(default="data/mixture2", metadata={"help": "Folder to write the pairs to."})
    source_paths: str | None = field(
        default=None,
        metadata={"help": "Local copies to read instead of the Hub: shp=path,hh_rlhf=path, by the names of sources."},
    )
    seed: int | None = field(
        default=None, metadata={"help": "Of every random choice. Unset: the mixture's, which is 0 unless it says one."}
    )
    test_size: float = field(
        default=0.0,
        metadata={
            "help": "Pairs to split off by prompt, into test/: a number, or a share below 1. Plain texts that are "
            "no transcripts name no prompt: there each pair counts as one."
        },
    )
    decontaminate: str | None = field(
        default=None,
        metadata={
            "help": "Drop prompts that are in these: rewardbench, rewardbench2, rm_bench, preference_test_sets, "
            "any of them as name=path for a local copy, or files; with commas between them."
        },
    )
    format: str = field(default="parquet", metadata={"help": "parquet or jsonl."})
    num_proc: int | None = field(default=None, metadata={"help": "Worker processes. Unset: one per core, at most 16."})
    overwrite: bool = field(default=False, metadata={"help": "Replace what is in output_path."})

    def __post_init__(self):
        problems = []
        if self.format not in FORMATS:
            problems.append(f"--format: expected one of {', '.join(FORMATS)}, found {self.format!r}")
        if self.seed is not None and not 0 <= self.seed < 2**32:
            problems.append(f"--seed: expected 0 to {2**32 - 1}, found {self.seed}")
        if self.num_proc is not None and self.num_proc < 1:
            problems.append(f"--num_proc: expected at least 1, found {self.num_proc}")
        if not self.test_size >= 0 or (self.test_size >= 1 and self.test_size % 1):
            problems.append(f"--test_size: expected a number of pairs or a share below 1, found {self.test_size}")
        if problems:
            raise UserError("\n".join(problems))


@dataclass(frozen=True)
class Chosen:
    """Which pairs of the sources are in the mixture."""

    order: NDArray[np.int64]
    """Their numbers, shuffled."""
    reports: list[DataReport]
    """For each source its pairs, and those left out by reason."""
    overlaps: list[dict[str, object]]
    """For each benchmark what was found of it."""


def choose_pairs(
    table: PairTable, mixture: Mixture, parts: list[Dataset], benchmarks: list[NamedPrompts], seed: int, num_proc: int
) -> Chosen:
    """Drop a source's repeated pairs and those of benchmarks, sample, drop what repeats or contradicts, and shuffle.

    Duplicates across sources and contradictions are of the sampled pairs alone: none is dropped for a pair that a
    weight or a limit leaves out.
    """
    digests, is_first = pair_digests(table)
    everything = np.ones(len(table), dtype=bool)
    repeated = duplicates(table, digests, is_first, among=everything, within_parts=True)
    kept, overlaps = ~repeated, []
    in_benchmark = np.zeros(len(table), dtype=bool)
    if benchmarks:
        index = index_prompts(benchmarks)
        overlap = find_overlap(parts, index, num_proc)
        overlaps = overlap_entries(index, overlap, parts, among=kept)
        in_benchmark = kept & overlap.found
        kept &= ~in_benchmark
    keys = content_keys(digests, is_first)
    shares = [(source.weight, source.limit) for source in mixture.sources]
    left_out = not_sampled(table.parts, keys, kept, shares, seed)
    kept &= ~left_out
    elsewhere = duplicates(table, digests, is_first, among=kept)
    kept &= ~elsewhere
    opposed = contradictions(digests, is_first, among=kept)
    dropped = [
        (DropReason.DUPLICATE_PAIR, repeated | elsewhere),
        (DropReason.CONTRADICTION, opposed),
        (DropReason.IN_BENCHMARK, in_benchmark),
        (DropReason.NOT_SAMPLED, left_out),
    ]
    order = shuffled(keys, digests, kept & ~opposed, seed)
    return Chosen(order, count_dropped(table, [source.shown for source in mixture.sources], dropped), overlaps)


def build(arguments: ScriptArguments) -> dict[str, object]:
    """Read, choose, write; returns the manifest."""
    mixture = read_mixture(arguments.mixture)
    paths = check_source_names(mixture, arguments.source_paths)
    seed = mixture.seed if arguments.seed is None else arguments.seed
    num_proc = arguments.num_proc or min(16, os.cpu_count())
    check_output(arguments.output_path, arguments.overwrite)  # before all the reading
    with stage("reading benchmarks") if arguments.decontaminate else nullcontext():
        benchmarks = read_named_prompts(arguments.decontaminate or "", num_proc)
    sources = []
    for number, source in enumerate(mixture.sources, 1):
        with stage(f"reading {source.shown} ({number} of {len(mixture.sources)})"):
            sources.append(read_source(source, seed, paths.get(source.shown), num_proc))
        pa.default_memory_pool().release_unused()  # what a parquet file took while it was read
    with stage("choosing pairs"):
        parts = [pairs.rows for pairs in sources]
        table = PairTable([(source.shown, rows) for source, rows in zip(mixture.sources, parts, strict=True)])
        chosen = choose_pairs(table, mixture, parts, benchmarks, seed, num_proc)
        splits = split_off_test(table, chosen, arguments.test_size, seed)
        manifest = {
            "name": mixture.name,
            "description": mixture.description,
            "seed": seed,
            "arguments": {name: value for name, value in asdict(arguments).items() if name not in DECIDED_ELSEWHERE},
            "sources": source_entries(table, mixture, sources, chosen),
            "decontamination": chosen.overlaps,
        }
    columns = value_columns(table, chosen.order)
    with stage("writing"), new_output(arguments.output_path, arguments.overwrite) as folder:
        written = {}
        for split, numbers in splits.items():
            place = folder / TEST if split == TEST else folder
            written[split] = write_pairs(table, numbers, place, split, arguments.format, columns)
        return write_manifest(manifest, written, arguments.format, folder)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Say on the screen what is done, and how long it took."""
    print(f"{name} ...", flush=True)
    started = time.perf_counter()
    yield
    print(f"{name}: {time.perf_counter() - started:.1f} s", flush=True)


def source_entries(
    table: PairTable, mixture: Mixture, sources: list[SourcePairs], chosen: Chosen
) -> list[dict[str, object]]:
    """What the manifest says of each source: as it was read, and what of it is in the mixture."""
    parts, prompts, entries = table.parts[chosen.order], table.numbers("prompt_key")[chosen.order], []
    for part, (source, pairs, report) in enumerate(zip(mixture.sources, sources, chosen.reports, strict=True)):
        count = pairs.source.published.get(source.mixture)
        entry = source_entry(pairs, {} if count is None else {source.mixture: count}) | {"name": source.shown}
        here = prompts[parts == part]
        mixed = {
            "weight": source.weight,
            "limit": source.limit,
            "dropped": dropped_entry(report),
            "pairs": len(here),
            "prompts": len(np.unique(here)),
            "pairs_per_prompt": pairs_per_prompt(here),
        }
        entries.append(entry | {"mixed": mixed})
    return entries


def split_off_test(table: PairTable, chosen: Chosen, test_size: float, seed: int) -> dict[str, NDArray[np.int64]]:
    """Split -> the numbers of its pairs.

    Raises:
        UserError: a split would be empty.
    """
    order = chosen.order
    if not len(order):
        raise UserError("expected pairs, found none that is left.\n" + "\n".join(one.table() for one in chosen.reports))
    if not test_size:
        return {TRAIN: order}
    count = int(test_size) if test_size >= 1 else int(test_size * len(order))
    is_test = held_out(split_keys(table)[order], count, seed)
    if is_test.all() or not is_test.any():
        raise UserError(
            f"--test_size {test_size:g}: expected pairs on both sides, found {int(is_test.sum()):,} of {len(order):,} "
            f"for testing, whole prompts only. {'Lower' if is_test.all() else 'Raise'} it."
        )
    return {TRAIN: order[~is_test], TEST: order[is_test]}


def main() -> None:
    arguments, _ = parse_script_arguments(ScriptArguments)
    manifest = build(arguments)
    print(f"{manifest_table(manifest)}\nwritten to {arguments.output_path}", flush=True)


if __name__ == "__main__":
    sys.argv[0] = "data_prep/build_mixture.py"
    run_script(main)
