"""The steps of an evaluation that runs a model: start, read, load, score, write.

Each answer of a benchmark is scored on exactly one of any number of processes.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from tqdm import tqdm

from reward_modeling.common.errors import SECONDS_TO_SPEAK, UserError
from reward_modeling.common.screen import set_up_screen, shows_bars
from reward_modeling.data.losses import NOTHING_LOST
from reward_modeling.data.preferences import read_column
from reward_modeling.data.read_options import ReadOptions
from reward_modeling.evaluation.benchmarks.base import BenchmarkRows
from reward_modeling.evaluation.benchmarks.catalog import BENCHMARKS
from reward_modeling.evaluation.benchmarks.reading import read_benchmark, reading_order
from reward_modeling.evaluation.benchmarks.rows import conversations
from reward_modeling.evaluation.benchmarks.scored_rows import Rows, ScoredRow
from reward_modeling.evaluation.benchmarks.subsets import keep_subsets
from reward_modeling.evaluation.checks import check_rows
from reward_modeling.evaluation.compared import compare_benchmark
from reward_modeling.evaluation.files import SCORES, append_scores, writing_explained
from reward_modeling.evaluation.gathered import all_counts, gathered
from reward_modeling.evaluation.scorers import Scorer
from reward_modeling.evaluation.step_scoring import score_step_rows
from reward_modeling.evaluation.summary import summarise
from reward_modeling.models.reward_normalization import tie_values_of
from reward_modeling.objectives.tie_predictions import tie_predictions
from reward_modeling.scoring import PairScorer, RewardScorer
from reward_modeling.scoring.conversations import ScoringCounts

logger = logging.getLogger("eval_bench_mark")

HOURS_TO_WAIT = 6  # for the process that downloads, or that has the longest passes
ROWS_PER_READ = 256


def start_processes() -> PartialState:
    no_gpu = not torch.accelerator.is_available() or os.environ.get("ACCELERATE_USE_CPU", "false").lower() == "true"
    state = PartialState(cpu=no_gpu, timeout=timedelta(hours=HOURS_TO_WAIT))
    set_up_screen(logging.INFO if state.is_main_process else logging.ERROR, speaks=state.is_main_process)
    return state


def read_benchmarks(
    paths: Mapping[str, str | None],
    num_proc: int,
    state: PartialState,
    options: ReadOptions,
    subsets: Sequence[str] = (),
) -> list[BenchmarkRows]:
    """All of them before the model is loaded: a wrong path shows at once. Process 0 reads, the others its cache.

    Args:
        paths: that of each benchmark; None takes it from the Hub.
        subsets: the only ones to keep, if any.
    """

    def read() -> list[BenchmarkRows]:
        whole = [read_benchmark(name, path, num_proc=num_proc, options=options) for name, path in paths.items()]
        return keep_subsets(whole, subsets) if subsets else whole

    mistake, data = None, None
    if state.is_main_process:
        try:
            data = read()
        except UserError as error:
            mistake = error
    if broadcast_object_list([mistake is not None])[0]:
        if mistake is None:
            time.sleep(SECONDS_TO_SPEAK)
            sys.exit(2)
        raise mistake
    data = data or read()
    for benchmark in data:
        if benchmark.report is not None and state.is_main_process:
            print(benchmark.report.table(), flush=True)
    return data


@dataclass
class Scored:
    """The benchmarks that have figures, and what is wrong with others."""

    rows: dict[str, Rows] = field(default_factory=dict)
    parts: dict[str, dict] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)


def score_benchmarks(
    scorer: Scorer,
    data: list[BenchmarkRows],
    state: PartialState,
    unfinished: Path,
    legacy_xstest_weights: bool,
    tune_on: str | None = None,
) -> Scored:
    """What one benchmark after the other came to, on process 0; what is wrong with one costs no other its figures.

    Args:
        tune_on: the subset that a threshold of steps is tuned on. None: the benchmark's own choice.
    """
    scored, ties = Scored(), tie_values_of(scorer.model.config)
    predict_ties = None if ties is None else tie_predictions(**ties)
    for benchmark in data:
        started = time.perf_counter()
        triples = None
        if isinstance(scorer, PairScorer):
            compared = compare_benchmark(scorer, benchmark, state)
            rows, counts, triples = compared.rows, compared.counts, compared.triples
        else:
            rows, counts = score_benchmark(scorer, benchmark, state)
        if not state.is_main_process:
            continue
        with writing_explained(unfinished):  # at once: what comes after may fail
            append_scores(unfinished / SCORES, benchmark.benchmark, rows)
        try:
            options = {"legacy_xstest_weights": legacy_xstest_weights, "predict_ties": predict_ties}
            options |= {"triples": triples, "tune_on": tune_on}
            part = summarise(benchmark, rows, **options)
        except UserError as error:
            scored.mistakes.append(str(error))
            continue
        scored.rows[benchmark.benchmark], scored.parts[benchmark.benchmark] = rows, part
        if counts.escaped:
            part["comparisons"]["escaped"] = counts.escaped
        part["scoring"] = {"conversations": counts.conversations, "distinct": counts.scored, "cut": counts.cut}
        part["scoring"] |= {"cut_tokens": counts.cut_tokens, "tokens": counts.tokens}
        part["scoring"] |= {"seconds": round(time.perf_counter() - started, 3)}
    return scored


# --- the rewards of one benchmark ------------------------------------------------------------------------------


def score_benchmark(
    scorer: RewardScorer, data: BenchmarkRows, state: PartialState
) -> tuple[list[ScoredRow], ScoringCounts]:
    """The rewards of all answers, the same on every process, and what all processes together did.

    Rows of one prompt are read one after the other, wherever they stand in the file, so that their prompt is computed
    once; the rewards come back in the file's order. Of a ranked list what comes back are its pairs. Process 0 shows a
    progress bar.

    Raises:
        UserError: no row can be scored, or the tokenizer has no chat template.
    """
    if BENCHMARKS[data.benchmark].of_steps:
        return score_step_rows(scorer, data, state), all_counts(scorer.counts)
    rows = data.rows
    refused, losses = check_rows(rows, scorer.reader)
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
    batches = rows.select(order).iter(ROWS_PER_READ)
    in_order = (dict(zip(of, row, strict=True)) for of in batches for row in zip(*of.values(), strict=True))
    stream = chain.from_iterable(chain(*conversations(row)) for row in in_order)
    ranks = {"process_index": state.process_index, "num_processes": state.num_processes}
    shown = state.is_main_process and shows_bars()
    with tqdm(total=len(places), desc=data.benchmark, unit=" answers", disable=not shown) as bar:

        def update(done: int) -> None:
            """By the own share: the other processes are about as far."""
            bar.update(min(done * state.num_processes, len(places) - bar.n))

        own = list(scorer.stream(stream, progress=update, **ranks))
        bar.update(len(places) - bar.n)
    rewards = np.full(offsets[-1], np.nan)
    rewards[places] = gathered(own, len(places), data.benchmark)
    parts = np.split(rewards, np.sort(np.concatenate([offsets[1:], offsets[:-1] + num_chosen]))[:-1])
    ids = [number if own is None else own for number, own in enumerate(map(json.loads, rows["id"]))]
    columns = (ids, rows["subset"][:], parts[::2], parts[1::2], rows["where"][:])
    scored = [
        ScoredRow(*row, refused.get(number, ""), losses=losses.get(number, NOTHING_LOST))
        for number, row in enumerate(zip(*columns, strict=True))
    ]
    if pairs_of := BENCHMARKS[data.benchmark].pairs_of:
        scored = list(chain.from_iterable(map(pairs_of, scored, rows)))
    return scored, all_counts(scorer.counts)
