"""report.html and trainer_state.json of a run that goes on: after evaluations and checkpoints, at no run's expense."""

import logging
import time
from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from reward_modeling.checkpoints import TRAINER_STATE
from reward_modeling.file_names import REPORT

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_PAGES = 60  # one takes about a second


class ReportCallback(TrainerCallback):
    """A run that is looked at, or that has died, has a log and a page of a minute before at most."""

    def __init__(self):
        self.last_page = time.monotonic()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        self._update(args, state)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        self._update(args, state)

    def _update(self, args: TrainingArguments, state: TrainerState) -> None:
        if not state.is_world_process_zero:
            return
        is_due = time.monotonic() - self.last_page > SECONDS_BETWEEN_PAGES
        update_report(Path(args.output_dir), state, page=is_due)
        if is_due:
            self.last_page = time.monotonic()


def update_report(output: Path, state: TrainerState, *, page: bool = True) -> None:
    """The log of the run so far, and the page that is made of it."""
    unfinished = output / f".unfinished-{TRAINER_STATE}"
    try:
        state.save_to_json(str(unfinished))
        unfinished.replace(output / TRAINER_STATE)
    except OSError as error:
        logger.warning("!!! %s was not written: %s !!!", output / TRAINER_STATE, error)
        return
    finally:
        unfinished.unlink(missing_ok=True)
    if page:
        write_report_or_say_why(output)


def write_report_or_say_why(output: Path) -> bool:
    """Whether the page was written. Whatever goes wrong with it is said, and costs no run its model."""
    # Half a second of matplotlib, which no other process and no benchmark needs.
    from reward_modeling.training_report import write_training_report

    try:
        write_training_report(output)
    except Exception as error:
        logger.warning(
            "!!! %s was not written (%s: %s). The run and its model are not touched by that. Once it is put right: "
            "python -m reward_modeling.training_report %s !!!",
            output / REPORT,
            type(error).__name__,
            error,
            output,
        )
        return False
    return True
