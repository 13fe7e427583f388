"""The trainer: transformers' Trainer on planned steps."""

import logging
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm.auto import tqdm
from transformers import ProgressCallback
from transformers.trainer_utils import EvalLoopOutput, has_length

from reward_modeling.checkpoints.verification import choose_rows, token_rows
from reward_modeling.common.devices import to_device
from reward_modeling.common.screen import shows_bars
from reward_modeling.data.collator import MicroBatchCollator
from reward_modeling.data.loader import PromptGroups, evaluation_loader, training_loader
from reward_modeling.models.adapters import has_adapter
from reward_modeling.models.reward_normalization import write_adapter_statistics
from reward_modeling.objectives.base import HeldOut, Objective
from reward_modeling.training.arguments import RunArguments
from reward_modeling.training.callbacks import FiniteLossCallback, ReportCallback, RewardProgressCallback
from reward_modeling.training.memory_probe import no_trace, probe_memory
from reward_modeling.training.resumable_trainer import EvaluationInterrupted, ResumableTrainer

logger = logging.getLogger(__name__)


class RunningSums:
    """Figures over the units since the last log, summed on the device: adding to them never waits for it."""

    def __init__(self, objective: Objective, device: torch.device):
        self.objective = objective
        self.dtype = torch.float64 if device.type == "cpu" else torch.float32
        self.on_device: torch.Tensor | None = None  # the objective's own
        self.num_tokens = self.row_tokens = 0  # computed, and those of one unpadded row per completion

    def count_units(self, logits: torch.Tensor, targets: dict[str, torch.Tensor]) -> None:
        """`logits` are `(reads, labels)`, detached."""
        sums = self.objective.sums(logits, targets).to(self.dtype)
        self.on_device = sums if self.on_device is None else self.on_device + sums

    def count_tokens(self, micro_batch: dict) -> None:
        if micro_batch["row_tokens"]:  # it does not only fill up a process
            self.num_tokens += micro_batch["num_tokens"]
            self.row_tokens += micro_batch["row_tokens"]

    def drain(self, accelerator: Accelerator, seconds: float) -> dict[str, float]:
        """Figures over all processes since the last call; everything starts from zero again."""
        tokens = torch.tensor([self.num_tokens, self.row_tokens], device=self.on_device.device)
        sums = torch.cat([self.on_device, tokens.to(self.dtype)])
        *sums, num_tokens, row_tokens = accelerator.reduce(sums, reduction="sum").tolist()
        self.on_device.zero_()
        self.num_tokens = self.row_tokens = 0
        if not sums[0]:
            return {}
        return {
            **self.objective.figures(sums),
            f"{self.objective.reader.unit}_per_second": sums[0] / seconds,
            "tokens_per_second": num_tokens / seconds,
            "tokens_saved": 1 - num_tokens / row_tokens,
        }


class LargestUpdate:
    """Whether anything was trained: the largest learning rate and gradient norm since this process began."""

    def __init__(self):
        self.learning_rate: float | None = None  # of no step yet
        self.grad_norm: torch.Tensor | float | None = None

    def note_learning_rate(self, learning_rate: float) -> None:
        self.learning_rate = max(learning_rate, self.learning_rate or 0.0)

    def note_grad_norm(self, grad_norm: torch.Tensor | float | None) -> None:
        """A tensor is not read, which would wait for its device."""
        if torch.is_tensor(grad_norm):
            grad_norm = grad_norm.detach()
            self.grad_norm = grad_norm if self.grad_norm is None else torch.maximum(self.grad_norm, grad_norm)
        elif grad_norm is not None:
            self.grad_norm = max(float(grad_norm), self.grad_norm or 0.0)

    @property
    def nothing(self) -> str | None:
        """Why no weight has moved; None where some may have, or where no step was left to train."""
        if self.learning_rate == 0:
            return "the learning rate was 0 in every step"
        if self.grad_norm is not None and float(self.grad_norm) == 0:
            return "the gradients were 0 in every step"
        return None


class RewardTrainer(ResumableTrainer):
    """transformers' Trainer on planned steps.

    One batch of its data loader is a whole optimizer step of this process; `training_step` runs the step's
    micro-batches. The loss is the weighted mean over the units (pairs, say) of the whole step, on any number of
    processes.
    """

    def __init__(
        self,
        *,
        args: RunArguments,
        objective: Objective,
        collator: MicroBatchCollator,
        eval_sets: Mapping[str, PromptGroups] | None = None,
        **kwargs,
    ):
        """`eval_sets` are evaluation sets with names, of which the first is `eval_dataset`."""
        super().__init__(args=args, **kwargs)
        self.eval_sets = dict(eval_sets or {})
        self.objective = objective
        self.collator = collator
        # Its step, and of each set (by name; "" is one without) its rows over all processes.
        self.last_evaluation: tuple[int, dict[str, list[tuple]]] | None = None
        self.memory_is_probed = not args.probe_memory
        self.sums = RunningSums(objective, args.device)
        self.largest_update = LargestUpdate()
        self.last_log_time: float | None = None
        self.gradient_beside: torch.Tensor | None = None  # of what the objective learns beside the weights
        self.remove_callback(ProgressCallback)
        for callback in (RewardProgressCallback(objective, self.eval_sets), FiniteLossCallback(), ReportCallback()):
            self.add_callback(callback)

    # Data

    def get_train_dataloader(self):
        return training_loader(
            self.train_dataset,
            self.collator,
            units_per_step=self.args.pairs_per_step,
            max_tokens=self.args.max_tokens,
            target_tokens=self.args.target_tokens,
            seed=self.args.order_seed,
            process=self.args.process_index,
            num_processes=self.args.world_size,
            num_workers=self.args.dataloader_num_workers,
        )

    def get_eval_dataloader(self, eval_dataset: PromptGroups | None = None):
        return evaluation_loader(
            self.eval_dataset if eval_dataset is None else eval_dataset,
            self.collator,
            max_tokens=self.args.max_tokens,
            process=self.args.process_index,
            num_processes=self.args.world_size,
        )

    def get_total_train_batch_size(self, args: RunArguments) -> int:
        return args.pairs_per_step

    # Training

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        """transformers' schedule, without its warm-up where that would take all steps.

        The first step of a warm-up has a learning rate of 0: 3% of one step are one step, which would train nothing.
        """
        warmup = self.args.get_warmup_steps(num_training_steps)
        if 0 < num_training_steps <= warmup:
            logger.warning(
                "Warm-up: left out, since its %d of %d steps would be all (--warmup_steps).", warmup, num_training_steps
            )
            given, self.args.warmup_steps = self.args.warmup_steps, 0
            try:
                return super().create_scheduler(num_training_steps, optimizer)
            finally:
                self.args.warmup_steps = given
        return super().create_scheduler(num_training_steps, optimizer)

    def _get_grad_norm(self, model, grad_norm=None):
        """As transformers', and a note of the largest, which stays on its device."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self.largest_update.note_grad_norm(norm)
        return norm

    def training_step(self, model, inputs: dict, num_items_in_batch=None) -> torch.Tensor:
        """Forward and backward of this process's share of one optimizer step."""
        model.train()
        self.largest_update.note_learning_rate(self._get_learning_rate())  # DeepSpeed has the next one after backward
        if not self.memory_is_probed:
            self.log(probe_memory(self, model))
            self.sums = RunningSums(self.objective, self.args.device)
            self.memory_is_probed = True
        if self.last_log_time is None:
            self.last_log_time = time.perf_counter()
        micro_batches = inputs["micro_batches"]
        # Engines average gradients over the processes, and the Trainer the logged loss: both give the step's mean.
        scale = self.args.world_size / inputs["step_weight"]
        step_loss = torch.zeros((), device=self.args.device)
        self.gradient_beside = None
        for number, micro_batch in enumerate(micro_batches, start=1):
            step_loss += self.forward_backward(model, micro_batch, scale, last=number == len(micro_batches))
            self.sums.count_tokens(micro_batch)
        if self.gradient_beside is not None:
            self.objective.step(self.accelerator.reduce(self.gradient_beside * scale, reduction="mean").item())
        return step_loss

    def forward_backward(self, model, micro_batch: dict, scale: float, *, last: bool) -> torch.Tensor:
        """One micro-batch. DDP reduces gradients with the last of a step; ZeRO and FSDP, which hold parts, always."""
        self.accelerator.gradient_state._set_sync_gradients(last)
        in_parts = self.is_deepspeed_enabled or self.is_fsdp_enabled
        with nullcontext() if last or in_parts else self.accelerator.no_sync(model):
            loss = self.compute_loss(model, micro_batch) * scale
            self.accelerator.backward(loss, **({"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}))
        return loss.detach()

    def _prepare_input(self, data):
        """A micro-batch's tensors to the device, without waiting for it."""
        return super()._prepare_input(to_device(data, self.args.device) if torch.is_tensor(data) else data)

    def compute_loss(self, model, inputs: dict, return_outputs: bool = False, num_items_in_batch=None):
        """The weighted *sum* of the loss over a micro-batch's units; with `return_outputs` also logits and targets."""
        names = ("model_inputs", "targets", "weights", "members", "unit_of_member")
        inputs = self._prepare_inputs({name: inputs[name] for name in names})
        # not `model.training`: an engine of DeepSpeed that is told to evaluate says that it trains
        load_balancing = self.model.training and bool(self.args.router_aux_loss_coef)
        outputs = model(**inputs["model_inputs"], **({"load_balancing": True} if load_balancing else {}))
        logits = outputs.logits.float()  # (reads, labels)
        loss = self.objective.loss(logits, inputs["targets"])  # (units,)
        if load_balancing:
            losses = outputs.load_balancing_losses[inputs["members"]]
            loss = loss + self.args.router_aux_loss_coef * mean_of_units(losses, inputs["unit_of_member"], len(loss))
        # Every output takes part, with weight zero: a micro-batch that only fills up a process has no units, and its
        # parameters still need gradients for the engines to reduce.
        total = (loss * inputs["weights"]).sum() + 0.0 * logits.sum()
        if self.model.training:
            self.sums.count_units(logits.detach(), inputs["targets"])
            gradient = self.objective.gradient(logits.detach(), inputs["targets"], inputs["weights"])
            if gradient is not None:
                self.gradient_beside = gradient if self.gradient_beside is None else self.gradient_beside + gradient
        return (total, (logits, inputs["targets"])) if return_outputs else total

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

    def sample_outputs(self) -> tuple[list[list[int]], list[float]]:
        """A few rows of the evaluation set (of the training set if there is none) with all their outputs in memory."""
        groups = self.eval_dataset or self.train_dataset
        micro_batch = choose_rows(groups, self.collator.batching)
        model_inputs = self.collator(micro_batch, groups.read(micro_batch))["model_inputs"]
        self.model_wrapped.eval()
        with torch.no_grad():
            logits = self.model_wrapped(**self._prepare_inputs(model_inputs)).logits.float()
        return token_rows(model_inputs), logits.flatten().tolist()

    def evaluation_loop(self, dataloader, *args, metric_key_prefix: str = "eval", **kwargs) -> EvalLoopOutput:
        """Every unit exactly once, on any number of processes.

        Of sets with names each has its figures as eval_NAME_..., and the first those without a name too: these decide
        which model is best.
        """
        started = time.perf_counter()
        first, *others = self.eval_sets or [""]
        rows = {first: self.evaluated_rows(dataloader)}
        rows |= {name: self.evaluated_rows(self.get_eval_dataloader(self.eval_sets[name])) for name in others}
        metrics = {}
        for name, of_set in rows.items():
            groups = self.eval_sets.get(name, dataloader.dataset.groups)
            figures = self.objective.metrics(self.objective.held_out(of_set, groups))
            metrics |= figures if name == first else {}
            metrics |= {f"{name}_{figure}": value for figure, value in figures.items()} if name else {}
        self.last_evaluation = self.state.global_step, rows
        self.last_log_time = self.last_log_time and self.last_log_time + time.perf_counter() - started
        named = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=named, num_samples=len(rows[first]))

    def evaluated_rows(self, dataloader) -> list[tuple]:
        """What the objective keeps of each unit of one set, over all processes."""
        model = self.model_wrapped
        model.eval()
        rows: list[tuple] = []
        # Whether an evaluation was made or not, training goes on with the same random numbers: a checkpoint may have
        # been saved before it, and a resume begins after it.
        shown = self.is_world_process_zero() and shows_bars()
        # The bar gets no iterable: it would ask the loader for an iterator, which draws a random number.
        total = len(dataloader) if has_length(dataloader) else None
        bar = tqdm(total=total, desc="evaluating", leave=False, dynamic_ncols=True, disable=not shown)
        with torch.no_grad(), no_trace(self.args.device), bar:
            for micro_batch in dataloader:
                if self.is_in_train and self.interruption.agree(self.args):
                    raise EvaluationInterrupted
                _, (logits, targets) = self.compute_loss(model, micro_batch, return_outputs=True)
                counted = [chunk for chunk in micro_batch["chunks"] if chunk.counted]
                keys = [(chunk.group, unit) for chunk in counted for unit in range(chunk.unit_start, chunk.unit_end)]
                rows += [
                    (key, *values) for key, values in zip(keys, self.objective.evaluated(logits, targets), strict=True)
                ]
                bar.update()
                self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        return gather_object(rows) if self.args.world_size > 1 else rows

    # What the objective learns beside the weights

    def objective_state(self) -> dict[str, float]:
        return self.objective.state()

    def load_objective_state(self, state: Mapping[str, float]) -> None:
        self.objective.load_state(state)

    def save_whole_model(self, folder: str) -> None:
        """With what the objective has learned: in config.json, of an adapter in a file of its own."""
        learned = self.objective.saved_values()
        if not has_adapter(self.model):
            for name, value in learned.items():
                setattr(self.model.config, name, value)
        super().save_whole_model(folder)
        if has_adapter(self.model) and self.args.should_save:
            write_adapter_statistics(Path(folder), learned or None)

    @property
    def step_of_weights(self) -> int:
        """After training, the step whose weights the model has."""
        is_best = self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None
        return self.state.best_global_step if is_best else self.state.global_step

    def evaluate_final_model(self) -> dict[str, HeldOut]:
        """The held-out units of each set under the weights that are saved, which need not be those evaluated last."""
        if self.last_evaluation is None or self.last_evaluation[0] != self.step_of_weights:
            self.evaluation_loop(self.get_eval_dataloader())
        return {
            name: self.objective.held_out(rows, self.eval_sets.get(name, self.eval_dataset))
            for name, rows in self.last_evaluation[1].items()
        }


def mean_of_units(values: torch.Tensor, unit_of_member: torch.Tensor, num_units: int) -> torch.Tensor:
    """`(members,)` to `(units,)`: the mean over the completions of each unit."""
    sums = values.new_zeros(num_units).index_add(0, unit_of_member, values)
    return sums / torch.bincount(unit_of_member, minlength=num_units)
