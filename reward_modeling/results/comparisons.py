"""What runs on comparisons say of their models: both orders of each pair, their mean, and how often they disagree.

evaluation.json of such a run has, beside what run.py describes for every kind:

    {
      "step": 120, "epoch": 1.0, "data": "held out of pairs.jsonl", "pairs": 500, "loss": 0.41,
      "accuracy": {"value": 0.81, "low": 0.77, "high": 0.84, "rows": 500, "right": 405, "ties": 0},
      "by_order": {"chosen first": {...}, "rejected first": {...}},
      "flips": {...}, "always_first": {...}, "always_second": {...}, "first_probability": 0.52,
      "longer_wins": {...}, "by_length": {"chosen longer": {...}, "rejected longer": {...}, "equal length": {...}},
      "by_source": {"helpful": {...}, "no source": {...}},
      "calibration_error": 0.06, "calibration": [...]
    }

"accuracy" is that of the mean over both orders of the probability of the chosen answer; its "ties", at exactly one
half, count as half right. "by_order" is each order alone. "flips" are the pairs of which the first answer wins in both
orders ("always_first"), or the second; their "ties" have no verdict in one of the orders. "first_probability" is the
mean probability of the answer that stands first: 0.5 where no place is preferred. Lengths are in characters. Only where
they say something are there: "prompts" and "weighted_accuracy", as of pairs, and "label_ties": {"pairs": 18,
"mean_distance": 0.04}, the pairs of which nobody is preferred, which no other figure but the loss and the calibration
has, with the mean distance of their probability from one half.

A line of eval_scores.jsonl has "where", "source", "probability" (the mean over both orders), "chosen_first" and
"rejected_first" (the outputs, the logit of "A" less that of "B"), "chosen_characters", "rejected_characters"; and,
where not all are 1, "chosen_probability".
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from reward_modeling.display.text import Rows, accuracy_rows, count, interval, number, percent, share
from reward_modeling.objectives.comparison_words import accuracy_lines, order_lines
from reward_modeling.results.kind import COMMON_FIGURES, HELD_OUT, LoggedFigure, ResultsKind, both_curves

if TYPE_CHECKING:
    from reward_modeling.display.plot_style import Plot

MANY_FLIPS = 0.2  # of the verdicts
FIGURES = {
    "loss": LoggedFigure("Loss", "Cross-entropy of the better answer, mean over both orders.", both_curves("loss")),
    "accuracy": LoggedFigure(
        "Accuracy, percent",
        "Pairs whose chosen answer has a mean probability above one half.",
        both_curves("accuracy"),
        is_share=True,
    ),
    "flips": LoggedFigure(
        "Verdicts that flip, percent",
        "Pairs of which the same place wins in both orders.",
        both_curves("flips"),
        is_share=True,
    ),
    "orders": LoggedFigure(
        "Accuracy of each order, percent",
        "They are the same for a model that has no liking for a place.",
        {
            "chosen first": "eval_accuracy_chosen_first",
            "rejected first": "eval_accuracy_rejected_first",
        },
        is_share=True,
    ),
    "calibration_error": LoggedFigure(
        "Calibration error",
        "Mean distance of the model's probability from the share right.",
        {HELD_OUT: "eval_calibration_error"},
    ),
    **COMMON_FIGURES,
}


class ComparisonResults(ResultsKind):
    """Of the templates: model_card_comparisons.md and training_comparisons.html."""

    card_template = "results/templates/model_card_comparisons.md"
    page_template = "results/templates/training_comparisons.html"
    tags = ("preference-model", "preference-data")
    outputs = "outputs"
    card_plots: ClassVar[dict[str, str]] = {
        "held_out_accuracy.png": "Accuracy of both orders and of their mean, with 95% intervals",
        "held_out_calibration.png": "Confidence against the share right",
    }

    accuracy_lines = staticmethod(accuracy_lines)
    order_lines = staticmethod(order_lines)

    def warnings(self, evaluation: Mapping) -> Iterator[str]:
        if evaluation["longer_wins"]["value"] is None:
            return
        accuracy, longer, flips = evaluation["accuracy"], evaluation["longer_wins"], evaluation["flips"]
        words = f"The held-out accuracy, {share(accuracy)} ({interval(accuracy)}), is not clearly above"
        if accuracy["low"] <= 0.5:
            yield f"{words} guessing, 50%"
        if accuracy["low"] <= longer["value"]:
            yield f"{words} that of always taking the longer answer, {share(longer)}"
        if flips["low"] > MANY_FLIPS:
            yield (
                f"The order of the answers decides {share(flips)} ({interval(flips)}) of the held-out verdicts: never "
                "ask for one order alone"
            )

    def accuracies(self, evaluation: Mapping) -> Rows:
        rows = {"mean of both orders": evaluation["accuracy"], **evaluation["by_order"], **evaluation["by_length"]}
        if len(evaluation["by_source"]) > 1:
            rows |= {f"source: {name}": row for name, row in evaluation["by_source"].items()}
        rows |= {f"evaluation set: {name}": of["accuracy"] for name, of in evaluation.get("sets", {}).items()}
        return accuracy_rows(rows, "pairs")

    def draw_card_plots(self, evaluation: Mapping) -> list[bytes]:
        from reward_modeling.results.comparison_plots import draw_card_plots

        return draw_card_plots(evaluation)

    # --- the page ---

    def figures(self, history: Sequence[Mapping]) -> dict[str, LoggedFigure]:
        return FIGURES

    def logged_accuracy(self, entry: Mapping) -> dict[str, float | None]:
        """The accuracy of an evaluation in the log, with its interval."""
        ends = (("value", ""), ("low", "_low"), ("high", "_high"))
        return {key: entry.get(f"eval_accuracy{end}") for key, end in ends} | {"rows": entry.get("eval_pairs")}

    def evaluation_rows(self, entries: Sequence[Mapping]) -> Rows:
        shares = {"chosen first": "accuracy_chosen_first", "rejected first": "accuracy_rejected_first"}
        shares |= {"flips": "flips"}
        rows: Rows = [("step", "epoch", "accuracy, percent", "95% interval", *shares, "loss")]
        for entry in entries:
            accuracy = self.logged_accuracy(entry)
            span = "-" if accuracy["low"] is None else interval(accuracy)
            each = (percent(entry[f"eval_{name}"]) if f"eval_{name}" in entry else "-" for name in shares.values())
            head = count(entry["step"]), f"{entry['epoch']:.2f}", percent(accuracy["value"]), span
            rows.append((*head, *each, number(entry["eval_loss"])))
        return rows

    def held_out_plots(self, evaluation: Mapping) -> "Iterator[Plot]":
        from reward_modeling.results.comparison_plots import held_out_plots

        return held_out_plots(evaluation)

    def held_out_tables(self, evaluation: Mapping) -> list[tuple[str, Rows]]:
        from reward_modeling.display.pair_blocks import calibration_rows

        places = {
            "verdicts that flip": evaluation["flips"],
            "always the first answer": evaluation["always_first"],
            "always the second answer": evaluation["always_second"],
        }
        baseline = {"always the longer answer": evaluation["longer_wins"]}
        if "weighted_accuracy" in evaluation:
            baseline |= {"mean of both orders, by weight": evaluation["weighted_accuracy"]}
        figures = ((name.replace("_", " "), number(evaluation[name])) for name in ("loss", "first_probability"))
        return [
            ("Loss, and the probability of the answer that stands first", [("", ""), *figures]),
            ("Pairs", [*self.accuracies(evaluation), *accuracy_rows(baseline)[1:]]),
            ("Order", accuracy_rows(places)),
            ("Sources", accuracy_rows(evaluation["by_source"])),
            ("Calibration", calibration_rows(evaluation["calibration"])),
        ]

    def set_rows(self, evaluation: Mapping) -> Rows:
        return accuracy_rows({name: of["accuracy"] for name, of in evaluation["sets"].items()}, "evaluation set")
