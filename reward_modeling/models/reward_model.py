"""The reward model: a plain `*ForSequenceClassification` that also reads many rewards from one packed row."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_layers import GenericForSequenceClassification, GenericForTokenClassification
from transformers.utils import ModelOutput

from reward_modeling.models.attention import SHARED_PREFIX, scatter_tokens
from reward_modeling.models.moe_balance import load_balancing_losses
from reward_modeling.models.packed_layout import PackedLayout, ReadTokens
from reward_modeling.models.process_format import is_process_model


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
        self.last_layer, self.read_tokens = None, ReadTokens()
        self._limit_last_layer()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ScoreHead):
            # N(0, 1 / (hidden + 1)): "Learning to summarize from human feedback" (Stiennon et al., 2020, B.1)
            nn.init.normal_(module.weight, mean=0.0, std=1.0 / math.sqrt(module.in_features + 1))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            return
        super()._init_weights(module)

    def _limit_last_layer(self) -> None:
        """Let the last layer's feed-forward part compute the tokens of a packed row that are read and no others.

        Nothing reads the other tokens' outputs of the last layer: rewards and gradients stay the same, and one
        layer's largest part costs next to nothing. Models with another structure are left as they are.
        """
        layers = self.get_decoder().layers if self.get_decoder() is not None else []
        last = layers[-1] if len(layers) else None
        if not (hasattr(last, "mlp") and hasattr(last, "self_attn") and hasattr(last.self_attn, "layer_idx")):
            return
        self.last_layer = last.self_attn.layer_idx
        last.mlp.register_forward_pre_hook(self._gather_read_tokens)
        last.mlp.register_forward_hook(self._scatter_read_tokens)

    def _gather_read_tokens(self, _module: nn.Module, inputs: tuple) -> tuple | None:
        read = self.read_tokens
        # Taken at once: a recomputation may stop right after this, and nothing may be left for another forward.
        read.in_feed_forward, read.positions = read.positions, None
        if read.in_feed_forward is None:
            return None
        read.row_length = inputs[0].shape[1]
        return (inputs[0].index_select(1, read.in_feed_forward), *inputs[1:])

    def _scatter_read_tokens(self, _module: nn.Module, _inputs: tuple, output: torch.Tensor) -> torch.Tensor | None:
        read = self.read_tokens
        if read.in_feed_forward is None:
            return None
        return scatter_tokens(output, read.in_feed_forward, read.row_length)

    def read_out(self, hidden: torch.Tensor) -> "RewardOutput":
        """What the head makes of the hidden states of the tokens that are read, `(reads, hidden)`."""
        return RewardOutput(logits=self.score(hidden))

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        read_positions: torch.Tensor | None = None,
        packed_layout: PackedLayout | None = None,
        load_balancing: bool = False,
        blocks: list[dict] | None = None,
        **kwargs,
    ) -> "RewardOutput":
        """The head's outputs at `read_positions`; without them, the ordinary forward of the class.

        Args:
            input_ids: `(batch, tokens)`; `(1, tokens)` for a packed row.
            attention_mask: `(batch, tokens)`; not for a packed row.
            position_ids: `(batch, tokens)`.
            read_positions: `(reads,)` indices into the flattened `batch x tokens`.
            packed_layout: how the packed row is cut.
            load_balancing: of a mixture of experts, also compute how evenly the tokens are spread.
            blocks: in place of the first four, these for each of several blocks of padded rows.

        Returns:
            `logits` is `(reads, labels)` in float32; `load_balancing_losses` is `(completions,)`, see moe_balance.py.
        """
        if blocks is not None:
            forward = functools.partial(RewardModelMixin.forward, self, load_balancing=load_balancing, **kwargs)
            return forward_of_blocks(forward, blocks)
        self.read_tokens.positions = None
        if read_positions is None:
            return super().forward(
                input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, **kwargs
            )
        if packed_layout is not None:
            if self.config._attn_implementation != SHARED_PREFIX:
                raise ValueError(f"a packed row needs attn_implementation={SHARED_PREFIX!r}")
            # transformers hands a four-dimensional mask through untouched, so no (tokens, tokens) mask is ever built;
            # its impossible size makes every other attention function fail on it, instead of attending without
            # causality.
            attention_mask = torch.ones((1, 1, 0, 0), dtype=torch.bool, device=input_ids.device)
            # Load balancing is that of all tokens, in the last layer too.
            packed_layout.last_layer = None if load_balancing else self.last_layer
            packed_layout.read_tokens = self.read_tokens
            kwargs["packed_layout"] = packed_layout
        kwargs = {name: value for name, value in kwargs.items() if value is not None}  # peft names all that it may pass
        kwargs |= {"use_cache": False} | ({"output_router_logits": True} if load_balancing else {})
        base_model = getattr(self, self.base_model_prefix)
        outputs = base_model(input_ids, attention_mask=attention_mask, position_ids=position_ids, **kwargs)
        last_hidden_states = outputs.last_hidden_state.flatten(0, 1).index_select(0, read_positions)
        result = self.read_out(last_hidden_states)
        if load_balancing:
            result.load_balancing_losses = load_balancing_losses(
                outputs.router_logits, self.config.num_experts_per_tok, layout=packed_layout, mask=attention_mask
            )
        return result


@dataclass
class RewardOutput(ModelOutput):
    """What `RewardModelMixin.forward` returns."""

    logits: torch.Tensor | None = None
    load_balancing_losses: torch.Tensor | None = None


def forward_of_blocks(forward: Callable[..., ModelOutput], blocks: list[dict]) -> RewardOutput:
    """The outputs of all blocks, one after the other, as of one forward pass.

    In one call of the model, and not in a call for each: DDP, DeepSpeed and FSDP prepare a backward pass for each call.
    """
    outputs = [forward(**block) for block in blocks]
    result = RewardOutput(logits=torch.cat([output.logits for output in outputs]))
    if "load_balancing_losses" in outputs[0]:
        result.load_balancing_losses = torch.cat([output.load_balancing_losses for output in outputs])
    return result


class BlocksMixin:
    """Adds to a `*ForSequenceClassification` class that finds the token to be read by itself a forward of blocks."""

    def forward(
        self, *args, blocks: list[dict] | None = None, read_positions: torch.Tensor | None = None, **kwargs
    ) -> ModelOutput:
        """As the class's own, but for `blocks` and `read_positions`: see `RewardModelMixin`.

        A sequence classifier finds the token by itself; of what a token classifier makes of all, these are taken.
        """
        if blocks is None:
            output = super().forward(*args, **kwargs)
            if read_positions is None or output.logits.dim() < 3:
                return output
            return RewardOutput(logits=output.logits.flatten(0, 1).index_select(0, read_positions))
        given = {name: value for name, value in kwargs.items() if value is not None}  # peft names all that it may pass
        return forward_of_blocks(functools.partial(BlocksMixin.forward, self, **given), blocks)


def with_blocks(model: PreTrainedModel) -> PreTrainedModel:
    """The model, which now takes blocks of padded rows.

    Its class is exchanged, as FSDP2 does it: one from the checkpoint's own code is known only when it is loaded.
    """
    if not isinstance(model, RewardModelMixin | BlocksMixin):
        model.__class__ = _class_with_blocks(type(model))
    return model


@functools.cache
def _class_with_blocks(base: type[PreTrainedModel]) -> type[PreTrainedModel]:
    return type(base.__name__, (BlocksMixin, base), {"__module__": base.__module__})


@functools.cache
def reward_model_class(
    config_class: type[PreTrainedConfig], *, float32_head: bool = False
) -> type[PreTrainedModel] | None:
    """The sequence classification class of this config, with `RewardModelMixin`; None if it cannot take it.

    It has the name of the class it extends: `config.architectures` is written from that name. With `float32_head` its
    head is loaded as it was saved, and not rounded to bfloat16 with the other weights.
    """
    base = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(config_class, None)
    if base is None or not issubclass(base, GenericForSequenceClassification):
        return None
    return _with_mixin(base, float32_head)


@functools.cache
def process_model_class(
    config_class: type[PreTrainedConfig], *, float32_head: bool = False
) -> type[PreTrainedModel] | None:
    """The token classification class of this config in the same way: its head is read at the ends of steps."""
    base = MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING.get(config_class, None)
    if base is None or not issubclass(base, GenericForTokenClassification):
        return None
    return _with_mixin(base, float32_head)


def class_for(config: PreTrainedConfig, *, float32_head: bool = False) -> type[PreTrainedModel] | None:
    """`process_model_class` where the configuration asks for a token classifier, else `reward_model_class`."""
    choose = process_model_class if is_process_model(config) else reward_model_class
    return choose(type(config), float32_head=float32_head)


def _with_mixin(base: type[PreTrainedModel], float32_head: bool) -> type[PreTrainedModel]:
    attributes = {"__module__": base.__module__}
    if float32_head:
        names = {*(base._keep_in_fp32_modules_strict or ()), "score.weight", "score.bias"}
        attributes["_keep_in_fp32_modules_strict"] = names
    return type(base.__name__, (RewardModelMixin, base), attributes)
