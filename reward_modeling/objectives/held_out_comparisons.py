"""Held-out pairs under a pairwise model, each in both orders: what is logged, evaluation.json, and both as text.

The verdict on a pair is that of the mean over both orders of the probability that the chosen answer is the better one:
right above one half, half right at exactly one half. The mean is above one half where the output is greater with the
chosen answer first than with the rejected one first, which is compared without rounding.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.intervals import Accuracy, by_subset, longer_wins, share_of_rows
from reward_modeling.common.pair_statistics import calibration_bins, calibration_error
from reward_modeling.common.words import TIE
from reward_modeling.data.loader import PromptGroups
from reward_modeling.display.text import (
    accuracy_rows,
    align,
    count,
    interval,
    number,
    percent,
    points,
    share,
    shorten,
    wrap,
)
from reward_modeling.objectives.held_out_pairs import MOST_SHOWN, MOST_SOURCES, NO_SOURCE, SOURCE_ACCURACY, metric_names

logger = logging.getLogger(__name__)

ORDERS = ("chosen first", "rejected first")
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
        return (_sigmoid(self.chosen_first) + _sigmoid(-self.rejected_first)) / 2

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


def _sigmoid(outputs: NDArray) -> NDArray:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-outputs))


def verdicts(chosen_first: NDArray, rejected_first: NDArray, prompts: NDArray) -> Accuracy:
    """How often the mean probability of the chosen answer is above one half; at exactly one half it is half right.

    Args:
        chosen_first, rejected_first: `(pairs,)` outputs.
        prompts: as `share_of_rows` takes them.
    """
    ties = chosen_first == rejected_first
    return share_of_rows(np.where(ties, 0.5, chosen_first > rejected_first), ties, prompts)


def accuracy_of_orders(chosen_first: NDArray, rejected_first: NDArray, prompts: NDArray) -> dict[str, Accuracy]:
    """The accuracy of each order alone. A model without a liking for a place has the same in both."""
    zeros = np.zeros_like(chosen_first)
    outputs = ((chosen_first, zeros), (zeros, rejected_first))
    return {name: verdicts(*of, prompts) for name, of in zip(ORDERS, outputs, strict=True)}


def flip_figures(chosen_first: NDArray, rejected_first: NDArray, prompts: NDArray) -> dict[str, Accuracy]:
    """How often the verdict flips with the order, and which place then wins: shares of all pairs.

    `ties` are the pairs that have no verdict in one of the orders, at exactly one half; they do not flip.
    """
    no_verdict = (chosen_first == 0) | (rejected_first == 0)
    first = (chosen_first > 0) & (rejected_first > 0)
    second = (chosen_first < 0) & (rejected_first < 0)
    of_kinds = {"flips": first | second, "always_first": first, "always_second": second}
    return {name: share_of_rows(of, no_verdict, prompts) for name, of in of_kinds.items()}


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
    firsts = (_sigmoid(pairs.chosen_first) + _sigmoid(pairs.rejected_first)) / 2
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


# --- as text --------------------------------------------------------------------------------------------------------


def comparison_lines(logs: Mapping[str, float]) -> list[str]:
    """What a person needs of the metrics of an evaluation, as they were logged under "eval_"."""
    logs = {name.removeprefix("eval_"): value for name, value in logs.items()}
    pairs = f"evaluation of {count(logs['pairs'])} pairs in both orders: loss {number(logs['loss'])}"
    if math.isnan(logs["accuracy"]):
        return [pairs]
    ends = f"{percent(logs['accuracy_low'])}-{percent(logs['accuracy_high'])}"
    orders = f"{percent(logs['accuracy_chosen_first'])}% with the chosen one first"
    orders += f", {percent(logs['accuracy_rejected_first'])}% with the rejected one first"
    lines = [
        f"{pairs}, {percent(logs['accuracy'])}% right ({ends}; the longer answer {percent(logs['longer_wins'])}%), "
        f"{orders}; {percent(logs['flips'])}% of the verdicts flip with the order, calibration error "
        f"{points(logs['calibration_error'])}"
    ]
    sources = {name: logs[name] for name in logs if name.startswith(SOURCE_ACCURACY) and name not in METRICS}
    if sources:
        worst = sorted(sources, key=sources.__getitem__)[:MOST_SHOWN]
        more = f", and {len(sources) - len(worst)} better ones" if len(sources) > len(worst) else ""
        shares = (f"{shorten(name.removeprefix(SOURCE_ACCURACY))} {percent(sources[name])}" for name in worst)
        lines.append(f"by source: {', '.join(shares)}{more}")
    return lines


def figure_lines(evaluation: Mapping) -> list[str]:
    """The figures of evaluation.json in sentences, for a screen and for a page."""
    accuracy, longer = evaluation["accuracy"], evaluation["longer_wins"]
    lines = []
    if accuracy["rows"]:
        equal = f", {count(accuracy['ties'])} at exactly one half count as half right" if accuracy["ties"] else ""
        orders = (f"{name} {share(row)} ({interval(row)})" for name, row in evaluation["by_order"].items())
        flips, first, second = (evaluation[name] for name in ("flips", "always_first", "always_second"))
        groups = (f"{name} {share(row)} ({count(row['rows'])})" for name, row in evaluation["by_length"].items())
        lines += [
            f"mean of both orders: {share(accuracy)} right ({interval(accuracy)}){equal}",
            f"each order alone: {', '.join(orders)}",
            f"verdicts that flip with the order: {share(flips)} ({interval(flips)}); always the first answer "
            f"{share(first)}, always the second {share(second)}"
            + (f"; {count(flips['ties'])} have no verdict in one order" if flips["ties"] else ""),
            f"always the longer answer: {share(longer)} right ({interval(longer)})",
            f"by length: {', '.join(groups)}",
        ]
    if ties := evaluation.get("label_ties"):
        distance = f"mean distance of the probability from one half {number(ties['mean_distance'])}"
        lines.append(f"ties: {count(ties['pairs'])}, which are none of the above; {distance}")
    if weighted := evaluation.get("weighted_accuracy"):
        lines.append(f"by the weights of the rows: {share(weighted)} right ({interval(weighted)})")
    if "prompts" in evaluation:
        lines.append(f"the intervals take the pairs of each of {count(evaluation['prompts'])} prompts together")
    first = percent(evaluation["first_probability"])
    lines.append(
        f"calibration error: {points(evaluation['calibration_error'])}; mean probability of the answer that "
        f"stands first: {first}%"
    )
    return lines


def comparison_table(evaluation: Mapping) -> str:
    """evaluation.json for a screen."""
    lines = wrap(f"Held-out pairs, after step {evaluation['step']} ({evaluation['data']})")
    lines += [line for text in figure_lines(evaluation) for line in wrap(text, indent=2)]
    lines.append(f"  loss: {number(evaluation['loss'])}")
    if len(evaluation["by_source"]) > 1:
        sources = {shorten(name): row for name, row in evaluation["by_source"].items()}
        lines += ["", *align(accuracy_rows(sources, "source"))]
    return "\n".join(lines)


def comparison_shares(evaluation: Mapping) -> dict[str, Mapping]:
    """Every share of evaluation.json, under a name for a tracker's table."""
    return {
        "all": evaluation["accuracy"],
        **({"all, by weight": evaluation["weighted_accuracy"]} if "weighted_accuracy" in evaluation else {}),
        **evaluation["by_order"],
        "verdicts that flip": evaluation["flips"],
        "always the longer answer": evaluation["longer_wins"],
        **evaluation["by_length"],
        **{f"source {name}": row for name, row in evaluation["by_source"].items()},
    }
