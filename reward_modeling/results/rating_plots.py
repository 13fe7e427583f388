"""Plots of held-out ratings: those of the page, and those of the model card. They take half a second of matplotlib."""

from collections.abc import Iterator, Mapping

from reward_modeling.display.plot_style import Plot, draw_png, make_plot
from reward_modeling.display.plots import draw_bars
from reward_modeling.display.rating_plots import draw_correlations, draw_predictions
from reward_modeling.display.text import count

MOST_PREDICTIONS = 24  # attributes that have a plot of their own
TALL = 12  # attributes, from which a plot of bars takes the height of two


def held_out_plots(evaluation: Mapping) -> Iterator[Plot]:
    """Correlations, pairs of answers to one prompt, and of each attribute ratings over outputs."""
    attributes = evaluation["attributes"]
    tall = len(attributes) > TALL
    caption = "Of the outputs with the ratings, and of the length of the answer (in tokens) with the ratings."
    yield make_plot("Correlation with the ratings", caption, draw_correlations, *_correlations(attributes), tall=tall)
    pairs = {name: of["pair_accuracy"]["rows"] for name, of in attributes.items()}
    if any(pairs.values()):
        counts = "; ".join(f"{name} {count(rows)}" for name, rows in pairs.items())
        caption = f"Of two answers to one prompt the one with the higher rating has the higher output. Pairs: {counts}."
        yield make_plot(
            "Pairs of a prompt", caption, draw_bars, _pair_bars(attributes), chance=50, tall=2 * len(attributes) > TALL
        )
    shown = [name for name, of in attributes.items() if of["by_output"]][:MOST_PREDICTIONS]
    for name in shown:
        caption = "Mean rating of the answers in each bin of the outputs, over their mean output. Dashed: as predicted."
        label = f"Ratings over outputs: {name}"
        yield make_plot(name, caption, draw_predictions, {name: attributes[name]["by_output"]}, label=label)


def draw_card_plots(evaluation: Mapping) -> list[bytes]:
    """In the order of `RatingResults.card_plots`."""
    attributes = evaluation["attributes"]
    bins = {name: of["by_output"] for name, of in attributes.items() if of["by_output"]}
    return [
        draw_png(draw_correlations, *_correlations(attributes)),
        draw_png(draw_bars, _pair_bars(attributes), chance=50),
        draw_png(draw_predictions, dict(list(bins.items())[:MOST_PREDICTIONS]), columns=2 if len(bins) > 1 else 1),
    ]


def _correlations(attributes: Mapping) -> tuple[dict, dict]:
    of_model, of_length = (
        {name: of[key] for name, of in attributes.items()} for key in ("spearman", "length_spearman")
    )
    return of_model, of_length


def _pair_bars(attributes: Mapping) -> dict[str, dict]:
    return {
        "the model": {name: of["pair_accuracy"] for name, of in attributes.items()},
        "always the longer answer": {name: of["longer_wins"] for name, of in attributes.items()},
    }
