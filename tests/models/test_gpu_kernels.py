"""The attention kernels of a GPU against a written-out reference, and whole models on packed rows in bfloat16.

    python -m pytest -m gpu tests/models/test_gpu_kernels.py

Each test runs on the CPU as well, with the written-out kernel in the place of the GPU's. It needs no datasets, no peft
and no deepspeed.
"""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from exactness import (
    PAD,
    build_model,
    differences,
    make_group,
    mixed_groups,
    reference_varlen_kernel,
    rewards_and_gradients,
)
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from reward_modeling.data.collator import MicroBatchCollator
from reward_modeling.data.planning import PACKED, PADDED, Chunk
from reward_modeling.models import attention, varlen_kernels
from reward_modeling.models.attention import (
    SHARED_PREFIX,
    attention_by_span,
    attention_variable_length,
)
from reward_modeling.models.packed_layout import PackedLayout, VariableLength
from reward_modeling.models.reward_model import ScoreHead

GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
DEVICES = ["cpu", pytest.param("cuda", marks=GPU)]
no_flash_attn = pytest.mark.skipif(not varlen_kernels.HAS_FLASH_ATTN, reason="flash-attn is not installed")
KERNELS = [
    pytest.param("by_span", "cpu", id="by_span-cpu"),
    pytest.param("torch", "cuda", id="torch", marks=GPU),
    pytest.param("flash_attn", "cuda", id="flash_attn", marks=[*GPU, no_flash_attn]),
    pytest.param("by_span", "cuda", id="by_span-cuda", marks=GPU),
]
SHAPES = [(8, 2, 64)]  # heads, key heads, numbers in a head
if torch.cuda.is_available():
    SHAPES = [(*heads, head_dim) for heads in ((4, 4), (8, 1), (8, 2)) for head_dim in (64, 128, 256)]
FUNCTIONS = {
    "written_out": reference_varlen_kernel,
    "torch": varlen_kernels.torch_varlen,
    "flash_attn": varlen_kernels.flash_attn_varlen,
}
# Of outputs and gradients, as a share of their norm. bfloat16 keeps 8 bits: one rounding is 0.0016, and span by span on
# a CPU the cases below came to 0.0073 at most.
BFLOAT16_TOLERANCE = 0.015


def layout_of(groups: list[dict], batching: str = SHARED_PREFIX) -> PackedLayout:
    chunks = [Chunk(number, 0, len(group["units"]), 0) for number, group in enumerate(groups)]
    return MicroBatchCollator(batching, PAD)(chunks, dict(enumerate(groups)))["model_inputs"]["packed_layout"]


def long_groups() -> list[dict]:
    """Lengths on both sides of the tiles of 64 and 128 that kernels work in, and a single token."""
    return [make_group(300, [1, 70, 129, 64], seed=1), make_group(17, [5, 200], seed=2), make_group(1, [1, 1], seed=3)]


def random_heads(layout: PackedLayout, heads: int, key_heads: int, head_dim: int, dtype, device) -> list[torch.Tensor]:
    """Query, key and value `(1, heads, tokens, head_dim)`, and the weight of each output in a loss."""
    generator = torch.Generator().manual_seed(0)
    tokens = sum(layout.span_lengths)
    shapes = [(heads, tokens, head_dim), *[(key_heads, tokens, head_dim)] * 2]
    inputs = [torch.randn(1, *shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes]
    return [*inputs, torch.randn(1, tokens, heads, head_dim, generator=generator).to(device, dtype)]


def outputs_and_gradients(name: str, inputs, layout, *, reads_only: bool, **options) -> list[torch.Tensor]:
    query, key, value, weight = inputs
    if name == "by_span":
        output = attention_by_span(query, key, value, layout, reads_only=reads_only, **options)
    else:
        kernel = FUNCTIONS[name] if isinstance(name, str) else name
        output = attention_variable_length(query, key, value, layout, reads_only=reads_only, kernel=kernel, **options)
    weight = weight[:, layout.read_index(weight.device)] if reads_only else weight
    gradients = torch.autograd.grad((output * weight).sum(), (query, key, value))
    return [output.detach(), *gradients]


def distance(result: list[torch.Tensor], reference: list[torch.Tensor]) -> float:
    """The largest, over outputs and gradients, of |result - reference| / |reference|."""
    pairs = zip(result, reference, strict=True)
    return max(((a.float() - b.float()).norm() / b.float().norm()).item() for a, b in pairs)


def aligned_top_left(query, key, value, lengths: VariableLength, scaling, _window, _softcap) -> torch.Tensor:
    """The mistake that a kernel could make where queries are fewer than keys: the first query at the first key."""
    outputs, repeats = [], query.shape[1] // key.shape[1]
    starts_q, starts_k = lengths.cu_seqlens_q.tolist(), lengths.cu_seqlens_k.tolist()
    for q0, q1, k0, k1 in zip(starts_q, starts_q[1:], starts_k, starts_k[1:], strict=False):
        q = query[q0:q1].transpose(0, 1)
        k, v = (part[k0:k1].repeat_interleave(repeats, dim=1).transpose(0, 1) for part in (key, value))
        visible = torch.ones(q1 - q0, k1 - k0, dtype=torch.bool, device=query.device).tril()
        outputs.append(F.scaled_dot_product_attention(q, k, v, attn_mask=visible, scale=scaling).transpose(0, 1))
    return torch.cat(outputs)


@pytest.mark.parametrize(
    ("window", "softcap"),
    [(None, None), (40, None), (2, None), (None, 2.0), (40, 2.0)],
    ids=["causal", "window", "window_of_two", "softcap", "window_softcap"],
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("name", "device"), KERNELS)
def test_kernels(name, device, shape, window, softcap):
    """Outputs and gradients of all tokens and of the scored ones, against the written-out kernel in float32."""
    if softcap is not None and name == "torch":
        pytest.skip("torch's kernel has no soft cap, and is not chosen then")
    layout = layout_of(long_groups())
    inputs = random_heads(layout, *shape, torch.float32 if device == "cpu" else torch.bfloat16, device)
    exact = [tensor.detach().float().requires_grad_() for tensor in inputs]
    tolerance = 1e-5 if device == "cpu" else BFLOAT16_TOLERANCE
    options = {"scaling": 1.5 * shape[-1] ** -0.5, "window": window, "softcap": softcap}
    other_window = {None: 100, 40: 30, 2: 3}[window]  # 3: one key too many
    changed = [options | {"window": other_window}]  # negative controls, which must not agree
    changed += [options | {"softcap": None}] if softcap else []
    for reads_only in (False, True):
        result = outputs_and_gradients(name, inputs, layout, reads_only=reads_only, **options)
        reference = outputs_and_gradients("written_out", exact, layout, reads_only=reads_only, **options)
        assert distance(result, reference) < tolerance
        for other in changed:
            wrong = outputs_and_gradients("written_out", exact, layout, reads_only=reads_only, **other)
            assert distance(result, wrong) > 3 * BFLOAT16_TOLERANCE


@pytest.mark.parametrize(("name", "device"), KERNELS)
def test_causality_is_aligned_to_the_bottom_right(name, device):
    """An answer's first query sees the whole prompt: where it would stand at the first key, the outputs are others."""
    layout = layout_of([make_group(100, [20, 3], seed=1)])
    inputs = random_heads(layout, 4, 2, 64, torch.float32 if device == "cpu" else torch.bfloat16, device)
    exact = [tensor.detach().float().requires_grad_() for tensor in inputs]
    options = {"scaling": 0.125, "window": None, "softcap": None, "reads_only": False}
    result = outputs_and_gradients(name, inputs, layout, **options)
    assert distance(result, outputs_and_gradients(aligned_top_left, exact, layout, **options)) > 0.3
    assert distance(result, outputs_and_gradients("written_out", exact, layout, **options)) < BFLOAT16_TOLERANCE


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", ["gemma", "gemma2", "mistral", "llama", "qwen3"])
def test_packed_rows_equal_padded_rows_in_float32(family, device):
    """As in test_exactness. On a GPU products are summed in other orders, and attention in float32 is made of three
    products in TF32, which keep 1e-6; TF32 alone would show as 3e-4."""
    eager, fast = build_model(family, "eager").to(device), build_model(family, SHARED_PREFIX).to(device)
    fast.load_state_dict(eager.state_dict())
    tolerance = 1e-5 if device == "cpu" else 5e-5
    reference = rewards_and_gradients(eager, PADDED, mixed_groups())
    for batching in (SHARED_PREFIX, PACKED):
        assert max(differences(reference, rewards_and_gradients(fast, batching, mixed_groups()))) < tolerance


def rounding_errors(model, exact, batching: str, *, autocast: bool, device: str) -> tuple[float, float]:
    """Of rewards and of all gradients, over eight draws: root of the summed squares, over that of the exact ones."""
    sums = [0.0] * 4
    for seed in range(8):
        groups = [make_group(37, [9, 21, 14], seed=3 * seed + 1), make_group(11, [30, 1, 12, 25], seed=3 * seed + 2)]
        rewards, gradients = rewards_and_gradients(exact, PADDED, groups)
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            rounded_rewards, rounded = rewards_and_gradients(model, batching, groups)
        # padded rows and packed rows put the completions of a group in the same order
        sums[0] += (rounded_rewards - rewards).square().sum().item()
        sums[1] += rewards.square().sum().item()
        sums[2] += sum((rounded[name].float() - gradients[name]).square().sum().item() for name in gradients)
        sums[3] += sum(gradient.square().sum().item() for gradient in gradients.values())
    return math.sqrt(sums[0] / sums[1]), math.sqrt(sums[2] / sums[3])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("autocast", [False, True], ids=["bfloat16_weights", "autocast"])
@pytest.mark.parametrize("family", ["gemma", "mistral"])
def test_bfloat16_rounds_no_more_than_padded_rows_do(family, autocast, device, monkeypatch):
    """Against float32 on the same weights: the errors of packed rows are at most 1.25 times those of padded rows.

    Measured on a CPU, over 4 to 16 draws, two families and both kinds of bfloat16: 0.82 to 1.10 times for rewards, 0.89
    to 1.09 times for gradients. Attention whose probabilities are rounded once more came to 1.2 times.
    """
    if device == "cpu":
        monkeypatch.setattr(attention, "choose_kernel", lambda *_: reference_varlen_kernel)
    exact = build_model(family, "eager").to(device)
    for module in exact.modules():  # weights that bfloat16 holds: only the computation rounds
        if not isinstance(module, ScoreHead):
            for weight in module.parameters(recurse=False):
                weight.data = weight.data.bfloat16().float()
    models = {}
    for batching, implementation in ((PADDED, "sdpa"), (PACKED, SHARED_PREFIX), (SHARED_PREFIX, SHARED_PREFIX)):
        model = build_model(family, implementation).to(device)
        model.load_state_dict(exact.state_dict())
        models[batching] = model if autocast else model.bfloat16()
        models[batching].score.float()
        models[batching].score.load_state_dict(exact.score.state_dict())
    errors = {
        batching: rounding_errors(model, exact, batching, autocast=autocast, device=device)
        for batching, model in models.items()
    }
    for batching in (PACKED, SHARED_PREFIX):
        for error, padded in zip(errors[batching], errors[PADDED], strict=True):
            assert error < 1.25 * padded
    assert errors[PADDED][1] > 1e-3  # it was computed in bfloat16
    monkeypatch.setattr(attention, "choose_kernel", lambda *_: aligned_top_left)
    wrong = rounding_errors(models[SHARED_PREFIX], exact, SHARED_PREFIX, autocast=autocast, device=device)
    assert min(wrong) > 3 * max(errors[PADDED])  # the comparison can fail


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("autocast", [False, True], ids=["bfloat16_weights", "autocast"])
def test_a_bfloat16_run_computes_with_a_kernel(autocast, monkeypatch):
    """And not span by span, which gives the same figures and takes many times as long."""
    chosen = []

    def choose(*arguments):
        chosen.append(varlen_kernels.choose_kernel(*arguments))
        return chosen[-1]

    monkeypatch.setattr(attention, "choose_kernel", choose)
    model = build_model("mistral", SHARED_PREFIX).to("cuda")
    model = model if autocast else copy.deepcopy(model).bfloat16()
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        rewards_and_gradients(model, SHARED_PREFIX, mixed_groups())
    assert set(chosen) == {varlen_kernels.torch_varlen}


class Operations(TorchDispatchMode):
    """The names of what was called."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def forward_on_fake_cuda(family: str, function=None) -> tuple[torch.Tensor, list[str]]:
    """Rewards without numbers in them, by the shapes that each operation would give on a GPU, and the operations."""
    groups = mixed_groups()
    chunks = [Chunk(number, 0, len(group["units"]), 0) for number, group in enumerate(groups)]
    with FakeTensorMode(allow_non_fake_inputs=True), Operations() as operations:
        with torch.device("cuda"):
            model = build_model(family, SHARED_PREFIX)
        batch = MicroBatchCollator(SHARED_PREFIX, PAD)(chunks, dict(enumerate(groups)))["model_inputs"]
        inputs = {name: value.to("cuda") if torch.is_tensor(value) else value for name, value in batch.items()}
        operations.names.clear()
        rewards = model(**inputs).logits
        if function is not None:
            function(rewards)
    return rewards, operations.names


@pytest.mark.skipif(torch.version.cuda is None, reason="this torch was built without CUDA")
@pytest.mark.parametrize("family", ["gemma", "mistral", "llama", "qwen3"])
def test_a_forward_pass_waits_for_nothing(family, monkeypatch):
    """On tensors that are a GPU's in name alone, so that no GPU is needed: a kernel call for each layer, arguments that
    this torch's kernel takes, and no number that Python would have to wait for: reading one raises."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)  # which is not there for them
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        rewards, names = forward_on_fake_cuda(family)
        with pytest.raises(DataDependentOutputException):
            forward_on_fake_cuda(family, lambda rewards: rewards.sum().item())
    finally:
        torch.set_default_dtype(default)
    assert rewards.shape == (18, 1) and rewards.is_cuda and rewards.dtype == torch.float32
    assert names.count("_varlen_attn") == build_model(family, SHARED_PREFIX).config.num_hidden_layers
