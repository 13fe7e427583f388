"""Load a reward model from a language model or from a reward model."""

import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
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
from reward_modeling.models.fsdp import allocate_new_weights
from reward_modeling.models.gated_model import gated_model_class, is_gated
from reward_modeling.models.new_parts import drawn_head, new_weights
from reward_modeling.models.other_heads import copied_head, renamed_head
from reward_modeling.models.pairwise_format import compares_answers
from reward_modeling.models.process_format import check_labels, is_process_model, make_process_model
from reward_modeling.models.rating_outputs import RANGES, output_names
from reward_modeling.models.reward_model import class_for, with_blocks
from reward_modeling.models.reward_normalization import set_statistics
from reward_modeling.models.stored_weights import broken_weights
from reward_modeling.models.support import why_no_rewards, why_no_steps
from reward_modeling.models.tokenizer import HUB_ERRORS, not_found

logger = logging.getLogger(__name__)

HEAD = "score."


def load_config(
    model_name: str,
    *,
    num_labels: int = 1,
    label_names: Sequence[str] = (),
    any_head: bool = False,
    compares: bool = False,
    reads_steps: bool = False,
    **hub_options,
) -> PreTrainedConfig:
    """The configuration of a Hub id or a folder, with the labels that the head shall have.

    Args:
        any_head: whatever head the checkpoint has will be replaced.
        compares: the model reads two answers, and so must one whose head is kept.
        reads_steps: it shall be a token classifier, and so must be one whose head is kept; any other head is left.

    Raises:
        UserError: nothing is found there, or the checkpoint is a classifier of other labels, or of one answer where
            two are compared, or an encoder-decoder.
    """
    if Path(model_name, "adapter_config.json").is_file():
        raise UserError(
            f"--model_name {model_name}: expected a model, found an adapter. Merge it first: "
            f"python -m reward_modeling.scoring.merge_adapter {model_name} NEW_FOLDER. To go on with its training, "
            "pass the model that it was trained on, with --resume_from_checkpoint."
        )
    if not Path(model_name).exists():
        logger.info("Model: %s is no folder here; asking the Hugging Face Hub.", model_name)
    config = read_config(model_name, **hub_options)
    check_family(model_name, config)
    if is_gated(config):
        raise UserError(
            f"--model_name {model_name}: expected a causal language model or a reward model, found a mixture of "
            f"objectives with a gate ({config.architectures[0]}), which no script trains on. Start from the model that "
            "it was made from."
        )
    _check_reads(model_name, config, reads_steps)
    goes_on = has_score_head(config) and not any_head and not reads_steps
    if goes_on and config.num_labels != num_labels:
        scores = "one score" if num_labels == 1 else f"{num_labels} scores"
        instead = "Start from the language model it was made from."
        if num_labels == 1 and hasattr(config, RANGES):
            instead = f"Fold it first: python rm_regression.py --fold {model_name} --output_path NEW_FOLDER."
        raise UserError(
            f"--model_name {model_name}: expected a causal language model or a reward model with {scores}, found "
            f"a classifier with {config.num_labels} labels. {instead}"
        )
    if goes_on and compares_answers(config) != compares:
        kinds = ("a reward model, which reads one answer", "a pairwise model, which reads two answers")
        wanted, found = (kinds[compares], kinds[not compares])
        raise UserError(
            f"--model_name {model_name}: expected a causal language model or {wanted}, found {found}: what its head "
            "has learned says nothing here. Start from the language model it was made from."
        )
    if label_names and goes_on and hasattr(config, RANGES):
        _check_names(model_name, output_names(config), label_names)
    config.num_labels = num_labels
    if label_names or hasattr(config, RANGES):  # the name of a rating is not that of another score
        names = label_names or [f"LABEL_{number}" for number in range(num_labels)]
        config.id2label = dict(enumerate(names))
        config.label2id = {name: number for number, name in enumerate(names)}
    set_statistics(config, None)  # those of the checkpoint are not those of what is made of it
    if reads_steps:
        make_process_model(config)
    return config


def _check_reads(model_name: str, config: PreTrainedConfig, reads_steps: bool) -> None:
    """
    Raises:
        UserError: the checkpoint is a process model, and another kind is asked for; or one of other labels than two; or
            transformers has no token classifier of its family.
    """
    if is_process_model(config):
        if not reads_steps:
            raise UserError(
                f"--model_name {model_name}: expected a causal language model or a reward model, found a token "
                "classifier such as rm_process.py saves, whose head says of single steps whether they are right. "
                "Start from the language model it was made from, or go on with rm_process.py."
            )
        check_labels(f"--model_name {model_name}", config)
    if reads_steps and why_no_steps(config) is not None:
        raise UserError(
            f"--model_name {model_name}: expected a model of which transformers has a token classifier, found "
            f"{config.model_type}: {why_no_steps(config)}. Take another one, such as a Llama, Qwen or Gemma."
        )


def _check_names(model_name: str, found: Sequence[str], expected: Sequence[str]) -> None:
    """
    Raises:
        UserError: the outputs of a model of ratings would go on as those of other attributes.
    """
    place = next((n for n, names in enumerate(zip(found, expected, strict=True)) if names[0] != names[1]), None)
    if place is not None:
        raise UserError(
            f"--model_name {model_name}: expected a model whose output {place + 1} is {expected[place]}, as "
            f"--attributes says, found {found[place]}. Pass the attributes in the order in which the model has them, "
            "or start from the language model it was made from."
        )


def check_family(model_name: str, config: PreTrainedConfig) -> None:
    """Raises `UserError`: no reward model is made of this family, or not of weights that are quantised."""
    if (reason := why_no_rewards(config)) is not None:
        raise UserError(
            f"--model_name {model_name}: expected a decoder or an encoder that can be a reward model, found "
            f"{config.model_type}: {reason}. Take a causal language model or an encoder, such as those in the README."
        )
    quantised = getattr(config, "quantization_config", None)
    if quantised is None:
        return
    settings = quantised if isinstance(quantised, dict) else quantised.to_dict()
    method = settings.get("quant_method", "a method that it does not name")
    raise UserError(
        f"--model_name {model_name}: expected weights in float32, bfloat16 or float16, found quantised ones "
        f"({getattr(method, 'value', method)}), which cannot be trained or merged with. Take the model that they were "
        "made from; with --use_peft, --load_in_4bit quantises it by itself."
    )


def read_config(model_name: str, **options) -> PreTrainedConfig:
    """The configuration as it is; a UserError where nothing is found."""
    try:
        return AutoConfig.from_pretrained(model_name, **options)
    except HUB_ERRORS as error:
        raise not_found(model_name, "a model", error) from error


def no_score_head(model_name: str, found: str) -> UserError:
    """For scoring, which draws no head."""
    return UserError(
        f"{model_name}: expected a reward model (*ForSequenceClassification with one label), found {found}. A score "
        "head drawn at random would give random rewards: train one with rm.py, or pass a model that has one."
    )


def has_score_head(config: PreTrainedConfig) -> bool:
    """Whether the checkpoint says that it is a `*ForSequenceClassification`."""
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())


def head_of_checkpoint(config: PreTrainedConfig, *, reads_steps: bool = False) -> bool:
    """Whether a model that is made of this checkpoint keeps its head.

    Args:
        config: of the checkpoint, as `read_config` gives it.
    """
    return is_process_model(config) if reads_steps else has_score_head(config)


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
    model, info = _read_weights(model_name, config, own_head, dtype=dtype, **options)
    draws_head = not adapter_follows and not own_head and not any_head
    if info["missing_keys"] and draws_head and not is_process_model(config):
        # before, the files were looked at only where they were on this disk
        renamed = renamed_head(model_name, config, revision=options.get("revision"))
        if renamed and not renamed.items() <= options.get("key_mapping", {}).items():
            options["key_mapping"] = options.get("key_mapping", {}) | renamed
            model, info = _read_weights(model_name, config, own_head, dtype=dtype, **options)
    if "key_mapping" in options:
        _forget_renaming(model, options["key_mapping"])
    mismatched = [key for key in info["mismatched_keys"] if not (any_head and key[0].startswith(HEAD))]
    left = drawn_head(model) if other_head else {}
    mismatched = [key for key in mismatched if key[0] not in left]
    if mismatched:
        name, found, expected = min(mismatched, key=lambda key: key[0])
        raise UserError(
            f"--model_name {model_name}: expected the shape {tuple(expected)} of {name}, which its config.json asks "
            f"for, found {tuple(found)}. The weights belong to another configuration."
        )
    missing = sorted(info["missing_keys"])
    allocate_new_weights(model, missing)
    if left:
        logger.warning("Score head: that of the checkpoint reads whole answers, and is left out.")
        _set_weights(model, left)
        missing = sorted({*missing, *left})
    begun: dict[str, torch.Tensor] = {}
    if missing and draws_head and not is_process_model(config):
        copied = copied_head(model_name, config, revision=options.get("revision"))
        begun = {} if copied or initial_head is None else initial_head()
        _set_weights(model, copied | begun)
        missing = [name for name in missing if name not in copied and name not in begun]
    may_be_new = new_weights(model) if missing else set()
    base_missing = [key for key in missing if key not in may_be_new]
    if base_missing:
        raise UserError(
            f"--model_name {model_name}: expected all the weights of {type(model).__name__}, found none for "
            f"{len(base_missing)} of them, such as {base_missing[0]}. The checkpoint is incomplete or of another model."
        )
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
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
        logger.warning("Embeddings: resized to %d for the new pad token.", len(tokenizer))
    # A reward is a logit as it is: without this word transformers' pipeline and vLLM would put it through a sigmoid.
    model.config.problem_type = None if is_process_model(config) else "regression"
    # Not before: the embeddings that are built from a config refuse a pad token beyond them.
    model.config.pad_token_id = model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return with_blocks(model)


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
