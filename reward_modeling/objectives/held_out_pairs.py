"""Held-out pairs under one model: from their rewards to the metrics that are logged and the figures of evaluation.json.

For every kind of model that compares the rewards of two answers.
"""

import itertools
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.intervals import by_subset, pair_accuracy
from reward_modeling.common.pair_statistics import accuracy_entry, pair_statistics
from reward_modeling.data.loader import PromptGroups

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
    loss_margins: NDArray  # what the loss subtracts
    chosen_tokens: NDArray
    rejected_tokens: NDArray

    @classmethod
    def from_rows(cls, rows: Sequence[tuple], groups: PromptGroups) -> "EvaluatedPairs":
        """Whatever the order of the rows, and so on any number of processes, the same pairs.

        Args:
            rows: ((group, pair of the group), chosen reward, rejected reward, margin of the loss).
        """
        groups_of, pairs_of = np.array([key for key, *_ in rows], dtype=np.int64).reshape(-1, 2).T
        numbers = groups.sizes.unit_offsets[groups_of] + pairs_of
        order = np.argsort(numbers, kind="stable")
        if not np.array_equal(numbers[order], np.arange(len(groups))):
            found = len(set(numbers.tolist()))
            raise RuntimeError(
                f"expected each of {len(groups)} pairs once, found {len(rows)} of {found} different ones"
            )
        columns = np.array([values for _, *values in rows], dtype=np.float64).reshape(-1, 3)[order].T
        where, (chosen, rejected, margins) = groups.of_units("where"), columns
        sources = [source or NO_SOURCE for source in groups.of_units("sources")]
        return cls(where, sources, chosen, rejected, margins, *groups.sizes.completion_tokens.reshape(-1, 2).T)

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
        columns = (self.chosen, self.rejected, self.chosen - self.rejected, self.chosen_tokens, self.rejected_tokens)
        names = ("chosen_reward", "rejected_reward", "margin", "chosen_tokens", "rejected_tokens")
        numbers = zip(*(column.tolist() for column in columns), strict=True)
        for where, source, values in zip(self.where, self.sources, numbers, strict=True):
            yield {"where": where, "source": source, **dict(zip(names, values, strict=True))}


def held_out_figures(pairs: EvaluatedPairs) -> dict:
    """The figures of evaluation.json but its loss and where it comes from; see results/files.py. For finite rewards."""
    return {
        "pairs": len(pairs),
        "reward_mean": float(pairs.rewards.mean()),
        "reward_std": float(pairs.rewards.std()),
        **pair_statistics(pairs.chosen, pairs.rejected, pairs.chosen_tokens, pairs.rejected_tokens),
        "by_length_difference": by_length_difference(pairs),
        "by_source": by_source(pairs),
        "rewards": _reward_histogram(pairs),
    }


def by_source(pairs: EvaluatedPairs) -> dict[str, dict]:
    """The accuracy over the pairs of each source, the largest first; beyond `MOST_SOURCES` the rest is one."""
    chosen, rejected = (by_subset(pairs.sources, rewards) for rewards in (pairs.chosen, pairs.rejected))
    names = sorted(chosen, key=lambda name: -len(chosen[name]))
    entries = {name: accuracy_entry(pair_accuracy(chosen[name], rejected[name])) for name in names[:MOST_SOURCES]}
    if rest := names[MOST_SOURCES:]:
        together = (np.concatenate([of[name] for name in rest]) for of in (chosen, rejected))
        entries[f"{len(rest)} other sources"] = accuracy_entry(pair_accuracy(*together))
    return entries


def by_length_difference(pairs: EvaluatedPairs) -> list[dict]:
    """The accuracy over the pairs whose chosen answer has from `from` to `to` tokens more than the rejected one.

    Bins are symmetric, with the same distances on either side of one that holds the nearly equal lengths.
    """
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
            share = pair_accuracy(pairs.chosen[inside], pairs.rejected[inside])
            entries.append({"from": low, "to": high, **accuracy_entry(share)})
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
SOURCE_ACCURACY = "accuracy_"
LONGEST_SOURCE = 60  # characters of a source's name in the name of a metric


def pair_metrics(pairs: EvaluatedPairs, loss: Callable[[EvaluatedPairs], float]) -> dict[str, float]:
    """What is logged of an evaluation. A tie is wrong; `low` and `high` are the ends of the 95% interval.

    NaN where a reward is not a finite number: a run is not ended for it, which may have saved nothing yet.
    """
    if pairs.not_finite is not None:
        logger.warning("!!! Evaluation: %s !!!", pairs.not_finite)
        return dict.fromkeys(EVALUATION_METRICS, math.nan) | {"pairs": len(pairs)}
    figures = held_out_figures(pairs)
    accuracy, sources = figures["accuracy"], figures["by_source"]
    metrics = {
        "loss": loss(pairs),
        "accuracy": accuracy["value"],
        "accuracy_low": accuracy["low"],
        "accuracy_high": accuracy["high"],
        "margin": figures["margins"]["mean"],
        "reward_mean": figures["reward_mean"],
        "reward_std": figures["reward_std"],
        "calibration_error": figures["calibration_error"],
        "longer_wins": figures["longer_wins"]["value"],
        "pairs": len(pairs),
    }
    if sources.keys() != {NO_SOURCE}:
        names = metric_names(sources, taken=metrics)
        metrics |= {names[source]: entry["value"] for source, entry in sources.items()}
    return metrics


def metric_names(sources: Iterable[str], taken: Iterable[str]) -> dict[str, str]:
    """`accuracy_<source>` for each source, in characters that every tracker takes, and each name once."""
    used, names = set(taken), {}
    for source in sources:
        name = SOURCE_ACCURACY + re.sub(r"[^0-9A-Za-z_.-]+", "_", source)[:LONGEST_SOURCE]
        several = (f"{name}_{number}" for number in itertools.count(2))
        names[source] = next(candidate for candidate in itertools.chain([name], several) if candidate not in used)
        used.add(names[source])
    return names
