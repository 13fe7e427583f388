"""Plots of held-out steps: those of the page, and those of the model card. They take half a second of matplotlib."""

from collections.abc import Iterator, Mapping

from reward_modeling.display.plot_style import Plot, draw_png, make_plot
from reward_modeling.display.plots import draw_bars
from reward_modeling.display.step_blocks import draw_reliability

Groups = dict[str, dict[str, Mapping]]


def held_out_plots(evaluation: Mapping) -> Iterator[Plot]:
    """Steps and first errors that are found, and calibration."""
    if groups := _shares(evaluation):
        caption = "Percent of steps, and of solutions by their first wrong step, that are found to be what they are."
        yield make_plot("Steps and first errors", caption, draw_bars, groups, chance=None)
    caption = "How often a step is right, by the probability that the model gives it. Dashed: perfect."
    yield make_plot("Calibration of steps", caption, draw_reliability, evaluation["calibration"])


def draw_card_plots(evaluation: Mapping) -> list[bytes]:
    """In the order of `StepResults.card_plots`."""
    return [
        draw_png(draw_bars, _shares(evaluation), chance=None),
        draw_png(draw_reliability, evaluation["calibration"]),
    ]


def _shares(evaluation: Mapping) -> Groups:
    """Those that there are rows for, under the headings of the plot."""
    errors = evaluation["first_error"]
    groups = {
        "steps": {
            "overall": evaluation["step_accuracy"],
            "right": evaluation["found_right"],
            "wrong": evaluation["found_wrong"],
            "always the same verdict": evaluation["always_the_same"],
        },
        "solutions": {"first error found": errors["with_error"], "no error, none found": errors["without_error"]},
    }
    known = {head: {name: row for name, row in rows.items() if row["rows"]} for head, rows in groups.items()}
    return {head: rows for head, rows in known.items() if rows}
