"""Tiny models and data built from nothing, for the quickstart, the tests and the benchmarks.

Nothing is downloaded: a tokenizer is trained on the spot, a model is a random one of the real architecture,
and the preferences follow a rule that a small model can learn.
"""

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


def tiny_config(model_type: str, vocab_size: int, **overrides: Any) -> PreTrainedConfig:
    """A configuration of `model_type` with two layers of 64; `overrides` go to the configuration class.

    Give the special ids with `**token_ids(tokenizer)`; without them the model has none. The weights are drawn
    wider than usual (`initializer_range`): attention is then far from uniform, and a wrong mask or position
    shows in the rewards.
    """
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
    if model_type == "gemma":  # its heads are wider than the hidden size divided by their number
        settings["head_dim"] = 32
    return AutoConfig.for_model(model_type, **settings | overrides)


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
