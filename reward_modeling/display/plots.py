"""The plots of report.html: figures of one benchmark in, an inline SVG out.

plot = bar_plot({"": figures}, label="RewardBench, sections", chance=50, baseline=58.2)

How an SVG takes the page's colours and font stands in `plot_style`.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reward_modeling.display.plot_style import (
    ACCENT,
    BAR,
    GRID,
    INK,
    MUTED,
    PAGE,
    STRONG,
    WIDTH,
    as_svg,
    new_axes,
    new_figure,
    svg_style,
)
from reward_modeling.display.text import INCOMPLETE, percent, shortened, value_or_reason

LINE = 14  # points between two bars
NAME_CHARACTERS = 24
STYLES = ("concise", "detailed plain", "detailed markdown")  # of RM-Bench's answers


def bar_plot(
    groups: Mapping[str, Mapping[str, Mapping]], *, label: str, chance: float | None, baseline: float | None = None
) -> str:
    """A bar with its 95% interval for each row, under headings; the row "overall" in a stronger colour.

    Args:
        groups: {heading: {name: row}}; no line for the heading "".
        label: what the plot shows, for those who do not see it. Distinct within one page: ids are made from it.
        chance: percent that guessing gives, marked by a line.
        baseline: percent that the longer answer always gives, marked by another one.
    """
    with svg_style(label):
        return as_svg(draw_bars(groups, chance=chance, baseline=baseline), label)


def draw_bars(
    groups: Mapping[str, Mapping[str, Mapping]], *, chance: float | None, baseline: float | None = None
) -> Figure:
    """The figure of `bar_plot`, to be drawn and saved within `svg_style` or `png_style`."""
    lines = sum(len(group) + bool(heading) for heading, group in groups.items())
    lengths = [4.6 * _length(name) for group in groups.values() for name in group]
    left = 10 + max(lengths + [5.4 * _length(heading) for heading in groups])  # points; headings are bold
    figure = new_figure(height=LINE * lines + 46)
    axes = new_axes(figure, left, 20, WIDTH - left - 32, LINE * lines)
    axes.set(xlim=(0, 100), ylim=(LINE * lines, 0), xticks=(0, 25, 50, 75, 100))
    axes.tick_params(axis="y", left=False, labelleft=False)
    axes.set_xlabel("percent, with its 95% interval", labelpad=1)
    axes.grid(axis="x", color=GRID, linewidth=0.5)
    axes.set_axisbelow(True)
    _mark(axes, chance, f"chance {chance:g}" if chance is not None else "", MUTED, line=0)
    _mark(axes, baseline, f"longer answer {baseline:.1f}" if baseline is not None else "", ACCENT, line=1)
    y = LINE / 2
    for heading, group in groups.items():
        if heading:
            axes.text(-3, y, shortened(heading, NAME_CHARACTERS), ha="right", va="center", weight="bold")
            y += LINE
        for name, row in group.items():
            _bar(axes, y, name, row)
            y += LINE
    return figure


def _length(name: str) -> int:
    return len(shortened(name, NAME_CHARACTERS))


def _bar(axes: Axes, y: float, name: str, row: Mapping) -> None:
    sums_up = name.startswith("overall")
    axes.text(-3, y, shortened(name, NAME_CHARACTERS), ha="right", va="center", weight="bold" if sums_up else "normal")
    if row["value"] is None:
        axes.text(2, y, value_or_reason(row), va="center", style="italic", color=MUTED)
        return
    axes.barh(y, 100 * row["value"], height=0.62 * LINE, color=STRONG if sums_up else BAR)
    axes.text(103, y, percent(row["value"]), va="center", weight="bold" if sums_up else "normal")
    if row["low"] is not None and row["high"] is not None:
        ends = [100 * row["low"], 100 * row["high"]]
        axes.plot(ends, [y, y], color=PAGE, linewidth=2.4, clip_on=False)  # so that it stands out from a dark bar
        axes.plot(ends, [y, y], color=INK, linewidth=1, marker="|", markersize=4.5, clip_on=False)


def _mark(axes: Axes, x: float | None, text: str, color: str, line: int) -> None:
    """A vertical line with its name above the axes, each name on a line of its own: the two may be close."""
    if x is None:
        return
    axes.axvline(x, color=color, linewidth=1, linestyle=(0, (3, 2)) if line == 0 else (0, (1, 1)))
    axes.annotate(
        text, (x, 1), xycoords=("data", "axes fraction"), xytext=(0, 2 + 9 * line), textcoords="offset points",
        ha="center", color=color, fontsize=7,
    )  # fmt: skip


def margin_plot(margins: Mapping, accuracy: Mapping, *, label: str) -> str:
    """How many pairs have which margin; left of zero the model is wrong.

    A bin across zero is neither: it gets a colour of its own.
    """
    with svg_style(label):
        return as_svg(draw_margins(margins, accuracy), label)


def draw_margins(margins: Mapping, accuracy: Mapping) -> Figure:
    """The figure of `margin_plot`."""
    edges, counts = margins["edges"], margins["counts"]
    bins = list(pairwise(edges))
    colors = [ACCENT if high <= 0 else BAR if low >= 0 else MUTED for low, high in bins]
    figure = new_figure(height=150)
    axes = new_axes(figure, 36, 14, WIDTH - 44, 106)
    axes.bar([low for low, _ in bins], counts, [high - low for low, high in bins], align="edge", color=colors)
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_xlabel("reward(chosen) - reward(rejected)", labelpad=1)
    axes.set_ylabel("pairs", labelpad=1)
    axes.margins(x=0.02)
    axes.locator_params(nbins=5)
    rows, right, ties = accuracy["rows"], accuracy["right"], accuracy["ties"]
    if rows and right is not None and ties is not None:
        wrong = f"{percent((rows - right - ties) / rows)}% wrong" + (f", {percent(ties / rows)}% tied" if ties else "")
        axes.text(0, 1.03, wrong, transform=axes.transAxes, color=ACCENT, weight="bold")
        axes.text(
            1,
            1.03,
            f"{percent(right / rows)}% right",
            transform=axes.transAxes,
            color=BAR,
            ha="right",
            weight="bold",
        )
    return figure


def calibration_plot(bins: Sequence[Mapping], *, label: str) -> str:
    """Confidence against the share right, each point with its interval, over the number of pairs of each bin."""
    with svg_style(label):
        return as_svg(draw_calibration(bins), label)


def draw_calibration(bins: Sequence[Mapping]) -> Figure:
    """The figure of `calibration_plot`."""
    filled = [one for one in bins if one["rows"] and one["value"] is not None and one["confidence"] is not None]
    figure = new_figure(height=206)
    axes = new_axes(figure, 36, 8, WIDTH - 44, 120)
    below = new_axes(figure, 36, 140, WIDTH - 44, 30)
    axes.plot([50, 100], [50, 100], color=MUTED, linewidth=1, linestyle=(0, (3, 2)))
    for one in filled:
        if one["value_low"] is not None and one["value_high"] is not None:
            ends = [100 * one["value_low"], 100 * one["value_high"]]
            axes.plot([100 * one["confidence"]] * 2, ends, color=BAR, linewidth=1.2)
    confidence, right = [100 * one["confidence"] for one in filled], [100 * one["value"] for one in filled]
    axes.plot(confidence, right, color=BAR, linewidth=0.8, marker="o", markersize=4)
    lowest = min([50, *(100 * one["value_low"] for one in filled if one["value_low"] is not None)])
    axes.set(xlim=(49, 101), ylim=(max(0, lowest - 3), 102), xticks=range(50, 101, 10), xticklabels=[])
    axes.set_ylabel("share right, percent", labelpad=1)
    axes.grid(color=GRID, linewidth=0.5)
    tallest = max([1, *(one["rows"] or 0 for one in bins)])
    for one in bins:
        middle, width = 50 * (one["low"] + one["high"]), 100 * (one["high"] - one["low"])
        below.bar(middle, one["rows"] or 0, 0.8 * width, color=GRID)
        below.text(middle, (one["rows"] or 0) + 0.06 * tallest, _short(one["rows"] or 0), ha="center", fontsize=6.5)
    below.set(xlim=(49, 101), ylim=(0, 1.4 * tallest), xticks=range(50, 101, 10), yticks=[])
    below.set_ylabel("pairs", labelpad=12)
    below.set_xlabel("confidence, percent", labelpad=1)
    return figure


def style_matrix(cells: Sequence[Sequence[float | None]]) -> str:
    """Shaded table of the share of prompts whose chosen answer wins, by the styles of the two answers."""

    def shaded(value: float | None) -> str:
        if value is None:
            return f"<td>{INCOMPLETE}</td>"
        color = "0,114,178" if value >= 0.5 else "213,94,0"  # blue is better than guessing, orange is worse
        return f'<td style="background:rgba({color},{min(1.2 * abs(value - 0.5), 0.6):.2f})">{percent(value)}</td>'

    head = "".join(f'<th scope="col">{style}</th>' for style in STYLES)
    rows = "".join(
        f'<tr><th scope="row">{style}</th>{"".join(map(shaded, row))}</tr>'
        for style, row in zip(STYLES, cells, strict=True)
    )
    return f'<table class="matrix"><tr><th>chosen \\ rejected</th>{head}</tr>{rows}</table>'


def _short(rows: int) -> str:
    """A count in at most four characters: it stands over a narrow bar."""
    return str(rows) if rows < 1000 else f"{rows / 1000:.1f}k" if rows < 9950 else f"{rows / 1000:.0f}k"
