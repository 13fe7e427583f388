"""Plots of held-out comparisons: those of the page and of the model card. They take half a second of matplotlib."""

from collections.abc import Iterator, Mapping

from reward_modeling.display.plot_style import Plot, draw_png, make_plot
from reward_modeling.display.plots import draw_bars, draw_calibration
from reward_modeling.display.text import MOST_SUBSETS, points

MOST_BARS = 12  # sources in a plot of the card


def held_out_plots(evaluation: Mapping) -> Iterator[Plot]:
    """Accuracy of both orders, flips, calibration, and accuracies by length and by source."""
    caption = (
        "Percent right: of the mean over both orders, and of each order alone. Below, of how many pairs the same place "
        "wins in both."
    )
    places = {"the first": evaluation["always_first"], "the second": evaluation["always_second"]}
    rows = {"accuracy": _accuracies(evaluation), "always the same place": places}
    yield make_plot("Both orders", caption, draw_bars, rows, chance=50, label="Held-out pairs: accuracy by order")
    caption = (
        "How often the favourite is the chosen answer, by the mean probability over both orders. Dashed: perfect; off "
        f"by {points(evaluation['calibration_error'])}."
    )
    label = "Held-out pairs: confidence against the share right"
    yield make_plot("Calibration", caption, draw_calibration, evaluation["calibration"], label=label)
    by_length = {
        "the model": evaluation["by_length"],
        "for comparison": {"always the longer": evaluation["longer_wins"]},
    }
    caption = "A model that follows length is bad where the rejected answer is longer."
    label = "Held-out pairs: accuracy by length of the answers"
    yield make_plot("Length", caption, draw_bars, by_length, chance=50, label=label)
    if len(evaluation["by_source"]) > 1:
        largest = dict(list(evaluation["by_source"].items())[:MOST_SUBSETS])
        options = {"label": "Held-out accuracy by source", "tall": len(largest) > 12}
        yield make_plot("Sources", "Percent right, with 95% intervals.", draw_bars, {"": largest}, chance=50, **options)


def draw_card_plots(evaluation: Mapping) -> list[bytes]:
    """In the order of `ComparisonResults.card_plots`."""
    groups = {"": _accuracies(evaluation), "by length": evaluation["by_length"]}
    if len(evaluation["by_source"]) > 1:
        groups["by source"] = dict(list(evaluation["by_source"].items())[:MOST_BARS])
    longer = evaluation["longer_wins"]["value"]
    return [
        draw_png(draw_bars, groups, chance=50, baseline=None if longer is None else 100 * longer),
        draw_png(draw_calibration, evaluation["calibration"]),
    ]


def _accuracies(evaluation: Mapping) -> dict[str, Mapping]:
    return {"overall": evaluation["accuracy"], **evaluation["by_order"]}
