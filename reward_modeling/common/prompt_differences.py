"""How far two models are apart on the same pairs, with 95% intervals that hold for few prompts too.

No bootstrap: of thirty prompts on which two models mostly agree, most draws have none on which they do not, and the
interval has no width. Both intervals below are over prompts, since the pairs of a prompt are right or wrong together,
and both models are looked at together, so that what is hard for both cancels out.
"""

import math

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.intervals import Z_95

Difference = dict[str, float | int | None]
"""`value`, `low`, `high`, and over how many `prompts`; None where so many say nothing of it."""


def difference_of_shares(one: NDArray, other: NDArray, prompts: NDArray) -> Difference:
    """The mean of one - other over pairs of which each is right or wrong, 1 or 0 (or a part of 1).

    Two prompts are added, in which all is in favour of one and all in favour of the other. It is the interval of Bonett
    and Price (2012) for paired shares, which keeps a width where the models agree everywhere, here with the linearised
    variance of sums by prompt, and with Student's t for the number of prompts. So 5 prompts that are all in favour of
    one model do not show that it is the better one, and 6 do, as in a sign test.

    Args:
        one, other: `(pairs,)`.
        prompts: `(pairs,)`, the number of each pair's prompt.

    Returns:
        A `Difference`, and on how many prompts they `differ`.
    """
    if not len(one):
        return {"value": None, "low": None, "high": None, "prompts": 0, "differ": 0}
    sums, sizes = _by_prompt(one - other, prompts)
    _, differing = np.unique(prompts[one != other], return_counts=True)
    value, typical = float((one - other).mean()), sizes.mean()
    centre, error = _ratio(np.append(sums, [typical, -typical]), np.append(sizes, [typical, typical]))
    half = t_95(len(sums) - 1) * error
    low, high = max(-1.0, min(value, centre - half)), min(1.0, max(value, centre + half))
    return {"value": value, "low": low, "high": high, "prompts": len(sums), "differ": len(differing)}


def difference_of_means(one: NDArray, other: NDArray, prompts: NDArray) -> Difference:
    """The mean of one - other over pairs, whatever is measured, with Student's t over prompts: one prompt has none.

    Args:
        one, other, prompts: as `difference_of_shares` takes them.
    """
    if not len(one):
        return {"value": None, "low": None, "high": None, "prompts": 0}
    sums, sizes = _by_prompt(one - other, prompts)
    value, error = _ratio(sums, sizes)
    if len(sums) == 1:
        return {"value": value, "low": None, "high": None, "prompts": 1}
    half = t_95(len(sums) - 1) * error * math.sqrt(len(sums) / (len(sums) - 1))
    return {"value": value, "low": value - half, "high": value + half, "prompts": len(sums)}


def _by_prompt(values: NDArray, prompts: NDArray) -> tuple[NDArray, NDArray]:
    """Sums and numbers of pairs, both `(prompts,)`."""
    _, of = np.unique(prompts, return_inverse=True)
    return np.bincount(of, values), np.bincount(of).astype(np.float64)


def _ratio(sums: NDArray, sizes: NDArray) -> tuple[float, float]:
    """The mean over pairs and its standard error over prompts, linearised."""
    total = sizes.sum()
    value = float(sums.sum() / total)
    return value, float(np.linalg.norm(sums - value * sizes) / total)


def t_95(degrees: int) -> float:
    """Half of the width of a 95% interval in standard errors, by Student's t.

    Exact for 1 and 2 degrees of freedom, else Fisher's expansion (Abramowitz and Stegun, 26.7.5), 0.1% too small for 3
    of them and right to 5 digits from 10 on.
    """
    if degrees < 1:
        return math.inf
    if degrees == 1:
        return math.tan(0.475 * math.pi)
    if degrees == 2:
        return 0.95 * math.sqrt(2 / (1 - 0.95**2))
    z = Z_95
    return (
        z
        + (z**3 + z) / 4 / degrees
        + (5 * z**5 + 16 * z**3 + 3 * z) / 96 / degrees**2
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384 / degrees**3
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160 / degrees**4
    )
