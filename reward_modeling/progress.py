"""What a person sees while training: one progress bar with the figures that matter, and one line per log."""

from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from reward_modeling.errors import UserError
from reward_modeling.held_out_tables import evaluation_lines

SHOWN = {"loss": "loss", "accuracy": "accuracy", "margin": "margin", "pairs_per_second": "pairs/s"}


class RewardProgressCallback(ProgressCallback):
    """transformers' progress bar, with loss, accuracy and pairs/s beside the time that is left."""

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs=None, **kwargs):
        if not state.is_world_process_zero or self.training_bar is None or not logs:
            return
        figures = {name: logs[key] for key, name in SHOWN.items() if key in logs}
        if figures:
            self.training_bar.set_postfix({name: f"{value:.4g}" for name, value in figures.items()})
        if "eval_loss" in logs:
            lines = evaluation_lines(logs)
        else:
            lines = ["  ".join(f"{name} {_shown(value)}" for name, value in logs.items() if name != "total_flos")]
        step = f"step {state.global_step}/{state.max_steps}"
        self.training_bar.write(f"{step}  {lines[0]}")
        for line in lines[1:]:
            self.training_bar.write(f"{' ' * len(step)}  {line}")


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


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
