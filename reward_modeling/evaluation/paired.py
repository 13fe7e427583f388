"""What two models made of the same rows: differences of figures with paired intervals.

first, other = read_scores(Path("a/scores.jsonl")), read_scores(Path("b/scores.jsonl"))
differences = paired_differences(BENCHMARKS["rewardbench"], first["rewardbench"], other["rewardbench"])
differences["figures"]["overall"]  # {"value": 0.012, "low": -0.003, "high": 0.027, "rows": 2985}
"""

from reward_modeling.common.intervals import Estimate, estimate_difference, number, wilson_interval
from reward_modeling.evaluation.benchmarks.base import Benchmark, Means, Rows, ScoredRow


def paired_differences(
    benchmark: Benchmark, first: Rows, other: Rows, *, left_out: frozenset[str] = frozenset()
) -> dict[str, dict[str, dict]]:
    """Every figure and every subset of `other` less that of `first`, over the rows that both have scored.

    Args:
        first, other: of the same rows (see `are_same_rows`).
        left_out: subsets without a score; what is made of them has none either.

    Returns:
        {"figures": {name: entry}, "subsets": {name: entry}}; an entry has value, low, high and rows, as a figure of
        summary.json, and is left out where there is no value.
    """
    entries: dict[str, dict[str, dict]] = {"figures": {}, "subsets": {}}
    both = scored_by_both(first, other)
    if not both:
        return entries
    values = [benchmark.values(rows) for rows in zip(*both, strict=True)]
    before, after = ({name: of for name, of in side.items() if name not in left_out} for side in values)
    if not before:
        return entries
    formula = benchmark.formula_of(before)

    def everything(means: Means) -> dict:
        figures = {("figures", name): value for name, value in formula(means).items()}
        subsets = benchmark.subset_scores(means) if benchmark.subset_scores else {}
        return figures | {("subsets", name): value for name, value in subsets.items()}

    rows = {
        "figures": benchmark.figure_rows(row.subset for row, _ in both),
        "subsets": {name: len(values) for name, values in before.items()},
    }
    for (kind, name), found in estimate_difference(everything, before, after).items():
        if number(found.value) is not None:
            entries[kind][name] = _entry(found, rows[kind][name])
    return entries


def are_same_rows(first: Rows, other: Rows) -> bool:
    return [(row.id, row.subset) for row in first] == [(row.id, row.subset) for row in other]


def scored_by_both(first: Rows, other: Rows) -> list[tuple[ScoredRow, ScoredRow]]:
    return [rows for rows in zip(first, other, strict=True) if all(row.is_scored for row in rows)]


def _entry(found: Estimate, rows: int) -> dict:
    low, high = found.low, found.high
    if low == high:
        # No bootstrap sample differs where the models agree on every row. The share of rows on which they would not is
        # below Wilson's bound for none of so many, and so is the difference.
        bound = wilson_interval(0, rows)[1]
        low, high = max(-1.0, found.value - bound), min(1.0, found.value + bound)
        low, high = min(low, found.value), max(high, found.value)  # scores of Ties differ by up to 1.02
    return {"value": found.value, "low": number(low), "high": number(high), "rows": rows}
