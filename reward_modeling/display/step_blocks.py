"""The probabilities of steps on the screen and on pages: how often they are right, and a plot of their reliability."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from reward_modeling.display.plot_style import BAR, GRID, MUTED, WIDTH, Plot, make_plot, new_axes, new_figure
from reward_modeling.display.plots import DASHED, short_count
from reward_modeling.display.text import Rows, count, interval, number, percent, points


def step_lines(steps: Mapping) -> list[str]:
    """What `common.step_statistics` says, in a few sentences."""
    right, accuracy = steps["right"], steps["accuracy"]
    texts = [
        f"Steps: {count(steps['steps'])} with a label, of {count(steps['chains'])} answers; {percent(right['value'])}% "
        f"of them are right ({interval(right)}).",
        f"On the label's side of 0.5: {percent(accuracy['value'])}% ({interval(accuracy)}).",
    ]
    if steps["auc"] is not None:
        texts.append(f"A right step is above a wrong one in {percent(steps['auc'])}% of such pairs.")
    error = points(steps["calibration_error"])
    return [*texts, f"Calibration: off by {error}; mean squared error {number(steps['brier'])}."]


def describe_process(saved: Mapping) -> str:
    """What config.json says of a process model, in words."""
    steps = "the whole answer is one step" if saved["outcome"] else f"steps end in {saved['separator']!r}"
    return f"{steps}, whose probabilities' {saved['aggregation']} is the reward"


def step_plots(title: str, steps: Mapping) -> list[Plot]:
    return [
        make_plot(
            "Calibration of steps",
            "How often a step is right, by the probability that the model gives it. Dashed: perfect; off by "
            f"{points(steps['calibration_error'])}.",
            *(draw_reliability, steps["calibration"]),
            label=f"{title}: probability of a step against the share of right ones",
        )
    ]


def step_tables(steps: Mapping) -> list[tuple[str, Rows]]:
    """Every number behind the plot."""
    rows: Rows = [("probability", "its mean", "percent right", "95% interval", "steps")]
    for of_bin in steps["calibration"]:
        place = f"{100 * of_bin['low']:.0f}-{100 * of_bin['high']:.0f}"
        if not of_bin["rows"]:
            rows.append((place, "-", "-", "-", count(0)))
            continue
        values = percent(of_bin["confidence"]), percent(of_bin["value"]), interval(of_bin, "value_low", "value_high")
        rows.append((place, *values, count(of_bin["rows"])))
    return [("Calibration of steps", rows)]


def draw_reliability(bins: Sequence[Mapping]) -> Figure:
    """Probability against the share right, each point with its interval, over the number of steps of each bin."""
    figure = new_figure(height=206)
    axes = new_axes(figure, 36, 8, WIDTH - 44, 120)
    below = new_axes(figure, 36, 140, WIDTH - 44, 30)
    axes.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=DASHED)
    filled = [row for row in bins if row["rows"]]
    places, right = ([100 * row[name] for row in filled] for name in ("confidence", "value"))
    axes.plot(places, right, color=BAR, linewidth=0.8, marker="o", markersize=4)
    for x, row in zip(places, filled, strict=True):
        if row["value_low"] is not None and row["value_high"] is not None:
            axes.plot([x, x], [100 * row["value_low"], 100 * row["value_high"]], color=BAR, linewidth=1.2)
    axes.set(xlim=(-2, 102), ylim=(-2, 102), xticks=range(0, 101, 20), xticklabels=[])
    axes.set_ylabel("share right, percent")
    axes.grid()
    tallest = max([1, *(row["rows"] for row in bins)])
    for row in bins:
        middle, width = 50 * (row["low"] + row["high"]), 100 * (row["high"] - row["low"])
        below.bar(middle, row["rows"], 0.8 * width, color=GRID)
        below.text(middle, row["rows"] + 0.06 * tallest, short_count(row["rows"]), ha="center", fontsize=6.5)
    below.set(xlim=(-2, 102), ylim=(0, 1.4 * tallest), xticks=range(0, 101, 20), yticks=[])
    below.set_ylabel("steps", labelpad=12)
    below.set_xlabel("probability, percent")
    return figure
