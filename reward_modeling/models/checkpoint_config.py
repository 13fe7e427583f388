"""From the configuration of a checkpoint to that of the model that is made of it.

What the head of each kind of model asks of a checkpoint is in checkpoint_kinds.py, the weights are in loading.py.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig

from reward_modeling.common.errors import UserError
from reward_modeling.models.checkpoint_kinds import CHECKS, WantedHead, has_score_head
from reward_modeling.models.process_format import is_process_model, make_process_model
from reward_modeling.models.rating_outputs import RANGES
from reward_modeling.models.reward_normalization import set_statistics
from reward_modeling.models.support import why_no_rewards
from reward_modeling.models.tokenizer import HUB_ERRORS, not_found

logger = logging.getLogger(__name__)


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

    The head is described as in `checkpoint_kinds.WantedHead`.

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
    wanted = WantedHead(num_labels, label_names, any_head, compares, reads_steps)
    for check in CHECKS:
        check(model_name, config, wanted)
    config.num_labels = num_labels
    if label_names or hasattr(config, RANGES):  # the name of a rating is not that of another score
        names = label_names or [f"LABEL_{number}" for number in range(num_labels)]
        config.id2label = dict(enumerate(names))
        config.label2id = {name: number for number, name in enumerate(names)}
    set_statistics(config, None)  # those of the checkpoint are not those of what is made of it
    if reads_steps:
        make_process_model(config)
    return config


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


def head_of_checkpoint(config: PreTrainedConfig, *, reads_steps: bool = False) -> bool:
    """Whether a model that is made of this checkpoint keeps its head.

    Args:
        config: of the checkpoint, as `read_config` gives it.
    """
    return is_process_model(config) if reads_steps else has_score_head(config)


def no_score_head(model_name: str, found: str) -> UserError:
    """For scoring, which draws no head."""
    return UserError(
        f"{model_name}: expected a reward model (*ForSequenceClassification with one label), found {found}. A score "
        "head drawn at random would give random rewards: train one with rm.py, or pass a model that has one."
    )
