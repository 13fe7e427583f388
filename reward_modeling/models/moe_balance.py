"""How evenly a mixture of experts spreads the tokens of a conversation: a loss that keeps every expert in use.

transformers adds such a loss where it trains language models, and none to a `*ForSequenceClassification`. Its own is a
product of two means over all tokens of a forward pass, so that it depends on how a step is cut into passes, and on
padding. This one is taken of each conversation by itself, prompt and answer, and is the same however its rows are
padded, packed or shared.
"""

import torch
import torch.nn.functional as F
from transformers import PreTrainedConfig

from reward_modeling.models.packed_layout import PackedLayout

# Their routers take the softmax's largest, and transformers hands out their logits (5.23).
SOFTMAX_ROUTERS = {"mixtral", "qwen2_moe", "qwen3_moe"}


def why_no_load_balancing(config: PreTrainedConfig) -> str | None:
    """The reason why this model has no load balancing loss, or None if it has one."""
    if config.model_type in SOFTMAX_ROUTERS:
        return None
    return f"expected a model of the types {', '.join(sorted(SOFTMAX_ROUTERS))}, found {config.model_type}"


def load_balancing_losses(
    router_logits: tuple[torch.Tensor, ...], top_k: int, *, layout: PackedLayout | None, mask: torch.Tensor | None
) -> torch.Tensor:
    """How unevenly the tokens of each conversation are spread: `top_k` if every expert gets the same.

    Fedus et al. (2021), equations 4 to 6, for each layer and each conversation of T tokens, `top_k` choices a token:

        experts * sum over experts e of (choices of e / T) * (sum of the probabilities of e / T)

    and the mean over the layers.

    Args:
        router_logits: of each layer, `(batch x tokens, experts)`.
        layout: of a packed row; the prompt counts for each of its answers.
        mask: `(batch, tokens)` of padded rows, 0 at padding.

    Returns:
        `(completions,)` in float32.
    """
    of_layers = []
    for logits in router_logits:
        probabilities = F.softmax(logits.float(), dim=-1)
        experts = probabilities.shape[-1]
        chosen = F.one_hot(probabilities.topk(top_k, dim=-1).indices, experts).sum(dim=1)  # (batch x tokens, experts)
        per_token = torch.cat([probabilities, chosen, torch.ones_like(probabilities[:, :1])], dim=-1)
        if layout is None:
            sums = (per_token.unflatten(0, mask.shape) * mask[..., None]).sum(dim=1)  # (batch, columns)
        else:
            sums = _sums_of_spans(per_token, layout)
        probability, choices, tokens = sums.split([experts, experts, 1], dim=-1)
        of_layers.append(experts * (choices / tokens * probability / tokens).sum(dim=-1))
    return torch.stack(of_layers).mean(dim=0)


def _sums_of_spans(per_token: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
    """`(tokens, columns)` to `(completions, columns)`: a completion and what it follows, which several may share."""
    spans = torch.stack([span.sum(dim=0) for span in per_token.split(layout.span_lengths)])
    paths = [[*layout.prefix_spans[number], number] for number in layout.completion_spans]
    return torch.stack([spans[path].sum(dim=0) for path in paths])
