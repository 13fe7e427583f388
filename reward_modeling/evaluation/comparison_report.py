"""comparison.html, and the table on the screen: several evaluations side by side.

print(comparison_tables(comparison))
write_whole(Path("comparison.html"), comparison_page(comparison))

Both are made of what `comparison.compare` returns. Same comparison, same bytes.
"""

from collections.abc import Mapping

from matplotlib.figure import Figure

from reward_modeling.display.page import render
from reward_modeling.display.plot_style import MODELS, MUTED, Plot, make_plot
from reward_modeling.display.plots import draw_bars, lay_out_rows
from reward_modeling.display.text import (
    MOST_SUBSETS,
    Rows,
    align,
    count,
    date_and_time,
    interval,
    make_printable,
    value_or_reason,
    wrap,
)
from reward_modeling.evaluation.benchmarks.base import Benchmark
from reward_modeling.evaluation.benchmarks.catalog import BENCHMARKS
from reward_modeling.evaluation.evaluations import LETTERS, MARK, RUN_OTHERWISE
from reward_modeling.evaluation.report import describe_model, grouped_subsets

SEVERAL = "Over several benchmarks"
NOTE = (
    "Differences are in points, to the first model that has the benchmark. Their intervals are paired: over the same "
    "rows. better, worse: the interval excludes zero, as one in twenty does by chance."
)
TALL = 16  # lines of a plot, from which on it stands beside two others

Figures = Mapping[str, Mapping[str, Mapping]]
"""{figure: {letter of the model: entry}}, as `compare` makes them."""


def describe_evaluation(model: Mapping) -> tuple[str, str]:
    """A model's name, and how and when it was run."""
    name, about = describe_model(model)
    return name, f"{about}, {date_and_time(model['date'])}; {model['folder']}"


def figure_rows(figures: Figures, part: Mapping) -> Rows:
    """A line for each model under each figure, with the marks of what `part` says of the models."""
    rows: Rows = [("", "", "percent", "95% interval", "difference", "95% interval", "", "rows")]
    for name, entries in figures.items():
        first = next(iter(entries))
        for letter, entry in entries.items():
            mark = MARK if letter in part["incomparable"] else RUN_OTHERWISE if letter in part["run_otherwise"] else ""
            values = value_or_reason(entry) + mark, interval(entry), *_difference(entry["difference"])
            rows.append((make_printable(name) if letter == first else "", letter, *values, count(entry["rows"])))
    return rows


def _difference(difference: Mapping | None) -> tuple[str, str, str]:
    """+1.2, +0.3 to +2.1, better."""
    if difference is None:
        return "", "", ""
    ends = (difference[key] for key in ("value", "low", "high"))
    value, low, high = (None if end is None else f"{100 * end:+.1f}" for end in ends)
    if low is None:
        return value, "not paired", ""
    return value, f"{low} to {high}", "better" if difference["low"] > 0 else "worse" if difference["high"] < 0 else ""


def select_figures(name: str, part: Mapping) -> Figures:
    """The figures to see first."""
    figures = part["figures"]
    return {figure: figures[figure] for figure in BENCHMARKS[name].main_figures or figures if figure in figures}


# --- on the screen --------------------------------------------------------------------------------------------


def comparison_tables(comparison: Mapping) -> str:
    """Warnings, the models, and the figures of each benchmark; its subsets are in the page alone if it has figures."""
    blocks = [[line for message in comparison["warnings"] for line in wrap(f"WARNING: {message}", hanging=9)]]
    models = (f"{model['letter']}  {': '.join(describe_evaluation(model))}" for model in comparison["models"])
    blocks.append([line for model in models for line in wrap(model, indent=2)])
    for name, part in comparison["benchmarks"].items():
        rows = f"{count(part['rows'])} {BENCHMARKS[name].unit}"
        head = f"{make_printable(part['title'])}: {rows}, differences to {part['reference']}"
        seen = select_figures(name, part)
        if not any(map(_has_value, part["figures"].values())):  # of a part of the benchmark: there are only subsets
            scored = {subset: entries for subset, entries in part["subsets"].items() if _has_value(entries)}
            seen = {**seen, **scored}
        blocks.append([head, *align(figure_rows(seen, part))])
    if combined := comparison["combined"]:
        blocks.append([SEVERAL, *align(figure_rows(combined["figures"], combined))])
    blocks.append(wrap(NOTE))
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _has_value(entries: Mapping[str, Mapping]) -> bool:
    return any(entry["value"] is not None for entry in entries.values())


# --- the page -------------------------------------------------------------------------------------------------


def comparison_page(comparison: Mapping) -> str:
    """The whole page."""
    functions = (describe_evaluation, select_figures, figure_rows, other_tables, comparison_plots)
    return render(
        "evaluation/templates/comparison.html",
        comparison=comparison,
        known=BENCHMARKS,
        several=SEVERAL,
        note=NOTE,
        most_subsets=MOST_SUBSETS,
        **{function.__name__: function for function in functions},
    )


def other_tables(name: str, part: Mapping) -> list[tuple[str, Rows]]:
    """The figures that no plot shows, and the subsets."""
    main, subsets = select_figures(name, part), part["subsets"]
    sizes = {subset: {"rows": max(entry["rows"] for entry in rows.values())} for subset, rows in subsets.items()}
    # A source of one's own pairs may be called as their one figure is.
    counted = part["figures"] if BENCHMARKS[name].is_published else {}
    groups = grouped_subsets(name, {"subsets": sizes, "figures": counted, "sections": part["sections"]})
    tables = {"Domains and levels": {name: rows for name, rows in part["figures"].items() if name not in main}}
    tables |= {heading or "Subsets": {subset: subsets[subset] for subset in group} for heading, group in groups.items()}
    return [(heading, figure_rows(figures, part)) for heading, figures in tables.items() if figures]


def comparison_plots(title: str, figures: Figures, part: Mapping, benchmark: Benchmark | None = None) -> list[Plot]:
    """Figures, and how far they are from the reference's; `benchmark` is None for figures over several."""
    hollow = part["incomparable"]
    note = f"Dashed: {benchmark.guessing}." if benchmark else ""
    if hollow:
        note += f" Hollow: {', '.join(hollow)}, not comparable."
    colors = dict(zip(LETTERS, MODELS, strict=True))
    label, tall = f"{title}: figures with 95% intervals", sum(map(len, figures.values())) > TALL
    marks = {"chance": benchmark and benchmark.chance, "colors": colors, "hollow": hollow}
    plots = [make_plot("Scores", note, draw_bars, figures, label=label, tall=tall, **marks)]
    differences = {
        name: {letter: entry["difference"] for letter, entry in entries.items() if entry["difference"] is not None}
        for name, entries in figures.items()
    }
    if lines := sum(map(len, differences.values())):
        note = "Right of zero a model is better. An interval across zero says too little."
        drawn = (draw_differences, differences, colors, part["reference"])
        plots.append(make_plot("Differences", note, *drawn, label=f"{title}: differences", tall=lines > TALL))
    return plots


def draw_differences(differences: Figures, colors: Mapping[str, str], reference: str) -> Figure:
    """Each model's figure less the reference's, in points, with the paired 95% interval where there is one."""
    figure, axes, rows = lay_out_rows({name: entries for name, entries in differences.items() if entries}, colors)
    ends = [100 * abs(row[key]) for _, _, row in rows for key in ("value", "low", "high") if row[key] is not None]
    reach = max(1.0, 1.08 * max(ends))
    axes.set(xlim=(-reach, reach), xlabel=f"points more than {reference}, with the paired 95% interval")
    axes.locator_params(axis="x", nbins=5)
    axes.axvline(0, color=MUTED, linewidth=1)
    for y, letter, row in rows:
        value = 100 * row["value"]
        if row["low"] is not None:
            axes.plot([100 * row["low"], 100 * row["high"]], [y, y], color=colors[letter], linewidth=1.4)
        axes.plot([value], [y], color=colors[letter], marker="o", markersize=3.5)
        axes.text(1.02, y, f"{value:+.1f}", transform=axes.get_yaxis_transform(), va="center")
    return figure
