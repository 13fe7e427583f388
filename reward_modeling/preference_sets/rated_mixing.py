"""Which answers of a mixture of ratings stay, and which are joined.

    chosen, table = choose_answers(table, shares, in_benchmark, seed)

What goes, in this order: answers to a benchmark's prompts; what weights and limits leave out, whole prompts only, since
the answers to a prompt are compared with each other. Then an answer that several sources rate becomes one row with the
ratings of all, where no attribute has two different ones; it stands where the first source has it. Where two sources
differ about an attribute, both rows stay. What one source has several times was joined when it was read.

A random choice is a hash of the seed and of what is chosen from, as in `mixing.py`.
"""

from collections.abc import Sequence
from copy import copy

import numpy as np
from numpy.typing import NDArray

from reward_modeling.data.keys import draw_prompts, mix_keys
from reward_modeling.data.report import DropReason
from reward_modeling.preference_sets.answer_choice import TOLERANCE
from reward_modeling.preference_sets.mixing import SAMPLE_SEED, Chosen
from reward_modeling.preference_sets.rated_table import RatedTable

KEPT_APART = "answers that an earlier source rates differently"


def choose_answers(
    table: RatedTable, shares: Sequence[tuple[float, int | None]], in_benchmark: NDArray[np.bool_], seed: int
) -> tuple[Chosen, RatedTable]:
    """Drop answers to benchmarks' prompts, sample, join, and shuffle.

    Args:
        shares: for each part its weight, from 0 to 1, and its limit in answers, or None.
        in_benchmark: `(answers,)`.

    Returns:
        What is chosen, and the table with the joined ratings.
    """
    keys = table.numbers("answer_key")
    left_out = prompts_left_out(table.parts, table.numbers("prompt_key"), ~in_benchmark, shares, seed)
    kept = ~in_benchmark & ~left_out
    table = copy(table)
    table.values, joined, kept_apart = join_answers(keys, table.values, kept)
    dropped = {DropReason.IN_BENCHMARK: in_benchmark, DropReason.NOT_SAMPLED: left_out, DropReason.JOINED: joined}
    numbers = np.flatnonzero(kept & ~joined)
    order = numbers[np.lexsort((table.parts[numbers], keys[numbers], mix_keys(keys, seed)[numbers]))]
    return Chosen(order, dropped, {KEPT_APART: kept_apart}), table


def prompts_left_out(
    parts: NDArray[np.int64],
    prompt_keys: NDArray[np.int64],
    among: NDArray[np.bool_],
    shares: Sequence[tuple[float, int | None]],
    seed: int,
) -> NDArray[np.bool_]:
    """Answers that a weight or a limit leaves out, whole prompts only, `(answers,)`; of those in `among`.

    A part gets at most what its weight and its limit say, of both the fewer.
    """
    left_out = np.zeros(len(parts), dtype=bool)
    for part, (weight, limit) in enumerate(shares):
        candidates = np.flatnonzero(among & (parts == part))
        most = round(weight * len(candidates))
        most = most if limit is None else min(most, limit)
        if most < len(candidates):
            left_out[candidates[~draw_prompts(prompt_keys[candidates], most, seed + SAMPLE_SEED)]] = True
    return left_out


def join_answers(
    keys: NDArray[np.int64], values: NDArray[np.float64], among: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """The same answers of several sources as one, of those in `among`.

    A row is joined with the first row of the same answer whose ratings it does not contradict.

    Returns:
        The ratings, `(answers, attributes)`; which rows are joined with an earlier one, `(answers,)`; and which stay
        although an earlier row has the answer.
    """
    values, joined, kept_apart = values.copy(), np.zeros(len(keys), dtype=bool), np.zeros(len(keys), dtype=bool)
    numbers = np.flatnonzero(among)
    order = numbers[np.argsort(keys[numbers], kind="stable")]
    _, starts, counts = np.unique(keys[order], return_index=True, return_counts=True)
    for start, count in zip(starts[counts > 1], counts[counts > 1], strict=True):
        heads = [order[start]]
        for row in order[start + 1 : start + count]:
            # where one of the two is NaN the comparison is false
            agreeing = [head for head in heads if not (np.abs(values[head] - values[row]) > TOLERANCE).any()]
            if agreeing:
                values[agreeing[0]] = np.where(np.isnan(values[agreeing[0]]), values[row], values[agreeing[0]])
                joined[row] = True
            else:
                heads.append(row)
                kept_apart[row] = True
    return values, joined, kept_apart
