"""What whoever uses the model has to know first: the same words on the page, in the model card and on the screen."""

from collections.abc import Iterator, Mapping

from reward_modeling.data.report import LOUD_SHARE_DROPPED
from reward_modeling.display.text import count, percent
from reward_modeling.results.catalog import kind_of

CUT = "cut to max_length"  # the end of a note of data/prompt_groups.py


def result_warnings(run: Mapping | None, evaluation: Mapping | None, data_report: Mapping | None) -> list[str]:
    """Of the content of run.json, evaluation.json and data_report.json; what is not there is warned of nothing."""
    of_kind = [] if evaluation is None else kind_of(run, evaluation).warnings(evaluation)
    return [*_run_warnings(run or {}), *_data_warnings(data_report or {}), *of_kind]


def _run_warnings(run: Mapping) -> Iterator[str]:
    if why := run.get("nothing_trained"):
        yield f"Nothing was trained: {why}. The weights are those that the run began with"


def _data_warnings(data_report: Mapping) -> Iterator[str]:
    for report in data_report.values():
        if report["share_dropped"] > LOUD_SHARE_DROPPED:
            yield f"{report['name']}: {percent(report['share_dropped'])}% of the rows were dropped; see Data"
        for note, number in report["notes"].items():
            if note.endswith(CUT) and number > LOUD_SHARE_DROPPED * report["kept"]:
                unit = note.partition(" ")[0]
                yield f"{report['name']}: the prompt of {count(number)} of {count(report['kept'])} {unit} was {CUT}"
