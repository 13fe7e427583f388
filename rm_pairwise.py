"""Train a pairwise preference model: it reads a prompt with two answers and says which is the better one.

    accelerate launch rm_pairwise.py --model_name google/gemma-2b-it --max_length 4096 \
        --train_set_path weqweasdas/preference_dataset_mix2 --output_path ./models/gemma2b_pairwise
"""

import sys
from dataclasses import dataclass

from reward_modeling.common.early_answers import answer_early
from reward_modeling.common.errors import run_script
from reward_modeling.objectives.pairwise import Pairwise, PairwiseFlags
from reward_modeling.training.flags import RunFlags


@dataclass
class ScriptArguments(PairwiseFlags, RunFlags):
    """The defaults to edit.

    What a flag means stands with its base class, and in `python rm_pairwise.py --help`: those of the loss in
    objectives/pairwise.py, the others in training/flags.py. Every flag of transformers' TrainingArguments works under
    its own name (`--help_all`).
    """

    # Model
    model_name: str = "google/gemma-2b-it"
    model_dtype: str = "float32"  # or bfloat16: half the memory for the weights, and small updates are lost
    init_head: str = "lm"  # what the language model says of A and B; or new, drawn at random

    # Data
    train_set_path: None | str | list[str] = "weqweasdas/preference_dataset_mix2"  # noqa: RUF036 (None first, as in transformers)
    # unset: eval_size rows of the training set, by prompt
    eval_set_path: None | str | list[str] = None  # noqa: RUF036
    eval_size: int = 500
    max_length: int = 4096  # of the context and both answers; the context is cut
    overlong: str = "truncate"  # or drop

    # Output
    output_path: str = "./models/gemma2b_pairwise"

    # Adapters
    use_peft: bool = False
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    lora_target_modules: str = "all-linear"

    # Batches: a step has per_device_train_batch_size x gradient_accumulation_steps x devices pairs, or pairs_per_step
    per_device_train_batch_size: int = 1
    gradient_accumulation_steps: int = 32
    pairs_per_step: int | None = None  # each in both orders
    max_tokens_per_micro_batch: int | None = None  # unset: 4 x max_length; the knob for memory
    batching: str = "auto"  # shared_prefix where the model allows it, else padded; or packed

    # Loss
    label_smoothing: float = 0.0
    router_aux_loss_coef: float = 0.0  # of a mixture of experts

    # Optimisation
    learning_rate: float = 1e-5
    weight_decay: float = 0.0
    num_train_epochs: float = 1
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 0.03  # a share of all steps below 1, else steps
    optim: str = "adamw_torch_fused"
    bf16: bool | None = None  # unset: on a GPU that does it well, and nowhere else
    gradient_checkpointing: bool = True

    # During the run
    logging_steps: float = 10
    save_every_steps: int | None = None  # unset: at the end of each epoch
    eval_every_steps: int | None = None
    early_stopping_patience: int | None = None
    report_to: None | str | list[str] = "wandb"  # noqa: RUF036 (as in training/flags.py)
    deepspeed: str | None = None  # a DeepSpeed JSON file, such as deepspeed_3.json


def main() -> None:
    answer_early(ScriptArguments)
    # Only now, since they take seconds: transformers and what trains.
    from reward_modeling.training.job import run_job

    run_job(ScriptArguments, Pairwise)


if __name__ == "__main__":
    sys.argv[0] = "rm_pairwise.py"
    run_script(main)
