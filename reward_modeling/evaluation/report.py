"""report.html: an evaluation as one page that needs no network, for a phone and for a wide screen.

write_report(json.loads(Path("summary.json").read_text()), Path("report.html"))

Everything that came from outside (paths, names of subsets, warnings) is escaped where it is put into the page. The page
has no date but that of the summary, so that the same summary gives the same bytes.
"""

from collections.abc import Iterable, Iterator, Mapping
from html import escape
from pathlib import Path

from reward_modeling.common.atomic import write_page
from reward_modeling.display.page import (
    cards,
    figure_block,
    folded,
    html_table,
    page,
    paragraph,
    plots_block,
    section,
    sentence,
    settings_table,
    shown_date,
    warnings_block,
)
from reward_modeling.display.pair_blocks import NUMBERS, _row, accuracy_table, pair_lines, pair_plots, pair_tables
from reward_modeling.display.plots import bar_plot, style_matrix
from reward_modeling.display.text import INCOMPLETE, count, interval, left_out, percent
from reward_modeling.evaluation.benchmarks.catalog import BENCHMARKS, COMBINED
from reward_modeling.evaluation.tables import grouped_subsets, headline, main_figures, model_line, scoring_line

STYLES_CAPTION = "Percent of prompts where the chosen answer (row) beats the rejected one (column)."


def write_report(summary: dict, path: Path) -> None:
    """Write the page of an evaluation.

    Args:
        summary: as it stands in summary.json.
        path: the file to write; one that is there is replaced.
    """
    parts, name = summary["benchmarks"], str(summary["model"]["name_or_path"])
    blocks = [
        cards(_cards(summary)),
        warnings_block(message for part in parts.values() for message in part["warnings"]),
        *(_benchmark(name, part) for name, part in parts.items()),
        _origin(summary),
    ]
    kicker = f"Reward model evaluation, {shown_date(summary['date'])}"
    whole = page(f"{name}: evaluation", kicker=kicker, heading=name, line=model_line(summary), blocks=blocks)
    write_page(path, whole)


def _cards(summary: Mapping) -> Iterator[tuple[str, str, list[str]]]:
    figures = [(part["title"], *headline(part), BENCHMARKS[name].unit) for name, part in summary["benchmarks"].items()]
    figures += [(COMBINED.title, name, row, COMBINED.unit) for name, row in summary["combined"].items()]
    for title, figure, row, things in figures:
        value = INCOMPLETE if row["value"] is None else f"{percent(row['value'])}%"
        span = [] if row["value"] is None else [f"95%: {interval(row)}"]
        yield title, value, [*span, figure, f"{count(row['rows'])} {things}"]


def _benchmark(name: str, part: Mapping) -> str:
    pairs = part.get("pairs")
    lines = "".join(sentence(line.strip()) for line in [*left_out(part), *(pair_lines(pairs) if pairs else [])])
    report = f"<h3>What was read</h3><pre>{escape(part['data_report'])}</pre>" if part.get("data_report") else ""
    read = paragraph(f"{count(part['rows'])} {BENCHMARKS[name].unit}; from {_listed(part['sources'])}", "muted")
    numbers = folded(f"All numbers of {part['title']}", _numbers(name, part))
    return section(part["title"], f"{read}{plots_block(_plots(name, part))}{lines}{report}{numbers}")


def _plots(name: str, part: Mapping) -> list[str]:
    """The figures of one benchmark, each with its caption."""
    title, pairs = part["title"], part.get("pairs")
    benchmark = BENCHMARKS[name]
    longer = pairs["longer_wins"]["value"] if pairs else None
    marks = {"chance": benchmark.chance, "baseline": None if longer is None else 100 * longer}
    note = f"Dashed: {benchmark.guessing}." + (
        " Dotted: always taking the longer answer." if longer is not None else ""
    )
    figures, subsets = _bar_groups(name, part)
    plots = [figure_block("Scores", note, bar_plot(figures, label=f"{title}: scores with 95% intervals", **marks))]
    if subsets:
        by = "Domains and levels" if benchmark.figure_cells else "Subsets"
        drawn = bar_plot(subsets, label=f"{title}: {by.lower()} with 95% intervals", **marks)
        rows = sum(len(group) + 1 for group in subsets.values())
        plots.append(figure_block(by, note, drawn, tall=rows > 12))
    if pairs:
        plots += pair_plots(title, pairs)
    if matrix := part.get("matrix"):
        plots.append(figure_block("Styles", STYLES_CAPTION, style_matrix(matrix["all"])))
    return plots


def _bar_groups(name: str, part: Mapping) -> tuple[dict, dict]:
    """What the two bar plots show: the figures, and what they are made of."""
    figures = main_figures(part)
    benchmark = BENCHMARKS[name]
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


def _numbers(name: str, part: Mapping) -> str:
    """Every number of the benchmark in tables."""
    tables = [
        "<h3>Scores</h3>",
        html_table(NUMBERS[:4], (_row(figure, row)[:4] for figure, row in main_figures(part).items())),
    ]
    for heading, group in grouped_subsets(name, part).items():
        tables += [f"<h3>{escape(heading or 'Subsets')}</h3>"]
        tables += [accuracy_table(group)]
    if pairs := part.get("pairs"):
        tables.append(pair_tables(pairs))
    for domain, cells in part.get("matrix", {}).items():
        tables += [f"<h3>Styles: {escape(domain)}</h3>", style_matrix(cells)]
    return "".join(tables)


def _origin(summary: Mapping) -> str:
    """Where the numbers come from: data, arguments, versions."""
    parts = summary["benchmarks"].values()
    data = ((part["title"], _listed(part["sources"]), count(part["rows"]), str(part["fingerprint"])) for part in parts)
    settings = {name: summary[name] for name in ("model", "arguments", "versions")}
    tables = [folded(name.capitalize(), settings_table(values)) for name, values in settings.items()]
    read = folded("Data and fingerprints", html_table(("benchmark", "from", "rows", "fingerprint"), data, "text"))
    return section("Where the numbers come from", f"{paragraph(scoring_line(summary))}{read}{''.join(tables)}")


def _listed(sources: Iterable[str]) -> str:
    return ", ".join(map(str, sources)) or "-"
