"""The arguments of a training run: the flags of its script, those of transformers, and what follows from them."""

import os
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar

import torch
from transformers import TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from reward_modeling.common.errors import UserError
from reward_modeling.common.flags import one_of
from reward_modeling.common.launch import variables_of_a_single_process
from reward_modeling.data.read_options import ReadOptions, read_options
from reward_modeling.data.set_paths import set_paths
from reward_modeling.training.argument_checks import argument_problems
from reward_modeling.training.flags import RunFlags

# A GPU wants large micro-batches. On a CPU activations should stay in its caches: measured on two cores, 1,000 tokens
# a pass train 5 to 10% faster than 2,000 and more (benchmarks/RESULTS.md).
CPU_TARGET_TOKENS = 1024
TRACKERS = one_of("none", "all", *INTEGRATION_TO_CALLBACK)


@dataclass
class RunArguments(RunFlags, TrainingArguments):
    """The flags of a training script with those of transformers, checked, and what follows from them."""

    best_metrics: ClassVar[dict[str, bool]] = {"loss": False}  # those of the objective take its place

    report_to: Annotated[None | str | list[str], TRACKERS] = "wandb"  # noqa: RUF036 (as in training/flags.py)

    def __post_init__(self):
        self._resolve_unset_flags()
        if problems := argument_problems(self):
            raise UserError("\n".join(problems))
        # accelerate takes each process of a launch without GPUs for a run of its own, unless it is told.
        if not torch.accelerator.is_available() or os.environ.get("ACCELERATE_USE_CPU", "false").lower() == "true":
            self.use_cpu = True
        if self.bf16 is None:
            on_gpu = not self.use_cpu and torch.cuda.is_available()
            self.bf16 = on_gpu and not self.fp16 and torch.cuda.is_bf16_supported()
        if self.deepspeed:  # DeepSpeed looks for MPI where no launcher has set these
            os.environ.update(variables_of_a_single_process(os.environ))
        # A step is one batch of the data loader, which cuts it into forward passes: the Trainer accumulates nothing.
        pairs_per_device = self.per_device_train_batch_size * self.gradient_accumulation_steps
        self.gradient_accumulation_steps = 1
        super().__post_init__()
        if self.n_gpu > 1:  # one process that sees several GPUs: DataParallel would cut packed rows in pieces
            self._n_gpu = 1
        if self.deepspeed_plugin is not None and self.device.type == "cpu":
            import deepspeed

            deepspeed.init_distributed(auto_mpi_discovery=False)  # else weights are cut for a single process
        devices = self.gpus or 1 if self.estimate else self.world_size
        self.pairs_per_step = self.pairs_per_step or pairs_per_device * devices
        self.max_tokens = self.max_tokens_per_micro_batch or 4 * self.max_length
        self.target_tokens = self.max_tokens if self.device.type != "cpu" else min(self.max_tokens, CPU_TARGET_TOKENS)

    def _resolve_unset_flags(self) -> None:
        """What follows from other flags."""
        sets = set_paths(self.train_set_path)
        self.train_set_path = sets[0] if len(sets) == 1 else sets
        self.output_path = self.output_dir = self.output_dir or self.output_path
        if self.save_every_steps:
            self.save_strategy, self.save_steps = "steps", self.save_every_steps
        if self.eval_every_steps:
            self.eval_strategy, self.eval_steps = "steps", self.eval_every_steps
        stops_early = self.early_stopping_patience is not None
        if self.load_best_model_at_end is None:
            self.load_best_model_at_end = stops_early
        if stops_early and self.metric_for_best_model is None:
            self.metric_for_best_model = "loss"
        if self.greater_is_better is None and self.metric_for_best_model is not None:
            self.greater_is_better = self.best_metrics.get(self.metric_for_best_model.removeprefix("eval_"))
        if hasattr(self, "activation_checkpointing"):  # the name that transformers 5.23 has for it
            self.activation_checkpointing = self.gradient_checkpointing

    @property
    def read_options(self) -> ReadOptions:
        """Which columns of the rows are read as what."""
        flags = (self.columns, self.ignore_columns, self.dataset_revision, self.preferred_values)
        return read_options(*flags, self.read_targets)

    @property
    def dry_run(self) -> bool:
        """Whether the run stops before it trains, and writes nothing."""
        return self.preflight_only or self.estimate

    @property
    def order_seed(self) -> int:
        """Of the order in which the data are trained on."""
        return self.seed if self.data_seed is None else self.data_seed

    def __reduce__(self):
        """The class is made anew, since it has no name of its own: see `arguments_of`."""
        return _restored, (type(self).flags_class, self.__dict__)

    flags_class: ClassVar[type]


@cache
def arguments_of(flags_class: type[RunFlags]) -> type[RunArguments]:
    """The flags of a script together with transformers' own, as a class of arguments."""
    if issubclass(flags_class, RunArguments):
        flags_class.flags_class = flags_class
        return flags_class
    namespace = {"__doc__": flags_class.__doc__, "__module__": flags_class.__module__, "flags_class": flags_class}
    return dataclass(type(flags_class.__name__, (flags_class, RunArguments), namespace))


def _restored(flags_class: type, values: dict[str, Any]) -> RunArguments:
    arguments = object.__new__(arguments_of(flags_class))
    arguments.__dict__.update(values)
    return arguments
