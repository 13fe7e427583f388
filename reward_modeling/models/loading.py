"""Load the weights of a reward model from a language model or from a reward model, and save it."""

import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from reward_modeling.common.atomic import commit, unfinished
from reward_modeling.common.errors import UserError, first_line
from reward_modeling.models.attention import SHARED_PREFIX
from reward_modeling.models.checkpoint_config import no_score_head
from reward_modeling.models.fsdp import allocate_new_weights
from reward_modeling.models.gated_model import gated_model_class, is_gated
from reward_modeling.models.new_parts import drawn_head, new_weights
from reward_modeling.models.other_heads import copied_head, renamed_head
from reward_modeling.models.process_format import is_process_model
from reward_modeling.models.reward_model import class_for, with_blocks
from reward_modeling.models.stored_weights import broken_weights
from reward_modeling.models.tokenizer import not_found

logger = logging.getLogger(__name__)

HEAD = "score."


def load_reward_model(
    model_name: str,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    dtype: torch.dtype = torch.float32,
    adapter_follows: bool = False,
    own_head: bool = False,
    any_head: bool = False,
    other_head: bool = False,
    initial_head: Callable[[], dict[str, torch.Tensor]] | None = None,
    **options,
) -> PreTrainedModel:
    """A reward model from a language model (new head) or from a reward model (its own head).

    Embeddings grow if the tokenizer has more tokens than the model; the config gets the tokenizer's pad token.
    `options` go to `from_pretrained`: `attn_implementation`, `revision`, `trust_remote_code`, `key_mapping` for a text
    part (see multimodal.py). `adapter_follows` where an adapter brings the head; `own_head` where the checkpoint must
    have one, which is held in float32; `any_head` where what it has in the place of the head will be replaced;
    `other_head` where the checkpoint's head reads something else, and a new one begins in its place; `initial_head`
    gives the values of a head that is new, by their names ({}: it is drawn at random).

    Raises:
        UserError: the checkpoint lacks weights, other than those of a head that may be new, or cannot be read.
    """
    draws_head = not adapter_follows and not own_head and not any_head
    may_rename = draws_head and not is_process_model(config)
    model, info = _read_named_weights(model_name, config, own_head, may_rename, dtype=dtype, **options)
    left = drawn_head(model) if other_head else {}
    _check_shapes(
        model_name, info["mismatched_keys"], lambda name: name in left or (any_head and name.startswith(HEAD))
    )
    missing = sorted(info["missing_keys"])
    allocate_new_weights(model, missing)
    if left:
        logger.warning("Score head: that of the checkpoint reads whole answers, and is left out.")
        _set_weights(model, left)
        missing = sorted({*missing, *left})
    begun: dict[str, torch.Tensor] = {}
    if missing and may_rename:
        copied = copied_head(model_name, config, revision=options.get("revision"))
        begun = {} if copied or initial_head is None else initial_head()
        _set_weights(model, copied | begun)
        missing = [name for name in missing if name not in copied and name not in begun]
    _check_missing(model_name, model, missing)
    if own_head and missing:
        raise no_score_head(model_name, f"no {missing[0]} among its weights")
    if adapter_follows:
        logger.info("Score head: the adapter's.")
    elif any_head:
        logger.info("Score head: to be fitted.")
    elif missing:
        logger.warning("Score head: new (%s).", ", ".join(missing))
    elif not begun:  # whatever gave it has said so
        logger.warning("Score head: the one that the checkpoint has.")
    return _as_trained(model, tokenizer)


def _as_trained(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """With a place for each token, and what its configuration has to say of it."""
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
        logger.warning("Embeddings: resized to %d for the new pad token.", len(tokenizer))
    # A reward is a logit as it is: without this word transformers' pipeline and vLLM would put it through a sigmoid.
    model.config.problem_type = None if is_process_model(model.config) else "regression"
    # Not before: the embeddings that are built from a config refuse a pad token beyond them.
    model.config.pad_token_id = model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return with_blocks(model)


def _check_shapes(model_name: str, mismatched: Iterable[tuple], is_replaced: Callable[[str], bool]) -> None:
    """
    Raises:
        UserError: a weight of the checkpoint has another shape, and nothing replaces it.
    """
    wrong = [key for key in mismatched if not is_replaced(key[0])]
    if wrong:
        name, found, expected = min(wrong, key=lambda key: key[0])
        raise UserError(
            f"--model_name {model_name}: expected the shape {tuple(expected)} of {name}, which its config.json asks "
            f"for, found {tuple(found)}. The weights belong to another configuration."
        )


def _check_missing(model_name: str, model: PreTrainedModel, missing: Sequence[str]) -> None:
    """
    Raises:
        UserError: other weights are missing than those that may be new.
    """
    may_be_new = new_weights(model) if missing else set()
    base_missing = [key for key in missing if key not in may_be_new]
    if base_missing:
        raise UserError(
            f"--model_name {model_name}: expected all the weights of {type(model).__name__}, found none for "
            f"{len(base_missing)} of them, such as {base_missing[0]}. The checkpoint is incomplete or of another model."
        )


def _read_named_weights(
    model_name: str, config: PreTrainedConfig, float32_head: bool, may_rename: bool, **options
) -> tuple[PreTrainedModel, dict]:
    """`_read_weights`; where the head is missing, and may have another name, under that."""
    model, info = _read_weights(model_name, config, float32_head, **options)
    if info["missing_keys"] and may_rename:
        # before, the files were looked at only where they were on this disk
        renamed = renamed_head(model_name, config, revision=options.get("revision"))
        if renamed and not renamed.items() <= options.get("key_mapping", {}).items():
            options["key_mapping"] = options.get("key_mapping", {}) | renamed
            model, info = _read_weights(model_name, config, float32_head, **options)
    if "key_mapping" in options:
        _forget_renaming(model, options["key_mapping"])
    return model, info


def _set_weights(model: PreTrainedModel, values: dict[str, torch.Tensor]) -> None:
    """Under ZeRO-3, which has cut the weights already, process 0's values reach all processes."""
    weights = {name: model.get_parameter(name) for name in values}
    gathered: Any = nullcontext()
    if any(hasattr(weight, "ds_id") for weight in weights.values()):
        import deepspeed  # slow to import, and not needed without ZeRO-3

        gathered = deepspeed.zero.GatheredParameters(list(weights.values()), modifier_rank=0)
    with gathered, torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(values[name])


def _forget_renaming(model: PreTrainedModel, mapping: dict[str, str]) -> None:
    """Saving would undo it: the model keeps the names that it has. Conversions of transformers' own stay."""
    kept = [each for each in model._weight_conversions if not mapping.keys() & set(each.source_patterns)]
    if kept:
        model._weight_conversions = kept
    else:
        del model._weight_conversions


def save_whole(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a checkpoint; the folder is complete or not there."""
    writing = unfinished(folder)
    shutil.rmtree(writing, ignore_errors=True)  # of a process that was killed
    model.save_pretrained(writing)
    tokenizer.save_pretrained(writing)
    commit(folder)


def _model_class(config: PreTrainedConfig, float32_head: bool) -> type:
    if is_gated(config):
        return gated_model_class(type(config))
    auto_class = AutoModelForTokenClassification if is_process_model(config) else AutoModelForSequenceClassification
    return class_for(config, float32_head=float32_head) or auto_class


def _read_weights(
    model_name: str, config: PreTrainedConfig, float32_head: bool, **options
) -> tuple[PreTrainedModel, dict]:
    """`from_pretrained` with its failures in our words; the second value says what was missing."""
    model_class = _model_class(config, float32_head)
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # what is missing is told in a line of ours instead of a table
    try:
        # other shapes are refused by load_reward_model, by name
        return model_class.from_pretrained(
            model_name, config=config, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except SafetensorError as error:
        raise broken_weights(model_name, error) from error
    except OSError as error:
        raise not_found(model_name, "readable weights", error) from error
    except (ImportError, ValueError) as error:
        attention = options.get("attn_implementation")
        if attention in (None, SHARED_PREFIX) or "attention" not in str(error).lower().replace("attn", "attention"):
            raise UserError(
                f"--model_name {model_name}: {config.model_type} cannot be loaded ({first_line(error)})."
            ) from error
        raise UserError(
            f"--model_name {model_name}: {config.model_type} cannot be loaded with --attn_implementation "
            f"{attention} ({first_line(error)}). Pass eager or sdpa."
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
