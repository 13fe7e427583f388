"""What a run will take, as a table, before it is launched: tokens, steps, memory by engine, hours.

Tokens and steps are exact: they come from the plan that the run itself will follow. Memory is that of
`estimate/memory.py`. Hours are operations over the GPUs' published speed, of which a share is assumed to be reached.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig

from reward_modeling.data.collator import MicroBatchCollator
from reward_modeling.data.loader import PromptGroups
from reward_modeling.data.micro_batches import activation_size, block_shapes, computed_tokens
from reward_modeling.data.planning import PACKED, PADDED, Chunk, EpochPlan, GroupSizes, heaviest_micro_batch, plan_epoch
from reward_modeling.data.shared_beginnings import shared_among
from reward_modeling.display.page import render
from reward_modeling.display.text import Row, Rows, align, count
from reward_modeling.estimate.memory import (
    GPUS,
    LEFT_FREE,
    STATES_OF_OPTIMIZER,
    EngineMemory,
    engine_memory,
    engines,
    holds_copies,
)
from reward_modeling.estimate.meta_model import MetaModel, ModelSizes
from reward_modeling.models.varlen_kernels import HAS_FLASH_ATTN

# Of a GPU's dense peak, what well-fed training of large models reaches. Assumed: nothing here was measured on a GPU.
UTILISATION = 0.4
UNITS_PADDED = 8  # in a padded batch, for comparison
GB = 1e9
COLUMNS = ("weights", "gradients", "optimizer", "buffers", "activations", "step")  # of EngineMemory, as shown


def estimate_run(
    args: Any, given: Mapping[str, Any], model: MetaModel, groups: PromptGroups, collator: MicroBatchCollator, unit: str
) -> str:
    """The tables for the screen; templates/estimate.txt has their words.

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
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * epoch.steps)
    # that the last layer computes the scored tokens alone is not taken off
    again = 1 if args.gradient_checkpointing else 0
    products = operations_of_products(model.sizes, epoch.computed, again)
    operations = (products + operations_of_attention(model.config, epoch.attended, again)) * steps / epoch.steps
    gpu = GPUS[args.gpu]
    limit = (1 - LEFT_FREE) * gpu.gigabytes
    soft_cap = getattr(model.config.get_text_config(), "attn_logit_softcapping", None)
    text = render(
        "estimate/templates/estimate.txt",
        args=args,
        mixed=mixed,
        model=model,
        gpus=gpus,
        gpu=gpu,
        limit=limit,
        align=align,
        epoch_rows=_epoch_rows(epoch, steps, unit),
        memory_rows=[("", *COLUMNS, "total", ""), *(_memory_row(memory, limit) for memory in memories)],
        lacks_flash_attention=soft_cap is not None and not HAS_FLASH_ATTN,
        operations=operations,
        utilisation=UTILISATION,
        hours=operations / (gpus * gpu.teraflops * 1e12 * UTILISATION) / 3600,
    )
    return text.rstrip()


def memory_by_engine(args: Any, mixed: str | None, model: MetaModel, inputs: dict) -> list[EngineMemory]:
    """The run computes in `mixed`, bf16 or fp16, whatever the weights are; `inputs` are the heaviest micro-batch's."""
    gpus, loaded = args.gpus or 1, getattr(torch, args.model_dtype)
    computed = torch.bfloat16 if mixed else loaded
    # first with the weights as they are loaded: the other pass changes their type
    whole = model.pass_bytes(inputs, autocast=torch.bfloat16 if mixed else None)
    cut = model.pass_bytes(inputs, dtype=computed)
    return [
        engine_memory(
            engine,
            model.sizes,
            loaded=loaded.itemsize,
            computed=computed.itemsize,
            gpus=gpus,
            moments=STATES_OF_OPTIMIZER[args.optim],
            pass_bytes=whole if holds_copies(engine) else cut,
        )
        for engine in engines(gpus, args.load_in_4bit)
    ]


@dataclass(frozen=True)
class EpochTokens:
    """Counts of one epoch, over all GPUs."""

    units: int
    prompts: int
    computed: int
    as_rows: int  # every unit as rows of its own without padding, also where units share an answer
    padded: int  # the same, padded in batches of UNITS_PADDED units
    attended: int  # combinations of a query and a key that it sees, in one layer
    steps: int
    passes: int  # forward passes of one GPU
    heaviest: int  # tokens of the heaviest of them


def count_epoch(plan: EpochPlan, gpus: int) -> EpochTokens:
    """Every micro-batch of the epoch, as the data loaders of so many GPUs make it."""
    sizes = plan.sizes
    computed = attended = passes = 0
    heaviest = (0.0, 0)  # what its activations take, and its tokens
    for step in range(len(plan)):
        processes = plan.micro_batches(step, gpus)
        passes += len(processes[0])
        for micro_batch in itertools.chain.from_iterable(processes):
            tokens = computed_tokens(micro_batch)
            computed, heaviest = computed + tokens, max(heaviest, (activation_size(micro_batch), tokens))
            if plan.batching == PADDED:  # in full, padding and later tokens too
                attended += sum(rows * length**2 for rows, length in block_shapes(micro_batch))
            else:
                attended += sum(_attended(sizes, plan.batching, chunk) for chunk in micro_batch)
    rows, longest, members = _unit_rows(plan)
    batches = range(0, len(rows), UNITS_PADDED)
    return EpochTokens(
        units=sizes.num_units,
        prompts=int((sizes.units_per_group > 0).sum()),
        computed=computed,
        as_rows=int(rows.sum()),
        padded=int((np.maximum.reduceat(longest, batches) * np.add.reduceat(members, batches)).sum()),
        attended=attended,
        steps=len(plan),
        passes=passes,
        heaviest=heaviest[1],
    )


def _unit_rows(plan: EpochPlan) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(units,)` each, in the order of training: tokens of a unit's rows, tokens of the longest one, number of rows."""
    sizes, starts = plan.sizes, plan.sizes.member_offsets[:-1]
    members = np.diff(sizes.member_offsets)
    rows = np.repeat(sizes.prefix_lengths[sizes.group_of_unit], members) + sizes.completion_tokens.astype(np.int64)
    order = np.concatenate([sizes.unit_offsets[group] + np.arange(first, end) for group, first, end in plan.pieces])
    return np.add.reduceat(rows, starts)[order], np.maximum.reduceat(rows, starts)[order], members[order]


def _attended(sizes: GroupSizes, batching: str, chunk: Chunk) -> int:
    """Half of queries x keys of packed rows, which causality leaves. Windows are not looked at."""
    used = np.unique(sizes.group_members(chunk.group, chunk.unit_start, chunk.unit_end))
    prefix = int(sizes.prefix_lengths[chunk.group])
    completions = sizes.completion_lengths[sizes.completion_offsets[chunk.group] + used].astype(np.int64)
    if batching == PACKED:
        return len(completions) * prefix * prefix // 2 + int((completions * (prefix + completions // 2)).sum())
    of_group = sizes.shared_lengths[sizes.completion_offsets[chunk.group] : sizes.completion_offsets[chunk.group + 1]]
    shared = np.array(shared_among(of_group, used.tolist()), dtype=np.int64)
    own = completions - shared
    return prefix * prefix // 2 + int((own * (prefix + shared + own // 2)).sum())


def operations_of_products(sizes: ModelSizes, tokens: int, again: int) -> float:
    """2 for the forward pass, 2 `again` for a recomputation; backward 2 for inputs and 2 for trained weights."""
    return 2 * (2 + sizes.trained / sizes.weights + again) * sizes.multiplied * tokens


def operations_of_attention(config: PreTrainedConfig, attended: int, again: int) -> float:
    """4 for a query, a key and a number of their width in the forward pass, `again` in a recomputation, 8 backward."""
    text_config = config.get_text_config()
    heads = text_config.num_attention_heads
    width = heads * (getattr(text_config, "head_dim", None) or text_config.hidden_size // heads)
    return 4 * (3 + again) * text_config.num_hidden_layers * width * attended


def _epoch_rows(epoch: EpochTokens, steps: int, unit: str) -> Rows:
    ratios = (tokens / epoch.computed for tokens in (epoch.as_rows, epoch.padded))
    as_rows, padded = (f"tokens, {ratio:.2f} times as many" for ratio in ratios)
    return [
        (unit, count(epoch.units), f"over {epoch.prompts:,} prompts"),
        ("tokens computed", count(epoch.computed), "every micro-batch of the first epoch, exactly"),
        (f"rows of all {unit}", count(epoch.as_rows), as_rows),
        (f"padded at {UNITS_PADDED} {unit}", count(epoch.padded), padded),
        ("optimizer steps", count(epoch.steps), f"{steps:,} in the whole run"),
        ("forward passes", count(epoch.passes), f"of each GPU; the heaviest has {epoch.heaviest:,} tokens"),
    ]


def _memory_row(memory: EngineMemory, limit: float) -> Row:
    parts = (*(getattr(memory, name) for name in COLUMNS), memory.total)
    verdict = "fits" if memory.total <= limit * GB else "does not fit"
    if memory.activations is None and verdict == "fits":
        verdict = "may fit: activations of experts are not known"
    host = f"; {memory.host / GB:.0f} GB of host memory" if memory.host else ""
    cells = ("?" if part is None else f"{part / GB:.1f}" for part in parts)
    return memory.engine, *cells, f"{verdict}{host}"
