"""What two models made of the same rows: from their scores.jsonl to differences with paired intervals.

first, other = read_scores(Path("a/scores.jsonl")), read_scores(Path("b/scores.jsonl"))
differences = paired_differences("rewardbench", first["rewardbench"], other["rewardbench"])
differences["figures"]["overall"]  # {"value": 0.012, "low": -0.003, "high": 0.027, "rows": 2985}
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.errors import UserError
from reward_modeling.common.intervals import Estimate, by_subset, estimate_difference, wilson_interval
from reward_modeling.common.pair_statistics import number
from reward_modeling.evaluation.benchmarks.preference_test_sets import REWARDBENCH_WITH_PRIOR, scores_with_prior
from reward_modeling.evaluation.benchmarks.rewardbench2 import REWARDBENCH2, rewardbench2_scores, rewardbench2_values
from reward_modeling.evaluation.benchmarks.rm_bench import (
    rm_bench_by_domain,
    rm_bench_figure_rows,
    rm_bench_scores,
    rm_bench_wins,
)

COLUMNS = ("benchmark", "id", "subset", "chosen_reward", "rejected_reward")
ALL_ROWS = "accuracy"  # the figure of a benchmark that has none but the share of its rows


@dataclass
class RowScores:
    """The rows of one benchmark, in the order of its file."""

    ids: list = field(default_factory=list)
    subsets: list[str] = field(default_factory=list)
    chosen: list[NDArray] = field(default_factory=list)
    """Of each row the rewards of its right answers, `(answers,)`; NaN where it was not scored."""
    rejected: list[NDArray] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def extend(self, other: "RowScores") -> None:
        """Put the rows of another benchmark behind these."""
        for name in ("ids", "subsets", "chosen", "rejected"):
            getattr(self, name).extend(getattr(other, name))

    def has_rows_of(self, other: "RowScores") -> bool:
        return (self.ids, self.subsets) == (other.ids, other.subsets)

    def scored(self) -> NDArray[np.bool_]:
        """`(rows,)`."""
        both = zip(self.chosen, self.rejected, strict=True)
        return np.array([bool(np.isfinite(c).all() and np.isfinite(r).all()) for c, r in both], dtype=bool)

    def select(self, rows: NDArray[np.bool_]) -> "RowScores":
        columns = (self.ids, self.subsets, self.chosen, self.rejected)
        return RowScores(*([column[row] for row in np.flatnonzero(rows)] for column in columns))


def read_scores(path: Path) -> dict[str, RowScores]:
    """The rows of each benchmark.

    Raises:
        UserError: a line is torn, or not one that eval_bench_mark.py writes.
    """
    found: dict[str, RowScores] = {}
    with path.open(encoding="utf-8") as lines:
        for place, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                benchmark, row_id, subset, chosen, rejected = (row[name] for name in COLUMNS)
                sides = [np.atleast_1d(np.array(side, dtype=np.float64)) for side in (chosen, rejected)]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{path}:{place}: expected an object with {', '.join(COLUMNS)}, found {line[:80]!r}. Evaluate the "
                    "model again, or remove the file: the figures then are shown without paired intervals."
                ) from error
            scores = found.setdefault(benchmark, RowScores())
            for column, value in zip((scores.ids, scores.subsets), (row_id, subset), strict=True):
                column.append(value)
            scores.chosen.append(sides[0])
            scores.rejected.append(sides[1])
    return found


def row_values(benchmark: str, rows: RowScores) -> dict[str, NDArray]:
    """What the benchmark's formula takes the means of, by subset; every row has been scored."""
    if benchmark == "rewardbench2":
        return rewardbench2_values(rows.subsets, rows.ids, rows.chosen, rows.rejected)
    chosen, rejected = np.array(rows.chosen), np.array(rows.rejected)
    if benchmark == "rm_bench":
        return rm_bench_by_domain(rows.subsets, rm_bench_wins(chosen, rejected))
    return by_subset(rows.subsets, chosen[:, 0] > rejected[:, 0])


def figure_formula(benchmark: str, values: Mapping[str, NDArray], *, legacy_xstest_weights: bool = False) -> Callable:
    """From the means of `row_values` to figures; of one's own pairs to the share of all rows.

    RewardBench and the preference test sets have one formula for both, whose other figures are NaN.
    """
    if benchmark == "rewardbench2":
        return rewardbench2_scores
    if benchmark == "rm_bench":
        return rm_bench_scores
    if benchmark == "pairs":
        counts = {name: len(one) for name, one in values.items()}
        total = sum(counts.values())
        return lambda means: {ALL_ROWS: sum(counts[name] * mean for name, mean in means.items()) / total}
    return partial(scores_with_prior, legacy_xstest_weights=legacy_xstest_weights)


def figure_rows(benchmark: str, subsets: Sequence[str]) -> dict[str, int]:
    """Rows behind each figure of `figure_formula`, from the subset of each row."""
    counts = Counter(subsets)
    if benchmark == "rewardbench2":
        return REWARDBENCH2.figure_rows(counts)
    if benchmark == "rm_bench":
        return rm_bench_figure_rows(subsets)
    if benchmark == "pairs":
        return {ALL_ROWS: len(subsets)}
    return REWARDBENCH_WITH_PRIOR.figure_rows(counts)


def paired_differences(
    benchmark: str,
    first: RowScores,
    other: RowScores,
    *,
    legacy_xstest_weights: bool = False,
    left_out: frozenset[str] = frozenset(),
) -> dict[str, dict[str, dict]]:
    """Every figure and every subset of `other` less that of `first`, over the rows that both have scored.

    Args:
        first, other: of the same rows (see `has_rows_of`).
        left_out: subsets without a score; what is made of them has none either.

    Returns:
        {"figures": {name: entry}, "subsets": {name: entry}}; an entry has value, low, high and rows, as a figure of
        summary.json, and is left out where there is no value.
    """
    both = first.scored() & other.scored()
    values = [row_values(benchmark, scores.select(both)) for scores in (first, other)]
    before, after = ({name: one for name, one in side.items() if name not in left_out} for side in values)
    if not before:
        return {"figures": {}, "subsets": {}}
    formula = figure_formula(benchmark, before, legacy_xstest_weights=legacy_xstest_weights)
    plain = [name for name, one in before.items() if one.ndim == 1]  # whose score is the mean of their rows

    def everything(means: dict) -> dict:
        figures = {("figures", name): value for name, value in formula(means).items()}
        return figures | {("subsets", name): means[name] for name in plain}

    rows = {
        "figures": figure_rows(benchmark, first.select(both).subsets),
        "subsets": {name: len(before[name]) for name in plain},
    }
    entries = {"figures": {}, "subsets": {}}
    for (kind, name), found in estimate_difference(everything, before, after).items():
        if number(found.value) is not None:
            entries[kind][name] = _entry(found, rows[kind][name])
    return entries


def _entry(found: Estimate, rows: int) -> dict:
    low, high = found.low, found.high
    if low == high:
        # No bootstrap sample differs where the models agree on every row. The share of rows on which they would not is
        # below Wilson's bound for none of so many, and so is the difference.
        bound = wilson_interval(0, rows)[1]
        low, high = max(-1.0, found.value - bound), min(1.0, found.value + bound)
        low, high = min(low, found.value), max(high, found.value)  # scores of Ties differ by up to 1.02
    return {"value": found.value, "low": number(low), "high": number(high), "rows": rows}
