"""Reward models as they were saved, for scoring: weights, head and tokenizer untouched."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, utils

from reward_modeling.common.errors import UserError
from reward_modeling.models.attention import SHARED_PREFIX
from reward_modeling.models.loading import has_score_head, load_config, load_reward_model
from reward_modeling.models.reward_model import RewardModelMixin, reward_model_class
from reward_modeling.models.reward_normalization import read_adapter_statistics, set_statistics
from reward_modeling.models.support import why_not_packed
from reward_modeling.models.tokenizer import HUB_ERRORS, is_for_encoder, name_encoder_marks, not_found

HEAD = "score.weight"
HEADS = (HEAD, "classifier.weight")  # an encoder has the second


def load_checkpoint(path: str, dtype: torch.dtype, **options) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    try:
        is_adapter = utils.find_adapter_config_file(path, revision=options["revision"]) is not None
    except HUB_ERRORS as error:
        raise not_found(path, "a model", error) from error
    if is_adapter:
        return _load_adapter(path, dtype, **options)
    config = _load_config(path, **options)
    tokenizer = _load_tokenizer(path, **options)
    head = _read_head(path, options["revision"])
    # Other classes may call their head otherwise; transformers' generic ones all have this name.
    if head is None and reward_model_class(type(config)) is not None:
        raise UserError(_no_head(path, f"no {HEAD} among its weights"))
    attention = _attention(config)
    model = load_reward_model(path, config, tokenizer, attn_implementation=attention, dtype=dtype, **options)
    if head is not None and isinstance(model, RewardModelMixin):
        model.score.to(torch.float32).weight.data.copy_(head)  # as it was saved, not rounded to bfloat16
    if not isinstance(model, RewardModelMixin):
        # These look for the last token that is not pad, which may be any: with no such token they take the last one.
        model.config.pad_token_id = -1
    return model, tokenizer


def _attention(config: PreTrainedConfig) -> str | None:
    """Ours wherever it works, padded rows included. Elsewhere transformers' choice, which is eager with a soft cap."""
    return SHARED_PREFIX if why_not_packed(config) is None else None


def _no_head(path: str, found: str) -> str:
    return (
        f"{path}: expected a reward model (*ForSequenceClassification with one label), found {found}. A score head "
        "drawn at random would give random rewards: train one with rm.py, or pass a model that has one."
    )


def _load_config(path: str, **options) -> PreTrainedConfig:
    try:
        config = AutoConfig.from_pretrained(path, **options)
    except HUB_ERRORS as error:
        raise not_found(path, "a model", error) from error
    if not has_score_head(config):
        raise UserError(_no_head(path, f"architectures {config.architectures} in its config.json"))
    if config.num_labels != 1:
        raise UserError(
            f"{path}: expected a reward model with one label, found a classifier with {config.num_labels}. Which of "
            "its logits would be the reward is not known: pass a model with num_labels 1."
        )
    return config


def _load_tokenizer(path: str, **options) -> PreTrainedTokenizerBase:
    """As it is: `tokenizer.load_tokenizer` lets the template end an answer, and gives a pad token."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
    except (*HUB_ERRORS, KeyError, TypeError) as error:  # a broken tokenizer.json raises these
        raise not_found(path, "a tokenizer", error) from error
    if is_for_encoder(tokenizer):
        name_encoder_marks(tokenizer)
    return tokenizer


def _read_head(path: str, revision: str | None) -> torch.Tensor | None:
    """The score head's weight, `(1, hidden)`, in the precision that it was saved in; None if there is none."""

    def find(name: str) -> str | None:
        return utils.cached_file(path, name, revision=revision, _raise_exceptions_for_missing_entries=False)

    files = ((utils.SAFE_WEIGHTS_NAME, utils.SAFE_WEIGHTS_INDEX_NAME), (utils.WEIGHTS_NAME, utils.WEIGHTS_INDEX_NAME))
    for whole, index in files:
        file = find(whole)
        if file is None and (index_file := find(index)) is not None:
            shard = json.loads(Path(index_file).read_text(encoding="utf-8"))["weight_map"].get(HEAD)
            file = shard and find(shard)
        if file is None:
            continue
        if whole == utils.WEIGHTS_NAME:
            return torch.load(file, map_location="cpu", weights_only=True, mmap=True).get(HEAD)
        with safe_open(file, framework="pt") as tensors:
            return tensors.get_tensor(HEAD) if HEAD in tensors.keys() else None  # noqa: SIM118 (not a dictionary)
    return None


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
        raise UserError(_no_head(path, f"an adapter without {HEAD} of the language model {base}"))
    attention = _attention(config)
    # Merged in float32, and rounded once: in bfloat16 most of what an adapter adds to a weight would be lost.
    model = load_reward_model(
        base,
        config,
        tokenizer,
        attn_implementation=attention,
        dtype=torch.float32,
        adapter_follows=True,
        **base_options,
    )
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
