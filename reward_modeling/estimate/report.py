"""What a run will take, as a table, before it is launched: tokens, steps, memory by engine, hours.

Tokens and steps are exact: they come from the plan that the run itself will follow. Memory is that of
`estimate/memory.py`. Hours are operations over the GPUs' published speed, of which a share is assumed to be reached.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedConfig

from reward_modeling.data.collator import MicroBatchCollator
from reward_modeling.data.loader import PromptGroups
from reward_modeling.data.planning import heaviest_micro_batch, plan_epoch
from reward_modeling.display.text import Row, align, count
from reward_modeling.estimate.gpus import GPUS
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
from reward_modeling.estimate.tokens import UNITS_PADDED, EpochTokens, count_epoch
from reward_modeling.models.varlen_kernels import HAS_FLASH_ATTN

# Of a GPU's dense peak, what well-fed training of large models reaches. Assumed: nothing here was measured on a GPU.
UTILISATION = 0.4
GB = 1e9
COLUMNS = ("weights", "gradients", "optimizer", "buffers", "activations", "step")  # of EngineMemory, as shown


def estimate_run(
    args: Any, given: Mapping[str, Any], model: MetaModel, groups: PromptGroups, collator: MicroBatchCollator, unit: str
) -> str:
    """The table for the screen.

    Args:
        args: the flags of a training script.
        given: those that were passed, as they were passed.
        unit: what the objective counts, in the plural.
    """
    gpus = args.gpus or 1
    plan = plan_epoch(
        groups.sizes,
        units_per_step=args.pairs_per_step,
        max_tokens=args.max_tokens,
        batching=collator.batching,
        seed=args.order_seed,
        epoch=0,
    )
    epoch = count_epoch(plan, gpus)
    heaviest, _ = heaviest_micro_batch(plan, gpus)
    inputs = collator(heaviest, groups.read(heaviest))["model_inputs"]
    # unset, bf16 is on where the GPU has it, as all have that can be named
    mixed = "fp16" if args.fp16 else "bf16" if given.get("bf16", True) else None
    memories = memory_by_engine(args, mixed, model, inputs)
    config, sizes = model.config, model.sizes
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * epoch.steps)
    of_an_epoch = operations(config, sizes, epoch, args.gradient_checkpointing)
    trained = "all trained" if sizes.trained == sizes.weights else f"{sizes.trained:,} of them trained"
    lines = [f"Estimate for {config.model_type}, {sizes.weights:,} weights, {trained}, on {gpus} x {args.gpu}", ""]
    lines += [*_data_lines(epoch, steps, unit), ""]
    lines += [*_memory_lines(memories, args, mixed), *_attention_notes(config), ""]
    lines += _time_lines(of_an_epoch * steps / epoch.steps, args, mixed)
    return "\n".join(lines)


def memory_by_engine(args: Any, mixed: str | None, model: MetaModel, inputs: dict) -> list[EngineMemory]:
    """
    Args:
        mixed: bf16 or fp16 where the run computes in that type, whatever the weights are.
        inputs: of the model's forward, for the heaviest micro-batch.
    """
    gpus, loaded = args.gpus or 1, getattr(torch, args.model_dtype)
    computed = torch.bfloat16 if mixed else loaded
    # first with the weights as they are loaded: the other pass changes their type
    whole = model.pass_bytes(inputs, autocast=torch.bfloat16 if mixed else None)
    cut = model.pass_bytes(inputs, dtype=computed)
    return [
        engine_memory(
            engine,
            model.sizes,
            Precision(loaded.itemsize, computed.itemsize),
            gpus=gpus,
            moments=STATES_OF_OPTIMIZER[args.optim],
            pass_bytes=whole if holds_copies(engine) else cut,
        )
        for engine in engines(gpus, args.load_in_4bit)
    ]


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


def _data_lines(epoch: EpochTokens, steps: int, unit: str) -> list[str]:
    ratios = (tokens / epoch.computed for tokens in (epoch.as_rows, epoch.padded))
    as_rows, padded = (f"tokens, {ratio:.2f} times as many" for ratio in ratios)
    rows = [
        (unit, count(epoch.units), f"over {epoch.prompts:,} prompts"),
        ("tokens computed", count(epoch.computed), "every micro-batch of the first epoch, exactly"),
        (f"rows of all {unit}", count(epoch.as_rows), as_rows),
        (f"padded at {UNITS_PADDED} {unit}", count(epoch.padded), padded),
        ("optimizer steps", count(epoch.steps), f"{steps:,} in the whole run"),
        ("forward passes", count(epoch.passes), f"of each GPU; the heaviest has {epoch.heaviest:,} tokens"),
    ]
    return ["One epoch", *align(rows, words=(0, 2))]


def _memory_lines(memories: list[EngineMemory], args: Any, mixed: str | None) -> list[str]:
    memory_of_gpu = GPUS[args.gpu].gigabytes
    limit = (1 - LEFT_FREE) * memory_of_gpu
    checkpointing = "gradient checkpointing" if args.gradient_checkpointing else "no gradient checkpointing"
    rows = [("", *COLUMNS, "total", ""), *(_memory_row(memory, limit) for memory in memories)]
    return [
        f"Memory of one GPU in GB: {mixed or args.model_dtype}, {checkpointing}, {args.optim.value}. It fits into "
        f"{limit:.1f} of {memory_of_gpu:g} GB: the rest is for",
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


def _time_lines(total: float, args: Any, mixed: str | None) -> list[str]:
    if not mixed and args.model_dtype == "float32":
        return ["Hours: not stated for float32, since the GPUs' speeds are those of bfloat16"]
    gpus, teraflops = args.gpus or 1, GPUS[args.gpu].teraflops
    hours = total / (gpus * teraflops * 1e12 * UTILISATION) / 3600
    shown = f"{hours:,.1f}" if hours >= 1 else f"{hours:.2g}"
    return [
        f"Hours: {shown}, from {total:.2e} operations and an assumed utilisation of {UTILISATION:.0%} of {gpus} x "
        f"{teraflops:g} TFLOP/s",
        "  (dense bf16 peak). Without evaluation, saving and loading; not for offload, which waits for the host",
    ]
