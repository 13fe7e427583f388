"""SIGTERM, as a scheduler sends it before it takes a machine away: finish the step, save, leave."""

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

EXIT_STATUS = 128 + signal.SIGTERM  # as a shell reports a process that the signal ended


class InterruptionCallback(TrainerCallback):
    """Ends training at the next step, with a checkpoint, once any process has got SIGTERM."""

    def __init__(self):
        self.received = False  # by this process
        self.agreed = False  # by all

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within it the signal ends nothing at once."""
        previous = signal.signal(signal.SIGTERM, self._receive)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

    def _receive(self, _number: int, _frame: object) -> None:
        self.received = True
        logger.warning("SIGTERM: a checkpoint will be saved at the end of this step.")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        # All must leave after the same step, and a scheduler may tell the processes of one machine alone.
        received = torch.tensor(float(self.received), device=args.device)
        if args.world_size > 1:
            torch.distributed.all_reduce(received)
        self.agreed = received.item() > 0
        if self.agreed:
            self._leave(args, control)
            control.should_save = True

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        if self.agreed:
            self._leave(args, control)
            control.should_save = False  # it is saved

    def _leave(self, args: TrainingArguments, control: TrainerControl) -> None:
        """No time for an evaluation, and none to load the best model."""
        control.should_training_stop = True
        control.should_evaluate = False
        args.load_best_model_at_end = False
