"""Numbers and tables as text."""

import textwrap
from collections.abc import Mapping, Sequence

WIDTH = 100
MOST_SUBSETS = 50
NAME_WIDTH = 44  # longer names are shortened, so that a line keeps to WIDTH
INCOMPLETE = "incomplete"


def wrapped(text: str, indent: int = 0, hanging: int = 4) -> list[str]:
    first, later = " " * indent, " " * (indent + hanging)
    return textwrap.wrap(shown(text), WIDTH, initial_indent=first, subsequent_indent=later, break_on_hyphens=False)


def left_out(part: Mapping) -> list[str]:
    """That there are more subsets than are shown."""
    more = len(part["subsets"]) - MOST_SUBSETS
    return [f"  the {MOST_SUBSETS} largest subsets; {more:,} more in summary.json"] if more > 0 else []


def aligned(rows: Sequence[Sequence[str] | None]) -> list[str]:
    """The first column to the left, the others to the right; None is a rule."""
    cells = [row for row in rows if row is not None]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    rule = "  " + "-" * (sum(widths) + 2 * (len(widths) - 1))
    return [rule if row is None else _line(row, widths) for row in rows]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    others = (f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
    return "  ".join(["", f"{row[0]:<{widths[0]}}", *others]).rstrip()


def shown(text: object) -> str:
    """Text from outside on one line: what would move the cursor is replaced."""
    return "".join(character if character.isprintable() else "?" for character in str(text))


def shortened(name: object, width: int = NAME_WIDTH) -> str:
    """A name as `shown`, cut in the middle where it is longer than `width`."""
    line = shown(name)
    end = (width - 1) // 2
    return line if len(line) <= width else f"{line[: width - 1 - end]}…{line[-end:]}"


def percent(value: float | None) -> str:
    """0.9604 as 96.0."""
    return INCOMPLETE if value is None else f"{100 * value:.1f}"


def value_or_reason(row: Mapping) -> str:
    """96.0, or why there is no value: a count of pairs of which there are none lacks nothing, a figure does."""
    return "none" if row["rows"] == 0 and "ties" in row else percent(row["value"])


def share(row: Mapping) -> str:
    """96.0%."""
    return value_or_reason(row) + ("" if row["value"] is None else "%")


def interval(row: Mapping, low: str = "low", high: str = "high") -> str:
    """94.0-98.0; empty where there is no value either."""
    if row["value"] is None:
        return ""
    if row[low] is None or row[high] is None:
        return INCOMPLETE
    return f"{percent(row[low])}-{percent(row[high])}"


def count(value: float | None) -> str:
    """12,345."""
    return "-" if value is None else f"{value:,}"


def number(value: float | None) -> str:
    """A reward to three digits."""
    return INCOMPLETE if value is None else f"{value:.3g}"
