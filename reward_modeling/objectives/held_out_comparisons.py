"""Held-out pairs under a pairwise model, each in both orders: what is logged, and evaluation.json.

The verdict on a pair is that of the mean over both orders of the probability that the chosen answer is the better one:
right above one half, half right at exactly one half. The mean is above one half where the output is greater with the
chosen answer first than with the rejected one first, which is compared without rounding.
Both as text: comparison_words.py.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.intervals import Accuracy, by_subset, longer_wins, share_of_rows
from reward_modeling.common.pair_probabilities import (
    ORDERS,
    accuracy_of_orders,
    flip_figures,
    mean_probability,
    sigmoid,
    verdicts,
)
from reward_modeling.common.pair_statistics import calibration_bins, calibration_error
from reward_modeling.common.words import TIE
from reward_modeling.data.loader import PromptGroups
from reward_modeling.objectives.held_out_pairs import MOST_SOURCES, NO_SOURCE, metric_names

logger = logging.getLogger(__name__)

METRICS = (
    *("loss", "accuracy", "accuracy_low", "accuracy_high", "accuracy_chosen_first", "accuracy_rejected_first"),
    *("flips", "first_probability", "calibration_error", "longer_wins"),
)


@dataclass(frozen=True)
class EvaluatedComparisons:
    """The held-out pairs in the order of the data, each of them once. Arrays are `(pairs,)`."""

    where: list[str]
    sources: list[str]
    chosen_first: NDArray
    """The output with the chosen answer first: its sigmoid is the probability of the chosen answer."""
    rejected_first: NDArray
    """With the rejected answer first: its sigmoid is the probability of the rejected answer."""
    probabilities: NDArray
    """That the chosen answer is the better one; of a tie one half."""
    chosen_lengths: NDArray
    """In characters."""
    rejected_lengths: NDArray
    weights: NDArray
    prompts: NDArray
    """The number of each pair's prompt."""

    @classmethod
    def from_rows(cls, rows: Sequence[tuple], groups: PromptGroups) -> "EvaluatedComparisons":
        """Whatever the order of the rows, and so on any number of processes, the same pairs.

        Args:
            rows: ((group, pair of the group), output with the chosen answer first, with the rejected one, probability,
                lengths of the chosen and of the rejected answer).
        """
        keys = np.array([key for key, *_ in rows], dtype=np.int64).reshape(-1, 2)
        numbers = groups.sizes.unit_offsets[keys[:, 0]] + keys[:, 1]
        order = np.argsort(numbers, kind="stable")
        if not np.array_equal(numbers[order], np.arange(len(groups))):
            raise RuntimeError(f"expected each of {len(groups)} pairs once, found {len(rows)}")
        columns = np.array([values for _, *values in rows], dtype=np.float64).reshape(-1, 5)[order].T
        sources = [source or NO_SOURCE for source in groups.of_units("sources")]
        weights = groups.sizes.unit_weights.copy()  # Arrow's own cannot be written to
        return cls(groups.of_units("where"), sources, *columns, weights, groups.sizes.group_of_unit)

    def __len__(self) -> int:
        return len(self.where)

    @property
    def are_ties(self) -> NDArray[np.bool_]:
        return self.probabilities == TIE

    def without_ties(self) -> "EvaluatedComparisons":
        """Those of which one answer is the better one."""
        if not self.are_ties.any():
            return self
        kept = ~self.are_ties
        texts = ([text for text, is_kept in zip(of, kept, strict=True) if is_kept] for of in (self.where, self.sources))
        return EvaluatedComparisons(*texts, *(getattr(self, one.name)[kept] for one in fields(self)[2:]))

    @property
    def mean_probabilities(self) -> NDArray:
        """`(pairs,)`: of the chosen answer, the mean over both orders."""
        return mean_probability(self.chosen_first, self.rejected_first)

    @property
    def rewards(self) -> NDArray:
        """`(2 x pairs,)`: the outputs, which are no rewards of single answers."""
        return np.concatenate([self.chosen_first, self.rejected_first])

    @property
    def not_finite(self) -> str | None:
        """What to say where an output is not a finite number, of which no figure can be made; None if all are."""
        bad = np.flatnonzero(~np.isfinite(self.chosen_first + self.rejected_first))
        if not len(bad):
            return None
        return (
            f"held-out outputs are not finite in {len(bad):,} of {len(self):,} pairs, the first {self.where[bad[0]]}, "
            "so there are no figures. Train without fp16, or lower --learning_rate."
        )

    def score_lines(self) -> Iterator[dict]:
        """The lines of eval_scores.jsonl."""
        names = ("where", "source", "probability", "chosen_first", "rejected_first")
        names += ("chosen_characters", "rejected_characters")
        lengths = (of.astype(int) for of in (self.chosen_lengths, self.rejected_lengths))
        columns = (self.mean_probabilities, self.chosen_first, self.rejected_first, *lengths)
        if (self.probabilities != 1).any():
            names, columns = (*names, "chosen_probability"), (*columns, self.probabilities)
        for values in zip(self.where, self.sources, *(column.tolist() for column in columns), strict=True):
            yield dict(zip(names, values, strict=True))


def comparison_figures(pairs: EvaluatedComparisons) -> dict:
    """The figures of evaluation.json but its loss and where it comes from; see results/comparisons.py."""
    compared = pairs.without_ties()
    outputs = compared.chosen_first, compared.rejected_first
    lengths = compared.chosen_lengths, compared.rejected_lengths
    bins = calibration_bins(
        pairs.chosen_first,
        pairs.rejected_first,
        probabilities=pairs.probabilities,
        prompts=pairs.prompts,
        predicted=pairs.mean_probabilities,
    )
    firsts = (sigmoid(pairs.chosen_first) + sigmoid(pairs.rejected_first)) / 2
    figures = {
        "pairs": len(pairs),
        "accuracy": verdicts(*outputs, compared.prompts),
        "by_order": accuracy_of_orders(*outputs, compared.prompts),
        **flip_figures(*outputs, compared.prompts),
        "first_probability": float(firsts.mean()),
        "longer_wins": longer_wins(*lengths, compared.prompts),
        "by_length": _by_length(compared),
        "by_source": _by_source(compared),
        "calibration_error": calibration_error(bins),
        "calibration": bins,
    }
    if (num_prompts := len(np.unique(pairs.prompts))) < len(pairs):
        figures["prompts"] = num_prompts
    if len(compared) and (compared.weights != compared.weights[0]).any():
        ties = outputs[0] == outputs[1]
        right = np.where(ties, 0.5, outputs[0] > outputs[1])
        figures["weighted_accuracy"] = share_of_rows(right, ties, compared.prompts, compared.weights)
    if pairs.are_ties.any():
        distance = np.abs(pairs.mean_probabilities[pairs.are_ties] - 0.5)
        figures["label_ties"] = {"pairs": int(pairs.are_ties.sum()), "mean_distance": float(distance.mean())}
    return figures


def _by_length(pairs: EvaluatedComparisons) -> dict[str, Accuracy]:
    longer = np.sign(pairs.chosen_lengths - pairs.rejected_lengths)
    groups = {"chosen longer": longer > 0, "rejected longer": longer < 0, "equal length": longer == 0}
    columns = (pairs.chosen_first, pairs.rejected_first, pairs.prompts)
    return {name: verdicts(*(of[group] for of in columns)) for name, group in groups.items()}


def _by_source(pairs: EvaluatedComparisons) -> dict[str, Accuracy]:
    """The largest first; beyond `MOST_SOURCES` the rest is one."""
    columns = [by_subset(pairs.sources, of) for of in (pairs.chosen_first, pairs.rejected_first, pairs.prompts)]
    names = sorted(columns[0], key=lambda name: -len(columns[0][name]))
    entries = {name: verdicts(*(of[name] for of in columns)) for name in names[:MOST_SOURCES]}
    if rest := names[MOST_SOURCES:]:
        together = (np.concatenate([of[name] for name in rest]) for of in columns)
        entries[f"{len(rest)} other sources"] = verdicts(*together)
    return entries


# --- in the log -----------------------------------------------------------------------------------------------------


def comparison_metrics(pairs: EvaluatedComparisons, loss: Callable[[EvaluatedComparisons], float]) -> dict[str, float]:
    """What is logged of an evaluation: NaN where an output is not a finite number, or where all pairs are ties."""
    if pairs.not_finite is not None:
        logger.warning("!!! Evaluation: %s !!!", pairs.not_finite)
        return dict.fromkeys(METRICS, math.nan) | {"pairs": len(pairs)}
    figures = comparison_figures(pairs)
    accuracy, orders = figures["accuracy"], figures["by_order"]
    values = (loss(pairs), *(accuracy[key] for key in ("value", "low", "high")))
    values += tuple(orders[name]["value"] for name in ORDERS)
    values += (figures["flips"]["value"], figures["first_probability"], figures["calibration_error"])
    values += (figures["longer_wins"]["value"],)
    metrics = {n: math.nan if v is None else v for n, v in zip(METRICS, values, strict=True)} | {"pairs": len(pairs)}
    if figures["by_source"].keys() - {NO_SOURCE}:
        names = metric_names(figures["by_source"], taken=metrics)
        metrics |= {names[source]: entry["value"] for source, entry in figures["by_source"].items()}
    return metrics
