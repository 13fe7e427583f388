"""Attention over packed rows whose sequences share prefixes.

A packed row is one long row of tokens cut into spans. A span's queries see, causally, the keys of its prefix
(an earlier span with its own prefix, or none) followed by its own keys:

    row     [ prompt A ][ answer A1 ][ answer A2 ][ prompt B ][ answer B1 ] ...
    answer A2 sees      prompt A + answer A2, at the positions that it has in the sequence "prompt A, answer A2"

so each answer gets exactly what it would get in a row of its own, and the prompt is computed once. Where answers begin
alike, as solutions with the same first steps do, what they share is a span as well, and the spans are a tree. In the
last layer only the tokens that the head reads matter, and only their queries are computed.
"""

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from reward_modeling.common.words import SHARED_PREFIX
from reward_modeling.models.packed_layout import PackedLayout, Span
from reward_modeling.models.varlen_kernels import Kernel, choose_kernel

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
    reads_only: bool = False,
) -> torch.Tensor:
    """The reference, and the fast way on a CPU: one scaled_dot_product_attention per span, or per token that is read.

    Args:
        query: `(1, heads, tokens, head_dim)`; key and value `(1, key_value_heads, tokens, head_dim)`.
        reads_only: compute the queries of the tokens that are read and no others.

    Returns:
        `(1, tokens, heads, head_dim)`; with `reads_only` `(1, reads, heads, head_dim)`.
    """
    # split, not slices: its backward is one concatenation, where each slice's fills a row of zeros
    keys = key.split(layout.span_lengths, dim=2)
    values = value.split(layout.span_lengths, dim=2)
    if reads_only:
        queries = query.index_select(2, layout.read_index(query.device)).split(1, dim=2)
        spans, numbers = layout.read_spans, layout.span_of_read
    else:
        queries = query.split(layout.span_lengths, dim=2)
        spans, numbers = layout.spans, range(len(layout.spans))
    outputs = []
    for span_queries, span, number in zip(queries, spans, numbers, strict=True):
        span_keys, span_values = (_seen(tensors, layout, span, number) for tensors in (keys, values))
        if reads_only and window is not None:  # the last query sees the last keys
            span_keys, span_values = span_keys[:, :, -window:], span_values[:, :, -window:]
        mask = layout.causal_mask(span_queries.shape[2], span_keys.shape[2], window, query.device)
        if softcap is not None:
            output = _softcapped_attention(span_queries, span_keys, span_values, mask, scaling, dropout, softcap)
        else:
            options = {"is_causal": mask is None, "scale": scaling, "enable_gqa": query.shape[1] != key.shape[1]}
            output = F.scaled_dot_product_attention(span_queries, span_keys, span_values, mask, dropout, **options)
        outputs.append(output)
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()


def _seen(tensors: tuple[torch.Tensor, ...], layout: PackedLayout, span: Span, number: int) -> torch.Tensor:
    """Keys or values of what the span follows and of the span itself, up to the span's end."""
    own, before = tensors[number], layout.prefix_spans[number]
    if span.num_queries < own.shape[2]:
        own = own[:, :, : span.num_queries]
    return torch.cat([*(tensors[each] for each in before), own], dim=2) if before else own


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
    reads_only: bool = False,
    kernel: Kernel,
) -> torch.Tensor:
    """The whole row in one call of a kernel of `varlen_kernels`. Arguments and shapes as in `attention_by_span`."""
    lengths = layout.variable_length(query.device, reads_only)
    if reads_only:
        query = query.index_select(2, layout.read_index(query.device))
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
    """transformers' attention interface: packed where the model's forward was given a layout.

    Without one it is plain attention under transformers' own mask: the same model takes padded batches.
    """
    unsupported = [name for name in UNSUPPORTED_ARGUMENTS if kwargs.get(name) is not None]
    if unsupported:
        raise ValueError(f"shared-prefix attention does not compute {unsupported}: use --batching padded")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if packed_layout is None:
        if attention_mask is not None and attention_mask.shape[-1] != key.shape[2]:
            raise ValueError("a packed row came without its layout: this model drops keyword arguments")
        if softcap is None:
            options = kwargs | {"dropout": dropout, "scaling": scaling, "is_causal": True}
            return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        output = _softcapped_attention(query, key, value, attention_mask, scaling, dropout, softcap)
        return output.transpose(1, 2).contiguous(), None
    reads_only = packed_layout.last_layer is not None and module.layer_idx == packed_layout.last_layer
    options = {"scaling": scaling, "window": sliding_window, "softcap": softcap, "reads_only": reads_only}
    if torch.is_autocast_enabled(query.device.type):
        # Rotary positions in float32 make queries and keys float32 again. scaled_dot_product_attention casts by itself;
        # a kernel that takes bfloat16 alone would never be chosen.
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    kernel = packed_layout.kernel or choose_kernel(query, value, softcap, dropout)
    if kernel is not None:
        output = attention_variable_length(query, key, value, packed_layout, kernel=kernel, **options)
    else:
        output = attention_by_span(query, key, value, packed_layout, dropout=dropout, **options)
    if reads_only:
        positions = packed_layout.read_index(query.device)
        packed_layout.read_tokens.positions = positions
        output = scatter_tokens(output, positions, query.shape[2])
    return output, None


def scatter_tokens(tokens: torch.Tensor, positions: torch.Tensor, length: int) -> torch.Tensor:
    """`(1, reads, ...)` at their places in a row of zeros, `(1, length, ...)`."""
    row = tokens.new_zeros((1, length, *tokens.shape[2:]))
    return row.index_copy(1, positions, tokens)


def register_shared_prefix_attention() -> None:
    """Make `attn_implementation="shared_prefix"` known to transformers.

    The mask function goes under the same name: without one transformers passes no mask to padded batches and
    causality is lost without a word.
    """
    AttentionInterface.register(SHARED_PREFIX, shared_prefix_attention)
    AttentionMaskInterface.register(SHARED_PREFIX, sdpa_mask)
