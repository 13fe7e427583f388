"""Rewards of all answers of a benchmark, over any number of processes: each answer on exactly one of them.

rows, counts = score_benchmark(scorer, data, PartialState())
rows[0].chosen, rows[0].rejected  # the rewards of the right and of the wrong answers of the first row
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain

import numpy as np
import pyarrow.compute as pc
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from numpy.typing import NDArray
from tqdm import tqdm

from reward_modeling.common.errors import UserError
from reward_modeling.data.preferences import read_column
from reward_modeling.evaluation.benchmarks.base import BenchmarkRows, ScoredRow
from reward_modeling.evaluation.benchmarks.reading import reading_order, row_ids
from reward_modeling.evaluation.benchmarks.rows import conversations
from reward_modeling.scoring import RewardScorer
from reward_modeling.scoring.plan import ConversationReader, ScoringCounts

ROWS_PER_READ = 256


def refused_rows(rows: Dataset, reader: ConversationReader) -> dict[int, str]:
    """Rows that cannot be read, and those that the chat template refuses, with the reason.

    Raises:
        UserError: there are conversations, and the tokenizer has no chat template.
    """
    refused: dict[int, str] = {}
    for number, row in enumerate(_read(rows, np.arange(len(rows)))):
        if row["reason"]:
            refused[number] = f"{row['reason']}: {row['excerpt']}"
            continue
        for conversation in chain(*conversations(row)):
            if isinstance(conversation, str):
                continue
            reader.check_template()
            if words := reader.refusal(conversation):
                roles = ", ".join(message["role"] for message in conversation)
                refused.setdefault(number, f"the chat template refuses it: {words} (roles: {roles})")
    return refused


def _read(rows: Dataset, order: NDArray[np.int64]) -> Iterator[dict]:
    """The rows in this order, some at a time."""
    for start in range(0, len(order), ROWS_PER_READ):
        columns = rows[order[start : start + ROWS_PER_READ]]
        for values in zip(*columns.values(), strict=True):
            yield dict(zip(columns, values, strict=True))


def score_benchmark(
    scorer: RewardScorer, data: BenchmarkRows, state: PartialState
) -> tuple[list[ScoredRow], ScoringCounts]:
    """The rewards of all answers, the same on every process, and what all processes together did.

    Rows of one prompt are read one after the other, wherever they stand in the file, so that their prompt is computed
    once; the rewards come back in the file's order. Process 0 shows a progress bar.

    Raises:
        UserError: no row can be scored.
    """
    rows = data.rows
    refused = refused_rows(rows, scorer.reader)
    if len(rows) and len(refused) == len(rows):
        number, words = next(iter(refused.items()))
        raise UserError(
            f"{data.benchmark}: expected conversations that the model's chat template takes, found none among "
            f"{len(rows):,}; the first, {rows[number]['where']}: {words}."
        )
    order = reading_order(rows)
    order = order[~np.isin(order, list(refused))]
    num_chosen, num_rejected = (
        pc.list_value_length(read_column(rows, side)).to_numpy().astype(np.int64) for side in ("chosen", "rejected")
    )
    offsets = np.concatenate([[0], np.cumsum(num_chosen + num_rejected)])
    # The stream's answer number n is answer places[n] of the file.
    places = np.concatenate([np.arange(offsets[row], offsets[row + 1]) for row in order] or [np.arange(0)])
    stream = chain.from_iterable(chain(*conversations(row)) for row in _read(rows, order))
    with _progress(data.benchmark, len(places), state) as update:
        own = list(
            scorer.stream(stream, process_index=state.process_index, num_processes=state.num_processes, progress=update)
        )
    indices, values = _gathered(own, state)
    if not np.array_equal(np.sort(indices), np.arange(len(places))):
        raise RuntimeError(f"{data.benchmark}: {len(indices)} rewards of {len(places)} answers, not each exactly once")
    rewards = np.full(offsets[-1], np.nan)
    rewards[places[indices]] = values
    parts = np.split(rewards, np.sort(np.concatenate([offsets[1:], offsets[:-1] + num_chosen]))[:-1])
    columns = (row_ids(rows), rows["subset"][:], parts[::2], parts[1::2], rows["where"][:])
    scored = [ScoredRow(*row, refused.get(n, "")) for n, row in enumerate(zip(*columns, strict=True))]
    return scored, _all_counts(scorer.counts, state)


@contextmanager
def _progress(benchmark: str, answers: int, state: PartialState) -> Iterator[Callable[[int], object]]:
    """A bar over all answers on process 0, moved by its own share: the others are about as far."""
    with tqdm(total=answers, desc=benchmark, unit=" answers", disable=not state.is_main_process) as bar:
        yield lambda done: bar.update(min(done * state.num_processes, answers - bar.n))
        bar.update(answers - bar.n)


def _gathered(own: list[tuple[int, float]], state: PartialState) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Indices and rewards of all processes, one after the other."""
    indices, values = np.array([index for index, _ in own], dtype=np.int64), np.array([value for _, value in own])
    parts = gather_object([(indices, values)]) if state.num_processes > 1 else [(indices, values)]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _all_counts(counts: ScoringCounts, state: PartialState) -> ScoringCounts:
    """Passes, tokens and bad rewards are each process's own; the rest every process has counted whole."""
    if state.num_processes == 1:
        return counts
    parts = gather_object([counts])
    own = {name: sum(getattr(part, name) for part in parts) for name in ("passes", "tokens", "not_finite")}
    return ScoringCounts(**{**asdict(counts), **own})
