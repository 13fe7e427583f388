"""Plots that several pages show: accuracies as bars, histograms, calibration.

plot = make_plot("Sections", "Percent right.", draw_bars, {"": figures}, chance=50, baseline=58.2)
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from reward_modeling.display.plot_style import ACCENT, BAR, GRID, INK, MUTED, PAGE, STRONG, WIDTH, new_axes, new_figure
from reward_modeling.display.text import percent, shorten, value_or_reason

NAME_CHARACTERS, HEADING_CHARACTERS = 24, 44
DASHED, DOTTED = (0, (3, 2)), (0, (1, 1))

Groups = Mapping[str, Mapping[str, Mapping]]
"""{heading: {name: row}}; a heading "" takes no line."""


def draw_bars(
    groups: Groups,
    *,
    chance: float | None,
    baseline: float | None = None,
    colors: Mapping[str, str] | None = None,
    hollow: Collection[str] = (),
) -> Figure:
    """A bar with its 95% interval for each row; the row "overall" in a stronger colour.

    Args:
        chance: percent that guessing gives, marked by a line.
        baseline: percent that the longer answer always gives, marked by another one.
        colors: of all names, where each model has its own.
        hollow: names whose bars are not filled.
    """
    figure, axes, rows = lay_out_rows(groups, colors)
    axes.set(xlim=(0, 100), xticks=(0, 25, 50, 75, 100), xlabel="percent, with its 95% interval")
    _mark(axes, chance, "chance {:g}", MUTED, DASHED, line=0)
    _mark(axes, baseline, "longer answer {:.1f}", ACCENT, DOTTED, line=1)
    for y, name, row in rows:
        color = colors[name] if colors else STRONG if name.startswith("overall") else BAR
        _draw_bar(axes, y, row, color, is_hollow=name in hollow, weight=_weight(name))
    return figure


def lay_out_rows(groups: Groups, colors: Mapping[str, str] | None = None) -> tuple[Figure, Axes, list[tuple]]:
    """A figure with a line for each heading and name, its axes right of the names, and (y, name, row) of each row."""
    height = 12 if colors else 14  # points of a line
    lines = [line for heading, rows in groups.items() for line in [(heading, None)] * bool(heading) + [*rows.items()]]
    longest = max((len(shorten(name, NAME_CHARACTERS)) for name, row in lines if row is not None), default=0)
    left = 10 + 4.6 * longest
    figure = new_figure(height=height * len(lines) + 46)
    axes = new_axes(figure, left, 20, WIDTH - left - 32, height * len(lines))
    axes.set_ylim(len(lines), 0)
    axes.tick_params(axis="y", left=False, labelleft=False)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(not colors)
    beside = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "va": "center"}
    for y, (name, row) in enumerate(lines):
        if row is None:
            words = shorten(name, HEADING_CHARACTERS)
            axes.annotate(words, (0, y + 0.5), xytext=(6 - left, 0), weight="bold", **beside)
        else:
            words, color = shorten(name, NAME_CHARACTERS), colors[name] if colors else INK
            axes.annotate(words, (0, y + 0.5), xytext=(-4, 0), ha="right", color=color, weight=_weight(name), **beside)
    return figure, axes, [(y + 0.5, name, row) for y, (name, row) in enumerate(lines) if row is not None]


def _weight(name: str) -> str:
    return "bold" if name.startswith("overall") else "normal"


def _draw_bar(axes: Axes, y: float, row: Mapping, color: str, *, is_hollow: bool, weight: str) -> None:
    if row["value"] is None:
        axes.text(2, y, value_or_reason(row), va="center", style="italic", color=MUTED)
        return
    fill = {"color": "none", "edgecolor": color, "linewidth": 0.8} if is_hollow else {"color": color}
    axes.barh(y, 100 * row["value"], height=0.64, **fill)
    axes.text(103, y, percent(row["value"]), va="center", weight=weight)
    if row["low"] is not None and row["high"] is not None:
        ends = [100 * row["low"], 100 * row["high"]]
        axes.plot(ends, [y, y], color=PAGE, linewidth=2.4, clip_on=False)  # so that it stands out from a dark bar
        axes.plot(ends, [y, y], color=INK, linewidth=1, marker="|", markersize=4.5, clip_on=False)


def _mark(axes: Axes, x: float | None, words: str, color: str, style: tuple, line: int) -> None:
    """A vertical line with its name above the axes, each name on a line of its own: the two may be close."""
    if x is not None:
        axes.axvline(x, color=color, linewidth=1, linestyle=style)
        at = {"xycoords": ("data", "axes fraction"), "xytext": (0, 2 + 9 * line), "textcoords": "offset points"}
        axes.annotate(words.format(x), (x, 1), ha="center", color=color, fontsize=7, **at)


def name_series(axes: Axes, colors: Mapping[str, str]) -> None:
    """The names of up to three series above the axes, in their colours."""
    for place, (name, color) in zip(np.linspace(0, 1, len(colors)), colors.items(), strict=True):
        alignment = {0: "left", 0.5: "center", 1: "right"}[place]
        axes.text(place, 1.04, name, transform=axes.transAxes, color=color, weight="bold", ha=alignment)


def draw_steps(
    edges: Sequence[float],
    counts: Mapping[str, Sequence[float]],
    colors: Mapping[str, str],
    *,
    xlabel: str,
    ylabel: str,
    logarithmic: bool = False,
) -> Figure:
    """Histograms of several series over the same bins.

    Args:
        edges: of the bins, one more than there are bins.
        counts: of each series.
        colors: of each series, in the order of their names above the plot.
    """
    figure = new_figure(height=150)
    axes = new_axes(figure, 36, 14, WIDTH - 44, 106)
    for name, color in colors.items():
        if len(edges) > 1:
            axes.stairs(counts[name], edges, fill=True, color=color, alpha=0.3, linewidth=0)
            axes.stairs(counts[name], edges, color=color, linewidth=1.2)
    name_series(axes, colors)
    axes.margins(x=0.02)
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.locator_params(nbins=5)
        if len(edges) > 1 and edges[0] <= 0 <= edges[-1]:  # elsewhere it would press the bins into a corner
            axes.axvline(0, color=INK, linewidth=0.6)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_ylim(bottom=0)
    return figure


def draw_margins(margins: Mapping, accuracy: Mapping) -> Figure:
    """How many pairs have which margin; left of zero the model is wrong.

    A bin across zero is neither: it gets a colour of its own.
    """
    edges, counts = margins["edges"], margins["counts"]
    bins = list(pairwise(edges))
    colors = [ACCENT if high <= 0 else BAR if low >= 0 else MUTED for low, high in bins]
    figure = new_figure(height=150)
    axes = new_axes(figure, 36, 14, WIDTH - 44, 106)
    axes.bar([low for low, _ in bins], counts, [high - low for low, high in bins], align="edge", color=colors)
    axes.axvline(0, color=INK, linewidth=1)
    axes.set(xlabel="reward(chosen) - reward(rejected)", ylabel="pairs")
    axes.margins(x=0.02)
    axes.locator_params(nbins=5)
    rows, right, ties = accuracy["rows"], accuracy["right"], accuracy["ties"]
    if rows and right is not None and ties is not None:
        wrong = f"{percent((rows - right - ties) / rows)}% wrong" + (f", {percent(ties / rows)}% tied" if ties else "")
        name_series(axes, {wrong: ACCENT, f"{percent(right / rows)}% right": BAR})
    return figure


def draw_calibration(bins: Sequence[Mapping]) -> Figure:
    """Confidence against the share right, each point with its interval, over the number of pairs of each bin."""
    figure = new_figure(height=206)
    axes = new_axes(figure, 36, 8, WIDTH - 44, 120)
    below = new_axes(figure, 36, 140, WIDTH - 44, 30)
    axes.plot([50, 100], [50, 100], color=MUTED, linewidth=1, linestyle=DASHED)
    filled = [row for row in bins if row["rows"] and None not in (row["value"], row["confidence"])]
    confidence, right = ([100 * row[name] for row in filled] for name in ("confidence", "value"))
    axes.plot(confidence, right, color=BAR, linewidth=0.8, marker="o", markersize=4)
    lowest = 50.0
    for x, row in zip(confidence, filled, strict=True):
        if row["value_low"] is not None and row["value_high"] is not None:
            low, high = 100 * row["value_low"], 100 * row["value_high"]
            axes.plot([x, x], [low, high], color=BAR, linewidth=1.2)
            lowest = min(lowest, low)
    axes.set(xlim=(49, 101), ylim=(max(0, lowest - 3), 102), xticks=range(50, 101, 10), xticklabels=[])
    axes.set_ylabel("share right, percent")
    axes.grid()
    counts = [row["rows"] or 0 for row in bins]
    tallest = max([1, *counts])
    for row, rows in zip(bins, counts, strict=True):
        middle, width = 50 * (row["low"] + row["high"]), 100 * (row["high"] - row["low"])
        below.bar(middle, rows, 0.8 * width, color=GRID)
        below.text(middle, rows + 0.06 * tallest, short_count(rows), ha="center", fontsize=6.5)
    below.set(xlim=(49, 101), ylim=(0, 1.4 * tallest), xticks=range(50, 101, 10), yticks=[])
    below.set_ylabel("pairs", labelpad=12)
    below.set_xlabel("confidence, percent")
    return figure


def short_count(rows: int) -> str:
    """A count in at most four characters: it stands over a narrow bar."""
    return str(rows) if rows < 1000 else f"{rows / 1000:.1f}k" if rows < 9950 else f"{rows / 1000:.0f}k"
