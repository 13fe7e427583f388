"""Training that is told to end: the step is finished, a checkpoint saved, and one line says how to go on."""

import logging
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from reward_modeling.common.arguments import without_tokens
from reward_modeling.common.file_names import CHECKPOINT
from reward_modeling.common.interruption import TYPED_COMMAND, end_with_launcher, finishes_first, leave, with_flag
from reward_modeling.training.callbacks import update_report

if TYPE_CHECKING:
    from reward_modeling.training.resumable_trainer import ResumableTrainer

logger = logging.getLogger(__name__)

RESUME = "resume_from_checkpoint"


def resume_command(value: str = "true") -> str:
    """The command to type to go on, as text."""
    return with_flag(without_tokens(TYPED_COMMAND), RESUME, value)


def words_before_the_first_step(of: signal.Signals) -> str:
    """Last ones of a process that reads data or loads the model. Of a resume it is the same command that goes on."""
    command = without_tokens(TYPED_COMMAND)
    resumes = any(token.lstrip("-").partition("=")[0].replace("-", "_") == RESUME for token in command)
    return f"Stopped by {of.name} before the first step. Begin again with: " + (
        shlex.join(command) if resumes else resume_command()
    )


class InterruptionCallback(TrainerCallback):
    """Ends training at the next step, with a checkpoint, once any process has got one of the signals.

    `agreed` is the signal that all processes leave for, once they do.
    """

    def __init__(self):
        self.received = 0  # by this process
        self.agreed: signal.Signals | None = None  # by all
        self.training_is_over = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within it a signal ends nothing at once, but for a second Ctrl-C."""
        end_with_launcher()
        with finishes_first(self._receive, self._last_words):
            yield

    def _receive(self, of: signal.Signals) -> None:
        if self.received:  # it is passed on by a launcher, or sent again
            return
        self.received = of
        if self.training_is_over:
            ends = "the final model is being saved and verified; the run ends after that"
        else:
            ends = "a checkpoint will be saved at the end of this step"
        now = " Press Ctrl-C once more to end at once." if of == signal.SIGINT else ""
        logger.warning("%s: %s.%s", of.name, ends, now)

    def _last_words(self, of: signal.Signals) -> str:
        """Of a process that ends at once."""
        return f"Stopped by a second {of.name}. Go on from the last checkpoint with: {resume_command()}"

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        if self.agree(args):
            self._leave(args, control, save=True)

    def agree(self, args: TrainingArguments) -> bool:
        """Whether any process was told to end. To be asked by all of them at once.

        All must leave after the same step, and a scheduler may tell the processes of one machine alone.
        """
        received = self.received
        if args.world_size > 1:  # one process alone asks itself: reading a tensor would wait for the GPU in every step
            number = torch.tensor(float(received), device=args.device)
            torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX)
            received = int(number.item())
        if received and self.agreed is None:
            self.agreed = signal.Signals(received)
        return self.agreed is not None

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        if self.agreed is not None:
            self._leave(args, control, save=False)  # it is saved

    def _leave(self, args: TrainingArguments, control: TrainerControl, *, save: bool) -> None:
        """No time for an evaluation, and none to load the best model."""
        control.should_training_stop, control.should_evaluate, control.should_save = True, False, save
        args.load_best_model_at_end = False


def exit_interrupted(trainer: "ResumableTrainer") -> NoReturn:
    """Say what is saved and how to go on, and end with the status of a process that the signal ended.

    All processes have to call it.
    """
    of = trainer.interruption.agreed
    if trainer.is_world_process_zero():
        step, output = trainer.state.global_step, Path(trainer.args.output_dir)
        update_report(output, trainer.state)
        checkpoint = output / f"{CHECKPOINT}{step}"
        go_on = resume_command()
        if checkpoint.is_dir():
            saved = f"{checkpoint.name} is saved in {output}"
        elif trainer.resumed_from:
            saved, go_on = "no step was taken since", resume_command(trainer.resumed_from)
            if "--overwrite_output_dir" not in go_on:
                go_on += " --overwrite_output_dir true"
        else:  # it came in an evaluation before the first step
            saved = "there is nothing to save"
        place = f"after step {step} of" if step else "before the first step of"
        message = f"Stopped by {of.name} {place} {trainer.state.max_steps}: {saved}. Go on with: {go_on}"
        print(f"\n{message}", file=sys.stderr, flush=True)
    else:
        leave(128 + of)
    sys.exit(128 + of)
