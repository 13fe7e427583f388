"""Train a process reward model: it reads a solution once and says of each step how probable it is that it is right.

    accelerate launch rm_process.py --model_name Qwen/Qwen2.5-Math-7B --train_set_path trl-lib/math_shepherd \
        --output_path ./models/qwen7b_process

Rows whose answers are one step with a label make an outcome model.
"""

import sys
from dataclasses import dataclass

from reward_modeling.common.early_answers import answer_early
from reward_modeling.common.errors import run_script
from reward_modeling.objectives.process_flags import ProcessFlags
from reward_modeling.training.flags import RunFlags


@dataclass
class ScriptArguments(ProcessFlags, RunFlags):
    """The defaults to edit.

    What a flag means stands with its base class, and in `python rm_process.py --help`: those of the loss in
    objectives/process_flags.py, the others in training/flags.py. Every flag of transformers' TrainingArguments works
    under its own name (`--help_all`).
    """

    # Model
    model_name: str = "Qwen/Qwen2.5-Math-7B"
    model_dtype: str = "float32"  # or bfloat16: half the memory for the weights, and small updates are lost

    # Data: prompt, completions (steps) and labels; trees, dialogues of + and -, and whole answers with one label too
    train_set_path: None | str | list[str] = "trl-lib/math_shepherd"  # noqa: RUF036 (None first, as in transformers)
    # unset: eval_size rows of the training set, by prompt
    eval_set_path: None | str | list[str] = None  # noqa: RUF036
    eval_size: int = 500
    max_length: int = 4096
    overlong: str = "truncate"  # or drop
    neutral_steps: str | None = None  # what PRM800K's rating 0 means: right, wrong, half or drop

    # Steps
    step_separator: str | None = None  # unset: that of the model to go on with, else a blank line
    prompt_format: str | None = None  # chat or plain; unset: that of the model to go on with, else chat
    last_step_only: bool = False

    # Output
    output_path: str = "./models/qwen7b_process"
    aggregation: str = "min"  # of the steps, as the reward: min, product, last or mean

    # Adapters
    use_peft: bool = False
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    lora_target_modules: str = "all-linear"

    # Solutions in a step: per_device_train_batch_size x gradient_accumulation_steps x devices, or pairs_per_step
    per_device_train_batch_size: int = 1
    gradient_accumulation_steps: int = 32
    pairs_per_step: int | None = None
    max_tokens_per_micro_batch: int | None = None  # unset: 4 x max_length; the knob for memory
    batching: str = "auto"  # shared_prefix where the model allows it, else padded; or packed

    # Loss
    router_aux_loss_coef: float = 0.0  # of a mixture of experts

    # Optimisation
    learning_rate: float = 2e-6
    weight_decay: float = 0.0
    num_train_epochs: float = 1
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 0.05  # a share of all steps below 1, else steps
    optim: str = "adamw_torch_fused"
    bf16: bool | None = None  # unset: on a GPU that does it well, and nowhere else
    gradient_checkpointing: bool = True

    # During the run
    logging_steps: float = 10
    save_every_steps: int | None = None  # unset: at the end of each epoch
    eval_every_steps: int | None = None
    early_stopping_patience: int | None = None
    metric_for_best_model: str | None = None  # loss, step_accuracy, balanced_accuracy, auc, first_error_f1
    report_to: None | str | list[str] = "wandb"  # noqa: RUF036 (as in training/flags.py)
    deepspeed: str | None = None  # a DeepSpeed JSON file, such as deepspeed_3.json


def main() -> None:
    answer_early(ScriptArguments)
    # Only now, since they take seconds: transformers and what trains.
    from reward_modeling.objectives.process import Process
    from reward_modeling.training.job import run_job

    run_job(ScriptArguments, Process)


if __name__ == "__main__":
    sys.argv[0] = "rm_process.py"
    run_script(main)
