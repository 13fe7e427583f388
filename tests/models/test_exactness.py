"""The fast paths against the obvious reference: one padded row per answer, eager attention, float32."""

import pytest
import torch
from exactness import (
    PAD,
    TOLERANCE,
    build_model,
    differences,
    make_group,
    mixed_groups,
    reference_varlen_kernel,
    rewards_and_gradients,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reward_modeling.data.collator import MicroBatchCollator
from reward_modeling.data.planning import PACKED, PADDED, Chunk
from reward_modeling.data.shared_beginnings import shared_with_previous
from reward_modeling.models import attention
from reward_modeling.models.attention import SHARED_PREFIX
from reward_modeling.models.packed_layout import PackedLayout
from reward_modeling.objectives.bradley_terry import bradley_terry_loss

DENSE = ["gemma", "gemma2", "gemma3_text", "mistral", "llama", "phi3", "qwen2", "qwen3"]
FAMILIES = [*DENSE, "mixtral", "qwen2_moe", "qwen3_moe"]


@pytest.fixture(scope="module")
def models():
    """(eager, shared prefix) of each family with the same weights, built once."""
    built: dict[str, tuple] = {}

    def get(family: str):
        if family not in built:
            eager, fast = build_model(family, "eager"), build_model(family, SHARED_PREFIX)
            fast.load_state_dict(eager.state_dict())
            built[family] = (eager, fast)
        return built[family]

    return get


@pytest.mark.parametrize("batching", [SHARED_PREFIX, PACKED])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_rows_equal_padded_rows(models, family, checkpointing, batching):
    eager, fast = models(family)
    if checkpointing:
        fast.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    try:
        fast_result = rewards_and_gradients(fast, batching, mixed_groups())
    finally:
        fast.gradient_checkpointing_disable()
    reference = rewards_and_gradients(eager, PADDED, mixed_groups())
    reward_difference, gradient_difference = differences(reference, fast_result)
    assert reward_difference < TOLERANCE
    assert gradient_difference < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_negative_control_shifted_spans_fail(models, family):
    """The comparison above can fail: spans that are shifted by one token do not pass it."""
    eager, fast = models(family)
    groups = [make_group(40, [20, 20], seed=1)]
    group_start = len(groups[0]["prefix_ids"])

    def shift(layout: PackedLayout) -> PackedLayout:
        prefix, first, second = layout.spans
        assert first.prefix_end == group_start
        spans = (prefix, first._replace(end=first.end + 1), second._replace(start=second.start + 1))
        ends = tuple(spans[number].end - 1 for number in layout.completion_spans)
        return PackedLayout(spans, layout.completion_spans, ends)

    reference = rewards_and_gradients(eager, PADDED, groups)
    reward_difference, gradient_difference = differences(
        reference, rewards_and_gradients(fast, SHARED_PREFIX, groups, layout_change=shift)
    )
    assert reward_difference > 100 * TOLERANCE
    assert gradient_difference > 100 * TOLERANCE


@pytest.mark.parametrize("family", ["mistral", "mixtral", "phi3", "gemma2"])
def test_negative_control_ignored_window_or_softcap_fails(models, family, monkeypatch):
    """The windows and soft caps of these tiny models matter to the comparison."""
    eager, fast = models(family)
    reference = rewards_and_gradients(eager, PADDED, mixed_groups())
    by_span = attention.attention_by_span
    for ignored in ["window", "softcap"] if family == "gemma2" else ["window"]:
        with monkeypatch.context() as patch:
            patch.setattr(
                attention,
                "attention_by_span",
                lambda *args, i=ignored, **options: by_span(*args, **{**options, i: None}),
            )
            assert (
                differences(reference, rewards_and_gradients(fast, SHARED_PREFIX, mixed_groups()))[0] > 100 * TOLERANCE
            )


def tree_group(seed: int) -> dict:
    """A prompt, three beginnings below it and below one of another, and completions of each."""
    drawn = iter(make_group(12, [20, 30, 10, 9, 40, 8, 17], seed=seed)["completion_ids"])
    one, deeper, *ends = drawn
    completions = sorted([one + deeper + ends[0], one + deeper + ends[1], one + ends[2], ends[3], ends[4]])
    group = make_group(12, [1] * len(completions), seed=seed)
    shared = shared_with_previous(completions, 0)
    assert sorted(shared) == [0, 0, 0, 20, 50]
    return group | {"completion_ids": completions, "shared_lengths": shared}


@pytest.mark.parametrize("kernel", [None, reference_varlen_kernel])
@pytest.mark.parametrize("family", FAMILIES)
def test_trees_of_shared_beginnings_equal_padded_rows(models, family, kernel):
    """Windows reach beyond a segment here, into what it follows."""
    eager, fast = models(family)
    groups = [tree_group(seed=1), make_group(5, [7, 3], seed=2), tree_group(seed=3)]

    def with_kernel(layout: PackedLayout) -> PackedLayout:
        layout.kernel = kernel
        return layout

    fast_result = rewards_and_gradients(fast, SHARED_PREFIX, groups, layout_change=with_kernel)
    assert max(differences(rewards_and_gradients(eager, PADDED, groups), fast_result)) < TOLERANCE


@pytest.mark.parametrize("family", DENSE)
def test_negative_control_a_branch_that_forgets_the_trunk_fails(models, family):
    eager, fast = models(family)
    groups = [tree_group(seed=1)]

    def without_trunk(layout: PackedLayout) -> PackedLayout:
        deep = max(range(len(layout.spans)), key=lambda number: len(layout.prefix_spans[number]))
        trunk = layout.spans[layout.prefix_spans[deep][-2]]
        spans = list(layout.spans)
        spans[deep] = spans[deep]._replace(prefix_start=trunk.start, prefix_end=trunk.end)
        return PackedLayout(tuple(spans), layout.completion_spans, layout.read_positions)

    fast_result = rewards_and_gradients(fast, SHARED_PREFIX, groups, layout_change=without_trunk)
    assert min(differences(rewards_and_gradients(eager, PADDED, groups), fast_result)) > 100 * TOLERANCE


def test_a_completion_may_begin_with_another(models):
    eager, fast = models("gemma")
    group = make_group(10, [4, 9], seed=5)
    group["completion_ids"][1][:4] = group["completion_ids"][0]
    reference = rewards_and_gradients(eager, PADDED, [group])
    assert max(differences(reference, rewards_and_gradients(fast, SHARED_PREFIX, [group]))) < TOLERANCE


def test_ordinary_batches_through_the_shared_prefix_attention(models):
    """Without a layout the function is plain attention: an ordinary padded forward gives the same rewards."""
    for family in ("gemma2", "mistral", "qwen3"):
        eager, fast = models(family)
        reference = rewards_and_gradients(eager, PADDED, mixed_groups())
        assert max(differences(reference, rewards_and_gradients(fast, PADDED, mixed_groups()))) < TOLERANCE


def test_packed_row_needs_the_packed_attention(models):
    eager, _ = models("gemma")
    with pytest.raises(ValueError, match="attn_implementation"):
        rewards_and_gradients(eager, SHARED_PREFIX, mixed_groups())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.integers(1, 30), st.lists(st.integers(1, 20), min_size=2, max_size=9), st.integers(0, 10_000)),
        min_size=1,
        max_size=4,
    ),
    # of a mixture, a router that is undecided within 1e-7 between two experts would jump; one draw in some hundred
    st.sampled_from(DENSE),
)
def test_random_groups(models, drawn, family):
    eager, fast = models(family)
    groups = [make_group(prefix, completions, seed) for prefix, completions, seed in drawn]
    reference = rewards_and_gradients(eager, PADDED, groups)
    assert max(differences(reference, rewards_and_gradients(fast, SHARED_PREFIX, groups))) < TOLERANCE


@pytest.mark.parametrize("family", ["gemma2", "mistral", "llama"])
def test_the_layout_for_variable_length_kernels(models, family, monkeypatch):
    """The gathered keys, cumulative lengths and windows that a GPU kernel gets describe the same attention."""
    eager, fast = models(family)
    reference = rewards_and_gradients(eager, PADDED, mixed_groups())
    monkeypatch.setattr(attention, "choose_kernel", lambda *_: reference_varlen_kernel)
    for batching in (SHARED_PREFIX, PACKED):
        assert max(differences(reference, rewards_and_gradients(fast, batching, mixed_groups()))) < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_layer_computes_read_tokens_only(models, family):
    _, fast = models(family)
    last = fast.get_decoder().layers[-1]
    assert fast.last_layer == last.self_attn.layer_idx == len(fast.get_decoder().layers) - 1
    seen = []
    first = last.mlp.gate if hasattr(last.mlp, "gate") else last.mlp.down_proj  # a router, or the only expert
    handle = first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[:-1].numel()))
    try:
        rewards, _ = rewards_and_gradients(fast, SHARED_PREFIX, mixed_groups())
    finally:
        handle.remove()
    assert seen == [len(rewards)]


def test_two_forwards_before_two_backwards_with_checkpointing(models):
    """A recomputed layer uses the scored tokens of its own batch, whatever was computed in between."""
    eager, fast = models("gemma2")
    groups = [[make_group(9, [4, 7], seed=1)], [make_group(3, [5, 2], seed=2)]]
    expected = [rewards_and_gradients(eager, PADDED, group) for group in groups]
    fast.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    fast.zero_grad()
    losses = []
    for group in groups:
        batch = MicroBatchCollator(SHARED_PREFIX, PAD)([Chunk(0, 0, 1, 0)], {0: group[0]})
        rewards = fast(**batch["model_inputs"]).logits[:, 0]
        losses.append(bradley_terry_loss(rewards[:1], rewards[1:]).sum())
    sum(losses).backward()
    fast.gradient_checkpointing_disable()
    for name, parameter in fast.named_parameters():
        total = expected[0][1][name] + expected[1][1][name]
        largest = max(gradients.abs().max() for _, every in expected for gradients in every.values())
        assert (parameter.grad - total).abs().max() / largest < TOLERANCE


def test_a_forward_that_fails_leaves_no_trace(models):
    eager, fast = models("gemma")
    reference = rewards_and_gradients(eager, PADDED, mixed_groups())
    fast.read_tokens.positions = torch.tensor([0])  # as if the last layer had stopped between its two parts
    assert max(differences(reference, rewards_and_gradients(fast, PADDED, mixed_groups()))) < TOLERANCE
