"""What a model's configuration says it can do: packed rows, the length of its context."""

from transformers import PreTrainedConfig

from reward_modeling.models.reward_model import reward_model_class

# Layer types whose state is attention over earlier tokens and nothing else: only these can share a prefix by
# an attention function (a recurrent or a chunked layer also carries state that the function never sees).
SHAREABLE_LAYER_TYPES = {"full_attention", "sliding_attention"}
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
    window = getattr(config, "sliding_window", None)
    if config.model_type in WINDOW_IN_MASK_ALONE and window and window < config.max_position_embeddings:
        return f"{config.model_type} keeps its sliding window from the attention function"
    other = set(getattr(text_config, "layer_types", None) or ()) - SHAREABLE_LAYER_TYPES
    if other:
        return f"{config.model_type} has layers of the types {sorted(other)}"
    if getattr(text_config, "use_bidirectional_attention", False) or not getattr(text_config, "is_causal", True):
        return f"{config.model_type} attends to later tokens"
    return None


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


def context_too_short(max_length: int, config: PreTrainedConfig) -> str:
    context = context_length(config)
    what = "the positions that the model was made for"
    if has_longrope(config):
        what = "the positions that have short factors (longrope: beyond, a reward would depend on its batch)"
    return f"max_length: expected at most {context}, {what}, found {max_length}. Pass --max_length {context} or less."
