"""Memory of one GPU by engine. Estimates, not measurements: no GPU was at hand where they were made.

W are the weights of the model, T those of them that are trained (with an adapter few), N the GPUs. AdamW keeps two
float32 moments. Below are the bytes for bf16 (--bf16 true); `engine_memory` also does float32, adapters and SGD.

    engine     weights              gradients   optimizer   buffers at their largest
    single     4 W                  4 T         8 T
    DDP        4 W                  4 T         8 T         4 T   buckets, which stay: a second copy of the gradients
    ZeRO-2     2 W + 4 T/N          4 T/N       8 T/N       two buckets of deepspeed_2.json in bf16
    ZeRO-3     2 W/N + 4 T/N        4 T/N       8 T/N       2 min(W, max(E, 2 L, 1e9)) + 4 L
    FSDP2      4 W/N                4 T/N       8 T/N       2 (E + 2 L) + 6 L
    offload    -                    -           -           as ZeRO-3; the rest is in host memory

DeepSpeed holds float32 weights (4 T/N) beside those in bf16, and float32 gradients ("grad_accum_dtype"). E are the
weights of the embedding, L those of the largest layer. ZeRO-3 holds gathered weights up to stage3_max_live_parameters
(1e9 unless set), or two layers, or the embedding; and the gradients of two layers. FSDP2 holds the root of the model,
which has the embedding, during the whole pass, two layers (the next one is gathered before it is needed), and the
gradients of one layer, 2 L, with their float32 copy, 4 L. With --model_dtype bfloat16 single and DDP hold all of it in
bfloat16.

To this comes one forward and backward pass over the heaviest micro-batch (`MetaModel.pass_bytes`): the model itself is
run on tensors without memory, so that every activation, recomputation and copy is in it.

The optimizer's step is another moment, without activations: DeepSpeed then holds a second copy of the float32
gradients, 4 T/N under ZeRO-2, of at most 1e9 of them under ZeRO-3 (its sub_group_size). The larger of the two moments
counts.

tests/estimate/test_memory_estimate.py compares this with the tensors of tiny runs over two processes. Weights,
gradients and optimizer are right to 0.1% (an engine pads what it cuts). The pass is right to the byte in one process,
and to 1% under DDP and ZeRO-2, whose buckets are known (the loss, and masks that a GPU does not have); the buffers of
ZeRO-3 and FSDP2 are upper bounds. In the first pass of a step single and DDP have no gradients yet: the estimate is
that of a later one. Not in it: the CUDA context, libraries and NCCL (1 to 2 GB), and fragmentation, for which a tenth
is left free.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reward_modeling.estimate.meta_model import ModelSizes  # with torch, which --help does without

ROOT = Path(__file__).resolve().parents[2]
LEFT_FREE = 0.1  # of a GPU's memory
LIVE_PARAMETERS = SUB_GROUP = 1_000_000_000  # DeepSpeed's stage3_max_live_parameters and sub_group_size, unless set
SINGLE, DDP, ZERO2, ZERO3, FSDP2, OFFLOAD = "single GPU", "DDP", "ZeRO-2", "ZeRO-3", "FSDP2", "ZeRO-3 + offload"
# What an optimizer keeps per weight, in bytes for each byte of the weight. Others are not foreseen.
STATES_OF_OPTIMIZER = {"adamw_torch": 2, "adamw_torch_fused": 2, "adamw_apex_fused": 2, "sgd": 0}


@dataclass(frozen=True)
class Gpu:
    """What the maker publishes. What the driver reports of the memory is never below it: makers count in 2^30 bytes,
    or take their error correction off."""

    gigabytes: float  # of 10^9 bytes
    teraflops: float  # dense bfloat16 operations per second with float32 sums


# From the data sheets; where a sheet has the figure with sparsity alone, half of it.
GPUS = {
    "a10g-24g": Gpu(24, 70),
    "a40-48g": Gpu(48, 149.7),
    "a6000-48g": Gpu(48, 154.8),
    "a100-40g": Gpu(40, 312),
    "a100-80g": Gpu(80, 312),
    "b200-180g": Gpu(180, 2250),
    "h100-80g": Gpu(80, 989.4),
    "h200-141g": Gpu(141, 989.4),
    "l4-24g": Gpu(24, 121),
    "l40s-48g": Gpu(48, 362),
    "rtx3090-24g": Gpu(24, 71),
    "rtx4090-24g": Gpu(24, 165.2),
}


@dataclass(frozen=True)
class EngineMemory:
    """Bytes on one GPU by part, and in host memory over all processes.

    `buffers` and `activations` are those of a forward and backward pass, and None where they are not known; `step` is
    what the optimizer's step holds instead of them.
    """

    engine: str
    weights: float = 0
    gradients: float = 0
    optimizer: float = 0
    buffers: float = 0
    activations: float | None = 0
    step: float = 0
    host: float = 0

    @property
    def states(self) -> float:
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> float:
        """At the moment that takes the most."""
        return self.states + max(self.buffers + (self.activations or 0), self.step)


def engines(gpus: int, four_bit: bool) -> list[str]:
    """What a run on so many GPUs can be launched with; weights in four bits cannot be cut."""
    if four_bit:
        return [SINGLE if gpus == 1 else DDP]
    return [SINGLE, OFFLOAD] if gpus == 1 else [DDP, ZERO2, ZERO3, FSDP2, OFFLOAD]


def holds_copies(engine: str) -> bool:
    """Whether each GPU has the whole model as it was loaded, and autocast computes in another type."""
    return engine in (SINGLE, DDP)


def engine_memory(
    engine: str,
    sizes: "ModelSizes",
    *,
    loaded: int,
    computed: int,
    gpus: int,
    moments: int,
    pass_bytes: float | None,
) -> EngineMemory:
    """
    Args:
        loaded, computed: bytes of a weight as it is loaded, and as it is computed with.
        moments: numbers that the optimizer keeps for each trained weight.
        pass_bytes: `MetaModel.pass_bytes` of the heaviest micro-batch: with autocast for the engines that
            `holds_copies` is true of, and with weights of the computed type for the others.
    """
    if holds_copies(engine):
        states = (sizes.weight_bytes, sizes.trained_bytes, moments * sizes.trained_bytes)
        buckets = sizes.trained_bytes if engine == DDP else 0
        return EngineMemory(engine, *states, buckets, pass_bytes, step=buckets)
    if engine == FSDP2:
        number = loaded if loaded == computed else 4  # accelerate makes float32 of weights that are trained in bf16
        weights = (loaded * sizes.frozen + number * sizes.trained) / gpus
        gradients = number * sizes.trained / gpus
        buffers = computed * (sizes.embedding + 2 * sizes.layer) + (computed + 4) * sizes.trained_layer
        return EngineMemory(engine, weights, gradients, moments * gradients, buffers, pass_bytes)
    share = 4 * sizes.trained / gpus  # DeepSpeed's float32 gradients, and the weights that the optimizer holds
    if engine == ZERO2:
        bucket = json.loads((ROOT / "deepspeed_2.json").read_text())["zero_optimization"]["reduce_bucket_size"]
        weights, buffers = computed * sizes.weights + share, 2 * computed * bucket
        return EngineMemory(engine, weights, share, moments * share, buffers, pass_bytes, step=share)
    # in float32 the weights that are cut are those that the optimizer holds
    weights = computed * sizes.weights / gpus + (share if computed < 4 else 0)
    gathered = min(sizes.weights, max(sizes.embedding, 2 * sizes.layer, LIVE_PARAMETERS))
    buffers = computed * (gathered + 2 * sizes.trained_layer)
    if engine == OFFLOAD:  # the gradients are in host memory twice: as they come in, and as the optimizer takes them
        host = gpus * (weights + (2 + moments) * share)
        return EngineMemory(engine, buffers=buffers, activations=pass_bytes, host=host)
    return EngineMemory(engine, weights, share, moments * share, buffers, pass_bytes, step=min(share, 4 * SUB_GROUP))
