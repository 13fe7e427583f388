"""SIGTERM, as a scheduler sends it before it takes a machine away: finish the step, save, leave."""

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

# Looked at before transformers sets variables of accelerate's itself.
LAUNCHED = any(name.startswith(("ACCELERATE_", "TORCHELASTIC_")) for name in os.environ)
PR_SET_PDEATHSIG = 1  # prctl(2)
EXIT_STATUS = 128 + signal.SIGTERM  # as a shell reports a process that the signal ended


def _ask_for_the_end_of_the_launcher() -> None:
    """Let Linux send SIGTERM when the launcher ends: accelerate's launcher of one process does not pass it on.

    Not where a person has started the process, who may leave it running on purpose (nohup).
    """
    if LAUNCHED and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class InterruptionCallback(TrainerCallback):
    """Ends training at the next step, with a checkpoint, once any process has got SIGTERM."""

    def __init__(self):
        self.received = False  # by this process
        self.agreed = False  # by all
        self.training_is_over = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within it the signal ends nothing at once."""
        previous = signal.signal(signal.SIGTERM, self._receive)
        _ask_for_the_end_of_the_launcher()
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

    def _receive(self, _number: int, _frame: object) -> None:
        self.received = True
        if self.training_is_over:
            logger.warning("SIGTERM: the final model is being saved; the run ends after that.")
        else:
            logger.warning("SIGTERM: a checkpoint will be saved at the end of this step.")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        if self.agree(args):
            self._leave(args, control)
            control.should_save = True

    def agree(self, args: TrainingArguments) -> bool:
        """Whether any process was told to end. To be asked by all of them at once.

        All must leave after the same step, and a scheduler may tell the processes of one machine alone.
        """
        received = self.received
        if args.world_size > 1:  # one process alone asks itself: reading a tensor would wait for the GPU in every step
            total = torch.tensor(float(received), device=args.device)
            torch.distributed.all_reduce(total)
            received = total.item() > 0
        self.agreed = self.agreed or received
        return self.agreed

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        if self.agreed:
            self._leave(args, control)
            control.should_save = False  # it is saved

    def _leave(self, args: TrainingArguments, control: TrainerControl) -> None:
        """No time for an evaluation, and none to load the best model."""
        control.should_training_stop = True
        control.should_evaluate = False
        args.load_best_model_at_end = False
