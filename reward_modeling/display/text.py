"""Numbers and tables as text, for the screen and for pages alike."""

import textwrap
from collections.abc import Collection, Mapping, Sequence

WIDTH = 100
MOST_SUBSETS = 50
NAME_WIDTH = 44  # longer names are shortened, so that a line keeps to WIDTH
INCOMPLETE = "incomplete"

Row = Sequence[str]
Rows = list[Row]
"""A table, its head first."""


# --- lines ----------------------------------------------------------------------------------------------------


def wrap(text: str, indent: int = 0, hanging: int = 4) -> list[str]:
    """Lines of a text from outside; those after the first are indented further. A path is never broken."""
    indents = {"initial_indent": " " * indent, "subsequent_indent": " " * (indent + hanging)}
    return textwrap.wrap(make_printable(text), WIDTH, break_on_hyphens=False, break_long_words=False, **indents)


def align(rows: Sequence[Row | None], words: Collection[int] = (0,)) -> list[str]:
    """A table with its columns side by side, two spaces from the left; None is a rule.

    Args:
        words: the columns that are aligned to the left; numbers are aligned to the right.
    """
    widths = [max(map(len, column)) for column in zip(*filter(None, rows), strict=True)]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if place in words else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row or (), widths, strict=row is not None))
        ]
        lines.append(f"  {'  '.join(cells) if cells else rule}".rstrip())
    return lines


def make_printable(text: object) -> str:
    """Text from outside on one line: what would move the cursor is replaced."""
    return "".join(character if character.isprintable() else "?" for character in str(text))


def shorten(name: object, width: int = NAME_WIDTH) -> str:
    """A printable name, cut in the middle where it is longer than `width`."""
    line = make_printable(name)
    end = (width - 1) // 2
    return line if len(line) <= width else f"{line[: width - 1 - end]}…{line[-end:]}"


def describe_left_out(part: Mapping) -> list[str]:
    """That there are more subsets than are shown."""
    more = len(part["subsets"]) - MOST_SUBSETS
    return [f"  the {MOST_SUBSETS} largest subsets; {more:,} more in summary.json"] if more > 0 else []


# --- numbers --------------------------------------------------------------------------------------------------


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


def points(value: float | None) -> str:
    """A difference of shares: 0.062 as 6.2 points."""
    return INCOMPLETE if value is None else f"{100 * value:.1f} points"


def count(value: float | None) -> str:
    """12,345."""
    return "-" if value is None else f"{value:,}"


def number(value: float | None) -> str:
    """A reward to three digits."""
    return INCOMPLETE if value is None else f"{value:.3g}"


def short_number(value: float) -> str:
    """Three digits where more do not matter: 2e-05, 0.05, 12,000, 19.6M, 2.51B."""
    for size, letter in ((1e9, "B"), (1e6, "M")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """7.5 s, 12 min, 3 h 05 min."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60:,} h {minutes % 60:02} min"


def date_and_time(date: str | None) -> str:
    """2026-11-22T22:30:00+00:00 as 2026-11-22 22:30 UTC."""
    if date is None:
        return "undated"
    day, _, time = date.partition("T")
    return f"{day} {time[:5]} UTC" if time.endswith(("+00:00", "Z")) else date


# --- pairs with rewards ---------------------------------------------------------------------------------------


def accuracy_rows(rows: Mapping[str, Mapping], heading: str = "") -> Rows:
    """A table with a line for each share of rows that is right; the heading says what the names are."""
    table: Rows = [(heading, "percent", "95% interval", "rows", "ties")]
    for name, row in rows.items():
        table.append((name, value_or_reason(row), interval(row), count(row["rows"]), count(row.get("ties"))))
    return table


def pair_lines(pairs: Mapping) -> list[str]:
    """Accuracy over all pairs, the longer answer as a judge, accuracy by length, calibration, margins, and ties."""
    accuracy, longer, margins = pairs["accuracy"], pairs["longer_wins"], pairs["margins"]
    if "ties" in pairs and not accuracy["rows"]:
        return ["all rows are ties, and none is right or wrong", *notes_on_pairs(pairs)]
    over, equal = "all rows", "tie" if accuracy["ties"] == 1 else "ties"
    ties = f", {count(accuracy['ties'])} {equal} counted as wrong" if accuracy["ties"] else ", no ties"
    if "ties" in pairs:  # of the data, which notes_on_pairs counts
        over = f"the {count(accuracy['rows'])} rows that are no ties"
        ties = f", {count(accuracy['ties'])} with equal rewards counted as wrong" if accuracy["ties"] else ""
    coins = f", {count(longer['ties'])} equally long count as half right" if longer["ties"] else ""
    groups = (f"{name} {share(row)} ({count(row['rows'])})" for name, row in pairs["by_length"].items())
    return [
        f"{over}, unweighted: {share(accuracy)} right ({interval(accuracy)}){ties}",
        f"always the longer answer: {share(longer)} right ({interval(longer)}){coins}",
        f"by length: {', '.join(groups)}",
        f"calibration error: {points(pairs['calibration_error'])}; margin: mean {number(margins['mean'])}, "
        f"median {number(margins['median'])}, standard deviation {number(margins['standard_deviation'])}",
        *notes_on_pairs(pairs),
    ]


def notes_on_pairs(pairs: Mapping) -> list[str]:
    """Accuracy by weights, ties, and what the intervals take together, where there is anything of it."""
    lines = []
    if weighted := pairs.get("weighted_accuracy"):
        lines.append(f"by the weights of the rows: {share(weighted)} right ({interval(weighted)})")
    if "ties" in pairs:
        lines.append(_tie_line(pairs["ties"]))
    if "prompts" in pairs:
        lines.append(f"the intervals take the rows of each of {count(pairs['prompts'])} prompts together")
    return lines


def _tie_line(ties: Mapping) -> str:
    """How far apart the rewards of ties are and of other pairs, and how likely a model of ties calls both ties."""
    sides = {"ties": ties["ties"], "other pairs": ties["others"]}
    apart = (
        f"{number(of['mean_distance'])} of {name}" for name, of in sides.items() if of["mean_distance"] is not None
    )
    line = f"ties: {count(ties['pairs'])}; mean distance of the rewards {', '.join(apart)}"
    predicted = {name: of["predicted_ties"] for name, of in sides.items() if of.get("predicted_ties") is not None}
    if predicted:
        shares = ", ".join(f"{percent(value)}% on {name}" for name, value in predicted.items())
        line += f"; probability of a tie by the model {shares}"
    return line
