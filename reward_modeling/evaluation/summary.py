"""What an evaluation says: from the rewards of a benchmark's rows to its part of summary.json.

Plain dictionaries of JSON's types come out; a figure that is incomplete is None.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.errors import UserError
from reward_modeling.common.intervals import Accuracy, Estimate, estimate, number, share_of_rows, wilson_interval
from reward_modeling.common.launch import installed_versions
from reward_modeling.common.pair_statistics import PairLabels, PredictTies, pair_statistics
from reward_modeling.data.drop_reasons import DropReason
from reward_modeling.evaluation.benchmarks.base import LARGEST_SHARE_UNREADABLE, Benchmark, BenchmarkRows
from reward_modeling.evaluation.benchmarks.catalog import BENCHMARKS, COMBINED
from reward_modeling.evaluation.benchmarks.reading import fingerprint, fingerprint_without_texts
from reward_modeling.evaluation.benchmarks.rows import answer_length
from reward_modeling.evaluation.benchmarks.scored_rows import Rows, ScoredRow, prompts_of, subsets_of
from reward_modeling.evaluation.comparison_figures import figures_of_comparisons
from reward_modeling.evaluation.triples import Triples

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "peft", "numpy")
SIDES = ("chosen", "rejected")
LEGACY_NOTE = ", xstest weights of before September 2024"
NO_VALUE = {"value": None, "low": None, "high": None}


def summarise(
    data: BenchmarkRows,
    rows: Rows,
    *,
    legacy_xstest_weights: bool = False,
    predict_ties: PredictTies | None = None,
    triples: Triples | None = None,
    tune_on: str | None = None,
) -> dict:
    """A benchmark's part of summary.json.

    Args:
        predict_ties: of a model that gives ties a probability of their own.
        triples: of a model that compares two answers, where it compared three of a prompt.
        tune_on: the subset that a threshold is tuned on. None: the benchmark's own choice.

    Raises:
        UserError: a reward is not finite.
    """
    benchmark = BENCHMARKS[data.benchmark].weighed(legacy_xstest_weights=legacy_xstest_weights)
    _check_finite(benchmark, rows)
    scored, incomplete = [row for row in rows if row.is_scored], incomplete_subsets(benchmark, rows)
    values = _complete_values(benchmark, scored, incomplete)
    figures = _figures(benchmark, scored, values)
    part = {
        "title": _title(data, benchmark),
        "sources": list(data.sources),
        "rows": len(rows),
        "fingerprint": fingerprint_without_texts(rows) if data.rows is None else fingerprint(data.rows),
        "warnings": [
            *_refusal_warnings(benchmark, rows, incomplete),
            *_loss_warnings(benchmark, rows),
            *benchmark.check(benchmark, scored),
        ],
        # Of one's own pairs the only figure is the share of all of them, which `pairs` has.
        "figures": figures if benchmark.is_published or data.rows is None else {},
        "subsets": _subset_entries(benchmark, scored, values, figures),
    }
    for subset in incomplete & part["subsets"].keys():
        part["subsets"][subset] |= NO_VALUE
    if benchmark.is_pairs and data.rows is not None:
        known = all(row.lengths is not None for row in scored)
        columns = ([row.rewards for row in scored], [row.lengths for row in scored] if known else _lengths(data, rows))
        arrays = (array for of in columns for array in np.array(of).reshape(-1, 2).T)
        part["pairs"] = pair_statistics(*arrays, _labels(scored), predict_ties if benchmark.pairs_of else None)
    if comparisons := figures_of_comparisons(scored, triples):
        part["comparisons"] = comparisons
    part |= benchmark.tuned_on(tune_on).extras(scored)
    if data.report is not None:
        part["data_report"] = data.report.table()
    return part


def _lengths(data: BenchmarkRows, rows: Rows) -> list[list[int]]:
    """Characters of both answers of each row that was scored."""
    texts = zip(data.rows.select_columns([*SIDES]), rows, strict=True)
    return [[answer_length(of[side][0]) for side in SIDES] for of, row in texts if row.is_scored]


def _labels(rows: Rows) -> PairLabels:
    probabilities, weights = (np.array([getattr(row, of) for row in rows]) for of in ("probability", "weight"))
    return PairLabels(probabilities, weights, np.array(prompts_of(rows)))


def _title(data: BenchmarkRows, benchmark: Benchmark) -> str:
    words = "" if benchmark is BENCHMARKS[data.benchmark] else LEGACY_NOTE
    return benchmark.title + words + (f", incomplete: only {', '.join(data.only)}" if data.only else "")


def whole_summary(
    model: dict, arguments: dict, scoring: dict, rows: Mapping[str, Rows], parts: Mapping[str, dict]
) -> dict:
    """What summary.json says: the parts of the benchmarks, and where they come from."""
    return {
        "model": model,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "arguments": arguments,
        "versions": installed_versions(PACKAGES),
        "scoring": scoring,
        "combined": combined_figures(rows, legacy_xstest_weights=arguments["legacy_xstest_weights"]),
        "benchmarks": dict(parts),
    }


def combined_figures(rows: Mapping[str, Rows], *, legacy_xstest_weights: bool = False) -> dict:
    """The overall score with the prior sets at half weight; empty where one of its benchmarks is missing."""
    if not {*COMBINED.parts} <= rows.keys():
        return {}
    scored = [row for name in COMBINED.parts for row in rows[name] if row.is_scored]
    incomplete = set().union(*(incomplete_subsets(BENCHMARKS[name], rows[name]) for name in COMBINED.parts))
    combined = COMBINED.weighed(legacy_xstest_weights=legacy_xstest_weights)
    return _figures(combined, scored, _complete_values(combined, scored, incomplete))


# --- rows without a reward ------------------------------------------------------------------------------------


def _check_finite(benchmark: Benchmark, rows: Rows) -> None:
    """Every comparison with NaN is false: a broken model would merely look like a bad one."""
    if broken := [row for row in rows if not row.refused and not row.is_scored]:
        first, rewards = broken[0], np.concatenate([row.rewards for row in broken])
        bad, total = len(rewards) - np.isfinite(rewards).sum(), sum(len(row.rewards) for row in rows)
        raise UserError(
            f"{benchmark.title}: expected finite rewards, found {bad:,} of {total:,} that are not, in {len(broken):,} "
            f"rows, the first {first.where} (id {first.id}, subset {first.subset}). Score in float32; if it was "
            "float32, the checkpoint's weights are broken."
        )


def incomplete_subsets(benchmark: Benchmark, rows: Rows) -> set[str]:
    """Subsets of which too many rows were not scored for a score. One's own pairs have no such score."""
    total, refused = Counter(subsets_of(rows)), Counter(row.subset for row in rows if row.refused)
    too_many = {name for name, missing in refused.items() if missing > LARGEST_SHARE_UNREADABLE * total[name]}
    return too_many if benchmark.is_published else set()


def _refusal_warnings(benchmark: Benchmark, rows: Rows, incomplete: set[str]) -> Iterator[str]:
    total, refused = Counter(subsets_of(rows)), Counter(row.subset for row in rows if row.refused)
    for name, missing in refused.items():
        first = next(row for row in rows if row.refused and row.subset == name)
        result = ", which leaves it, and what is made of it, without a score" if name in incomplete else ""
        words = f"{missing:,} of {total[name]:,} rows of {name!r} were not scored{result}"
        yield f"{benchmark.title}: {words}; the first, {first.where}: {first.refused}"


def _loss_warnings(benchmark: Benchmark, rows: Rows) -> Iterator[str]:
    """Rows of which the model sees a part; the pairs of a ranked list are one row."""
    total = len({row.where for row in rows})
    answers = {row.where: row.losses.answer for row in rows if row.losses.answer}
    messages = {row.where: row.losses.message for row in rows if row.losses.message}
    for reason, lost in ((DropReason.ANSWER_LOSES_TEXT, answers), (DropReason.MESSAGE_VANISHES, messages)):
        if lost:
            where, words = next(iter(lost.items()))
            yield (
                f"{benchmark.title}: {reason.words} in {len(lost):,} of {total:,} rows ({len(lost) / total:.1%}), "
                f"which are scored without it; the first, {where}: {words}. If the model was trained with another "
                "chat template, pass it as --chat_template"
            )


# --- figures --------------------------------------------------------------------------------------------------


def _complete_values(benchmark: Benchmark, scored: Rows, incomplete: set[str]) -> dict[str, NDArray]:
    complete = [row for row in scored if row.subset not in incomplete and not row.is_labelled_tie]
    return benchmark.values(complete) if complete else {}


def _figures(benchmark: Benchmark, scored: Rows, values: Mapping[str, NDArray]) -> dict:
    rows = benchmark.figure_rows(row.subset for row in scored if not row.is_labelled_tie)
    found = estimate(benchmark.formula_of(values), values)
    return {name: _entry(figure, rows[name]) for name, figure in found.items()}


def _subset_entries(
    benchmark: Benchmark, scored: Rows, values: Mapping[str, NDArray], figures: Mapping[str, dict]
) -> dict[str, dict]:
    """The score of each subset: a share of its rows, or one of the figures, or a mean of credits."""
    rows = Counter(subsets_of(scored))
    if benchmark.is_right_or_wrong:
        by_name: dict[str, list[ScoredRow]] = {name: [] for name in rows}
        for row in scored:
            by_name[row.subset].append(row)
        return {name: _share_right(of_subset) for name, of_subset in by_name.items()}
    if benchmark.subset_scores is None:
        return {}
    others = {name: of_subset for name, of_subset in values.items() if name not in figures}
    means = estimate(benchmark.subset_scores, others) if others else {}
    entries = {name: figures[name] for name in benchmark.subset_rows}
    return entries | {name: _entry(mean, rows[name]) for name, mean in means.items()}


def _share_right(rows: Rows) -> Accuracy:
    """Of the rows that are no ties."""
    compared = [row for row in rows if not row.is_labelled_tie]
    right, ties = ([getattr(row, of) for row in compared] for of in ("is_right", "is_tie"))
    return share_of_rows(right, ties, prompts_of(compared))


def _entry(figure: Estimate, rows: int) -> dict:
    low, high = figure.low, figure.high
    if low == high and rows:
        # Where all rows of a subset agree no bootstrap sample differs, and the interval would have no width.
        share = min(max(figure.value, 0.0), 1.0)  # the score of Ties goes from -0.01 to 1.01
        low, high = wilson_interval(share * rows, rows)
        low, high = min(low, figure.value), max(high, figure.value)
    return {"value": number(figure.value), "low": number(low), "high": number(high), "rows": rows}
