"""The text part of a model that also takes images, such as Gemma-3 from 4B on: a language model of its own type.

rm.py trains it as it is. An adapter needs a base that others load under the same name, hence a folder:

    python -m reward_modeling.models.multimodal google/gemma-3-4b-it models/gemma-3-4b-text
"""

import argparse
import logging
from pathlib import Path
from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig

from reward_modeling.common.errors import UserError, run_script
from reward_modeling.common.paths import expand_home, local_path
from reward_modeling.models.checkpoint_config import read_config
from reward_modeling.models.checkpoint_kinds import has_score_head
from reward_modeling.models.loading import save_whole
from reward_modeling.models.process_format import is_process_model, make_process_model
from reward_modeling.models.reward_model import class_for
from reward_modeling.models.tokenizer import read_tokenizer

logger = logging.getLogger(__name__)

# Where the text part's weights stand in a checkpoint, as transformers 5 writes it and as it was written before.
WEIGHT_NAMES = {
    "^model.language_model.": "model.",
    "^language_model.lm_head.": "lm_head.",
    "^language_model.model.": "model.",
    "^language_model.": "model.",
}


def text_part(
    config: PreTrainedConfig, model_name: str, *, adapter: bool = False
) -> tuple[PreTrainedConfig, dict[str, Any]]:
    """What to train of a model: its configuration, and the options of `load_reward_model` that it needs.

    A model that takes texts alone is trained as it is.

    Raises:
        UserError: the text part has no sequence classification, or is to get an adapter.
    """
    if not is_multimodal(config):
        return config, {}
    text_config = config.get_text_config()
    if is_process_model(config):
        make_process_model(text_config)
    text_class = class_for(text_config)
    if text_class is None:
        raise UserError(
            f"--model_name {model_name}: expected a language model, found {config.model_type}, which also takes other "
            f"inputs, and for whose text part ({text_config.model_type}) transformers has no generic sequence "
            "classification. Take a model for texts."
        )
    if adapter:
        raise UserError(
            f"--use_peft: expected a model for texts, found {config.model_type}, which also takes other inputs. An "
            "adapter would be loaded on the whole of it, where the layers have other names. Save the text part first: "
            f"python -m reward_modeling.models.multimodal {model_name} NEW_FOLDER, and pass --model_name NEW_FOLDER."
        )
    text_config.num_labels = config.num_labels
    if has_score_head(config):
        text_config.architectures = [text_class.__name__]
    logger.warning(
        "Model: of %s, which also takes other inputs, the text part (%s) is trained, and saved by itself.",
        *(config.model_type, text_config.model_type),
    )
    return text_config, {"key_mapping": WEIGHT_NAMES}


def is_multimodal(config: PreTrainedConfig) -> bool:
    """Whether the text model is one part of it, beside others."""
    return config.get_text_config() is not config and not config.is_encoder_decoder


def save_text_part(model_name: str, folder: Path) -> None:
    """Write the text part, in the checkpoint's precision, and its tokenizer; the folder is complete or not there."""
    if folder.exists():
        raise UserError(f"{folder}: expected a new folder, found one that is there. Pass another name.")
    try:
        config, tokenizer = read_config(model_name), read_tokenizer(model_name)
    except UserError as error:
        raise UserError(str(error).removeprefix("--model_name ")) from error
    text_config = config.get_text_config()
    if not is_multimodal(config) or type(text_config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(f"{model_name}: expected a language model that also takes images, found {config.model_type}.")
    model, info = MODEL_FOR_CAUSAL_LM_MAPPING[type(text_config)].from_pretrained(
        model_name, config=text_config, key_mapping=WEIGHT_NAMES, output_loading_info=True, dtype="auto"
    )
    if info["missing_keys"]:
        raise UserError(
            f"{model_name}: expected all the weights of {type(model).__name__}, found none for "
            f"{len(info['missing_keys'])} of them, such as {min(info['missing_keys'])}."
        )
    del model._weight_conversions  # saving would undo the renaming
    save_whole(model, tokenizer, folder)
    logger.info("The text part, %s, is in %s.", type(model).__name__, folder)


def main() -> None:
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    parser = argparse.ArgumentParser(
        prog="python -m reward_modeling.models.multimodal", description=__doc__.splitlines()[0]
    )
    parser.add_argument("model", type=expand_home, help="Hub id or folder of a model that also takes images")
    parser.add_argument("folder", type=local_path, help="new folder for its text part")
    arguments = parser.parse_args()
    save_text_part(arguments.model, arguments.folder)


if __name__ == "__main__":
    run_script(main)
