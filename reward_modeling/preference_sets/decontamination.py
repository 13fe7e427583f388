"""Which prompts of a preference set are in a benchmark.

    index = index_prompts(read_named_prompts("rewardbench,my_test.jsonl", num_proc=2))
    overlap = find_overlap(rows, index, num_proc=2)
    overlap.found                # (rows,): whether the prompt of a row is in any of them

A prompt is in a benchmark where, with texts and words as in `benchmark_prompts`,

- it says what a prompt there says ("exact"): case, white space and outer punctuation apart, symbols inside included, or
- any 13 words in a row are in a prompt there too ("13 words"; shorter prompts can only be exact). Where no spaces stand
  between words, as in Chinese, runs are seldom that long.

Texts and words are compared by hashes of 64 bits, in numpy arrays; every different prompt is looked up once.
"""

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b, sha256

import numpy as np
from datasets import Dataset, Features, Value
from numpy.typing import NDArray

from reward_modeling.data.cached_rows import cache_root, map_processes
from reward_modeling.data.keys import text_key
from reward_modeling.data.preferences import EXCERPT_LENGTH
from reward_modeling.preference_sets.benchmark_prompts import NamedPrompts, prompt_text, words_of
from reward_modeling.preference_sets.source import number_column

WORDS_PER_RUN = 13
EXACT, RUNS = "exact", f"{WORDS_PER_RUN}_words"  # kinds, in the manifest
EXAMPLES = 3  # of each kind, for each benchmark
# The words of a run, each times a power of this, added up modulo 2**64: odd, and otherwise arbitrary.
_FACTOR = 0x9E3779B97F4A7C15


# --- the index ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PromptIndex:
    """Hashes of benchmarks' prompts and of the runs of words in them, sorted, and of which benchmarks each is."""

    prompts: tuple[NamedPrompts, ...]
    exact: tuple[NDArray[np.uint64], NDArray[np.int64]]
    """Hashes, and for each the benchmarks that have it, bit by bit."""
    runs: tuple[NDArray[np.uint64], NDArray[np.int64]]


def index_prompts(prompts: Iterable[NamedPrompts]) -> PromptIndex:
    prompts = tuple(prompts)
    hashes = [_hashes(benchmark.texts) for benchmark in prompts]
    return PromptIndex(prompts, *(_bit_by_bit([found[kind] for found in hashes]) for kind in (0, 1)))


def _bit_by_bit(hashes: Sequence[NDArray[np.uint64]]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    found, inverse = np.unique(np.concatenate([np.empty(0, np.uint64), *hashes]), return_inverse=True)
    bits = np.zeros(len(found), dtype=np.int64)
    np.bitwise_or.at(bits, inverse, np.repeat(1 << np.arange(len(hashes)), np.array([*map(len, hashes)], np.int64)))
    return found, bits


def _hashes(texts: list[str]) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64]]:
    """Hashes of prompts, `(prompts,)`, and of their runs of words; and whose each run is, `(runs,)` both."""
    prompts = [words_of(text) for text in texts]
    codes: dict[str, int] = {}
    flat = np.array([codes.setdefault(word, len(codes)) for words in prompts for word in words], dtype=np.int64)
    word_hashes = np.array(
        [int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little") for word in codes], dtype=np.uint64
    )
    lengths = np.array([len(words) for words in prompts], dtype=np.int64)
    whole = np.array([text_key(text) for text in texts], dtype=np.int64).view(np.uint64)
    count = max(len(flat) - WORDS_PER_RUN + 1, 0)
    values, runs = word_hashes[flat], np.zeros(count, dtype=np.uint64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is meant
        for place in range(WORDS_PER_RUN):
            runs = runs * np.uint64(_FACTOR) + values[place : place + count]
    owner = np.repeat(np.arange(len(prompts)), lengths)
    inside = owner[:count] == owner[WORDS_PER_RUN - 1 :]
    return whole, runs[inside], owner[:count][inside]


def _bits(hashes: NDArray[np.uint64], table: tuple[NDArray[np.uint64], NDArray[np.int64]]) -> NDArray[np.int64]:
    """Which benchmarks have each hash, bit by bit."""
    known, bits = table
    if not len(known):
        return np.zeros(len(hashes), dtype=np.int64)
    places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    return np.where(known[places] == hashes, bits[places], 0)


# --- preference rows ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Overlap:
    """Of each row, which benchmarks its prompt is in, bit by bit, `(rows,)` each."""

    exact: NDArray[np.int64]
    runs: NDArray[np.int64]
    """Benchmarks that share a run of words with it; those of `exact` too."""

    @property
    def found(self) -> NDArray[np.bool_]:
        return (self.exact | self.runs) != 0

    def rows_in(self, benchmark: int) -> dict[str, NDArray[np.bool_]]:
        """The rows whose prompt a benchmark has, `(rows,)` for each kind; a row is of one kind."""
        exact = self.exact & (1 << benchmark) != 0
        return {EXACT: exact, RUNS: (self.runs & (1 << benchmark) != 0) & ~exact}


def find_overlap(rows: Dataset, index: PromptIndex, num_proc: int | None = None) -> Overlap:
    """Look up the prompts of kept standard rows, each different one once."""
    keys = number_column(rows, "prompt_key")
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)  # as they stand on disk
    exact, runs = (np.zeros(len(first), dtype=np.int64) for _ in range(2))
    if len(rows):
        with tempfile.TemporaryDirectory(prefix="overlap-", dir=cache_root()) as scratch:
            prompts = rows.select(first[order]).select_columns(["prompt"])
            found = prompts.map(
                partial(_look_up, exact=index.exact, runs=index.runs),
                batched=True,
                remove_columns=["prompt"],
                features=Features({"exact": Value("int64"), "runs": Value("int64")}),
                cache_file_name=f"{scratch}/overlap.arrow",  # not beside the cached rows
                new_fingerprint=f"overlap-{rows._fingerprint}",
                num_proc=map_processes(num_proc, len(first), 1000),
                desc="looking up prompts",
            )
            exact[order], runs[order] = number_column(found, "exact"), number_column(found, "runs")
    return Overlap(exact[inverse], runs[inverse])


def _look_up(batch: dict[str, list], exact: tuple, runs: tuple) -> dict[str, NDArray[np.int64]]:
    prompts = list(map(prompt_text, batch["prompt"]))
    whole, run_hashes, owner = _hashes(prompts)
    has_text = np.array([bool(text) for text in prompts])
    shared = np.zeros(len(prompts), dtype=np.int64)
    np.bitwise_or.at(shared, owner, _bits(run_hashes, runs))
    return {"exact": np.where(has_text, _bits(whole, exact), 0), "runs": shared}


# --- for the manifest and the linter --------------------------------------------------------------------------


def overlap_entries(
    index: PromptIndex, overlap: Overlap, rows: Dataset, among: NDArray[np.bool_], unit: str = "pairs"
) -> list[dict[str, object]]:
    """For each benchmark what was found of it in the rows `among`, for a manifest; a prompt may be in several."""
    keys = number_column(rows, "prompt_key")
    return [
        {
            "benchmark": benchmark.name,
            "sources": list(benchmark.sources),
            "fingerprint": sha256("\n".join(sorted(benchmark.texts)).encode()).hexdigest(),
            "prompts": len(benchmark.texts),
            **{kind: count_rows(keys, hit & among, unit) for kind, hit in overlap.rows_in(number).items()},
            "examples": overlap_examples(benchmark, overlap.rows_in(number), rows, keys),
        }
        for number, benchmark in enumerate(index.prompts)
    ]


def benchmark_overlap(rows: Dataset, index: PromptIndex, num_proc: int, unit: str = "pairs") -> list[dict[str, object]]:
    """For each benchmark how many prompts and rows of kept standard rows are in it, for the linter."""
    keys, overlap = number_column(rows, "prompt_key"), find_overlap(rows, index, num_proc)
    entries = []
    for number, benchmark in enumerate(index.prompts):
        hits = overlap.rows_in(number)
        hit = np.logical_or(*hits.values())
        total = count_rows(keys, hit, unit)
        entries.append(
            {
                "benchmark": benchmark.name,
                "sources": list(benchmark.sources),
                "prompts": len(benchmark.texts),
                "prompts_found": total["prompts"],
                unit: total[unit],
                **{kind: count_rows(keys, mask, unit) for kind, mask in hits.items()},
                "first": rows[int(np.argmax(hit))]["where"] if hit.any() else None,
                "examples": overlap_examples(benchmark, hits, rows, keys),
            }
        )
    return entries


def count_rows(prompt_keys: NDArray[np.int64], hit: NDArray[np.bool_], unit: str = "pairs") -> dict[str, int]:
    return {"prompts": len(np.unique(prompt_keys[hit])), unit: int(hit.sum())}


def overlap_examples(
    benchmark: NamedPrompts, hits: dict[str, NDArray[np.bool_]], rows: Dataset, keys: NDArray[np.int64]
) -> list[dict[str, str]]:
    """Some prompts of each kind that are in a benchmark, and where it has them.

    Those with the smallest keys: the same in any order of the rows.
    """
    examples = []
    for kind, hit in hits.items():
        numbers = np.flatnonzero(hit)
        _, first = np.unique(keys[numbers], return_index=True)
        for number in numbers[first[:EXAMPLES]]:
            row = rows[int(number)]
            text = prompt_text(row["prompt"])
            examples.append({"kind": kind, **_example(text, benchmark, kind)})
    return examples


def _example(text: str, benchmark: NamedPrompts, kind: str) -> dict[str, str]:
    if kind == EXACT:
        shared, place = text, benchmark.texts.index(text)
    else:
        words, known = words_of(text), [f" {' '.join(words_of(other))} " for other in benchmark.texts]
        windows = (" ".join(words[at : at + WORDS_PER_RUN]) for at in range(len(words) - WORDS_PER_RUN + 1))
        shared, place = next(
            (run, number) for run in windows for number, other in enumerate(known) if f" {run} " in other
        )
    return {"words": shared[:EXCERPT_LENGTH], "where": benchmark.places[place]}
