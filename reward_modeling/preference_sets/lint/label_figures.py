"""What the linter says of labels that are more than a preference: lists, ties, probabilities, strengths, weights."""

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from reward_modeling.data.labels import TIE
from reward_modeling.data.preferences import kept_column
from reward_modeling.preference_sets.lint.pair_checks import distribution
from reward_modeling.preference_sets.lint.text_measures import Measured


def label_figures(table: Measured) -> dict[str, object]:
    """Of each kind of label how many rows have it and which is the first, and how its numbers are distributed."""
    lengths, probability = table.list_lengths, table["chosen_probability"]
    masks = {
        "lists": lengths > 0,
        "lists_with_ties": _with_equal_ranks(table),
        "ties": table.is_tie,
        "soft": (probability > TIE) & (probability < 1),
        **{name: ~np.isnan(table[name]) for name in ("strength", "weight")},
    }
    figures = {name: {"rows": int(mask.sum()), "first": table.first(mask)} for name, mask in masks.items()}
    numbers = {"answers": lengths[lengths > 0], "chosen_probability": probability[~np.isnan(probability)]}
    numbers |= {name: table[name][masks[name]] for name in ("strength", "weight")}
    return {**figures, "numbers": {name: distribution(values) for name, values in numbers.items()}}


def _with_equal_ranks(table: Measured) -> NDArray[np.bool_]:
    """Lists in which two answers have the same rank, `(rows,)`: ranks have no gaps, so the last one says it."""
    last = np.zeros(len(table), dtype=np.int64)
    is_list = table.list_lengths > 0
    if is_list.any():
        ranks = pc.list_flatten(kept_column(table.rows, "ranks")).to_numpy()
        lengths = table.list_lengths[is_list]
        last[is_list] = np.maximum.reduceat(ranks, np.cumsum(lengths) - lengths)
    return is_list & (last < table.list_lengths)
