"""Early stopping that counts on after a resume, through transformers' own callback."""

import logging

from transformers import EarlyStoppingCallback, TrainerState

logger = logging.getLogger(__name__)

COUNTER = "early_stopping_patience_counter"


class EarlyStopping(EarlyStoppingCallback):
    """Stops after so many evaluations in a row without a better one.

    transformers writes the count into every checkpoint, and reads it back only together with the patience of then
    (--restore_callback_states_from_checkpoint); here the count alone is read, and the flags of now hold.
    """

    def go_on_from(self, state: TrainerState) -> None:
        """Count on from the state of a checkpoint."""
        saved = state.stateful_callbacks.get(type(self).__name__)
        self.early_stopping_patience_counter = 0 if saved is None else saved["attributes"][COUNTER]

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        super().on_evaluate(args, state, control, metrics, **kwargs)
        if self.is_due:
            logger.warning(
                "Early stopping after step %d: held-out %s was not better than %.4g in the last %d evaluations.",
                state.global_step,
                args.metric_for_best_model.removeprefix("eval_"),
                state.best_metric,
                self.early_stopping_patience_counter,
            )

    @property
    def is_due(self) -> bool:
        """Whether the run has come to its end."""
        return self.early_stopping_patience_counter >= self.early_stopping_patience
