"""Held-out answers under a model of ratings: from its outputs to what is logged, evaluation.json, and both as text.

The statistics: rating_statistics.py.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reward_modeling.data.loader import PromptGroups
from reward_modeling.display.text import align, count, interval, percent, share
from reward_modeling.display.text import number as shown
from reward_modeling.objectives.rating_bins import output_bins
from reward_modeling.objectives.rating_statistics import (
    SUMS,
    answer_sums,
    drawn_sums,
    formulas,
    is_outside,
    pair_shares,
    rated_pairs,
    sums_by_prompt,
    with_interval,
)

logger = logging.getLogger(__name__)

MEANS = ("spearman", "pair_accuracy")  # over the attributes that have them, for a log and to choose the best model


@dataclass(frozen=True)
class EvaluatedRatings:
    """The held-out answers in the order of the data, each of them once."""

    where: list[str]
    attributes: tuple[str, ...]
    outputs: NDArray
    """`(answers, attributes)`, on the scale of the ratings."""
    ratings: NDArray
    """`(answers, attributes)`, NaN where not known."""
    ranges: NDArray
    """`(attributes, 2)`: the least and the greatest rating that the model was trained on."""
    losses: NDArray
    """`(answers,)`, as in training."""
    rewards: NDArray
    """`(answers,)`: the scalar."""
    prompts: NDArray
    """`(answers,)`: the number of each answer's prompt."""
    answers: NDArray
    """`(answers,)`: the number of each among those of its prompt; an answer that was rated twice stands there twice."""
    lengths: NDArray
    """`(answers,)`, in characters."""
    others: NDArray
    """`(answers, others)`: what the objective has kept beside these."""

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
            rows: ((group, answer of the group), loss, *outputs between 0 and 1, *others).
        """
        keys = np.array([key for key, *_ in rows], dtype=np.int64).reshape(-1, 2)
        numbers = groups.sizes.unit_offsets[keys[:, 0]] + keys[:, 1]
        order = np.argsort(numbers, kind="stable")
        if not np.array_equal(numbers[order], np.arange(len(groups))):
            raise RuntimeError(f"expected each of {len(groups)} answers once, found {len(rows)}")
        table = np.array([values for _, *values in rows], dtype=np.float64)[order]
        scaled, others = table[:, 1 : 1 + len(attributes)], table[:, 1 + len(attributes) :]
        low, high = np.array(ranges).T
        return cls(
            groups.of_units("where"),
            attributes,
            outputs=low + scaled * (high - low),
            ratings=groups.targets().astype(np.float64),
            ranges=np.array(ranges),
            losses=table[:, 0],
            rewards=scaled @ np.array(weights),
            prompts=groups.sizes.group_of_unit,
            answers=groups.sizes.members,
            lengths=groups.completion_characters(),
            others=others,
        )

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


# --- figures ----------------------------------------------------------------------------------------------------------


def rating_figures(held_out: EvaluatedRatings) -> dict:
    """The figures of evaluation.json but where it comes from, with 95% intervals. For finite outputs."""
    sums = _sums_of_attributes(held_out)
    draws = drawn_sums(np.hstack(sums)).reshape(-1, len(sums), SUMS).swapaxes(0, 1)
    attributes = {}
    for place, name in enumerate(held_out.attributes):
        points, drawn = formulas(sums[place].sum(axis=0)), formulas(draws[place])
        figures = {figure: with_interval(float(points[figure]), drawn[figure]) for figure in points}
        outputs, ratings, *rest = _rated(held_out, place)
        outside = int(is_outside(ratings, held_out.ranges[place]).sum())
        attributes[name] = {"rows": len(ratings), "outside_of_range": outside} | figures
        attributes[name] |= pair_shares(outputs, ratings, *rest)
        attributes[name]["by_output"] = output_bins(outputs, ratings, rest[1])
    values = {name: {mean: of[mean]["value"] for mean in MEANS} for name, of in attributes.items()}
    return {
        "answers": len(held_out),
        "prompts": len(np.unique(held_out.prompts)),
        "loss": float(held_out.losses.mean()),
        "reward_mean": float(held_out.rewards.mean()),
        "reward_std": float(held_out.rewards.std()),
        **{name: _mean(of[name] for of in values.values()) for name in MEANS},
        "attributes": attributes,
    }


def rating_metrics(held_out: EvaluatedRatings) -> dict[str, float]:
    """What is logged of an evaluation, without intervals; NaN where it cannot be computed.

    Of each attribute `error_`, the root of the mean squared error as a share of its range, and `spearman_`.
    """
    if held_out.not_finite is not None:
        logger.warning("!!! Evaluation: %s !!!", held_out.not_finite)
        return dict.fromkeys(("loss", *MEANS), math.nan) | {"answers": len(held_out)}
    each, found = {}, {name: [] for name in MEANS}
    for place, (name, sums) in enumerate(zip(held_out.attributes, _sums_of_attributes(held_out), strict=True)):
        points = formulas(sums.sum(axis=0))
        width = held_out.ranges[place, 1] - held_out.ranges[place, 0]
        each |= {f"error_{name}": math.sqrt(points["squared_error"]) / width, f"spearman_{name}": points["spearman"]}
        outputs, ratings, _, prompts, answers = _rated(held_out, place)
        better, worse = rated_pairs(ratings, prompts, answers)
        right = (outputs[better] > outputs[worse]).mean() if len(better) else None
        found["spearman"].append(float(points["spearman"]))
        found["pair_accuracy"].append(right)
    means = {name: _mean(values) for name, values in found.items()}
    metrics = {"loss": float(held_out.losses.mean())}
    metrics |= {name: math.nan if value is None else value for name, value in means.items()}
    return metrics | {name: float(value) for name, value in each.items() if value == value} | {"answers": len(held_out)}


def _rated(held_out: EvaluatedRatings, place: int) -> tuple[NDArray, ...]:
    """Outputs, ratings, lengths, prompts and answers, `(rated,)` each, of the answers with a rating of an attribute."""
    known = ~np.isnan(held_out.ratings[:, place])
    columns = (held_out.outputs[:, place], held_out.ratings[:, place])
    return tuple(of[known] for of in (*columns, held_out.lengths, held_out.prompts, held_out.answers))


def _sums_of_attributes(held_out: EvaluatedRatings) -> list[NDArray]:
    """Of each attribute `(prompts, SUMS)`; prompts without answers that have it are zeros."""
    distinct, numbers = np.unique(held_out.prompts, return_inverse=True)
    sums = []
    for place in range(len(held_out.attributes)):
        known = ~np.isnan(held_out.ratings[:, place])
        outputs, ratings, lengths, _, _ = _rated(held_out, place)
        sums.append(sums_by_prompt(answer_sums(outputs, ratings, lengths), numbers[known], len(distinct)))
    return sums


def _mean(values: Iterator[float | None] | list[float | None]) -> float | None:
    """Over those that there are."""
    values = [value for value in values if value is not None and not math.isnan(value)]
    return float(np.mean(values)) if values else None


# --- as text ----------------------------------------------------------------------------------------------------------


def rating_shares(evaluation: Mapping) -> dict[str, Mapping]:
    """The shares of pairs of each attribute that has pairs, under names for a tracker's table."""
    shares = {}
    for name, of in evaluation["attributes"].items():
        if of["pair_accuracy"]["rows"]:
            shares |= {name: of["pair_accuracy"], f"{name}, always the longer answer": of["longer_wins"]}
    return shares


def rating_lines(logs: Mapping[str, float]) -> list[str]:
    """An evaluation in the log of a run."""
    logs = {name.removeprefix("eval_"): value for name, value in logs.items()}
    parts = [f"loss {shown(logs['loss'])}"]
    if not math.isnan(logs["spearman"]):
        parts.append(f"Spearman {shown(logs['spearman'])}")
    if not math.isnan(logs["pair_accuracy"]):
        parts.append(f"{percent(logs['pair_accuracy'])}% of the pairs of a prompt right")
    return [f"evaluation of {count(logs['answers'])} answers: {', '.join(parts)}"]


def rating_table(evaluation: Mapping) -> str:
    """evaluation.json for a screen."""
    answers, prompts = count(evaluation["answers"]), count(evaluation["prompts"])
    lines = [
        f"Held-out answers, after step {evaluation['step']} ({evaluation['data']})",
        f"  {answers} answers of {prompts} prompts; loss {shown(evaluation['loss'])}; rewards: mean "
        f"{shown(evaluation['reward_mean'])}, standard deviation {shown(evaluation['reward_std'])}",
        "  beside the model: who always says the mean rating, and who takes the longer answer for the better one",
        "",
    ]
    head = ("attribute", "rated", "squared error", "of the mean", "Spearman", "95% interval", "of the length")
    rows = [(*head, "pairs right", "95% interval", "the longer")]
    for name, of in evaluation["attributes"].items():
        spearman, pairs = of["spearman"], of["pair_accuracy"]
        errors = (_shown(of[figure]) for figure in ("squared_error", "mean_label_squared_error"))
        ends = "-" if spearman["low"] is None else f"{_shown(spearman, 'low')} to {_shown(spearman, 'high')}"
        of_pairs = [share(pairs), interval(pairs), share(of["longer_wins"])]
        rows.append(
            (name, count(of["rows"]), *errors, _shown(spearman), ends, _shown(of["length_spearman"]), *of_pairs)
        )
    outside = {name: of["outside_of_range"] for name, of in evaluation["attributes"].items() if of["outside_of_range"]}
    lines += align(rows)
    lines += [f"  ratings of {name} outside of the training set's range: {count(n)}" for name, n in outside.items()]
    return "\n".join(lines)


def _shown(figure: Mapping[str, float | None], end: str = "value") -> str:
    return "-" if figure[end] is None else shown(figure[end])
