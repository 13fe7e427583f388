"""Plots of held-out steps: of the page and of the model card. They take half a second of matplotlib."""

from collections.abc import Iterator, Mapping

from reward_modeling.display.plot_style import Plot, draw_png, make_plot
from reward_modeling.display.plots import draw_bars
from reward_modeling.display.rating_plots import draw_predictions


def held_out_plots(evaluation: Mapping) -> Iterator[Plot]:
    """What is found of steps and of first errors, and how the probabilities agree with the labels."""
    shares = {
        "right steps": evaluation["found_right"],
        "wrong steps": evaluation["found_wrong"],
        "first errors": evaluation["first_error"]["with_error"],
        "no error": evaluation["first_error"]["without_error"],
    }
    found = {name: of for name, of in shares.items() if of["rows"]}
    if found:
        caption = "Percent of steps, and of solutions with and without an error, that are found to be what they are."
        yield make_plot("What is found", caption, draw_bars, {"": found}, chance=None, label="What is found, percent")
    if bins := _bins(evaluation):
        caption = "Mean label of the steps in each bin of P(right), over its mean. Dashed: as predicted."
        yield make_plot("Calibration", caption, draw_predictions, {"P(right)": bins})


def draw_card_plots(evaluation: Mapping) -> list[bytes]:
    """In the order of `StepResults.card_plots`."""
    return [draw_png(draw_predictions, {"P(right)": _bins(evaluation)})]


def _bins(evaluation: Mapping) -> list[dict]:
    """As `draw_predictions` takes them."""
    return [
        {"output": row["confidence"], "rating": row["value"], "low": row["value_low"], "high": row["value_high"]}
        for row in evaluation["calibration"]
        if row["rows"]
    ]
