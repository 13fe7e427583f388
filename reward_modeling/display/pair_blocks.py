"""What is shown of pairs with rewards, as text and on a page."""

from collections.abc import Mapping, Sequence

from reward_modeling.display.page import figure_block, html_table
from reward_modeling.display.plots import bar_plot, calibration_plot, margin_plot
from reward_modeling.display.text import INCOMPLETE, count, interval, number, percent, share, value_or_reason


def pair_lines(pairs: Mapping) -> list[str]:
    """Accuracy over all pairs, the longer answer as a judge, accuracy by length, calibration and margins."""
    accuracy, longer, margins = pairs["accuracy"], pairs["longer_wins"], pairs["margins"]
    tied = "tie" if accuracy["ties"] == 1 else "ties"
    ties = f", {count(accuracy['ties'])} {tied} counted as wrong" if accuracy["ties"] else ", no ties"
    coins = f", {count(longer['ties'])} equally long count as half right" if longer["ties"] else ""
    groups = (f"{name} {share(row)} ({count(row['rows'])})" for name, row in pairs["by_length"].items())
    error = pairs["calibration_error"]
    return [
        f"all rows, unweighted: {share(accuracy)} right ({interval(accuracy)}){ties}",
        f"always the longer answer: {share(longer)} right ({interval(longer)}){coins}",
        f"by length: {', '.join(groups)}",
        f"calibration error: {INCOMPLETE if error is None else f'{100 * error:.1f} points'}; margin: "
        f"mean {number(margins['mean'])}, median {number(margins['median'])}, "
        f"standard deviation {number(margins['standard_deviation'])}",
    ]


NUMBERS = ("", "percent", "95% interval", "rows", "ties")


def pair_plots(title: str, pairs: Mapping) -> list[str]:
    """Margins, calibration and the share right by length, of any pairs that `pair_lines` words."""
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
            "Reward of the chosen answer less that of the rejected one. Left of zero the model is wrong. "
            "The outermost bars count what lies beyond them, too.",
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


def pair_tables(pairs: Mapping) -> str:
    """Every number behind `pair_plots`."""
    rows = {"all pairs": pairs["accuracy"], **pairs["by_length"], "always the longer answer": pairs["longer_wins"]}
    head = ("confidence", "its mean", "percent right", "95% interval", "pairs", "ties")
    margins = pairs["margins"]
    bins = zip(*bin_ends(margins["edges"]), margins["counts"], strict=True)
    tables = {
        "Pairs": accuracy_table(rows),
        "Calibration": html_table(head, map(_bin, pairs["calibration"])),
        "Margins": html_table(("from", "to", "pairs"), ((number(a), number(b), count(c)) for a, b, c in bins)),
    }
    return "".join(f"<h3>{title}</h3>{table}" for title, table in tables.items())


def bin_ends(edges: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    """Where each bin of a histogram begins, and where it ends."""
    return edges[:-1], edges[1:]


def accuracy_table(rows: Mapping[str, Mapping]) -> str:
    """A line for each share of rows: percent, interval, rows, ties."""
    return html_table(NUMBERS, (_row(name, row) for name, row in rows.items()))


def _row(name: str, row: Mapping) -> tuple[str, ...]:
    return name, value_or_reason(row), interval(row), count(row["rows"]), count(row.get("ties"))


def _bin(one: Mapping) -> tuple[str, ...]:
    place = f"{100 * one['low']:.0f}-{100 * one['high']:.0f}"
    if not one["rows"]:
        return place, "-", "-", "-", count(one["rows"]), "-"
    span = interval(one, "value_low", "value_high")
    return place, percent(one["confidence"]), percent(one["value"]), span, count(one["rows"]), count(one["ties"])
