"""An evaluation as text and as a page, from its summary: the dictionary that stands in summary.json.

summary = json.loads(Path("summary.json").read_text())
print(summary_tables(summary))
write_report(summary, Path("report.html"))

A value of null is incomplete, and says so. templates/evaluation.html has the words of the page, which needs no network
and has no date but that of the summary: the same summary gives the same bytes.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from reward_modeling.common.atomic import write_whole
from reward_modeling.display.page import render
from reward_modeling.display.pair_blocks import pair_plots, pair_tables
from reward_modeling.display.plot_style import Plot, make_plot
from reward_modeling.display.plots import draw_bars
from reward_modeling.display.step_blocks import describe_process, step_lines, step_plots, step_tables
from reward_modeling.display.text import (
    MOST_SUBSETS,
    Rows,
    accuracy_rows,
    align,
    count,
    describe_left_out,
    interval,
    make_printable,
    pair_lines,
    percent,
    shorten,
    wrap,
)
from reward_modeling.evaluation.benchmarks.catalog import BENCHMARKS, COMBINED
from reward_modeling.evaluation.beside_tables import beside_rows, beside_title
from reward_modeling.evaluation.comparison_figures import lines_of_comparisons, tables_of_comparisons
from reward_modeling.objectives.weights_flag import describe_weights

UNCOUNTED = "in no score"  # heading of the subsets that no figure is made of
STYLES = ("concise", "detailed plain", "detailed markdown")  # of RM-Bench's answers


# --- text -----------------------------------------------------------------------------------------------------


def summary_tables(summary: Mapping) -> str:
    """Everything at once: the model, figures over several benchmarks, and a table for each benchmark."""
    parts = summary["benchmarks"]
    blocks = [wrap(model_line(summary)) + wrap(scoring_line(summary))]
    blocks += [_body(name, part) for name, part in parts.items()]
    if summary["combined"]:
        rows = [["", "percent", "95% interval", "rows"]]
        rows += [[shorten(name), *_cells(row)] for name, row in summary["combined"].items()]
        blocks.append(["Over several benchmarks", *align(rows)])
    return "\n\n".join("\n".join(block) for block in blocks if block)


def warning_lines(summary: Mapping) -> list[str]:
    """What comes last on the screen, and first on the page."""
    messages = (f"WARNING: {message}" for part in summary["benchmarks"].values() for message in part["warnings"])
    return [line for message in messages for line in wrap(message, hanging=9)]


def _body(name: str, part: Mapping) -> list[str]:
    benchmark = BENCHMARKS[name]
    lines = [f"{make_printable(part['title'])}: {count(part['rows'])} {benchmark.unit}"]
    if part["sources"]:
        lines += wrap(f"from {', '.join(map(str, part['sources']))}", indent=2)
    lines += [f"  {benchmark.note}"] if benchmark.note else []
    lines += benchmark.figures_table(part["figures"]) if benchmark.figures_table else _figures_table(name, part)
    for title, rows in benchmark.more_tables(part):
        lines += ["", *wrap(title, indent=2), *align(rows)]
    if more := benchmark.more_lines(part):
        lines += ["", *(line for text in more for line in wrap(text, indent=2))]
    if steps := part.get("steps"):
        lines += ["", *(line for text in step_lines(steps) for line in wrap(text, indent=2))]
    if pairs := part.get("pairs"):
        lines += ["", *(line for text in pair_lines(pairs) for line in wrap(text, indent=2))]
        lines += ["", *_calibration_table(pairs["calibration"])]
    if comparisons := part.get("comparisons"):
        lines += ["", *(line for text in lines_of_comparisons(comparisons) for line in wrap(text, indent=2))]
    if beside := part.get("beside"):
        lines += ["", *wrap(beside_title(beside), indent=2), *align(beside_rows(beside))]
    if report := part.get("data_report"):
        lines += ["", *(f"  {line}" for line in report.splitlines())]
    return lines


def _figures_table(name: str, part: Mapping) -> list[str]:
    """Figures, the last one set off, then the subsets under their headings, all in the same columns."""
    groups = grouped_subsets(name, part)
    subsets = [row for group in groups.values() for row in group.values()]
    tied = any(row.get("ties") for row in subsets)
    rows: list[list[str] | None] = [["", "percent", "95% interval", "rows", *(["ties"] if tied else [])]]
    figures = [[shorten(figure), *_cells(row, tied)] for figure, row in main_figures(part).items()]
    rows += [*figures[:-1], *([None] if len(figures) > 1 else []), figures[-1]]
    for heading, group in groups.items():
        rows += [[""] * len(rows[0]), [shorten(heading or "subsets"), *[""] * (len(rows[0]) - 1)]]
        rows += [[f"  {shorten(subset)}", *_cells(row, tied)] for subset, row in group.items()]
    return [*align(rows), *describe_left_out(part)]


def _cells(row: Mapping, tied: bool = False) -> list[str]:
    ties = [count(row["ties"]) if row.get("ties") else ""] if tied else []
    return [percent(row["value"]), interval(row), count(row["rows"]), *ties]


def _calibration_table(bins: Sequence[Mapping]) -> list[str]:
    """One column for each bin of confidence; a bin without pairs shows dashes."""
    columns = [("confidence", "  its mean", "right", "pairs")]
    for of_bin in bins:
        cells = percent(of_bin["confidence"]), percent(of_bin["value"]), count(of_bin["rows"])
        head = f"{100 * of_bin['low']:.0f}-{100 * of_bin['high']:.0f}"
        columns.append((head, *(cells if of_bin["rows"] else "---")))
    return align(list(zip(*columns, strict=True)))


# --- what the text and the page share ------------------------------------------------------------------------


def main_figures(part: Mapping) -> dict[str, Mapping]:
    """The figures in the order they are shown, the one that sums up the benchmark last."""
    figures = part["figures"] or {"accuracy": part["pairs"]["accuracy"]}
    return dict(sorted(figures.items(), key=lambda item: item[0] == "overall"))


def headline(part: Mapping) -> tuple[str, Mapping]:
    """The figure that sums up a benchmark, with its name."""
    return list(main_figures(part).items())[-1]


def grouped_subsets(name: str, part: Mapping) -> dict[str, dict[str, Mapping]]:
    """The subsets under the figure they belong to; those that are a figure themselves are left out.

    Returns:
        {heading: {subset: row}}; the heading is "" where the benchmark has no figures of several subsets.
    """
    left = {subset: row for subset, row in part["subsets"].items() if subset not in part["figures"]}
    sections = part.get("sections") or BENCHMARKS[name].sections
    groups = {heading: {name: left.pop(name) for name in names if name in left} for heading, names in sections.items()}
    if len(left) > MOST_SUBSETS:  # pairs may have a source each
        smallest = sorted(left, key=lambda subset: -left[subset]["rows"])[MOST_SUBSETS:]
        left = {subset: row for subset, row in left.items() if subset not in {*smallest}}
    groups[UNCOUNTED if BENCHMARKS[name].subset_rows else ""] = left
    return {heading: group for heading, group in groups.items() if group}


def model_line(summary: Mapping) -> str:
    """The model in one line: path, class, and how it was run."""
    return ": ".join(describe_model(summary["model"]))


def describe_model(model: Mapping) -> tuple[str, str]:
    """A model's name, and its class with how it was run."""
    name = f"{model['name_or_path']} at {model['revision']}" if model["revision"] else str(model["name_or_path"])
    if model["class"] is None:
        return name, "scored elsewhere"
    settings = f"max_length {count(model['max_length'])}, batching {model['batching']}"
    if "pairwise" in model:
        settings += ", compares two answers"
    if "reward_weights" in model:
        settings += f", reward of {describe_weights(model['reward_weights'])}"
    if "process" in model:
        settings += f", {describe_process(model['process'])}"
    return name, f"{model['class']}, {model['dtype']}, {settings}"


def scoring_line(summary: Mapping) -> str:
    """What was scored in one line, and what was cut."""
    scoring = summary["scoring"]
    if "from_verdicts" in scoring:
        return f"{scoring['kind']} of {scoring['from_verdicts']}; no model was run"
    unit = "orders" if "pairwise" in summary["model"] else "conversations"
    line = (
        f"{count(scoring['conversations'])} {unit} ({count(scoring['distinct'])} distinct, "
        f"{count(scoring['tokens'])} tokens) in {scoring['seconds']:,.1f} s, processes: {scoring['processes']}"
    )
    if scoring["cut"]:
        line += f"; {count(scoring['cut'])} cut to max_length, by {count(scoring['cut_tokens'])} tokens in all"
    return line


# --- the page -------------------------------------------------------------------------------------------------


def write_report(summary: dict, path: Path) -> None:
    """Write the page of an evaluation; one that is there is replaced."""
    shared = (headline, model_line, scoring_line, describe_left_out, pair_lines, lines_of_comparisons)
    shared += (beside_title, beside_rows, step_lines)
    functions = (*shared, benchmark_plots, benchmark_tables, draw_styles, data_rows)
    given = {function.__name__: function for function in functions} | {"known": BENCHMARKS, "combined": COMBINED}
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
        by = benchmark.cells_title if benchmark.figure_cells else "Subsets"
        label, tall = f"{title}: {by.lower()} with 95% intervals", sum(len(rows) + 1 for rows in subsets.values()) > 12
        yield make_plot(by, note, draw_bars, subsets, label=label, tall=tall, **marks)
    if pairs:
        yield from pair_plots(title, pairs)
    if steps := part.get("steps"):
        yield from step_plots(title, steps)
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
    of_comparisons = tables_of_comparisons(part["comparisons"]) if part.get("comparisons") else []
    of_steps = step_tables(part["steps"]) if part.get("steps") else []
    of_pairs = pair_tables(part["pairs"]) if part.get("pairs") else []
    more = BENCHMARKS[name].more_tables(part)
    return [("Scores", scores), *subsets, *more, *of_comparisons, *of_steps, *of_pairs]


def data_rows(benchmarks: Mapping[str, Mapping]) -> Rows:
    """Where the rows of each benchmark come from."""
    parts = benchmarks.values()
    rows = [(of["title"], ", ".join(of["sources"]) or "-", count(of["rows"]), of["fingerprint"]) for of in parts]
    return [("benchmark", "from", "rows", "fingerprint"), *rows]
