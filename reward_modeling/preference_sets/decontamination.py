"""Which prompts of a preference set are in a benchmark.

    index = index_prompts(read_named_prompts("rewardbench,my_test.jsonl", num_proc=2))
    overlap = find_overlap([rows], index, num_proc=2)
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

from reward_modeling.data.keys import text_key
from reward_modeling.data.sources import cache_root, map_processes
from reward_modeling.preference_sets.benchmark_prompts import PROMPT_COLUMNS, NamedPrompts, prompt_text, words_of
from reward_modeling.preference_sets.source import number_column

WORDS_PER_RUN = 13
EXACT, RUNS = "exact", f"{WORDS_PER_RUN}_words"  # kinds, in the manifest
EXAMPLES = 3  # of each kind, for each benchmark
EXCERPT_LENGTH = 200
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
    exact, runs = [], []
    for number, benchmark in enumerate(prompts):
        hashes, run_hashes, _ = _hashes(benchmark.texts)
        for kind, found in ((exact, hashes), (runs, run_hashes)):
            found = np.unique(found)
            kind.append((found, np.full(len(found), 1 << number, dtype=np.int64)))
    return PromptIndex(prompts, _joined(exact), _joined(runs))


def _joined(parts: list[tuple[NDArray, NDArray]]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    hashes = np.concatenate([np.empty(0, np.uint64), *(part[0] for part in parts)])
    bits = np.concatenate([np.empty(0, np.int64), *(part[1] for part in parts)])
    found, inverse = np.unique(hashes, return_inverse=True)
    joined = np.zeros(len(found), dtype=np.int64)
    np.bitwise_or.at(joined, inverse, bits)
    return found, joined


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
    examples: list[list[dict[str, str]]]
    """For each benchmark some prompts that are in it, and where it has them."""

    @property
    def found(self) -> NDArray[np.bool_]:
        return (self.exact | self.runs) != 0


def find_overlap(parts: Sequence[Dataset], index: PromptIndex, num_proc: int | None = None) -> Overlap:
    """Look up the prompts of kept standard rows; the rows of the parts are one after the other in the result."""
    keys = np.concatenate([np.empty(0, np.int64), *(number_column(rows, "prompt_key") for rows in parts)])
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    starts = np.cumsum([0, *map(len, parts)])
    exact, runs = (np.zeros(len(keys), dtype=np.int64) for _ in range(2))
    lookup = partial(_look_up, exact=index.exact, runs=index.runs)
    with tempfile.TemporaryDirectory(prefix="overlap-", dir=cache_root()) as scratch:
        for number, rows in enumerate(parts):
            here = np.sort(first[(first >= starts[number]) & (first < starts[number + 1])])
            if len(here):
                found = (
                    rows.select(here - starts[number])
                    .select_columns(list(PROMPT_COLUMNS))
                    .map(
                        lookup,
                        batched=True,
                        remove_columns=list(PROMPT_COLUMNS),
                        features=Features({"exact": Value("int64"), "runs": Value("int64")}),
                        cache_file_name=f"{scratch}/{number}.arrow",  # not beside the cached rows
                        new_fingerprint=f"overlap-{number}-{rows._fingerprint}",
                        num_proc=map_processes(num_proc, len(here), 1000),
                        desc="looking up prompts",
                    )
                )
                exact[here], runs[here] = number_column(found, "exact"), number_column(found, "runs")
        exact, runs = exact[first][inverse], runs[first][inverse]
    return Overlap(exact, runs, _examples(parts, starts, keys, index, exact, runs))


def _look_up(batch: dict[str, list], exact: tuple, runs: tuple) -> dict[str, NDArray[np.int64]]:
    prompts = [prompt_text(*values) for values in zip(*(batch[name] for name in PROMPT_COLUMNS), strict=True)]
    whole, run_hashes, owner = _hashes(prompts)
    has_text = np.array([bool(text) for text in prompts])
    shared = np.zeros(len(prompts), dtype=np.int64)
    np.bitwise_or.at(shared, owner, _bits(run_hashes, runs))
    return {"exact": np.where(has_text, _bits(whole, exact), 0), "runs": shared}


# --- for the manifest -----------------------------------------------------------------------------------------


def _examples(
    parts: Sequence[Dataset],
    starts: NDArray,
    keys: NDArray[np.int64],
    index: PromptIndex,
    exact: NDArray[np.int64],
    runs: NDArray[np.int64],
) -> list[list[dict[str, str]]]:
    """Those with the smallest keys: the same in any order of the rows."""
    found = []
    for number, benchmark in enumerate(index.prompts):
        bit, examples = 1 << number, []
        for kind, hit in ((EXACT, exact & bit != 0), (RUNS, (runs & bit != 0) & (exact & bit == 0))):
            rows = np.flatnonzero(hit)
            _, first = np.unique(keys[rows], return_index=True)
            for row in rows[first[:EXAMPLES]]:
                part = int(np.searchsorted(starts, row, side="right")) - 1
                values = parts[part][int(row - starts[part])]
                text = prompt_text(*(values[name] for name in PROMPT_COLUMNS))
                examples.append({"kind": kind, **_example(text, benchmark, kind)})
        found.append(examples)
    return found


def _example(text: str, benchmark: NamedPrompts, kind: str) -> dict[str, str]:
    if kind == EXACT:
        shared = text
        place = benchmark.texts.index(text)
    else:
        words, known = words_of(text), [f" {' '.join(words_of(other))} " for other in benchmark.texts]
        windows = (" ".join(words[at : at + WORDS_PER_RUN]) for at in range(len(words) - WORDS_PER_RUN + 1))
        shared, place = next(
            (run, number) for run in windows for number, other in enumerate(known) if f" {run} " in other
        )
    return {"words": shared[:EXCERPT_LENGTH], "where": benchmark.places[place]}


def overlap_entries(
    index: PromptIndex, overlap: Overlap, parts: Sequence[Dataset], among: NDArray[np.bool_]
) -> list[dict[str, object]]:
    """For each benchmark what was found of it in the rows `among`, for a manifest; a prompt may be in several."""
    keys = np.concatenate([np.empty(0, np.int64), *(number_column(rows, "prompt_key") for rows in parts)])
    entries = []
    for number, benchmark in enumerate(index.prompts):
        bit = 1 << number
        exact = among & (overlap.exact & bit != 0)
        runs = among & (overlap.runs & bit != 0) & ~exact
        entries.append(
            {
                "benchmark": benchmark.name,
                "sources": list(benchmark.sources),
                "fingerprint": sha256("\n".join(sorted(benchmark.texts)).encode()).hexdigest(),
                "prompts": len(benchmark.texts),
                EXACT: {"prompts": len(np.unique(keys[exact])), "pairs": int(exact.sum())},
                RUNS: {"prompts": len(np.unique(keys[runs])), "pairs": int(runs.sum())},
                "examples": overlap.examples[number],
            }
        )
    return entries
