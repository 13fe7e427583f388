"""The figures of pairs whose answers have rewards: of a benchmark, and of held-out rows during training.

Plain dictionaries of JSON's types come out; a figure that is incomplete is None.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reward_modeling.common.intervals import (
    accuracy_by_length,
    longer_wins,
    pair_accuracy,
    pair_rewards,
    share_of_rows,
)
from reward_modeling.common.words import TIE

MARGIN_BINS = 40

PredictTies = Callable[[NDArray], tuple[NDArray, NDArray]]
"""From differences of rewards, `(pairs,)`, to P(tie) and P(first answer | no tie), of a model that has ties."""


@dataclass(frozen=True)
class PairLabels:
    """What is known of pairs beside their answers. Arrays are `(pairs,)`."""

    probabilities: NDArray
    """That the chosen answer is the better one; of a tie one half."""
    weights: NDArray
    prompts: NDArray
    """The number of each pair's prompt: pairs of one prompt are not independent."""

    @classmethod
    def of_preferences(cls, pairs: int) -> "PairLabels":
        """Each of a prompt of its own, and nothing known but which answer is preferred."""
        return cls(np.ones(pairs), np.ones(pairs), np.arange(pairs))

    @property
    def are_ties(self) -> NDArray[np.bool_]:
        """`(pairs,)`: whether nobody is preferred."""
        return self.probabilities == TIE


def pair_statistics(
    chosen: NDArray,
    rejected: NDArray,
    chosen_lengths: NDArray,
    rejected_lengths: NDArray,
    labels: PairLabels | None = None,
    predict_ties: PredictTies | None = None,
) -> dict:
    """Everything about any pairs; all four arrays are `(pairs,)`, the lengths in characters or in tokens.

    Accuracies and margins are over the pairs that are no ties; of ties see `tie_figures`. The calibration takes all
    pairs with their probabilities, a tie as half right. Of a model that gives ties a probability of their own it takes
    the others alone, and holds them against the probability that the model gives the favourite where there is no tie.
    """
    labels = labels or PairLabels.of_preferences(len(chosen))
    compared = ~labels.are_ties
    better, worse, *lengths = (of[compared] for of in (chosen, rejected, chosen_lengths, rejected_lengths))
    prompts, weights = labels.prompts[compared], labels.weights[compared]
    if predict_ties is None:
        bins = calibration_bins(chosen, rejected, probabilities=labels.probabilities, prompts=labels.prompts)
    else:
        first, known = predict_ties(better - worse)[1], labels.probabilities[compared]
        bins = calibration_bins(better, worse, probabilities=known, prompts=prompts, predicted=first)
    figures = {
        "accuracy": pair_accuracy(better, worse, prompts),
        "longer_wins": longer_wins(*lengths, prompts),
        "by_length": accuracy_by_length(better, worse, *lengths, prompts),
        "calibration_error": calibration_error(bins),
        "calibration": bins,
        "margins": _margins(better - worse),
    }
    if (num_prompts := len(np.unique(labels.prompts))) < len(chosen):
        figures["prompts"] = num_prompts
    if len(weights) and (weights != weights[0]).any():
        figures["weighted_accuracy"] = share_of_rows(better > worse, better == worse, prompts, weights)
    if predict_ties is not None or not compared.all():
        figures["ties"] = tie_figures(chosen - rejected, ~compared, predict_ties)
    return figures


def tie_figures(differences: NDArray, are_ties: NDArray[np.bool_], predict_ties: PredictTies | None = None) -> dict:
    """How far apart the rewards of ties are and of other pairs, and what a model of ties says of both.

    Returns:
        `pairs`, the number of ties; of `ties` and of `others` the mean distance of their rewards and, under a model of
        ties, the mean of the probability of a tie that it gives them; None where there are no such pairs.
    """
    predicted = None if predict_ties is None else predict_ties(differences)[0]
    figures: dict = {"pairs": int(are_ties.sum())}
    for name, which in (("ties", are_ties), ("others", ~are_ties)):
        figures[name] = {"mean_distance": _mean(np.abs(differences[which]))}
        if predicted is not None:
            figures[name]["predicted_ties"] = _mean(predicted[which])
    return figures


def _mean(values: NDArray) -> float | None:
    return float(values.mean()) if len(values) else None


def calibration_bins(
    chosen: ArrayLike,
    rejected: ArrayLike,
    bins: int = 10,
    probabilities: NDArray | None = None,
    prompts: NDArray | None = None,
    predicted: NDArray | None = None,
) -> list[dict]:
    """Predicted probability (Bradley-Terry) against the observed share, in `bins` equal bins of [0.5, 1].

    sigmoid(chosen - rejected) cannot be held against outcomes directly: the chosen answer won in every row, so the
    observed share would be 1 in every bin. The model does not know which answer is the chosen one; it gives its own
    favourite the probability sigmoid(|chosen - rejected|), its confidence, and what is observed is how often the
    favourite is the chosen answer. (Taking every pair in both orders gives these points and their mirror images below
    0.5, and nothing new.) A tie has no favourite: confidence 0.5, half right, and counted under `ties`.

    Args:
        chosen, rejected: `(pairs,)` rewards.
        probabilities: `(pairs,)`, that chosen is the better one (of a tie one half): it takes the place of an outcome.
            None: 1 of all.
        prompts: `(pairs,)`, as `intervals.share_of_rows` takes them.
        predicted: `(pairs,)`, the probability of the chosen answer where a model has another one than Bradley-Terry's;
            one half where the rewards are equal.

    Returns:
        Of each bin [low, high), the last of which includes its upper end: the mean confidence, and the observed share
        as an `Accuracy` has it, with value_low and value_high in place of low and high.
    """
    chosen, rejected = pair_rewards(chosen, rejected)
    margins = chosen - rejected
    confidence = 1 / (1 + np.exp(-np.abs(margins))) if predicted is None else np.maximum(predicted, 1 - predicted)
    won = np.ones_like(margins) if probabilities is None else probabilities
    right = np.where(margins == 0, 0.5, np.where(margins > 0, won, 1 - won))
    prompts = np.arange(len(margins)) if prompts is None else prompts
    edges = np.linspace(0.5, 1, bins + 1)
    bin_of = np.minimum(np.searchsorted(edges, confidence, side="right") - 1, bins - 1)
    table = []
    for index, (low, high) in enumerate(pairwise(edges.tolist())):
        inside = bin_of == index
        observed = share_of_rows(right[inside], margins[inside] == 0, prompts[inside])
        observed |= {"value_low": observed.pop("low"), "value_high": observed.pop("high")}
        table.append({"low": low, "high": high, "confidence": _mean(confidence[inside]), **observed})
    return table


def calibration_error(bins: Sequence[Mapping]) -> float | None:
    """Mean distance of confidence and observed share, weighted by the rows of the bins; None without rows."""
    rows = sum(of_bin["rows"] for of_bin in bins)
    filled = (of_bin for of_bin in bins if of_bin["rows"])
    return sum(b["rows"] * abs(b["confidence"] - b["value"]) for b in filled) / rows if rows else None


def _margins(margins: NDArray) -> dict:
    """A histogram in which zero is an edge, so that a bar is either right or wrong."""
    if not len(margins):
        return {"mean": None, "median": None, "standard_deviation": None, "edges": [], "counts": []}
    # A few far outliers would leave all others in one bar: what lies beyond is counted in the outermost bars.
    reach = float(np.quantile(np.abs(margins), 0.99)) or float(np.abs(margins).max()) or 1.0
    edges = np.linspace(-reach, reach, MARGIN_BINS + 1)
    edges[MARGIN_BINS // 2] = 0.0
    counts, _ = np.histogram(np.clip(margins, -reach, reach), edges)
    return {
        "mean": float(margins.mean()),
        "median": float(np.median(margins)),
        "standard_deviation": float(margins.std()),
        "edges": edges.tolist(),
        "counts": counts.tolist(),
    }
