"""Plots of models that predict ratings: figures of attributes as bars, and what was rated where a model says what."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reward_modeling.display.plot_style import ACCENT, BAR, INK, MUTED, PAGE, WIDTH, new_axes, new_figure
from reward_modeling.display.plots import DASHED, NAME_CHARACTERS, lay_out_rows
from reward_modeling.display.text import shorten

PLACE_OF_NUMBERS = 1.03  # right of the bars, as a share of their axes
ROOM = 0.06  # around what is drawn, as a share of it


def draw_correlations(rows: Mapping[str, Mapping], baselines: Mapping[str, Mapping]) -> Figure:
    """A bar with its 95% interval for each correlation, and a diamond for that of the length.

    Args:
        rows: {name: a correlation, as evaluation.json has it}.
        baselines: of the same names.
    """
    figure, axes = _draw_beside_length(rows, baselines, "{:.2f}")
    ends = [row[end] for row in (*rows.values(), *baselines.values()) for end in ("value", "low") if row[end]]
    lowest = min(ends, default=0)
    axes.set(xlim=(-1 if lowest < -0.5 else -0.5 if lowest < 0 else 0, 1))
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set_xlabel("Spearman's correlation, with its 95% interval")
    return figure


def draw_pair_shares(rows: Mapping[str, Mapping], baselines: Mapping[str, Mapping]) -> Figure:
    """As `draw_correlations`, of shares of pairs that are ordered right, in percent; a dashed line at chance."""
    rows, baselines = ({name: _in_percent(row) for name, row in of.items()} for of in (rows, baselines))
    figure, axes = _draw_beside_length(rows, baselines, "{:.1f}")
    axes.set(xlim=(0, 100), xticks=(0, 25, 50, 75, 100), xlabel="percent, with its 95% interval")
    axes.axvline(50, color=MUTED, linewidth=1, linestyle=DASHED)
    return figure


def _in_percent(row: Mapping) -> dict[str, float | None]:
    return {end: None if row[end] is None else 100 * row[end] for end in ("value", "low", "high")}


def _draw_beside_length(
    rows: Mapping[str, Mapping], baselines: Mapping[str, Mapping], form: str
) -> tuple[Figure, Axes]:
    figure, axes, lines = lay_out_rows({"": rows})
    for y, name, row in lines:
        _draw_bar(axes, y, row, form)
        if baselines[name]["value"] is not None:
            axes.plot(baselines[name]["value"], y, color=ACCENT, marker="D", markersize=4, markeredgecolor=PAGE)
    where = {"xycoords": "axes fraction", "xytext": (0, 4), "textcoords": "offset points"}
    axes.annotate("the model", (0, 1), color=BAR, weight="bold", **where)
    axes.annotate("the length", (1, 1), color=ACCENT, weight="bold", ha="right", **where)
    return figure, axes


def _draw_bar(axes: Axes, y: float, row: Mapping, form: str) -> None:
    if row["value"] is None:
        where = {"xycoords": axes.get_yaxis_transform(), "va": "center"}
        axes.annotate("none", (PLACE_OF_NUMBERS, y), style="italic", color=MUTED, **where)
        return
    axes.barh(y, row["value"], height=0.64, color=BAR)
    axes.text(PLACE_OF_NUMBERS, y, form.format(row["value"]), va="center", transform=axes.get_yaxis_transform())
    if row["low"] is not None and row["high"] is not None:
        ends = [row["low"], row["high"]]
        axes.plot(ends, [y, y], color=PAGE, linewidth=2.4, clip_on=False)  # so that it stands out from a dark bar
        axes.plot(ends, [y, y], color=INK, linewidth=1, marker="|", markersize=4.5, clip_on=False)


def draw_predictions(bins: Mapping[str, Sequence[Mapping]], columns: int = 1) -> Figure:
    """Mean ratings over mean outputs, each with its interval, a plot for each name; dashed: the output is right.

    Args:
        bins: {name: bins as `objectives.rating_bins.output_bins` makes them}.
        columns: of plots side by side, which then have their names above them.
    """
    lines = math.ceil(len(bins) / columns)
    width, height, above = (WIDTH - 8) / columns, *((140, 6) if columns == 1 else (112, 16))
    figure = new_figure(height=height * lines + 14)
    for number, (name, of_name) in enumerate(bins.items()):
        line, column = divmod(number, columns)
        axes = new_axes(figure, 34 + column * width, above + line * height, width - 42, height - 30)
        _draw_bins(axes, of_name)
        if columns > 1:
            axes.set_title(shorten(name, NAME_CHARACTERS - 2), loc="left", weight="bold", pad=3, fontsize=7)
        axes.set_xlabel("output" if number + columns >= len(bins) else "")
        axes.set_ylabel("rating" if column == 0 else "")
    return figure


def _draw_bins(axes: Axes, bins: Sequence[Mapping]) -> None:
    outputs, ratings = ([one[name] for one in bins] for name in ("output", "rating"))
    for x, one in zip(outputs, bins, strict=True):
        axes.plot([x, x], [one["low"], one["high"]], color=BAR, linewidth=1.2)
    axes.plot(outputs, ratings, color=BAR, linewidth=0.8, marker="o", markersize=3.5)
    axes.set_xlim(*_with_room(outputs))
    axes.set_ylim(*_with_room([one[end] for one in bins for end in ("low", "high")]))
    axes.axline((0, 0), slope=1, color=MUTED, linewidth=1, linestyle=DASHED)
    axes.locator_params(nbins=4)
    axes.grid()


def _with_room(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = ROOM * (high - low) or 0.5
    return low - room, high + room
