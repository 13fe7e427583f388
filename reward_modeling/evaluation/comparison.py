"""Several evaluations side by side: from the folders that eval_bench_mark.py has written, without any model.

comparison = compare(read_evaluations(["eval/a", "eval/b"]))

Figures are compared only where they are of the same rows under the same weights; others are marked. What else may set
two evaluations apart (the type of the numbers, where conversations are cut) is a warning.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from reward_modeling.common.atomic import check_writable, write_whole
from reward_modeling.common.errors import UserError
from reward_modeling.common.intervals import Estimate, estimate_difference, number, wilson_interval
from reward_modeling.display.text import count
from reward_modeling.evaluation.benchmarks.base import Benchmark
from reward_modeling.evaluation.benchmarks.catalog import BENCHMARKS, COMBINED
from reward_modeling.evaluation.benchmarks.means import Means
from reward_modeling.evaluation.benchmarks.scored_rows import Rows
from reward_modeling.evaluation.comparison_report import comparison_page, comparison_tables
from reward_modeling.evaluation.evaluations import (
    Evaluation,
    are_same_rows,
    comparison_warnings,
    evaluations_of,
    read_evaluations,
    scored_by_both,
    was_run_otherwise,
)
from reward_modeling.evaluation.files import SCORES, SUMMARY, check_nothing_is_there, writing_explained
from reward_modeling.evaluation.report import main_figures

COMPARISON, PAGE = "comparison.json", "comparison.html"
ROUNDING = 1e-6  # of a figure: the summary's and the one made again of the rows


def compare_evaluations(folders: Sequence[str], output: Path, overwrite: bool) -> None:
    """What earlier evaluations have written, side by side: a table, comparison.json and comparison.html."""
    evaluations = read_evaluations(folders)
    check_writable("--output_dir", output)
    check_nothing_is_there(output, (COMPARISON, PAGE), "comparison", overwrite)
    comparison = compare(evaluations)
    print(comparison_tables(comparison), flush=True)
    with writing_explained(output):
        output.mkdir(parents=True, exist_ok=True)
        text = json.dumps(comparison, indent=2, ensure_ascii=False, allow_nan=False)
        write_whole(output / COMPARISON, text + "\n")
        write_whole(output / PAGE, comparison_page(comparison))
    print(f"\nComparison: {output / PAGE}", flush=True)


def compare(evaluations: Sequence[Evaluation]) -> dict:
    """Everything that the table and the page show, in JSON's types.

    A benchmark has `figures` and `subsets`, each {name: {letter: entry}}. An entry is the model's own in its
    summary.json with a `difference` to the entry of the `reference`, the first model that has the benchmark: null
    where the two are not comparable, and without an interval where not both have the rows it takes.

    Raises:
        UserError: a scores.jsonl does not give the figures of its summary.json.
    """
    names = dict.fromkeys(name for evaluation in evaluations for name in evaluation.summary["benchmarks"])
    benchmarks = {name: _compare_benchmark(BENCHMARKS[name], evaluations) for name in names}
    combined = [evaluation for evaluation in evaluations if evaluation.summary["combined"]]
    several = [{"figures": evaluation.summary["combined"]} for evaluation in combined]
    return {
        "models": [
            {"letter": each.letter, "folder": str(each.folder), **each.summary["model"], "date": each.summary["date"]}
            for each in evaluations
        ],
        "warnings": comparison_warnings(evaluations, benchmarks),
        "benchmarks": benchmarks,
        "combined": _compare_rows(COMBINED, combined, several) if combined else {},
    }


def _compare_benchmark(benchmark: Benchmark, evaluations: Sequence[Evaluation]) -> dict:
    evaluations = evaluations_of(benchmark.name, evaluations)
    parts = [evaluation.part(benchmark.name) for evaluation in evaluations]
    about = {"title": parts[0]["title"], "reference": evaluations[0].letter, "rows": parts[0]["rows"]}
    about |= {"sources": parts[0]["sources"], "sections": parts[0].get("sections") or {}}
    # The subsets that are figures are shown as these.
    tables = [
        {"figures": main_figures(of), "subsets": {k: row for k, row in of["subsets"].items() if k not in of["figures"]}}
        for of in parts
    ]
    return about | _compare_rows(benchmark, evaluations, tables)


def _compare_rows(benchmark: Benchmark, evaluations: Sequence[Evaluation], tables_of: Sequence[Mapping]) -> dict:
    """The entries of every figure, and which evaluations cannot be compared with the first, or only with care.

    Args:
        tables_of: of each evaluation {"figures": {name: row}}, and the same of its subsets.
    """
    first, *others = evaluations
    tables = {
        kind: {name: {first.letter: _entry(row)} for name, row in rows.items()} for kind, rows in tables_of[0].items()
    }
    incomparable = {}
    for other, of_other in zip(others, tables_of[1:], strict=True):
        if reason := why_not_comparable(benchmark, first, other):
            incomparable[other.letter] = reason
        differences = None if reason else _paired(benchmark, first, other)
        for kind, rows in of_other.items():
            for name, row in rows.items():
                entries = tables[kind].setdefault(name, {})
                paired = differences and differences[kind].get(name)
                entries[other.letter] = _entry(row, None if reason else entries.get(first.letter), paired)
    run_otherwise = [other.letter for other in others if was_run_otherwise(first, other)]
    return {"reference": first.letter, "incomparable": incomparable, "run_otherwise": run_otherwise, **tables}


def why_not_comparable(benchmark: Benchmark, first: Evaluation, other: Evaluation) -> str | None:
    """In words, if the figures are not of the same rows under the same formula."""
    if first.was_scored_elsewhere != other.was_scored_elsewhere:
        return f"verdicts of texts that are not known to be those of {first.letter}"
    for name in benchmark.parts or (benchmark.name,):
        parts = other.part(name), first.part(name)
        if parts[0]["fingerprint"] != parts[1]["fingerprint"]:
            mine, theirs = (f"{count(part['rows'])} rows, fingerprint {part['fingerprint'][:12]}" for part in parts)
            return f"other data than {first.letter} ({mine}; {first.letter}: {theirs})"
        if BENCHMARKS[name].legacy_formula and first.legacy_weights != other.legacy_weights:
            return f"other weights of the xstest subsets than {first.letter} (--legacy_xstest_weights)"
    return None


def _paired(benchmark: Benchmark, first: Evaluation, other: Evaluation) -> dict | None:
    """Differences over the rows that both have scored; None where not both have rows, or not the same.

    Rows that do not give the figures of their summaries are refused.
    """
    names = benchmark.parts or (benchmark.name,)
    if first.rows is None or other.rows is None:
        return None
    before, after = ([row for name in names for row in of.rows[name]] for of in (first, other))
    if not are_same_rows(before, after):
        return None
    parts = [evaluation.part(name) for evaluation in (first, other) for name in names]
    rows = (row for part in parts for kind in ("figures", "subsets") for row in part[kind].items())
    left_out = frozenset(name for name, row in rows if row["value"] is None)
    weighed = benchmark.weighed(legacy_xstest_weights=other.legacy_weights)
    differences = paired_differences(weighed, before, after, left_out=left_out)
    if not benchmark.parts and len(scored_by_both(before, after)) == len(before):
        _check_figures(first, other, benchmark.name, differences["figures"])
    return differences


def _check_figures(first: Evaluation, other: Evaluation, benchmark: str, differences: Mapping[str, Mapping]) -> None:
    before, after = (main_figures(evaluation.part(benchmark)) for evaluation in (first, other))
    for name in before.keys() & after.keys() & differences.keys():
        values = [rows[name]["value"] for rows in (before, after)]
        if None not in values and abs(values[1] - values[0] - differences[name]["value"]) > ROUNDING:
            raise UserError(
                f"{first.folder}, {other.folder}: expected each {SCORES} to give the figures of the {SUMMARY} beside "
                f"it, found that {values[0]:.4f} and {values[1]:.4f} ({name} of {benchmark}) do not differ by "
                f"{differences[name]['value']:.4f}. Evaluate the two again, or remove the file that is of another "
                "evaluation."
            )


def _entry(row: Mapping, reference: Mapping | None = None, paired: Mapping | None = None) -> dict:
    """A figure of one model, and how far it is from the reference's."""
    own = {key: row[key] for key in ("value", "low", "high", "rows")}
    if reference is None or None in (row["value"], reference["value"]):
        return own | {"difference": None}
    plain = {"value": row["value"] - reference["value"], "low": None, "high": None, "rows": row["rows"]}
    return own | {"difference": dict(paired) if paired else plain}


# --- paired differences ---------------------------------------------------------------------------------------


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
    both = [rows for rows in scored_by_both(first, other) if not rows[0].is_labelled_tie]
    if not both:
        return entries
    values = [benchmark.values(rows) for rows in zip(*both, strict=True)]
    before, after = ({name: of for name, of in side.items() if name not in left_out} for side in values)
    formula = benchmark.formula_of(before)

    def everything(means: Means) -> dict:
        figures = {("figures", name): value for name, value in formula(means).items()}
        subsets = benchmark.subset_scores(means) if benchmark.subset_scores else {}
        return figures | {("subsets", name): value for name, value in subsets.items()}

    rows = {
        "figures": benchmark.figure_rows(row.subset for row, _ in both),
        "subsets": {name: benchmark.value_rows(values) for name, values in before.items()},
    }
    for (kind, name), found in estimate_difference(everything, before, after).items():
        if number(found.value) is not None:
            entries[kind][name] = _difference(found, rows[kind][name])
    return entries


def _difference(found: Estimate, rows: int) -> dict:
    low, high = found.low, found.high
    if low == high:
        # No bootstrap sample differs where the models agree on every row. The share of rows on which they would not is
        # below Wilson's bound for none of so many, and so is the difference.
        bound = wilson_interval(0, rows)[1]
        low, high = max(-1.0, found.value - bound), min(1.0, found.value + bound)
        low, high = min(low, found.value), max(high, found.value)  # scores of Ties differ by up to 1.02
    return {"value": found.value, "low": number(low), "high": number(high), "rows": rows}
