"""A linter's summary as tables: for the screen, and the same rows for lint.html.

print(summary_text(summary))
"""

import textwrap
from collections.abc import Iterator, Mapping
from itertools import zip_longest

from reward_modeling.data.labels import TIE
from reward_modeling.data.report import REASON_WORDS
from reward_modeling.display.page import render
from reward_modeling.display.text import WIDTH, Rows, align, count, make_printable, shorten, wrap

SHOWN_ON_SCREEN = 10  # sources
SAMPLE_LINES = 8  # of each text of a pair on the screen


def summary_text(summary: Mapping, shown_samples: int = 2) -> str:
    """Everything for the screen: the findings last, so that they stand above the prompt."""
    blocks = [f"{make_printable(summary['path'])}: {headline(summary)}"]
    blocks += ["\n".join([title, *align(rows)]) for title, rows in tables(summary, SHOWN_ON_SCREEN)]
    blocks += _samples(summary, shown_samples)
    blocks.append("\n".join(_findings(summary)))
    return "\n\n".join(blocks)


def headline(summary: Mapping) -> str:
    """What there is, in one line."""
    rows, prompts, lists = summary["rows"], summary["prompts"], summary["labels"]["lists"]["rows"]
    of_lists = f" ({count(lists)} of them lists of ranked answers)" if lists else ""
    prompts = count(prompts["distinct"])
    return f"{count(rows['rows_read'])} rows read, {count(rows['kept'])} kept{of_lists}, {prompts} prompts"


def tables(summary: Mapping, most_sources: int) -> list[tuple[str, Rows]]:
    """Every table of templates/tables.txt with its title.

    Args:
        most_sources: of the table of sources.
    """
    functions = {"cell": _cell, "place": _place, "quantile": _quantile}
    values = {"summary": summary, "most_sources": most_sources, "reason_words": REASON_WORDS}
    text = render("preference_sets/lint/templates/tables.txt", **values, **functions)
    titled = []
    for block in text.rstrip("\n").split("\n\n"):
        title, *lines = block.split("\n")
        titled.append((title, [[_content(cell) for cell in line.split("|")] for line in lines]))
    return titled


def side_titles(sample: Mapping) -> dict[str, str]:
    """What the two replies of a pair to read are called."""
    if sample["answers"] > 2:
        return {"chosen": f"best of {sample['answers']}", "rejected": f"worst of {sample['answers']}"}
    if sample["chosen_probability"] == TIE:
        return {"chosen": "one of a tie", "rejected": "the other of a tie"}
    return {"chosen": "chosen", "rejected": "rejected"}


def _cell(name: str) -> str:
    """A name from outside; until the lines are split a tab, which is not printable, stands for the bar."""
    return shorten(name).replace("|", "\t")


def _content(cell: str) -> str:
    return cell.strip(" ").replace("\t", "|")


def _place(where: str | None) -> str:
    """Where a row stands, without the folders."""
    return "" if where is None else _cell(where.rpartition("/")[2])


def _quantile(value: float | None) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else count(value)


# --- the screen alone ---------------------------------------------------------------------------------------------


def _findings(summary: Mapping) -> list[str]:
    if not summary["findings"]:
        return ["Findings: none."]
    lines = ["Findings"]
    for finding in summary["findings"]:
        first = f" First: {finding['first']}." if finding["first"] else ""
        lines += wrap(f"{finding['level'].upper()}: {finding['message']}{first}", indent=2)
    return lines


def _samples(summary: Mapping, limit: int) -> Iterator[str]:
    """Some pairs side by side; the others stand in lint.html."""
    half = WIDTH // 2 - 2
    for place, sample in enumerate(summary["samples"][:limit], 1):
        asked = " ".join(message["content"] for message in sample["prompt"])
        sides = [[title, *_lines(sample[side], half - 2)] for side, title in side_titles(sample).items()]
        lines = [f"Pair {place} of {len(summary['samples'])} drawn at random, {_content(_place(sample['where']))}"]
        lines += [f"  {line}" for line in _lines(asked, WIDTH - 2)]
        lines += [f"  {chosen:<{half}}  {rejected}".rstrip() for chosen, rejected in zip_longest(*sides, fillvalue="")]
        yield "\n".join(lines)


def _lines(text: str, width: int) -> list[str]:
    start = make_printable(" ".join(text[: 2 * SAMPLE_LINES * width].split()))
    return textwrap.wrap(start, width, max_lines=SAMPLE_LINES, placeholder=" …")
