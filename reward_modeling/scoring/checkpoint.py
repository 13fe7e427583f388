"""Reward models as they were saved, for scoring: weights, head and tokenizer untouched."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, utils

from reward_modeling.common.errors import UserError
from reward_modeling.models.attention import SHARED_PREFIX
from reward_modeling.models.checkpoint_config import load_config, no_score_head, read_config
from reward_modeling.models.checkpoint_kinds import has_score_head
from reward_modeling.models.gated_model import is_gated
from reward_modeling.models.loading import load_reward_model
from reward_modeling.models.new_parts import HEAD, WRAPPED, is_within, new_modules_of
from reward_modeling.models.process_format import LABELS, PROCESS, is_process_model
from reward_modeling.models.rating_outputs import names_of_saved_values
from reward_modeling.models.reward_model import RewardModelMixin
from reward_modeling.models.reward_normalization import read_adapter_statistics, set_statistics
from reward_modeling.models.support import PAD_THEMSELVES, why_not_packed
from reward_modeling.models.tokenizer import HUB_ERRORS, is_for_encoder, not_found, read_tokenizer, set_up_for_encoder


def load_checkpoint(
    path: str,
    dtype: torch.dtype,
    *,
    check: Callable[[PreTrainedConfig], object] | None = None,
    no_head: Callable[[str, str], UserError] = no_score_head,
    **options,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    Args:
        check: raises a UserError where the model is not one to be loaded, by its configuration.
        no_head: the error where there is no head that was trained, of the path and of what was found.

    Raises:
        UserError: there is no model with a score head that was trained, or it cannot be read.
    """
    check = check or (lambda _config: None)
    try:
        is_adapter = utils.find_adapter_config_file(path, revision=options["revision"]) is not None
    except HUB_ERRORS as error:
        raise not_found(path, "a model", error) from error
    if is_adapter:
        return _load_adapter(path, dtype, check, no_head, **options)
    config = read_config(path, **options)
    if not has_score_head(config) and not is_gated(config) and not is_process_model(config):
        raise no_head(path, f"architectures {config.architectures} in its config.json")
    check(config)
    tokenizer = _load_tokenizer(path, **options)
    model = _load_weights(path, config, tokenizer, dtype=dtype, own_head=True, **options)
    _read_the_last_token(model)
    return model, tokenizer


def _read_the_last_token(model: PreTrainedModel) -> None:
    """Other classes look for the last token that is not pad, which may be any: with no pad they take the last one."""
    if not isinstance(model, RewardModelMixin) and model.config.model_type not in PAD_THEMSELVES:
        model.config.pad_token_id = -1


def _load_weights(path: str, config: PreTrainedConfig, tokenizer, **options) -> PreTrainedModel:
    """With our attention wherever it works, padded rows included.

    Elsewhere with transformers' choice, which is eager with a soft cap.
    """
    attention = SHARED_PREFIX if why_not_packed(config) is None else None
    return load_reward_model(path, config, tokenizer, attn_implementation=attention, **options)


def _load_tokenizer(path: str, **options) -> PreTrainedTokenizerBase:
    """As it is: `tokenizer.load_tokenizer` lets the template end an answer, and gives a pad token.

    Only an encoder's is set up as in training: one that was trained elsewhere has no template.
    """
    tokenizer = read_tokenizer(path, **options)
    if is_for_encoder(tokenizer):
        set_up_for_encoder(tokenizer)
    return tokenizer


def _has_tokenizer(path: str, revision: str | None, **_options) -> bool:
    """Whether a folder or a Hub id has a tokenizer of its own: without one transformers makes up an empty one."""
    options = {"revision": revision, "_raise_exceptions_for_missing_entries": False}
    names = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model")
    return any(utils.cached_file(path, name, **options) is not None for name in names)


def _not_in_adapter(config: PreTrainedConfig, weights: dict[str, torch.Tensor]) -> list[str]:
    """New parts that neither a language model nor the adapter has: they would be drawn at random."""
    return [
        f"{name}.weight"
        for name in new_modules_of(config)
        if not any(is_within(key.removeprefix(WRAPPED), [name]) for key in weights)
    ]


def _head_of_adapter(weights: dict[str, torch.Tensor], saved: Mapping[str, Any]) -> dict[str, Any]:
    """How many labels the model under an adapter needs, and their names: peft writes down neither."""
    if PROCESS in saved:
        return {"num_labels": len(LABELS), "label_names": LABELS, "reads_steps": True}
    if names := names_of_saved_values(saved):
        return {"num_labels": len(names), "label_names": names}
    head = weights.get(f"{WRAPPED}{HEAD}.weight")
    return {"num_labels": 1 if head is None else len(head)}


def _load_adapter(
    path: str,
    dtype: torch.dtype,
    check: Callable[[PreTrainedConfig], object],
    no_head: Callable[[str, str], UserError],
    **options,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model with the adapter merged into it, and the adapter's head."""
    try:
        from peft import PeftConfig, PeftModel
        from peft.utils import load_peft_weights
    except ImportError as error:
        raise UserError(f"{path} is an adapter: expected peft to be installed. Run pip install peft.") from error
    adapter = PeftConfig.from_pretrained(path, revision=options["revision"])
    weights = load_peft_weights(path, device="cpu", revision=options["revision"])
    base, base_options = adapter.base_model_name_or_path, options | {"revision": adapter.revision}
    tokenizer = (
        _load_tokenizer(path, **options) if _has_tokenizer(path, **options) else _load_tokenizer(base, **base_options)
    )
    saved = read_adapter_statistics(path, options["revision"]) or {}
    config = load_config(base, **_head_of_adapter(weights, saved), **base_options)
    set_statistics(config, saved)
    check(config)
    if not has_score_head(config) and (lost := _not_in_adapter(config, weights)):
        raise no_head(path, f"an adapter without {lost[0]} of the language model {base}")
    # Merged in float32, and rounded once: in bfloat16 most of what an adapter adds to a weight would be lost.
    model = _load_weights(base, config, tokenizer, dtype=torch.float32, adapter_follows=True, **base_options)
    merged = PeftModel.from_pretrained(model, path, revision=options["revision"]).merge_and_unload()
    merged.config.architectures = [type(merged).__name__]
    if not isinstance(merged, RewardModelMixin):
        _read_the_last_token(merged)
        return merged.to(dtype), tokenizer
    head = copy.deepcopy(merged.score.state_dict())
    merged.to(dtype)
    merged.score.to(torch.float32).load_state_dict(head)
    return merged, tokenizer
