"""What a model's configuration says it can do: give rewards at all, packed rows, checkpointing, a context's length."""

from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    PreTrainedConfig,
)

from reward_modeling.models.reward_model import class_for

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
# They pad rows to whole blocks themselves, with their config's pad token, and read the first place (transformers 5.23).
PAD_THEMSELVES = {"longformer", "big_bird"}
SUMMARIES = ("flaubert", "xlm", "xlnet")
# Families with a sequence classification that gives no reward of a text (transformers 5.23), and why.
NO_REWARDS = {
    "canine": "it reads characters by their hashes, and has no vocabulary",
    "convbert": "its convolutions reach into padding: a reward would depend on what else is in the batch",
    "fnet": "its layers mix all tokens of a row, padding included: a reward would depend on what else is in the batch",
    "ibert": "it computes in integers",
    "layoutlmv2": "it reads pictures of pages beside their words",
    "layoutlmv3": "it reads pictures of pages beside their words",
    "lilt": "it reads where on a page words stand",
    "mra": "without a CUDA kernel of its own its attention is zero",
    "nystromformer": "its landmarks are means over padding too: a reward would depend on what else is in the batch",
    "perceiver": "it has a decoder of its own for each task, and the one for classes has no head",
    "reformer": "it attends by hashes drawn at random: the same text gets another reward each time",
    "yoso": "it attends by hashes drawn at random: the same text gets another reward each time",
}


def why_no_rewards(config: PreTrainedConfig) -> str | None:
    """The reason why this family cannot be a reward model here, or None if it can.

    A model with code of its own (`trust_remote_code`) says by itself whether it has a class for it.
    """
    if config.is_encoder_decoder:
        return "it is an encoder with a decoder, which was never shown to score a conversation rightly here"
    if config.model_type == "xmod" and config.default_language is None:
        return "it wants to know the language of every text: set default_language in its config.json"
    if config.model_type in NO_REWARDS:
        return NO_REWARDS[config.model_type]
    has_own_class = "AutoModelForSequenceClassification" in (getattr(config, "auto_map", None) or {})
    is_known = type(config) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING or has_own_class
    if config.get_text_config() is not config:
        return None  # of a model that also takes images the text part is asked: `multimodal.text_part`
    return None if is_known else "transformers has no sequence classification for it"


def why_no_steps(config: PreTrainedConfig) -> str | None:
    """The reason why no process model is made of this family, or None if one is."""
    text_config = config.get_text_config()
    if type(text_config) in MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING:
        return None
    has_own_class = "AutoModelForTokenClassification" in (getattr(config, "auto_map", None) or {})
    return None if has_own_class else "transformers has no token classification for it"


def why_not_checkpointed(config: PreTrainedConfig) -> str | None:
    """The reason why its activations cannot be recomputed, or None if they can."""
    model_class = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    if model_class is None or model_class.supports_gradient_checkpointing:
        return None
    return f"transformers has none for {config.model_type}"


def reads_the_last_place(config: PreTrainedConfig) -> bool:
    """Whether the head reads the last place of a row, be it padding: such rows are padded on the left.

    XLNet's summary does; those of XLM and FlauBERT have the same setting and read the first place.
    """
    return config.model_type in SUMMARIES and config.summary_type == "last"


def why_not_packed(config: PreTrainedConfig) -> str | None:
    """The reason why this model cannot take packed rows, or None if it can."""
    model_class = class_for(config)
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
    if positions is not None and positions < 1:
        return None  # XLNet writes -1: its positions are relative, and have no end
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
