"""How well outputs agree with ratings, as numbers: errors and correlations with intervals, and pairs of a prompt.

Answers to one prompt are not independent, so an interval draws whole prompts (a bootstrap). All figures are formulas of
sums over answers: they are summed once by prompt, and a draw is a weighted sum over prompts.
"""

import math

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.intervals import RESAMPLES, Accuracy, number, share_of_rows

SEED = 0
NUMBERS_AT_ONCE = 2**21  # of draws that are in memory, 16 MiB
MOST_PAIRS = 500  # of a prompt: all pairs of 32 answers
LEAST_VARIANCE = 1e-9  # of standardised values: below, a draw has one value many times, but for rounding

Figure = dict[str, float | None]
"""`value` with its 95% interval `low` and `high`; None where there is none."""


def ranks_of(values: NDArray) -> NDArray:
    """Ranks from 0, equal values with the mean of theirs.

    >>> ranks_of(np.array([3.0, 1.0, 3.0]))
    array([1.5, 0. , 1.5])
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts + 1) / 2)[inverse]


def standardised(values: NDArray) -> NDArray:
    """With a mean of 0 and a deviation of 1; zeros where all are alike."""
    deviation = values.std() if len(values) else 0.0
    return (values - values.mean()) / deviation if deviation > 0 else np.zeros(len(values))


# --- ratings as they are stored, in float32 ---------------------------------------------------------------------------


def is_outside(ratings: NDArray, ends: tuple[float, float]) -> NDArray[np.bool_]:
    """Which ratings lie beyond the ends of a range, all rounded alike: 0.1 is no more than 0.1. NaN is not."""
    low, high = np.float32(ends[0]), np.float32(ends[1])
    return (ratings.astype(np.float32) < low) | (ratings.astype(np.float32) > high)


def shortest(rating: np.floating) -> float:
    """The shortest decimal number that float32 stores as this.

    >>> shortest(np.float32(0.1))
    0.1
    """
    return float(str(np.float32(rating)))


# --- sums and their formulas ------------------------------------------------------------------------------------------

SUMS = 16  # columns of `answer_sums`


def answer_sums(outputs: NDArray, ratings: NDArray, lengths: NDArray) -> NDArray:
    """`(answers, SUMS)`: what `formulas` needs of each answer, of which all arguments are `(answers,)`.

    Spearman's correlation is Pearson's of the ranks; these stay those of all answers in every draw.
    """
    mean = ratings.mean() if len(ratings) else 0.0
    columns = [np.ones(len(outputs)), (outputs - ratings) ** 2, (ratings - mean) ** 2]
    columns += _moments(standardised(outputs), standardised(ratings))
    of_ratings = standardised(ranks_of(ratings))
    columns += _moments(standardised(ranks_of(outputs)), of_ratings)
    lengths = standardised(ranks_of(lengths))
    return np.stack([*columns, lengths, lengths**2, lengths * of_ratings], axis=1)


def _moments(x: NDArray, y: NDArray) -> list[NDArray]:
    return [x, y, x * x, y * y, x * y]


def formulas(sums: NDArray) -> dict[str, NDArray]:
    """`(...)` figures of `(..., SUMS)` sums; NaN where there is none."""
    n, squared, of_mean, x, y, xx, yy, xy, rx, ry, rxx, ryy, rxy, z, zz, zy = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "squared_error": squared / n,
            "mean_label_squared_error": of_mean / n,  # of a judge who always says the mean of these answers
            "pearson": _correlation(n, x, y, xx, yy, xy),
            "spearman": _correlation(n, rx, ry, rxx, ryy, rxy),
            "length_spearman": _correlation(n, z, ry, zz, ryy, zy),
        }


def _correlation(n: NDArray, x: NDArray, y: NDArray, xx: NDArray, yy: NDArray, xy: NDArray) -> NDArray:
    of_x, of_y = xx / n - (x / n) ** 2, yy / n - (y / n) ** 2
    varies = (of_x > LEAST_VARIANCE) & (of_y > LEAST_VARIANCE)
    return np.where(varies, np.clip((xy / n - x * y / n**2) / np.sqrt(of_x * of_y), -1, 1), np.nan)


def sums_by_prompt(values: NDArray, prompts: NDArray, num_prompts: int) -> NDArray:
    """`(prompts, columns)` from `(answers, columns)`; `prompts` `(answers,)` are numbers below `num_prompts`."""
    return np.stack([np.bincount(prompts, column, minlength=num_prompts) for column in values.T], axis=1)


def drawn_sums(sums: NDArray, resamples: int = RESAMPLES) -> NDArray:
    """`(resamples, columns)`: sums over as many prompts, drawn with replacement.

    Args:
        sums: `(prompts, columns)`. Beside the result, `NUMBERS_AT_ONCE` numbers are in memory, or one draw.
    """
    prompts, generator = len(sums), np.random.default_rng(SEED)
    at_once = max(1, NUMBERS_AT_ONCE // max(1, prompts))
    drawn = np.empty((resamples, sums.shape[1]))
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        counts = [np.bincount(generator.integers(prompts, size=prompts), minlength=prompts) for _ in range(rows)]
        drawn[start : start + rows] = np.array(counts, dtype=np.float64) @ sums
    return drawn


def with_interval(value: float, draws: NDArray) -> Figure:
    """The figure with the middle 95% of its draws, and around itself; without those that have none."""
    draws = draws[np.isfinite(draws)]
    if not math.isfinite(value) or not len(draws):
        return {"value": number(value), "low": None, "high": None}
    low, high = np.quantile(draws, [0.025, 0.975]).tolist()
    return {"value": float(value), "low": min(low, float(value)), "high": max(high, float(value))}


# --- pairs ------------------------------------------------------------------------------------------------------------


def rated_pairs(ratings: NDArray, prompts: NDArray, answers: NDArray) -> tuple[NDArray, NDArray]:
    """The better and the worse of two different answers to one prompt with different ratings, as places, `(pairs,)`.

    Of a prompt that has more than `MOST_PAIRS`, as many are drawn: every sample of one prompt on its own makes pairs in
    the square of its answers.

    Args:
        ratings: `(rows,)`, known.
        prompts: `(rows,)`, the number of each row's prompt.
        answers: `(rows,)`, which answer of its prompt a row is of: one may be rated twice.
    """
    order = np.argsort(prompts, kind="stable")
    _, starts, sizes = np.unique(prompts[order], return_index=True, return_counts=True)
    generator, found = np.random.default_rng(SEED), [np.zeros((0, 2), dtype=np.int64)]
    for size in np.unique(sizes[sizes > 1]).tolist():
        of_size = order[starts[sizes == size][:, None] + np.arange(size)]  # (prompts, size)
        one, other = _places_of_pairs(size, generator)
        found.append(np.stack([of_size[:, one].ravel(), of_size[:, other].ravel()], axis=1))
    one, other = np.concatenate(found).T
    compared = (ratings[one] != ratings[other]) & (answers[one] != answers[other])
    one, other = one[compared], other[compared]
    first = ratings[one] > ratings[other]
    return np.where(first, one, other), np.where(first, other, one)


def _places_of_pairs(size: int, generator: np.random.Generator) -> tuple[NDArray, NDArray]:
    if size * (size - 1) // 2 <= MOST_PAIRS:
        return np.triu_indices(size, 1)
    one = generator.integers(size, size=MOST_PAIRS)
    other = (one + 1 + generator.integers(size - 1, size=MOST_PAIRS)) % size
    one, other = np.unique(np.sort([one, other], axis=0), axis=1)
    return one, other


def pair_shares(outputs: NDArray, ratings: NDArray, lengths: NDArray, prompts: NDArray, answers: NDArray) -> dict:
    """How often the better answer of a pair has the greater output, and how often it is the longer one.

    Equal outputs are wrong, and counted; of two answers equally long either may be taken for the longer one.
    """
    better, worse = rated_pairs(ratings, prompts, answers)
    right, equal = outputs[better] > outputs[worse], outputs[better] == outputs[worse]
    as_long = lengths[better] == lengths[worse]
    longer: NDArray = np.where(as_long, 0.5, lengths[better] > lengths[worse])
    shares: dict[str, Accuracy] = {
        "pair_accuracy": share_of_rows(right, equal, prompts[better]),
        "longer_wins": share_of_rows(longer, as_long, prompts[better]),
    }
    return shares
