"""What runs on steps say of their models: how often a step is found to be what it is, and where solutions go wrong.

evaluation.json of such a run has, beside what run.py describes for every kind:

    {
      "step": 120, "epoch": 1.0, "data": "held out of steps.jsonl", "solutions": 500, "prompts": 250,
      "loss": 0.31, "constant_loss": 0.55, "reward_mean": 0.44, "reward_std": 0.31,
      "steps": {"all": 2400, "labelled": 2300, "right": 1800, "wrong": 480},
      "step_accuracy": {"value": 0.87, "low": 0.85, "high": 0.89, "rows": 2280, "right": 1984, "ties": 0},
      "always_the_same": {...}, "found_right": {...}, "found_wrong": {...},
      "balanced_accuracy": {"value": 0.81, "low": 0.78, "high": 0.84}, "auc": {...},
      "first_error": {"f1": {...}, "with_error": {...}, "without_error": {...}},
      "calibration_error": {...}, "calibration": [{"low": 0.0, "high": 0.1, "confidence": 0.06, "value": 0.08, ...}],
      "aggregation": "min", "aggregations": {"min": {...}, "product": {...}, "last": {...}, "mean": {...}}
    }

A solution ends at its last label. A step is taken for right where P(right) is at least one half. "steps" counts them:
"right" and "wrong" leave out labels of one half, and a step that several chains of a tree have counts once.
"step_accuracy" is over the right and the wrong ones together, "found_right" and "found_wrong" over each, and
"balanced_accuracy" is the mean of these two. "always_the_same" is the accuracy of a judge who gives all steps the
verdict that is right more often, "constant_loss" the loss of one who always says the share of right ones. "auc" is how
often a right step has the greater P(right) than a wrong one, equal ones as half.

"first_error" is ProcessBench's: of solutions with a wrong step the share whose first one is found ("with_error"), of
the others the share where none is found ("without_error"), and their harmonic mean. Solutions whose labels do not say
which step is the first wrong one, or end before the solution without a wrong one, are in none of them. "aggregations"
has for each way to make one reward of a solution's steps how often a solution without a wrong step is above one with;
"aggregation" is the one that is saved.

All intervals take the solutions to a prompt together. Figures that cannot be computed are null.

A line of eval_scores.jsonl has "where", "reward", and of each step P(right) ("steps") and the label ("labels", null
where there is none).

run.json also has what the model's config.json has: "process", see models/process_format.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from reward_modeling.display.text import Rows, accuracy_rows, count, interval, number, percent, share
from reward_modeling.objectives.held_out_steps import in_numbers, in_percent
from reward_modeling.results.kind import COMMON_FIGURES, HELD_OUT, LoggedFigure, ResultsKind, both_curves

if TYPE_CHECKING:
    from reward_modeling.display.plot_style import Plot

FEW_STEPS = 50  # of one kind: with fewer the intervals are wide, and themselves not certain
AGGREGATED = {
    "min": "the least of them",
    "product": "their product",
    "last": "that of the last one",
    "mean": "their mean",
}
FIGURES = {
    "loss": LoggedFigure("Loss", "Cross-entropy of a step's label; mean over steps.", both_curves("loss")),
    "step_accuracy": LoggedFigure(
        "Steps right, percent", "Steps that are found to be what they are.", both_curves("step_accuracy"), is_share=True
    ),
    "balanced_accuracy": LoggedFigure(
        "Balanced accuracy, percent",
        "Mean of the shares of right and of wrong steps that are found to be what they are.",
        both_curves("balanced_accuracy"),
        is_share=True,
    ),
    "first_error_f1": LoggedFigure(
        "First errors, F1 in percent",
        "Of ProcessBench: solutions whose first wrong step is found, and solutions in which none is.",
        {HELD_OUT: "eval_first_error_f1"},
        is_share=True,
    ),
    "auc": LoggedFigure(
        "AUC of steps", "How often a right step has the greater probability than a wrong one.", {HELD_OUT: "eval_auc"}
    ),
    "right_steps": LoggedFigure(
        "Right steps, percent", "Of those that were trained on.", both_curves("right_steps"), is_share=True
    ),
    **COMMON_FIGURES,
}


class StepResults(ResultsKind):
    """Of the templates: model_card_steps.md and training_steps.html."""

    card_template = "results/templates/model_card_steps.md"
    page_template = "results/templates/training_steps.html"
    tags = ("process-reward-model",)
    task = "TokenClassification"
    has_pipeline = False
    outputs = "outputs"
    card_plots: ClassVar[dict[str, str]] = {
        "held_out_steps.png": "Steps and first errors that are found, with 95% intervals",
        "held_out_calibration.png": "Probability of a step against the share of right ones",
    }

    def warnings(self, evaluation: Mapping) -> Iterator[str]:
        steps, accuracy, auc = evaluation["steps"], evaluation["step_accuracy"], evaluation["auc"]
        counts = f"{count(steps['right'])} right and {count(steps['wrong'])} wrong ones"
        if not steps["right"] or not steps["wrong"]:
            yield f"All held-out steps are of one kind, so that nothing is known of the other: {counts}"
            return
        if min(steps["right"], steps["wrong"]) < FEW_STEPS:
            yield f"Few held-out steps of one kind: {counts}"
        if accuracy["low"] <= evaluation["always_the_same"]["value"]:
            yield (
                f"The share of held-out steps that are found to be what they are, {share(accuracy)} "
                f"({interval(accuracy)}), is not clearly above that of always the same verdict, "
                f"{share(evaluation['always_the_same'])}"
            )
        if auc["low"] is not None and auc["low"] <= 0.5:
            words = f"{number(auc['value'])} ({number(auc['low'])} to {number(auc['high'])})"
            yield f"The AUC of the held-out steps, {words}, is not clearly above guessing, 0.5"
        if evaluation["loss"] >= evaluation["constant_loss"]:
            yield (
                f"The held-out loss, {number(evaluation['loss'])}, is not below that of always saying the share of "
                f"right steps, {number(evaluation['constant_loss'])}"
            )

    # --- the model card and the page ---

    def reward_words(self, run: Mapping) -> str:
        """What the saved reward is."""
        return AGGREGATED[run["process"]["aggregation"]]

    def balance_words(self, evaluation: Mapping) -> str:
        """How many steps are right and wrong."""
        steps = evaluation["steps"]
        compared = steps["right"] + steps["wrong"]
        shares = f" ({percent(steps['wrong'] / compared)}% are wrong)" if compared else ""
        rest = steps["labelled"] - compared
        halves = f", {count(rest)} with a label of one half" if rest else ""
        return f"{count(steps['right'])} right and {count(steps['wrong'])} wrong steps{shares}{halves}"

    def share_rows(self, evaluation: Mapping) -> Rows:
        """Shares of steps and of solutions that are found to be what they are."""
        errors = evaluation["first_error"]
        return accuracy_rows(
            {
                "steps": evaluation["step_accuracy"],
                "always the same verdict": evaluation["always_the_same"],
                "right steps": evaluation["found_right"],
                "wrong steps": evaluation["found_wrong"],
                "first error, solutions with one": errors["with_error"],
                "no error, solutions without": errors["without_error"],
            },
            "found to be what they are",
        )

    def mean_rows(self, evaluation: Mapping) -> Rows:
        """What is no share of rows."""
        return [
            ("figure", "value", "95% interval"),
            ("balanced accuracy, percent", *in_percent(evaluation["balanced_accuracy"])),
            ("first errors, F1 in percent (ProcessBench)", *in_percent(evaluation["first_error"]["f1"])),
            ("AUC of steps", *in_numbers(evaluation["auc"])),
            ("calibration error", *in_numbers(evaluation["calibration_error"])),
        ]

    def aggregation_rows(self, evaluation: Mapping) -> Rows:
        rows: Rows = [("reward", "AUC of solutions", "95% interval")]
        for name, of in evaluation["aggregations"].items():
            saved = " (saved)" if name == evaluation["aggregation"] else ""
            rows.append((f"{name}{saved}", *in_numbers(of)))
        return rows

    def draw_card_plots(self, evaluation: Mapping) -> list[bytes]:
        from reward_modeling.results.step_plots import draw_card_plots

        return draw_card_plots(evaluation)

    # --- the page ---

    def figures(self, history: Sequence[Mapping]) -> dict[str, LoggedFigure]:
        return FIGURES

    def evaluation_rows(self, entries: Sequence[Mapping]) -> Rows:
        shares = {
            "steps right, percent": "step_accuracy",
            "balanced, percent": "balanced_accuracy",
            "first errors, F1": "first_error_f1",
        }
        rows: Rows = [("step", "epoch", "loss", *shares, "AUC")]
        for entry in entries:
            each = (_percent(entry.get(f"eval_{name}")) for name in shares.values())
            head = count(entry["step"]), f"{entry['epoch']:.2f}", number(entry["eval_loss"])
            rows.append((*head, *each, _number(entry.get("eval_auc"))))
        return rows

    def held_out_plots(self, evaluation: Mapping) -> "Iterator[Plot]":
        from reward_modeling.results.step_plots import held_out_plots

        return held_out_plots(evaluation)

    def held_out_tables(self, evaluation: Mapping) -> list[tuple[str, Rows]]:
        names = ("loss", "constant_loss", "reward_mean", "reward_std")
        return [
            (
                "Losses and rewards",
                [("", ""), *((name.replace("_", " "), _number(evaluation[name])) for name in names)],
            ),
            ("Steps", [("", ""), *((name, count(rows)) for name, rows in evaluation["steps"].items())]),
            ("Shares", self.share_rows(evaluation)),
            ("Other figures", self.mean_rows(evaluation)),
            ("Rewards of solutions", self.aggregation_rows(evaluation)),
            ("Calibration", calibration_rows(evaluation["calibration"])),
        ]

    def set_rows(self, evaluation: Mapping) -> Rows:
        heads = ("solutions", "loss", "percent of steps right", "balanced", "first errors, F1", "AUC")
        rows: Rows = [("evaluation set", *heads)]
        for name, of in evaluation["sets"].items():
            shares = (_percent(of[figure]["value"]) for figure in ("step_accuracy", "balanced_accuracy"))
            last = _percent(of["first_error"]["f1"]["value"]), _number(of["auc"]["value"])
            rows.append((name, count(of["solutions"]), number(of["loss"]), *shares, *last))
        return rows


def calibration_rows(bins: Sequence[Mapping]) -> Rows:
    """The share of right steps in each bin of the probability."""
    rows: Rows = [("probability", "its mean", "percent right", "95% interval", "steps")]
    for row in bins:
        place = f"{100 * row['low']:.0f}-{100 * row['high']:.0f}"
        known = ("-", "-", "-")
        if row["rows"]:
            ends = interval(row, "value_low", "value_high")
            known = (percent(row["confidence"]), percent(row["value"]), ends)
        rows.append((place, *known, count(row["rows"])))
    return rows


def _number(value: float | None) -> str:
    return "-" if value is None or value != value else number(value)


def _percent(value: float | None) -> str:
    return "-" if value is None or value != value else percent(value)
