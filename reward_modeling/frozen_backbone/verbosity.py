"""Objectives less as much of the verbosity as it takes for them not to follow the length of an answer.

    debiasing = debias(outputs, verbosity=4, lengths=features.completion_tokens, prompts=features.prompt_of)
    rewards = outputs @ debiasing.matrix

r'_i = r_i - lambda_i * r_verbosity, as in ArmoRM (Wang et al., 2024), with the least lambda_i for which the rank
correlation of r'_i with the length on a reference set is at most a bound. Where ArmoRM tries 24 values up to 0.95 and
takes 1 if none is enough, lambda is found here by bisection, and an objective that no lambda frees of the length is
named. What is subtracted is an output, since a matrix applied to the outputs can do nothing else; what it is measured
by is the length in tokens, or that output itself. A set without ratings of the verbosity can be given one: the length
of each answer as a rating.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.errors import UserError
from reward_modeling.display.text import align, number
from reward_modeling.objectives.rating_statistics import ranks_of

BOUND = 0.03  # ArmoRM's
# Up to 1 in even steps, then larger: an output that varies less than the others takes more of it.
TRIED = (*np.linspace(0.0, 1.0, 21).tolist(), 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
PRECISION = 1e-6  # of lambda
NORMAL_95 = 1.959964  # standard deviations


@dataclass(frozen=True)
class Debiasing:
    """What is subtracted of each objective, and what it does on the reference set."""

    matrix: NDArray[np.float64]
    """`(objectives, objectives)`, to be applied as `rewards @ matrix`: the identity, with the lambdas in the row of the
    verbosity. That objective itself becomes 0, as in the published matrix."""
    lambdas: NDArray[np.float64]
    """`(objectives,)`; 1 of the verbosity."""
    verbosity: int
    bound: float
    before: tuple[Mapping[str, float | None], ...]
    """Of each objective the rank correlation with the length: value, low, high; None where an output is constant."""
    after: tuple[Mapping[str, float | None], ...]

    @property
    def not_reached(self) -> list[int]:
        """The objectives that no lambda brings to the bound: they have the lambda that does most."""
        values = [of["value"] for of in self.after]
        return [place for place, value in enumerate(values) if value is not None and value > self.bound]

    def table(self, names: Sequence[str]) -> str:
        """For a screen."""
        rows = [("objective", "lambda", "before", "95% interval", "after", "95% interval", "")]
        for place, name in enumerate(names):
            cells = [cell for of in (self.before[place], self.after[place]) for cell in _cells(of)]
            note = "is subtracted" if place == self.verbosity else ""
            note = "above the bound" if place in self.not_reached else note
            rows.append((name, number(self.lambdas[place]), *cells, note))
        return "\n".join(align(rows))


def debias(
    outputs: NDArray,
    verbosity: int,
    lengths: NDArray | None = None,
    *,
    prompts: NDArray[np.int64],
    bound: float = BOUND,
) -> Debiasing:
    """The least lambdas that the reference set asks for.

    Args:
        outputs: `(answers, objectives)` of the reference set.
        verbosity: which of them is subtracted.
        lengths: `(answers,)` tokens of each answer; None: the rank correlation is that with the verbosity.
        prompts: `(answers,)`, which are drawn for the intervals.

    Raises:
        UserError: the verbosity, or the length, is the same everywhere.
    """
    outputs = outputs.astype(np.float64)
    subtracted = outputs[:, verbosity]
    measure = ranks_of(subtracted if lengths is None else lengths)
    if subtracted.std() == 0 or measure.std() == 0:
        raise UserError(
            "verbosity: expected answers of different lengths, and outputs that differ, found the same everywhere."
        )
    lambdas = np.zeros(outputs.shape[1])
    for place in range(outputs.shape[1]):
        lambdas[place] = 1.0 if place == verbosity else least_lambda(outputs[:, place], subtracted, measure, bound)
    matrix = np.eye(len(lambdas))
    matrix[verbosity] -= lambdas
    before, after = (
        tuple(with_interval(values, measure, prompts) for values in of.T) for of in (outputs, outputs @ matrix)
    )
    return Debiasing(matrix, lambdas, verbosity, bound, before, after)


def least_lambda(rewards: NDArray, verbosity: NDArray, measure: NDArray, bound: float) -> float:
    """The least lambda for which the rank correlation of rewards - lambda * verbosity is at most `bound`.

    With the verbosity itself that correlation never rises with lambda: a pair of answers changes places at most once,
    from the order of the verbosity to the other. With lengths it may, so the first value of `TRIED` that is enough is
    looked for, and then between it and the one before. The correlation is a step function: what comes out is on the
    side of a step that keeps the bound. Where nothing is enough, it is the value that does most.

    Args:
        measure: ranks, `(answers,)`.
    """

    def excess(value: float) -> float:
        return rank_correlation(rewards - value * verbosity, measure) - bound

    enough = next((value for value in TRIED if excess(value) <= 0), None)
    if enough is None:
        return min(TRIED, key=excess)
    return 0.0 if enough == 0 else _bisect(excess, TRIED[TRIED.index(enough) - 1], enough)


def _bisect(excess: Callable[[float], float], low: float, high: float) -> float:
    """A value that is enough, at most `PRECISION` above one that is not; `high` is, and `low` is not."""
    while high - low > PRECISION:
        middle = (low + high) / 2
        low, high = (low, middle) if excess(middle) <= 0 else (middle, high)
    return high


def rank_correlation(values: NDArray, ranks: NDArray) -> float:
    """Spearman's; 0 where the values are all the same."""
    figure = correlation_of_ranks(values, ranks)
    return 0.0 if figure is None else figure[0]


def correlation_of_ranks(values: NDArray, ranks: NDArray) -> tuple[float, NDArray, NDArray] | None:
    """Spearman's, and the standardised ranks of both; None where the values are all the same."""
    own = ranks_of(values)
    if own.std() == 0 or ranks.std() == 0:
        return None
    x, y = (own - own.mean()) / own.std(), (ranks - ranks.mean()) / ranks.std()
    return float((x * y).mean()), x, y


def with_interval(values: NDArray, ranks: NDArray, prompts: NDArray[np.int64]) -> dict[str, float | None]:
    """Spearman's with its 95% interval over prompts, by the delta method.

    It is that of `held_out_ratings.correlation`, which draws prompts: on a reference set of 60,000 of them, a gigabyte
    of draws for each objective.
    """
    found = correlation_of_ranks(values, ranks)
    if found is None:
        return {"value": None, "low": None, "high": None}
    value, x, y = found
    influence = x * y - value / 2 * (x * x + y * y)
    _, of = np.unique(prompts, return_inverse=True)
    half = NORMAL_95 * float(np.sqrt(np.square(np.bincount(of, influence)).sum())) / len(x)
    return {"value": value, "low": max(-1.0, value - half), "high": min(1.0, value + half)}


def _cells(figure: Mapping[str, float | None]) -> tuple[str, str]:
    if figure["value"] is None:
        return "-", "-"
    return number(figure["value"]), f"{number(figure['low'])} to {number(figure['high'])}"
