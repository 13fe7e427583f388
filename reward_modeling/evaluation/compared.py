"""A pairwise model on a benchmark: its answers compared two by two, each pair in both orders.

Every comparison of rewards in a benchmark's formula becomes one of two answers: a right answer is above a wrong one
where the mean over both orders of the probability that it is the better one is above one half. What is made of
distances between rewards has no such form, and gets no score.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any

import numpy as np
from accelerate import PartialState
from numpy.typing import NDArray
from tqdm import tqdm

from reward_modeling.common.errors import UserError
from reward_modeling.common.screen import shows_bars
from reward_modeling.data.comparisons import Comparison
from reward_modeling.data.losses import NOTHING_LOST, Losses
from reward_modeling.evaluation.benchmarks.base import Benchmark, BenchmarkRows
from reward_modeling.evaluation.benchmarks.catalog import BENCHMARKS
from reward_modeling.evaluation.benchmarks.own_pairs import pairs_of_ranks
from reward_modeling.evaluation.benchmarks.reading import reading_order
from reward_modeling.evaluation.benchmarks.scored_rows import ScoredRow
from reward_modeling.evaluation.checks import RowChecks
from reward_modeling.evaluation.gathered import all_counts, gathered
from reward_modeling.evaluation.triples import Triples, count_triples
from reward_modeling.scoring import PairScorer
from reward_modeling.scoring.conversations import ScoringCounts

MOST_FOR_ALL = 6  # answers of a row of which every two are compared; of more, right ones with wrong ones alone
ROWS_PER_READ = 256
TOO_LONG = "two of its answers are longer than max_length without any context"


@dataclass(frozen=True)
class Compared:
    """What a pairwise model made of a benchmark, the same on every process."""

    rows: list[ScoredRow]
    counts: ScoringCounts
    triples: Triples | None
    """Of prompts with three answers of which every two were compared."""


def compare_benchmark(scorer: PairScorer, data: BenchmarkRows, state: PartialState) -> Compared:
    """The outputs for all pairs of answers that count. Process 0 shows a progress bar.

    Raises:
        UserError: no row can be compared, or the tokenizer has no chat template.
    """
    benchmark, rows = BENCHMARKS[data.benchmark], data.rows
    refused, losses = check_comparisons(rows, scorer, benchmark)
    if len(rows) and len(refused) == len(rows):
        number, words = next(iter(refused.items()))
        raise UserError(
            f"{data.benchmark}: expected rows whose answers a pairwise model can compare, found none among "
            f"{len(rows):,}; the first, {rows[number]['where']}: {words}. Leave it out of --benchmarks."
        )
    order = reading_order(rows)
    order = order[~np.isin(order, list(refused))]
    numbers = [pairs_to_compare(row) for row in _records(rows, order, ["chosen", "rejected", "ranks"])]
    outputs = _outputs(scorer, data, order, numbers, state)
    tables = map(_table, _records(rows, order, ["chosen", "rejected"]), numbers, outputs)
    fits = {number: not np.isnan(of_row).any() for number, of_row in zip(order.tolist(), outputs, strict=True)}
    logits = {number: table for number, table in zip(order.tolist(), tables, strict=True) if fits[number]}
    refused |= {number: TOO_LONG for number in fits if not fits[number]}
    scored = [
        _scored_row(number, row, logits.get(number), refused.get(number, ""), losses.get(number, NOTHING_LOST))
        for number, row in enumerate(rows)
    ]
    triples = count_triples(
        (row["prompt_key"], row["chosen"] + row["rejected"], logits[number])
        for number, row in zip(order.tolist(), _records(rows, order), strict=True)
        if fits[number]
    )
    if benchmark.pairs_of:
        scored = list(chain.from_iterable(map(benchmark.pairs_of, scored, rows)))
    return Compared(scored, all_counts(scorer.counts), triples)


def pairs_to_compare(row: Mapping) -> list[tuple[int, int]]:
    """The numbers of answers that are compared, right ones before wrong ones.

    Every two of `MOST_FOR_ALL` answers or less, which shows whether the comparisons are transitive; of more the pairs
    that a score is made of.
    """
    right, number = len(row["chosen"]), len(row["chosen"]) + len(row["rejected"])
    if number <= MOST_FOR_ALL:
        return list(combinations(range(number), 2))
    if row["ranks"]:
        return pairs_of_ranks(row["ranks"])
    return [(one, other) for one in range(right) for other in range(right, number)]


# --- before anything is compared ------------------------------------------------------------------------------


def check_comparisons(rows: Any, scorer: PairScorer, benchmark: Benchmark) -> RowChecks:
    """Every answer written once; see `checks.check_rows`."""
    checks = RowChecks({}, {})
    for number, row in enumerate(rows):
        refusal = f"{row['reason']}: {row['excerpt']}" if row["reason"] else _why_not(row, benchmark)
        losses: list[Losses] = []
        if not refusal:
            scorer.reader.check_template()
            answers = _answers(row)
            for other in range(1, len(answers)):
                refusal, lost = scorer.reader.check(_comparison(row, answers, 0, other))
                losses.append(lost)
                if refusal:
                    refusal = f"the chat template refuses the question that holds both answers: {refusal}"
                    break
        if refusal:
            checks.refused[number] = refusal
            continue
        lost = Losses(*(next(filter(None, of), "") for of in ([x.answer for x in losses], [x.message for x in losses])))
        if lost.answer or lost.message:
            checks.losses[number] = lost
    return checks


def _why_not(row: Mapping, benchmark: Benchmark) -> str:
    if row["subset"] in benchmark.needs_rewards:
        return "its score is made of how far rewards are apart, which a model that compares two answers does not say"
    if not row["prompt"]:
        return "a plain text has no prompt apart from its answers, and a comparison holds the prompt once"
    if len(row["chosen"]) + len(row["rejected"]) < 2:
        return "expected at least two answers to compare, found fewer"
    return ""


# --- outputs --------------------------------------------------------------------------------------------------


def _outputs(
    scorer: PairScorer,
    data: BenchmarkRows,
    order: NDArray[np.int64],
    numbers: Sequence[Sequence[tuple[int, int]]],
    state: PartialState,
) -> list[NDArray]:
    """`(pairs, 2)` of each row in this order: the output with the first of two answers in front, then the second."""
    orders = (
        comparison
        for row, pairs in zip(_records(data.rows, order), numbers, strict=True)
        for comparison in _both_orders(row, pairs)
    )
    total = 2 * sum(map(len, numbers))
    ranks = {"process_index": state.process_index, "num_processes": state.num_processes}
    shown = state.is_main_process and shows_bars()
    with tqdm(total=total, desc=data.benchmark, unit=" orders", disable=not shown) as bar:

        def update(done: int) -> None:
            """By the own share: the other processes are about as far."""
            bar.update(min(done * state.num_processes, total - bar.n))

        own = list(scorer.stream(orders, progress=update, **ranks))
        bar.update(total - bar.n)
    outputs = gathered(own, total, data.benchmark).reshape(-1, 2)
    ends = np.cumsum([len(pairs) for pairs in numbers])[:-1]
    return np.split(outputs, ends) if numbers else []


def _both_orders(row: Mapping, pairs: Sequence[tuple[int, int]]) -> Iterator[Comparison]:
    answers = _answers(row)
    for one, other in pairs:
        comparison = _comparison(row, answers, one, other)
        yield comparison
        yield comparison.swapped()


def _answers(row: Mapping) -> list[list[dict]]:
    return [json.loads(answer) for answer in (*row["chosen"], *row["rejected"])]


def _comparison(row: Mapping, answers: Sequence[list[dict]], one: int, other: int) -> Comparison:
    options = json.loads(row["template_options"]) if row["template_options"] else {}
    return Comparison(json.loads(row["prompt"]), answers[one], answers[other], options)


def _records(rows: Any, order: NDArray[np.int64], columns: Sequence[str] | None = None) -> Iterator[dict]:
    selected = rows.select(order) if columns is None else rows.select(order).select_columns(list(columns))
    for batch in selected.iter(ROWS_PER_READ):
        yield from (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))


def _table(row: Mapping, pairs: Sequence[tuple[int, int]], outputs: NDArray) -> NDArray:
    """`(answers, answers)`: outputs by the answer that stands first and by the other one; NaN where there is none."""
    table = np.full((len(row["chosen"]) + len(row["rejected"]),) * 2, np.nan)
    for (one, other), (first, second) in zip(pairs, outputs, strict=True):
        table[one, other], table[other, one] = first, second
    return table


def _scored_row(number: int, row: Mapping, logits: NDArray | None, refused: str, losses: Losses) -> ScoredRow:
    own, subset, right = json.loads(row["id"]), row["subset"], len(row["chosen"])
    row_id = number if own is None else own
    others = {"where": row["where"], "refused": refused, "losses": losses}
    if logits is None:
        unknown = (np.full(len(row[side]), np.nan) for side in ("chosen", "rejected"))
        return ScoredRow(row_id, subset, *unknown, **others)
    return ScoredRow.compared(row_id, subset, logits, right, **others)
