"""One case of gpu_throughput.py's training part: rm.py's own RewardTrainer on drawn groups, timed from outside.

Modes:

shared_prefix, packed  as rm.py trains
padded                 as TRL's RewardTrainer: eight pairs in a random order, both rows of each, padded to the
                       longest of the sixteen, with scaled_dot_product_attention; otherwise trained in the same way.
                       Every shape of rows has been met once before its time is taken, see `first_layer_alone`
"""

import gc
import time
import types
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from gpu_profile import new_profiler, times
from gpu_workloads import (
    GroupsInMemory,
    Shape,
    Workload,
    draw_groups,
    first_layer_alone,
    without_cudnn_where_it_fails,
    work_of,
)
from torch.profiler import profile
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback, set_seed
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm

import rm
from reward_modeling.common.errors import UserError
from reward_modeling.data.collator import MicroBatchCollator
from reward_modeling.data.loader import StepDataLoader, StepDataset, StepSampler
from reward_modeling.data.micro_batches import block_shapes
from reward_modeling.data.micro_batches import computed_tokens as tokens_of
from reward_modeling.data.planning import PACKED, PADDED, SHARED_PREFIX, EpochPlan, MicroBatch
from reward_modeling.models.reward_model import reward_model_class
from reward_modeling.objectives.bradley_terry import BradleyTerry
from reward_modeling.training.arguments import arguments_of
from reward_modeling.training.callbacks import RewardProgressCallback
from reward_modeling.training.memory_probe import peak_memory
from reward_modeling.training.trainer import RewardTrainer

MODES = (SHARED_PREFIX, PADDED, PACKED)
PADDED_PAIRS = 8
OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True)
class Case:
    model: str
    workload: str
    mode: str
    checkpointing: bool

    def __str__(self) -> str:
        checkpointing = "on" if self.checkpointing else "off"
        return f"{self.model}, {self.workload}, {self.mode}, checkpointing {checkpointing}"


@dataclass(frozen=True)
class Amount:
    """How much of a case is trained: `warm_up` steps, `timed` ones, and one more where it is profiled."""

    pairs_per_step: int
    max_length: int
    warm_up: int
    timed: int
    profiled: bool

    @property
    def steps(self) -> int:
        return self.warm_up + self.timed + self.profiled

    @property
    def pairs_drawn(self) -> int:
        """Profiled or not the same: another number of groups would be shuffled into steps of other pairs."""
        return self.pairs_per_step * (self.warm_up + self.timed + 1)


class PairByPair(EpochPlan):
    """The same pairs in each step, eight at a time in a random order, with two rows for each."""

    def micro_batches(self, step: int, num_processes: int) -> list[list[MicroBatch]]:
        pieces = self.pieces[self.step_starts[step] : self.step_starts[step + 1]].tolist()
        pairs = [(group, pair) for group, first, last in pieces for pair in range(first, last)]
        order = np.random.default_rng(step).permutation(len(pairs))
        chunks = [self.sizes.chunk(PADDED, group, pair, pair + 1) for group, pair in (pairs[i] for i in order)]
        return [[chunks[start : start + PADDED_PAIRS] for start in range(0, len(chunks), PADDED_PAIRS)]]


class PairByPairSampler(StepSampler):
    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self.plan = PairByPair(**vars(self.plan))


class PaddedTrainer(RewardTrainer):
    def get_train_dataloader(self) -> StepDataLoader:
        sampler = PairByPairSampler(
            self.train_dataset.sizes,
            process=0,
            num_processes=1,
            units_per_step=self.args.pairs_per_step,
            max_tokens=self.args.max_tokens,
            batching=PADDED,
            seed=self.args.seed,
        )
        dataset = StepDataset(self.train_dataset, self.collator)
        return StepDataLoader(dataset, batch_sampler=sampler, collate_fn=lambda items: items[0])


class Stopwatch(TrainerCallback):
    """Waits for the GPU where the timed steps begin and where they end, and nowhere between."""

    def __init__(self, amount: Amount, device: torch.device):
        self.amount, self.device = amount, device
        self.seconds = self.peak = 0.0
        self.retries = 0  # allocations that first had to wait for the GPU and give memory back: the time is not typical
        self.profiler: profile | None = None

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def allocation_retries(self) -> int:
        return torch.cuda.memory_stats(self.device)["num_alloc_retries"] if self.device.type == "cuda" else 0

    def on_step_end(self, args, state, control, **kwargs):
        """The next batch is collated after this, so that every timed step has its own collation in its time."""
        done = state.global_step
        if done not in (self.amount.warm_up, self.amount.warm_up + self.amount.timed, self.amount.steps):
            return
        self.synchronize()
        if done == self.amount.warm_up:
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)
            self.retries = self.allocation_retries()
            self.started = time.perf_counter()
        if done == self.amount.warm_up + self.amount.timed:
            self.seconds = time.perf_counter() - self.started
            self.peak = peak_memory(self.device)
            self.retries = self.allocation_retries() - self.retries
            if self.amount.profiled:
                self.profiler = new_profiler(self.device)
                self.profiler.start()
        elif done == self.amount.steps:
            self.profiler.stop()


def build_trainer(
    case: Case, shape: Shape, workload: Workload, amount: Amount, max_tokens: int, folder: str
) -> RewardTrainer:
    """rm.py's trainer with its defaults, but without logs, checkpoints and evaluations."""
    padded = case.mode == PADDED
    args = arguments_of(rm.ScriptArguments)(
        output_dir=folder,
        model_dtype=shape.weights,
        optim=shape.optimizer,
        max_steps=amount.steps,
        pairs_per_step=amount.pairs_per_step,
        max_length=amount.max_length,
        max_tokens_per_micro_batch=max_tokens,
        gradient_checkpointing=case.checkpointing,
        logging_steps=10**6,
        logging_first_step=False,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )
    set_seed(args.seed)
    with torch.device(args.device):
        model = reward_model_class(type(shape.config))._from_config(
            shape.config,
            attn_implementation="sdpa" if padded else SHARED_PREFIX,
            dtype=getattr(torch, shape.weights),
        )
    if shape.fused_norms:
        fuse_norms(model)
    if shape.compiled:
        compile_parts(model)
    groups = draw_groups(workload, amount.pairs_drawn, amount.max_length, shape.config.vocab_size)
    trainer = (PaddedTrainer if padded else RewardTrainer)(
        args=args,
        objective=BradleyTerry(args),
        model=model,
        train_dataset=GroupsInMemory(groups),
        collator=MicroBatchCollator(case.mode, 0, BradleyTerry.collate),
    )
    for callback in (RewardProgressCallback, PrinterCallback):  # a table at the end says more
        trainer.remove_callback(callback)
    return trainer


def gemma_norm(module: GemmaRMSNorm, x: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x.float(), x.shape[-1:], 1.0 + module.weight.float(), module.eps).type_as(x)


def mistral_norm(module: MistralRMSNorm, x: torch.Tensor) -> torch.Tensor:
    return module.weight * F.rms_norm(x.float(), x.shape[-1:], None, module.variance_epsilon).to(x.dtype)


def fuse_norms(model: PreTrainedModel) -> None:
    """Norms by torch's own kernel, which gives the same numbers in one pass over memory instead of six.

    Written out, norms are what takes longest beside matrix products: their tensors are in float32 under autocast.
    """
    functions = {GemmaRMSNorm: gemma_norm, MistralRMSNorm: mistral_norm}
    for module in model.modules():
        if type(module) in functions:
            module.forward = types.MethodType(functions[type(module)], module)


def compile_parts(model: PreTrainedModel) -> None:
    """Fuse norms and feed-forward parts, which are many small kernels, by torch.compile. rm.py does not do this.

    Not the last layer's feed-forward part, whose hooks change from batch to batch.
    """
    layers = model.get_decoder().layers
    for layer in layers:
        parts = [layer.input_layernorm, layer.post_attention_layernorm, layer.mlp]
        for part in parts if layer is not layers[-1] else parts[:2]:
            part.compile(dynamic=True)


def meet_shapes(trainer: RewardTrainer, plan: EpochPlan) -> None:
    """One layer, forward and backward, over padded rows of every shape that will be trained; no trace of it."""
    model, device = trainer.model, trainer.args.device
    micro_batches = [micro_batch for step in range(len(plan)) for micro_batch in plan.micro_batches(step, 1)[0]]
    shapes = {tuple(block_shapes(chunks)): chunks for chunks in micro_batches}
    with first_layer_alone(model):
        for chunks in shapes.values():
            batch = trainer.collator(chunks, trainer.train_dataset.read(chunks))
            inputs = {name: value.to(device) for name, value in batch["model_inputs"].items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=bool(trainer.args.bf16)):
                rewards = model.train()(**inputs).logits
            rewards.sum().backward()
            model.zero_grad()


def train_case(case: Case, shape: Shape, workload: Workload, amount: Amount, max_tokens: int, folder: str) -> dict:
    """The figures of one case.

    Raises:
        UserError, torch.OutOfMemoryError: see `is_out_of_memory`.
    """
    trainer = build_trainer(case, shape, workload, amount, max_tokens, folder)
    device = trainer.args.device
    stopwatch = Stopwatch(amount, device)
    trainer.add_callback(stopwatch)
    plan = trainer.get_train_dataloader().batch_sampler.plan
    timed = range(amount.warm_up, amount.warm_up + amount.timed)
    work = work_of(plan, timed, trainer.model)
    computed, passes = computed_tokens(plan, timed)
    if case.mode == PADDED:
        without_cudnn_where_it_fails(lambda: meet_shapes(trainer, plan))
    trainer.train()
    figures = asdict(work) | {"computed_tokens": computed, "passes": passes, "max_tokens": max_tokens}
    figures |= {"pairs_per_step": amount.pairs_per_step, "seconds": stopwatch.seconds, "peak_gib": stopwatch.peak}
    figures["allocation_retries"] = stopwatch.retries
    figures["cudnn_attention"] = torch.backends.cuda.cudnn_sdp_enabled()  # allowed: padded rows alone can have it
    if stopwatch.profiler is not None:
        figures["profile"] = times(stopwatch.profiler, device)
        last = range(amount.steps - 1, amount.steps)
        figures["profile"]["unique_tokens"] = work_of(plan, last, trainer.model).unique_tokens
    return figures


def computed_tokens(plan: EpochPlan, steps: range) -> tuple[int, int]:
    """Tokens with padding, and forward passes."""
    micro_batches = [micro_batch for step in steps for micro_batch in plan.micro_batches(step, 1)[0]]
    return sum(map(tokens_of, micro_batches)), len(micro_batches)


def run_case(case: Case, shape: Shape, workload: Workload, amount: Amount, folder: str) -> dict:
    """With rm.py's default size of a forward pass and, where memory runs out, with half of it, the least allowed."""
    sizes = (4 * amount.max_length, 2 * amount.max_length)
    for max_tokens in sizes if case.mode != PADDED else sizes[:1]:
        failure = None
        try:
            figures = train_case(case, shape, workload, amount, max_tokens, folder)
        except (torch.OutOfMemoryError, UserError) as error:
            if not is_out_of_memory(error):
                raise
            failure = str(error).splitlines()[0][:200]
        free_memory()  # not in the handler, where the failed trainer still hangs on the traceback
        if failure is None:
            return figures
    return {OUT_OF_MEMORY: failure}


def is_out_of_memory(error: Exception) -> bool:
    """torch's own error, or rm.py's message in the place of it."""
    return isinstance(error, torch.OutOfMemoryError) or str(error).startswith("Memory ran out")


def free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
