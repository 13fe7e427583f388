"""What runs on steps say of their models: how right and wrong steps, and first errors, are told apart.

evaluation.json of such a run has, beside what run.py describes for every kind:

    {
      "step": 120, "epoch": 1.0, "data": "held out of steps.jsonl",
      "solutions": 500, "prompts": 480, "loss": 0.31, "constant_loss": 0.52, "reward_mean": 0.6, "reward_std": 0.3,
      "steps": {"all": 3100, "labelled": 3000, "right": 2300, "wrong": 690},
      "step_accuracy": {"value": 0.86, "low": 0.84, "high": 0.88, "rows": 2990, "right": 2571, "ties": 0},
      "always_the_same": {...}, "found_right": {...}, "found_wrong": {...},
      "balanced_accuracy": {"value": 0.81, "low": 0.79, "high": 0.83}, "auc": {...},
      "first_error": {"f1": {"value": 0.62, ...}, "with_error": {...}, "without_error": {...}},
      "calibration_error": {"value": 0.04, ...},
      "calibration": [{"low": 0.0, "high": 0.1, "confidence": 0.05, "value": 0.07, "value_low": ..., ...}, ...],
      "aggregation": "min", "aggregations": {"min": {"value": 0.83, ...}, "product": {...}, ...}
    }

"loss" is the mean over steps, as in training, and "constant_loss" that of always saying the share of right steps.
"labelled" steps are right, wrong, or have a label of one half, which the loss and the calibration alone take.
"always_the_same" is the accuracy of who takes all steps for what most of them are; "found_right" is the share of right
steps that are taken for right, "found_wrong" that of wrong ones. "first_error" has ProcessBench's F1 and the two shares
that it is the harmonic mean of, at a threshold of one half, over the solutions whose labels say where the first error
is. "aggregations" are areas under the curve of solutions without a wrong step against those with one. All intervals
take the solutions of a prompt together. Figures that cannot be computed are null.

A line of eval_scores.jsonl has "where", "reward", and of each step "steps", P(right), and "labels" (null: not known).

run.json also has what the model's config.json has: "process".
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from reward_modeling.display.text import Rows, count, interval, number, percent
from reward_modeling.results.kind import COMMON_FIGURES, HELD_OUT, LoggedFigure, ResultsKind, both_curves, with_interval

if TYPE_CHECKING:
    from reward_modeling.display.plot_style import Plot

FEW_WRONG = 30  # steps: with fewer the figures of wrong steps say little
BALANCED_CHANCE = 0.5
FIGURES = {
    "loss": LoggedFigure("Loss", "The cross-entropy of steps, the mean over those with a label.", both_curves("loss")),
    "step_accuracy": LoggedFigure(
        "Steps found to be what they are",
        "In percent of the steps that are right or wrong.",
        both_curves("step_accuracy"),
        is_share=True,
    ),
    "balanced_accuracy": LoggedFigure(
        "Balanced accuracy",
        "The mean of the shares of right and of wrong steps that are found to be what they are, in percent.",
        both_curves("balanced_accuracy"),
        is_share=True,
    ),
    "auc": LoggedFigure(
        "Area under the curve", "How often a right step gets more than a wrong one.", {HELD_OUT: "eval_auc"}
    ),
    "first_error_f1": LoggedFigure(
        "First errors", "ProcessBench's F1, in percent.", {HELD_OUT: "eval_first_error_f1"}, is_share=True
    ),
} | COMMON_FIGURES


class StepResults(ResultsKind):
    """Of the templates: model_card_steps.md and training_steps.html."""

    card_template = "results/templates/model_card_steps.md"
    page_template = "results/templates/training_steps.html"
    pipeline = "token-classification"
    tags = ("process-reward-model", "prm")
    outputs = "outputs"
    card_plots: ClassVar[dict[str, str]] = {"held_out_calibration.png": "Share of right steps over P(right)"}

    def warnings(self, evaluation: Mapping) -> Iterator[str]:
        steps, balanced, auc = evaluation["steps"], evaluation["balanced_accuracy"], evaluation["auc"]
        for kind in ("right", "wrong"):
            if steps[kind] < FEW_WRONG:
                yield f"Few held-out steps are {kind}: {count(steps[kind])} of {count(steps['labelled'])}"
        if balanced["value"] is not None and not _is_above(balanced, BALANCED_CHANCE):
            words = f"{percent(balanced['value'])}% ({percent(balanced['low'])}-{percent(balanced['high'])})"
            yield f"The balanced accuracy of the held-out steps, {words}, is not clearly above guessing, 50%"
        if auc["value"] is not None and not _is_above(auc, BALANCED_CHANCE):
            yield f"Right steps do not clearly get more than wrong ones: AUC {with_interval(auc)}, by chance 0.5"
        if evaluation["constant_loss"] is not None and evaluation["loss"] >= evaluation["constant_loss"]:
            losses = f"{number(evaluation['loss'])} against {number(evaluation['constant_loss'])}"
            yield f"The held-out loss is not below that of always saying the share of right steps: {losses}"

    # --- the model card and the page ---

    def in_words(self, evaluation: Mapping) -> str:
        """How the classes stand to each other."""
        steps = evaluation["steps"]
        told = steps["right"] + steps["wrong"]
        share = percent(steps["right"] / told) if told else "-"
        return f"{count(steps['right'])} right and {count(steps['wrong'])} wrong steps ({share}% are right)."

    def example(self, run: Mapping) -> str:
        """The Python of a prompt and of its steps."""
        steps = ["Half of 12 is 6.", "With 5 more it is 11."]
        if run["process"]["outcome"]:
            steps = ["\n\n".join(steps)]
        return f'prompt = "What is half of 12, and 5 more?"\nsteps = {json.dumps(steps)}'

    def step_rows(self, evaluation: Mapping) -> Rows:
        """Accuracies, AUC, first errors and calibration, a line for each."""
        errors = evaluation["first_error"]
        rows: Rows = [("figure", "value", "95% interval", "of")]
        for name, of, unit in (
            ("steps found to be what they are", evaluation["step_accuracy"], "steps"),
            ("always the same", evaluation["always_the_same"], "steps"),
            ("right steps found", evaluation["found_right"], "steps"),
            ("wrong steps found", evaluation["found_wrong"], "steps"),
            ("first error found", errors["with_error"], "solutions"),
            ("no error seen where there is none", errors["without_error"], "solutions"),
        ):
            value = "-" if of["value"] is None else f"{percent(of['value'])}%"
            rows.append((name, value, interval(of) or "-", f"{count(of['rows'])} {unit}"))
        for name, of in (("balanced accuracy", evaluation["balanced_accuracy"]), ("first errors, F1", errors["f1"])):
            rows.append((name, *_in_percent(of), ""))
        for name, of in (("AUC", evaluation["auc"]), ("calibration error", evaluation["calibration_error"])):
            rows.append((name, *_in_numbers(of), ""))
        return rows

    def aggregation_rows(self, evaluation: Mapping) -> Rows:
        lines = ((name, *_in_numbers(of)) for name, of in evaluation["aggregations"].items())
        return [("of the steps", "AUC of solutions", "95% interval"), *lines]

    def draw_card_plots(self, evaluation: Mapping) -> list[bytes]:
        from reward_modeling.results.step_plots import draw_card_plots

        return draw_card_plots(evaluation)

    def figures(self, history: Sequence[Mapping]) -> dict[str, LoggedFigure]:
        return FIGURES

    def evaluation_rows(self, entries: Sequence[Mapping]) -> Rows:
        shares, numbers = ("step_accuracy", "balanced_accuracy", "first_error_f1"), ("loss", "auc")
        heads = ("steps right, percent", "balanced, percent", "first errors F1, percent", "loss", "AUC")
        rows: Rows = [("step", "epoch", *heads)]
        for entry in entries:
            values = [_logged(entry, name, percent) for name in shares]
            values += [_logged(entry, name, number) for name in numbers]
            rows.append((count(entry["step"]), f"{entry['epoch']:.2f}", *values))
        return rows

    def held_out_plots(self, evaluation: Mapping) -> "Iterator[Plot]":
        from reward_modeling.results.step_plots import held_out_plots

        return held_out_plots(evaluation)

    def held_out_tables(self, evaluation: Mapping) -> list[tuple[str, Rows]]:
        return [
            ("Steps and first errors", self.step_rows(evaluation)),
            ("Solutions", self.aggregation_rows(evaluation)),
            ("Calibration", calibration_rows(evaluation["calibration"])),
        ]

    def set_rows(self, evaluation: Mapping) -> Rows:
        rows: Rows = [("evaluation set", "solutions", "steps right", "balanced", "AUC", "first errors, F1", "loss")]
        for name, of in evaluation["sets"].items():
            shares = (percent(of["step_accuracy"]["value"]), percent(of["balanced_accuracy"]["value"]))
            last = (number(of["auc"]["value"]), percent(of["first_error"]["f1"]["value"]), number(of["loss"]))
            rows.append((name, count(of["solutions"]), *shares, *last))
        return rows


def calibration_rows(bins: Sequence[Mapping]) -> Rows:
    """Of each bin of P(right) that has steps."""
    rows: Rows = [("P(right)", "steps", "mean", "mean label", "95% interval")]
    for row in bins:
        if row["rows"]:
            ends = f"{number(row['value_low'])} to {number(row['value_high'])}"
            values = (count(row["rows"]), number(row["confidence"]), number(row["value"]), ends)
            rows.append((f"{row['low']:.1f} to {row['high']:.1f}", *values))
    return rows


def _logged(entry: Mapping, name: str, in_words: Callable[[float], str]) -> str:
    value = entry.get(f"eval_{name}")
    return "-" if value is None or math.isnan(value) else in_words(value)


def _is_above(figure: Mapping, chance: float) -> bool:
    return figure["low"] is not None and figure["low"] > chance


def _in_percent(figure: Mapping) -> tuple[str, str]:
    if figure["value"] is None:
        return "-", "-"
    ends = "-" if figure["low"] is None else f"{percent(figure['low'])}-{percent(figure['high'])}"
    return f"{percent(figure['value'])}%", ends


def _in_numbers(figure: Mapping) -> tuple[str, str]:
    if figure["value"] is None:
        return "-", "-"
    ends = "-" if figure["low"] is None else f"{number(figure['low'])} to {number(figure['high'])}"
    return number(figure["value"]), ends
