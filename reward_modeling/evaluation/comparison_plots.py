"""The plots of comparison.html: bars of several models under each figure, and how far they are from the first.

grouped_bars({"overall": {"A": entry, "B": entry}}, label="RewardBench: scores", chance=50)
"""

from collections.abc import Collection, Mapping

from matplotlib.axes import Axes

from reward_modeling.display.plot_style import (
    GRID,
    INK,
    MODELS,
    MUTED,
    PAGE,
    WIDTH,
    as_svg,
    new_axes,
    new_figure,
    svg_style,
)
from reward_modeling.display.text import percent, shortened, value_or_reason
from reward_modeling.evaluation.evaluations import LETTERS

LINE, HEADING, GAP = 10, 12, 4  # points: a bar, the name of a figure, what is between two figures
LEFT, RIGHT = 20, 32  # points beside the axes, for letters and for values
NAME_CHARACTERS = 44

Figures = Mapping[str, Mapping[str, Mapping]]


def grouped_bars(figures: Figures, *, label: str, chance: float | None, hollow: Collection[str] = ()) -> str:
    """A bar with its 95% interval for each model, under the name of each figure.

    Args:
        figures: {figure: {letter: entry}}, as `evaluation_comparison` makes them.
        label: what the plot shows. Distinct within one page: ids are made from it.
        chance: percent that guessing gives, marked by a line.
        hollow: letters of models that are not comparable with the first.
    """
    with svg_style(label):
        figure, axes, places = _laid_out(figures)
        axes.set(xlim=(0, 100), xticks=(0, 25, 50, 75, 100))
        axes.set_xlabel("percent, with its 95% interval", labelpad=1)
        if chance is not None:
            axes.axvline(chance, color=MUTED, linewidth=1, linestyle=(0, (3, 2)))
        for y, letter, entry in places:
            _bar(axes, y, letter, entry, letter in hollow)
        return as_svg(figure, label)


def difference_plot(figures: Figures, *, label: str, reference: str) -> str:
    """Each model's figure less the reference's, in points, with the paired 95% interval where there is one."""
    found = {
        name: {letter: entry["difference"] for letter, entry in entries.items() if entry["difference"] is not None}
        for name, entries in figures.items()
    }
    found = {name: entries for name, entries in found.items() if entries}
    ends = [
        100 * one[key]
        for entries in found.values()
        for one in entries.values()
        for key in ("value", "low", "high")
        if one[key] is not None
    ]
    reach = max(1.0, *(1.08 * abs(end) for end in ends))
    with svg_style(label):
        figure, axes, places = _laid_out(found)
        axes.set_xlim(-reach, reach)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel(f"points more than {reference}, with the paired 95% interval", labelpad=1)
        axes.axvline(0, color=MUTED, linewidth=1)
        for y, letter, entry in places:
            color, value = MODELS[LETTERS.index(letter)], 100 * entry["value"]
            if entry["low"] is not None:
                axes.plot([100 * entry["low"], 100 * entry["high"]], [y, y], color=color, linewidth=1.4)
            axes.plot([value], [y], color=color, marker="o", markersize=3.5)
            axes.text(1.02, y, f"{value:+.1f}", transform=axes.get_yaxis_transform(), va="center", fontsize=7)
        return as_svg(figure, label)


def _laid_out(figures: Figures):
    """A figure with room for every line, and (y, letter, entry) of each."""
    height = sum(HEADING + GAP + LINE * len(entries) for entries in figures.values())
    figure = new_figure(height=height + 30)
    axes = new_axes(figure, LEFT, 4, WIDTH - LEFT - RIGHT, height)
    axes.set_ylim(height, 0)
    axes.tick_params(axis="y", left=False, labelleft=False)
    axes.grid(axis="x", color=GRID, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    beside, places, y = axes.get_yaxis_transform(), [], 0.0
    for name, entries in figures.items():
        axes.text(
            -0.06, y + HEADING / 2, shortened(name, NAME_CHARACTERS), transform=beside, va="center", weight="bold"
        )
        y += HEADING
        for letter, entry in entries.items():
            color = MODELS[LETTERS.index(letter)]
            axes.text(-0.03, y + LINE / 2, letter, transform=beside, ha="right", va="center", fontsize=7, color=color)
            places.append((y + LINE / 2, letter, entry))
            y += LINE
        y += GAP
    return figure, axes, places


def _bar(axes: Axes, y: float, letter: str, entry: Mapping, is_hollow: bool) -> None:
    if entry["value"] is None:
        axes.text(2, y, value_or_reason(entry), va="center", style="italic", color=MUTED, fontsize=7)
        return
    color = MODELS[LETTERS.index(letter)]
    fill = {"color": "none", "edgecolor": color, "linewidth": 0.8} if is_hollow else {"color": color}
    axes.barh(y, 100 * entry["value"], height=0.72 * LINE, **fill)
    axes.text(103, y, percent(entry["value"]), va="center", fontsize=7)
    if entry["low"] is not None and entry["high"] is not None:
        ends = [100 * entry["low"], 100 * entry["high"]]
        axes.plot(ends, [y, y], color=PAGE, linewidth=2.2, clip_on=False)
        axes.plot(ends, [y, y], color=INK, linewidth=0.9, marker="|", markersize=3.5, clip_on=False)
