"""Plots of models that predict ratings: correlations as bars, and what was rated where the model gives which output."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reward_modeling.display.plot_style import ACCENT, BAR, INK, MUTED, PAGE, WIDTH, new_axes, new_figure
from reward_modeling.display.plots import DASHED, NAME_CHARACTERS, lay_out_rows
from reward_modeling.display.text import shorten

PLACE_OF_NUMBERS = 1.03  # right of the bars, on their scale


def draw_correlations(rows: Mapping[str, Mapping], baselines: Mapping[str, Mapping]) -> Figure:
    """A bar with its 95% interval for each correlation, and a diamond for that of the baseline.

    Args:
        rows: {name: a correlation, as evaluation.json has it}.
        baselines: of the same names.
    """
    lowest = min(
        (value for row in (*rows.values(), *baselines.values()) if (value := _lowest(row)) is not None), default=0
    )
    left = -1 if lowest < -0.5 else -0.5 if lowest < 0 else 0
    figure, axes, lines = lay_out_rows({"": rows})
    axes.set(xlim=(left, 1), xlabel="Spearman's correlation, with its 95% interval")
    axes.locator_params(axis="x", nbins=5)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    for y, name, row in lines:
        _draw_correlation(axes, y, row)
        if baselines[name]["value"] is not None:
            axes.plot(baselines[name]["value"], y, color=ACCENT, marker="D", markersize=4, markeredgecolor=PAGE)
    where = {"xycoords": "axes fraction", "xytext": (0, 4), "textcoords": "offset points"}
    axes.annotate("the model", (0, 1), color=BAR, weight="bold", **where)
    axes.annotate("the length", (1, 1), color=ACCENT, weight="bold", ha="right", **where)
    return figure


def _lowest(row: Mapping) -> float | None:
    return row["value"] if row["low"] is None else row["low"]


def _draw_correlation(axes: Axes, y: float, row: Mapping) -> None:
    if row["value"] is None:
        axes.text(0.02, y, "none", va="center", style="italic", color=MUTED)
        return
    axes.barh(y, row["value"], height=0.64, color=BAR)
    axes.text(PLACE_OF_NUMBERS, y, f"{row['value']:.2f}", va="center")
    if row["low"] is not None and row["high"] is not None:
        ends = [row["low"], row["high"]]
        axes.plot(ends, [y, y], color=PAGE, linewidth=2.4, clip_on=False)  # so that it stands out from a dark bar
        axes.plot(ends, [y, y], color=INK, linewidth=1, marker="|", markersize=4.5, clip_on=False)


def draw_predictions(bins: Mapping[str, Sequence[Mapping]], columns: int = 1) -> Figure:
    """Mean ratings over mean outputs, each with its interval, a plot for each name; dashed: the output is right.

    Args:
        bins: {name: bins as `objectives.rating_bins.output_bins` makes them}.
        columns: of plots side by side.
    """
    lines = math.ceil(len(bins) / columns)
    width, height = (WIDTH - 8) / columns, 154 if columns == 1 else 116
    figure = new_figure(height=height * lines)
    for number, (name, of_name) in enumerate(bins.items()):
        line, column = divmod(number, columns)
        place = (34 + column * width, 16 + line * height, width - 42, height - 48)
        axes = new_axes(figure, *place)
        _draw_bins(axes, of_name)
        if columns > 1:
            axes.set_title(shorten(name, NAME_CHARACTERS), loc="left", weight="bold", pad=3)
        axes.set_xlabel("output" if line == lines - 1 or number + columns >= len(bins) else "")
        axes.set_ylabel("rating" if column == 0 else "")
    return figure


def _draw_bins(axes: Axes, bins: Sequence[Mapping]) -> None:
    outputs, ratings = ([one[name] for one in bins] for name in ("output", "rating"))
    for x, one in zip(outputs, bins, strict=True):
        axes.plot([x, x], [one["low"], one["high"]], color=BAR, linewidth=1.2)
    axes.plot(outputs, ratings, color=BAR, linewidth=0.8, marker="o", markersize=3.5)
    axes.margins(0.06)
    ends = [*axes.get_xlim(), *axes.get_ylim()]
    axes.axline((min(ends), min(ends)), slope=1, color=MUTED, linewidth=1, linestyle=DASHED)
    axes.locator_params(nbins=4)
    axes.grid()
