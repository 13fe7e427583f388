"""GPUs by name: memory and speed as their makers publish them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """`gigabytes` (10^9 bytes) of memory, and dense bfloat16 operations per second with float32 sums, in 10^12.

    What the driver reports is never below the first: makers count in 2^30 bytes, or take their error correction off.
    """

    gigabytes: float
    teraflops: float


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
