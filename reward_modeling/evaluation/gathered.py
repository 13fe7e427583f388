"""What the processes of an evaluation have computed, put together: the same on each of them."""

from dataclasses import replace

import numpy as np
from accelerate.utils import gather_object
from numpy.typing import NDArray

from reward_modeling.scoring.conversations import ScoringCounts


def gathered(own: list[tuple[int, float]], number: int, what: str) -> NDArray[np.float64]:
    """The values of all processes in the order of their numbers, `(number,)`.

    Raises:
        RuntimeError: not each of `number` values exactly once.
    """
    indices, values = np.array([index for index, _ in own], dtype=np.int64), np.array([value for _, value in own])
    indices, values = map(np.concatenate, zip(*gather_object([(indices, values)]), strict=True))
    if not np.array_equal(np.sort(indices), np.arange(number)):
        raise RuntimeError(f"{what}: {len(indices)} values of {number}, not each exactly once")
    return values[np.argsort(indices)]


def all_counts(counts: ScoringCounts) -> ScoringCounts:
    """Passes, tokens and bad rewards are each process's own; the rest every process has counted whole."""
    parts = gather_object([counts])
    own = {name: sum(getattr(part, name) for part in parts) for name in ("passes", "tokens", "not_finite")}
    return replace(counts, **own)
