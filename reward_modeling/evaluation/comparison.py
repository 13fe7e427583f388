"""Several evaluations side by side: from the folders that eval_bench_mark.py has written, without any model.

comparison = compare(read_evaluations(["eval/a", "eval/b"]))

Figures are compared only where they are of the same rows under the same weights; others are marked. What else may set
two evaluations apart (the type of the numbers, where conversations are cut) is a warning.
"""

from collections.abc import Mapping, Sequence

from reward_modeling.common.errors import UserError
from reward_modeling.display.text import count
from reward_modeling.evaluation.comparison_warnings import comparison_warnings, run_otherwise
from reward_modeling.evaluation.files import SCORES, SUMMARY, Evaluation, having
from reward_modeling.evaluation.paired import RowScores, paired_differences
from reward_modeling.evaluation.tables import main_figures

WITH_PRIOR = ("rewardbench", "preference_test_sets")  # what the overall score with prior sets is made of
ROUNDING = 1e-6  # of a figure: the summary's and the one made again of the rows


def compare(evaluations: Sequence[Evaluation]) -> dict:
    """Everything that the table and the page show, in JSON's types.

    A benchmark has `figures` and `subsets`, each {name: {letter: entry}}. An entry is the model's own in its
    summary.json with a `difference` to the entry of the `reference`, the first model that has the benchmark: null
    where the two are not comparable, and without an interval where not both have the rows it takes.

    Raises:
        UserError: a scores.jsonl does not give the figures of its summary.json.
    """
    names = dict.fromkeys(name for one in evaluations for name in one.summary["benchmarks"])
    benchmarks = {name: _compared(name, evaluations) for name in names}
    return {
        "models": [_described(one) for one in evaluations],
        "warnings": comparison_warnings(evaluations, benchmarks),
        "benchmarks": benchmarks,
        "combined": _combined(evaluations),
    }


def _described(one: Evaluation) -> dict:
    date = one.summary["date"]
    return {"letter": one.letter, "folder": str(one.folder), **one.summary["model"], "date": date}


def _compared(benchmark: str, evaluations: Sequence[Evaluation]) -> dict:
    first, *others = having(benchmark, evaluations)
    part = first.part(benchmark)
    tables = {
        kind: {name: {first.letter: _entry(row)} for name, row in rows.items()} for kind, rows in _rows_of(part).items()
    }
    incomparable = {}
    for one in others:
        if words := _why_not_comparable(first, one, benchmark):
            incomparable[one.letter] = words
        differences = None if words else _paired(first, one, (benchmark,))
        for kind, rows in _rows_of(one.part(benchmark)).items():
            for name, row in rows.items():
                entries = tables[kind].setdefault(name, {})
                paired = (differences or {}).get(kind, {}).get(name)
                entries[one.letter] = _entry(row, None if words else entries.get(first.letter), paired)
    return {
        "title": part["title"],
        "reference": first.letter,
        "rows": part["rows"],
        "sources": part["sources"],
        "sections": part.get("sections") or {},
        "incomparable": incomparable,
        "run_otherwise": [one.letter for one in others if run_otherwise(first, one)],
        **tables,
    }


def _rows_of(part: Mapping) -> dict[str, dict[str, Mapping]]:
    """Figures, and the subsets that are none of them."""
    subsets = {name: row for name, row in part["subsets"].items() if name not in part["figures"]}
    return {"figures": main_figures(part), "subsets": subsets}


def _why_not_comparable(first: Evaluation, one: Evaluation, benchmark: str) -> str | None:
    """In words, if the figures are not of the same rows under the same formula."""
    mine, theirs = one.part(benchmark), first.part(benchmark)
    if mine["fingerprint"] != theirs["fingerprint"]:
        ours, other = (f"{count(part['rows'])} rows, fingerprint {part['fingerprint'][:12]}" for part in (mine, theirs))
        return f"other data than {first.letter} ({ours}; {first.letter}: {other})"
    if benchmark == "rewardbench" and one.legacy_weights != first.legacy_weights:
        return f"other weights of the xstest subsets than {first.letter} (--legacy_xstest_weights)"
    return None


def _paired(first: Evaluation, one: Evaluation, benchmarks: Sequence[str]) -> dict | None:
    """Differences over the rows that both have scored; None where not both have rows, or not the same.

    Raises:
        UserError: the rows do not give the figures of the summaries.
    """
    before, after = (_rows(evaluation, benchmarks) for evaluation in (first, one))
    if before is None or after is None or not before.has_rows_of(after):
        return None
    parts = [evaluation.part(name) for evaluation in (first, one) for name in benchmarks]
    left_out = {name for part in parts for kind in ("figures", "subsets") for name in _without_value(part[kind])}
    found = paired_differences(
        benchmarks[0], before, after, legacy_xstest_weights=one.legacy_weights, left_out=frozenset(left_out)
    )
    if len(benchmarks) == 1 and (before.scored() & after.scored()).all():
        _check_figures(first, one, benchmarks[0], found)
    return found


def _rows(one: Evaluation, benchmarks: Sequence[str]) -> RowScores | None:
    """The rows of these benchmarks, one after the other."""
    if one.scores is None:
        return None
    together = RowScores()
    for name in benchmarks:
        together.extend(one.scores[name])
    return together


def _without_value(rows: Mapping[str, Mapping]) -> list[str]:
    return [name for name, row in rows.items() if row["value"] is None]


def _check_figures(first: Evaluation, one: Evaluation, benchmark: str, found: Mapping) -> None:
    """
    Raises:
        UserError: see `_paired`.
    """
    before, after = (main_figures(evaluation.part(benchmark)) for evaluation in (first, one))
    for name in before.keys() & after.keys() & found["figures"].keys():
        values = [rows[name]["value"] for rows in (before, after)]
        if None not in values and abs(values[1] - values[0] - found["figures"][name]["value"]) > ROUNDING:
            raise UserError(
                f"{first.folder}, {one.folder}: expected each {SCORES} to give the figures of the {SUMMARY} beside it, "
                f"found that {before[name]['value']:.4f} and {after[name]['value']:.4f} ({name} of {benchmark}) do not "
                f"differ by {found['figures'][name]['value']:.4f}. Evaluate the two again, or remove the file that is "
                "of another evaluation."
            )


def _entry(row: Mapping, reference: Mapping | None = None, paired: Mapping | None = None) -> dict:
    """A figure of one model, and how far it is from the reference's."""
    own = {key: row[key] for key in ("value", "low", "high", "rows")}
    if reference is None or None in (row["value"], reference["value"]):
        return own | {"difference": None}
    plain = {"value": row["value"] - reference["value"], "low": None, "high": None, "rows": row["rows"]}
    return own | {"difference": dict(paired) if paired else plain}


def _combined(evaluations: Sequence[Evaluation]) -> dict:
    """Figures over several benchmarks, in the shape of a benchmark; empty where no model has any."""
    found = [one for one in evaluations if one.summary["combined"]]
    if not found:
        return {}
    first = found[0]
    figures = {name: {first.letter: _entry(row)} for name, row in first.summary["combined"].items()}
    incomparable = {}
    for one in found[1:]:
        reasons = filter(None, (_why_not_comparable(first, one, name) for name in WITH_PRIOR))
        words = next(reasons, None)
        if words:
            incomparable[one.letter] = words
        differences = None if words else _paired(first, one, WITH_PRIOR)
        for name, entries in figures.items():
            paired = differences and differences["figures"].get(name)
            row = one.summary["combined"][name]
            entries[one.letter] = _entry(row, None if words else entries[first.letter], paired)
    otherwise = [one.letter for one in found[1:] if run_otherwise(first, one)]
    return {"reference": first.letter, "incomparable": incomparable, "run_otherwise": otherwise, "figures": figures}
