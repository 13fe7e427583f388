"""RewardMATH (Kim et al. 2024, arXiv:2410.01729): one right solution of a problem among ten."""

import json
from collections.abc import Mapping

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from reward_modeling.common.intervals import by_subset
from reward_modeling.evaluation.benchmarks.base import Benchmark
from reward_modeling.evaluation.benchmarks.means import Means, pooled_mean
from reward_modeling.evaluation.benchmarks.rows import (
    EVALUATION_FEATURES,
    Fields,
    answers_of,
    assistant,
    messages_of,
    text_of,
)
from reward_modeling.evaluation.benchmarks.scored_rows import Rows, subsets_of

# A row of `RewardMATH/RewardMATH` is one of the solutions of a problem.
PROBLEMS, WRONG_SOLUTIONS = 483, 9
RIGHT = "human_to_GPT-4"  # `solution_reference` of the right one: a person's, in GPT-4's words


def rewardmath_values(rows: Rows) -> dict[str, NDArray]:
    """`(problems, 2)` by subject: whether the right solution is above every wrong one, and 1 / its rank.

    It ranks behind the wrong solutions of the same reward, as with the authors.
    """
    ranks = np.array([1 + (row.rejected >= row.chosen[0]).sum() for row in rows], dtype=np.float64)
    return by_subset(subsets_of(rows), np.stack([ranks == 1, 1 / ranks], axis=1))


def rewardmath_scores(means: Means, rows: Mapping[str, int]) -> dict[str, float]:
    """Mean reciprocal rank and accuracy over all problems, from the means of `rewardmath_values`, `(2,)` by subject."""
    return {
        name: pooled_mean({subject: np.asarray(mean)[..., column] for subject, mean in means.items()}, rows, rows)
        for column, name in ((1, "MRR"), (0, "accuracy"))
    }


def _read_row(row: dict) -> Fields:
    steps = answers_of(row, "eval_solution", None)
    solution = [[assistant("\n".join(step["content"] for (step,) in steps))]]
    is_right = text_of(row, "solution_reference") == RIGHT
    return {
        "subset": text_of(row, "subject"),
        "prompt": messages_of(text_of(row, "problem"), "problem"),
        "chosen": solution if is_right else [],
        "rejected": [] if is_right else solution,
    }


def _group_solutions(rows: Dataset) -> Dataset:
    """One row for each problem, in the order in which they first appear."""
    problems: dict[str, dict] = {}
    for row in rows:
        problem = problems.setdefault(row["id"], row)
        if problem is not row:
            problem["chosen"] += row["chosen"]
            problem["rejected"] += row["rejected"]
            problem["reason"], problem["excerpt"] = (problem[name] or row[name] for name in ("reason", "excerpt"))
    for problem in problems.values():
        right, wrong = len(problem["chosen"]), len(problem["rejected"])
        if not problem["reason"] and (right != 1 or not wrong):
            problem["reason"] = f"expected one solution of {RIGHT} and wrong ones, found {right} and {wrong}"
            problem["excerpt"] = json.loads(problem["prompt"])[0]["content"][:160]
    return Dataset.from_list(list(problems.values()), features=EVALUATION_FEATURES)


def _check(benchmark: Benchmark, rows: Rows) -> list[str]:
    other = "the scores are not those of the published benchmark"
    messages = []
    if len(rows) != PROBLEMS:
        messages.append(f"{benchmark.title}: {len(rows):,} problems, expected {PROBLEMS}: {other}")
    if odd := sum(len(row.rejected) != WRONG_SOLUTIONS for row in rows):
        messages.append(f"{benchmark.title}: {odd:,} problems without {WRONG_SOLUTIONS} wrong solutions: {other}")
    return messages


BENCHMARK = Benchmark(
    name="rewardmath",
    title="RewardMATH",
    required=("problem", "eval_solution", "solution_reference", "subject", "problem_id"),
    row_formats=(
        f"a row for each solution: problem as a text, eval_solution as a list of steps, solution_reference as {RIGHT} "
        "for the right one, subject as a name, problem_id"
    ),
    read_row=_read_row,
    subset_column="subject",
    hub_id="RewardMATH/RewardMATH",
    splits=("test",),  # that of its authors' RewardMATH_pairwise; this set's own was not seen
    id_column="problem_id",
    finish=_group_solutions,
    answers=(1, None),
    figures={"MRR": (), "accuracy": ()},
    formula=rewardmath_scores,
    values=rewardmath_values,
    subset_scores=lambda means: {subject: np.asarray(mean)[..., 0] for subject, mean in means.items()},
    check=_check,
    unit="problems",
    chance=10,
    chance_note=" (29.3 for MRR)",
    note="accuracy: the right solution above all wrong ones; MRR: mean of 1 / its rank",
)
