"""Time per part of a training step, from the operators that launched the GPU's kernels (on a CPU: from their own time).

part          operators
linear        matrix products, but those of the head
attention     flash, memory-efficient and other attention kernels
gathers       embeddings, keys and values by index, rewards by index, and their backward passes
head          matrix products with a single column: the score head
loss          log-sigmoid
optimizer     AdamW, gradient norm and clipping, zeroed gradients
casts, copies conversions of types, concatenations, filling with zeros, transfers
elementwise   the rest: norms, activations, rotary positions, residuals
"""

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

LINEAR, ATTENTION, GATHERS, HEAD, LOSS = "linear", "attention", "gathers", "head", "loss"
OPTIMIZER, COPIES, ELEMENTWISE = "optimizer", "casts, copies", "elementwise"
PARTS = (LINEAR, ATTENTION, GATHERS, HEAD, LOSS, OPTIMIZER, COPIES, ELEMENTWISE)
# Beginnings of operators' names, without "aten::"; the first that fits decides.
BEGINNINGS = (
    (
        ATTENTION,
        ("_flash_attention", "_scaled_dot_product", "_efficient_attention", "_cudnn_attention", "_varlen_attn"),
    ),
    (ATTENTION, ("_flash_attn", "softmax", "_softmax", "scaled_dot_product")),
    (LINEAR, ("mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "mv", "addmv", "_addmm", "mkldnn_linear")),
    (GATHERS, ("index", "_index", "embedding", "gather", "scatter", "_unsafe_index")),
    (LOSS, ("log_sigmoid",)),
    (OPTIMIZER, ("_fused_adam", "_foreach", "linalg_vector_norm", "_amp")),
    (COPIES, ("copy_", "_to_copy", "clone", "cat", "fill_", "zero_", "zeros", "contiguous", "Memcpy", "Memset")),
)
MATRIX_PRODUCTS = ("mm", "addmm", "mv", "addmv")


def new_profiler(device: torch.device) -> profile:
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    return profile(activities=activities, record_shapes=True)


def part_of(operator: str, shapes: list) -> str:
    """
    Args:
        shapes: of its inputs; those that are not tensors are empty.
    """
    name = operator.rsplit("::", 1)[-1]
    part = next((part for part, beginnings in BEGINNINGS if name.startswith(beginnings)), ELEMENTWISE)
    if name in MATRIX_PRODUCTS and any(1 in shape for shape in shapes if shape):
        return HEAD
    return part


def times(profiler: profile, device: torch.device) -> dict:
    """Seconds per part, the number of kernels, and the operators that took longest."""
    seconds, operators = dict.fromkeys(PARTS, 0.0), {}
    for event in profiler.key_averages(True):
        if event.device_type != DeviceType.CPU:
            continue  # the kernels themselves, counted with the operators that launched them
        took = (event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total) / 1e6
        if took > 0:
            part = part_of(event.key, event.input_shapes)
            seconds[part] += took
            name = f"{event.key} ({part})"
            operators[name] = operators.get(name, 0.0) + took
    longest = dict(sorted(operators.items(), key=lambda item: -item[1])[:25])
    kernels = sum(event.device_type == DeviceType.CUDA for event in profiler.events())
    return {"parts": seconds, "kernels": kernels, "operators": longest}
