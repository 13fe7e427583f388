"""The plots of lint.html: inline SVGs in the page's own colours and font, as `plot_style` makes them.

length_plot(summary["lengths"]["characters"]["histogram"], label="Lengths in characters")
"""

from collections.abc import Mapping

from matplotlib.ticker import FuncFormatter, NullLocator

from reward_modeling.display.plot_style import ACCENT, BAR, INK, MUTED, WIDTH, as_svg, new_axes, new_figure, svg_style

LINES = {"prompt": (MUTED, (0, (3, 2))), "chosen": (BAR, "solid"), "rejected": (ACCENT, "solid")}


def length_plot(histogram: Mapping, *, label: str) -> str:
    """The share of prompts, chosen and rejected replies of each length, over a logarithmic axis."""
    edges = [max(edge, 0.5) for edge in histogram["edges"]]
    with svg_style(label):
        figure = new_figure(height=150)
        axes = new_axes(figure, 30, 16, WIDTH - 40, 104)
        for place, (name, (color, line)) in enumerate(LINES.items()):
            counts = histogram["counts"][name]
            total = max(sum(counts), 1)
            if len(edges) > 1:
                shares = [100 * count / total for count in counts]
                axes.stairs(shares, edges, color=color, linestyle=line, linewidth=1.3)
            axes.text(
                0.5 * place, 1.04, name, transform=axes.transAxes, color=color, weight="bold",
                ha=("left", "center", "right")[place],
            )  # fmt: skip
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(bottom=0)
        axes.set_xlabel(label.rpartition(" in ")[2], labelpad=1)
        axes.set_ylabel("percent", labelpad=1)
        return as_svg(figure, label)


def count_plot(counts: Mapping[str, int], *, label: str, unit: str) -> str:
    """A bar for each group, with its share above it."""
    total = max(sum(counts.values()), 1)
    shares = [100 * count / total for count in counts.values()]
    with svg_style(label):
        figure = new_figure(height=130)
        axes = new_axes(figure, 8, 14, WIDTH - 16, 86)
        axes.bar(range(len(shares)), shares, width=0.8, color=BAR)
        for place, share in enumerate(shares):
            axes.text(place, share + 1.5, percent_of(share), ha="center", color=INK, fontsize=7)
        axes.set(xticks=range(len(shares)), xticklabels=list(counts), yticks=[], ylim=(0, 1.12 * max([1, *shares])))
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(unit, labelpad=1)
        return as_svg(figure, label)


def percent_of(share: float) -> str:
    """A share that is there does not look like none."""
    return "0" if share == 0 else "<0.1" if share < 0.05 else f"{share:.1f}"
