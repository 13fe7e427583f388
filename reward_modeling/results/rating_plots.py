"""Plots of held-out ratings: those of the page, and those of the model card. They take half a second of matplotlib."""

from collections.abc import Iterator, Mapping

from reward_modeling.display.plot_style import Plot, draw_png, make_plot
from reward_modeling.display.rating_plots import draw_correlations, draw_pair_shares, draw_predictions

MOST_PREDICTIONS = 24  # attributes of which ratings are drawn over outputs
TALL = 12  # attributes, beyond which a plot of bars takes the height of two


def held_out_plots(evaluation: Mapping) -> Iterator[Plot]:
    """Correlations, pairs of answers to one prompt, and of each attribute ratings over outputs."""
    attributes = evaluation["attributes"]
    tall = len(attributes) > TALL
    caption = "Of the outputs with the ratings, and of the number of the answer's characters with the ratings."
    correlations = _beside_length(attributes, "spearman", "length_spearman")
    yield make_plot("Correlation with the ratings", caption, draw_correlations, *correlations, tall=tall)
    if any(of["pair_accuracy"]["rows"] for of in attributes.values()):
        caption = "How often the answer with the higher rating gets the higher output; how often it is the longer one."
        shares = _beside_length(attributes, "pair_accuracy", "longer_wins")
        yield make_plot("Pairs of answers to one prompt", caption, draw_pair_shares, *shares, tall=tall)
    caption = "Mean rating of the answers in each bin of the outputs, over their mean output. Dashed: as predicted."
    for name, bins in _drawn_bins(attributes).items():
        yield make_plot(f"Ratings of {name}", caption, draw_predictions, {name: bins})


def draw_card_plots(evaluation: Mapping) -> list[bytes]:
    """In the order of `RatingResults.card_plots`."""
    attributes = evaluation["attributes"]
    bins = _drawn_bins(attributes)
    return [
        draw_png(draw_correlations, *_beside_length(attributes, "spearman", "length_spearman")),
        draw_png(draw_pair_shares, *_beside_length(attributes, "pair_accuracy", "longer_wins")),
        draw_png(draw_predictions, bins, columns=min(2, len(bins))),
    ]


def _beside_length(attributes: Mapping, of_model: str, of_length: str) -> list[dict[str, Mapping]]:
    return [{name: of[figure] for name, of in attributes.items()} for figure in (of_model, of_length)]


def _drawn_bins(attributes: Mapping) -> dict[str, list]:
    bins = {name: of["by_output"] for name, of in attributes.items() if of["by_output"]}
    return dict(list(bins.items())[:MOST_PREDICTIONS])
