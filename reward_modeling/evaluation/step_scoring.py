"""The probabilities of the steps of a benchmark's answers, by a process model.

rows = score_step_rows(scorer, data, state)      # chosen: of right steps, rejected: of wrong ones
"""

import json
from collections.abc import Iterator

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from tqdm import tqdm

from reward_modeling.common.errors import UserError
from reward_modeling.common.screen import shows_bars
from reward_modeling.data.conversations import Chain
from reward_modeling.data.rendering import TemplateRefuses
from reward_modeling.evaluation.benchmarks.base import BenchmarkRows
from reward_modeling.evaluation.benchmarks.reading import reading_order
from reward_modeling.evaluation.benchmarks.rows import RIGHT_STEP, WRONG_STEP
from reward_modeling.evaluation.benchmarks.scored_rows import ScoredRow
from reward_modeling.scoring import RewardScorer
from reward_modeling.scoring.chains import ChainReader

TOO_LONG = "its steps alone are longer than max_length"


def score_step_rows(scorer: RewardScorer, data: BenchmarkRows, state: PartialState) -> list[ScoredRow]:
    """The rows with the probabilities of their steps, the same on every process, in the file's order.

    Chains of one prompt are read one after the other, so that what they begin with is computed once. Process 0 shows a
    progress bar. An answer whose steps do not fit into the model is refused, as is one that the template refuses.

    Raises:
        UserError: no row can be scored, or the tokenizer has no chat template.
    """
    rows = data.rows
    refused = _refused(rows, scorer.reader)
    _check_any(data, refused)
    order = reading_order(rows)
    order = order[~np.isin(order, list(refused))]
    ranks = {"process_index": state.process_index, "num_processes": state.num_processes}
    shown = state.is_main_process and shows_bars()
    with tqdm(total=len(order), desc=data.benchmark, unit=" answers", disable=not shown) as bar:

        def update(done: int) -> None:
            """By the own share: the other processes are about as far."""
            bar.update(min(done * state.num_processes, len(order) - bar.n))

        own = [(index, of.steps) for index, of in scorer.stream_named(_chains(rows, order), progress=update, **ranks)]
        bar.update(len(order) - bar.n)
    probabilities = {int(order[index]): steps for index, steps in gather_object(own)}
    if probabilities.keys() != {*order.tolist()}:
        raise RuntimeError(f"{data.benchmark}: {len(probabilities)} of {len(order)} answers, not each exactly once")
    refused |= {number: TOO_LONG for number, steps in probabilities.items() if steps is None}
    _check_any(data, refused)
    return [_scored(number, row, probabilities.get(number), refused) for number, row in enumerate(rows)]


def _check_any(data: BenchmarkRows, refused: dict[int, str]) -> None:
    """
    Raises:
        UserError: all rows are refused.
    """
    if len(data.rows) and len(refused) == len(data.rows):
        number, words = next(iter(refused.items()))
        raise UserError(
            f"{data.benchmark}: expected answers that can be scored, found none among {len(data.rows):,}; the first, "
            f"{data.rows[number]['where']}: {words}."
        )


def _chains(rows: Dataset, order: np.ndarray) -> Iterator[Chain]:
    for number in order.tolist():
        yield _chain(rows[number])


def _chain(row: dict) -> Chain:
    return Chain(json.loads(row["prompt"]), row["steps"])


def _refused(rows: Dataset, reader: ChainReader) -> dict[int, str]:
    """Rows that cannot be read, and prompts that the chat template refuses, by their numbers."""
    refused: dict[int, str] = {}
    known: dict[str, str] = {}
    for number, row in enumerate(rows):
        if row["reason"]:
            refused[number] = f"{row['reason']}: {row['excerpt']}"
            continue
        if row["prompt"] not in known:
            known[row["prompt"]] = _refusal(_chain(row), reader)
        if words := known[row["prompt"]]:
            refused[number] = words
    return refused


def _refusal(chain: Chain, reader: ChainReader) -> str:
    reader.check_template()
    try:
        reader.composer.pieces(list(chain.prompt), list(chain.steps), {}, reader.tokenizer)
    except TemplateRefuses as error:
        return f"the chat template refuses it: {error}"
    return ""


def _scored(number: int, row: dict, steps: list[float] | None, refused: dict[int, str]) -> ScoredRow:
    labels = np.array(row["step_labels"], dtype=np.int64)
    found = np.full(len(labels), np.nan) if steps is None else np.array(steps, dtype=np.float64)
    own = json.loads(row["id"]) if row["id"] else None
    sides = (found[labels == label] for label in (RIGHT_STEP, WRONG_STEP))
    return ScoredRow(number if own is None else own, row["subset"], *sides, row["where"], refused.get(number, ""))
