"""What the benchmarks of process models have in common: rows of steps, and the calibration of their probabilities."""

import numpy as np

from reward_modeling.common.step_statistics import step_statistics
from reward_modeling.evaluation.benchmarks.scored_rows import Rows, ScoredRow

STEPS = "steps"  # the key in a part of summary.json


def judged_right(row: ScoredRow, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Of the right and of the wrong steps of a row, which ones have at least this probability."""
    return row.chosen >= threshold, row.rejected >= threshold


def step_part(rows: Rows) -> dict:
    """`step_statistics` of all steps whose label is known, for summary.json."""
    if not rows:
        return {}
    labels = np.concatenate([np.repeat([1.0, 0.0], [len(row.chosen), len(row.rejected)]) for row in rows])
    chains = np.repeat(np.arange(len(rows)), [len(row.rewards) for row in rows])
    return {STEPS: step_statistics(np.concatenate([row.rewards for row in rows]), labels, chains)}
