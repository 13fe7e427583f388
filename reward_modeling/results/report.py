"""report.html: a training run as one page that needs no network, for a phone and for a wide screen.

    python -m reward_modeling.results.report models/gemma2b_rm

It is made of the files in the run's output folder alone (see `read_run`), so that it can be made again at any time:
the same files give the same bytes. rm.py makes it at the end, and while it runs. templates/training.html has its words.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from reward_modeling.common.atomic import write_whole
from reward_modeling.common.errors import UserError, run_script
from reward_modeling.common.file_names import REPORT
from reward_modeling.common.paths import local_path
from reward_modeling.data.report import dropped_rows
from reward_modeling.display.page import render
from reward_modeling.display.pair_blocks import histogram_rows, pair_plots, pair_tables
from reward_modeling.display.plot_style import ACCENT, BAR, Plot, make_plot
from reward_modeling.display.plots import draw_bars, draw_steps
from reward_modeling.display.text import MOST_SUBSETS, Rows, accuracy_rows, count, interval, number, pair_lines, percent
from reward_modeling.results.curves import Curve, draw_curves, log_curve
from reward_modeling.results.read_run import RunFiles, read_run
from reward_modeling.results.run import source_rows
from reward_modeling.results.warnings import result_warnings

FIGURES = {  # of the log: their titles and captions
    "loss": ("Loss", "Mean over pairs. The training loss includes centering and a router's loss."),
    "accuracy": ("Accuracy, percent", "Pairs whose chosen answer has the higher reward."),
    "margin": ("Margin", "Mean of reward(chosen) - reward(rejected)."),
    "tie_threshold": ("Threshold of ties", "Of the model of ties, as it was learned."),
    "learning_rate": ("Learning rate", "As the schedule gave it."),
    "grad_norm": ("Gradient norm", "Of all gradients, before clipping."),
    "tokens_per_second": ("Tokens per second", "Computed over all processes; a shared prompt counts once."),
}
TRAINING, HELD_OUT = "training", "held out"
MOST_EVALUATIONS = 100  # that the table shows


def write_training_report(output: Path) -> Path:
    """Write `output`/report.html, which is returned, from the files beside it.

    Raises:
        UserError: the folder is not that of a run, a file of it is torn, or the page cannot be written.
    """
    text = training_page(read_run(output))
    try:
        write_whole(output / REPORT, text)
    except OSError as error:
        raise UserError(
            f"{output / REPORT}: cannot be written ({error.strerror}). Make room, or copy the run."
        ) from error
    return output / REPORT


def training_page(run: RunFiles) -> str:
    """The whole page."""
    curves = log_curves(run.history)
    evaluations = [entry for entry in run.history if "eval_loss" in entry]
    return render(
        "results/templates/training.html",
        run=run,
        curves=curves,
        curve_plots=[_curve_plot(name, both) for name, both in curves.items()],
        point_rows=_point_rows(curves),
        num_evaluations=len(evaluations),
        evaluation_rows=_evaluation_rows(evaluations[-MOST_EVALUATIONS:]),
        logged_accuracy=logged_accuracy,
        held_out_plots=held_out_plots,
        held_out_tables=held_out_tables,
        set_rows=set_rows,
        pair_lines=pair_lines,
        dropped_rows=dropped_rows,
        source_rows=source_rows,
        result_warnings=result_warnings,
    )


# --- curves ---------------------------------------------------------------------------------------------------


def log_curves(history: Sequence[Mapping]) -> dict[str, dict[str, Curve]]:
    """{figure: {"training": curve, "held out": curve}}, without what was not logged."""
    curves = {}
    for name in FIGURES:
        both = {TRAINING: log_curve(history, name), HELD_OUT: log_curve(history, f"eval_{name}")}
        if logged := {key: curve for key, curve in both.items() if curve is not None}:
            curves[name] = logged
    return curves


def _curve_plot(name: str, curves: Mapping[str, Curve]) -> Plot:
    title, caption = FIGURES[name]
    if bad := sum(curve.not_finite for curve in curves.values()):
        caption += f" {count(bad)} logs that are no numbers are left out."
    options = {"scale": 100 if name == "accuracy" else 1, "may_be_logarithmic": name == "grad_norm"}
    return make_plot(title, caption, draw_curves, curves, **options)


def _point_rows(curves: Mapping[str, Mapping[str, Curve]]) -> Rows:
    """The points of the training curves, as drawn."""
    training = {name: both[TRAINING] for name, both in curves.items() if TRAINING in both}
    by_step: dict[float, dict[str, float]] = {}
    for name, curve in training.items():
        for step, value in zip(curve.steps, curve.values, strict=True):
            by_step.setdefault(step, {})[name] = value
    rows = ((step, *(_point(name, values.get(name)) for name in training)) for step, values in sorted(by_step.items()))
    return [("step", *(FIGURES[name][0] for name in training)), *((f"{step:,.0f}", *cells) for step, *cells in rows)]


def _point(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return percent(value) if name == "accuracy" else f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def logged_accuracy(entry: Mapping) -> dict[str, float | None]:
    """The accuracy of an evaluation in the log, with its interval where it has one."""
    ends = (("value", ""), ("low", "_low"), ("high", "_high"))
    return {key: entry.get(f"eval_accuracy{end}") for key, end in ends} | {"rows": entry.get("eval_pairs")}


def _evaluation_rows(entries: Sequence[Mapping]) -> Rows:
    """A line for each evaluation in the log."""
    names = ("loss", "margin", "reward_mean", "reward_std")
    rows: Rows = [("step", "epoch", "accuracy, percent", "95% interval", *names)]
    for entry in entries:
        accuracy = logged_accuracy(entry)
        span = "-" if accuracy["low"] is None else interval(accuracy)
        values = (number(entry[f"eval_{name}"]) if f"eval_{name}" in entry else "-" for name in names)
        rows.append((count(entry["step"]), f"{entry['epoch']:.2f}", percent(accuracy["value"]), span, *values))
    return rows


# --- held-out pairs -------------------------------------------------------------------------------------------


def held_out_plots(evaluation: Mapping) -> Iterator[Plot]:
    """Rewards, what all pairs have, and accuracies by the difference in length and by source."""
    rewards, colors = evaluation["rewards"], {"rejected": ACCENT, "chosen": BAR}
    caption = (
        "Of the chosen and of the rejected answers; the less they overlap, the better. The outermost bins count what "
        "lies beyond them, too."
    )
    names = {"xlabel": "reward", "ylabel": "answers"}
    yield make_plot("Rewards", caption, draw_steps, rewards["edges"], rewards, colors, **names)
    yield from pair_plots("Held-out pairs", evaluation)
    if by_difference := _named_differences(evaluation):
        caption = "Percent right, by tokens of the chosen answer less those of the rejected one."
        label = "Held-out accuracy by difference in length"
        yield make_plot("Difference in length", caption, draw_bars, {"": by_difference}, chance=50, label=label)
    if sources := evaluation["by_source"]:
        largest = dict(sorted(sources.items(), key=lambda item: -item[1]["rows"])[:MOST_SUBSETS])
        few = f" The {MOST_SUBSETS} largest." if len(sources) > MOST_SUBSETS else ""
        options = {"label": "Held-out accuracy by source", "tall": len(largest) > 12}
        caption = f"Percent right, with 95% intervals.{few}"
        yield make_plot("Sources", caption, draw_bars, {"": largest}, chance=50, **options)


def held_out_tables(evaluation: Mapping) -> list[tuple[str, Rows]]:
    """Every number behind `held_out_plots`, in tables with their titles."""
    figures = ((name.replace("_", " "), number(evaluation[name])) for name in ("loss", "reward_mean", "reward_std"))
    rewards = evaluation["rewards"]
    counts = {side: rewards[side] for side in ("chosen", "rejected")}
    return [
        ("Loss and rewards", [("", ""), *figures]),
        *pair_tables(evaluation),
        ("Difference in length", accuracy_rows(_named_differences(evaluation))),
        ("Sources", accuracy_rows(evaluation["by_source"])),
        ("Rewards", histogram_rows(rewards["edges"], counts)),
    ]


def set_rows(evaluation: Mapping) -> Rows:
    """A row for each evaluation set that has a name."""
    return accuracy_rows({name: of["accuracy"] for name, of in evaluation["sets"].items()}, "evaluation set")


def _named_differences(evaluation: Mapping) -> dict[str, Mapping]:
    """By names such as "-200 to -51", or one number where the bin has one."""
    ends = ((f"{row['from']:+,}", f"{row['to']:+,}", row) for row in evaluation["by_length_difference"])
    return {low if low == high else f"{low} to {high}": row for low, high, row in ends}


def main() -> None:
    """Make the page of a run anew."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("output", type=local_path, help="the output folder of a run of rm.py")
    print(write_training_report(parser.parse_args().output))


if __name__ == "__main__":
    run_script(main)
