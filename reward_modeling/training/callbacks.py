"""What a run shows while it goes on (report.html, trainer_state.json, a bar), and what stops it early."""

import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from tqdm.auto import tqdm
from transformers import (
    EarlyStoppingCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from reward_modeling.common.atomic import whole_file
from reward_modeling.common.errors import UserError
from reward_modeling.common.file_names import REPORT, TRAINER_STATE
from reward_modeling.common.screen import shows_bars
from reward_modeling.objectives.base import Objective

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_PAGES = 60  # one takes about a second


class ReportCallback(TrainerCallback):
    """Writes the log after evaluations and checkpoints, and the page where the last one is a minute old."""

    def __init__(self):
        self.last_page = time.monotonic()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        if state.is_world_process_zero:
            is_due = time.monotonic() - self.last_page > SECONDS_BETWEEN_PAGES
            update_report(Path(args.output_dir), state, page=is_due)
            self.last_page = time.monotonic() if is_due else self.last_page

    on_save = on_evaluate


def update_report(output: Path, state: TrainerState, *, page: bool = True) -> None:
    """The log of the run so far, and the page that is made of it."""
    try:
        with whole_file(output / TRAINER_STATE) as path:
            state.save_to_json(str(path))
    except OSError as error:
        logger.warning("!!! %s was not written: %s !!!", output / TRAINER_STATE, error)
        return
    if page:
        try_to_write_report(output)


def try_to_write_report(output: Path) -> bool:
    """Whether the page was written. Whatever goes wrong is a warning: a run keeps its model without the page."""
    # Half a second of matplotlib, which no other process and no benchmark needs.
    from reward_modeling.results.report import write_training_report

    try:
        write_training_report(output)
    except Exception as error:
        logger.warning(
            f"!!! {output / REPORT} was not written ({type(error).__name__}: {error}). The run and its model are not "
            f"affected. To write it again: python -m reward_modeling.results.report {output} !!!"
        )
        return False
    return True


class RewardProgressCallback(ProgressCallback):
    """transformers' progress bar, with the loss, figures of the objective and units a second beside the time left."""

    def __init__(self, objective: Objective, eval_sets: Iterable[str] = ()):
        """`eval_sets` are the names of evaluation sets that have one."""
        super().__init__()
        self.eval_sets = tuple(eval_sets)
        unit = objective.reader.unit
        self.beside_the_bar = {name: name for name in ("loss", *objective.progress_figures)}
        self.beside_the_bar[f"{unit}_per_second"] = f"{unit}/s"
        self.evaluation_lines = objective.evaluation_lines

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """The bar, which in a file only writes the lines."""
        if state.is_world_process_zero:
            self.training_bar = tqdm(total=state.max_steps, dynamic_ncols=True, disable=not shows_bars())
        self.current_step = 0

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs=None, **kwargs):
        if not state.is_world_process_zero or self.training_bar is None or not logs:
            return
        figures = {name: logs[key] for key, name in self.beside_the_bar.items() if key in logs}
        if figures:
            self.training_bar.set_postfix({name: f"{value:.4g}" for name, value in figures.items()})
        if "eval_loss" in logs:
            lines = self._lines_of_sets(logs) if self.eval_sets else self.evaluation_lines(logs)
        else:
            shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in logs.items()}
            lines = ["  ".join(f"{name} {value}" for name, value in shown.items() if name != "total_flos")]
        step = f"step {state.global_step}/{state.max_steps}"
        self.training_bar.write(f"{step}  {lines[0]}")
        for line in lines[1:]:
            self.training_bar.write(f"{' ' * len(step)}  {line}")

    def _lines_of_sets(self, logs: Mapping[str, float]) -> list[str]:
        """Those of each set, with its name."""
        lines = []
        for name in self.eval_sets:
            start = f"eval_{name}_"
            figures = {f"eval_{key.removeprefix(start)}": logs[key] for key in logs if key.startswith(start)}
            lines += [f"{name}: {line}" for line in self.evaluation_lines(figures)]
        return lines


class FiniteLossCallback(TrainerCallback):
    """Stops a run whose loss or gradients are no longer numbers: every later step would be lost."""

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs=None, **kwargs):
        for name in ("loss", "grad_norm"):
            value = (logs or {}).get(name)
            if value is not None and not abs(value) < float("inf"):
                raise UserError(
                    f"step {state.global_step}: expected a finite {name}, found {value}. Lower --learning_rate, or "
                    "train without fp16; the last checkpoint is untouched."
                )


class EarlyStopping(EarlyStoppingCallback):
    """Stops after so many evaluations in a row without a better one.

    transformers writes the count into every checkpoint, and reads it back only together with the patience of then
    (--restore_callback_states_from_checkpoint); here the count alone is read, and the flags of now hold.
    """

    def go_on_from(self, state: TrainerState) -> None:
        """Count on from the state of a checkpoint."""
        saved = state.stateful_callbacks.get(type(self).__name__)
        counter = 0 if saved is None else saved["attributes"]["early_stopping_patience_counter"]
        self.early_stopping_patience_counter = counter

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        super().on_evaluate(args, state, control, metrics, **kwargs)
        if self.is_due:
            logger.warning(
                f"Early stopping after step {state.global_step}: held-out "
                f"{args.metric_for_best_model.removeprefix('eval_')} was not better than {state.best_metric:.4g} in "
                f"the last {self.early_stopping_patience_counter} evaluations."
            )

    @property
    def is_due(self) -> bool:
        return self.early_stopping_patience_counter >= self.early_stopping_patience
