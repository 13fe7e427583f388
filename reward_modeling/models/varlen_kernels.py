"""Attention kernels of a GPU for sequences of different lengths, behind one signature, and what they cannot do.

A kernel computes a whole packed row in one call:

    kernel(query, key, value, lengths, scaling, window, softcap)

takes and returns `(tokens, heads, head_dim)`; key and value may have fewer heads. Causality is aligned to the bottom
right of each span, so that its last query sees all its keys; `window` is (left, right) as flash attention counts, that
is without the query itself, (-1, 0) being plain causality.
"""

import functools
import importlib.util
import inspect
import logging
from collections.abc import Callable

import torch

from reward_modeling.models.packed_layout import VariableLength

logger = logging.getLogger(__name__)

Kernel = Callable[..., torch.Tensor]
HAS_FLASH_ATTN = importlib.util.find_spec("flash_attn") is not None

# Limits of FlashAttention-2, which is behind torch's varlen_attn as well (flash_api.cpp of both).
LARGEST_HEAD_DIM, HEAD_DIM_MULTIPLE = 256, 8
LEAST_CAPABILITY = (8, 0)


def choose_kernel(
    query: torch.Tensor, value: torch.Tensor, softcap: float | None, dropout: float = 0.0
) -> Kernel | None:
    """The kernel for these `(1, heads, tokens, head_dim)`, or None where attention is computed span by span."""
    if not query.is_cuda:
        return None
    capability = torch.cuda.get_device_capability(query.device)
    widths = (query.shape[-1], value.shape[-1])
    return kernel_for(query.dtype, *widths, softcapped=softcap is not None, dropped=dropout > 0, capability=capability)


@functools.cache
def kernel_for(
    dtype: torch.dtype,
    head_dim: int,
    value_head_dim: int,
    *,
    softcapped: bool,
    dropped: bool,
    capability: tuple[int, int],
) -> Kernel | None:
    """None, and why in the log, where no kernel computes this: span by span is as exact, and slower.

    The answer is kept, so that it is logged once.
    """
    if dtype not in (torch.float16, torch.bfloat16):
        reason = f"the kernels compute in bfloat16 and float16, and this is {str(dtype).removeprefix('torch.')}"
    elif head_dim > LARGEST_HEAD_DIM or head_dim % HEAD_DIM_MULTIPLE:
        reason = f"the kernels take heads of 8, 16, ... {LARGEST_HEAD_DIM} numbers, and these have {head_dim}"
    elif value_head_dim != head_dim:
        reason = f"the kernels take values as wide as keys, and these have {value_head_dim} and {head_dim} numbers"
    elif dropped:
        reason = "torch's kernel has no attention dropout"
    elif capability < LEAST_CAPABILITY:
        reason = f"the kernels need compute capability 8.0 (Ampere), and this GPU has {capability[0]}.{capability[1]}"
    elif not softcapped and {"scale", "window_size"} <= torch_varlen_arguments():
        return torch_varlen
    elif HAS_FLASH_ATTN:
        return flash_attn_varlen
    else:
        what = "soft cap" if softcapped else "scale and window"
        reason = f"varlen_attn of torch {torch.__version__} has no {what}, and flash-attn is not installed"
    logger.warning("Attention: a call for every span instead of one for all, since %s.", reason)
    return None


@functools.cache
def torch_varlen_arguments() -> frozenset[str]:
    """What this torch's `varlen_attn` can be told.

    Of its arguments torch 2.11 has `scale` and `window_size`, and takes fewer key heads unasked; later ones want
    `enable_gqa` for that.
    """
    from torch.nn.attention.varlen import varlen_attn

    return frozenset(inspect.signature(varlen_attn).parameters)


def torch_varlen(query, key, value, lengths: VariableLength, scaling, window, _softcap) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    options = {"scale": scaling, "window_size": window}
    if "enable_gqa" in torch_varlen_arguments():
        options["enable_gqa"] = query.shape[1] != key.shape[1]
    return varlen_attn(query, key, value, *lengths.arguments, **options)


def flash_attn_varlen(query, key, value, lengths: VariableLength, scaling, window, softcap) -> torch.Tensor:
    from flash_attn import flash_attn_varlen_func  # a GPU extra, see HAS_FLASH_ATTN

    options = {"softmax_scale": scaling, "causal": True, "window_size": window, "softcap": softcap or 0.0}
    return flash_attn_varlen_func(query, key, value, *lengths.arguments, **options)
