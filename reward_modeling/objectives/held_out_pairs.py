"""Held-out pairs under one model: from their rewards to what is logged, evaluation.json, and both as text.

For every kind of model that compares the rewards of two answers.
"""

import itertools
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.intervals import by_subset, pair_accuracy
from reward_modeling.common.pair_statistics import PairLabels, PredictTies, pair_statistics
from reward_modeling.data.loader import PromptGroups
from reward_modeling.display.text import accuracy_rows, align, count, number, pair_lines, percent, points, shorten, wrap

logger = logging.getLogger(__name__)

NO_SOURCE = "no source"
MOST_SOURCES = 50
REWARD_BINS = 40
DISTANCE_QUANTILES = (0.25, 0.5, 0.75)  # four distances on either side, of which the two nearest to zero are one bin


@dataclass(frozen=True)
class EvaluatedPairs:
    """The held-out pairs in the order of the data, each of them once. Arrays are `(pairs,)`."""

    where: list[str]
    sources: list[str]
    chosen: NDArray  # rewards
    rejected: NDArray
    probabilities: NDArray  # that the chosen answer is the better one; of a tie one half
    strengths: NDArray
    margins: NDArray  # what the loss subtracts
    weights: NDArray
    chosen_tokens: NDArray
    rejected_tokens: NDArray
    prompts: NDArray  # the number of each pair's prompt

    @classmethod
    def from_rows(cls, rows: Sequence[tuple], groups: PromptGroups) -> "EvaluatedPairs":
        """Whatever the order of the rows, and so on any number of processes, the same pairs.

        Args:
            rows: ((group, pair of the group), chosen reward, rejected reward, probability, strength, margin).
        """
        groups_of, pairs_of = np.array([key for key, *_ in rows], dtype=np.int64).reshape(-1, 2).T
        numbers = groups.sizes.unit_offsets[groups_of] + pairs_of
        order = np.argsort(numbers, kind="stable")
        if not np.array_equal(numbers[order], np.arange(len(groups))):
            found = len(set(numbers.tolist()))
            raise RuntimeError(
                f"expected each of {len(groups)} pairs once, found {len(rows)} of {found} different ones"
            )
        columns = np.array([values for _, *values in rows], dtype=np.float64).reshape(-1, 5)[order].T
        where, weights = groups.of_units("where"), groups.sizes.unit_weights.copy()  # Arrow's own cannot be written to
        sources = [source or NO_SOURCE for source in groups.of_units("sources")]
        tokens = groups.sizes.completion_tokens.reshape(-1, 2).T
        return cls(where, sources, *columns, weights, *tokens, groups.sizes.group_of_unit)

    @property
    def labels(self) -> PairLabels:
        return PairLabels(self.probabilities, self.weights, self.prompts)

    def without_ties(self) -> "EvaluatedPairs":
        """Those of which one answer is the better one."""
        if not self.labels.are_ties.any():
            return self
        kept = ~self.labels.are_ties
        texts = ([text for text, is_kept in zip(of, kept, strict=True) if is_kept] for of in (self.where, self.sources))
        arrays = (getattr(self, one.name)[kept] for one in fields(self)[2:])
        return EvaluatedPairs(*texts, *arrays)

    def __len__(self) -> int:
        return len(self.where)

    @property
    def rewards(self) -> NDArray:
        """`(2 x pairs,)`."""
        return np.concatenate([self.chosen, self.rejected])

    @property
    def not_finite(self) -> str | None:
        """What to say where a reward is not a finite number, which no figure can be made of; None if all are.

        Every comparison with NaN is false: a broken model would merely look like a bad one.
        """
        bad = np.flatnonzero(~np.isfinite(self.chosen + self.rejected))
        if not len(bad):
            return None
        first = bad[0]
        return (
            f"held-out rewards are not finite in {len(bad):,} of {len(self):,} pairs, the first {self.where[first]} "
            f"(chosen {self.chosen[first]}, rejected {self.rejected[first]}), so there are no figures. Train without "
            "fp16, or lower --learning_rate."
        )

    def score_lines(self) -> Iterator[dict]:
        """The lines of eval_scores.jsonl."""
        names = ("where", "source", "chosen_reward", "rejected_reward", "margin", "chosen_tokens", "rejected_tokens")
        columns = (self.chosen, self.rejected, self.chosen - self.rejected, self.chosen_tokens, self.rejected_tokens)
        if (self.probabilities != 1).any():
            names, columns = (*names, "chosen_probability"), (*columns, self.probabilities)
        for values in zip(self.where, self.sources, *(column.tolist() for column in columns), strict=True):
            yield dict(zip(names, values, strict=True))


def held_out_figures(pairs: EvaluatedPairs, predict_ties: PredictTies | None = None) -> dict:
    """The figures of evaluation.json but its loss and where it comes from; see results/run.py. For finite rewards."""
    compared = pairs.without_ties()
    sides = (pairs.chosen, pairs.rejected, pairs.chosen_tokens, pairs.rejected_tokens)
    return {
        "pairs": len(pairs),
        "reward_mean": float(pairs.rewards.mean()),
        "reward_std": float(pairs.rewards.std()),
        **pair_statistics(*sides, pairs.labels, predict_ties),
        "by_length_difference": by_length_difference(compared),
        "by_source": by_source(compared),
        "rewards": _reward_histogram(pairs),
    }


def by_source(pairs: EvaluatedPairs) -> dict[str, dict]:
    """The accuracy over the pairs of each source, the largest first; beyond `MOST_SOURCES` the rest is one."""
    columns = [by_subset(pairs.sources, column) for column in (pairs.chosen, pairs.rejected, pairs.prompts)]
    names = sorted(columns[0], key=lambda name: -len(columns[0][name]))
    entries = {name: pair_accuracy(*(of[name] for of in columns)) for name in names[:MOST_SOURCES]}
    if rest := names[MOST_SOURCES:]:
        together = (np.concatenate([of[name] for name in rest]) for of in columns)
        entries[f"{len(rest)} other sources"] = pair_accuracy(*together)
    return entries


def by_length_difference(pairs: EvaluatedPairs) -> list[dict]:
    """The accuracy over the pairs whose chosen answer has from `from` to `to` tokens more than the rejected one.

    Bins are symmetric, with the same distances on either side of one that holds the nearly equal lengths.
    """
    if not len(pairs):
        return []
    difference = pairs.chosen_tokens - pairs.rejected_tokens
    distance = np.abs(difference)
    # `higher` takes distances that occur, so that ends are whole numbers and no bin is cut in the middle of one.
    edges = np.unique([*np.quantile(distance, DISTANCE_QUANTILES, method="higher"), distance.max()]).astype(int)
    farther = [(int(low) + 1, int(high)) for low, high in pairwise(edges)]
    bins = [(-high, -low) for low, high in reversed(farther)] + [(-int(edges[0]), int(edges[0]))] + farther
    entries = []
    for low, high in bins:
        inside = (low <= difference) & (difference <= high)
        if inside.any():
            accuracy = pair_accuracy(pairs.chosen[inside], pairs.rejected[inside], pairs.prompts[inside])
            entries.append({"from": low, "to": high, **accuracy})
    return entries


def _reward_histogram(pairs: EvaluatedPairs) -> dict[str, list]:
    """Chosen and rejected in the same bins; what lies far out is counted in the outermost ones."""
    low, high = np.quantile(pairs.rewards, [0.005, 0.995])
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, REWARD_BINS + 1)
    chosen, rejected = (np.histogram(np.clip(of, low, high), edges)[0] for of in (pairs.chosen, pairs.rejected))
    return {"edges": edges.tolist(), "chosen": chosen.tolist(), "rejected": rejected.tolist()}


EVALUATION_METRICS = (
    *("loss", "accuracy", "accuracy_low", "accuracy_high", "margin", "reward_mean", "reward_std"),
    *("calibration_error", "longer_wins"),
)
TIES = "ties"
PREDICTED = {"predicted_ties": "ties", "predicted_ties_of_others": "other pairs"}
SOURCE_ACCURACY = "accuracy_"
LONGEST_SOURCE = 60  # characters of a source's name in the name of a metric
MOST_SHOWN = 8  # sources in the line of an evaluation, the worst ones


def pair_metrics(
    pairs: EvaluatedPairs, loss: Callable[[EvaluatedPairs], float], predict_ties: PredictTies | None = None
) -> dict[str, float]:
    """What is logged of an evaluation. Equal rewards are wrong; `low` and `high` are the ends of the 95% interval.

    NaN where a reward is not a finite number: a run is not ended for it, which may have saved nothing yet. NaN are
    also the figures that compare, where all pairs are ties.
    """
    if pairs.not_finite is not None:
        logger.warning("!!! Evaluation: %s !!!", pairs.not_finite)
        return dict.fromkeys(EVALUATION_METRICS, math.nan) | {"pairs": len(pairs)}
    figures = held_out_figures(pairs, predict_ties)
    accuracy, sources = figures["accuracy"], figures["by_source"]
    values = (loss(pairs), accuracy["value"], accuracy["low"], accuracy["high"], figures["margins"]["mean"])
    values += (figures["reward_mean"], figures["reward_std"], figures["calibration_error"])
    values += (figures["longer_wins"]["value"],)
    values = (math.nan if value is None else value for value in values)
    metrics = {**dict(zip(EVALUATION_METRICS, values, strict=True)), "pairs": len(pairs)}
    metrics |= _tie_metrics(figures["ties"]) if "ties" in figures else {}
    if sources.keys() != {NO_SOURCE}:
        names = metric_names(sources, taken=metrics)
        metrics |= {names[source]: entry["value"] for source, entry in sources.items()}
    return metrics


def _tie_metrics(ties: Mapping) -> dict[str, float]:
    """The number of ties, and the mean probability of a tie that a model of ties gives them and other pairs."""
    predicted = {key: ties[of].get("predicted_ties") for key, of in zip(PREDICTED, ("ties", "others"), strict=True)}
    return {TIES: ties["pairs"]} | {key: value for key, value in predicted.items() if value is not None}


def metric_names(sources: Iterable[str], taken: Iterable[str]) -> dict[str, str]:
    """`accuracy_<source>` for each source, in characters that every tracker takes, and each name once."""
    used, names = set(taken), {}
    for source in sources:
        name = SOURCE_ACCURACY + re.sub(r"[^0-9A-Za-z_.-]+", "_", source)[:LONGEST_SOURCE]
        several = (f"{name}_{number}" for number in itertools.count(2))
        names[source] = next(candidate for candidate in itertools.chain([name], several) if candidate not in used)
        used.add(names[source])
    return names


def evaluation_lines(logs: Mapping[str, float]) -> list[str]:
    """What a person needs of the metrics of an evaluation, as they were logged under "eval_"."""
    logs = {name.removeprefix("eval_"): value for name, value in logs.items()}
    ties, pairs = logs.get(TIES, 0), count(logs["pairs"])
    rewards = f"rewards {number(logs['reward_mean'])} ± {number(logs['reward_std'])}"
    if ties == logs["pairs"]:
        lines = [f"evaluation of {pairs} pairs, all of them ties: loss {number(logs['loss'])}, {rewards}"]
    else:
        low, high = percent(logs["accuracy_low"]), percent(logs["accuracy_high"])
        lines = [
            f"evaluation of {pairs} pairs{f', {count(ties)} of them ties' if ties else ''}: loss "
            f"{number(logs['loss'])}, {percent(logs['accuracy'])}% right ({low}-{high}; the longer answer "
            f"{percent(logs['longer_wins'])}%), margin {number(logs['margin'])}, {rewards}, calibration error "
            f"{points(logs['calibration_error'])}"
        ]
    predicted = {name: percent(logs[key]) for key, name in PREDICTED.items() if key in logs}
    if predicted:
        shares = ", ".join(f"{share}% on {name}" for name, share in predicted.items())
        lines.append(f"probability of a tie by the model: {shares}")
    sources = {name: logs[name] for name in logs if name.startswith(SOURCE_ACCURACY) and name not in EVALUATION_METRICS}
    if sources:
        worst = sorted(sources, key=sources.__getitem__)[:MOST_SHOWN]
        more = f", and {len(sources) - len(worst)} better ones" if len(sources) > len(worst) else ""
        shares = (f"{shorten(name.removeprefix(SOURCE_ACCURACY))} {percent(sources[name])}" for name in worst)
        lines.append(f"by source: {', '.join(shares)}{more}")
    return lines


def held_out_table(evaluation: Mapping) -> str:
    """Everything that evaluation.json (see results/run.py) has for a screen."""
    lines = wrap(f"Held-out pairs, after step {evaluation['step']} ({evaluation['data']})")
    lines += [line for text in pair_lines(evaluation) for line in wrap(text, indent=2)]
    mean, deviation = number(evaluation["reward_mean"]), number(evaluation["reward_std"])
    lines.append(f"  loss: {number(evaluation['loss'])}; rewards: mean {mean}, standard deviation {deviation}")
    if len(evaluation["by_source"]) > 1:
        sources = {shorten(name): row for name, row in evaluation["by_source"].items()}
        lines += ["", *align(accuracy_rows(sources, "source"))]
    return "\n".join(lines)


def named_shares(evaluation: Mapping) -> dict[str, Mapping]:
    """Every accuracy of evaluation.json, under a name for a tracker's table."""
    return {
        "all": evaluation["accuracy"],
        **({"all, by weight": evaluation["weighted_accuracy"]} if "weighted_accuracy" in evaluation else {}),
        "always the longer answer": evaluation["longer_wins"],
        **evaluation["by_length"],
        **{f"source {name}": row for name, row in evaluation["by_source"].items()},
    }
