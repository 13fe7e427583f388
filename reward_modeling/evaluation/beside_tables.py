"""A second model beside the one that was evaluated, as text: its figures and how far the first one is above it."""

from collections.abc import Mapping

from reward_modeling.display.text import Rows, count, interval, make_printable, shorten, value_or_reason


def beside_title(beside: Mapping) -> str:
    """Over the table."""
    return f"Beside {beside['model']} ({beside['class']}), over the rows that both have scored"


def beside_rows(beside: Mapping) -> Rows:
    """A line for each figure: both models, and the difference in points with its paired interval."""
    rows: Rows = [("", "this model", "beside it", "difference", "95% interval", "", "rows")]
    for name, entry in beside["figures"].items():
        value, ends, verdict = difference_cells(entry["difference"])
        values = (value_or_reason(entry[side]) for side in ("own", "other"))
        rows.append((shorten(make_printable(name)), *values, value, ends, verdict, count(entry["difference"]["rows"])))
    return rows


def difference_cells(difference: Mapping) -> tuple[str, str, str]:
    """+1.2, +0.3 to +2.1, better."""
    value, low, high = (difference[key] for key in ("value", "low", "high"))
    if value is None:
        return "", "", ""
    if low is None or high is None:
        return f"{100 * value:+.1f}", interval(difference), ""
    verdict = "better" if low > 0 else "worse" if high < 0 else ""
    return f"{100 * value:+.1f}", f"{100 * low:+.1f} to {100 * high:+.1f}", verdict


def beside_record_lines(name: str, beside: Mapping) -> list[tuple[str, Mapping]]:
    """rewardbench/overall-beside and rewardbench/overall-difference, and so on."""
    lines = []
    for figure, entry in beside["figures"].items():
        line = f"{name}/{figure.replace(' ', '-')}"
        lines += [(f"{line}-beside", entry["other"]), (f"{line}-difference", entry["difference"])]
    return lines
