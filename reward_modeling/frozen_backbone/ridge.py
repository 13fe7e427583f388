"""Ridge regression of each objective on the features of the answers that it rates, as ArmoRM's first stage has it.

    fit = fit_ridge(features.blocks, labels, features.prompt_of, seed=0)
    outputs = predict(features.blocks, fit.weights)

The weights of an objective are argmin |X w - y|^2 + alpha |w|^2 over its rated answers, without an intercept: the saved
head has no bias. They are those of `sklearn.linear_model.Ridge(alpha, fit_intercept=False)` in float64, and a test says
so. scikit-learn would hold the features of an objective in memory twice; here they are read in blocks, and X^T X and
X^T y alone are kept. All alphas come from one eigendecomposition (scipy's), which objectives that rate the same answers
share.

Alpha is the one with the least squared error on held-out prompts: no answer to a prompt that is fitted on is among
them. The final weights are then those of all prompts, at this alpha (the published model kept those of the part).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.errors import UserError

ALPHAS = tuple(10.0**power for power in range(-4, 5))
HELD_OUT_SHARE = 0.2  # of the prompts that an objective rates, to choose alpha by
GRAM_BYTES = 2**30  # of matrices X^T X that are held at once; more objectives take another reading of the features

Blocks = Callable[[], Iterable[tuple[slice, NDArray]]]
"""Gives all features anew, in order: where a block stands, and the block, `(answers, hidden)`."""


@dataclass(frozen=True)
class RidgeFit:
    """The weights of all objectives, and what they were chosen by."""

    weights: NDArray[np.float64]
    """`(objectives, hidden)`: of all rated answers."""
    alpha: NDArray[np.float64]
    """`(objectives,)`: the one that was chosen."""
    alphas: tuple[float, ...]
    errors: NDArray[np.float64]
    """`(objectives, alphas)`: mean squared errors on the held-out prompts of weights that did not see them."""
    error_of_mean: NDArray[np.float64]
    """`(objectives,)`: of the mean label of the other prompts."""
    rated: NDArray[np.int64]
    """`(objectives,)`: the answers that have a label."""

    @property
    def at_the_end(self) -> NDArray[np.bool_]:
        """`(objectives,)`: whether alpha is the least or the greatest that was tried."""
        return np.isin(self.alpha, [self.alphas[0], self.alphas[-1]])


def check_libraries() -> None:
    """
    Raises:
        UserError: scipy is not installed.
    """
    try:
        import scipy.linalg  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--freeze_backbone: expected scipy, found no {error.name}. Install it: pip install scipy"
        ) from error


def fit_ridge(
    blocks: Blocks,
    labels: NDArray,
    prompt_of: NDArray[np.int64],
    *,
    seed: int,
    alphas: Sequence[float] = ALPHAS,
    gram_bytes: int = GRAM_BYTES,
) -> RidgeFit:
    """Fit each objective, in memory that does not grow with the answers (but for the labels).

    Args:
        labels: `(answers, objectives)`, NaN where unknown.
        prompt_of: `(answers,)`.
        seed: of the prompts that are held out.

    Raises:
        UserError: an objective rates answers to fewer than two prompts.
    """
    known = ~np.isnan(labels)
    masks, mask_of = np.unique(known, axis=1, return_inverse=True)
    parts = [_Part.of(labels, masks[:, number], mask_of == number, prompt_of, seed) for number in range(masks.shape[1])]
    _, first_block = next(iter(blocks()))
    hidden = first_block.shape[1]
    fit = RidgeFit(
        weights=np.zeros((labels.shape[1], hidden)),
        alpha=np.zeros(labels.shape[1]),
        alphas=tuple(alphas),
        errors=np.zeros((labels.shape[1], len(alphas))),
        error_of_mean=np.zeros(labels.shape[1]),
        rated=known.sum(axis=0),
    )
    at_once = max(1, gram_bytes // (8 * hidden * hidden))
    for first in range(0, len(parts), at_once):
        _fit_parts(blocks, parts[first : first + at_once], fit)
    return fit


def predict(blocks: Iterable[tuple[slice, NDArray]], weights: NDArray) -> NDArray[np.float32]:
    """`(answers, objectives)`."""
    outputs = [block @ weights.T.astype(np.float32) for _, block in blocks]
    return np.concatenate(outputs) if outputs else np.zeros((0, len(weights)), dtype=np.float32)


@dataclass
class _Part:
    """Objectives that rate the same answers."""

    objectives: NDArray[np.int64]
    labels: NDArray[np.float64]
    """`(answers, objectives)`."""
    fitted: NDArray[np.bool_]
    """`(answers,)`: rated, and of a prompt that alpha is not chosen by."""
    held_out: NDArray[np.bool_]

    @classmethod
    def of(
        cls, labels: NDArray, mask: NDArray[np.bool_], members: NDArray[np.bool_], prompt_of: NDArray, seed: int
    ) -> "_Part":
        prompts = np.unique(prompt_of[mask])
        if len(prompts) < 2:
            raise UserError(
                f"--attributes: expected each to be rated in answers to two prompts at least, found one with "
                f"{int(mask.sum())} ratings of {len(prompts)} prompts. Leave it out."
            )
        count = max(1, int(HELD_OUT_SHARE * len(prompts)))
        drawn = np.random.default_rng(seed).permutation(prompts)[:count]
        is_drawn = mask & np.isin(prompt_of, drawn)
        return cls(np.flatnonzero(members), labels[:, members].astype(np.float64), mask & ~is_drawn, is_drawn)


def _fit_parts(blocks: Blocks, parts: list[_Part], fit: RidgeFit) -> None:
    """Two readings of the features: one to fit, one to choose alpha and to add the held-out prompts."""
    hidden = fit.weights.shape[1]
    grams = [np.zeros((hidden, hidden)) for _ in parts]
    moments = [np.zeros((hidden, len(part.objectives))) for part in parts]
    for number, x, y in _selected(blocks, [part.fitted for part in parts], parts):
        grams[number] += x.T @ x
        moments[number] += x.T @ y
    candidates = [_for_all_alphas(*of, fit.alphas) for of in zip(grams, moments, strict=True)]
    squared = [np.zeros(candidate.shape[::2]) for candidate in candidates]  # (alphas, objectives)
    for number, x, y in _selected(blocks, [part.held_out for part in parts], parts):
        squared[number] += np.square(x @ candidates[number] - y).sum(axis=1)
        grams[number] += x.T @ x
        moments[number] += x.T @ y
    for part, gram, moment, of_part in zip(parts, grams, moments, squared, strict=True):
        errors = of_part / part.held_out.sum()
        means = part.labels[part.fitted].mean(axis=0)
        fit.errors[part.objectives] = errors.T
        fit.error_of_mean[part.objectives] = np.square(part.labels[part.held_out] - means).mean(axis=0)
        fit.alpha[part.objectives] = np.array(fit.alphas)[errors.argmin(axis=0)]
        fit.weights[part.objectives] = _solve(gram, moment, fit.alpha[part.objectives])


def _selected(
    blocks: Blocks, masks: Sequence[NDArray[np.bool_]], parts: Sequence[_Part]
) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.float64]]]:
    """(number of the part, features, labels) of the answers of each part in each block."""
    for rows, block in blocks():
        whole = block.astype(np.float64)
        for number, (mask, part) in enumerate(zip(masks, parts, strict=True)):
            inside = mask[rows]
            if inside.any():
                yield number, whole if inside.all() else whole[inside], part.labels[rows][inside]


def _for_all_alphas(gram: NDArray, moment: NDArray, alphas: Sequence[float]) -> NDArray[np.float64]:
    """`(alphas, hidden, objectives)`: (X^T X + alpha)^-1 X^T y = V (s + alpha)^-1 V^T X^T y."""
    from scipy.linalg import eigh  # not where the backbone is trained

    values, vectors = eigh(gram)
    rotated = vectors.T @ moment
    # rounding makes eigenvalues of 0 a little less
    scales = 1 / (np.maximum(values, 0.0) + np.array(alphas)[:, None])
    return np.stack([vectors @ (scale[:, None] * rotated) for scale in scales])


def _solve(gram: NDArray, moment: NDArray, alpha: NDArray) -> NDArray[np.float64]:
    """`(objectives, hidden)`."""
    from scipy.linalg import solve

    weights = np.zeros(moment.shape[::-1])
    for value in np.unique(alpha):
        same = alpha == value
        regularised = gram.copy()
        regularised[np.diag_indices_from(regularised)] += value
        weights[same] = solve(regularised, moment[:, same], assume_a="pos", overwrite_a=True).T
    return weights
