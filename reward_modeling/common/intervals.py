"""Figures that any benchmark of pairs shares: accuracy, 95% intervals, and what length alone would give.

No files, no model, no printing: arrays of rewards in, numbers out.

accuracy = pair_accuracy(chosen_rewards, rejected_rewards)         # accuracy["value"], ["low"], ["high"], ["ties"]
figures = estimate(section_scores, by_subset(subsets, verdicts))   # figures["Safety"].value, .low, .high
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reward_modeling.common.errors import UserError

Z_95 = NormalDist().inv_cdf(0.975)  # 1.96: half of the width of a 95% interval in standard errors
RESAMPLES = 2000
SAME = 1e-12  # variance of rows that agree, but for rounding


Accuracy = dict[str, float | int | None]
"""A share of `rows` as it stands in JSON: `value`, its Wilson 95% interval `low` and `high`, `rows`, `right`, `ties`.

None for the first three where there are no rows. `right` is a whole number unless a tie counts as half of one.
"""


@dataclass(frozen=True)
class Estimate:
    """A figure over all rows, with its bootstrap 95% interval."""

    value: float
    low: float
    high: float


def finite_rewards(rewards: ArrayLike, name: str) -> NDArray[np.float64]:
    """The rewards in float64 (exact for every narrower float), of any shape, refused where one is NaN or infinite.

    Every comparison with NaN is false, so that a broken model would otherwise merely look like a bad one.

    Raises:
        UserError: a reward is not a finite number.
    """
    values = np.asarray(rewards, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        position = tuple(int(i) for i in np.unravel_index(bad[0], values.shape))
        raise UserError(
            f"{name}: expected finite rewards, found {bad.size:,} of {values.size:,} that are not, the first at index "
            f"{position} (counted from 0): {values.flat[bad[0]]}. Score in float32; if they stay, the checkpoint's "
            "weights are broken."
        )
    return values


def pair_rewards(chosen: ArrayLike, rejected: ArrayLike) -> tuple[NDArray, NDArray]:
    """Both in float64, refused where they are not `(pairs,)` or not finite."""
    chosen, rejected = finite_rewards(chosen, "chosen"), finite_rewards(rejected, "rejected")
    if chosen.ndim != 1 or chosen.shape != rejected.shape:
        raise ValueError(f"expected chosen and rejected of one shape (pairs,), found {chosen.shape}, {rejected.shape}")
    return chosen, rejected


def wilson_interval(right: float, rows: float) -> tuple[float, float]:
    """95% interval of a share, `right` of `rows` (Wilson 1927), within [0, 1] and around the share itself.

    Unlike the normal approximation it is right for small subsets and for accuracies near 0 and 1, where it keeps a
    width. With halves among `right` (ties as half) it is a little too wide, never too narrow. No rows: (NaN, NaN).

    Raises:
        ValueError: `right` is not between 0 and `rows`.
    """
    if not 0 <= right <= rows:
        raise ValueError(f"expected 0 <= right <= rows, found {right} of {rows}")
    if rows == 0:
        return math.nan, math.nan
    share, z2_n = right / rows, Z_95**2 / rows
    centre = (share + z2_n / 2) / (1 + z2_n)
    half_width = math.sqrt(share * (1 - share) * z2_n + z2_n**2 / 4) / (1 + z2_n)
    return max(0.0, min(share, centre - half_width)), min(1.0, max(share, centre + half_width))


def number(value: float) -> float | None:
    """JSON has no NaN."""
    return float(value) if math.isfinite(value) else None


def share_right(right: float, rows: int, ties: int = 0) -> Accuracy:
    """An `Accuracy` from counts of independent rows."""
    low, high = map(number, wilson_interval(right, rows))
    value = right / rows if rows else None
    return {"value": value, "low": low, "high": high, "rows": rows, "right": right, "ties": ties}


def share_of_rows(
    right: ArrayLike, ties: ArrayLike, prompts: ArrayLike | None = None, weights: ArrayLike | None = None
) -> Accuracy:
    """An `Accuracy` of rows of which several may be of one prompt.

    The interval is Wilson's for the number of independent rows that say as much (see `independent_rows`).

    Args:
        right: `(rows,)`, 1 where a row is right, 0 where it is not, or a part of 1.
        ties: `(rows,)` bool.
        prompts: `(rows,)`, the number of each row's prompt; None where each row is one of its own.
        weights: `(rows,)`, above 0: how much each row counts in the share. None: all alike.
    """
    right, ties = np.asarray(right, dtype=np.float64), np.asarray(ties)
    total = float(right.sum())
    counts = share_right(int(total) if total.is_integer() else total, len(right), int(ties.sum()))
    if not len(right) or (weights is None and (prompts is None or len(np.unique(prompts)) == len(right))):
        return counts
    value = float(np.average(right, weights=weights))
    rows = independent_rows(right, prompts, weights)
    low, high = wilson_interval(min(value * rows, rows), rows)
    return counts | {"value": value, "low": min(low, value), "high": max(high, value)}


def independent_rows(right: NDArray, prompts: ArrayLike | None = None, weights: ArrayLike | None = None) -> float:
    """How many independent rows say as much of a share as these do: the rows over their design effect (Kish, 1965).

    Rows of one prompt, such as the pairs of a ranked list, are right or wrong together, so that they say less than as
    many rows of different prompts. The variance of the share under a draw of whole prompts is that of the sums of
    residuals by prompt (linearised, with the correction for few prompts). Wilson's interval for this number of rows is
    that of Korn and Graubard (1998). It agrees with a bootstrap that draws prompts, without draws, and keeps a width
    where all rows agree: there each prompt is taken for one row.

    Never more than there are rows: prompts that are more alike than chance makes them narrow nothing.

    Args:
        right, prompts, weights: as `share_of_rows` takes them; at least one row.
    """
    weights = np.ones(len(right)) if weights is None else np.asarray(weights, dtype=np.float64)
    _, prompt_of = np.unique(np.arange(len(right)) if prompts is None else prompts, return_inverse=True)
    of_prompts = np.bincount(prompt_of, weights)
    if len(of_prompts) == 1:
        return 1.0
    total = weights.sum()
    residuals = right - np.average(right, weights=weights)
    spread = float(weights @ residuals**2) / total  # of single rows
    if spread < SAME:
        return float(total**2 / (of_prompts @ of_prompts))
    sums = np.bincount(prompt_of, weights * residuals)
    of_share = len(sums) / (len(sums) - 1) * float(sums @ sums) / total**2
    of_rows = spread * len(right) / (len(right) - 1)
    return float(len(right)) if of_share * len(right) <= of_rows else of_rows / of_share


def pair_accuracy(chosen: ArrayLike, rejected: ArrayLike, prompts: ArrayLike | None = None) -> Accuracy:
    """How often reward(chosen) > reward(rejected). A tie is wrong, as on RewardBench, and counted.

    Args:
        chosen, rejected: `(pairs,)` rewards.
        prompts: as `share_of_rows` takes them.

    Raises:
        UserError: a reward is not finite.
        ValueError: the shapes differ.
    """
    chosen, rejected = pair_rewards(chosen, rejected)
    return share_of_rows(chosen > rejected, chosen == rejected, prompts)


def longer_wins(chosen_lengths: ArrayLike, rejected_lengths: ArrayLike, prompts: ArrayLike | None = None) -> Accuracy:
    """The accuracy of a judge who always takes the longer answer: what a model must beat to have read the answers.

    Of two answers equally long that judge can only toss a coin: such a pair counts as half right, and under `ties`.
    (As wrong, as for a model's ties, sets full of equal lengths would make the baseline look weaker than it is.)

    Args:
        chosen_lengths, rejected_lengths: `(pairs,)` lengths of the answers, both in characters or both in tokens.
        prompts: as `share_of_rows` takes them.
    """
    chosen, rejected = pair_rewards(chosen_lengths, rejected_lengths)
    ties = chosen == rejected
    return share_of_rows(np.where(ties, 0.5, chosen > rejected), ties, prompts)


def accuracy_by_length(
    chosen: ArrayLike,
    rejected: ArrayLike,
    chosen_lengths: ArrayLike,
    rejected_lengths: ArrayLike,
    prompts: ArrayLike | None = None,
) -> dict[str, Accuracy]:
    """`pair_accuracy` over the pairs whose chosen answer is longer, whose rejected answer is, and the rest.

    A model that follows length is good at the first and bad at the second. All four arguments are `(pairs,)`; the keys
    "chosen longer", "rejected longer" and "equal length" are always there.

    Args:
        prompts: as `share_of_rows` takes them.
    """
    chosen, rejected = pair_rewards(chosen, rejected)
    longer, shorter = pair_rewards(chosen_lengths, rejected_lengths)
    if longer.shape != chosen.shape:
        raise ValueError(f"expected one length for each of {len(chosen)} pairs, found {len(longer)}")
    groups = {"chosen longer": longer > shorter, "rejected longer": longer < shorter, "equal length": longer == shorter}
    prompts = np.arange(len(chosen)) if prompts is None else np.asarray(prompts)
    return {name: pair_accuracy(chosen[group], rejected[group], prompts[group]) for name, group in groups.items()}


def by_subset(subsets: Sequence[str], values: ArrayLike) -> dict[str, NDArray]:
    """The `(rows, ...)` values of each of the `(rows,)` subsets, subsets in the order in which they first appear."""
    values = np.asarray(values)
    if len(subsets) != len(values):
        raise ValueError(f"expected one subset per row, found {len(subsets)} for {len(values)} rows")
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(subsets):
        rows.setdefault(str(name), []).append(row)
    return {name: values[of_subset] for name, of_subset in rows.items()}


def resampled_means(values: ArrayLike, generator: np.random.Generator, resamples: int = RESAMPLES) -> NDArray:
    """Means of bootstrap samples of the rows.

    A sample of n rows with replacement is a multinomial draw of how often each *distinct* row occurs, so that a subset
    of verdicts costs one binomial number per sample, whatever its size.

    Args:
        values: `(rows, ...)` without NaN, at least one row. Memory is resamples x distinct rows.

    Returns:
        `(resamples, ...)` float64.
    """
    values = np.asarray(values, dtype=np.float64)
    distinct, counts = np.unique(values.reshape(len(values), -1), axis=0, return_counts=True)
    draws = generator.multinomial(len(values), counts / len(values), size=resamples)
    return (draws @ distinct / len(values)).reshape(resamples, *values.shape[1:])


def estimate(
    formula: Callable[[dict], Mapping], values: Mapping[str, ArrayLike], *, seed: int = 0
) -> dict[str, Estimate]:
    """Every figure of a formula with its 95% interval by a stratified bootstrap: rows are drawn within each subset.

    The formula is computed twice, from the subsets' means and from all resampled means at once. A subset's draws
    depend on the seed and its name alone, not on which others are there.

    The rows are taken as independent; where subsets share prompts the true interval is a little wider. Where every
    row of every subset is right, no resample differs and the interval has no width: then look at Wilson's.

    Args:
        formula: from {subset: mean `(...)`} to {figure: `()`}, or with a leading axis `(resamples, ...)` to
            `(resamples,)`, such as `benchmarks.section_scores`. A NaN is an incomplete figure and stays one.
        values: `(rows, ...)` per subset: verdicts, credits, matrices. A subset of no rows counts as missing.
    """
    filled = {name: array for name, array in ((n, np.asarray(v)) for n, v in values.items()) if len(array)}
    points = formula({name: array.mean(axis=0) for name, array in filled.items()})
    streams = {name: np.random.default_rng([seed, zlib.crc32(name.encode())]) for name in filled}
    samples = formula({name: resampled_means(array, streams[name]) for name, array in filled.items()})
    ends = {name: np.quantile(samples[name], [0.025, 0.975]).tolist() for name in points}  # NaN if a sample is NaN
    return {name: Estimate(float(point), *ends[name]) for name, point in points.items()}


def estimate_difference(
    formula: Callable[[dict], Mapping], first: Mapping[str, ArrayLike], other: Mapping[str, ArrayLike]
) -> dict[str, Estimate]:
    """Every figure of `other` less that of `first`, with the 95% interval of a paired bootstrap.

    A row is drawn with what both models made of it: what is hard for both cancels out, and the interval is narrower
    than two separate ones suggest. Where the models agree on every row it has no width.

    Args:
        formula: as `estimate` takes it.
        first, other: `(rows, ...)` per subset, the same subsets and the same rows in the same order.
    """

    def difference(means: dict) -> dict:
        before, after = (formula({name: mean[..., side] for name, mean in means.items()}) for side in (0, 1))
        return {name: after[name] - before[name] for name in before}

    both = {name: np.stack([values, other[name]], axis=-1) for name, values in first.items()}
    return estimate(difference, both)
