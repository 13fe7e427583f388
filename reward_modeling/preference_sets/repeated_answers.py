"""An answer that a set rates several times, as one with the mean of its ratings."""

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from reward_modeling.data.preferences import read_column
from reward_modeling.preference_sets.source import number_column


def join_repeats(rows: Dataset, values: NDArray[np.float64]) -> tuple[Dataset, NDArray[np.float64], int]:
    """Each answer once, where it first stands, with the mean of its ratings; and how many rows repeated another.

    Of several ways to write it the one of the smallest source and key is kept: so what comes out does not depend on
    the order of the rows.
    """
    keys = number_column(rows, "answer_key")
    if len(np.unique(keys)) == len(keys):
        return rows, values, 0
    sources = pc.rank(read_column(rows, "source"), tiebreaker="dense").to_numpy()
    order = np.lexsort((number_column(rows, "text_key"), sources, keys))
    _, starts = np.unique(keys[order], return_index=True)
    kept, means = order[starts], np.stack([_mean_of_equal(keys, column) for column in values.T], axis=1)
    by_first = np.argsort(np.minimum.reduceat(order, starts))
    return rows.select(kept[by_first]), means[by_first], len(keys) - len(kept)


def _mean_of_equal(keys: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of the known values of each key, keys going up, `(keys,)`; NaN where there is none."""
    order = np.lexsort((values, keys))  # values too: a sum of floats depends on their order
    _, starts = np.unique(keys[order], return_index=True)
    is_known = ~np.isnan(values[order])
    known = np.add.reduceat(is_known.astype(np.int64), starts)
    sums = np.add.reduceat(np.where(is_known, values[order], 0.0), starts)
    return np.where(known > 0, sums / np.maximum(known, 1), np.nan)
