"""The log of a run as curves, and their plot: few points, whatever the length of the log, and no peak is hidden.

curve = log_curve(state["log_history"], "loss")
plot = make_plot("Loss", "Mean over pairs.", draw_curves, {"training": curve})
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from reward_modeling.display.plot_style import ACCENT, BAR, MODELS, WIDTH, new_axes, new_figure
from reward_modeling.display.plots import name_series
from reward_modeling.display.text import short_number, shorten

MOST_POINTS = 150  # of a curve: more than a phone has room for
FEW_POINTS = 40  # that are marked one by one
NAMES_PER_LINE, NAME_CHARACTERS = 2, 20  # above a plot of many curves
MOST_CURVES = len(MODELS)
LOGARITHMIC_FROM = 100  # times as large as the smallest value is the largest


@dataclass(frozen=True)
class Curve:
    """Values over steps, each of one log or of several in a row."""

    steps: list[float]  # mean step of a point's logs
    values: list[float]  # mean of a point's logs
    lows: list[float]  # the lowest of a point's logs, or of the lower ends of their intervals
    highs: list[float]
    logs_per_point: int  # at most; 1 where nothing was taken together
    not_finite: int  # logs left out, since they are no numbers

    @property
    def has_band(self) -> bool:
        return any(low < high for low, high in zip(self.lows, self.highs, strict=True))


def log_curve(history: Sequence[Mapping], name: str, *, most: int = MOST_POINTS) -> Curve | None:
    """The curve of one figure, or None where no entry has it.

    Args:
        history: the Trainer's log_history; entries without the figure are passed over. One may have its interval, too:
            the name with "_low" and "_high".
        most: points of the curve. Of more logs than that as many as needed, in a row, become one point: their mean, and
            the lowest and the highest of them (or of their intervals), so that no peak is lost.
    """
    entries = [entry for entry in history if name in entry]
    if not entries:
        return None
    finite = [entry for entry in entries if entry[name] is not None and math.isfinite(entry[name])]
    if not finite:
        return Curve([], [], [], [], 1, len(entries))
    columns = [[entry["step"] for entry in finite]]
    columns += [[entry.get(f"{name}{end}", entry[name]) for entry in finite] for end in ("", "_low", "_high")]
    steps, values, lows, highs = np.array(columns, dtype=np.float64)
    per_point = math.ceil(len(finite) / most)
    starts = np.arange(0, len(finite), per_point)
    counts = np.diff([*starts, len(finite)])
    return Curve(
        (np.add.reduceat(steps, starts) / counts).tolist(),
        (np.add.reduceat(values, starts) / counts).tolist(),
        np.minimum.reduceat(lows, starts).tolist(),
        np.maximum.reduceat(highs, starts).tolist(),
        per_point,
        len(entries) - len(finite),
    )


def draw_curves(curves: Mapping[str, Curve], *, scale: float = 1, may_be_logarithmic: bool = False) -> Figure:
    """One or two curves over the steps, the first in blue, the second in orange, each with its name above.

    More of them, up to `MOST_CURVES`, have the colours that models have where they are compared.

    Args:
        curves: those of one figure, by name; a curve without points is named all the same.
        scale: what values are multiplied by.
        may_be_logarithmic: whether the axis is, where the values are positive and far apart.
    """
    lines_of_names = 1 if len(curves) <= 2 else math.ceil(len(curves) / NAMES_PER_LINE)
    above = 14 + 10 * (lines_of_names - 1)
    figure = new_figure(height=132 + above)
    axes = new_axes(figure, 38, above, WIDTH - 46, 104)
    colors = dict(zip(curves, (BAR, ACCENT) if len(curves) <= 2 else MODELS, strict=False))
    for name, curve in curves.items():
        _draw_curve(axes, curve, scale, colors[name])
    if len(curves) <= 2:
        name_series(axes, colors)
    else:
        _name_many(axes, colors)
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
    axes.set_xlabel("step")
    axes.grid(axis="y")
    return figure


def _name_many(axes: Axes, colors: Mapping[str, str]) -> None:
    """The names of several curves in lines above the axes, in their colours."""
    last = (len(colors) - 1) // NAMES_PER_LINE
    for number, (name, color) in enumerate(colors.items()):
        line, place = divmod(number, NAMES_PER_LINE)
        where = (place / NAMES_PER_LINE, 1.04)
        options = {"xycoords": "axes fraction", "xytext": (0, 10 * (last - line)), "textcoords": "offset points"}
        axes.annotate(shorten(name, NAME_CHARACTERS), where, color=color, weight="bold", **options)


def _draw_curve(axes: Axes, curve: Curve, scale: float, color: str) -> None:
    values, lows, highs = ([scale * value for value in column] for column in (curve.values, curve.lows, curve.highs))
    is_second = color == ACCENT
    is_marked = len(values) == 1 or (is_second and len(values) <= FEW_POINTS)
    if curve.has_band:
        axes.fill_between(curve.steps, lows, highs, color=color, alpha=0.22, linewidth=0)
    marker = {"marker": "o", "markersize": 3} if is_marked else {}
    axes.plot(curve.steps, values, color=color, linewidth=1.3 if is_second else 1, **marker)
