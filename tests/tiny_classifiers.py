"""A tiny configuration of every family that transformers has a sequence classification for."""

import functools
from typing import Any

from transformers import CONFIG_MAPPING, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, PreTrainedConfig

# Whatever a family calls it. What it does not know is left out.
SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size", "n_embed"), 32),
    **dict.fromkeys(("intermediate_size", "hidden_dim", "d_inner", "ffn_dim", "dff", "moe_intermediate_size"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("head_dim", "d_head", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "rotary_dim"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 128),
    **dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"), 0.0),
    **dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop", "classifier_dropout", "summary_last_dropout"), 0.0),
    "word_embed_proj_dim": 32,
    "n_inner": None,
    "num_experts_per_tok": 2,
    "num_key_value_heads": 2,
    "shared_expert_intermediate_size": 32,
    "initializer_range": 0.15,
}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_LATENT = {"num_key_value_heads": 4, "qk_head_dim": 16, "n_group": 1, "topk_group": 1, "topk_method": "greedy"}
_ALL_HEADS = {"num_key_value_heads": 4}
_LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
_RECURRENT = ["linear_attention"] * 2
_MAMBA = {"num_hidden_layers": 5, "mamba_d_state": 8, "mamba_expand": 2, "num_key_value_heads": 4, "head_dim": ...}
_MAMBA |= {"attention_hidden_size": 64, "attention_head_dim": 16}
SPECIAL: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("axk1", "axk2", "deepseek_v2", "deepseek_v3"), _LATENT),
    **dict.fromkeys(("minicpm3", "esmc"), _ALL_HEADS),
    **dict.fromkeys(("qwen3_next", "qwen3_5_text"), _LINEAR),
    "cohere_compass_text": {"layer_types": ["full_attention"] * 2, "rope_parameters": {"full_attention": _ROPE}},
    "falcon": {"head_dim": ...},
    "funnel": {"num_hidden_layers": ..., "block_sizes": [1, 1], "num_decoder_layers": 1},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "longformer": {"attention_window": [8, 8]},
    "mistral4": {"head_dim": ..., **_LATENT},
    "xlnet": {"max_position_embeddings": ...},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    # Their shared blocks need two layers of attention, the first of which comes third.
    "zamba": {**_MAMBA, "layers_block_type": [*_RECURRENT, "hybrid", "linear_attention", "hybrid"], "n_mamba_heads": 1},
    "zamba2": {
        **_MAMBA,
        **{"layers_block_type": ["linear_attention", "hybrid"] * 2 + ["linear_attention"], "hybrid_layer_ids": [1, 3]},
        **{"n_mamba_heads": 4, "mamba_headdim": 16, "mamba_ngroups": 1, "num_mem_blocks": 1, "chunk_size": 8},
    },
}
WITH_IMAGES = ("gemma3", "qwen3_5", "modernvbert", "ultravbert")


@functools.cache
def families() -> list[str]:
    """Their model types, in the order of transformers' own mapping."""
    types = dict.fromkeys(config.model_type for config in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING)
    return [name for name in types if name not in WITH_IMAGES]


def tiny_classifier_config(model_type: str, vocab_size: int, **special_ids: int | None) -> PreTrainedConfig:
    config_class = CONFIG_MAPPING[model_type]
    known = config_class()
    renamed = config_class.attribute_map
    settings = {name: value for name, value in SMALL.items() if hasattr(known, name) and renamed.get(name) not in SMALL}
    settings |= {"vocab_size": vocab_size, **special_ids, **SPECIAL.get(model_type, {})}
    return config_class(**{name: value for name, value in settings.items() if value is not ...})
