"""The reward model: a plain `*ForSequenceClassification` that also reads many rewards from one packed row."""

import functools
import math

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from reward_modeling.attention import PackedLayout, packed_row_mask

# Layer types whose state is attention over earlier tokens and nothing else: only these can share a prefix by
# an attention function (a recurrent or a chunked layer also carries state that the function never sees).
SHAREABLE_LAYER_TYPES = {"full_attention", "sliding_attention"}


class ScoreHead(nn.Linear):
    """The score head, always computed in float32.

    bf16 keeps 8 bits: two close answers would tie. The state dict is that of the nn.Linear it stands for.
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        with torch.autocast(hidden_states.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.float()
            return nn.functional.linear(hidden_states.float(), self.weight.float(), bias)


class RewardModelMixin:
    """Adds to a `*ForSequenceClassification` class a forward that reads rewards at given tokens.

    The class keeps its name (see `reward_model_class`), so that what is saved is an ordinary checkpoint which
    needs none of this code.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        head = self.score
        self.score = ScoreHead(head.in_features, head.out_features, bias=head.bias is not None)
        self._init_weights(self.score)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ScoreHead):
            # N(0, 1 / (hidden + 1)): "Learning to summarize from human feedback" (Stiennon et al., 2020, B.1)
            nn.init.normal_(module.weight, mean=0.0, std=1.0 / math.sqrt(module.in_features + 1))
            return
        super()._init_weights(module)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        end_positions: torch.Tensor | None = None,
        packed_layout: PackedLayout | None = None,
        **kwargs,
    ) -> SequenceClassifierOutput:
        """Rewards at `end_positions`; without them, the ordinary forward of the class.

        Args:
            input_ids: `(batch, tokens)`; `(1, tokens)` for a packed row.
            attention_mask: `(batch, tokens)`; not for a packed row.
            position_ids: `(batch, tokens)`.
            end_positions: `(responses,)` indices into the flattened `batch x tokens`.
            packed_layout: how the packed row is cut.

        Returns:
            `logits` is `(responses, labels)` in float32.
        """
        if end_positions is None:
            return super().forward(
                input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, **kwargs
            )
        if packed_layout is not None:
            attention_mask = packed_row_mask(input_ids.device)
            kwargs["packed_layout"] = packed_layout
        kwargs["use_cache"] = False
        hidden_states = getattr(self, self.base_model_prefix)(
            input_ids, attention_mask=attention_mask, position_ids=position_ids, **kwargs
        ).last_hidden_state
        last_hidden_states = hidden_states.flatten(0, 1).index_select(0, end_positions)
        return SequenceClassifierOutput(logits=self.score(last_hidden_states))


@functools.cache
def reward_model_class(config_class: type[PreTrainedConfig]) -> type[PreTrainedModel] | None:
    """The sequence classification class of this config, with `RewardModelMixin`; None if it cannot take it.

    It has the name of the class it extends: `config.architectures` is written from that name.
    """
    base = AutoModelForSequenceClassification._model_mapping.get(config_class)
    if base is None or not issubclass(base, GenericForSequenceClassification):
        return None
    return type(base.__name__, (RewardModelMixin, base), {"__module__": base.__module__})


def why_not_packed(config: PreTrainedConfig) -> str | None:
    """The reason why this model cannot take packed rows, or None if it can."""
    model_class = reward_model_class(type(config))
    if model_class is None:
        return f"{config.model_type} is not a causal decoder with transformers' generic sequence classification"
    if not model_class._supports_attention_backend:
        return f"{config.model_type} does not take its attention from transformers' AttentionInterface"
    text_config = config.get_text_config()
    other = set(getattr(text_config, "layer_types", None) or ()) - SHAREABLE_LAYER_TYPES
    if other:
        return f"{config.model_type} has layers of the types {sorted(other)}"
    if getattr(text_config, "use_bidirectional_attention", False) or not getattr(text_config, "is_causal", True):
        return f"{config.model_type} attends to later tokens"
    return None


def load_config(model_name: str, **kwargs) -> PreTrainedConfig:
    """The model's configuration with one label, the reward."""
    return AutoConfig.from_pretrained(model_name, num_labels=1, **kwargs)
