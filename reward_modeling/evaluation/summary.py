"""What an evaluation says: from the rewards of a benchmark's rows to its part of summary.json.

Plain dictionaries of JSON's types come out; a figure that is incomplete is None.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from reward_modeling.common.errors import UserError
from reward_modeling.common.intervals import Estimate, estimate, share_right, wilson_interval
from reward_modeling.common.pair_statistics import accuracy_entry, number, pair_statistics
from reward_modeling.common.versions import installed_versions
from reward_modeling.evaluation.benchmarks.base import LARGEST_SHARE_UNREADABLE, Benchmark, BenchmarkRows, RowScores
from reward_modeling.evaluation.benchmarks.catalog import BENCHMARKS, COMBINED
from reward_modeling.evaluation.benchmarks.reading import fingerprint
from reward_modeling.evaluation.benchmarks.rows import answer_length

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "peft", "numpy")
ROWS_PER_READ = 256
NO_VALUE = {"value": None, "low": None, "high": None}


def summarise(data: BenchmarkRows, scores: RowScores, *, legacy_xstest_weights: bool = False) -> dict:
    """A benchmark's part of summary.json.

    Raises:
        UserError: a reward is not finite.
    """
    benchmark = BENCHMARKS[data.benchmark].weighed(legacy_xstest_weights=legacy_xstest_weights)
    _check_finite(benchmark, data, scores)
    is_scored = scores.scored()
    scored, incomplete = scores.select(is_scored), incomplete_subsets(benchmark, scores)
    values = _complete_values(benchmark, scored, incomplete)
    figures = _figures(benchmark, scored, values)
    part = {
        "title": benchmark.title + benchmark.title_note,
        "sources": list(data.sources),
        "rows": len(scores),
        "fingerprint": fingerprint(data.rows),
        "warnings": _refusal_warnings(benchmark, data, scores, incomplete) + benchmark.check(benchmark, scored),
        # Of one's own pairs the only figure is the share of all of them, which `pairs` has.
        "figures": figures if benchmark.is_published or not data.has_texts else {},
        "subsets": _subset_entries(benchmark, scored, values, figures),
    }
    for subset in incomplete & part["subsets"].keys():
        part["subsets"][subset] |= NO_VALUE
    if benchmark.is_pairs and data.has_texts:
        lengths = _lengths(data.rows, np.flatnonzero(is_scored))
        part["pairs"] = pair_statistics(scored.worst_right(), scored.best_wrong(), *lengths)
    part |= benchmark.extras(scored)
    if data.report is not None:
        part["data_report"] = data.report.table()
    return part


def whole_summary(
    model: dict, arguments: dict, scoring: dict, scores: Mapping[str, RowScores], parts: Mapping[str, dict]
) -> dict:
    """What summary.json says: the parts of the benchmarks, and where they come from."""
    legacy = arguments["legacy_xstest_weights"]
    return {
        "model": model,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "arguments": arguments,
        "versions": installed_versions(PACKAGES),
        "scoring": scoring,
        "combined": combined_figures(scores, legacy_xstest_weights=legacy),
        "benchmarks": dict(parts),
    }


def combined_figures(scores: Mapping[str, RowScores], *, legacy_xstest_weights: bool = False) -> dict:
    """The overall score with the prior sets at half weight; empty where one of its benchmarks is missing."""
    if not {*COMBINED.parts} <= scores.keys():
        return {}
    together, incomplete = RowScores(), set()
    for name in COMBINED.parts:
        together = together.followed_by(scores[name].select(scores[name].scored()))
        incomplete |= incomplete_subsets(BENCHMARKS[name], scores[name])
    combined = COMBINED.weighed(legacy_xstest_weights=legacy_xstest_weights)
    return _figures(combined, together, _complete_values(combined, together, incomplete))


# --- rows without a reward ------------------------------------------------------------------------------------


def _check_finite(benchmark: Benchmark, data: BenchmarkRows, scores: RowScores) -> None:
    """
    Raises:
        UserError: a reward is infinite or not a number. Every comparison with NaN is false: a broken model would
            merely look like a bad one.
    """
    rows = [row for row in np.flatnonzero(~scores.scored()).tolist() if row not in scores.refused]
    if rows:
        bad = sum(
            int((~np.isfinite(side)).sum()) for row in rows for side in (scores.chosen[row], scores.rejected[row])
        )
        answers = sum(len(side) for sides in scores.answers() for side in sides)
        first = data.rows[rows[0]]
        raise UserError(
            f"{benchmark.title}: expected finite rewards, found {bad:,} of {answers:,} that "
            f"are not, in {len(rows):,} rows, the first {first['where']} (id {first['id']}, subset {first['subset']}). "
            "Score in float32; if it was float32, the checkpoint's weights are broken."
        )


def _refused_by_subset(scores: RowScores) -> dict[str, tuple[int, list[int]]]:
    """Of each subset that lacks some, its number of rows and those that were not scored."""
    refused: dict[str, list[int]] = {}
    for row in scores.refused:
        refused.setdefault(scores.subsets[row], []).append(row)
    total = Counter(scores.subsets) if refused else {}
    return {name: (total[name], rows) for name, rows in refused.items()}


def incomplete_subsets(benchmark: Benchmark, scores: RowScores) -> set[str]:
    """Subsets of which too many rows were not scored for a score. One's own pairs have no such score."""
    if not benchmark.is_published:
        return set()
    refused = _refused_by_subset(scores)
    return {name for name, (total, rows) in refused.items() if len(rows) > LARGEST_SHARE_UNREADABLE * total}


def _refusal_warnings(benchmark: Benchmark, data: BenchmarkRows, scores: RowScores, incomplete: set[str]) -> list[str]:
    return [
        f"{benchmark.title}: {len(rows):,} of {total:,} rows of {name!r} were not scored"
        + (", which leaves it, and what is made of it, without a score" if name in incomplete else "")
        + f"; the first, {data.rows[rows[0]]['where']}: {scores.refused[rows[0]]}"
        for name, (total, rows) in _refused_by_subset(scores).items()
    ]


# --- figures --------------------------------------------------------------------------------------------------


def _complete_values(benchmark: Benchmark, scored: RowScores, incomplete: set[str]) -> dict[str, NDArray]:
    is_complete = np.array([subset not in incomplete for subset in scored.subsets], dtype=bool)
    return benchmark.values(scored.select(is_complete)) if is_complete.any() else {}


def _figures(benchmark: Benchmark, scored: RowScores, values: Mapping[str, NDArray]) -> dict:
    rows = benchmark.figure_rows(scored.subsets)
    found = estimate(benchmark.formula_of(values), values)
    return {name: _entry(figure, rows[name]) for name, figure in found.items()}


def _subset_entries(
    benchmark: Benchmark, scored: RowScores, values: Mapping[str, NDArray], figures: Mapping[str, dict]
) -> dict[str, dict]:
    """The score of each subset: a share of its rows, or one of the figures, or a mean of credits."""
    if benchmark.is_right_or_wrong:
        return _shares(scored)
    if benchmark.subset_scores is None:
        return {}
    rows = Counter(scored.subsets)
    others = {name: of_subset for name, of_subset in values.items() if name not in figures}
    means = estimate(benchmark.subset_scores, others) if others else {}
    entries = {name: figures[name] for name in benchmark.subset_rows}
    return entries | {name: _entry(mean, rows[name]) for name, mean in means.items()}


def _shares(scored: RowScores) -> dict[str, dict]:
    """The rows of each subset that came out right; a tie is wrong, and counted."""
    right, wrong = scored.worst_right(), scored.best_wrong()
    rows, wins, ties = (Counter() for _ in range(3))
    for subset, is_win, is_tie in zip(scored.subsets, right > wrong, right == wrong, strict=True):
        rows[subset] += 1
        wins[subset] += int(is_win)
        ties[subset] += int(is_tie)
    return {name: accuracy_entry(share_right(wins[name], total, ties[name])) for name, total in rows.items()}


def _entry(figure: Estimate, rows: int) -> dict:
    low, high = figure.low, figure.high
    if low == high and rows:
        # Where all rows of a subset agree no bootstrap sample differs, and the interval would have no width.
        share = min(max(figure.value, 0.0), 1.0)  # the score of Ties goes from -0.01 to 1.01
        low, high = wilson_interval(share * rows, rows)
        low, high = min(low, figure.value), max(high, figure.value)
    return {"value": number(figure.value), "low": number(low), "high": number(high), "rows": rows}


def _lengths(rows: Dataset, scored: Sequence[int]) -> tuple[NDArray, NDArray]:
    """Characters of the chosen and of the rejected answer of each scored row."""
    batches = rows.select(scored).select_columns(["chosen", "rejected"]).iter(ROWS_PER_READ)
    sides = ((batch["chosen"], batch["rejected"]) for batch in batches)
    lengths = [[answer_length(c[0]), answer_length(r[0])] for side in sides for c, r in zip(*side, strict=True)]
    return tuple(np.array(lengths).reshape(-1, 2).T)
