"""ProcessBench (Zheng et al. 2024, arXiv:2412.06559): where in an answer is the first wrong step, if there is one.

A model says a step is wrong where its probability is below a threshold, and the first of these is its verdict. Only
the steps up to the first wrong one are labelled, and no other one can make a verdict right.
"""

import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reward_modeling.common.errors import UserError
from reward_modeling.common.intervals import Estimate, by_subset, estimate, number
from reward_modeling.common.step_statistics import THRESHOLD
from reward_modeling.display.text import align, count, interval, percent
from reward_modeling.evaluation.benchmarks.base import Benchmark
from reward_modeling.evaluation.benchmarks.means import Means, plain_mean
from reward_modeling.evaluation.benchmarks.preference_test_sets import test_set_sources
from reward_modeling.evaluation.benchmarks.rows import (
    RIGHT_STEP,
    UNKNOWN_STEP,
    WRONG_STEP,
    Fields,
    UnreadableRow,
    question_of,
    steps_of,
)
from reward_modeling.evaluation.benchmarks.scored_rows import Rows, ScoredRow
from reward_modeling.evaluation.benchmarks.step_rows import step_part

# `Qwen/ProcessBench`
SPLIT_ROWS = {"gsm8k": 400, "math": 1000, "olympiadbench": 1000, "omnimath": 1000}
TUNED_ON = "gsm8k"  # what Qwen's authors tuned other people's models on
ERRONEOUS, CORRECT = "erroneous", "correct"
KINDS = {split: tuple(f"{split} {kind}" for kind in (ERRONEOUS, CORRECT)) for split in SPLIT_ROWS}
NO_ERROR = -1
ID = re.compile(rf"({'|'.join(SPLIT_ROWS)})-\d+")


def is_right(row: ScoredRow, threshold: float = THRESHOLD) -> bool:
    """Whether the first step below the threshold is the first wrong one; of an answer without one that none is."""
    return bool((row.chosen >= threshold).all() and (row.rejected < threshold).all())


def verdict(row: ScoredRow) -> int:
    """The first step below 0.5, counted from 0, and -1 where there is none up to the first wrong one."""
    below = np.flatnonzero(row.rewards < THRESHOLD)
    return int(below[0]) if len(below) else NO_ERROR


def values_at(threshold: float, rows: Rows) -> dict[str, NDArray]:
    """`(rows,)` of the erroneous and of the correct answers of each split: whether the verdict is right."""
    kinds = [KINDS[row.subset][0 if len(row.rejected) else 1] for row in rows if row.subset in KINDS]
    return by_subset(kinds, [is_right(row, threshold) for row in rows if row.subset in KINDS])


def harmonic_mean(one: ArrayLike, other: ArrayLike) -> NDArray:
    """0 where both are 0."""
    one, other = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    return 2 * one * other / np.where(one + other == 0, 1.0, one + other)


def processbench_scores(means: Means, rows: Mapping[str, int]) -> dict[str, ArrayLike]:
    """Of each split the accuracies on erroneous and on correct answers and their harmonic mean; the mean of the four.

    Args:
        means: of `values_at`.
    """
    scores: dict[str, ArrayLike] = {}
    for split, kinds in KINDS.items():
        accuracies = [means.get(kind, np.nan) for kind in kinds]
        scores |= dict(zip(kinds, accuracies, strict=True))
        scores[split] = harmonic_mean(*accuracies)
    return {**scores, "overall": plain_mean(scores, SPLIT_ROWS)}


# --- a threshold of one's own ---------------------------------------------------------------------------------


def best_threshold(rows: Rows) -> float:
    """The threshold with the greatest F1 on these rows, in the middle of those that do as well beside it.

    Raises:
        UserError: there are no erroneous answers, or no correct ones.
    """
    lowest = np.array([row.chosen.min(initial=np.inf) for row in rows])  # above it a right step is called wrong
    wrong = np.array([row.rejected.max(initial=-np.inf) for row in rows])  # up to it the wrong one is called right
    erroneous = np.array([len(row.rejected) > 0 for row in rows], dtype=bool)
    if not erroneous.any() or erroneous.all():
        raise UserError(
            f"--tune_threshold_on: expected erroneous and correct answers among the rows, found {erroneous.sum():,} "
            f"erroneous ones of {len(rows):,}. Take another split."
        )
    found = np.unique(np.concatenate([lowest, wrong]))
    edges = np.concatenate([[0.0], found[np.isfinite(found)], [1.0]])
    middles = (edges[1:] + edges[:-1]) / 2  # between two of them nothing changes
    rights = (wrong[:, None] < middles) & (middles <= lowest[:, None])
    scores = harmonic_mean(rights[erroneous].mean(axis=0), rights[~erroneous].mean(axis=0))
    best = np.flatnonzero(scores == scores.max())
    return float(middles[best[np.abs(middles[best] - THRESHOLD).argmin()]])


def tuned_part(split: str, rows: Rows) -> dict:
    """The calibration, and the figures at the threshold that is best on one split; that one's own is flattered."""
    own = [row for row in rows if row.subset == split]
    if len({len(row.rejected) > 0 for row in own}) < 2:
        return step_part(rows) | {"not_tuned_on": split}
    threshold = best_threshold(own)
    values = values_at(threshold, rows)
    found = estimate(lambda means: processbench_scores(means, {}), values)
    figures = {name: _with_interval(of) for name, of in found.items()}
    return step_part(rows) | {"tuned": {"on": split, "threshold": threshold, "figures": figures}}


def _with_interval(figure: Estimate) -> dict[str, float | None]:
    """Where all answers of a kind agree no bootstrap sample differs: then there is no interval."""
    ends = {name: number(getattr(figure, name)) for name in ("value", "low", "high")}
    return ends if figure.low != figure.high else {"value": ends["value"], "low": None, "high": None}


# --- rows and tables ------------------------------------------------------------------------------------------


def _read_row(row: dict) -> Fields:
    steps, label = steps_of(row, "steps"), row["label"]
    if type(label) is not int or not NO_ERROR <= label < len(steps):
        raise UnreadableRow(f"expected label as {NO_ERROR} or the number of one of {len(steps)} steps, found {label!r}")
    labels = [RIGHT_STEP] * len(steps)
    if label != NO_ERROR:
        labels[label:] = [WRONG_STEP, *[UNKNOWN_STEP] * (len(steps) - label - 1)]
    fields: Fields = {"prompt": question_of(row, "problem"), "steps": steps, "step_labels": labels}
    named = ID.fullmatch(row["id"]) if isinstance(row.get("id"), str) else None
    return fields | ({"subset": named[1]} if named else {})


def _sources(path: str, flag: str) -> list[tuple[str, str]]:
    """(split, source), the published ones in their order. A file of several splits has the ids say which."""
    known = list(SPLIT_ROWS)
    found = test_set_sources(path, flag)
    return sorted(found, key=lambda part: known.index(part[0]) if part[0] in known else len(known))


def _figures_table(figures: Mapping) -> list[str]:
    rows: list[list[str] | None] = [["", "erroneous", "correct", "F1", "95% interval", "rows"]]
    for split, kinds in KINDS.items():
        cells = [percent(figures[name]["value"]) for name in (*kinds, split)]
        rows.append([split, *cells, interval(figures[split]), count(figures[split]["rows"])])
    overall = figures["overall"]
    rows += [None, ["overall", "", "", percent(overall["value"]), interval(overall), count(overall["rows"])]]
    return [*align(rows), "  percent of the answers whose verdict is right, at the threshold 0.5"]


def _ends(figure: Mapping) -> str:
    return "-" if figure["low"] is None else interval(figure)


def _tuned_lines(part: Mapping) -> list[str]:
    """Both thresholds in a sentence; without the four splits there is no overall figure, and each split has its own."""
    if split := part.get("not_tuned_on"):
        return [f"No threshold is tuned: of {split} there are not both erroneous and correct answers here."]
    if "tuned" not in part:
        return []
    tuned, figures = part["tuned"], part["figures"]
    names = ["overall"] if figures["overall"]["value"] is not None else list(SPLIT_ROWS)
    shown = []
    for name in names:
        at_half, at_tuned = figures[name], tuned["figures"][name]
        if at_half["value"] is not None:
            ends = "" if at_tuned["low"] is None else f" ({interval(at_tuned)})"
            shown.append(f"{name} {percent(at_half['value'])} at 0.5, {percent(at_tuned['value'])}{ends} at that one")
    return [f"The threshold that is best on {tuned['on']} is {tuned['threshold']:.3f}. F1: {'; '.join(shown)}."]


def _tuned_table(part: Mapping) -> list[tuple[str, list]]:
    if "tuned" not in part:
        return []
    tuned = part["tuned"]
    figures, rows = tuned["figures"], [["", "erroneous", "correct", "F1", "95% interval"]]
    for split, kinds in KINDS.items():
        name = f"{split} (tuned on)" if split == tuned["on"] else split
        rows.append([name, *(percent(figures[of]["value"]) for of in (*kinds, split)), _ends(figures[split])])
    rows.append(["overall", "", "", percent(figures["overall"]["value"]), _ends(figures["overall"])])
    return [(f"At the threshold {tuned['threshold']:.3f}, which is the best one on {tuned['on']}", rows)]


def _record_lines(benchmark: Benchmark, part: Mapping) -> list[tuple[str, Mapping]]:
    lines = [(f"{benchmark.name}/{name.replace(' ', '-')}", figure) for name, figure in part["figures"].items()]
    tuned = part.get("tuned", {"figures": {}})["figures"]
    names = (*SPLIT_ROWS, "overall")
    return lines + [(f"{benchmark.name}/{name}-tuned", tuned[name]) for name in names if name in tuned]


BENCHMARK = Benchmark(
    name="processbench",
    title="ProcessBench",
    required=("problem", "steps", "label"),
    row_formats="problem as a text, steps as a list of texts, label as the number of the first wrong step or -1",
    read_row=_read_row,
    hub_id="Qwen/ProcessBench",
    splits=tuple(SPLIT_ROWS),
    path_help="A folder with a file for each split, name=file,name=file, or one file whose ids begin with the split.",
    local_sources=_sources,
    answers=(None, None),
    of_steps=True,
    subset_rows=SPLIT_ROWS,
    figures={
        **{name: (split,) for split, kinds in KINDS.items() for name in (*kinds, split)},
        "overall": tuple(SPLIT_ROWS),
    },
    formula=processbench_scores,
    values=lambda rows: values_at(THRESHOLD, rows),
    subset_scores=None,
    is_right_or_wrong=False,
    row_result=is_right,
    extras=lambda rows: tuned_part(TUNED_ON, rows),
    extras_tuned_on=tuned_part,
    unit="answers",
    chance=0,
    chance_note=": a model that finds no error, or one in every first step",
    figure_groups={"F1": (*SPLIT_ROWS, "overall")},
    figure_cells={split: dict(zip((ERRONEOUS, CORRECT), kinds, strict=True)) for split, kinds in KINDS.items()},
    cells_title="Erroneous and correct answers",
    figures_table=_figures_table,
    more_tables=_tuned_table,
    more_lines=_tuned_lines,
    record_lines=_record_lines,
    note="F1: of the accuracies on erroneous and on correct answers, the first wrong step being the right verdict",
)
