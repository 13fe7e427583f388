"""Plots of held-out pairs: those of the page, and those of the model card. They take half a second of matplotlib."""

from collections.abc import Iterator, Mapping

from reward_modeling.display.pair_blocks import pair_plots
from reward_modeling.display.plot_style import ACCENT, BAR, Plot, draw_png, make_plot
from reward_modeling.display.plots import draw_bars, draw_calibration, draw_margins, draw_steps
from reward_modeling.display.text import MOST_SUBSETS
from reward_modeling.results.pairs import named_differences

MOST_BARS = 12  # sources in a plot of the card


def held_out_plots(evaluation: Mapping) -> Iterator[Plot]:
    """Rewards, what all pairs have, and accuracies by the difference in length and by source."""
    rewards, colors = evaluation["rewards"], {"rejected": ACCENT, "chosen": BAR}
    caption = (
        "Of the chosen and of the rejected answers; the less they overlap, the better. The outermost bins count what "
        "lies beyond them, too."
    )
    names = {"xlabel": "reward", "ylabel": "answers"}
    yield make_plot("Rewards", caption, draw_steps, rewards["edges"], rewards, colors, **names)
    yield from pair_plots("Held-out pairs", evaluation)
    if by_difference := named_differences(evaluation):
        caption = "Percent right, by tokens of the chosen answer less those of the rejected one."
        label = "Held-out accuracy by difference in length"
        yield make_plot("Difference in length", caption, draw_bars, {"": by_difference}, chance=50, label=label)
    if sources := evaluation["by_source"]:
        largest = dict(sorted(sources.items(), key=lambda item: -item[1]["rows"])[:MOST_SUBSETS])
        few = f" The {MOST_SUBSETS} largest." if len(sources) > MOST_SUBSETS else ""
        options = {"label": "Held-out accuracy by source", "tall": len(largest) > 12}
        caption = f"Percent right, with 95% intervals.{few}"
        yield make_plot("Sources", caption, draw_bars, {"": largest}, chance=50, **options)


def draw_card_plots(evaluation: Mapping) -> list[bytes]:
    """In the order of `PairResults.card_plots`."""
    groups = {"": {"overall": evaluation["accuracy"]}, "by length": evaluation["by_length"]}
    if len(evaluation["by_source"]) > 1:
        groups["by source"] = dict(list(evaluation["by_source"].items())[:MOST_BARS])
    longer = evaluation["longer_wins"]["value"]
    return [
        draw_png(draw_bars, groups, chance=50, baseline=None if longer is None else 100 * longer),
        draw_png(draw_margins, evaluation["margins"], evaluation["accuracy"]),
        draw_png(draw_calibration, evaluation["calibration"]),
    ]
