"""comparison.html, and the table on the screen: several evaluations side by side.

print(comparison_tables(comparison))
write_comparison(comparison, Path("comparison.html"))

Both are made of what `evaluation_comparison.compare` returns. Same comparison, same bytes.
"""

from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

from reward_modeling.common.atomic import write_page
from reward_modeling.display.page import (
    figure_block,
    folded,
    html_table,
    page,
    paragraph,
    plots_block,
    section,
    shown_date,
    warnings_block,
)
from reward_modeling.display.text import MOST_SUBSETS, aligned, count, interval, shown, value_or_reason, wrapped
from reward_modeling.evaluation.benchmarks.base import Benchmark
from reward_modeling.evaluation.benchmarks.catalog import BENCHMARKS
from reward_modeling.evaluation.comparison_plots import difference_plot, grouped_bars
from reward_modeling.evaluation.comparison_warnings import MARK, RUN_OTHERWISE
from reward_modeling.evaluation.evaluations import LETTERS
from reward_modeling.evaluation.tables import grouped_subsets, run_words

HEAD = ("", "", "percent", "95% interval", "difference", "95% interval", "", "rows")
NOTE = (
    "A difference is in points to the first model that has the benchmark, with a paired interval: over the same rows. "
    "better, worse: the interval leaves zero out, as one in twenty does by chance."
)
MOST_LINES = 24  # of a table that is not folded
TALL = 16  # lines of a plot, from which on it stands beside two others
OWN_CSS = """
.models{list-style:none;padding:0;margin:12px 0}
.models li{padding:6px 0 6px 28px;text-indent:-28px;border-bottom:1px solid var(--line)}
.models b{display:inline-block;width:28px;text-indent:0}
""" + "".join(f".model{place}{{color:var(--model{place})}}\n" for place in range(len(LETTERS)))


# --- on the screen --------------------------------------------------------------------------------------------


def comparison_tables(comparison: Mapping) -> str:
    """Warnings, the models, and the figures of each benchmark; its subsets are in the page alone if it has figures."""
    blocks = [[line for message in comparison["warnings"] for line in wrapped(f"WARNING: {message}", hanging=9)]]
    models = (f"{model['letter']}  {': '.join(_described(model))}" for model in comparison["models"])
    blocks.append([line for model in models for line in wrapped(model, indent=2)])
    for name, part in comparison["benchmarks"].items():
        head = (
            f"{shown(part['title'])}: {count(part['rows'])} {BENCHMARKS[name].unit}, differences to {part['reference']}"
        )
        lines = _lines(_main(name, part), part)
        if not _any_value(part["figures"]):  # of a part of the benchmark: the subsets are all that there is to compare
            scored = {subset: rows for subset, rows in part["subsets"].items() if _any_value({subset: rows})}
            lines += _lines(scored, part)
        blocks.append([head, *aligned([list(HEAD), *lines])])
    if combined := comparison["combined"]:
        lines = _lines(combined["figures"], combined)
        blocks.append(["Over several benchmarks", *aligned([list(HEAD), *lines])])
    blocks.append(wrapped(NOTE))
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _described(model: Mapping) -> tuple[str, str]:
    """A model's name, and how it was run."""
    revision = f" at {model['revision']}" if model["revision"] else ""
    return f"{model['name_or_path']}{revision}", (f"{run_words(model)}, {shown_date(model['date'])}; {model['folder']}")


def _main(name: str, part: Mapping) -> dict[str, Mapping]:
    """The figures to see first."""
    figures = part["figures"]
    return {figure: figures[figure] for figure in BENCHMARKS[name].main_figures or figures if figure in figures}


def _any_value(figures: Mapping[str, Mapping]) -> bool:
    return any(entry["value"] is not None for entries in figures.values() for entry in entries.values())


def _lines(figures: Mapping[str, Mapping], part: Mapping) -> list[list[str]]:
    """A line for each model under each figure, with the marks of what `part` says of the models."""
    lines = []
    for name, entries in figures.items():
        for place, (letter, entry) in enumerate(entries.items()):
            mark = MARK if letter in part["incomparable"] else RUN_OTHERWISE if letter in part["run_otherwise"] else ""
            own = [value_or_reason(entry) + mark, interval(entry), *_difference(entry["difference"])]
            lines.append([shown(name) if place == 0 else "", letter, *own, count(entry["rows"])])
    return lines


def _difference(found: Mapping | None) -> list[str]:
    """+1.2, +0.3 to +2.1, better."""
    if found is None:
        return ["", "", ""]
    value, low, high = (None if found[key] is None else f"{100 * found[key]:+.1f}" for key in ("value", "low", "high"))
    if low is None:
        return [value, "not paired", ""]
    return [value, f"{low} to {high}", "better" if found["low"] > 0 else "worse" if found["high"] < 0 else ""]


# --- the page -------------------------------------------------------------------------------------------------


def write_comparison(comparison: Mapping, path: Path) -> None:
    """Write the page; one that is there is replaced."""
    write_page(path, comparison_page(comparison))


def comparison_page(comparison: Mapping) -> str:
    """The whole page."""
    names = ", ".join(one["title"] for one in comparison["benchmarks"].values())
    blocks = [
        _models(comparison["models"]),
        warnings_block(comparison["warnings"]),
        paragraph(NOTE, "muted"),
        *(_benchmark(name, part) for name, part in comparison["benchmarks"].items()),
    ]
    if combined := comparison["combined"]:
        title = "Over several benchmarks"
        table = _table(combined["figures"], combined)
        blocks.append(section(title, _plots(title, combined["figures"], combined) + table))
    heading = f"{len(comparison['models'])} reward models"
    return page(
        f"{heading} compared",
        kicker="Evaluations side by side",
        heading=heading,
        line=names,
        blocks=blocks,
        css=OWN_CSS,
    )


def _models(models: Iterable[Mapping]) -> str:
    items = []
    for model in models:
        letter, (name, about) = model["letter"], _described(model)
        color = f"model{LETTERS.index(letter)}"
        items.append(
            f'<li><b class="{color}">{letter}</b>{escape(name)}<br><span class="muted">{escape(about)}</span></li>'
        )
    return f'<ul class="models">{"".join(items)}</ul>'


def _benchmark(name: str, part: Mapping) -> str:
    """Plots, and the numbers behind them: folded where they are many."""
    about = f"{count(part['rows'])} {BENCHMARKS[name].unit}; from {', '.join(map(str, part['sources'])) or '-'}"
    main, others = _main(name, part), _other_tables(name, part)
    is_short = sum(map(len, main.values())) <= MOST_LINES
    seen = _table(main, part) if is_short else ""
    rest = others if is_short else f"<h3>Scores</h3>{_table(main, part)}{others}"
    return section(
        part["title"],
        paragraph(about, "muted")
        + _plots(part["title"], main, part, BENCHMARKS[name])
        + seen
        + (folded(f"All numbers of {part['title']}", rest) if rest else ""),
    )


def _other_tables(name: str, part: Mapping) -> str:
    """The figures that no plot shows, and the subsets."""
    main = _main(name, part)
    figures = {figure: rows for figure, rows in part["figures"].items() if figure not in main}
    sizes = {subset: _size(rows) for subset, rows in part["subsets"].items()}
    # A source of one's own pairs may be called as their one figure is.
    counted = part["figures"] if BENCHMARKS[name].is_published else {}
    groups = grouped_subsets(name, {"subsets": sizes, "figures": counted, "sections": part["sections"]})
    named = {heading or "Subsets": {subset: part["subsets"][subset] for subset in of} for heading, of in groups.items()}
    tables = {"Domains and levels": figures, **named} if figures else named
    more = len(part["subsets"]) - MOST_SUBSETS
    left_out = paragraph(f"The {MOST_SUBSETS} largest subsets; {more:,} more in comparison.json.") if more > 0 else ""
    return left_out + "".join(f"<h3>{escape(heading)}</h3>{_table(rows, part)}" for heading, rows in tables.items())


def _size(entries: Mapping[str, Mapping]) -> dict[str, int]:
    return {"rows": max(entry["rows"] for entry in entries.values())}


def _plots(title: str, figures: Mapping, part: Mapping, benchmark: Benchmark | None = None) -> str:
    incomparable = part["incomparable"]
    lines = sum(map(len, figures.values()))
    chance = benchmark and benchmark.chance
    note = f"Dashed: {benchmark.guessing}." if benchmark else ""
    if incomparable:
        note += f" Hollow: {', '.join(incomparable)}, not comparable."
    label = f"{title}: figures with 95% intervals"
    drawn = [
        figure_block(
            "Scores", note, grouped_bars(figures, label=label, chance=chance, hollow=incomparable), tall=lines > TALL
        )
    ]
    differing = sum(entry["difference"] is not None for entries in figures.values() for entry in entries.values())
    if differing:
        plot = difference_plot(figures, label=f"{title}: differences", reference=part["reference"])
        note = "Right of zero a model is better. An interval across zero says too little."
        drawn.append(figure_block("Differences", note, plot, tall=differing > TALL))
    return plots_block(drawn)


def _table(figures: Mapping[str, Mapping], part: Mapping) -> str:
    return html_table(HEAD, _lines(figures, part))
