"""The fast paths against the obvious reference: rewards and every parameter's gradient, on tiny models.

Rewards agree within 1e-5 relative, and every parameter's gradient within 1e-5 of the largest gradient.
"""

import copy

import torch
from tiny_families import tiny_config

from reward_modeling.data.collator import MicroBatchCollator
from reward_modeling.data.planning import Chunk
from reward_modeling.models.packed_layout import Span
from reward_modeling.models.reward_model import reward_model_class
from reward_modeling.objectives.bradley_terry import BradleyTerry, bradley_terry_loss

VOCAB_SIZE, PAD = 97, 0
TOLERANCE = 1e-5


def build_model(family: str, attn_implementation: str):
    config = tiny_config(family, VOCAB_SIZE, pad_token_id=PAD, bos_token_id=1, eos_token_id=2)
    config.num_labels = 1
    torch.manual_seed(0)
    model = reward_model_class(type(config))._from_config(
        copy.deepcopy(config), attn_implementation=attn_implementation
    )
    return model.train()


def make_group(
    prefix_length: int, completion_lengths: list[int], seed: int, pairs: list[tuple[int, int]] | None = None
):
    generator = torch.Generator().manual_seed(seed)

    def draw(length: int) -> list[int]:
        return torch.randint(3, VOCAB_SIZE, (length,), generator=generator).tolist()

    count = len(completion_lengths)
    pairs = pairs or [(i, j) for i in range(count) for j in range(i + 1, count)]
    return {
        "prefix_ids": draw(prefix_length),
        "completion_ids": [draw(length) for length in completion_lengths],
        "units": [list(pair) for pair in pairs],
        "targets": [[1.0, 1.0, 0.0]] * len(pairs),
    }


def rewards_and_gradients(model, batching: str, groups: list[dict], layout_change=None):
    model.zero_grad()
    micro_batch = [Chunk(number, 0, len(group["units"]), 0) for number, group in enumerate(groups)]
    batch = MicroBatchCollator(batching, PAD, BradleyTerry.collate)(micro_batch, dict(enumerate(groups)))
    if layout_change is not None:
        batch["model_inputs"]["packed_layout"] = layout_change(batch["model_inputs"]["packed_layout"])
    inputs = {name: v.to(model.device) if torch.is_tensor(v) else v for name, v in batch["model_inputs"].items()}
    rewards = model(**inputs).logits[:, 0]
    chosen, rejected = rewards[batch["targets"]["pairs"].to(model.device)].unbind(dim=1)
    bradley_terry_loss(chosen, rejected).mean().backward()
    return rewards.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def differences(reference, fast) -> tuple[float, float]:
    """Largest relative difference of the rewards; largest difference of a gradient over the largest gradient.

    A reward is a sum of 64 products whose absolute values add up to about 5 here: with float32's 6e-8 it is known
    to some 1e-6 at best, however close to zero the products cancel. Rewards below 0.5, half a standard deviation of
    a new head's, are therefore compared as if they were 0.5.
    """
    (rewards, gradients), (fast_rewards, fast_gradients) = reference, fast
    relative = ((rewards - fast_rewards).abs() / rewards.abs().clamp(min=0.5)).max().item()
    largest = max(gradient.abs().max().item() for gradient in gradients.values())
    gradient = max((gradients[name] - fast_gradients[name]).abs().max().item() for name in gradients) / largest
    return relative, gradient


def num_keys(span: Span) -> int:
    """How many keys the last query of a span sees."""
    return span.num_queries + span.prefix_end - span.prefix_start


def mixed_groups() -> list[dict]:
    """2 to 9 completions, one token long and long, prompts of one token and longer than every window."""
    return [
        make_group(40, [5, 30, 1, 17], seed=1),
        make_group(1, [3, 9], seed=2),
        make_group(23, [1, 2, 3, 4, 5, 6, 7, 8, 40], seed=3),
        make_group(12, [6, 6, 6], seed=4, pairs=[(0, 1), (0, 2)]),
    ]


@torch.autocast("cpu", enabled=False)
@torch.autocast("cuda", enabled=False)
def reference_varlen_kernel(query, key, value, lengths, scaling, window, softcap):
    """What a variable-length kernel computes, in float32: causal to the bottom right, window as (left, right 0)."""
    outputs = []
    repeats = query.shape[1] // key.shape[1]
    starts_q, starts_k = lengths.cu_seqlens_q.tolist(), lengths.cu_seqlens_k.tolist()
    for q0, q1, k0, k1 in zip(starts_q, starts_q[1:], starts_k, starts_k[1:], strict=False):
        q, k, v = query[q0:q1].float(), key[k0:k1].float(), value[k0:k1].float()
        k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
        scores = torch.einsum("qhd,khd->hqk", q, k) * scaling
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        places = torch.arange(k1 - k0, device=query.device)
        distance = places[k1 - k0 - (q1 - q0) :, None] - places[None, :]
        hidden = distance < 0
        if window[0] >= 0:
            hidden |= distance > window[0]
        outputs.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, float("-inf")).softmax(-1), v))
    return torch.cat(outputs).to(query.dtype)
