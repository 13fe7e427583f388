"""What a gate is compared with: the best fixed weights of the objectives, and the best single objective."""

import numpy as np
from numpy.typing import NDArray

RIDGE = 1e-6  # of standardised differences: it decides only where pairs do not, as of an objective that is always 0
STEPS = 50
CLOSE = 1e-9


def fit_fixed_weights(differences: NDArray, probability: NDArray, weights: NDArray) -> NDArray[np.float64]:
    """The weights under which Bradley-Terry makes the pairs most likely, found by Newton's method.

    They may be negative, which a gate's are not: nothing less is the best that fixed weights can do.

    Args:
        differences: `(pairs, objectives)`, chosen less rejected.
        probability: `(pairs,)`, that chosen is better.
        weights: `(pairs,)`, how much each counts.

    Returns:
        `(objectives,)`.
    """
    scale = differences.std(axis=0, dtype=np.float64)
    scale = np.where(scale > 0, scale, 1.0)
    x = differences / scale
    share = weights / weights.sum()
    found = np.zeros(x.shape[1])
    for _ in range(STEPS):
        likely = 1 / (1 + np.exp(-np.clip(x @ found, -500, 500)))
        gradient = x.T @ (share * (likely - probability)) + RIDGE * found
        curvature = (x * (share * likely * (1 - likely))[:, None]).T @ x + RIDGE * np.eye(len(found))
        step = np.linalg.solve(curvature, gradient)
        # where the objectives separate the pairs there is no optimum, and only the direction counts
        step *= min(1.0, 10 / max(np.abs(step).max(), 1e-300))
        found -= step
        if np.abs(step).max() < CLOSE:
            break
    return found / scale


def best_single(differences: NDArray, probability: NDArray, weights: NDArray) -> int:
    """The objective that alone orders most pairs as people did; equal rewards count as half."""
    preferred = np.sign(probability - 0.5)[:, None]
    right = (np.sign(differences) * preferred + 1) / 2
    counted = weights * (preferred[:, 0] != 0)
    return int(np.argmax(counted @ right))
