"""Held-out solutions under a process model: what is logged, evaluation.json, and both as text.

The statistics: step_statistics.py.
"""

import logging
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.aggregations import AGGREGATIONS
from reward_modeling.common.intervals import number, share_of_rows
from reward_modeling.common.step_statistics import EVEN, area_under_curve, calibration_bins, says_right
from reward_modeling.display.text import align, count, interval, percent, share
from reward_modeling.display.text import number as shown
from reward_modeling.objectives.evaluated_steps import EvaluatedSteps
from reward_modeling.objectives.step_statistics import (
    NO_ERROR,
    UNKNOWN,
    area_with_interval,
    balanced,
    bin_sums,
    calibration_error,
    constant_loss,
    figure_of_sums,
    first_error,
    harmonic,
    two_shares,
)

logger = logging.getLogger(__name__)

FIGURES = ("step_accuracy", "balanced_accuracy", "auc", "first_error_f1")  # for a log and to choose the best model


class LabelledSteps(NamedTuple):
    """All steps with a label of all solutions, `(steps,)` each."""

    probabilities: NDArray
    labels: NDArray
    prompts: NDArray

    @classmethod
    def of(cls, held_out: EvaluatedSteps) -> "LabelledSteps":
        prompts = np.repeat(held_out.prompts, [len(of) for of in held_out.labels])
        of_all = (np.concatenate([*of, np.zeros(0)]) for of in (held_out.probabilities, held_out.labels))
        probabilities, labels = of_all
        known = ~np.isnan(labels)
        return cls(probabilities[known], labels[known], prompts[known])

    def compared(self) -> "LabelledSteps":
        """Those that are right or wrong: without labels of one half."""
        return LabelledSteps(*(of[self.labels != EVEN] for of in self))

    @property
    def are_right(self) -> NDArray[np.bool_]:
        return self.labels > EVEN

    @property
    def are_found(self) -> NDArray[np.bool_]:
        """Whether the model finds a step to be what it is."""
        return says_right(self.probabilities) == self.are_right


class FirstErrors(NamedTuple):
    """The solutions whose first wrong step is known, `(solutions,)` each; -1 for none."""

    labelled: NDArray
    predicted: NDArray
    prompts: NDArray
    numbers: NDArray

    @classmethod
    def of(cls, held_out: EvaluatedSteps) -> "FirstErrors":
        labelled = np.array([first_error(of.tolist()) for of in held_out.known_labels], dtype=np.int64)
        predicted = np.array([_first_wrong(of) for of in held_out.probabilities], dtype=np.int64)
        labelled[(labelled == NO_ERROR) & held_out.unfinished] = UNKNOWN  # right as far as the labels reach
        known = np.flatnonzero(labelled != UNKNOWN)
        return cls(labelled[known], predicted[known], held_out.prompts[known], known)

    @property
    def are_erring(self) -> NDArray[np.bool_]:
        return self.labelled != NO_ERROR

    @property
    def are_found(self) -> NDArray[np.bool_]:
        return self.labelled == self.predicted


def _first_wrong(probabilities: NDArray) -> int:
    wrong = np.flatnonzero(~says_right(probabilities))
    return int(wrong[0]) if len(wrong) else NO_ERROR


# --- figures ----------------------------------------------------------------------------------------------------------


def step_figures(held_out: EvaluatedSteps) -> dict:
    """The figures of evaluation.json but where it comes from, with 95% intervals. For finite outputs."""
    steps = LabelledSteps.of(held_out)
    compared, errors, rewards = steps.compared(), FirstErrors.of(held_out), held_out.rewards
    of_steps = two_shares(compared.are_right, compared.are_found)
    right = int(compared.are_right.sum())
    return {
        "solutions": len(held_out),
        "prompts": len(np.unique(held_out.prompts)),
        "loss": _loss(held_out),
        "constant_loss": number(constant_loss(steps.labels)),
        "reward_mean": float(rewards.mean()),
        "reward_std": float(rewards.std()),
        "steps": {
            "all": sum(map(len, held_out.probabilities)),
            "labelled": len(steps.labels),
            "right": right,
            "wrong": len(compared.labels) - right,
        },
        "step_accuracy": _share(compared.are_found, compared.prompts),
        "always_the_same": _share(compared.are_right == (2 * right >= len(compared.labels)), compared.prompts),
        "found_right": _share(compared.are_found[compared.are_right], compared.prompts[compared.are_right]),
        "found_wrong": _share(compared.are_found[~compared.are_right], compared.prompts[~compared.are_right]),
        "balanced_accuracy": figure_of_sums(balanced, of_steps, compared.prompts),
        "auc": area_with_interval(compared.probabilities, compared.are_right, compared.prompts),
        "first_error": _first_error_figures(errors),
        "calibration_error": figure_of_sums(
            calibration_error, bin_sums(steps.probabilities, steps.labels), steps.prompts
        ),
        "calibration": calibration_bins(*steps),
        "aggregation": held_out.aggregation,
        "aggregations": {
            name: area_with_interval(values[errors.numbers], ~errors.are_erring, errors.prompts)
            for name, values in held_out.aggregated.items()
        },
    }


def _first_error_figures(errors: FirstErrors) -> dict:
    """ProcessBench's F1 and the two shares that it is the harmonic mean of, at a threshold of one half."""
    erring, found = errors.are_erring, errors.are_found
    return {
        "f1": figure_of_sums(harmonic, two_shares(erring, found), errors.prompts),
        "with_error": _share(found[erring], errors.prompts[erring]),
        "without_error": _share(found[~erring], errors.prompts[~erring]),
    }


def _share(right: NDArray, prompts: NDArray) -> dict:
    return share_of_rows(right, np.zeros(len(right), dtype=bool), prompts)


def _loss(held_out: EvaluatedSteps) -> float:
    """The mean over steps, as in training."""
    return float(np.average(held_out.losses, weights=held_out.weights))


def step_metrics(held_out: EvaluatedSteps) -> dict[str, float]:
    """What is logged of an evaluation, without intervals; NaN where it cannot be computed."""
    solutions = {"solutions": len(held_out)}
    if held_out.not_finite is not None:
        logger.warning("!!! Evaluation: %s !!!", held_out.not_finite)
        return dict.fromkeys(("loss", *FIGURES), math.nan) | solutions
    compared, errors = LabelledSteps.of(held_out).compared(), FirstErrors.of(held_out)
    sums = two_shares(compared.are_right, compared.are_found).sum(axis=0)
    figures = {
        "loss": _loss(held_out),
        "step_accuracy": float(compared.are_found.mean()) if len(compared.labels) else math.nan,
        "balanced_accuracy": float(balanced(sums)),
        "auc": float(area_under_curve(compared.probabilities, compared.are_right)[0]),
        "first_error_f1": float(harmonic(two_shares(errors.are_erring, errors.are_found).sum(axis=0))),
    }
    return figures | solutions


# --- as text ----------------------------------------------------------------------------------------------------------


def step_shares(evaluation: Mapping) -> dict[str, Mapping]:
    """The shares in evaluation.json, under names for a tracker's table."""
    shares = {
        "steps": evaluation["step_accuracy"],
        "right steps": evaluation["found_right"],
        "wrong steps": evaluation["found_wrong"],
        "first error, solutions with one": evaluation["first_error"]["with_error"],
        "first error, solutions without": evaluation["first_error"]["without_error"],
    }
    return {name: of for name, of in shares.items() if of["rows"]}


def step_lines(logs: Mapping[str, float]) -> list[str]:
    """An evaluation in the log of a run."""
    logs = {name.removeprefix("eval_"): value for name, value in logs.items()}
    words = {
        "step_accuracy": f"{percent(logs['step_accuracy'])}% of the steps right",
        "balanced_accuracy": f"balanced {percent(logs['balanced_accuracy'])}%",
        "auc": f"AUC {shown(logs['auc'])}",
        "first_error_f1": f"first errors F1 {percent(logs['first_error_f1'])}",
    }
    parts = [f"loss {shown(logs['loss'])}", *(said for name, said in words.items() if not math.isnan(logs[name]))]
    return [f"evaluation of {count(logs['solutions'])} solutions: {', '.join(parts)}"]


def step_table(evaluation: Mapping) -> str:
    """evaluation.json for a screen."""
    steps, errors = evaluation["steps"], evaluation["first_error"]
    lines = [
        f"Held-out solutions, after step {evaluation['step']} ({evaluation['data']})",
        f"  {count(evaluation['solutions'])} solutions of {count(evaluation['prompts'])} prompts; "
        f"{count(steps['right'])} right and {count(steps['wrong'])} wrong steps; loss {shown(evaluation['loss'])} "
        f"({_shown(evaluation['constant_loss'])} of always saying the share of right steps)",
        "",
    ]
    rows = [("figure", "value", "95% interval", "of")]
    for name, of in (
        ("steps found to be what they are, %", evaluation["step_accuracy"]),
        ("  always the same verdict", evaluation["always_the_same"]),
        ("  right steps", evaluation["found_right"]),
        ("  wrong steps", evaluation["found_wrong"]),
    ):
        rows.append((name, share(of), interval(of), f"{count(of['rows'])} steps"))
    rows.append(("balanced accuracy, %", *in_percent(evaluation["balanced_accuracy"]), ""))
    rows.append(("AUC of steps", *in_numbers(evaluation["auc"]), ""))
    rows.append(("calibration error", *in_numbers(evaluation["calibration_error"]), ""))
    rows.append(("first errors, F1", *in_percent(errors["f1"]), ""))
    for name, of in (("  with an error, %", errors["with_error"]), ("  without", errors["without_error"])):
        rows.append((name, share(of), interval(of), f"{count(of['rows'])} solutions"))
    for name in AGGREGATIONS:
        rows.append((f"AUC of solutions, {name}", *in_numbers(evaluation["aggregations"][name]), ""))
    return "\n".join([*lines, *align(rows)])


def in_numbers(figure: Mapping) -> tuple[str, str]:
    """A figure and its interval."""
    ends = "-" if figure["low"] is None else f"{_shown(figure['low'])} to {_shown(figure['high'])}"
    return _shown(figure["value"]), ends


def in_percent(figure: Mapping) -> tuple[str, str]:
    """The same of a share."""
    value = "-" if figure["value"] is None else percent(figure["value"])
    return value, "-" if figure["low"] is None else f"{percent(figure['low'])} to {percent(figure['high'])}"


def _shown(value: float | None) -> str:
    return "-" if value is None else shown(value)
