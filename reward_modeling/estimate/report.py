"""What a run will take, as a table, before it is launched: tokens, steps, memory by engine, hours.

Tokens and steps are exact: they come from the plan that the run itself will follow. Memory is that of
`memory_estimate`. Hours are operations over the GPUs' published speed, of which a share is assumed to be reached.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig

from reward_modeling.data.collator import MicroBatchCollator
from reward_modeling.data.loader import PromptGroups
from reward_modeling.data.planning import EpochPlan, heaviest_micro_batch
from reward_modeling.display.text import Row, align, count
from reward_modeling.estimate.gpus import GPUS, Gpu
from reward_modeling.estimate.memory import (
    LEFT_FREE,
    STATES_OF_OPTIMIZER,
    EngineMemory,
    Precision,
    engine_memory,
    engines,
    holds_copies,
)
from reward_modeling.estimate.meta_model import MetaModel, ModelSizes
from reward_modeling.estimate.tokens import PAIRS_PADDED, EpochTokens, count_epoch
from reward_modeling.models.varlen_kernels import HAS_FLASH_ATTN

# Of a GPU's dense peak, what well-fed training of large models reaches. Assumed: nothing here was measured on a GPU.
UTILISATION = 0.4
GB = 1e9
COLUMNS = ("weights", "gradients", "optimizer", "buffers", "activations", "step")  # of EngineMemory, as shown


@dataclass(frozen=True)
class RunSettings:
    """What of a run's flags decides memory and time. `build()` is the model as the run would load it."""

    build: Callable[[], torch.nn.Module]
    dtype: torch.dtype  # of the weights as they are loaded
    mixed: str | None  # bf16 or fp16 where it computes in that type, whatever the weights are
    four_bit: bool
    gradient_checkpointing: bool
    optim: str
    epochs: float
    max_steps: int  # -1 for all steps of the epochs

    @property
    def computed(self) -> torch.dtype:
        return torch.bfloat16 if self.mixed else self.dtype


def estimate_run(
    groups: PromptGroups,
    plan: EpochPlan,
    collator: MicroBatchCollator,
    config: PreTrainedConfig,
    settings: RunSettings,
    *,
    gpus: int,
    gpu: str,
) -> str:
    """The table for the screen, of settings that `estimate_problems` has nothing against."""
    card = GPUS[gpu]
    epoch = count_epoch(plan, gpus)
    heaviest, _ = heaviest_micro_batch(plan, gpus)
    inputs = collator(heaviest, groups.read(heaviest))["model_inputs"]
    sizes, memories = memory_by_engine(settings, inputs, gpus)
    steps = settings.max_steps if settings.max_steps > 0 else math.ceil(settings.epochs * epoch.steps)
    of_an_epoch = operations(config, sizes, epoch, settings.gradient_checkpointing)
    trained = "all trained" if sizes.trained == sizes.weights else f"{sizes.trained:,} of them trained"
    lines = [f"Estimate for {config.model_type}, {sizes.weights:,} weights, {trained}, on {gpus} x {gpu}", ""]
    lines += [*_data_lines(epoch, steps), ""]
    lines += [*_memory_lines(memories, settings, card), *_attention_notes(config), ""]
    lines += _time_lines(of_an_epoch * steps / epoch.steps, settings, gpus, card)
    return "\n".join(lines)


def memory_by_engine(settings: RunSettings, inputs: dict, gpus: int) -> tuple[ModelSizes, list[EngineMemory]]:
    """
    Args:
        inputs: of the model's forward, for the heaviest micro-batch.
    """
    model = MetaModel(settings.build, settings.four_bit)
    # first with the weights as they are loaded: the other pass changes their type
    whole = model.pass_bytes(inputs, autocast=torch.bfloat16 if settings.mixed else None)
    cut = model.pass_bytes(inputs, dtype=settings.computed)
    memories = [
        engine_memory(
            engine,
            model.sizes,
            Precision(settings.dtype.itemsize, settings.computed.itemsize),
            gpus=gpus,
            moments=STATES_OF_OPTIMIZER[settings.optim],
            pass_bytes=whole if holds_copies(engine) else cut,
        )
        for engine in engines(gpus, settings.four_bit)
    ]
    return model.sizes, memories


def operations(config: PreTrainedConfig, sizes: ModelSizes, epoch: EpochTokens, checkpointing: bool) -> float:
    """Of one epoch: 6 for each token and weight, 8 with checkpointing, and those of attention.

    That the last layer computes the scored tokens alone is not taken off.
    """
    again = 1 if checkpointing else 0
    products = operations_of_products(sizes, epoch.computed, again)
    return products + operations_of_attention(config, epoch.attended, again)


def operations_of_products(sizes: ModelSizes, tokens: int, again: int) -> float:
    """2 for the forward pass, 2 `again` for a recomputation; backward 2 for inputs and 2 for trained weights."""
    return 2 * (2 + sizes.trained / sizes.weights + again) * sizes.multiplied * tokens


def operations_of_attention(config: PreTrainedConfig, attended: int, again: int) -> float:
    """4 for a query, a key and a number of their width in the forward pass, `again` in a recomputation, 8 backward."""
    text_config = config.get_text_config()
    heads = text_config.num_attention_heads
    width = heads * (getattr(text_config, "head_dim", None) or text_config.hidden_size // heads)
    return 4 * (3 + again) * text_config.num_hidden_layers * width * attended


def _data_lines(epoch: EpochTokens, steps: int) -> list[str]:
    ratios = (tokens / epoch.computed for tokens in (epoch.as_rows, epoch.padded))
    as_rows, padded = (f"tokens, {ratio:.2f} times as many" for ratio in ratios)
    rows = [
        ("pairs", count(epoch.pairs), f"over {epoch.prompts:,} prompts"),
        ("tokens computed", count(epoch.computed), "every micro-batch of the first epoch, exactly"),
        ("two rows per pair", count(epoch.as_rows), as_rows),
        (f"padded at {PAIRS_PADDED} pairs", count(epoch.padded), padded),
        ("optimizer steps", count(epoch.steps), f"{steps:,} in the whole run"),
        ("forward passes", count(epoch.passes), f"of each GPU; the heaviest has {epoch.heaviest:,} tokens"),
    ]
    return ["One epoch", *align(rows, words=(0, 2))]


def _memory_lines(memories: list[EngineMemory], settings: RunSettings, card: Gpu) -> list[str]:
    limit = (1 - LEFT_FREE) * card.gigabytes
    numbers = settings.mixed or str(settings.dtype).removeprefix("torch.")
    checkpointing = "gradient checkpointing" if settings.gradient_checkpointing else "no gradient checkpointing"
    rows = [("", *COLUMNS, "total", ""), *(_memory_row(memory, limit) for memory in memories)]
    return [
        f"Memory of one GPU in GB: {numbers}, {checkpointing}, {settings.optim}. It fits into {limit:.1f} of "
        f"{card.gigabytes:g} GB: the rest is for",
        "  CUDA, NCCL and fragmentation",
        *align(rows, words=(0, len(rows[0]) - 1)),
        "  activations: the most that a forward and backward pass over the heaviest micro-batch holds, with all that",
        "  comes and goes in it; step: what the optimizer's step holds instead of buffers and activations. Estimated,",
        "  not measured: reward_modeling/estimate/memory.py has the formulas.",
    ]


def _memory_row(memory: EngineMemory, limit: float) -> Row:
    parts = (*(getattr(memory, name) for name in COLUMNS), memory.total)
    verdict = "fits" if memory.total <= limit * GB else "does not fit"
    if memory.activations is None and verdict == "fits":
        verdict = "may fit: activations of experts are not known"
    host = f"; {memory.host / GB:.0f} GB of host memory" if memory.host else ""
    cells = ("?" if part is None else f"{part / GB:.1f}" for part in parts)
    return memory.engine, *cells, f"{verdict}{host}"


def _attention_notes(config: PreTrainedConfig) -> list[str]:
    softcap = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    if softcap is None or HAS_FLASH_ATTN:
        return []
    return [
        "  with flash-attn (requirements-gpu.txt), which is not installed here: without it, soft-capped attention",
        "  holds whole matrices of scores, and takes more",
    ]


def _time_lines(total: float, settings: RunSettings, gpus: int, card: Gpu) -> list[str]:
    if not settings.mixed and settings.dtype == torch.float32:
        return ["Hours: not stated for float32, since the GPUs' speeds are those of bfloat16"]
    hours = total / (gpus * card.teraflops * 1e12 * UTILISATION) / 3600
    shown = f"{hours:,.1f}" if hours >= 1 else f"{hours:.2g}"
    return [
        f"Hours: {shown}, from {total:.2e} operations and an assumed utilisation of {UTILISATION:.0%} of {gpus} x "
        f"{card.teraflops:g} TFLOP/s",
        "  (dense bf16 peak). Without evaluation, saving and loading; not for offload, which waits for the host",
    ]
