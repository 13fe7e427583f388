"""report.html: an evaluation as one page that needs no network, for a phone and for a wide screen.

write_report(json.loads(Path("summary.json").read_text()), Path("report.html"))

templates/evaluation.html has its words. The page has no date but that of the summary, so that the same summary gives
the same bytes.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from markupsafe import Markup

from reward_modeling.common.atomic import write_whole
from reward_modeling.display.page import render
from reward_modeling.display.pair_blocks import pair_plots, pair_tables
from reward_modeling.display.plot_style import Plot, make_plot
from reward_modeling.display.plots import draw_bars
from reward_modeling.display.text import Rows, accuracy_rows, count, describe_left_out, pair_lines
from reward_modeling.evaluation.benchmarks.catalog import BENCHMARKS, COMBINED
from reward_modeling.evaluation.tables import grouped_subsets, headline, main_figures, model_line, scoring_line

STYLES = ("concise", "detailed plain", "detailed markdown")  # of RM-Bench's answers


def write_report(summary: dict, path: Path) -> None:
    """Write the page of an evaluation.

    Args:
        summary: as it stands in summary.json.
        path: the file to write; one that is there is replaced.
    """
    functions = (
        *(headline, model_line, scoring_line, describe_left_out, pair_lines),
        *(benchmark_plots, benchmark_tables, draw_styles, data_rows),
    )
    given = {function.__name__: function for function in functions}
    given |= {"known": BENCHMARKS, "combined": COMBINED}
    write_whole(path, render("evaluation/templates/evaluation.html", summary=summary, **given))


def benchmark_plots(name: str, part: Mapping) -> Iterator[Plot]:
    """The plots of one benchmark, each with its caption."""
    title, pairs = part["title"], part.get("pairs")
    benchmark = BENCHMARKS[name]
    longer = pairs["longer_wins"]["value"] if pairs else None
    marks = {"chance": benchmark.chance, "baseline": None if longer is None else 100 * longer}
    dotted = "" if longer is None else " Dotted: always taking the longer answer."
    note = f"Dashed: {benchmark.guessing}.{dotted}"
    figures, subsets = _bar_groups(name, part)
    yield make_plot("Scores", note, draw_bars, figures, label=f"{title}: scores with 95% intervals", **marks)
    if subsets:
        by = "Domains and levels" if benchmark.figure_cells else "Subsets"
        label, tall = f"{title}: {by.lower()} with 95% intervals", sum(len(rows) + 1 for rows in subsets.values()) > 12
        yield make_plot(by, note, draw_bars, subsets, label=label, tall=tall, **marks)
    if pairs:
        yield from pair_plots(title, pairs)
    if matrix := part.get("matrix"):
        caption = "Percent of prompts where the chosen answer (row) beats the rejected one (column)."
        yield Plot("Styles", caption, draw_styles(matrix["all"]), tall=False)


def draw_styles(cells: list[list[float | None]]) -> Markup:
    """A shaded table of the share of prompts whose chosen answer wins, by the styles of the two answers."""
    return Markup(render("evaluation/templates/style_matrix.html", cells=cells, styles=STYLES))


def _bar_groups(name: str, part: Mapping) -> tuple[dict, dict]:
    """What the two bar plots show: the figures, and what they are made of."""
    figures, benchmark = main_figures(part), BENCHMARKS[name]
    groups = {
        heading: {figure: figures[figure] for figure in names if figure in figures}
        for heading, names in (benchmark.figure_groups or {"": figures}).items()
    }
    if benchmark.figure_cells:
        cells = benchmark.figure_cells.items()
        return groups, {heading: {label: figures[name] for label, name in of.items()} for heading, of in cells}
    subsets = {heading or "subsets": group for heading, group in grouped_subsets(name, part).items()}
    if len(figures) == 1:  # a plot of one bar
        return {**groups, **subsets}, {}
    return groups, subsets


def benchmark_tables(name: str, part: Mapping) -> list[tuple[str, Rows]]:
    """Every number of the benchmark, in tables with their titles."""
    scores = [row[:4] for row in accuracy_rows(main_figures(part))]
    groups = grouped_subsets(name, part).items()
    subsets = [(heading or "Subsets", accuracy_rows(group)) for heading, group in groups]
    return [("Scores", scores), *subsets, *(pair_tables(part["pairs"]) if part.get("pairs") else [])]


def data_rows(benchmarks: Mapping[str, Mapping]) -> Rows:
    """Where the rows of each benchmark come from."""
    rows: Rows = [("benchmark", "from", "rows", "fingerprint")]
    for part in benchmarks.values():
        rows.append((part["title"], ", ".join(part["sources"]) or "-", count(part["rows"]), part["fingerprint"]))
    return rows
