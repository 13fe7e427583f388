"""scores.jsonl: the rewards of every row of an evaluation, a line for each.

append_scores(Path("scores.jsonl"), "rewardbench", rows)
rows = read_scores(Path("scores.jsonl"))["rewardbench"]
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.errors import UserError
from reward_modeling.common.intervals import number
from reward_modeling.evaluation.benchmarks.base import Rows, ScoredRow
from reward_modeling.evaluation.benchmarks.catalog import BENCHMARKS

COLUMNS = ("benchmark", "id", "subset", "chosen_reward", "rejected_reward")


def score_lines(name: str, rows: Rows) -> Iterator[dict]:
    """One dictionary for each row of the input, in its order."""
    benchmark = BENCHMARKS[name]
    for row in rows:
        is_hidden = bool(row.refused) or row.is_verdict
        chosen, rejected = (None if is_hidden else list(map(number, side)) for side in (row.chosen, row.rejected))
        if benchmark.is_pairs and not is_hidden:
            chosen, rejected = chosen[0], rejected[0]
        yield {
            "benchmark": name,
            "id": row.id,
            "subset": row.subset,
            "chosen_reward": chosen,
            "rejected_reward": rejected,
            "correct": benchmark.row_result(row) if row.is_scored else None,
        }


def append_scores(path: Path, name: str, rows: Rows) -> None:
    with path.open("a", encoding="utf-8") as out:
        out.writelines(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in score_lines(name, rows))


def read_scores(path: Path) -> dict[str, list[ScoredRow]]:
    """The rows of each benchmark.

    Raises:
        UserError: a line is torn, or not one that eval_bench_mark.py writes.
    """
    rows: dict[str, list[ScoredRow]] = {}
    with path.open(encoding="utf-8") as lines:
        for place, line in enumerate(lines, 1):
            try:
                values = json.loads(line)
                benchmark, row_id, subset = (values[name] for name in COLUMNS[:3])
                row = ScoredRow(row_id, subset, *rewards_of(values))
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{path}:{place}: expected an object with {', '.join(COLUMNS)}, found {line[:80]!r}. Evaluate the "
                    "model again, or remove the file: the figures then are shown without paired intervals."
                ) from error
            rows.setdefault(benchmark, []).append(row)
    return rows


def rewards_of(row: dict) -> tuple[NDArray, NDArray]:
    """The rewards of the right and of the wrong answers, `(answers,)`; 1 and 0 where a verdict is all that is known."""
    chosen, rejected = row["chosen_reward"], row["rejected_reward"]
    if chosen is None and rejected is None and isinstance(row.get("correct"), bool):
        return verdict_sides(row["correct"])
    chosen, rejected = (np.atleast_1d(np.array(side, dtype=np.float64)) for side in (chosen, rejected))
    return chosen, rejected


def verdict_sides(is_right: bool) -> tuple[NDArray, NDArray]:
    return np.array([float(is_right)]), np.array([float(not is_right)])
