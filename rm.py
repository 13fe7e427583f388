"""Train a Bradley-Terry reward model on preference pairs, computing every prompt once.

    accelerate launch rm.py --model_name google/gemma-2b-it --max_length 4096 \
        --train_set_path weqweasdas/preference_dataset_mix2 --output_path ./models/gemma2b_rm
"""

import logging
import math
import os
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, gather_object
from transformers import ProgressCallback, TrainingArguments, set_seed
from transformers.integrations import unset_hf_deepspeed_config
from transformers.trainer_utils import EvalLoopOutput
from transformers.training_args import OptimizerNames
from transformers.utils import logging as transformers_logging

from reward_modeling.checkpoints.folders import archive_later_checkpoints, clean_up
from reward_modeling.checkpoints.output_folder import (
    check_all_nodes_share,
    check_nothing_is_lost,
    check_output_folder,
    checkpoint_to_resume,
    is_own,
    only_run_in,
    remove_earlier_run,
)
from reward_modeling.checkpoints.run_record import check_same_run, run_record
from reward_modeling.checkpoints.verification import choose_rows, token_rows
from reward_modeling.common.arguments import parse_script_arguments, without_tokens
from reward_modeling.common.devices import to_device, warm_up_mkl
from reward_modeling.common.errors import UserError, report_once_per_node, run_script
from reward_modeling.common.file_names import CHECKPOINT, DATA_REPORT, PREFLIGHT, REPORT, RUN
from reward_modeling.common.launch import engine_name, launched_with, variables_of_a_single_process
from reward_modeling.data.collator import MicroBatchCollator
from reward_modeling.data.loader import PreferenceGroups, evaluation_loader, training_loader
from reward_modeling.data.planning import PADDED, heaviest_micro_batch, plan_epoch
from reward_modeling.estimate.gpus import GPUS
from reward_modeling.estimate.meta_model import build_model
from reward_modeling.estimate.report import RunSettings, estimate_run
from reward_modeling.models.adapters import ALL_LINEAR, add_adapter, four_bit_options
from reward_modeling.models.attention import SHARED_PREFIX, register_shared_prefix_attention
from reward_modeling.models.loading import load_config, load_reward_model
from reward_modeling.models.moe_balance import why_no_balance_loss
from reward_modeling.models.multimodal import text_part
from reward_modeling.models.support import context_length, context_too_short, why_not_packed
from reward_modeling.models.tokenizer import load_tokenizer
from reward_modeling.objectives.bradley_terry import bradley_terry_loss, center_rewards_penalty
from reward_modeling.results.files import write_json
from reward_modeling.results.held_out import LESS_IS_BETTER, EvaluatedPairs, evaluation_metrics
from reward_modeling.results.run import Results, gather_results, run_so_far
from reward_modeling.training.argument_checks import argument_problems
from reward_modeling.training.callbacks import (
    FiniteLossCallback,
    ReportCallback,
    RewardProgressCallback,
    update_report,
    write_report_or_say_why,
)
from reward_modeling.training.early_stopping import EarlyStopping
from reward_modeling.training.final_model import (
    destroy_process_group,
    merge_final_adapter,
    save_final_model,
    show_results,
    verify_final_model,
)
from reward_modeling.training.interruption import EXIT_STATUS
from reward_modeling.training.memory_probe import (
    no_trace,
    out_of_memory_explained,
    peak_memory,
    reserve_for_optimizer,
    reserve_gradients,
    start_measuring,
)
from reward_modeling.training.metrics import PairSums
from reward_modeling.training.preflight import run_preflight
from reward_modeling.training.resumable_trainer import EvaluationInterrupted, SafeTrainer
from reward_modeling.training.tracking import DataReportCallback, prepare_wandb

if TYPE_CHECKING:
    from reward_modeling.data.prepare import PreparedPairs

logger = logging.getLogger("rm")

# A GPU wants large micro-batches. On a CPU activations should stay in its caches: measured on two cores, 1,000 tokens
# a pass train 5 to 10% faster than 2,000 and more (benchmarks/RESULTS.md).
CPU_TARGET_TOKENS = 1024
MANY_STEPS = 500  # to lose, where nothing is saved before the end of an epoch


# ----------------------------------------------------------------------------------------------------------
# Arguments
# ----------------------------------------------------------------------------------------------------------


@dataclass
class ScriptArguments(TrainingArguments):
    """The defaults to edit. Every other flag of transformers' TrainingArguments works under its own name."""

    # Model
    model_name: str = field(
        default="google/gemma-2b-it",
        metadata={"help": "Hub id or folder of a causal language model, or of a reward model to go on with."},
    )
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the model."})
    model_dtype: str = field(
        default="float32",
        metadata={
            "help": "Type of the weights that the optimizer holds: float32 or bfloat16. With bf16 the computation is "
            "in bfloat16 either way; bfloat16 weights halve the memory and lose small updates."
        },
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that the model's repository holds."})

    # Data
    train_set_path: str = field(
        default="weqweasdas/preference_dataset_mix2",
        metadata={"help": "Hub id (id:split), save_to_disk folder, .json/.jsonl/.parquet/.arrow file, folder or glob."},
    )
    eval_set_path: str | None = field(
        default=None, metadata={"help": "As train_set_path. Unset: eval_size rows of the training set, by prompt."}
    )
    eval_size: int = field(
        default=500, metadata={"help": "Rows held out where eval_set_path is unset; at most a tenth. 0 for none."}
    )
    max_length: int = field(default=4096, metadata={"help": "Longest conversation, in tokens."})
    overlong: str = field(
        default="truncate",
        metadata={"help": "truncate cuts the oldest prompt tokens of longer pairs; drop drops these pairs."},
    )
    num_proc: int | None = field(
        default=None, metadata={"help": "Worker processes that read and tokenise. Unset: one per core, at most 16."}
    )

    # Output
    output_path: str = field(
        default="./models/gemma2b_rm", metadata={"help": "Folder of checkpoints, the final model and all reports."}
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Remove what an earlier run left in output_path."}
    )
    verify_saved_model: bool = field(
        default=True,
        metadata={"help": "Reload last_checkpoint in plain transformers and compare its rewards with those in memory."},
    )
    preflight_only: bool = field(
        default=False, metadata={"help": "Check data and tokenizer, show what the model will see, and stop."}
    )
    estimate: bool = field(
        default=False,
        metadata={"help": "Show tokens, steps, memory by engine and hours on --gpus GPUs of the kind --gpu, and stop."},
    )
    gpus: int | None = field(default=None, metadata={"help": "For --estimate: how many GPUs. Unset: one."})
    gpu: str | None = field(default=None, metadata={"help": f"For --estimate: {', '.join(GPUS)}."})

    # Adapters
    use_peft: bool = field(
        default=False,
        metadata={"help": "Train a LoRA adapter and the score head, and leave the model's own weights as they are."},
    )
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapter's matrices."})
    lora_alpha: int = field(default=32, metadata={"help": "The adapter counts lora_alpha / lora_r times."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before the adapter's matrices."})
    lora_target_modules: str = field(
        default=ALL_LINEAR,
        metadata={"help": "all-linear (all linear layers but the head), or names separated by commas: q_proj,v_proj."},
    )
    load_in_4bit: bool = field(
        default=False, metadata={"help": "QLoRA: hold the frozen weights in four bits. Needs a GPU and bitsandbytes."}
    )
    merge_adapter: bool = field(
        default=False, metadata={"help": "Also write merged_checkpoint: adapter and model as one plain checkpoint."}
    )

    # Batches
    per_device_train_batch_size: int = field(default=1, metadata={"help": "Pairs per device; see the next flag."})
    gradient_accumulation_steps: int = field(
        default=32,
        metadata={
            "help": "A step has per_device_train_batch_size x gradient_accumulation_steps x devices pairs. How many "
            "forward passes these take is decided by max_tokens_per_micro_batch."
        },
    )
    pairs_per_step: int | None = field(
        default=None,
        metadata={
            "help": "Pairs in a step over all devices, in place of the two flags above: the same steps on any number "
            "of devices."
        },
    )
    per_device_eval_batch_size: int = field(
        default=1, metadata={"help": "Kept for habit: evaluation too is cut by max_tokens_per_micro_batch."}
    )
    max_tokens_per_micro_batch: int | None = field(
        default=None,
        metadata={"help": "Tokens of one forward pass, which bounds its memory. Unset: 4 x max_length."},
    )
    batching: str = field(
        default="auto",
        metadata={
            "help": "shared_prefix computes a prompt once for all its answers; packed is free of padding; padded is "
            "one row per answer; auto is shared_prefix where the model allows it."
        },
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "Attention of padded batches: eager, sdpa, flash_attention_2."}
    )

    probe_memory: bool = field(
        default=True,
        metadata={
            "help": "Try the heaviest micro-batch before the first step, so that memory runs out at once or not."
        },
    )

    # Loss
    loss_margin: str = field(
        default="auto",
        metadata={
            "help": "auto subtracts the rows' margin column where there is one; scores subtracts chosen_score - "
            "rejected_score; none ignores both."
        },
    )
    center_rewards_coefficient: float = field(
        default=0.0, metadata={"help": "Weight of (chosen + rejected)^2, which keeps rewards around zero."}
    )
    router_aux_loss_coef: float = field(
        default=0.0,
        metadata={"help": "Mixture of experts: weight of the loss that spreads each conversation's tokens evenly."},
    )
    label_smoothing: float = field(default=0.0, metadata={"help": "Assumed share of flipped labels, below 0.5."})

    # Optimisation
    learning_rate: float = field(default=1e-5, metadata={"help": "Peak learning rate."})
    weight_decay: float = field(default=0.001, metadata={"help": "Weight decay of AdamW."})
    num_train_epochs: float = field(default=1, metadata={"help": "Passes over the training set."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    warmup_steps: float = field(default=0.03, metadata={"help": "Warm-up: a share of all steps below 1, else steps."})
    optim: str = field(default="adamw_torch_fused", metadata={"help": "Optimizer, as transformers names it."})
    bf16: bool | None = field(
        default=None, metadata={"help": "Compute in bfloat16. Unset: on a GPU that does it well, and nowhere else."}
    )
    gradient_checkpointing: bool = field(
        default=True, metadata={"help": "Recompute activations in the backward pass, which saves most of their memory."}
    )

    ddp_timeout: int = field(
        default=6 * 3600,
        metadata={
            "help": "Seconds that processes wait for each other: for one that tokenises, or saves a large model."
        },
    )

    # During the run
    logging_steps: float = field(default=10, metadata={"help": "Steps between two logs."})
    logging_first_step: bool = field(default=True, metadata={"help": "Log the first step too."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Hide a loss that is not a number."})
    save_every_steps: int | None = field(default=None, metadata={"help": "Unset: at the end of each epoch."})
    eval_every_steps: int | None = field(default=None, metadata={"help": "Unset: at the end of each epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "no, steps, epoch or best."})
    eval_strategy: str = field(
        default="epoch", metadata={"help": "no, steps or epoch. The final model is evaluated in any case."}
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after so many evaluations without a better --metric_for_best_model (unset: loss). The best "
            "model is then what is saved at the end, unless --load_best_model_at_end false."
        },
    )
    early_stopping_threshold: float = field(
        default=0.0, metadata={"help": "By how much the metric has to be better for an evaluation to count as one."}
    )
    load_best_model_at_end: bool | None = field(
        default=None, metadata={"help": "End with the best model evaluated. Unset: with early stopping, else not."}
    )
    report_to: None | str | list[str] = field(  # noqa: RUF036 (the order that HfArgumentParser reads)
        default="wandb", metadata={"help": "wandb, tensorboard, none, ..."}
    )
    deepspeed: str | None = field(default=None, metadata={"help": "A DeepSpeed JSON file, such as deepspeed_3.json."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Not used: batches are built by rm.py."})

    def __post_init__(self):
        problems = argument_problems(self)
        if problems:
            raise UserError("\n".join(problems))
        if self.output_dir is None:
            self.output_dir = self.output_path
        self.output_path = self.output_dir
        if self.save_every_steps:
            self.save_strategy, self.save_steps = "steps", self.save_every_steps
        if self.eval_every_steps:
            self.eval_strategy, self.eval_steps = "steps", self.eval_every_steps
        # accelerate takes each process of a launch without GPUs for a run of its own, unless it is told.
        if not torch.accelerator.is_available() or os.environ.get("ACCELERATE_USE_CPU", "false").lower() == "true":
            self.use_cpu = True
        if self.deepspeed:  # DeepSpeed looks for MPI where no launcher has set these
            os.environ.update(variables_of_a_single_process(os.environ))
        if self.bf16 is None:
            self.bf16 = (
                not self.fp16 and not self.use_cpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
            )
        if self.load_best_model_at_end is None:
            self.load_best_model_at_end = self.early_stopping_patience is not None
        if self.early_stopping_patience is not None and self.metric_for_best_model is None:
            self.metric_for_best_model = "loss"
        if self.greater_is_better is None and self.metric_for_best_model is not None:
            self.greater_is_better = self.metric_for_best_model.removeprefix("eval_") not in LESS_IS_BETTER
        if hasattr(self, "activation_checkpointing"):  # the name that transformers 5.23 has for it
            self.activation_checkpointing = self.gradient_checkpointing
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

    @property
    def dry_run(self) -> bool:
        """Whether the run stops before it trains, and writes nothing."""
        return self.preflight_only or self.estimate


# ----------------------------------------------------------------------------------------------------------
# Trainer
# ----------------------------------------------------------------------------------------------------------


class RewardTrainer(SafeTrainer):
    """transformers' Trainer on planned steps.

    One batch of its data loader is a whole optimizer step of this process; `training_step` runs the step's
    micro-batches. The loss is the mean over the pairs of the whole step, on any number of processes.
    """

    def __init__(self, *, args: ScriptArguments, collator: MicroBatchCollator, **kwargs):
        patience, threshold = args.early_stopping_patience, args.early_stopping_threshold
        early_stopping = None if patience is None else EarlyStopping(patience, threshold)
        super().__init__(args=args, early_stopping=early_stopping, **kwargs)
        self.collator = collator
        self.last_evaluation: tuple[int, list[tuple]] | None = None  # its step, and its rows over all processes
        self.memory_is_probed = not args.probe_memory
        self.sums = PairSums(args.device)
        self.last_log_time: float | None = None
        self.remove_callback(ProgressCallback)
        self.add_callback(RewardProgressCallback)
        self.add_callback(FiniteLossCallback)
        self.add_callback(ReportCallback)

    # Data

    def get_train_dataloader(self):
        return training_loader(
            self.train_dataset,
            self.collator,
            pairs_per_step=self.args.pairs_per_step,
            max_tokens=self.args.max_tokens,
            target_tokens=self.args.target_tokens,
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
            process=self.args.process_index,
            num_processes=self.args.world_size,
            num_workers=self.args.dataloader_num_workers,
        )

    def get_eval_dataloader(self, eval_dataset: PreferenceGroups | None = None):
        return evaluation_loader(
            self.eval_dataset if eval_dataset is None else eval_dataset,
            self.collator,
            max_tokens=self.args.max_tokens,
            process=self.args.process_index,
            num_processes=self.args.world_size,
        )

    def get_total_train_batch_size(self, args: ScriptArguments) -> int:
        return args.pairs_per_step

    # Training

    def training_step(self, model, inputs: dict, num_items_in_batch=None) -> torch.Tensor:
        """Forward and backward of this process's share of one optimizer step."""
        model.train()
        if not self.memory_is_probed:
            self.probe_memory(model)
        if self.last_log_time is None:
            self.last_log_time = time.perf_counter()
        micro_batches = inputs["micro_batches"]
        # Engines average gradients over the processes, and the Trainer the logged loss: both give the step's mean.
        scale = self.args.world_size / inputs["step_pairs"]
        step_loss = torch.zeros((), device=self.args.device)
        for number, micro_batch in enumerate(micro_batches, start=1):
            step_loss += self.forward_backward(model, micro_batch, scale, last=number == len(micro_batches))
        self.sums.count_step(inputs)
        return step_loss

    def forward_backward(self, model, micro_batch: dict, scale: float, *, last: bool) -> torch.Tensor:
        """One micro-batch. DDP reduces gradients with the last of a step; ZeRO and FSDP, to stay cut, with each."""
        engine = self.accelerator.distributed_type
        self.accelerator.gradient_state._set_sync_gradients(last)
        backward_options = {"scale_wrt_gas": False} if engine == DistributedType.DEEPSPEED else {}
        cut = engine in (DistributedType.DEEPSPEED, DistributedType.FSDP)
        with nullcontext() if last or cut else self.accelerator.no_sync(model):
            loss = self.compute_loss(model, micro_batch) * scale
            self.accelerator.backward(loss, **backward_options)
        return loss.detach()

    def probe_memory(self, model) -> None:
        """The heaviest micro-batch of the epoch, forward and backward, and no trace of it but a line in the log.

        Its loss counts zero times: so do all its gradients, whatever the engine does with them.
        """
        loader, device = self.callback_handler.train_dataloader, self.args.device
        heaviest, most_in_a_step = heaviest_micro_batch(loader.batch_sampler.plan, self.args.world_size)
        micro_batch, deepspeed = loader.dataset.collate(heaviest), self.is_deepspeed_enabled
        start_measuring(device)
        where = f"the trial of the heaviest micro-batch ({micro_batch['num_tokens']:,} tokens), before the first step"
        with out_of_memory_explained(where, self.args.max_tokens), no_trace(device):
            # DeepSpeed has the optimizer's states from the beginning, and clears gradients itself.
            reserved = [] if deepspeed else reserve_for_optimizer(self.optimizer, self.args.optim)
            if most_in_a_step > 1 and not deepspeed:
                reserve_gradients(model)
            self.forward_backward(model, micro_batch, 0.0, last=False)
            del reserved
        if not deepspeed:
            model.zero_grad()
        self.sums = PairSums(device)
        peak = self.accelerator.gather(torch.tensor([peak_memory(device)], device=device)).max().item()
        self.log({"heaviest_micro_batch_tokens": micro_batch["num_tokens"], "peak_memory_gib": peak})
        self.memory_is_probed = True

    def _prepare_input(self, data):
        """A micro-batch's tensors to the device, without waiting for it."""
        return super()._prepare_input(to_device(data, self.args.device) if torch.is_tensor(data) else data)

    def compute_loss(self, model, inputs: dict, return_outputs: bool = False, num_items_in_batch=None):
        """The *sum* of the loss over the micro-batch's pairs, and with `return_outputs` the rewards of the pairs."""
        inputs = self._prepare_inputs({name: inputs[name] for name in ("model_inputs", "pairs", "margins")})
        balance = {"balance": True} if model.training and self.args.router_aux_loss_coef else {}
        outputs = model(**inputs["model_inputs"], **balance)
        rewards = outputs.logits[:, 0].float()  # (responses,)
        chosen, rejected = rewards[inputs["pairs"]].unbind(dim=1)  # (pairs,) each
        loss = bradley_terry_loss(chosen, rejected, inputs["margins"], self.args.label_smoothing)
        if self.args.center_rewards_coefficient:
            loss = loss + self.args.center_rewards_coefficient * center_rewards_penalty(chosen, rejected)
        if balance:
            loss = loss + self.args.router_aux_loss_coef * outputs.balance_losses[inputs["pairs"]].mean(dim=1)
        # Every reward takes part, with weight zero: a micro-batch that only fills up a process has no pairs, and its
        # parameters still need gradients for the engines to reduce.
        total = loss.sum() + 0.0 * rewards.sum()
        if model.training:
            self.sums.count_pairs(chosen.detach(), rejected.detach())
        return (total, {"chosen": chosen, "rejected": rejected}) if return_outputs else total

    def floating_point_ops(self, inputs: dict) -> float:
        """6 operations per weight and token: matrix products of forward and backward, no recomputation."""
        tokens = sum(micro_batch["num_tokens"] for micro_batch in inputs["micro_batches"])
        return 6 * tokens * self.model.num_parameters(exclude_embeddings=True)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self.last_log_time is not None:
            now = time.perf_counter()
            logs.update(self.sums.drain(self.accelerator, now - self.last_log_time))
            self.last_log_time = now
        super().log(logs, start_time)

    # Evaluation

    def sample_rewards(self) -> tuple[list[list[int]], list[float]]:
        """A few rows of the evaluation set (of the training set if there is none) with their rewards in memory."""
        groups = self.eval_dataset or self.train_dataset
        micro_batch = choose_rows(groups, self.collator.batching)
        model_inputs = self.collator(micro_batch, groups.read(micro_batch))["model_inputs"]
        self.model_wrapped.eval()
        with torch.no_grad():
            rewards = self.model_wrapped(**self._prepare_inputs(model_inputs)).logits[:, 0].float().tolist()
        return token_rows(model_inputs), rewards

    def evaluation_loop(
        self,
        dataloader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Every pair exactly once, on any number of processes."""
        model = self.model_wrapped
        model.eval()
        rows: list[tuple] = []
        started = time.perf_counter()
        # Whether an evaluation was made or not, training goes on with the same random numbers: a checkpoint may have
        # been saved before it, and a resume begins after it.
        with torch.no_grad(), no_trace(self.args.device):
            for micro_batch in dataloader:
                if self.is_in_train and self.interruption.agree(self.args):
                    raise EvaluationInterrupted
                _, rewards = self.compute_loss(model, micro_batch, return_outputs=True)
                counted = [chunk for chunk in micro_batch["chunks"] if chunk.counted]
                keys = [(c.group, pair) for c in counted for pair in range(c.pair_start, c.pair_end)]
                columns = (rewards["chosen"].tolist(), rewards["rejected"].tolist(), micro_batch["margins"].tolist())
                rows += zip(keys, *columns, strict=True)
                self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        if self.args.world_size > 1:
            rows = gather_object(rows)
        metrics = evaluation_metrics(rows, dataloader.dataset.groups, self.args.label_smoothing)
        self.last_evaluation = self.state.global_step, rows
        self.last_log_time = self.last_log_time and self.last_log_time + time.perf_counter() - started
        named = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=named, num_samples=len(rows))

    @property
    def step_of_weights(self) -> int:
        """After training, the step whose weights the model has."""
        is_best = self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None
        return self.state.best_global_step if is_best else self.state.global_step

    def evaluate_final_model(self) -> EvaluatedPairs:
        """The held-out pairs under the weights that are saved at the end, which need not be the ones evaluated last."""
        if self.last_evaluation is None or self.last_evaluation[0] != self.step_of_weights:
            self.evaluation_loop(self.get_eval_dataloader(), "Final evaluation")
        return EvaluatedPairs.from_rows(self.last_evaluation[1], self.eval_dataset)


# ----------------------------------------------------------------------------------------------------------
# Steps of the job
# ----------------------------------------------------------------------------------------------------------


def prepare_output_folder(args: ScriptArguments) -> str | None:
    """Refuse to write over another run. Returns the checkpoint to resume from, if any."""
    if args.dry_run:
        return None
    output = Path(args.output_path)
    resume = (args.resume_from_checkpoint or "false").lower()
    if resume != "false":
        if args.process_index == 0:
            clean_up(output)
        PartialState().wait_for_everyone()
    checkpoint = checkpoint_to_resume(args.output_path, args.resume_from_checkpoint)
    own = is_own(checkpoint, args.output_path)
    if checkpoint is not None and not own and output.resolve() in Path(checkpoint).resolve().parents:
        raise UserError(
            f"--resume_from_checkpoint {checkpoint}: expected a checkpoint-N right in --output_path, or one of another "
            "folder, found one deeper in it. Move it up."
        )
    if not own and not args.overwrite_output_dir:
        check_nothing_is_lost(args.output_path, go_on=resume == "true")
    check_all_nodes_share(args.output_path, PartialState())
    return checkpoint


def load_config_and_tokenizer(args: ScriptArguments) -> tuple:
    """What the model's folder says of itself, its tokenizer, and how its weights are to be loaded."""
    hub_options = {"revision": args.model_revision, "trust_remote_code": args.trust_remote_code}
    config = load_config(args.model_name, **hub_options)
    config, loading_options = text_part(config, args.model_name, adapter=args.use_peft)
    context = context_length(config)
    if context is not None and args.max_length > context:
        raise UserError(context_too_short(args.max_length, config))
    reason = why_no_balance_loss(config) if args.router_aux_loss_coef else None
    if reason is not None:
        raise UserError(f"--router_aux_loss_coef: {reason}. Leave it out.")
    return config, load_tokenizer(args.model_name, **hub_options), hub_options | loading_options


def choose_batching(args: ScriptArguments, config) -> str:
    """The batching that the model allows, and in the log why."""
    reason = why_not_packed(config)
    if reason is not None and args.batching not in ("auto", PADDED):
        raise UserError(f"--batching {args.batching}: {reason}. Pass --batching padded or auto.")
    if args.batching == "auto" and reason is not None:
        logger.warning("Batching: padded, since %s.", reason)
    padded = args.batching == PADDED or reason is not None
    if args.attn_implementation is not None and not padded:
        raise UserError(
            f"--attn_implementation {args.attn_implementation}: expected with --batching padded alone, since packed "
            "rows have an attention of their own. Leave it out, or pass --batching padded."
        )
    if padded:
        return PADDED
    return SHARED_PREFIX if args.batching == "auto" else args.batching


def load_pairs(args: ScriptArguments, tokenizer, checkpoint: str | None = None) -> "PreparedPairs":
    """Training and evaluation pairs; their counts go to the screen and, in a new run, into the output folder."""
    # Only here, so that a benchmark takes the trainer of this file without `datasets` being installed.
    from reward_modeling.data.prepare import prepare_pairs, show_reports, write_reports
    from reward_modeling.data.prompt_groups import TokenizeOptions

    pairs = prepare_pairs(
        args.train_set_path,
        args.eval_set_path,
        tokenizer,
        TokenizeOptions(args.max_length, args.overlong, args.loss_margin),
        eval_size=args.eval_size,
        seed=args.seed,
        num_proc=args.num_proc or min(16, os.cpu_count()),
    )
    if args.process_index == 0:
        show_reports(pairs.reports)
        if checkpoint is None and not args.dry_run:
            write_reports(pairs.reports, Path(args.output_path) / DATA_REPORT)
    if not len(pairs.train):
        raise UserError(f"--train_set_path {args.train_set_path}: no pair is left to train on; see the table above")
    return pairs


def load_model(args: ScriptArguments, config, tokenizer, batching: str, hub_options: dict):
    """The reward model, with an adapter where one is asked for."""
    model = load_reward_model(
        args.model_name,
        config,
        tokenizer,
        attn_implementation=args.attn_implementation if batching == PADDED else SHARED_PREFIX,
        dtype=getattr(torch, args.model_dtype),
        **hub_options,
        **(four_bit_options(args.device) if args.load_in_4bit else {}),
    )
    return adapted(args, model) if args.use_peft else model


def adapted(args: ScriptArguments, model):
    """The model with the adapter that the flags ask for."""
    set_seed(args.seed)  # the same adapter to start from on every engine, whatever it drew while it loaded
    return add_adapter(
        model,
        model_name=args.model_name,
        revision=args.model_revision,
        r=args.lora_r,
        alpha=args.lora_alpha,
        dropout=args.lora_dropout,
        target_modules=args.lora_target_modules,
        # FSDP wants one type of all the weights that it cuts together
        float32=not (args.fsdp or launched_with(os.environ, "FSDP")),
    )


def estimate(args: ScriptArguments, given: dict, config, tokenizer, batching: str, groups: PreferenceGroups) -> str:
    """What the run would take on the GPUs that were named, as a table."""
    unset_hf_deepspeed_config()  # ZeRO-3 would cut the weights, of which there are none
    # unset, bf16 is on where the GPU has it, as all have that can be named
    mixed = "fp16" if args.fp16 else "bf16" if given.get("bf16", True) else None
    settings = RunSettings(
        build=lambda: build_model(
            config,
            num_tokens=len(tokenizer),
            batching=batching,
            dtype=getattr(torch, args.model_dtype),
            gradient_checkpointing=args.gradient_checkpointing,
            attn_implementation=args.attn_implementation,
            trust_remote_code=args.trust_remote_code,
            adapt=partial(adapted, args) if args.use_peft else None,
        ),
        dtype=getattr(torch, args.model_dtype),
        mixed=mixed,
        four_bit=args.load_in_4bit,
        gradient_checkpointing=args.gradient_checkpointing,
        optim=OptimizerNames(args.optim).value,
        epochs=args.num_train_epochs,
        max_steps=args.max_steps,
    )
    plan = plan_epoch(
        groups.sizes,
        pairs_per_step=args.pairs_per_step,
        max_tokens=args.max_tokens,
        batching=batching,
        seed=args.seed if args.data_seed is None else args.data_seed,
        epoch=0,
    )
    collator = MicroBatchCollator(batching, tokenizer.pad_token_id)
    return estimate_run(groups, plan, collator, config, settings, gpus=args.gpus or 1, gpu=args.gpu)


def build_trainer(
    args: ScriptArguments, config, tokenizer, batching: str, pairs: "PreparedPairs", loading_options: dict
) -> RewardTrainer:
    """The trainer of the loaded model, with the trackers that were asked for."""
    if pairs.evaluation is None:
        if args.load_best_model_at_end or args.save_strategy == "best" or args.early_stopping_patience is not None:
            flags = "--load_best_model_at_end, --save_strategy best, --early_stopping_patience"
            raise UserError(f"{flags}: expected rows to evaluate on, found none")
        args.eval_strategy, args.eval_on_start, args.do_eval = "no", False, False
    if "wandb" in args.report_to:
        prepare_wandb(args.output_path)
    trainer = RewardTrainer(
        args=args,
        model=load_model(args, config, tokenizer, batching, loading_options),
        processing_class=tokenizer,
        train_dataset=pairs.train,
        eval_dataset=pairs.evaluation,
        collator=MicroBatchCollator(batching, tokenizer.pad_token_id),
    )
    if "wandb" in args.report_to:
        trainer.add_callback(DataReportCallback(pairs.reports))
    return trainer


def show_plan(args: ScriptArguments, batching: str, num_pairs: int) -> None:
    """How many steps there will be, and when the first of them is safe."""
    num_steps = math.ceil(num_pairs / args.pairs_per_step)
    logger.info(
        f"Training: {num_pairs:,} pairs, {args.pairs_per_step} a step, {num_steps:,} steps an epoch; {batching} "
        f"batches of at most {args.max_tokens:,} tokens."
    )
    if args.save_strategy == "epoch" and num_steps > MANY_STEPS:
        logger.warning(
            "Checkpoints: the first is saved after %s steps, at the end of an epoch; --save_every_steps loses less.",
            f"{num_steps:,}",
        )


def make_room(trainer: RewardTrainer, checkpoint: str | None) -> None:
    """Put out of the way what an earlier run left and this one would write over or mistake for its own."""
    args = trainer.args
    trainer.accelerator.wait_for_everyone()
    if args.process_index == 0 and is_own(checkpoint, args.output_path):
        archive_later_checkpoints(Path(checkpoint))
    elif args.process_index == 0 and args.overwrite_output_dir:
        remove_earlier_run(args.output_path)
    trainer.accelerator.wait_for_everyone()


def exit_interrupted(trainer: RewardTrainer) -> None:
    """End the process after SIGTERM, with the status of a process that the signal ended."""
    if trainer.is_world_process_zero():
        update_report(Path(trainer.args.output_path), trainer.state)
        print(f"\n{describe_interruption(trainer)}", file=sys.stderr, flush=True)
    sys.exit(EXIT_STATUS)


def describe_interruption(trainer: RewardTrainer) -> str:
    """What is saved and how to go on. An evaluation before the first step leaves nothing to save."""
    step, output = trainer.state.global_step, Path(trainer.args.output_path)
    checkpoint = output / f"{CHECKPOINT}{step}"
    if checkpoint.is_dir():
        saved, go_on = f"{checkpoint.name} is saved in {output}", "true"
    elif trainer.resumed_from:
        saved, go_on = "no step was taken since", f"{trainer.resumed_from} --overwrite_output_dir true"
    else:
        saved, go_on = "there is nothing to save", "true"
    place = f"after step {step} of" if step else "before the first step of"
    return (
        f"Stopped by SIGTERM {place} {trainer.state.max_steps}: {saved}. Go on with --resume_from_checkpoint {go_on}."
    )


def finish(trainer: RewardTrainer, results: Results) -> None:
    """Save the model, prove it, and tell of it."""
    args, output = trainer.args, Path(trainer.args.output_path)
    folders = [save_final_model(trainer, results)]
    if args.merge_adapter:
        folders.append(merge_final_adapter(trainer, folders[0], results))
    if args.process_index == 0:
        results.write(output)
        show_results(trainer, results)
    if args.verify_saved_model:
        verify_final_model(trainer, folders)
    destroy_process_group()
    if args.process_index == 0 and write_report_or_say_why(output):
        logger.info("Report: %s", output / REPORT)
    if args.push_to_hub:
        trainer.push_folder(folders[-1])
    logger.info("Done: the reward model is in %s", " and ".join(map(str, folders)))


def set_up_logging(args: ScriptArguments) -> None:
    logging.basicConfig(format="%(message)s", level=logging.INFO if args.process_index == 0 else logging.ERROR)
    for noisy in ("httpx", "httpx2", "datasets", "accelerate", "DeepSpeed"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # each retry twice, before our message
    transformers_logging.set_verbosity_warning()


def main() -> None:
    with report_once_per_node():
        args, given = parse_script_arguments(ScriptArguments)
    sys.argv = without_tokens(sys.argv)
    set_up_logging(args)
    if args.dry_run:
        run(args, given)
        return
    check_output_folder(args.output_path)
    with only_run_in(args.output_path, args.process_index):
        run(args, given)


def run(args: ScriptArguments, given: dict) -> None:
    """The job, from the data to the proven model."""
    started = datetime.now(UTC)
    checkpoint = prepare_output_folder(args)
    warm_up_mkl()
    set_seed(args.seed)

    # Tokenizer and configuration: small, and most mistakes show here
    with report_once_per_node():
        config, tokenizer, loading_options = load_config_and_tokenizer(args)
        batching = choose_batching(args, config)

    # Data
    with report_once_per_node(), args.main_process_first(desc="reading and tokenising"):
        pairs = load_pairs(args, tokenizer, checkpoint)
    preflight = run_preflight(
        pairs.train, tokenizer, config, max_length=args.max_length, conversations=pairs.conversations
    )
    if args.process_index == 0:
        print(preflight.table, flush=True)
    preflight.raise_for_problems()
    register_shared_prefix_attention()
    if args.estimate and args.process_index == 0:
        print(estimate(args, given, config, tokenizer, batching, pairs.train))
    if args.dry_run:
        return

    # Model
    with out_of_memory_explained("loading the model", args.max_tokens):
        trainer = build_trainer(args, config, tokenizer, batching, pairs, loading_options)
    show_plan(args, batching, len(pairs.train))
    engine = engine_name(trainer.accelerator.state)
    trainer.run_record = run_record(args, pairs.train, pairs.evaluation, config, engine, args.world_size)
    if checkpoint is not None:
        check_same_run(checkpoint, trainer.run_record)
        args.eval_on_start = False  # it was done

    # Training; not before everything that can be refused has passed, and all processes have read the model
    make_room(trainer, checkpoint)
    if args.process_index == 0:
        Path(args.output_path, PREFLIGHT).write_text(preflight.table + "\n", encoding="utf-8")
        write_json(Path(args.output_path, RUN), run_so_far(trainer, pairs, started))
    with trainer.interruption.listening():
        with out_of_memory_explained("training", args.max_tokens):
            trainer.train(resume_from_checkpoint=checkpoint)
        if trainer.interruption.agreed:
            exit_interrupted(trainer)
        trainer.interruption.training_is_over = True
        finish(trainer, gather_results(trainer, pairs, given, started))


if __name__ == "__main__":
    sys.argv[0] = "rm.py"
    run_script(main)
