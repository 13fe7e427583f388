"""What was rated where a model gives which outputs: the rest of the way from a correlation to a picture."""

import math

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.intervals import Z_95

MOST_BINS, ROWS_PER_BIN = 10, 10


def output_bins(outputs: NDArray, ratings: NDArray, prompts: NDArray) -> list[dict[str, float | int]]:
    """The mean rating of the answers in each bin of the outputs; the bins have about as many answers each.

    Args:
        outputs, ratings: `(answers,)`, of those that are rated, on one scale.
        prompts: `(answers,)`, the number of each answer's prompt: those of one prompt are not independent.

    Returns:
        Of each bin `output` and `rating`, the means over its answers, the ends of the 95% interval of the latter, and
        `rows`. At most 10 bins, of 10 answers or more where there are several; equal outputs stand in one bin.
    """
    if not len(outputs):
        return []
    bins = max(1, min(MOST_BINS, len(outputs) // ROWS_PER_BIN))
    # `higher` takes outputs that occur, and those that are equal fall on one side of an edge.
    edges = np.unique(np.quantile(outputs, np.linspace(0, 1, bins + 1), method="higher"))
    places = np.clip(np.searchsorted(edges, outputs, side="right") - 1, 0, max(0, len(edges) - 2))
    found = []
    for place in range(max(1, len(edges) - 1)):
        inside = places == place
        if inside.any():
            mean = float(ratings[inside].mean())
            reach = Z_95 * standard_error(ratings[inside], prompts[inside])
            ends = {"low": mean - reach, "high": mean + reach}
            found.append({"output": float(outputs[inside].mean()), "rating": mean, **ends, "rows": int(inside.sum())})
    return found


def standard_error(values: NDArray, prompts: NDArray) -> float:
    """Of the mean, under a draw of whole prompts (linearised, with the correction for few prompts); 0 for one prompt.

    Without several answers to a prompt it is that of any mean, their standard deviation over the root of their number.
    """
    _, prompt_of = np.unique(prompts, return_inverse=True)
    sums = np.bincount(prompt_of, values - values.mean())
    if len(sums) == 1:
        return 0.0
    return math.sqrt(len(sums) / (len(sums) - 1) * float(sums @ sums)) / len(values)
