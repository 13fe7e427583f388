"""What the linter leaves: lint.json, and lint.html, one page that needs no network, for a phone and for a wide screen.

write_output(summary, Path("lint/pairs"))

templates/lint.html has its words. The texts of a data set may come from anybody: the template escapes every one, and
the page has no scripts at all. Same summary, same bytes.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from matplotlib.figure import Figure

from reward_modeling.common.atomic import check_writable, whole_file
from reward_modeling.common.errors import UserError
from reward_modeling.display.page import render
from reward_modeling.display.plot_style import ACCENT, BAR, MUTED, WIDTH, Plot, make_plot, new_axes, new_figure
from reward_modeling.display.plots import draw_bars, draw_steps
from reward_modeling.display.text import Rows, count
from reward_modeling.preference_sets.lint.findings import LEVELS, LIMITS
from reward_modeling.preference_sets.lint.tables import headline, side_titles, tables

LINT_JSON, LINT_HTML = "lint.json", "lint.html"
SHOWN_CHARACTERS = 6000  # of one text of a pair to read; longer ones lose their middle
SHOWN_BARS = 20  # sources in a plot
FEWEST_FOR_A_BAR = 20  # pairs that differ; below it an interval is as wide as the plot


def check_output(folder: Path, overwrite: bool) -> None:
    """Refuse a folder before the work is done.

    Raises:
        UserError: it has a report that is not to be replaced, or it cannot be written.
    """
    check_writable("--output_path", folder)
    there = [name for name in (LINT_JSON, LINT_HTML) if (folder / name).exists()]
    if there and not overwrite:
        raise UserError(
            f"--output_path {folder}: expected no report there, found {' and '.join(there)}. "
            "Pass --overwrite to replace it, or another --output_path."
        )


def write_output(summary: Mapping, folder: Path) -> None:
    """Write both files, or neither."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / LINT_JSON) as json_path, whole_file(folder / LINT_HTML) as html_path:
            json_path.write_text(_json_text(summary), encoding="utf-8")
            html_path.write_text(lint_page(summary), encoding="utf-8")
    except OSError as error:
        raise _not_written(folder, error) from error


def write_json(summary: Mapping, folder: Path) -> None:
    """Write lint.json alone."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / LINT_JSON) as path:
            path.write_text(_json_text(summary), encoding="utf-8")
    except OSError as error:
        raise _not_written(folder, error) from error


def _json_text(summary: Mapping) -> str:
    return json.dumps(summary, indent=2, ensure_ascii=False) + "\n"


def _not_written(folder: Path, error: OSError) -> UserError:
    return UserError(f"--output_path {folder}: cannot write there ({error.strerror}). Take another path.")


def lint_page(summary: Mapping) -> str:
    """The whole page.

    Args:
        summary: what `summary.lint` returns.
    """
    return render(
        "preference_sets/lint/templates/lint.html",
        summary=summary,
        headline=headline(summary),
        plots=[*_plots(summary)],
        titled_rows=[*tables(summary, len(summary["sources"]["listed"]))],
        limit_rows=_limit_rows(),
        cut_middle=cut_middle,
        side_titles=side_titles,
    )


def cut_middle(text: str) -> str:
    """Its two ends where it is long."""
    half = SHOWN_CHARACTERS // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n[… {left_out:,} characters …]\n{text[-half:]}" if left_out > 0 else text


def _plots(summary: Mapping) -> Iterator[Plot]:
    rules = {name: rule["greater_preferred"] for name, rule in summary["rules"].items()}
    yield from _bars(
        "More of it preferred",
        "Of the pairs that differ in it, how often more of it is preferred. Far from 50%, this number alone tells much "
        "of which reply is preferred.",
        {name: row for name, row in rules.items() if row["rows"] >= FEWEST_FOR_A_BAR},
    )
    lengths = summary["lengths"]
    note = "A wide gap between chosen and rejected is the first thing that a reward model learns."
    yield _length_plot("characters", note, lengths["characters"])
    if lengths["tokens"]:
        note = f"Of {count(lengths['tokens']['pairs'])} pairs, texts alone, without the chat template."
        yield _length_plot("tokens", note, lengths["tokens"])
    caption = "Percent of the prompts with so many pairs."
    yield make_plot("Pairs per prompt", caption, draw_counts, summary["prompts"]["prompts_by_pairs"], "pairs")
    caption = "Percent of the pairs whose prompt has so many turns of the user."
    yield make_plot("Turns", caption, draw_counts, summary["turns"]["pairs_by_turns"], "turns of the user")
    listed = [source for source in summary["sources"]["listed"][:SHOWN_BARS] if source["longer_preferred"]["rows"]]
    if len(listed) > 1:
        sources = {source["source"] or "(no source)": source["longer_preferred"] for source in listed}
        yield from _bars("Longer reply preferred, by source", "Of the pairs that differ in length.", sources)


def _bars(title: str, caption: str, rows: Mapping[str, Mapping]) -> Iterator[Plot]:
    if rows:
        yield make_plot(title, caption, draw_bars, {"": rows}, chance=50, tall=len(rows) > 12)


def _length_plot(unit: str, caption: str, lengths: Mapping) -> Plot:
    """The share of prompts, chosen and rejected replies of each length, over a logarithmic axis."""
    edges, counts = lengths["histogram"]["edges"], lengths["histogram"]["counts"]
    shares = {name: [100 * number / max(sum(numbers), 1) for number in numbers] for name, numbers in counts.items()}
    colors = {"prompt": MUTED, "chosen": BAR, "rejected": ACCENT}
    options = {"xlabel": unit, "ylabel": "percent", "logarithmic": True}
    edges = [max(edge, 0.5) for edge in edges]
    return make_plot(f"Lengths in {unit}", caption, draw_steps, edges, shares, colors, **options)


def draw_counts(counts: Mapping[str, int], unit: str) -> Figure:
    """A bar for each group, with its share above it."""
    total = max(sum(counts.values()), 1)
    shares = [100 * number / total for number in counts.values()]
    figure = new_figure(height=130)
    axes = new_axes(figure, 8, 14, WIDTH - 16, 86)
    axes.bar(range(len(shares)), shares, width=0.8, color=BAR)
    for place, share in enumerate(shares):
        # A share that is there does not look like none.
        words = "0" if share == 0 else "<0.1" if share < 0.05 else f"{share:.1f}"
        axes.text(place, share + 1.5, words, ha="center", fontsize=7)
    axes.set(xticks=range(len(shares)), xticklabels=list(counts), yticks=[], ylim=(0, 1.12 * max([1, *shares])))
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(unit)
    return figure


def _limit_rows() -> Rows:
    rows: Rows = [("check", "what is measured", *(f"{level} above" for level in reversed(LEVELS)))]
    for name, limits in LIMITS.items():
        values = (limits.note, limits.warning, limits.serious)
        rows.append((name, limits.figure, *("-" if limit is None else f"{100 * limit:g}%" for limit in values)))
    return rows
