"""Held-out answers under a model of ratings: from its outputs to what is logged, evaluation.json, and both as text.

Intervals draw prompts: answers to one prompt are not independent.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.intervals import RESAMPLES, number, share_of_rows
from reward_modeling.data.loader import PromptGroups
from reward_modeling.display.text import align, count, interval, percent
from reward_modeling.display.text import number as shown
from reward_modeling.objectives.rating_bins import output_bins

SEED = 0


@dataclass(frozen=True)
class EvaluatedRatings:
    """The held-out answers in the order of the data, each of them once."""

    where: list[str]
    attributes: tuple[str, ...]
    outputs: NDArray
    """`(answers, attributes)`, on the scale of the ratings."""
    ratings: NDArray
    """`(answers, attributes)`, NaN where not known."""
    spans: NDArray
    """`(attributes,)`: the width of each range."""
    rewards: NDArray
    """`(answers,)`: the scalar."""
    prompts: NDArray
    """`(answers,)`: the number of each answer's prompt."""
    tokens: NDArray

    @classmethod
    def from_rows(
        cls,
        rows: Sequence[tuple],
        groups: PromptGroups,
        attributes: tuple[str, ...],
        ranges: Sequence[tuple[float, float]],
        weights: Sequence[float],
    ) -> "EvaluatedRatings":
        """Whatever the order of the rows, and so on any number of processes, the same answers.

        Args:
            rows: ((group, answer of the group), *outputs between 0 and 1, *ratings).
        """
        groups_of, units = np.array([key for key, *_ in rows], dtype=np.int64).reshape(-1, 2).T
        numbers = groups.sizes.unit_offsets[groups_of] + units
        order = np.argsort(numbers, kind="stable")
        if not np.array_equal(numbers[order], np.arange(len(groups))):
            raise RuntimeError(f"expected each of {len(groups)} answers once, found {len(rows)}")
        table = np.array([values for _, *values in rows], dtype=np.float64)[order]
        low, high = np.array(ranges).T
        scaled, ratings = np.split(table, 2, axis=1)
        rewards, outputs = scaled @ np.array(weights), low + scaled * (high - low)
        where, tokens = groups.of_units("where"), groups.sizes.completion_tokens
        return cls(where, attributes, outputs, ratings, high - low, rewards, groups_of[order], tokens)

    def __len__(self) -> int:
        return len(self.where)

    @property
    def not_finite(self) -> str | None:
        """What to say where an output is not a finite number, of which no figure can be made; None if all are."""
        bad = np.flatnonzero(~np.isfinite(self.outputs).all(axis=1))
        if not len(bad):
            return None
        return (
            f"held-out outputs are not finite in {len(bad):,} of {len(self):,} answers, the first "
            f"{self.where[bad[0]]}, so there are no figures. Train without fp16, or lower --learning_rate."
        )

    def score_lines(self) -> Iterator[dict]:
        """The lines of eval_scores.jsonl."""
        for where, outputs, ratings, reward in zip(
            self.where, self.outputs.tolist(), self.ratings.tolist(), self.rewards.tolist(), strict=True
        ):
            known = [None if math.isnan(rating) else rating for rating in ratings]
            yield {
                "where": where,
                "reward": reward,
                "outputs": dict(zip(self.attributes, outputs, strict=True)),
                "ratings": dict(zip(self.attributes, known, strict=True)),
            }


def rating_figures(held_out: EvaluatedRatings) -> dict:
    """The figures of evaluation.json but where it comes from. For finite outputs."""
    errors = (held_out.outputs - held_out.ratings) / held_out.spans
    known = ~np.isnan(errors)
    loss = float((np.where(known, errors, 0.0) ** 2).sum(axis=1) @ (1 / known.sum(axis=1)) / len(errors))
    attributes = {
        name: _attribute_figures(held_out, place, known[:, place]) for place, name in enumerate(held_out.attributes)
    }
    figures = {
        "answers": len(held_out),
        "prompts": len(np.unique(held_out.prompts)),
        "loss": loss,
        "reward_mean": float(held_out.rewards.mean()),
        "reward_std": float(held_out.rewards.std()),
        "attributes": attributes,
    }
    for name in ("spearman", "pair_accuracy"):  # means over the attributes, for a log
        values = [of[name]["value"] for of in attributes.values() if of[name]["value"] is not None]
        figures[name] = float(np.mean(values)) if values else None
    return figures


def _attribute_figures(held_out: EvaluatedRatings, place: int, known: NDArray[np.bool_]) -> dict:
    outputs, ratings = held_out.outputs[known, place], held_out.ratings[known, place]
    prompts, tokens = held_out.prompts[known], held_out.tokens[known]
    squared = (outputs - ratings) ** 2
    of_mean = (ratings - (ratings.mean() if len(ratings) else 0.0)) ** 2  # of a judge who always says the mean
    return {
        "rows": int(known.sum()),
        "squared_error": mean_over_prompts(squared, prompts),
        "mean_label_squared_error": mean_over_prompts(of_mean, prompts),
        "pearson": correlation(outputs, ratings, prompts),
        "spearman": correlation(ranks_of(outputs), ranks_of(ratings), prompts),
        "length_spearman": correlation(ranks_of(tokens), ranks_of(ratings), prompts),
        **_pair_figures(outputs, ratings, tokens, prompts),
        "by_output": output_bins(outputs, ratings, prompts),
    }


def _pair_figures(outputs: NDArray, ratings: NDArray, tokens: NDArray, prompts: NDArray) -> dict:
    """Over the pairs of answers to one prompt with different ratings: how often the better one is above the other."""
    pairs = [
        (one, other) if ratings[one] > ratings[other] else (other, one)
        for places in _by_prompt(prompts)
        for one, other in combinations(places, 2)
        if ratings[one] != ratings[other]
    ]
    better, worse = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    longer = np.where(tokens[better] == tokens[worse], 0.5, tokens[better] > tokens[worse])
    right, equal = outputs[better] > outputs[worse], outputs[better] == outputs[worse]
    return {
        "pair_accuracy": share_of_rows(right, equal, prompts[better]),
        "longer_wins": share_of_rows(longer, longer == 0.5, prompts[better]),
    }


def _by_prompt(prompts: NDArray) -> list[NDArray]:
    order = np.argsort(prompts, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(prompts[order])) + 1) if len(prompts) else []


def ranks_of(values: NDArray) -> NDArray:
    """Ranks from 0, equal values with the mean of theirs.

    >>> ranks_of(np.array([3.0, 1.0, 3.0]))
    array([1.5, 0. , 1.5])
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts + 1) / 2)[inverse]


def _drawn(sums: NDArray) -> NDArray:
    """`(resamples, columns)`: sums over prompts that are drawn with replacement.

    Args:
        sums: `(prompts, columns)`.
    """
    draws = np.random.default_rng(SEED).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=RESAMPLES)
    return draws @ sums


def _with_interval(value: float, draws: NDArray) -> dict[str, float | None]:
    low, high = np.nanquantile(draws, [0.025, 0.975]) if np.isfinite(draws).any() else (math.nan, math.nan)
    return {"value": number(value), "low": number(min(low, value)), "high": number(max(high, value))}


def _sums_by_prompt(prompts: NDArray, *columns: NDArray) -> NDArray:
    _, of = np.unique(prompts, return_inverse=True)
    return np.stack([np.bincount(of, column) for column in columns], axis=1)


def mean_over_prompts(values: NDArray, prompts: NDArray) -> dict[str, float | None]:
    """The mean, with the 95% interval of draws of prompts."""
    if not len(values):
        return {"value": None, "low": None, "high": None}
    counts, sums = _drawn(_sums_by_prompt(prompts, np.ones(len(values)), values)).T
    return _with_interval(float(values.mean()), sums / counts)


def correlation(one: NDArray, other: NDArray, prompts: NDArray) -> dict[str, float | None]:
    """Pearson's, with the 95% interval of draws of prompts; of ranks it is Spearman's (ranks are not drawn anew)."""
    if len(one) < 2 or one.std() == 0 or other.std() == 0:
        return {"value": None, "low": None, "high": None}
    x, y = (one - one.mean()) / one.std(), (other - other.mean()) / other.std()
    n, sx, sy, sxx, syy, sxy = _drawn(_sums_by_prompt(prompts, np.ones(len(x)), x, y, x * x, y * y, x * y)).T
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = (n * sxy - sx * sy) / np.sqrt((n * sxx - sx**2) * (n * syy - sy**2))
    return _with_interval(float((x * y).mean()), draws)


# --- as text ------------------------------------------------------------------------------------------------------


def rating_shares(evaluation: Mapping) -> dict[str, Mapping]:
    """The shares of pairs of each attribute, under names for a tracker's table."""
    shares = {}
    for name, of in evaluation["attributes"].items():
        shares |= {name: of["pair_accuracy"], f"{name}, always the longer answer": of["longer_wins"]}
    return {name: share for name, share in shares.items() if share["rows"]}


def rating_lines(logs: Mapping[str, float]) -> list[str]:
    """An evaluation in the log of a run."""
    logs = {name.removeprefix("eval_"): value for name, value in logs.items()}
    parts = [f"loss {shown(logs['loss'])}"]
    if "spearman" in logs:
        parts.append(f"Spearman {shown(logs['spearman'])}")
    if "pair_accuracy" in logs:
        parts.append(f"{percent(logs['pair_accuracy'])}% of the pairs of a prompt right")
    return [f"evaluation of {count(logs['answers'])} answers: {', '.join(parts)}"]


def rating_table(evaluation: Mapping) -> str:
    """evaluation.json for a screen."""
    head = f"Held-out answers, after step {evaluation['step']} ({evaluation['data']}): {count(evaluation['answers'])}"
    rows = [("attribute", "rated", "squared error", "of the mean", "Spearman", "95% interval", "length", "pairs right")]
    for name, of in evaluation["attributes"].items():
        spearman, pairs = of["spearman"], of["pair_accuracy"]
        rows.append(
            (
                name,
                count(of["rows"]),
                _shown(of["squared_error"]["value"]),
                _shown(of["mean_label_squared_error"]["value"]),
                _shown(spearman["value"]),
                f"{_shown(spearman['low'])} to {_shown(spearman['high'])}",
                _shown(of["length_spearman"]["value"]),
                "-" if pairs["value"] is None else f"{percent(pairs['value'])}% ({interval(pairs)})",
            )
        )
    return "\n".join([head, *align(rows)])


def _shown(value: float | None) -> str:
    return "-" if value is None else shown(value)
