"""Tiny models and data built from nothing, for the quickstart, the tests and the benchmarks.

Nothing is downloaded: a tokenizer is trained on the spot, a model is a random one of the real architecture,
and the preferences follow a rule that a small model can learn.
"""

import itertools
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

# What sets each architecture apart, kept in a tiny model: heads wider than the hidden size divided by their
# number, windows shorter than a row, a cap that bites.
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_TINY_TRAITS: dict[str, dict[str, Any]] = {
    "gemma": {"head_dim": 32},
    "gemma2": {
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "sliding_window": 16,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 30.0,
    },
    "gemma3_text": {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16},
    "llama": {},
    "mistral": {"head_dim": 16, "sliding_window": 16},
    # Experts that are few enough for every one to get tokens.
    "mixtral": {"head_dim": 16, "sliding_window": 16, "num_local_experts": 4, "num_experts_per_tok": 2},
    # Query, key and value in one matrix; only half of each head is rotated.
    "phi3": {
        "sliding_window": 16,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    },
    "qwen2": {},
    "qwen2_moe": {**_EXPERTS, "shared_expert_intermediate_size": 64},
    "qwen3": {"head_dim": 32},
    "qwen3_moe": {**_EXPERTS, "head_dim": 32},
    # Encoders: attention to later tokens, a pooler; DeBERTa's attention depends on relative positions.
    "bert": _NO_DROPOUT,
    "deberta-v2": {
        **_NO_DROPOUT,
        "relative_attention": True,
        "position_buckets": 16,
        "pos_att_type": ["p2c", "c2p"],
        "type_vocab_size": 0,
        "position_biased_input": False,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
    },
}


def tiny_config(model_type: str, vocab_size: int, **overrides: Any) -> PreTrainedConfig:
    """A configuration of `model_type` with two layers of 64; `overrides` go to the configuration class.

    Give the special ids with `**token_ids(tokenizer)`; without them the model has none. The weights are drawn
    wider than usual (`initializer_range`): attention is then far from uniform, and a wrong mask or position
    shows in the rewards.
    """
    if model_type == "gemma3":
        return _tiny_gemma3(vocab_size, **overrides)
    if model_type not in _TINY_TRAITS:
        raise ValueError(f"model_type: expected one of {sorted([*_TINY_TRAITS, 'gemma3'])}, found {model_type!r}")
    settings = {
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "initializer_range": 0.15,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    settings |= _TINY_TRAITS[model_type] | overrides
    if model_type in ("gemma2", "gemma3_text"):
        kinds = itertools.cycle(("sliding_attention", "full_attention"))
        settings.setdefault("layer_types", list(itertools.islice(kinds, settings["num_hidden_layers"])))
    return AutoConfig.for_model(model_type, **settings)


def _tiny_gemma3(vocab_size: int, **overrides: Any) -> PreTrainedConfig:
    """Gemma-3 with its eyes: the text part is that of gemma3_text."""
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return AutoConfig.for_model(
        "gemma3",
        text_config=tiny_config("gemma3_text", vocab_size, **overrides).to_dict(),
        vision_config=sizes | {"image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        image_token_index=vocab_size - 1,
    )


def build_tiny_checkpoint(
    folder: str | Path, tokenizer: PreTrainedTokenizerFast, config: PreTrainedConfig, seed: int = 0
) -> Path:
    """Save a random language model and its tokenizer to `folder`, as if it came from the Hub.

    An encoder is one of masked words; a model that also takes images is saved whole.
    The weights depend on `config` and `seed` alone, and the caller's random state is left as it was.
    """
    places = config.get_text_config().vocab_size
    if len(tokenizer) > places:
        raise ValueError(f"the tokenizer has {len(tokenizer)} tokens, the configuration only {places}")
    language_model = AutoModelForMaskedLM if type(config) in MODEL_FOR_MASKED_LM_MAPPING else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = language_model.from_config(config, dtype=torch.float32)
    folder = Path(folder)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
