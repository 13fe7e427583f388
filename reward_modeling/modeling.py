"""The reward model: a plain `*ForSequenceClassification` that also reads many rewards from one packed row."""

import functools
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.utils import ModelOutput
from transformers.utils import logging as transformers_logging

from reward_modeling.attention import SHARED_PREFIX, packed_row_mask, scatter_tokens
from reward_modeling.errors import UserError
from reward_modeling.layout import PackedLayout, ScoredTokens
from reward_modeling.reward_statistics import set_statistics
from reward_modeling.routing import balance_losses
from reward_modeling.tokenizer import HUB_ERRORS, first_line, not_found

logger = logging.getLogger(__name__)

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
        self.last_layer, self.scored_tokens = None, ScoredTokens()
        self._limit_last_layer()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ScoreHead):
            # N(0, 1 / (hidden + 1)): "Learning to summarize from human feedback" (Stiennon et al., 2020, B.1)
            nn.init.normal_(module.weight, mean=0.0, std=1.0 / math.sqrt(module.in_features + 1))
            return
        super()._init_weights(module)

    def _limit_last_layer(self) -> None:
        """Let the last layer's feed-forward part compute the scored tokens of a packed row and no others.

        Nothing reads the other tokens' outputs of the last layer: rewards and gradients stay the same, and one
        layer's largest part costs next to nothing. Models with another structure are left as they are.
        """
        layers = self.get_decoder().layers if self.get_decoder() is not None else []
        last = layers[-1] if len(layers) else None
        if not (hasattr(last, "mlp") and hasattr(last, "self_attn") and hasattr(last.self_attn, "layer_idx")):
            return
        self.last_layer = last.self_attn.layer_idx
        last.mlp.register_forward_pre_hook(self._gather_scored_tokens)
        last.mlp.register_forward_hook(self._scatter_scored_tokens)

    def _gather_scored_tokens(self, _module: nn.Module, inputs: tuple) -> tuple | None:
        scored = self.scored_tokens
        # Taken at once: a recomputation may stop right after this, and nothing may be left for another forward.
        scored.in_feed_forward, scored.positions = scored.positions, None
        if scored.in_feed_forward is None:
            return None
        scored.row_length = inputs[0].shape[1]
        return (inputs[0].index_select(1, scored.in_feed_forward), *inputs[1:])

    def _scatter_scored_tokens(self, _module: nn.Module, _inputs: tuple, output: torch.Tensor) -> torch.Tensor | None:
        scored = self.scored_tokens
        if scored.in_feed_forward is None:
            return None
        return scatter_tokens(output, scored.in_feed_forward, scored.row_length)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        end_positions: torch.Tensor | None = None,
        packed_layout: PackedLayout | None = None,
        balance: bool = False,
        **kwargs,
    ) -> "RewardOutput":
        """Rewards at `end_positions`; without them, the ordinary forward of the class.

        Args:
            input_ids: `(batch, tokens)`; `(1, tokens)` for a packed row.
            attention_mask: `(batch, tokens)`; not for a packed row.
            position_ids: `(batch, tokens)`.
            end_positions: `(responses,)` indices into the flattened `batch x tokens`.
            packed_layout: how the packed row is cut.
            balance: of a mixture of experts, also compute how evenly the tokens are spread.

        Returns:
            `logits` is `(responses, labels)` in float32; `balance_losses` is `(responses,)`, see routing.py.
        """
        self.scored_tokens.positions = None
        if end_positions is None:
            return super().forward(
                input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, **kwargs
            )
        if packed_layout is not None:
            if self.config._attn_implementation != SHARED_PREFIX:
                raise ValueError(f"a packed row needs attn_implementation={SHARED_PREFIX!r}")
            attention_mask = packed_row_mask(input_ids.device)
            # The balance is that of all tokens, in the last layer too.
            packed_layout.last_layer = None if balance else self.last_layer
            packed_layout.scored_tokens = self.scored_tokens
            kwargs["packed_layout"] = packed_layout
        kwargs["use_cache"] = False
        kwargs = {name: value for name, value in kwargs.items() if value is not None}  # peft names all that it may pass
        outputs = getattr(self, self.base_model_prefix)(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **kwargs,
            **({"output_router_logits": True} if balance else {}),
        )
        last_hidden_states = outputs.last_hidden_state.flatten(0, 1).index_select(0, end_positions)
        result = RewardOutput(logits=self.score(last_hidden_states))
        if balance:
            result.balance_losses = balance_losses(
                outputs.router_logits, self.config.num_experts_per_tok, layout=packed_layout, mask=attention_mask
            )
        return result


@dataclass
class RewardOutput(ModelOutput):
    """What `RewardModelMixin.forward` returns."""

    logits: torch.Tensor | None = None
    balance_losses: torch.Tensor | None = None


@functools.cache
def reward_model_class(config_class: type[PreTrainedConfig]) -> type[PreTrainedModel] | None:
    """The sequence classification class of this config, with `RewardModelMixin`; None if it cannot take it.

    It has the name of the class it extends: `config.architectures` is written from that name.
    """
    base = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(config_class, None)
    if base is None or not issubclass(base, GenericForSequenceClassification):
        return None
    return type(base.__name__, (RewardModelMixin, base), {"__module__": base.__module__})


# Position 0 is the number after the pad token's (transformers 5.23).
POSITIONS_AFTER_PAD = {"roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert", "xmod"}
POSITIONS_AFTER_PAD |= {"mpnet", "longformer", "data2vec-text", "ibert", "luke"}
# Attention with sinks, or functions of their own that take no keyword arguments (transformers 5.23).
OTHER_ATTENTION = {"gpt_oss", "nemotron", "doge"}
# A sliding window stands in their mask alone, which packed rows do not have (transformers 5.23).
WINDOW_IN_MASK_ALONE = {"qwen2_moe", "phimoe"}


def why_not_packed(config: PreTrainedConfig) -> str | None:
    """The reason why this model cannot take packed rows, or None if it can."""
    model_class = reward_model_class(type(config))
    if model_class is None:
        return f"{config.model_type} is not a causal decoder with transformers' generic sequence classification"
    if not model_class._supports_attention_backend or config.model_type in OTHER_ATTENTION:
        return f"{config.model_type} does not take its attention from transformers' AttentionInterface"
    text_config = config.get_text_config()
    if text_config is not config:
        return f"{config.model_type} also takes other inputs than texts"
    if config.model_type in WINDOW_IN_MASK_ALONE and _has_window(config):
        return f"{config.model_type} keeps its sliding window from the attention function"
    other = set(getattr(text_config, "layer_types", None) or ()) - SHAREABLE_LAYER_TYPES
    if other:
        return f"{config.model_type} has layers of the types {sorted(other)}"
    if getattr(text_config, "use_bidirectional_attention", False) or not getattr(text_config, "is_causal", True):
        return f"{config.model_type} attends to later tokens"
    return None


def _has_window(config: PreTrainedConfig) -> bool:
    """Whether a layer attends to less than the whole context."""
    window = getattr(config, "sliding_window", None)
    return bool(window) and window < config.max_position_embeddings


def load_config(model_name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The configuration of a Hub id or a folder, with one label: the reward.

    Raises:
        UserError: nothing is found there, or the checkpoint is a classifier of several classes or an encoder-decoder.
    """
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    if Path(model_name, "adapter_config.json").is_file():
        raise UserError(
            f"--model_name {model_name}: expected a model, found an adapter. Merge it first: python -m "
            f"reward_modeling.merging {model_name} NEW_FOLDER. To go on with its training, pass the model that it was "
            "trained on, with --resume_from_checkpoint."
        )
    if not Path(model_name).exists():
        logger.info("Model: %s is no folder here; asking the Hugging Face Hub.", model_name)
    try:
        config = AutoConfig.from_pretrained(model_name, **options)
    except HUB_ERRORS as error:
        raise not_found(model_name, "a model", error) from error
    if config.is_encoder_decoder:
        raise UserError(
            f"--model_name {model_name}: expected a decoder or an encoder, found {config.model_type}, which is both "
            "and was never shown to score a conversation rightly here. Take a causal language model or an encoder."
        )
    if has_score_head(config) and config.num_labels != 1:
        raise UserError(
            f"--model_name {model_name}: expected a causal language model or a reward model with one score, found "
            f"a classifier with {config.num_labels} labels. Start from the language model it was made from."
        )
    config.num_labels = 1
    set_statistics(config, None)  # those of the checkpoint are not those of what is made of it
    return config


def has_score_head(config: PreTrainedConfig) -> bool:
    """Whether the checkpoint says that it is a `*ForSequenceClassification`."""
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())


def load_reward_model(
    model_name: str,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    attn_implementation: str | None,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    trust_remote_code: bool = False,
    adapter_follows: bool = False,
    **options,
) -> PreTrainedModel:
    """A reward model from a language model (new head) or from a reward model (its own head).

    Embeddings grow if the tokenizer has more tokens than the model; the config gets the tokenizer's pad token.
    `options` go to `from_pretrained` (`key_mapping` for a text part, see text_part.py); `adapter_follows` where an
    adapter brings the head.

    Raises:
        UserError: the checkpoint lacks weights other than the head's, or cannot be read.
    """
    model, info = _read_weights(
        model_name,
        config,
        dtype=dtype,
        attn_implementation=attn_implementation,
        revision=revision,
        trust_remote_code=trust_remote_code,
        **options,
    )
    if "key_mapping" in options:
        forget_renaming(model)
    if info["mismatched_keys"]:
        name, found, expected = min(info["mismatched_keys"], key=lambda key: key[0])
        raise UserError(
            f"--model_name {model_name}: expected the shape {tuple(expected)} of {name}, which its config.json asks "
            f"for, found {tuple(found)}. The weights belong to another configuration."
        )
    missing = sorted(info["missing_keys"])
    # A pooler belongs to the head: an encoder that was trained on masked words has none.
    base_missing = [key for key in missing if key.startswith(f"{model.base_model_prefix}.") and ".pooler." not in key]
    if base_missing:
        raise UserError(
            f"--model_name {model_name}: expected all the weights of {type(model).__name__}, found none for "
            f"{len(base_missing)} of them, such as {base_missing[0]}. The checkpoint is incomplete or of another model."
        )
    if adapter_follows:
        logger.info("Score head: the adapter's.")
    elif missing:
        logger.warning("Score head: new (%s).", ", ".join(missing))
    else:
        logger.warning("Score head: the one that the checkpoint has.")
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
        logger.warning("Embeddings: resized to %d for the new pad token.", len(tokenizer))
    # A reward is a logit as it is: without this word transformers' pipeline and vLLM would put it through a sigmoid.
    model.config.problem_type = "regression"
    # Not before: the embeddings that are built from a config refuse a pad token beyond them.
    model.config.pad_token_id = model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return model


def forget_renaming(model: PreTrainedModel) -> None:
    """Let a model be saved under the names that it has: transformers would undo the `key_mapping` of its loading."""
    del model._weight_conversions


def _read_weights(model_name: str, config: PreTrainedConfig, **options) -> tuple[PreTrainedModel, dict]:
    """`from_pretrained` with its failures in our words; the second value says what was missing."""
    model_class = reward_model_class(type(config)) or AutoModelForSequenceClassification
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # what is missing is told in a line of ours instead of a table
    try:
        # other shapes are refused by load_reward_model, by name
        return model_class.from_pretrained(
            model_name, config=config, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except SafetensorError as error:
        raise UserError(
            f"--model_name {model_name}: expected whole safetensors files, found a broken one ({error}). "
            "Download or save the model again."
        ) from error
    except OSError as error:
        raise not_found(model_name, "readable weights", error) from error
    except (ImportError, ValueError) as error:
        raise UserError(
            f"--model_name {model_name}: {config.model_type} cannot be loaded "
            f"with --attn_implementation {options['attn_implementation']} ({first_line(error)}). Pass eager or sdpa."
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)


def context_length(config: PreTrainedConfig) -> int | None:
    """How many tokens a conversation may have, or None where the config does not say: the model's positions.

    Models after RoBERTa count these from the pad token's number on. With longrope (Phi-3) it is as many as have the
    short factors: beyond, the longest row of a forward pass decides about the factors of all its rows, and a reward
    would depend on what else is in the batch.
    """
    text_config = config.get_text_config()
    if has_longrope(config):
        return text_config.rope_parameters["original_max_position_embeddings"]
    positions = getattr(text_config, "max_position_embeddings", None)
    if positions is not None and text_config.model_type in POSITIONS_AFTER_PAD:
        return positions - text_config.pad_token_id - 1
    return positions


def has_longrope(config: PreTrainedConfig) -> bool:
    """Whether its rotary embeddings have other frequencies for long rows."""
    rope_parameters = getattr(config.get_text_config(), "rope_parameters", None) or {}
    return rope_parameters.get("rope_type") == "longrope"
