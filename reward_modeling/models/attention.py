"""Attention over packed rows whose sequences share prefixes.

A packed row is one long row of tokens cut into spans. A span's queries see, causally, the keys of its prefix
(an earlier span, or none) followed by its own keys:

    row     [ prompt A ][ answer A1 ][ answer A2 ][ prompt B ][ answer B1 ] ...
    answer A2 sees      prompt A + answer A2, at the positions that it has in the sequence "prompt A, answer A2"

so each answer gets exactly what it would get in a row of its own, and the prompt is computed once. In the last
layer only the scored tokens matter, and only their queries are computed.

The function is registered under `SHARED_PREFIX` with transformers' AttentionInterface; the layout of the row
comes to it as the keyword argument `packed_layout` of the model's forward. Without a layout it is plain
attention, with transformers' own mask, so that the same model also takes ordinary padded batches.
"""

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from reward_modeling.models.packed_layout import PackedLayout
from reward_modeling.models.varlen_kernels import Kernel, choose_kernel

SHARED_PREFIX = "shared_prefix"

# Arguments that change the result and that no backend here computes: attention sinks, position biases, caches.
UNSUPPORTED_ARGUMENTS = ("s_aux", "position_bias", "cache")


def attention_by_span(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: PackedLayout,
    *,
    scaling: float,
    dropout: float = 0.0,
    window: int | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """The reference, and the fast way on a CPU: one scaled_dot_product_attention per span.

    Args:
        query: `(1, heads, tokens, head_dim)`; key and value `(1, key_value_heads, tokens, head_dim)`.

    Returns:
        `(1, tokens, heads, head_dim)`.
    """
    # split, not slices: its backward is one concatenation, where each slice's fills a row of zeros
    queries = query.split(layout.span_lengths, dim=2)
    keys = key.split(layout.span_lengths, dim=2)
    values = value.split(layout.span_lengths, dim=2)
    attend = _softcapped_attention if softcap is not None else _sdpa
    outputs = []
    for index, (span, prefix) in enumerate(zip(layout.spans, layout.prefix_spans, strict=True)):
        span_keys, span_values = keys[index], values[index]
        if prefix is not None:
            span_keys = torch.cat([keys[prefix], span_keys], dim=2)
            span_values = torch.cat([values[prefix], span_values], dim=2)
        mask = layout.causal_mask(span, window, query.device)
        outputs.append(attend(queries[index], span_keys, span_values, mask, scaling, dropout, softcap))
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()


def scored_attention_by_span(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: PackedLayout,
    *,
    scaling: float,
    dropout: float = 0.0,
    window: int | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """`attention_by_span` for the scored tokens alone. Returns `(1, responses, heads, head_dim)`."""
    keys = key.split(layout.span_lengths, dim=2)
    values = value.split(layout.span_lengths, dim=2)
    queries = query.index_select(2, layout.scored_positions(query.device)).split(1, dim=2)
    attend = _softcapped_attention if softcap is not None else _sdpa
    outputs = []
    for number, index in enumerate(layout.scored_spans):
        span_keys, span_values, prefix = keys[index], values[index], layout.prefix_spans[index]
        if prefix is not None:
            span_keys = torch.cat([keys[prefix], span_keys], dim=2)
            span_values = torch.cat([values[prefix], span_values], dim=2)
        if window is not None:  # the last query sees the last keys
            span_keys, span_values = span_keys[:, :, -window:], span_values[:, :, -window:]
        visible = torch.ones((1, span_keys.shape[2]), dtype=torch.bool, device=query.device)
        outputs.append(attend(queries[number], span_keys, span_values, visible, scaling, dropout, softcap))
    return torch.cat(outputs, dim=2).transpose(1, 2)


def _sdpa(query, key, value, mask, scaling, dropout, _softcap) -> torch.Tensor:
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _softcapped_attention(query, key, value, mask, scaling, dropout, softcap) -> torch.Tensor:
    """Gemma-2's softcap * tanh(scores / softcap), which scaled_dot_product_attention does not have."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    scores = softcap * torch.tanh(query @ key.transpose(2, 3) * scaling / softcap)
    if mask is None:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return F.dropout(weights, p=dropout, training=dropout > 0) @ value


def attention_variable_length(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: PackedLayout,
    *,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
    scored_only: bool = False,
    kernel: Kernel,
) -> torch.Tensor:
    """The whole row in one call of a kernel of `varlen_kernels`. Shapes as in `attention_by_span`.

    With `scored_only`, the queries of the scored tokens alone: `(1, responses, heads, head_dim)`.
    """
    lengths = layout.variable_length(query.device, scored_only)
    if scored_only:
        query = query.index_select(2, layout.scored_positions(query.device))
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if lengths.key_index is not None:
        key, value = key.index_select(0, lengths.key_index), value.index_select(0, lengths.key_index)
    left = -1 if window is None or window >= lengths.max_length_k else window - 1
    output = kernel(query.contiguous(), key.contiguous(), value.contiguous(), lengths, scaling, (left, 0), softcap)
    return output[None]


def shared_prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    packed_layout: PackedLayout | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: packed where there is a layout, plain attention otherwise."""
    unsupported = [name for name in UNSUPPORTED_ARGUMENTS if kwargs.get(name) is not None]
    if unsupported:
        raise ValueError(f"shared-prefix attention does not compute {unsupported}: use --batching padded")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if packed_layout is None:
        if attention_mask is not None and attention_mask.shape[-1] != key.shape[2]:
            raise ValueError("a packed row came without its layout: this model drops keyword arguments")
        return _plain_attention(module, query, key, value, attention_mask, scaling, dropout, softcap, **kwargs)
    scored_only = packed_layout.last_layer is not None and module.layer_idx == packed_layout.last_layer
    options = {"scaling": scaling, "window": sliding_window, "softcap": softcap}
    query, key, value = in_computed_dtype(query, key, value)
    kernel = packed_layout.kernel or choose_kernel(query, value, softcap, dropout)
    if kernel is not None:
        options |= {"scored_only": scored_only, "kernel": kernel}
        output = attention_variable_length(query, key, value, packed_layout, **options)
    else:
        by_span = scored_attention_by_span if scored_only else attention_by_span
        output = by_span(query, key, value, packed_layout, dropout=dropout, **options)
    if scored_only:
        positions = packed_layout.scored_positions(query.device)
        packed_layout.scored_tokens.positions = positions
        output = scatter_tokens(output, positions, query.shape[2])
    return output, None


def in_computed_dtype(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """What autocast would make of them: rotary positions in float32 make queries and keys float32 again.

    scaled_dot_product_attention casts by itself; a kernel that takes bfloat16 alone would never be chosen.
    """
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return list(tensors)
    return [tensor.to(torch.get_autocast_dtype(device)) for tensor in tensors]


def scatter_tokens(tokens: torch.Tensor, positions: torch.Tensor, length: int) -> torch.Tensor:
    """`(1, responses, ...)` at their places in a row of zeros, `(1, length, ...)`."""
    row = tokens.new_zeros((1, length, *tokens.shape[2:]))
    return row.index_copy(1, positions, tokens)


def _plain_attention(module, query, key, value, mask, scaling, dropout, softcap, **kwargs):
    if softcap is None:
        return sdpa_attention_forward(
            module, query, key, value, mask, dropout=dropout, scaling=scaling, is_causal=True, **kwargs
        )
    output = _softcapped_attention(query, key, value, mask, scaling, dropout, softcap)
    return output.transpose(1, 2).contiguous(), None


def packed_row_mask(device: torch.device) -> torch.Tensor:
    """The `attention_mask` to pass with a packed row, `(1, 1, 0, 0)`.

    transformers hands a four-dimensional mask through untouched, so no (tokens, tokens) mask is ever built for
    a packed row; its impossible size makes every other attention function fail on it, instead of attending
    without causality.
    """
    return torch.ones((1, 1, 0, 0), dtype=torch.bool, device=device)


def register_shared_prefix_attention() -> None:
    """Make `attn_implementation="shared_prefix"` known to transformers.

    The mask function goes under the same name: without one transformers passes no mask to padded batches and
    causality is lost without a word.
    """
    AttentionInterface.register(SHARED_PREFIX, shared_prefix_attention)
    AttentionMaskInterface.register(SHARED_PREFIX, sdpa_mask)
