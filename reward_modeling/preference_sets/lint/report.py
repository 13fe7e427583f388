"""lint.html: what the linter found as one page that needs no network, for a phone and for a wide screen.

write_report(summary, Path("lint.html"))

The texts of a data set are anybody's: every one is escaped where it is put into the page, which has no scripts at all.
Same summary, same bytes.
"""

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

from reward_modeling.display.page import cards, figure_block, folded, html_table, plots_block, section
from reward_modeling.display.page import page as whole_page
from reward_modeling.display.plots import bar_plot
from reward_modeling.display.text import count, interval, percent
from reward_modeling.preference_sets.lint.findings import LEVELS, LIMITS
from reward_modeling.preference_sets.lint.plots import count_plot, length_plot
from reward_modeling.preference_sets.lint.tables import Rows, headline, source_rows, tables

SHOWN_CHARACTERS = 6000  # of one text of a pair to read; longer ones lose their middle
SHOWN_BARS = 20  # sources in a plot
SHOWN_ROWS = 1000  # of the table of sources

FEWEST_FOR_A_BAR = 20  # pairs that differ; below it an interval is as wide as the plot

_OWN_CSS = """
.finding{border-left:4px solid var(--line);padding:2px 12px;margin:8px 0}
.serious{border-color:var(--accent);background:var(--warn)}
.warning{border-color:var(--accent)}
.finding b{text-transform:uppercase;font-size:.8rem;letter-spacing:.03em}
.finding.serious b,.finding.warning b{color:var(--accent)}
.sides{display:grid;gap:12px;grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr));align-items:start}
.said{white-space:pre-wrap;unicode-bidi:isolate;background:var(--card);border-radius:8px;padding:10px 12px;
margin:4px 0;font-size:.9rem;max-height:32rem;overflow:auto}
.asked{max-height:16rem}
.chosen{border-top:3px solid var(--bar)}
.rejected{border-top:3px solid var(--accent)}
"""


def write_report(summary: Mapping, path: Path) -> None:
    """Write the page.

    Args:
        summary: what `lint_summary.lint` returns.
        path: the file to write; one that is there is replaced.
    """
    path.write_text(page(summary), encoding="utf-8")


def page(summary: Mapping) -> str:
    """The whole page."""
    name = str(summary["path"])
    return whole_page(
        f"{name}: lint",
        kicker="Preference set, looked through",
        heading=name,
        line=f"{headline(summary)}; seed {summary['seed']}",
        blocks=[
            cards(_cards(summary)),
            _findings(summary),
            section("What it looks like", plots_block(_plots(summary))),
            _tables(summary),
            _samples(summary),
            _limits(),
        ],
        css=_OWN_CSS,
    )


def _cards(summary: Mapping) -> list[tuple[str, str, list[str]]]:
    """The numbers to see first."""
    rows, prompts = summary["rows"], summary["prompts"]
    levels = {level: sum(one["level"] == level for one in summary["findings"]) for level in LEVELS}
    found = [
        ("Pairs", count(rows["kept"]), [f"of {count(rows['rows_read'])} rows"]),
        ("Prompts", count(prompts["distinct"]), [f"one has {count(prompts['largest']['pairs'])} pairs at most"]),
        ("Serious", count(levels["serious"]), [f"warnings {levels['warning']}, notes {levels['note']}"]),
    ]
    for name, words in (("characters", "Longer preferred"), ("markdown", "More markdown"), ("refusal", "Refusal")):
        rule = summary["rules"][name]["greater_preferred"]
        value = "-" if rule["value"] is None else f"{percent(rule['value'])}%"
        span = f"95%: {interval(rule)}; " if rule["value"] is not None else ""
        found.append((words, value, [f"{span}{count(rule['rows'])} pairs differ"]))
    return found


def _findings(summary: Mapping) -> str:
    found = []
    for one in summary["findings"]:
        first = f'<p class="muted">First: {escape(one["first"])}</p>' if one["first"] else ""
        words = f"<p><b>{one['level']}</b> {escape(one['message'])}</p>"
        found.append(f'<div class="finding {one["level"]}">{words}{first}</div>')
    listed = "".join(found) or "<p>None.</p>"
    return section("Findings", listed)


def _plots(summary: Mapping) -> Iterator[str]:
    prompts, lengths, rules = summary["prompts"], summary["lengths"], summary["rules"]
    bars = {name: rule["greater_preferred"] for name, rule in rules.items()}
    bars = {name: row for name, row in bars.items() if row["rows"] >= FEWEST_FOR_A_BAR}
    if bars:
        note = "Of the pairs that differ in it, how often more of it is preferred. Far from 50% a ruler is a judge."
        plot = bar_plot({"": bars}, label="More of it preferred", chance=50)
        yield figure_block("More of it preferred", note, plot, len(bars) > 12)
    note = "A wide gap between chosen and rejected is the first thing that a reward model learns."
    label = "Lengths in characters"
    yield figure_block(label, note, length_plot(lengths["characters"]["histogram"], label=label))
    if lengths["tokens"]:
        note = f"Of {count(lengths['tokens']['pairs'])} pairs, texts alone, without the chat template."
        yield figure_block(
            "Lengths in tokens", note, length_plot(lengths["tokens"]["histogram"], label="Lengths in tokens")
        )
    label = "Pairs per prompt"
    plot = count_plot(prompts["prompts_by_pairs"], label=label, unit="pairs")
    yield figure_block(label, "Percent of the prompts with so many pairs.", plot)
    plot = count_plot(summary["turns"]["pairs_by_turns"], label="Turns", unit="turns of the user")
    yield figure_block("Turns", "Percent of the pairs whose prompt has so many turns of the user.", plot)
    listed = [one for one in summary["sources"]["listed"][:SHOWN_BARS] if one["longer_preferred"]["rows"]]
    if len(listed) > 1:
        bars = {_name(one["source"]): one["longer_preferred"] for one in listed}
        plot = bar_plot({"": bars}, label="Longer reply preferred, by source", chance=50)
        yield figure_block(
            "Longer reply preferred, by source", "Of the pairs that differ in length.", plot, len(bars) > 12
        )


def _name(source: str | None) -> str:
    return "(no source)" if source is None else source


def _tables(summary: Mapping) -> str:
    parts = []
    for title, rows in tables(summary):
        shown = source_rows(summary["sources"], SHOWN_ROWS) if title == "Sources" else rows
        parts.append(f"<h3>{escape(title)}</h3>{_drawn(shown)}")
    return section("All numbers", "".join(parts))


def _drawn(rows: Rows) -> str:
    return html_table(rows[0], rows[1:])


def _samples(summary: Mapping) -> str:
    pairs = "".join(_sample(place, sample) for place, sample in enumerate(summary["samples"], 1))
    title = f"{len(summary['samples'])} random pairs to read"
    return section(title, pairs or "<p>None.</p>")


def _sample(place: int, sample: Mapping) -> str:
    source = "" if sample["source"] is None else f", {sample['source']}"
    asked = "".join(_said(f"{message['role']}", message["content"], "asked") for message in sample["prompt"])
    sides = "".join(
        f"<div>{_said(side + _score(sample[f'{side}_score']), sample[side], side)}</div>"
        for side in ("chosen", "rejected")
    )
    where = f'<p class="muted">{escape(sample["where"])}{escape(source)}</p>'
    return f'<h3>Pair {place}</h3>{where}{asked}<div class="sides">{sides}</div>'


def _score(score: float | None) -> str:
    return "" if score is None else f", score {score:g}"


def _said(title: str, text: str, kind: str) -> str:
    if len(text) > SHOWN_CHARACTERS:
        half = SHOWN_CHARACTERS // 2
        text = f"{text[:half]}\n[… {len(text) - 2 * half:,} characters …]\n{text[-half:]}"
    return f'<p class="muted">{escape(title)}</p><div class="said {kind}" dir="auto">{escape(text)}</div>'


def _limits() -> str:
    head = ("check", "what is measured", "note above", "warning above", "serious above")
    rows = (
        (name, one.figure, *("-" if limit is None else f"{100 * limit:g}%" for limit in _three(one)))
        for name, one in LIMITS.items()
    )
    return f"<section>{folded('The limits behind the findings', html_table(head, rows, 'text'))}</section>"


def _three(one) -> tuple[float | None, ...]:
    return one.note, one.warning, one.serious
