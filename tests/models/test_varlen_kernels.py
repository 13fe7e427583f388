"""Which attention kernel is chosen, and what each version of torch is told. test_gpu_kernels runs the kernels."""

import logging
import math

import pytest
import torch
from exactness import (
    TOLERANCE,
    build_model,
    differences,
    mixed_groups,
    reference_varlen_kernel,
    rewards_and_gradients,
)
from torch.nn.attention import varlen

from reward_modeling.data.planning import PADDED
from reward_modeling.models import attention, varlen_kernels
from reward_modeling.models.attention import SHARED_PREFIX
from reward_modeling.models.packed_layout import PackedLayout, Span, VariableLength
from reward_modeling.models.varlen_kernels import flash_attn_varlen, kernel_for, torch_varlen, torch_varlen_arguments

AMPERE, TURING = (8, 0), (7, 5)


def computed(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale, window):
    """The reference, which is strict about what flash attention is strict about."""
    assert isinstance(window, tuple)  # varlen_attn compares it with (-1, 0)
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert max_q == cu_seq_q.diff().max() and max_k == cu_seq_k.diff().max()
    return reference_varlen_kernel(
        query, key, value, VariableLength(None, cu_seq_q, cu_seq_k, max_q, max_k), scale, window, None
    )


def varlen_attn_2_11(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1)
):
    """torch 2.11's signature: fewer key heads are taken as they are."""
    return computed(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale, window_size)


def varlen_attn_2_13(
    query,
    key,
    value,
    cu_seq_q,
    cu_seq_k,
    max_q,
    max_k,
    *,
    return_aux=None,
    scale=None,
    window_size=(-1, -1),
    enable_gqa=False,
    seqused_k=None,
    block_table=None,
    num_splits=None,
):
    """torch 2.13's signature: fewer key heads have to be asked for."""
    if not enable_gqa and query.size(1) != key.size(1):
        raise ValueError("Try setting enable_gqa=True for GQA.")
    return computed(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale, window_size)


def varlen_attn_2_10(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None):
    raise AssertionError("it has no scale and no window, and must not be called")


@pytest.fixture
def as_torch(monkeypatch):
    """Put another version's varlen_attn in the place of this one's."""

    def put(function):
        monkeypatch.setattr(varlen, "varlen_attn", function)
        torch_varlen_arguments.cache_clear()
        kernel_for.cache_clear()

    yield put
    torch_varlen_arguments.cache_clear()
    kernel_for.cache_clear()


@pytest.mark.parametrize("varlen_attn", [varlen_attn_2_11, varlen_attn_2_13])
@pytest.mark.parametrize("family", ["mistral", "gemma"])
def test_every_version_of_varlen_attn_is_told_the_same(family, varlen_attn, as_torch, monkeypatch):
    """Fewer key heads, windows and a scale, through a whole model: rewards and gradients of padded rows."""
    as_torch(varlen_attn)
    eager, fast = build_model(family, "eager"), build_model(family, SHARED_PREFIX)
    fast.load_state_dict(eager.state_dict())
    monkeypatch.setattr(attention, "choose_kernel", lambda *_: torch_varlen)
    reference = rewards_and_gradients(eager, PADDED, mixed_groups())
    assert max(differences(reference, rewards_and_gradients(fast, SHARED_PREFIX, mixed_groups()))) < TOLERANCE


def test_the_installed_torch_has_what_is_passed():
    """The signatures above are those of 2.11 and 2.13; this is the one that is here."""
    assert {"scale", "window_size"} <= torch_varlen_arguments()


def choose(dtype=torch.bfloat16, head_dim=128, value_head_dim=None, softcapped=False, dropped=False, capability=AMPERE):
    kernel_for.cache_clear()
    return kernel_for(
        dtype, head_dim, value_head_dim or head_dim, softcapped=softcapped, dropped=dropped, capability=capability
    )


@pytest.mark.parametrize("head_dim", [16, 64, 80, 128, 256])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_torch_s_kernel_where_it_computes_this(dtype, head_dim):
    assert choose(dtype, head_dim) is torch_varlen


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ({"dtype": torch.float32}, "float32"),
        ({"head_dim": 260}, "260"),
        ({"head_dim": 68}, "68"),
        ({"head_dim": 192, "value_head_dim": 128}, "128 and 192"),
        ({"capability": TURING}, "7.5"),
        ({"dropped": True}, "dropout"),
        ({"softcapped": True}, "soft cap"),
    ],
)
def test_span_by_span_where_no_kernel_computes_it_and_said_once(case, reason, monkeypatch, caplog):
    monkeypatch.setattr(varlen_kernels, "HAS_FLASH_ATTN", False)
    with caplog.at_level(logging.WARNING):
        assert choose(**case) is None
        options = {"softcapped": False, "dropped": False, "capability": AMPERE} | case
        head_dim = options.pop("head_dim", 128)
        kernel_for(options.pop("dtype", torch.bfloat16), head_dim, options.pop("value_head_dim", head_dim), **options)
    assert len(caplog.messages) == 1 and reason in caplog.text


def test_flash_attn_where_it_is_installed_and_torch_s_kernel_is_not_enough(as_torch, monkeypatch):
    monkeypatch.setattr(varlen_kernels, "HAS_FLASH_ATTN", True)
    assert choose(softcapped=True) is flash_attn_varlen
    assert choose() is torch_varlen
    assert choose(torch.float32) is None
    as_torch(varlen_attn_2_10)
    assert choose() is flash_attn_varlen
    monkeypatch.setattr(varlen_kernels, "HAS_FLASH_ATTN", False)
    assert choose() is None


@pytest.mark.parametrize("family", ["gemma", "qwen3"])
def test_under_autocast_the_kernel_gets_bfloat16(family, monkeypatch):
    """rm.py's default: weights in float32, computation in bfloat16. Rotary positions make float32 of it again."""
    seen = set()

    def look(query, value, *_):
        seen.update((query.dtype, value.dtype))

    monkeypatch.setattr(attention, "choose_kernel", look)
    with torch.autocast("cpu", torch.bfloat16):
        rewards_and_gradients(build_model(family, SHARED_PREFIX), SHARED_PREFIX, mixed_groups())
    assert seen == {torch.bfloat16}


def test_gathered_keys_one_by_one():
    """What `PackedLayout.variable_length` computes at once, counted out by hand."""
    spans = (Span(0, 3, 0, 0), Span(3, 5, 0, 3), Span(5, 6, 0, 3), Span(6, 8, 6, 6), Span(8, 9, 6, 8))
    every = PackedLayout(spans, (1, 2, 4)).variable_length(torch.device("cpu"))
    assert every.key_index.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 2, 5, 6, 7, 6, 7, 8]
    assert every.cu_seqlens_q.tolist() == [0, 3, 5, 6, 8, 9]
    assert every.cu_seqlens_k.tolist() == [0, 3, 8, 12, 14, 17]
    assert (every.max_length_q, every.max_length_k) == (3, 5)
    scored = PackedLayout(spans, (1, 2, 4), (4, 5, 8)).variable_length(torch.device("cpu"), reads_only=True)
    assert scored.key_index.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 5, 6, 7, 8]
    assert scored.cu_seqlens_q.tolist() == [0, 1, 2, 3]
    assert (scored.max_length_q, scored.max_length_k) == (1, 5)
    alone = PackedLayout((Span(0, 3, 0, 0), Span(3, 5, 3, 3))).variable_length(torch.device("cpu"))
    assert alone.key_index is None  # packed rows gather nothing


def test_the_reference_kernel_itself():
    """Two queries at the end of three keys, by hand: the first sees two keys, the last all three, or its window."""
    query, key = torch.zeros(2, 1, 8), torch.zeros(3, 1, 8)
    value = torch.arange(3.0)[:, None, None].expand(3, 1, 8)
    lengths = VariableLength(None, torch.tensor([0, 2]), torch.tensor([0, 3]), 2, 3)
    for window, expected in (((-1, 0), [0.5, 1.0]), ((1, 0), [0.5, 1.5]), ((0, 0), [1.0, 2.0])):
        output = reference_varlen_kernel(query, key, value, lengths, 1.0, window, None)[:, 0, 0]
        assert all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(output.tolist(), expected, strict=True))
