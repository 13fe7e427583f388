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


def early_stopping_problems(
    patience: int | None,
    threshold: float,
    *,
    eval_strategy: str,
    eval_steps: float | None,
    save_strategy: str,
    save_steps: float,
    keeps_best: bool,
    no_rows: bool,
) -> list[str]:
    """What is wrong with the flags of early stopping, one by one.

    Args:
        keeps_best: whether the best model is to be loaded at the end.
        no_rows: whether nothing is held out, and there is no evaluation set.
    """
    if patience is None:
        given = "--early_stopping_threshold: expected --early_stopping_patience beside it, found none"
        return [given] if threshold else []
    problems = []
    flag = "--early_stopping_patience"
    if patience < 1:
        problems.append(f"{flag}: expected at least 1 evaluation, found {patience}")
    if not 0 <= threshold < float("inf"):
        problems.append(f"--early_stopping_threshold: expected 0 or more, found {threshold}")
    if eval_strategy == "no":
        problems.append(f"{flag}: expected evaluations (--eval_every_steps, --eval_strategy epoch), found none")
    elif no_rows:
        problems.append(f"{flag}: expected rows to evaluate on, found --eval_size 0 and no --eval_set_path")
    elif (
        keeps_best
        and save_strategy != "best"
        and not _saves_match(eval_strategy, eval_steps, save_strategy, save_steps)
    ):
        problems.append(
            f"{flag}: expected the best state to be saved, for which --save_every_steps has to be a multiple of "
            f"--eval_every_steps (or both once an epoch), found evaluations {_often(eval_strategy, eval_steps)} and "
            f"checkpoints {_often(save_strategy, save_steps)}. --load_best_model_at_end false ends with the last state "
            "instead"
        )
    return problems


def _saves_match(eval_strategy: str, eval_steps: float | None, save_strategy: str, save_steps: float) -> bool:
    if eval_strategy != save_strategy:
        return False
    return eval_strategy == "epoch" or not eval_steps or save_steps % eval_steps == 0


def _often(strategy: str, steps: float | None) -> str:
    if strategy == "steps" and steps:
        return f"every {steps:g} steps"
    return {"no": "never", "epoch": "once an epoch", "best": "where one is best"}.get(strategy, strategy)
