"""A checkpoint with all that scoring takes from it: `RewardScorer.from_pretrained` says what the options are."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from reward_modeling.common.devices import align_parameters
from reward_modeling.common.errors import UserError, first_line
from reward_modeling.models.attention import register_shared_prefix_attention
from reward_modeling.models.chat_template import set_chat_template
from reward_modeling.models.reward_model import RewardModelMixin
from reward_modeling.models.support import context_length
from reward_modeling.scoring.checkpoint import load_checkpoint
from reward_modeling.scoring.options import (
    checked_length,
    choose_batching,
    choose_dtype,
    choose_max_tokens,
    statistics_to_normalize_by,
)
from reward_modeling.scoring.plan import Batches
from reward_modeling.scoring.readouts.base import Readout
from reward_modeling.scoring.readouts.catalog import readout_of

# What torn weights, torn JSON and an adapter without weights raise.
BROKEN_FILES = (SafetensorError, json.JSONDecodeError, HFValidationError, EOFError)
ReadoutOf = Callable[..., Readout]


@dataclass(frozen=True)
class LoadedModel:
    """What `RewardScorer` is made of."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batches: Batches
    max_length: int | None
    statistics: dict[str, float] | None
    readout: Readout


def load_model(
    path: str | Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    max_length: int | None = None,
    max_tokens_per_batch: int | None = None,
    batching: str = "auto",
    normalize: bool = False,
    chat_template: str | Path | None = None,
    weights: Mapping[str, float] | None = None,
    readout_of: ReadoutOf = readout_of,
) -> LoadedModel:
    """
    Args:
        readout_of: what is read off the model, or a UserError where it is another kind of model.

    Raises:
        UserError: see `RewardScorer.from_pretrained`.
    """
    path = str(Path(path).expanduser() if str(path).startswith("~") else path)
    if not path:
        raise UserError("expected the Hub id or folder of a reward model, found an empty name. Pass one.")
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    max_tokens = choose_max_tokens(max_tokens_per_batch, device)
    dtype = choose_dtype(dtype, device)
    # of the config alone, before weights are read, which may take minutes
    check = partial(readout_of, path, weights=weights)
    model, tokenizer = _read(path, dtype, check, revision=revision, trust_remote_code=trust_remote_code)
    if chat_template is not None:
        set_chat_template(tokenizer, chat_template)
    batching = choose_batching(path, batching, model.config)
    max_length = checked_length(path, max_length, context_length(model.config))
    readout = check(model.config)
    equal_lengths = not isinstance(model, RewardModelMixin)
    batches = Batches(batching, max_tokens, equal_lengths=equal_lengths, trees=readout.trees)
    statistics = statistics_to_normalize_by(path, model.config, readout) if normalize else None
    align_parameters(model.to(device))
    return LoadedModel(model.eval(), tokenizer, batches, max_length, statistics, readout)


def _read(
    path: str, dtype: torch.dtype, check: Callable[[PreTrainedConfig], Readout], **options: object
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    register_shared_prefix_attention()
    try:
        return load_checkpoint(path, dtype, check=check, **options)
    except BROKEN_FILES as error:
        raise UserError(
            f"{path}: expected whole model files, found one that cannot be read ({type(error).__name__}: "
            f"{first_line(error)}). Download or save it again."
        ) from error
    except UserError as error:  # a library call has no flags, and eval_bench_mark.py has others than rm.py
        raise UserError(str(error).removeprefix("--model_name ")) from error
