"""report.html: an evaluation as one page that needs no network, for a phone and for a wide screen.

write_report(json.loads(Path("summary.json").read_text()), Path("report.html"))

Everything that came from outside (paths, names of subsets, warnings) is escaped where it is put into the page. The page
has no date but that of the summary, so that the same summary gives the same bytes.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from reward_modeling.evaluation_plots import bar_plot, calibration_plot, margin_plot, style_matrix
from reward_modeling.evaluation_tables import (
    INCOMPLETE,
    count,
    grouped_subsets,
    headline,
    interval,
    left_out,
    main_figures,
    model_line,
    number,
    pair_lines,
    percent,
    scoring_line,
    unit,
    value_or_reason,
)
from reward_modeling.ranking_benchmarks import RM_BENCH_DOMAINS, RM_BENCH_LEVELS

CHANCE = {"rewardbench2": 25}  # percent that guessing gives: one of four answers; 50 with two
STYLES_CAPTION = "Percent of prompts where the chosen answer (row) beats the rejected one (column)."
NUMBERS = ("", "percent", "95% interval", "rows", "ties")

PAGE_CSS = """
:root{color-scheme:light dark;--ink:#1b1f24;--muted:#59626e;--line:#d5dae0;--page:#fff;--card:#f4f6f8;
--bar:#0072b2;--strong:#004b76;--accent:#b84e00;--warn:#fff4e0}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ee;--muted:#a4adb9;--line:#3a424d;--page:#14171c;--card:#1e232a;
--bar:#4aa8dd;--strong:#9fd6f7;--accent:#f0a05a;--warn:#33270f}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1160px;padding:16px;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem;line-height:1.25;margin:0 0 4px}
h2{font-size:1.25rem;margin:0}
h3{font-size:1rem;margin:16px 0 4px}
p{margin:4px 0}
.muted,figcaption,summary{color:var(--muted);font-size:.875rem}
.cards,.plots{display:grid;gap:16px;grid-template-columns:repeat(auto-fit,minmax(min(100%,150px),1fr));margin:16px 0}
.cards{gap:12px;grid-template-columns:repeat(auto-fill,minmax(min(100%,170px),1fr))}
.cards>div{background:var(--card);border-radius:8px;padding:10px 12px}
.cards b{display:block;font-size:clamp(1.1rem,5vw,1.5rem);line-height:1.3;font-variant-numeric:tabular-nums}
.warnings{background:var(--warn);border-left:4px solid var(--accent);padding:10px 14px;margin:16px 0}
.warnings ul{margin:4px 0;padding-left:20px}
section{border-top:1px solid var(--line);margin-top:28px;padding-top:20px}
.plots{grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr));grid-auto-flow:dense;align-items:start}
figure{margin:0;max-width:480px}
figure.tall{grid-row:span 2}
figcaption b{display:block;color:var(--ink);font-size:1rem}
svg{display:block;width:100%;height:auto;max-width:480px;margin-top:4px}
svg *{stroke-linejoin:round}
svg text{fill:var(--ink);font-family:inherit!important;font-variant-numeric:tabular-nums}
.line span{white-space:nowrap}
.scroll{overflow-x:auto}
table{border-collapse:collapse;overflow-wrap:normal;font-size:.8125rem;font-variant-numeric:tabular-nums}
th,td{padding:3px 8px 3px 0;text-align:right;border-bottom:1px solid var(--line);vertical-align:top}
td+td{white-space:nowrap}
th:first-child,td:first-child,.text td,.text th{text-align:left}
.text td+td{white-space:normal;overflow-wrap:anywhere}
.text td:first-child{overflow-wrap:normal;min-width:7em}
.matrix{width:100%;max-width:480px;table-layout:fixed}
.matrix th,.matrix td{padding:6px 4px;text-align:center;font-weight:normal;white-space:normal}
.matrix th{color:var(--muted);font-size:.8rem;overflow-wrap:normal}
details{margin:8px 0}
summary{cursor:pointer;padding:4px 0}
pre{overflow-x:auto;font-size:.75rem;background:var(--card);padding:10px;border-radius:8px}
"""


def write_report(summary: dict, path: Path) -> None:
    """Write the page of an evaluation.

    Args:
        summary: as it stands in summary.json.
        path: the file to write; one that is there is replaced.
    """
    parts = summary["benchmarks"]
    name = escape(str(summary["model"]["name_or_path"]))
    page = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{name}: evaluation</title><style>{PAGE_CSS}</style></head><body>",
        f'<header><p class="muted">Reward model evaluation, {escape(_date(summary["date"]))}</p><h1>{name}</h1>',
        f'<p class="muted">{escape(model_line(summary))}</p></header>',
        _cards(summary),
        _warnings(message for part in parts.values() for message in part["warnings"]),
        *(_benchmark(name, part) for name, part in parts.items()),
        _origin(summary),
        "</body></html>\n",
    ]
    path.write_text("\n".join(page), encoding="utf-8")


def _date(date: str | None) -> str:
    if date is None:
        return "undated"
    day, _, time = date.partition("T")
    return f"{day} {time[:5]} UTC" if time.endswith(("+00:00", "Z")) else date


def _cards(summary: Mapping) -> str:
    figures = [(part["title"], *headline(part), unit(name)) for name, part in summary["benchmarks"].items()]
    figures += [("RewardBench and prior sets", name, row, "rows") for name, row in summary["combined"].items()]
    cards = []
    for title, figure, row, things in figures:
        value = INCOMPLETE if row["value"] is None else f"{percent(row['value'])}%"
        span = "" if row["value"] is None else f"95%: {interval(row)}<br>"
        note = f"{span}{escape(figure)}<br>{count(row['rows'])} {things}"
        cards.append(f'<div>{escape(title)}<b>{value}</b><span class="muted">{note}</span></div>')
    return f'<div class="cards">{"".join(cards)}</div>'


def _warnings(messages: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(message)}</li>" for message in messages)
    return f'<div class="warnings" role="alert"><b>WARNING</b><ul>{items}</ul></div>' if items else ""


def _benchmark(name: str, part: Mapping) -> str:
    pairs = part.get("pairs")
    lines = "".join(_sentence(line.strip()) for line in [*left_out(part), *(pair_lines(pairs) if pairs else [])])
    report = f"<h3>What was read</h3><pre>{escape(part['data_report'])}</pre>" if part.get("data_report") else ""
    return (
        f"<section><h2>{escape(part['title'])}</h2>"
        f'<p class="muted">{count(part["rows"])} {unit(name)}; from {escape(_listed(part["sources"]))}</p>'
        f'<div class="plots">{"".join(_plots(name, part))}</div>{lines}{report}'
        f"<details><summary>All numbers of {escape(part['title'])}</summary>{_numbers(name, part)}</details></section>"
    )


def _sentence(line: str) -> str:
    """A line of the screen as a paragraph that does not break within an interval."""
    text = re.sub(r"[\d.]+-[\d.]+", r"<span>\g<0></span>", escape(line[0].upper() + line[1:]))
    return f'<p class="line">{text}</p>'


def _plots(name: str, part: Mapping) -> list[str]:
    """The figures of one benchmark, each with its caption."""
    title, pairs = part["title"], part.get("pairs")
    chance = CHANCE.get(name, 50)
    longer = pairs["longer_wins"]["value"] if pairs else None
    marks = {"chance": chance, "baseline": None if longer is None else 100 * longer}
    note = f"Dashed: guessing, {chance}%." + (" Dotted: always taking the longer answer." if longer is not None else "")
    figures, subsets = _bar_groups(name, part)
    plots = [figure_block("Scores", note, bar_plot(figures, label=f"{title}: scores with 95% intervals", **marks))]
    if subsets:
        by = "Domains and levels" if name == "rm_bench" else "Subsets"
        drawn = bar_plot(subsets, label=f"{title}: {by.lower()} with 95% intervals", **marks)
        rows = sum(len(group) + 1 for group in subsets.values())
        plots.append(figure_block(by, note, drawn, tall=rows > 12))
    if pairs:
        plots += _pair_plots(title, pairs)
    if matrix := part.get("matrix"):
        plots.append(figure_block("Styles", STYLES_CAPTION, style_matrix(matrix["all"])))
    return plots


def _bar_groups(name: str, part: Mapping) -> tuple[dict, dict]:
    """What the two bar plots show: the figures, and what they are made of."""
    figures = main_figures(part)
    if name != "rm_bench":
        subsets = {heading or "subsets": group for heading, group in grouped_subsets(name, part).items()}
        if len(figures) == 1:  # a plot of one bar
            return {"": figures, **subsets}, {}
        return {"": figures}, subsets
    cells = {domain: {level: figures[f"{domain} {level}"] for level in RM_BENCH_LEVELS} for domain in RM_BENCH_DOMAINS}
    names = {"by domain": RM_BENCH_DOMAINS, "by level": RM_BENCH_LEVELS, "both": ("overall",)}
    return {heading: {figure: figures[figure] for figure in group} for heading, group in names.items()}, cells


def _pair_plots(title: str, pairs: Mapping) -> list[str]:
    accuracy, longer = pairs["accuracy"], pairs["longer_wins"]
    by_length = {
        "the model": {"all pairs": accuracy, **pairs["by_length"]},
        "for comparison": {"always the longer": longer},
    }
    error = pairs["calibration_error"]
    off = INCOMPLETE if error is None else f"{100 * error:.1f} points"
    lengths = "; ".join(f"{name} {count(row['rows'])}" for name, row in pairs["by_length"].items())
    return [
        figure_block(
            "Margins",
            "Reward of the chosen answer less that of the rejected one. Left of zero the model is wrong.",
            margin_plot(pairs["margins"], accuracy, label=f"{title}: histogram of the margins"),
        ),
        figure_block(
            "Calibration",
            f"How often the favourite wins, by the model's own probability. Dashed: perfect; off by {off}.",
            calibration_plot(pairs["calibration"], label=f"{title}: confidence against the share right"),
        ),
        figure_block(
            "Length",
            f"A model that follows length is bad where the rejected answer is longer. Pairs: {lengths}.",
            bar_plot(by_length, label=f"{title}: accuracy by length of the answers", chance=50),
        ),
    ]


def figure_block(title: str, caption: str, content: str, tall: bool = False) -> str:
    kind = ' class="tall"' if tall else ""
    return f"<figure{kind}><figcaption><b>{escape(title)}</b>{escape(caption)}</figcaption>{content}</figure>"


def _numbers(name: str, part: Mapping) -> str:
    """Every number of the benchmark in tables."""
    tables = [
        "<h3>Scores</h3>",
        html_table(NUMBERS[:4], (_row(figure, row)[:4] for figure, row in main_figures(part).items())),
    ]
    for heading, group in grouped_subsets(name, part).items():
        tables += [f"<h3>{escape(heading or 'Subsets')}</h3>"]
        tables += [html_table(NUMBERS, (_row(subset, row) for subset, row in group.items()))]
    if pairs := part.get("pairs"):
        rows = {"all pairs": pairs["accuracy"], **pairs["by_length"], "always the longer answer": pairs["longer_wins"]}
        tables += ["<h3>Pairs</h3>", html_table(NUMBERS, (_row(label, row) for label, row in rows.items()))]
        head = ("confidence", "its mean", "percent right", "95% interval", "pairs", "ties")
        tables += ["<h3>Calibration</h3>", html_table(head, map(_bin, pairs["calibration"]))]
        margins = pairs["margins"]
        bins = zip(margins["edges"][:-1], margins["edges"][1:], margins["counts"], strict=True)
        tables += [
            "<h3>Margins</h3>",
            html_table(("from", "to", "pairs"), ((number(a), number(b), count(c)) for a, b, c in bins)),
        ]
    for domain, cells in part.get("matrix", {}).items():
        tables += [f"<h3>Styles: {escape(domain)}</h3>", style_matrix(cells)]
    return "".join(tables)


def _row(name: str, row: Mapping) -> tuple[str, ...]:
    return name, value_or_reason(row), interval(row), count(row["rows"]), count(row.get("ties"))


def _bin(one: Mapping) -> tuple[str, ...]:
    place = f"{100 * one['low']:.0f}-{100 * one['high']:.0f}"
    if not one["rows"]:
        return place, "-", "-", "-", count(one["rows"]), "-"
    span = interval(one, "value_low", "value_high")
    return place, percent(one["confidence"]), percent(one["value"]), span, count(one["rows"]), count(one["ties"])


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table{kind}><tr>{top}</tr>{body}</table></div>'


def _origin(summary: Mapping) -> str:
    """Where the numbers come from: data, arguments, versions."""
    text = ' class="text"'
    parts = summary["benchmarks"].values()
    data = ((part["title"], _listed(part["sources"]), count(part["rows"]), str(part["fingerprint"])) for part in parts)
    settings = {name: summary[name] for name in ("model", "arguments", "versions")}
    tables = [
        f"<details><summary>{name.capitalize()}</summary>"
        f"{html_table(('', ''), ((str(key), _plain(value)) for key, value in values.items()), text)}</details>"
        for name, values in settings.items()
    ]
    return (
        f"<section><h2>Where the numbers come from</h2><p>{escape(scoring_line(summary))}</p>"
        f"<details><summary>Data and fingerprints</summary>"
        f"{html_table(('benchmark', 'from', 'rows', 'fingerprint'), data, text)}</details>{''.join(tables)}</section>"
    )


def _listed(sources: Iterable[str]) -> str:
    return ", ".join(map(str, sources)) or "-"


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
