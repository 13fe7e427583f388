"""OUTPUT.report.html: the report as one page that needs no network; templates/best_of_n.html has its words."""

from collections.abc import Iterator, Mapping

from matplotlib.figure import Figure

from reward_modeling.best_of_n.dropped import dropped_rows
from reward_modeling.best_of_n.report import (
    TRUTH_NAMES,
    between,
    between_points,
    curve_notes,
    head_text,
    selected_texts,
    tables,
    truth_notes,
    warning_texts,
)
from reward_modeling.best_of_n.step_report import step_curves, step_notes
from reward_modeling.best_of_n.win_report import are_win_probabilities, reward_name
from reward_modeling.display.page import render
from reward_modeling.display.plot_style import MODELS, WIDTH, Plot, make_plot, new_axes, new_figure
from reward_modeling.display.plots import name_series


def write_page(output: str, report: Mapping) -> str:
    """The text of the page.

    Args:
        output: the name of the file of rows.
    """
    return render(
        "best_of_n/templates/best_of_n.html",
        output=output,
        reward_name=reward_name(report),
        report=report,
        head=head_text(report),
        texts=[*curve_notes(report), *truth_notes(report), *_notes_of_steps(report), *selected_texts(report)],
        warning_texts=warning_texts(report),
        plots=[*_plots(report)],
        titled_rows=[*tables(report)],
        dropped=dropped_rows(report["dropped"]),
        between=between,
        between_points=between_points,
    )


def _notes_of_steps(report: Mapping) -> list[str]:
    return step_notes(report["steps"]) if report["steps"] else []


def _plots(report: Mapping) -> Iterator[Plot]:
    rows = report["curve"]
    caption = "The greatest reward of n answers, over all subsets of a prompt's answers, with its 95% interval."
    if are_win_probabilities(report):
        caption = "The greatest win probability of n answers of a row, over all subsets, with its 95% interval."
    name = reward_name(report)
    curves = {name: [(row["n"], row["reward"]) for row in rows]}
    yield make_plot("Best of n", caption, draw_over_n, curves, name, scale=1)
    if report["truth"] and report["truth"]["rows"]:
        rows = report["truth"]["rows"]
        named = {
            words: [(row["n"], row[name]) for row in rows] for name, words in TRUTH_NAMES.items() if name in rows[0]
        }
        caption = (
            "Percent of prompts whose answer is right, if it is the one of the greatest reward, or another one of n."
        )
        yield make_plot("Right answers", caption, draw_over_n, named, "percent", scale=100)
    for title, caption, curves in step_curves(report["steps"]) if report["steps"] else ():
        yield make_plot(title, caption, draw_over_n, curves, "percent", scale=100)


def draw_over_n(curves: Mapping[str, list[tuple[int, Mapping]]], ylabel: str, *, scale: float) -> Figure:
    """Means over n, each curve with its band, and its name at its end.

    Args:
        curves: of each name the n with its mean; at most as many as there are colours of models.
        scale: what means are multiplied by.
    """
    figure = new_figure(height=170)
    axes = new_axes(figure, 38, 24, WIDTH - 46, 112)
    colors = dict(zip(curves, MODELS, strict=False))
    for name, points in curves.items():
        sizes = [n for n, _ in points]
        axes.plot(sizes, [scale * mean["value"] for _, mean in points], color=colors[name], marker="o", markersize=3)
        ends = [(n, mean) for n, mean in points if mean["low"] is not None]
        bands = [[scale * mean[end] for _, mean in ends] for end in ("low", "high")]
        axes.fill_between([n for n, _ in ends], *bands, color=colors[name], alpha=0.18, linewidth=0)
    first = dict(list(colors.items())[:3])
    name_series(axes, first)
    places = ((1, "right"), (0.5, "center"), (0, "left"))  # of a second line of names
    for (name, color), (x, side) in zip(list(colors.items())[3:], places, strict=False):
        above = {"xytext": (0, 14), "xycoords": "axes fraction", "textcoords": "offset points"}
        axes.annotate(name, (x, 1), color=color, weight="bold", ha=side, **above)
    axes.locator_params(axis="both", nbins=6)
    axes.locator_params(axis="x", integer=True)
    axes.set(xlabel="n", ylabel=ylabel)
    axes.grid(axis="y")
    return figure
