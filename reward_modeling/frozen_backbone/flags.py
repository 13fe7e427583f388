"""The flags of a head that is fitted on a model that is not trained."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from reward_modeling.common.flags import LOGGED, PATH, OnResume, changed_flags, flag
from reward_modeling.common.launch import launched_with

# What is said of steps, of a gradient, or of weights that are trained.
OF_TRAINING = (
    *("per_device_train_batch_size", "gradient_accumulation_steps", "pairs_per_step", "router_aux_loss_coef"),
    *("learning_rate", "weight_decay", "num_train_epochs", "max_steps", "lr_scheduler_type", "warmup_steps", "optim"),
    *("max_grad_norm", "save_every_steps", "eval_every_steps", "early_stopping_patience", "early_stopping_threshold"),
    *("metric_for_best_model", "loss", "use_peft", "estimate"),
)


@dataclass
class FrozenBackboneFlags:
    """To be mixed into the flags of a training script."""

    freeze_backbone: Annotated[bool, OnResume.FIXED, LOGGED] = flag(
        False,
        "Leave the model as it is, and fit the head by ridge regression on the hidden states of the answers, each of "
        "which is computed once. Needs scipy.",
    )
    feature_cache: Annotated[str | None, PATH] = flag(
        None,
        "With --freeze_backbone: the folder in which hidden states are kept for the next run, 4 bytes x hidden size an "
        "answer and a prompt. Unset: reward_modeling in HF_DATASETS_CACHE.",
    )

    def objective_problems(self) -> Iterator[str]:
        yield from super().objective_problems()
        if not self.freeze_backbone:
            if self.feature_cache is not None:
                yield "--feature_cache: expected --freeze_backbone true beside it, found false"
            return
        if given := [f"--{name}" for name in changed_flags(self, [*OF_TRAINING])]:
            yield (
                f"{', '.join(given)}: expected none of these beside --freeze_backbone, which takes no steps and trains "
                "no weights but the head's. Leave them out."
            )
        if self.deepspeed or self.fsdp or any(launched_with(os.environ, name) for name in ("DEEPSPEED", "FSDP")):
            yield (
                "--freeze_backbone: expected one process, or several with a copy of the model each (accelerate "
                "launch --multi_gpu), found DeepSpeed or FSDP, which cut it"
            )
