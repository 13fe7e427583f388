"""The plots and the tables of pairs with rewards, as several pages show them."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from reward_modeling.display.plot_style import Plot, make_plot
from reward_modeling.display.plots import draw_bars, draw_calibration, draw_margins
from reward_modeling.display.text import Rows, accuracy_rows, count, interval, number, percent, points


def pair_plots(title: str, pairs: Mapping) -> list[Plot]:
    """Margins, calibration and the share right by length, of any pairs that `pair_lines` describes."""
    accuracy = pairs["accuracy"]
    by_length = {
        "the model": {"all pairs": accuracy, **pairs["by_length"]},
        "for comparison": {"always the longer": pairs["longer_wins"]},
    }
    lengths = "; ".join(f"{name} {count(row['rows'])}" for name, row in pairs["by_length"].items())
    return [
        make_plot(
            "Margins",
            "Reward of the chosen answer less that of the rejected one. Left of zero the model is wrong. "
            "The outermost bars count what lies beyond them, too.",
            *(draw_margins, pairs["margins"], accuracy),
            label=f"{title}: histogram of the margins",
        ),
        make_plot(
            "Calibration",
            "How often the favourite wins, by the model's own probability. Dashed: perfect; off by "
            f"{points(pairs['calibration_error'])}.",
            *(draw_calibration, pairs["calibration"]),
            label=f"{title}: confidence against the share right",
        ),
        make_plot(
            "Length",
            f"A model that follows length is bad where the rejected answer is longer. Pairs: {lengths}.",
            *(draw_bars, by_length),
            label=f"{title}: accuracy by length of the answers",
            chance=50,
        ),
    ]


def pair_tables(pairs: Mapping) -> list[tuple[str, Rows]]:
    """Every number behind `pair_plots`, in tables with their titles."""
    rows = {"all pairs": pairs["accuracy"], **pairs["by_length"], "always the longer answer": pairs["longer_wins"]}
    rows |= {"all pairs, by weight": pairs["weighted_accuracy"]} if "weighted_accuracy" in pairs else {}
    margins = pairs["margins"]
    return [
        ("Pairs", accuracy_rows(rows)),
        ("Calibration", calibration_rows(pairs["calibration"])),
        ("Margins", histogram_rows(margins["edges"], {"pairs": margins["counts"]})),
        *([("Ties", _tie_rows(pairs["ties"], pairs["accuracy"]["rows"]))] if "ties" in pairs else []),
    ]


def _tie_rows(ties: Mapping, others: int) -> Rows:
    """Of ties and of other pairs the mean distance of the rewards, and the probability that a model of ties gives."""
    rows: Rows = [("", "pairs", "mean distance of the rewards", "predicted ties, percent")]
    for name, pairs in (("ties", ties["pairs"]), ("others", others)):
        distance, predicted = ties[name]["mean_distance"], ties[name].get("predicted_ties")
        values = ("-" if distance is None else number(distance), "-" if predicted is None else percent(predicted))
        rows.append((name, count(pairs), *values))
    return rows


def calibration_rows(bins: Sequence[Mapping]) -> Rows:
    """The bins of `pair_statistics.calibration_bins`."""
    head = ("confidence", "its mean", "percent right", "95% interval", "pairs", "ties")
    return [head, *map(_calibration_row, bins)]


def _calibration_row(row: Mapping) -> Sequence[str]:
    place = f"{100 * row['low']:.0f}-{100 * row['high']:.0f}"
    if not row["rows"]:
        return place, "-", "-", "-", count(row["rows"]), "-"
    values = percent(row["confidence"]), percent(row["value"]), interval(row, "value_low", "value_high")
    return place, *values, count(row["rows"]), count(row["ties"])


def histogram_rows(edges: Sequence[float], counts: Mapping[str, Iterable[int]]) -> Rows:
    """A line for each bin, with the count of each series."""
    bins = zip(pairwise(edges), *counts.values(), strict=True)
    return [("from", "to", *counts), *((number(a), number(b), *map(count, of_bin)) for (a, b), *of_bin in bins)]
