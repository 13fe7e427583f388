"""PRMBench (Song et al. 2025, arXiv:2501.03124): which steps of an answer are valid, by nine kinds of error."""

import json
from collections.abc import Mapping

import numpy as np
from datasets import Dataset
from numpy.typing import ArrayLike, NDArray

from reward_modeling.common.intervals import by_subset
from reward_modeling.common.step_statistics import THRESHOLD
from reward_modeling.evaluation.benchmarks.base import Benchmark
from reward_modeling.evaluation.benchmarks.means import Means, pooled_mean
from reward_modeling.evaluation.benchmarks.rows import (
    RIGHT_STEP,
    WRONG_STEP,
    Fields,
    UnreadableRow,
    question_of,
    steps_of,
    text_of,
)
from reward_modeling.evaluation.benchmarks.scored_rows import Rows, ScoredRow, subsets_of
from reward_modeling.evaluation.benchmarks.step_rows import judged_right, step_part

# `hitsmy/PRMBench_Preview`; five of its rows stand there twice, which the authors' own loader leaves out.
CLASS_ROWS = {
    "redundency": 758,  # spelled as in the file
    "circular": 758,
    "counterfactual": 757,
    "step_contradiction": 758,
    "domain_inconsistency": 757,
    "confidence": 757,
    "missing_condition": 756,
    "deception": 750,
    "multi_solutions": 165,
}
REPEATED = 5
WITHOUT_ERRORS = "multi_solutions"  # its score is the F1 of valid steps alone
GROUPS = {
    "simplicity": ("redundency", "circular"),
    "soundness": ("counterfactual", "step_contradiction", "domain_inconsistency", "confidence"),
    "sensitivity": ("missing_condition", "deception", WITHOUT_ERRORS),
}


def step_counts(rows: Rows) -> dict[str, NDArray]:
    """`(rows, 4)` by class: valid and wrong steps judged valid, then wrong and valid steps judged wrong."""
    counts = []
    for row in rows:
        valid, wrong = judged_right(row, THRESHOLD)
        counts.append([valid.sum(), wrong.sum(), (~wrong).sum(), (~valid).sum()])
    return by_subset(subsets_of(rows), np.array(counts, dtype=np.float64).reshape(-1, 4))


def f1(true: ArrayLike, false: ArrayLike, missed: ArrayLike) -> NDArray:
    """2 true / (2 true + false + missed); 0 where there is nothing."""
    true, others = np.asarray(true, dtype=np.float64), np.asarray(false) + np.asarray(missed)
    return 2 * true / np.where(2 * true + others == 0, 1.0, 2 * true + others)


def prm_score(counts: ArrayLike) -> NDArray:
    """The mean of the F1 of valid steps and the F1 of wrong ones.

    Args:
        counts: `(..., 4)` as `step_counts` has them, or their means.
    """
    valid, false_valid, wrong, false_wrong = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    return (f1(valid, false_valid, false_wrong) + f1(wrong, false_wrong, false_valid)) / 2


def prmbench_scores(means: Means, rows: Mapping[str, int]) -> dict[str, ArrayLike]:
    """PRMScore of each class, and of all steps of all classes together, which is not the mean of the classes.

    Args:
        means: `(4,)` by class, of `step_counts`.
        rows: of each class.
    """
    scores: dict[str, ArrayLike] = {}
    for name in CLASS_ROWS:
        counts = np.asarray(means.get(name, np.full(4, np.nan)), dtype=np.float64)
        valid, false_valid, _, false_wrong = np.moveaxis(counts, -1, 0)
        scores[name] = f1(valid, false_valid, false_wrong) if name == WITHOUT_ERRORS else prm_score(counts)
    every = pooled_mean(means, CLASS_ROWS, rows)
    return {**scores, "overall": np.asarray(np.nan) if np.isnan(every).all() else prm_score(every)}


def _read_row(row: dict) -> Fields:
    steps, errors = steps_of(row, "modified_process"), row["error_steps"]
    if not isinstance(errors, list) or any(type(number) is not int or number < 1 for number in errors):
        raise UnreadableRow(f"expected error_steps as a list of numbers from 1, found {errors!r}")
    question = next((name for name in ("modified_question", "question") if row.get(name)), None)
    if question is None:
        raise UnreadableRow("expected modified_question or question as a text, found neither")
    # 100 rows name a step beyond the last one: those are passed over, as the authors do
    wrong = {number - 1 for number in errors}
    return {
        "subset": text_of(row, "classification"),
        "prompt": question_of(row, question),
        "steps": steps,
        "step_labels": [WRONG_STEP if place in wrong else RIGHT_STEP for place in range(len(steps))],
    }


def _drop_repeated(rows: Dataset) -> Dataset:
    """Each (class, idx) once, the first; where rows have no idx, each answer."""
    seen: set[tuple] = set()
    kept = []
    for number, row in enumerate(rows.select_columns(["id", "subset", "prompt", "steps"])):
        named = json.loads(row["id"]) is not None
        key = (row["subset"], row["id"] if named else (row["prompt"], *row["steps"]))
        if key not in seen:
            kept.append(number)
        seen.add(key)
    return rows if len(kept) == len(rows) else rows.select(kept)


def _check(benchmark: Benchmark, rows: Rows) -> list[str]:
    expected, found = sum(CLASS_ROWS.values()) - REPEATED, {*subsets_of(rows)}
    messages = [
        f"{benchmark.title}: unknown class {name!r}: its rows count in no score"
        for name in sorted(found - {*CLASS_ROWS})
    ]
    if missing := [name for name in CLASS_ROWS if name not in found]:
        messages.append(f"{benchmark.title}: missing: {', '.join(missing)}: incomplete, and without a score: overall")
    if len(rows) != expected:
        words = "the scores are not those of the published benchmark"
        messages.append(f"{benchmark.title}: {len(rows):,} answers, expected {expected:,}: {words}")
    return messages


def _row_result(row: ScoredRow) -> list[int]:
    """Right verdicts of valid and of wrong steps."""
    valid, wrong = judged_right(row, THRESHOLD)
    return [int(valid.sum()), int((~wrong).sum())]


BENCHMARK = Benchmark(
    name="prmbench",
    title="PRMBench",
    required=("modified_process", "error_steps", "classification"),
    optional=("modified_question", "question"),
    row_formats=(
        "modified_question as a text, modified_process as a list of steps, error_steps as their numbers from 1, "
        "classification as a name"
    ),
    read_row=_read_row,
    subset_column="classification",
    hub_id="hitsmy/PRMBench_Preview",
    splits=("train",),
    id_column="idx",
    finish=_drop_repeated,
    answers=(None, None),
    of_steps=True,
    subset_rows=CLASS_ROWS,
    figures={**{name: (name,) for name in CLASS_ROWS}, "overall": tuple(CLASS_ROWS)},
    formula=prmbench_scores,
    values=step_counts,
    subset_scores=None,
    is_right_or_wrong=False,
    row_result=_row_result,
    check=_check,
    extras=step_part,
    unit="answers",
    chance=43,
    chance_note=" (a fair coin; 45.7 where every step is said to be valid)",
    figure_groups={**GROUPS, "all": ("overall",)},
    note="PRMScore: half the F1 of valid steps, half that of wrong ones, over the steps of all answers together",
)
