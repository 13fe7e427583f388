"""What the options of `RewardScorer.from_pretrained` come to for a checkpoint."""

import torch
from transformers import PreTrainedConfig

from reward_modeling.common.errors import UserError
from reward_modeling.data.planning import PACKED, PADDED
from reward_modeling.models.attention import SHARED_PREFIX
from reward_modeling.models.rating_outputs import WEIGHTS
from reward_modeling.models.reward_normalization import statistics_of
from reward_modeling.models.support import why_not_packed
from reward_modeling.scoring.readouts.base import Readout

# Tokens of one forward pass: a GPU wants large ones. A CPU gains from small ones, until a prompt with all its answers
# no longer fits (six answers of RM-Bench: 6% fewer tokens at 2,048 than at 1,024).
GPU_TOKENS, CPU_TOKENS = 32_768, 2048


def choose_max_tokens(max_tokens: int | None, device: torch.device) -> int:
    """Of one forward pass."""
    if max_tokens is not None and max_tokens < 1:
        raise UserError(f"max_tokens_per_batch: expected at least 1, found {max_tokens}.")
    return max_tokens or (CPU_TOKENS if device.type == "cpu" else GPU_TOKENS)


def choose_dtype(dtype: torch.dtype | str | None, device: torch.device) -> torch.dtype:
    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    name = str(dtype).removeprefix("torch.")
    name = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}.get(name, name)
    if name not in ("float32", "bfloat16", "float16"):
        raise UserError(f"dtype: expected float32, bfloat16 or float16, found {dtype!r}.")
    return getattr(torch, name)


def checked_length(path: str, max_length: int | None, context: int | None) -> int | None:
    if max_length is not None and not 2 <= max_length <= (context or max_length):
        raise UserError(
            f"max_length: expected 2 to {context or 'any number'}, the tokens that {path} can take, found "
            f"{max_length}. Leave it out to take the model's own."
        )
    return context if max_length is None else max_length


def statistics_to_normalize_by(path: str, config: PreTrainedConfig, readout: Readout) -> dict[str, float]:
    statistics = statistics_of(config)
    if "steps" in readout.beside:
        raise UserError(
            f"normalize: expected a model with rewards of any size, found in {path} a process model, whose rewards are "
            "made of probabilities. Leave it out."
        )
    if statistics is None or not statistics["reward_std"] > 0:
        raise UserError(
            f"normalize: expected reward_mean and reward_std, which rm.py saves with a model that had held-out rows, "
            f"found {statistics or 'neither'} in {path}. Leave it out, and normalize by rewards of your own."
        )
    if readout.reward_weights is not None and readout.reward_weights != config.to_dict().get(WEIGHTS):
        raise UserError(
            f"normalize: expected the weights that {path} was saved with, whose rewards its reward_mean and reward_std "
            "are of, found others. Leave one of the two out."
        )
    return statistics


def choose_batching(path: str, batching: str, config: PreTrainedConfig) -> str:
    reason = why_not_packed(config)
    if batching not in ("auto", SHARED_PREFIX, PACKED, PADDED):
        raise UserError(f"batching: expected auto, {SHARED_PREFIX}, {PACKED} or {PADDED}, found {batching!r}.")
    if batching == "auto":
        return SHARED_PREFIX if reason is None else PADDED
    if batching != PADDED and reason is not None:
        raise UserError(f"batching {batching!r}: {path} cannot take packed rows ({reason}). Pass 'padded' or 'auto'.")
    return batching
