"""What runs on ratings say of their models: of each attribute error, correlation and pair accuracy, with baselines.

evaluation.json of such a run has, beside what run.py describes for every kind:

    {
      "step": 120, "epoch": 2.0, "data": "held out of ratings.jsonl",
      "answers": 500, "prompts": 250, "loss": 0.021, "reward_mean": 0.55, "reward_std": 0.11,
      "spearman": 0.71, "pair_accuracy": 0.79,
      "attributes": {
        "helpfulness": {
          "rows": 480, "outside_of_range": 0, "squared_error": {"value": 0.52, "low": 0.47, "high": 0.58},
          "mean_label_squared_error": {...}, "pearson": {...}, "spearman": {...}, "length_spearman": {...},
          "pair_accuracy": {"value": 0.81, "low": 0.76, "high": 0.85, "rows": 210, "right": 170, "ties": 0},
          "longer_wins": {...},
          "by_output": [{"output": 0.9, "rating": 1.1, "low": 0.8, "high": 1.4, "rows": 48}, ...]
        }, ...
      }
    }

"rows" are the answers that are rated, "outside_of_range" those beyond the range of the training set. Errors and
"by_output" are on the scale of the ratings, "loss" on that of the training, 0 to 1. "mean_label_squared_error" is that
of a judge who always says the mean of the held-out ratings; "length_spearman" and "longer_wins" are those of a judge
who takes the longer answer for the better one. Pairs are two answers to one prompt with different ratings. "spearman"
and "pair_accuracy" at the top are means over the attributes that have them. "by_output" has the mean rating of the
answers in each bin of the outputs, with its interval. All intervals take the answers to a prompt together. Figures that
cannot be computed are null.

Of a model of quantiles each attribute also has

    "interval": {"nominal": 0.9, "coverage": {...}, "width": {...}, "crossed": 0.02}

the share of the ratings between its outer quantiles and how far these are apart, beside the share that was meant; in
"crossed" of the answers some of the quantiles came out in another order.

A line of eval_scores.jsonl has "where", "reward", and of each attribute "outputs" and "ratings" (null: not rated).

run.json also has what the model's config.json has: "label_ranges", "reward_weights" and, of quantiles,
"quantile_levels".
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from reward_modeling.display.text import Rows, count, interval, number, percent
from reward_modeling.objectives.rating_flags import attribute_names
from reward_modeling.results.kind import COMMON_FIGURES, HELD_OUT, LoggedFigure, ResultsKind, both_curves
from reward_modeling.results.rating_warnings import rating_warnings

if TYPE_CHECKING:
    from reward_modeling.display.plot_style import Plot

CURVES_PER_PLOT = 6
# What figures of single attributes are logged as.
ERROR, HELD_OUT_ERROR, SPEARMAN = "error_", "eval_error_", "eval_spearman_"


class RatingResults(ResultsKind):
    """Of the templates: model_card_ratings.md and training_ratings.html."""

    card_template = "results/templates/model_card_ratings.md"
    page_template = "results/templates/training_ratings.html"
    tags = ("ratings", "multi-objective")
    has_named_outputs = True
    card_plots: ClassVar[dict[str, str]] = {
        "held_out_correlations.png": "Spearman's correlation of each attribute, with 95% intervals",
        "held_out_pairs.png": "Pairs of answers to one prompt that are ordered right, with 95% intervals",
        "held_out_predictions.png": "Mean ratings over mean outputs",
    }

    def warnings(self, evaluation: Mapping) -> Iterator[str]:
        return rating_warnings(evaluation)

    def ridge_rows(self, ridge: Mapping) -> Rows:
        return ridge_rows(ridge)

    # --- the model card and the page ---

    def in_words(self, evaluation: Mapping) -> str:
        return "one attribute" if len(evaluation["attributes"]) == 1 else f"{len(evaluation['attributes'])} attributes"

    def loss_words(self, run: Mapping) -> str:
        """What was minimised."""
        if "ridge" in run:
            return "ridge regression of the head alone"
        return "the pinball loss of quantiles" if "quantile_levels" in run else "the mean squared error"

    def attribute_rows(self, evaluation: Mapping) -> Rows:
        """Errors and correlations, a line for each attribute."""
        heads = ("attribute", "rated", "squared error", "95% interval", "of the mean", "Pearson", "Spearman")
        rows: Rows = [(*heads, "95% interval", "of the length")]
        for name, of in evaluation["attributes"].items():
            error, spearman = of["squared_error"], of["spearman"]
            values = (_value(of[key]) for key in ("mean_label_squared_error", "pearson", "spearman"))
            mean, pearson, correlation = values
            line = (name, count(of["rows"]), _value(error), _ends(error), mean, pearson, correlation, _ends(spearman))
            rows.append((*line, _value(of["length_spearman"])))
        return rows

    def has_pairs(self, evaluation: Mapping) -> bool:
        return any(of["pair_accuracy"]["rows"] for of in evaluation["attributes"].values())

    def pair_rows(self, evaluation: Mapping) -> Rows:
        """How pairs of answers to one prompt are ordered, a line for each attribute."""
        rows: Rows = [("attribute", "pairs", "percent right", "95% interval", "equal outputs", "the longer answer")]
        for name, of in evaluation["attributes"].items():
            pairs, longer = of["pair_accuracy"], of["longer_wins"]
            value, other = (_percent(row["value"]) for row in (pairs, longer))
            rows.append((name, count(pairs["rows"]), value, interval(pairs) or "-", count(pairs["ties"]), other))
        return rows

    def interval_rows(self, evaluation: Mapping) -> Rows:
        """Of a model of quantiles what lies between the outer ones, a line for each attribute; else nothing."""
        of_quantiles = {name: of["interval"] for name, of in evaluation["attributes"].items() if "interval" in of}
        if not of_quantiles:
            return []
        rows: Rows = [("attribute", "percent inside", "95% interval", "meant", "mean width", "percent crossed")]
        for name, of in of_quantiles.items():
            inside = _percent(of["coverage"]["value"]), interval(of["coverage"]) or "-", percent(of["nominal"])
            rows.append((name, *inside, _value(of["width"]), _percent(of["crossed"])))
        return rows

    def outside_words(self, evaluation: Mapping) -> str:
        """How many ratings are beyond the range that was trained on; "" where none are."""
        attributes = evaluation["attributes"].items()
        outside = (f"{name} {count(of['outside_of_range'])}" for name, of in attributes if of["outside_of_range"])
        return ", ".join(outside)

    def set_rows(self, evaluation: Mapping) -> Rows:
        """A row for each evaluation set: means over the attributes, then Spearman's correlation of each of them."""
        attributes = list(evaluation["attributes"])
        heads = ("answers", "loss", "Spearman", "percent of pairs right")
        rows: Rows = [("evaluation set", *heads, *(f"Spearman: {name}" for name in attributes))]
        for name, of in evaluation["sets"].items():
            means = count(of["answers"]), number(of["loss"]), _number(of["spearman"]), _percent(of["pair_accuracy"])
            rows.append((name, *means, *(_value(of["attributes"][one]["spearman"]) for one in attributes)))
        return rows

    def scale_rows(self, run: Mapping) -> Rows:
        """The range of each attribute and its weight in the reward."""
        rows: Rows = [("attribute", "ratings", "weight in the reward")]
        for name, (low, high) in run["label_ranges"].items():
            rows.append((name, f"{low:g} to {high:g}", f"{run['reward_weights'][name]:.4g}"))
        return rows

    def draw_card_plots(self, evaluation: Mapping) -> list[bytes]:
        from reward_modeling.results.rating_plots import draw_card_plots

        return draw_card_plots(evaluation)

    # --- the page ---

    def figures(self, history: Sequence[Mapping]) -> dict[str, LoggedFigure]:
        loss = "Mean over an answer's ratings, then over answers, on a scale of 0 to 1."
        error = "The root of the mean squared error, as a share of the range"
        pairs = "Of two answers to a prompt the one with the higher rating has the higher output; mean over attributes."
        held_out = {name: {HELD_OUT: f"eval_{name}"} for name in ("spearman", "pair_accuracy")}
        return {
            "loss": LoggedFigure("Loss", loss, both_curves("loss")),
            "spearman": LoggedFigure(
                "Spearman", "Correlation of the outputs with the ratings; mean over attributes.", held_out["spearman"]
            ),
            "pair_accuracy": LoggedFigure("Pairs right, percent", pairs, held_out["pair_accuracy"], is_share=True),
            **self._by_attribute(history, ERROR, "Error in training", f"{error}."),
            **self._by_attribute(history, HELD_OUT_ERROR, "Error, held out", f"{error}."),
            **self._by_attribute(history, SPEARMAN, "Spearman by attribute", "Correlation with the ratings, held out."),
            **COMMON_FIGURES,
        }

    def evaluation_rows(self, entries: Sequence[Mapping]) -> Rows:
        attributes = self._attributes(entries, SPEARMAN)
        head = ("step", "epoch", "loss", "Spearman", "percent of pairs right")
        rows: Rows = [(*head, *(f"Spearman: {name}" for name in attributes))]
        for entry in entries:
            means = number(entry["eval_loss"]), _number(entry.get("eval_spearman"))
            means += (_percent(entry.get("eval_pair_accuracy")),)
            each = (_number(entry.get(f"{SPEARMAN}{name}")) for name in attributes)
            rows.append((count(entry["step"]), f"{entry['epoch']:.2f}", *means, *each))
        return rows

    def _attributes(self, entries: Iterable[Mapping], start: str) -> list[str]:
        """What the log has under names that begin so, in the order of --attributes: that of the log is alphabetical."""
        found = {key.removeprefix(start) for entry in entries for key in entry if key.startswith(start)}
        order = attribute_names(self.arguments.get("attributes"))
        return [*(name for name in order if name in found), *sorted(found.difference(order))]

    def _by_attribute(
        self, history: Sequence[Mapping], start: str, title: str, caption: str
    ) -> dict[str, LoggedFigure]:
        """Plots with a curve for each attribute, at most `CURVES_PER_PLOT` in one."""
        attributes = self._attributes(history, start)
        plots = np.array_split(attributes, math.ceil(len(attributes) / CURVES_PER_PLOT)) if attributes else []
        figures = {}
        for place, some in enumerate(plots, start=1):
            part = f" ({place} of {len(plots)})" if len(plots) > 1 else ""
            series = {str(name): f"{start}{name}" for name in some}
            figures[f"{start}{place}"] = LoggedFigure(f"{title}{part}", caption, series)
        return figures

    def held_out_plots(self, evaluation: Mapping) -> "Iterable[Plot]":
        from reward_modeling.results.rating_plots import held_out_plots

        return held_out_plots(evaluation)

    def held_out_tables(self, evaluation: Mapping) -> list[tuple[str, Rows]]:
        names = ("loss", "spearman", "pair_accuracy", "reward_mean", "reward_std")
        means = [(name.replace("_", " "), _number(evaluation[name])) for name in names]
        return [
            ("Loss, means over the attributes, and rewards", [("", ""), *means]),
            *([("Intervals", rows)] if (rows := self.interval_rows(evaluation)) else []),
            *((f"{name}: ratings by output", _bin_rows(of)) for name, of in evaluation["attributes"].items()),
        ]


# --- tables -------------------------------------------------------------------------------------------------------


def ridge_rows(ridge: Mapping) -> Rows:
    """What a head was fitted by that was fitted alone, a line for each attribute."""
    rows: Rows = [("attribute", "rated", "alpha", "squared error", "of the mean")]
    for name, of in ridge.items():
        errors = number(of["squared_error"]), number(of["mean_label_squared_error"])
        rows.append((name, count(of["answers"]), f"{of['alpha']:g}", *errors))
    return rows


def _bin_rows(of: Mapping) -> Rows:
    rows: Rows = [("mean output", "mean rating", "95% interval", "answers")]
    for one in of["by_output"]:
        ends = f"{number(one['low'])} to {number(one['high'])}"
        rows.append((number(one["output"]), number(one["rating"]), ends, count(one["rows"])))
    return rows


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else number(value)


def _percent(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else percent(value)


def _value(row: Mapping) -> str:
    return _number(row["value"])


def _ends(row: Mapping) -> str:
    return "-" if row["value"] is None else f"{_number(row['low'])} to {_number(row['high'])}"
