"""scores.jsonl: the rewards of every row of an evaluation, a line for each.

append_scores(Path("scores.jsonl"), "rewardbench", scores)
scores = read_scores(Path("scores.jsonl"))["rewardbench"]
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.errors import UserError
from reward_modeling.common.pair_statistics import number
from reward_modeling.evaluation.benchmarks.base import RowScores
from reward_modeling.evaluation.benchmarks.catalog import BENCHMARKS

COLUMNS = ("benchmark", "id", "subset", "chosen_reward", "rejected_reward")


def score_lines(name: str, scores: RowScores) -> Iterator[dict]:
    """One dictionary for each row of the input, in its order."""
    benchmark = BENCHMARKS[name]
    for row, sides in enumerate(scores.answers()):
        is_known = row not in scores.refused and np.isfinite(np.concatenate(sides)).all()
        shown = row not in scores.refused and not scores.verdicts_only
        chosen, rejected = (_rewards(side, benchmark.is_pairs) if shown else None for side in sides)
        yield {
            "benchmark": name,
            "id": scores.ids[row],
            "subset": scores.subsets[row],
            "chosen_reward": chosen,
            "rejected_reward": rejected,
            "correct": benchmark.row_result(*sides) if is_known else None,
        }


def _rewards(values: NDArray, is_one: bool) -> float | list[float | None] | None:
    rewards = [number(reward) for reward in values]
    return rewards[0] if is_one else rewards


def append_scores(path: Path, name: str, scores: RowScores) -> None:
    with path.open("a", encoding="utf-8") as out:
        out.writelines(
            json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in score_lines(name, scores)
        )


def read_scores(path: Path) -> dict[str, RowScores]:
    """The rows of each benchmark.

    Raises:
        UserError: a line is torn, or not one that eval_bench_mark.py writes.
    """
    scores: dict[str, RowScores] = {}
    with path.open(encoding="utf-8") as lines:
        for place, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                benchmark, row_id, subset = (row[name] for name in COLUMNS[:3])
                sides = rewards_of(row)
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{path}:{place}: expected an object with {', '.join(COLUMNS)}, found {line[:80]!r}. Evaluate the "
                    "model again, or remove the file: the figures then are shown without paired intervals."
                ) from error
            scores.setdefault(benchmark, RowScores()).append(row_id, subset, *sides)
    return scores


def rewards_of(row: dict) -> tuple[NDArray, NDArray]:
    """The rewards of the right and of the wrong answers, `(answers,)`; 1 and 0 where a verdict is all that is known."""
    chosen, rejected = row["chosen_reward"], row["rejected_reward"]
    if chosen is None and rejected is None and isinstance(row.get("correct"), bool):
        chosen, rejected = float(row["correct"]), float(not row["correct"])
    chosen, rejected = (np.atleast_1d(np.array(side, dtype=np.float64)) for side in (chosen, rejected))
    return chosen, rejected
