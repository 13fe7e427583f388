"""Train a reward model with one output for each attribute of an answer, on ratings.

    accelerate launch rm_regression.py --model_name google/gemma-2b-it --train_set_path data/helpsteer2 \
        --attributes helpfulness,correctness,coherence,complexity,verbosity --output_path ./models/gemma2b_ratings

    python rm_regression.py --fold ./models/gemma2b_ratings/last_checkpoint --weights helpfulness=1 \
        --output_path ./models/gemma2b_folded      # a plain reward model of it; nothing is trained
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from reward_modeling.common.early_answers import answer_early
from reward_modeling.common.errors import run_script
from reward_modeling.common.flags import PATH, flag
from reward_modeling.frozen_backbone.flags import FrozenBackboneFlags
from reward_modeling.objectives.rating_flags import RegressionFlags
from reward_modeling.training.flags import RunFlags


@dataclass
class ScriptArguments(FrozenBackboneFlags, RegressionFlags, RunFlags):
    """The defaults to edit.

    What a flag means stands with its base class, and in `python rm_regression.py --help`: those of the loss in
    objectives/rating_flags.py, those of --freeze_backbone in frozen_backbone/flags.py, the others in training/flags.py.
    Every flag of transformers' TrainingArguments works under its own name (`--help_all`).
    """

    # Model
    model_name: str = "google/gemma-2b-it"
    model_dtype: str = "float32"  # or bfloat16: half the memory for the weights, and small updates are lost

    # Data: messages, or prompt and response, and a column of numbers for each attribute
    train_set_path: None | str | list[str] = "data/helpsteer2"  # noqa: RUF036 (None first, as in transformers)
    attributes: str | None = "helpfulness,correctness,coherence,complexity,verbosity"
    label_ranges: str | None = None  # helpfulness=0:4,...; unset: those of the training set
    # unset: eval_size rows of the training set, by prompt
    eval_set_path: None | str | list[str] = None  # noqa: RUF036
    eval_size: int = 500
    max_length: int = 4096
    overlong: str = "truncate"  # or drop

    # Output
    output_path: str = "./models/gemma2b_ratings"
    weights: str | None = None  # of the scalar reward: helpfulness=0.65,verbosity=-0.4; unset: the mean

    # The head alone, by ridge regression on features that are computed once
    freeze_backbone: bool = False

    # Adapters
    use_peft: bool = False
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    lora_target_modules: str = "all-linear"

    # Batches: a step has per_device_train_batch_size x gradient_accumulation_steps x devices answers, or pairs_per_step
    per_device_train_batch_size: int = 1
    gradient_accumulation_steps: int = 64
    pairs_per_step: int | None = None  # answers, here
    max_tokens_per_micro_batch: int | None = None  # unset: 4 x max_length; the knob for memory
    batching: str = "auto"  # shared_prefix where the model allows it, else padded; or packed

    # Loss
    loss: str = "squared_error"  # or quantile: 19 outputs for each attribute, which give intervals
    router_aux_loss_coef: float = 0.0  # of a mixture of experts

    # Optimisation
    learning_rate: float = 1e-5
    weight_decay: float = 0.001
    num_train_epochs: float = 2
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
    metric_for_best_model: str | None = None  # loss, spearman, pair_accuracy
    report_to: None | str | list[str] = "wandb"  # noqa: RUF036 (as in training/flags.py)
    deepspeed: str | None = None  # a DeepSpeed JSON file, such as deepspeed_3.json

    # In the place of training
    fold: Annotated[str | None, PATH] = flag(
        None,
        "The folder of a model of ratings, of which to make a plain reward model with one label, the sum by --weights "
        "of its outputs. Beside it --weights, --output_path, --verify_saved_model and --trust_remote_code alone.",
    )

    def objective_problems(self) -> Iterator[str]:
        yield from super().objective_problems()
        if self.fold is not None:
            yield "--fold: expected on the command line, found it among the flags of a run. Nothing is trained with it"


def main() -> None:
    answer_early(ScriptArguments)
    if any(token.partition("=")[0] == "--fold" for token in sys.argv[1:]):
        from reward_modeling.checkpoints.fold import run_fold

        run_fold()
        return
    # Only now, since they take seconds: torch, transformers and what trains.
    from reward_modeling.frozen_backbone.job import fit_or_train
    from reward_modeling.objectives.quantiles import regression_of
    from reward_modeling.training.job import run_job

    run_job(ScriptArguments, regression_of, fit_or_train)


if __name__ == "__main__":
    sys.argv[0] = "rm_regression.py"
    run_script(main)
