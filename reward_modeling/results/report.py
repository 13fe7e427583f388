"""report.html: a training run as one page that needs no network, for a phone and for a wide screen.

    python -m reward_modeling.results.report models/gemma2b_rm

It is made of the files in the run's output folder alone (see `run_reader`), so that it can be made again at any time:
the same files give the same bytes. rm.py makes it at the end, and while it runs.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from reward_modeling.common.atomic import write_page
from reward_modeling.common.errors import UserError, run_script
from reward_modeling.common.file_names import REPORT, RUN
from reward_modeling.data.report import LOUD_SHARE_DROPPED
from reward_modeling.display.page import cards, page, shown_date, warnings_block
from reward_modeling.display.text import INCOMPLETE, count, interval, number, percent, share
from reward_modeling.results.read_run import RunFiles, read_run
from reward_modeling.results.report_plots import short_number
from reward_modeling.results.report_sections import (
    data_section,
    held_out_section,
    logged_interval,
    origin_section,
    preflight_section,
    training_section,
)


def write_training_report(output: Path) -> Path:
    """Write `output`/report.html from the files beside it.

    Returns:
        The page.

    Raises:
        UserError: the folder is not that of a run, a file of it is torn, or the page cannot be written.
    """
    text = training_page(read_run(output))
    try:
        write_page(output / REPORT, text)
    except OSError as error:
        raise UserError(
            f"{output / REPORT}: cannot be written ({error.strerror}). Make room, or copy the run."
        ) from error
    return output / REPORT


def training_page(run: RunFiles) -> str:
    """The whole page."""
    return page(
        f"{run.name}: training",
        kicker=_kicker(run),
        heading=run.name,
        line=_model_line(run),
        blocks=[
            cards(_cards(run)),
            warnings_block(_warnings(run)),
            training_section(run),
            held_out_section(run),
            data_section(run),
            preflight_section(run),
            origin_section(run),
        ],
    )


def _kicker(run: RunFiles) -> str:
    started = "" if run.run is None else f", started {shown_date(run.run['started'])}"
    return f"Reward model training{started}"


def _model_line(run: RunFiles) -> str:
    """The model, and on what it was trained."""
    about = run.run
    if about is None:
        return f"No {RUN} is there to say which model it is."
    trained = (
        ""
        if about["trained_parameters"] == about["num_parameters"]
        else (f", {short_count(about['trained_parameters'])} of them trained")
    )
    return (
        f"{about['model_name']}: {about['class']}, {short_count(about['num_parameters'])} parameters{trained}; "
        f"{about['engine']}, processes: {about['processes']}, {about['dtype']}, batching {about['batching']}"
    )


def short_count(value: float) -> str:
    """2,506,174,464 as 2.51B."""
    for size, letter in ((1e9, "B"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return count(value)


def _cards(run: RunFiles) -> Iterator[tuple[str, str, list[str]]]:
    """The numbers to see first."""
    found, last = run.evaluation, run.last_entry("eval_accuracy")
    if found is not None and found["step"] <= run.step:
        row, longer = found["accuracy"], found["longer_wins"]
        spans = [f"95%: {interval(one)}" if one["value"] is not None else INCOMPLETE for one in (row, longer)]
        yield "Held-out accuracy", share(row), [spans[0], f"{count(row['rows'])} pairs", f"step {count(found['step'])}"]
        yield "Always the longer answer", share(longer), [spans[1], "of the same pairs"]
        off = "-" if found["calibration_error"] is None else f"{100 * found['calibration_error']:.1f} points"
        yield "Calibration error", off, [f"loss {number(found['loss'])}", "of the same pairs"]
    elif last is not None:
        words = [f"95%: {logged_interval(last)}", f"step {count(last['step'])}", f"loss {number(last['eval_loss'])}"]
        yield "Held-out accuracy", f"{percent(last['eval_accuracy'])}%", words
    epoch = "not begun" if run.state["epoch"] is None else f"epoch {run.state['epoch']:.2f}"
    early = ["ended early"] if run.end is not None and run.step < run.state["max_steps"] else []
    pairs = [] if run.run is None else [f"{count(run.run['pairs_per_step'])} pairs a step"]
    yield "Steps", f"{count(run.step)} of {count(run.state['max_steps'])}", [epoch, *pairs, *early]
    if run.end is not None:
        resumes = str((run.arguments or {}).get("resume_from_checkpoint", "false")).lower() != "false"
        since = ["since the last start"] if resumes else []  # the Trainer times its own process
        yield "Training time", duration(run.end["train_runtime"]), [*since, "evaluations included"]
    if speeds := [entry["tokens_per_second"] for entry in run.history if "tokens_per_second" in entry]:
        saved = median(entry["tokens_saved"] for entry in run.history if "tokens_saved" in entry)
        words = [f"{percent(saved)}% of tokens saved", "median over the logs"]
        yield "Tokens per second", short_number(median(speeds)), words


def duration(seconds: float) -> str:
    """7.5 s, 12 min, 3 h 05 min."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60:,} h {minutes % 60:02} min"


def _warnings(run: RunFiles) -> Iterator[str]:
    if run.end is None:
        yield (
            f"This run had not come to its end when the page was made: step {count(run.step)} of "
            f"{count(run.state['max_steps'])}"
        )
    for report in (run.data_report or {}).values():
        if report["share_dropped"] > LOUD_SHARE_DROPPED:
            yield f"{report['name']}: {report['share_dropped']:.1%} of the rows were dropped; see Data"
    if run.verification is not None and not run.verification["passed"]:
        yield "The saved model is not the one that was trained; see How it was made"
    found = run.evaluation
    if found is not None and found["step"] <= run.step and found["longer_wins"]["value"] is not None:
        row, longer = found["accuracy"], found["longer_wins"]
        if row["low"] <= 0.5:
            words = "is not clearly above guessing, 50%"
            yield f"The held-out accuracy, {percent(row['value'])}% ({interval(row)}), {words}"
        if row["low"] <= longer["value"]:
            yield (
                f"The held-out accuracy, {percent(row['value'])}% ({interval(row)}), is not clearly above that of "
                f"always taking the longer answer, {percent(longer['value'])}%"
            )


def main() -> None:
    """Make the page of a run anew."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("output", type=Path, help="the output folder of a run of rm.py")
    print(write_training_report(parser.parse_args().output))


if __name__ == "__main__":
    run_script(main)
