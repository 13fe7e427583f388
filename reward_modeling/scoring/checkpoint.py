"""Reward models as they were saved, for scoring: weights, head and tokenizer untouched."""

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, utils

from reward_modeling.common.errors import UserError
from reward_modeling.models.attention import SHARED_PREFIX
from reward_modeling.models.loading import (
    has_score_head,
    load_config,
    load_reward_model,
    no_score_head,
    read_config,
)
from reward_modeling.models.reward_model import RewardModelMixin
from reward_modeling.models.reward_normalization import read_adapter_statistics, set_statistics
from reward_modeling.models.support import why_not_packed
from reward_modeling.models.tokenizer import HUB_ERRORS, is_for_encoder, name_encoder_marks, not_found, read_tokenizer

HEADS = ("score.weight", "classifier.weight")  # an encoder has the second


def load_checkpoint(path: str, dtype: torch.dtype, **options) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    Raises:
        UserError: there is no model with one label and a score head that was trained, or it cannot be read.
    """
    try:
        is_adapter = utils.find_adapter_config_file(path, revision=options["revision"]) is not None
    except HUB_ERRORS as error:
        raise not_found(path, "a model", error) from error
    if is_adapter:
        return _load_adapter(path, dtype, **options)
    config = read_config(path, **options)
    if not has_score_head(config):
        raise no_score_head(path, f"architectures {config.architectures} in its config.json")
    if config.num_labels != 1:
        raise UserError(
            f"{path}: expected a reward model with one label, found a classifier with {config.num_labels}. Which of "
            "its logits would be the reward is not known: pass a model with num_labels 1."
        )
    tokenizer = _load_tokenizer(path, **options)
    model = _load_weights(path, config, tokenizer, dtype=dtype, own_head=True, **options)
    if not isinstance(model, RewardModelMixin):
        # These look for the last token that is not pad, which may be any: with no such token they take the last one.
        model.config.pad_token_id = -1
    return model, tokenizer


def _load_weights(path: str, config: PreTrainedConfig, tokenizer, **options) -> PreTrainedModel:
    """With our attention wherever it works, padded rows included.

    Elsewhere with transformers' choice, which is eager with a soft cap.
    """
    attention = SHARED_PREFIX if why_not_packed(config) is None else None
    return load_reward_model(path, config, tokenizer, attn_implementation=attention, **options)


def _load_tokenizer(path: str, **options) -> PreTrainedTokenizerBase:
    """As it is: `tokenizer.load_tokenizer` lets the template end an answer, and gives a pad token."""
    tokenizer = read_tokenizer(path, **options)
    if is_for_encoder(tokenizer):
        name_encoder_marks(tokenizer)
    return tokenizer


def _load_adapter(path: str, dtype: torch.dtype, **options) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model with the adapter merged into it, and the adapter's head."""
    try:
        from peft import PeftConfig, PeftModel
        from peft.utils import load_peft_weights
    except ImportError as error:
        raise UserError(f"{path} is an adapter: expected peft to be installed. Run pip install peft.") from error
    adapter = PeftConfig.from_pretrained(path, revision=options["revision"])
    weights = load_peft_weights(path, device="cpu", revision=options["revision"])
    base, base_options = adapter.base_model_name_or_path, options | {"revision": adapter.revision}
    tokenizer = _load_tokenizer(path, **options)
    config = load_config(base, **base_options)
    if not has_score_head(config) and not any(name.endswith(HEADS) for name in weights):
        raise no_score_head(path, f"an adapter without {HEADS[0]} of the language model {base}")
    # Merged in float32, and rounded once: in bfloat16 most of what an adapter adds to a weight would be lost.
    model = _load_weights(base, config, tokenizer, dtype=torch.float32, adapter_follows=True, **base_options)
    merged = PeftModel.from_pretrained(model, path, revision=options["revision"]).merge_and_unload()
    merged.config.architectures = [type(merged).__name__]
    set_statistics(merged.config, read_adapter_statistics(path, options["revision"]))
    if not isinstance(merged, RewardModelMixin):
        merged.config.pad_token_id = -1  # as in load_checkpoint
        return merged.to(dtype), tokenizer
    head = merged.score.weight.data.clone()
    merged.to(dtype)
    merged.score.to(torch.float32).weight.data.copy_(head)
    return merged, tokenizer
