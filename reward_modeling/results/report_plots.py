"""The plots of a run's report.html: curves of its log, and what the held-out rewards are like.

curve_plot({"training": curve, "held out": held_out}, label="Loss")
"""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from reward_modeling.display.plot_style import ACCENT, BAR, GRID, INK, WIDTH, as_svg, new_axes, new_figure, svg_style
from reward_modeling.results.log_curves import Curve

FEW_POINTS = 40  # that are marked one by one
LOGARITHMIC_FROM = 100  # times as large as the smallest value is the largest


def curve_plot(
    curves: Mapping[str, Curve], *, label: str, percent: bool = False, may_be_logarithmic: bool = False
) -> str:
    """One or two curves over the steps, the first in blue, the second in orange, each with its name above.

    Args:
        curves: those of one figure, by name; a curve without points is named all the same.
        label: what the plot shows. Distinct within one page: ids are made from it.
        percent: whether values are shares, to be shown as percent.
        may_be_logarithmic: whether the axis is, where the values are positive and far apart.
    """
    scale = 100 if percent else 1
    with svg_style(label):
        figure = new_figure(height=146)
        axes = new_axes(figure, 38, 14, WIDTH - 46, 104)
        for place, (name, curve) in enumerate(curves.items()):
            color = (BAR, ACCENT)[place]
            _draw(axes, curve, scale, color, is_second=place == 1)
            _name(axes, place, name, color)
        values = [value for curve in curves.values() for value in (*curve.lows, *curve.highs)]
        if may_be_logarithmic and values and min(values) > 0 and max(values) > LOGARITHMIC_FROM * min(values):
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.locator_params(axis="y", nbins=5)
        # Not matplotlib's own for a logarithmic axis: it writes formulas, which the pages show as they stand.
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
        axes.locator_params(axis="x", nbins=5, integer=True)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.margins(x=0.02)
        axes.set_xlabel("step", labelpad=1)
        axes.grid(axis="y", color=GRID, linewidth=0.5)
        axes.set_axisbelow(True)
        return as_svg(figure, label)


def _draw(axes: Axes, curve: Curve, scale: float, color: str, is_second: bool) -> None:
    values, lows, highs = ([scale * value for value in one] for one in (curve.values, curve.lows, curve.highs))
    marker = {"marker": "o", "markersize": 3} if len(values) <= FEW_POINTS and (is_second or len(values) == 1) else {}
    if curve.has_band:
        axes.fill_between(curve.steps, lows, highs, color=color, alpha=0.22, linewidth=0)
    axes.plot(curve.steps, values, color=color, linewidth=1.3 if is_second else 1, **marker)


def _name(axes: Axes, place: int, name: str, color: str) -> None:
    """What has this colour, above the left end of the axes (place 0) or the right one."""
    axes.text(place, 1.04, name, transform=axes.transAxes, color=color, weight="bold", ha=("left", "right")[place])


def short_number(value: float) -> str:
    """A number beside an axis: 0.05, 2e-05, 12,000, 1.5M."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:,.3g}M"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def reward_plot(edges: Sequence[float], counts: Mapping[str, Sequence[int]], *, label: str) -> str:
    """How many chosen and how many rejected answers have which reward.

    Args:
        edges: of the bins, one more than there are bins.
        counts: of "chosen" and of "rejected", in this order.
    """
    with svg_style(label):
        figure = new_figure(height=150)
        axes = new_axes(figure, 36, 14, WIDTH - 44, 106)
        for place, (name, color) in enumerate((("rejected", ACCENT), ("chosen", BAR))):
            if len(edges) > 1:
                axes.stairs(counts[name], edges, fill=True, color=color, alpha=0.3, linewidth=0)
                axes.stairs(counts[name], edges, color=color, linewidth=1.2)
            _name(axes, place, name, color)
        if len(edges) > 1 and edges[0] <= 0 <= edges[-1]:  # elsewhere it would press the bins into a corner
            axes.axvline(0, color=INK, linewidth=0.6)
        axes.set_ylim(bottom=0)
        axes.margins(x=0.02)
        axes.locator_params(nbins=5)
        axes.set_xlabel("reward", labelpad=1)
        axes.set_ylabel("answers", labelpad=1)
        return as_svg(figure, label)
