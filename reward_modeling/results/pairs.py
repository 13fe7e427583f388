"""What runs on preference pairs say of their models (Bradley-Terry): accuracies, margins, calibration, ties.

The figures of their evaluation.json are described in run.py, and come from objectives/held_out_pairs.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from reward_modeling.display.text import (
    Rows,
    accuracy_rows,
    count,
    interval,
    notes_on_pairs,
    number,
    pair_lines,
    percent,
    share,
)
from reward_modeling.results.kind import COMMON_FIGURES, LoggedFigure, ResultsKind, both_curves

if TYPE_CHECKING:
    from reward_modeling.display.plot_style import Plot

FIGURES = {
    "loss": LoggedFigure(
        "Loss", "Mean over pairs. The training loss includes centering and a router's loss.", both_curves("loss")
    ),
    "accuracy": LoggedFigure(
        "Accuracy, percent",
        "Pairs whose chosen answer has the higher reward.",
        both_curves("accuracy"),
        is_share=True,
    ),
    "margin": LoggedFigure("Margin", "Mean of reward(chosen) - reward(rejected).", both_curves("margin")),
    "tie_threshold": LoggedFigure(
        "Threshold of ties", "Of the model of ties, as it was learned.", both_curves("tie_threshold")
    ),
    **COMMON_FIGURES,
}


class PairResults(ResultsKind):
    """Of the templates: model_card_pairs.md and training_pairs.html."""

    card_template = "results/templates/model_card_pairs.md"
    page_template = "results/templates/training_pairs.html"
    tags = ("preference-data",)
    outputs = "rewards"
    card_plots: ClassVar[dict[str, str]] = {
        "held_out_accuracy.png": "Accuracy with 95% intervals",
        "held_out_margins.png": "Histogram of the margins",
        "held_out_calibration.png": "Confidence against the share right",
    }

    pair_lines = staticmethod(pair_lines)
    notes_on_pairs = staticmethod(notes_on_pairs)

    def warnings(self, evaluation: Mapping) -> Iterator[str]:
        if evaluation["longer_wins"]["value"] is None:
            return
        accuracy, longer = evaluation["accuracy"], evaluation["longer_wins"]
        words = f"The held-out accuracy, {share(accuracy)} ({interval(accuracy)}), is not clearly above"
        if accuracy["low"] <= 0.5:
            yield f"{words} guessing, 50%"
        if accuracy["low"] <= longer["value"]:
            yield f"{words} that of always taking the longer answer, {share(longer)}"

    # --- the model card ---

    def accuracies(self, evaluation: Mapping) -> Rows:
        rows = {"all": evaluation["accuracy"], **evaluation["by_length"]}
        if len(evaluation["by_source"]) > 1:
            rows |= {f"source: {name}": row for name, row in evaluation["by_source"].items()}
        rows |= {f"evaluation set: {name}": of["accuracy"] for name, of in evaluation.get("sets", {}).items()}
        return accuracy_rows(rows, "pairs")

    def draw_card_plots(self, evaluation: Mapping) -> list[bytes]:
        from reward_modeling.results.pair_plots import draw_card_plots

        return draw_card_plots(evaluation)

    # --- the page ---

    def figures(self, history: Sequence[Mapping]) -> dict[str, LoggedFigure]:
        return FIGURES

    def logged_accuracy(self, entry: Mapping) -> dict[str, float | None]:
        """The accuracy of an evaluation in the log, with its interval where it has one."""
        ends = (("value", ""), ("low", "_low"), ("high", "_high"))
        return {key: entry.get(f"eval_accuracy{end}") for key, end in ends} | {"rows": entry.get("eval_pairs")}

    def evaluation_rows(self, entries: Sequence[Mapping]) -> Rows:
        names = ("loss", "margin", "reward_mean", "reward_std")
        rows: Rows = [("step", "epoch", "accuracy, percent", "95% interval", *names)]
        for entry in entries:
            accuracy = self.logged_accuracy(entry)
            span = "-" if accuracy["low"] is None else interval(accuracy)
            values = (number(entry[f"eval_{name}"]) if f"eval_{name}" in entry else "-" for name in names)
            rows.append((count(entry["step"]), f"{entry['epoch']:.2f}", percent(accuracy["value"]), span, *values))
        return rows

    def held_out_plots(self, evaluation: Mapping) -> "Iterator[Plot]":
        from reward_modeling.results.pair_plots import held_out_plots

        return held_out_plots(evaluation)

    def held_out_tables(self, evaluation: Mapping) -> list[tuple[str, Rows]]:
        from reward_modeling.display.pair_blocks import histogram_rows, pair_tables

        figures = ((name.replace("_", " "), number(evaluation[name])) for name in ("loss", "reward_mean", "reward_std"))
        rewards = evaluation["rewards"]
        counts = {side: rewards[side] for side in ("chosen", "rejected")}
        return [
            ("Loss and rewards", [("", ""), *figures]),
            *pair_tables(evaluation),
            ("Difference in length", accuracy_rows(named_differences(evaluation))),
            ("Sources", accuracy_rows(evaluation["by_source"])),
            ("Rewards", histogram_rows(rewards["edges"], counts)),
        ]

    def set_rows(self, evaluation: Mapping) -> Rows:
        return accuracy_rows({name: of["accuracy"] for name, of in evaluation["sets"].items()}, "evaluation set")


def named_differences(evaluation: Mapping) -> dict[str, Mapping]:
    """Accuracies by difference in length, by names such as "-200 to -51", or one number where the bin has one."""
    ends = ((f"{row['from']:+,}", f"{row['to']:+,}", row) for row in evaluation["by_length_difference"])
    return {low if low == high else f"{low} to {high}": row for low, high, row in ends}
