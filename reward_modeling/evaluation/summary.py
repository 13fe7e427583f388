"""What an evaluation says: from the rewards of a benchmark's rows to its part of summary.json.

Plain dictionaries of JSON's types come out; a figure that is incomplete is None.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from reward_modeling.common.errors import UserError
from reward_modeling.common.intervals import Estimate, by_subset, estimate, pair_accuracy, wilson_interval
from reward_modeling.common.pair_statistics import accuracy_entry, number, pair_statistics
from reward_modeling.evaluation.benchmarks.base import (
    LARGEST_SHARE_UNREADABLE,
    Benchmark,
    BenchmarkRows,
    answer_length,
    check_subsets,
)
from reward_modeling.evaluation.benchmarks.catalog import TITLES
from reward_modeling.evaluation.benchmarks.preference_test_sets import (
    OVERALL_WITH_PRIOR,
    PREFERENCE_TEST_SETS,
    REWARDBENCH_WITH_PRIOR,
    prior_score,
    scores_with_prior,
)
from reward_modeling.evaluation.benchmarks.reading import fingerprint
from reward_modeling.evaluation.benchmarks.rewardbench import REWARDBENCH, SECTIONS, section_scores
from reward_modeling.evaluation.benchmarks.rewardbench2 import (
    REWARDBENCH2,
    TIES,
    check_ties,
    rewardbench2_scores,
    rewardbench2_values,
)
from reward_modeling.evaluation.benchmarks.rm_bench import (
    RM_BENCH_DOMAINS,
    check_rm_bench,
    rm_bench_by_domain,
    rm_bench_figure_rows,
    rm_bench_scores,
    rm_bench_wins,
)
from reward_modeling.evaluation.rewards import ROWS_PER_READ, BenchmarkRewards


def summarise(data: BenchmarkRows, rewards: BenchmarkRewards, *, legacy_xstest_weights: bool = False) -> dict:
    """A benchmark's part of summary.json.

    Raises:
        UserError: a reward is not finite.
    """
    check_finite(data, rewards)
    scored = rewards.scored_rows()
    rows = data.rows.select_columns(["id", "subset", "chosen", "rejected"])
    subsets = _subsets(data, rewards)
    part = {
        "title": TITLES[data.benchmark],
        "sources": list(data.sources),
        "rows": len(rows),
        "fingerprint": fingerprint(data.rows),
    }
    if data.benchmark == "rewardbench" and legacy_xstest_weights:
        part["title"] += ", xstest weights of before September 2024"
    incomplete = incomplete_subsets(data, rewards)
    if data.benchmark == "rewardbench2":
        part |= _rewardbench2(rows, scored, subsets, rewards, incomplete)
    elif data.benchmark == "rm_bench":
        part |= _rm_bench(subsets, rewards, incomplete)
    else:
        part |= _pairs(data.benchmark, rows, scored, subsets, rewards)
        for subset in incomplete & part["subsets"].keys():
            part["subsets"][subset] |= {"value": None, "low": None, "high": None}
        if figures := _pair_figures(data, rewards, legacy_xstest_weights):
            part["figures"] = figures
    part["warnings"] = _refusal_warnings(data, rewards, incomplete) + part["warnings"]
    if data.report is not None:
        part["data_report"] = data.report.table()
    return part


def check_finite(data: BenchmarkRows, rewards: BenchmarkRewards) -> None:
    """
    Raises:
        UserError: a reward is infinite or not a number. Every comparison with NaN is false: a broken model would
            merely look like a bad one.
    """
    bad = np.flatnonzero(rewards.scored_answers() & ~np.isfinite(rewards.rewards))
    if len(bad):
        rows = np.unique(np.searchsorted(rewards.offsets, bad, side="right") - 1)
        first = data.rows[int(rows[0])]
        raise UserError(
            f"{TITLES[data.benchmark]}: expected finite rewards, found {len(bad):,} of {len(rewards.rewards):,} that "
            f"are not, in {len(rows):,} rows, the first {first['where']} (id {first['id']}, subset {first['subset']}). "
            "Score in float32; if it was float32, the checkpoint's weights are broken."
        )


def _subsets(data: BenchmarkRows, rewards: BenchmarkRewards) -> list[str]:
    """The subset of each scored row."""
    names = data.rows["subset"][:]
    return [names[int(row)] for row in rewards.scored_rows()]


def _refused_by_subset(data: BenchmarkRows, rewards: BenchmarkRewards) -> dict[str, tuple[int, list[int]]]:
    """Of each subset that lacks some, its number of rows and those that were not scored."""
    if not rewards.refused:
        return {}
    names, refused = data.rows["subset"][:], {}
    for row in rewards.refused:
        refused.setdefault(names[row], []).append(row)
    total = Counter(names)
    return {name: (total[name], rows) for name, rows in refused.items()}


def incomplete_subsets(data: BenchmarkRows, rewards: BenchmarkRewards) -> set[str]:
    """Subsets of which too many rows were not scored for a score. One's own pairs have no such score."""
    if data.benchmark == "pairs":
        return set()
    refused = _refused_by_subset(data, rewards)
    return {name for name, (total, rows) in refused.items() if len(rows) > LARGEST_SHARE_UNREADABLE * total}


def _refusal_warnings(data: BenchmarkRows, rewards: BenchmarkRewards, incomplete: set[str]) -> list[str]:
    return [
        f"{TITLES[data.benchmark]}: {len(rows):,} of {total:,} rows of {name!r} were not scored"
        + (", which leaves it, and what is made of it, without a score" if name in incomplete else "")
        + f"; the first, {data.rows[rows[0]]['where']}: {rewards.refused[rows[0]]}"
        for name, (total, rows) in _refused_by_subset(data, rewards).items()
    ]


def combined_figures(verdicts: Mapping[str, NDArray], *, legacy_xstest_weights: bool = False) -> dict:
    """The overall score with the prior sets at half weight, which needs both benchmarks' verdicts."""
    name = OVERALL_WITH_PRIOR
    formula = partial(scores_with_prior, legacy_xstest_weights=legacy_xstest_weights)
    figure = estimate(lambda means: {name: formula(means)[name]}, verdicts)[name]
    rows = REWARDBENCH_WITH_PRIOR.figure_rows({subset: len(values) for subset, values in verdicts.items()})
    return {name: _figure(figure, rows[name])}


def pair_verdicts(data: BenchmarkRows, rewards: BenchmarkRewards) -> dict[str, NDArray]:
    """Which pairs of each complete subset came out right; a tie is wrong."""
    chosen, rejected = rewards.pairs()
    verdicts = by_subset(_subsets(data, rewards), chosen > rejected)
    incomplete = incomplete_subsets(data, rewards)
    return {name: values for name, values in verdicts.items() if name not in incomplete}


def _figure(figure: Estimate, rows: int) -> dict:
    low, high = figure.low, figure.high
    if low == high and rows:
        # Where all rows of a subset agree no bootstrap sample differs, and the interval would have no width.
        share = min(max(figure.value, 0.0), 1.0)  # the score of Ties goes from -0.01 to 1.01
        low, high = wilson_interval(share * rows, rows)
        low, high = min(low, figure.value), max(high, figure.value)
    return {"value": number(figure.value), "low": number(low), "high": number(high), "rows": rows}


# --- pairs ---------------------------------------------------------------------------------------------------


def _pairs(
    name: str,
    rows: Dataset,
    scored: NDArray,
    subsets: Sequence[str],
    rewards: BenchmarkRewards,
) -> dict:
    """RewardBench, the preference test sets, and pairs of one's own."""
    chosen, rejected = rewards.pairs()
    verdicts = by_subset(subsets, chosen > rejected)
    counts = {subset: len(verdict) for subset, verdict in verdicts.items()}
    chosen_of, rejected_of = by_subset(subsets, chosen), by_subset(subsets, rejected)
    part = {
        "warnings": [],
        "figures": {},
        "subsets": {
            subset: accuracy_entry(pair_accuracy(chosen_of[subset], rejected_of[subset])) for subset in verdicts
        },
        "pairs": pair_statistics(chosen, rejected, *_lengths(rows, scored)),
    }
    if name == "rewardbench":
        part["sections"] = {section: list(names) for section, names in SECTIONS.items()}
        part["warnings"] = check_subsets(counts, REWARDBENCH)
    elif name == "preference_test_sets":
        part["warnings"] = check_subsets(counts, PREFERENCE_TEST_SETS)
    return part


def _pair_figures(data: BenchmarkRows, rewards: BenchmarkRewards, legacy_xstest_weights: bool) -> dict:
    verdicts = pair_verdicts(data, rewards)
    counts = {subset: len(verdict) for subset, verdict in verdicts.items()}
    if data.benchmark == "rewardbench":
        formula = partial(section_scores, legacy_xstest_weights=legacy_xstest_weights)
        return _figures(formula, verdicts, REWARDBENCH, counts)
    if data.benchmark == "preference_test_sets":
        return _figures(lambda means: {"Prior Sets": prior_score(means)}, verdicts, PREFERENCE_TEST_SETS, counts)
    return {}


def _figures(formula: Callable, values: Mapping[str, NDArray], benchmark: Benchmark, counts: Mapping[str, int]) -> dict:
    rows = benchmark.figure_rows(counts)
    return {name: _figure(figure, rows[name]) for name, figure in estimate(formula, values).items()}


def _lengths(rows: Dataset, scored: NDArray) -> tuple[NDArray, NDArray]:
    """Characters of the chosen and of the rejected answer of each scored row."""
    batches = (rows[scored[start : start + ROWS_PER_READ]] for start in range(0, len(scored), ROWS_PER_READ))
    sides = ((batch["chosen"], batch["rejected"]) for batch in batches)
    lengths = [[answer_length(c[0]), answer_length(r[0])] for side in sides for c, r in zip(*side, strict=True)]
    return tuple(np.array(lengths).reshape(-1, 2).T)


# --- rankings ------------------------------------------------------------------------------------------------


def _rewardbench2(
    rows: Dataset, scored: NDArray, subsets: Sequence[str], rewards: BenchmarkRewards, incomplete: set[str]
) -> dict:
    ids = [json.loads(row_id) for row_id in rows[scored]["id"]]
    right, wrong = zip(*map(rewards.of_row, scored), strict=True)
    values = rewardbench2_values(subsets, ids, right, wrong)
    values = {subset: credits for subset, credits in values.items() if subset not in incomplete}
    counts = dict(Counter(subsets))
    warnings = check_subsets(counts, REWARDBENCH2)
    warnings += check_ties(row_id for row_id, subset in zip(ids, subsets, strict=True) if subset == TIES)
    unknown = {subset: values[subset] for subset in values if subset not in REWARDBENCH2.subset_rows}
    figures = _figures(rewardbench2_scores, values, REWARDBENCH2, counts)
    means = estimate(lambda means: means, unknown) if unknown else {}
    subset_figures = {subset: figures[subset] for subset in REWARDBENCH2.subset_rows}
    subset_figures |= {subset: _figure(mean, counts[subset]) for subset, mean in means.items()}
    return {"warnings": warnings, "figures": figures, "subsets": subset_figures}


def _rm_bench(domains: Sequence[str], rewards: BenchmarkRewards, incomplete: set[str]) -> dict:
    answers = rewards.matrix()
    wins = rm_bench_wins(answers[:, :3], answers[:, 3:])
    by_domain = rm_bench_by_domain(domains, wins)
    for domain in RM_BENCH_DOMAINS:
        if any(name.startswith(domain) for name in incomplete):
            by_domain.pop(domain, None)
    rows = rm_bench_figure_rows(domains)
    figures = {name: _figure(figure, rows[name]) for name, figure in estimate(rm_bench_scores, by_domain).items()}
    matrices = {"all": wins} | {name: wins[[d.startswith(name) for d in domains]] for name in RM_BENCH_DOMAINS}
    return {
        "warnings": check_rm_bench(domains),
        "figures": figures,
        "subsets": {},
        "matrix": {name: matrix.mean(axis=0).tolist() for name, matrix in matrices.items() if len(matrix)},
    }
