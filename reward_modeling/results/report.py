"""report.html: a training run as one page that needs no network, for a phone and for a wide screen.

    python -m reward_modeling.results.report models/gemma2b_rm

It is made of the files in the run's output folder alone (see `read_run`), so that it can be made again at any time:
the same files give the same bytes. A run makes it at the end, and while it goes on. Its words are in
templates/training.html and, of each kind of model, in a template that extends it.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from reward_modeling.common.atomic import write_whole
from reward_modeling.common.errors import UserError, run_script
from reward_modeling.common.file_names import REPORT
from reward_modeling.common.paths import local_path
from reward_modeling.data.report import dropped_rows
from reward_modeling.display.page import render
from reward_modeling.display.plot_style import Plot, make_plot
from reward_modeling.display.text import Rows, count, percent
from reward_modeling.results.catalog import kind_of
from reward_modeling.results.curves import Curve, draw_curves, log_curve
from reward_modeling.results.kind import TRAINING, LoggedFigure
from reward_modeling.results.read_run import RunFiles, read_run
from reward_modeling.results.run import source_rows
from reward_modeling.results.warnings import result_warnings

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
    kind = kind_of(run.run, run.evaluation)
    figures = kind.figures(run.history)
    curves = log_curves(figures, run.history)
    evaluations = [entry for entry in run.history if "eval_loss" in entry]
    return render(
        kind.page_template,
        run=run,
        kind=kind,
        curves=curves,
        curve_plots=[_curve_plot(figures[name], of_figure) for name, of_figure in curves.items()],
        point_rows=_point_rows(figures, curves),
        num_evaluations=len(evaluations),
        evaluation_rows=kind.evaluation_rows(evaluations[-MOST_EVALUATIONS:]),
        dropped_rows=dropped_rows,
        source_rows=source_rows,
        result_warnings=result_warnings,
    )


def log_curves(figures: Mapping[str, LoggedFigure], history: Sequence[Mapping]) -> dict[str, dict[str, Curve]]:
    """{figure: {series: curve}}, such as {"loss": {"training": ..., "held out": ...}}, without what was not logged."""
    curves = {}
    for name, figure in figures.items():
        each = {series: log_curve(history, logged) for series, logged in figure.series.items()}
        if found := {series: curve for series, curve in each.items() if curve is not None}:
            curves[name] = found
    return curves


def _curve_plot(figure: LoggedFigure, curves: Mapping[str, Curve]) -> Plot:
    caption = figure.caption
    if bad := sum(curve.not_finite for curve in curves.values()):
        caption += f" {count(bad)} logs that are no numbers are left out."
    options = {"scale": 100 if figure.is_share else 1, "may_be_logarithmic": figure.may_be_logarithmic}
    return make_plot(figure.title, caption, draw_curves, curves, **options)


def _point_rows(figures: Mapping[str, LoggedFigure], curves: Mapping[str, Mapping[str, Curve]]) -> Rows:
    """The points of the training curves, as drawn."""
    columns: dict[str, tuple[LoggedFigure, Curve]] = {}
    for name, of_figure in curves.items():
        figure = figures[name]
        for series in filter(figure.is_of_training, of_figure):
            head = figure.title if series == TRAINING else f"{figure.title}: {series}"
            columns[head] = figure, of_figure[series]
    by_step: dict[float, dict[str, float]] = {}
    for head, (_, curve) in columns.items():
        for step, value in zip(curve.steps, curve.values, strict=True):
            by_step.setdefault(step, {})[head] = value
    lines = (
        (f"{step:,.0f}", *(_point(figure, values.get(head)) for head, (figure, _) in columns.items()))
        for step, values in sorted(by_step.items())
    )
    return [("step", *columns), *lines]


def _point(figure: LoggedFigure, value: float | None) -> str:
    if value is None:
        return "-"
    return percent(value) if figure.is_share else f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def main() -> None:
    """Make the page of a run anew."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("output", type=local_path, help="the output folder of a training run")
    print(write_training_report(parser.parse_args().output))


if __name__ == "__main__":
    run_script(main)
