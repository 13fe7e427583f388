"""The frozen part of a mixture of objectives: a model of ratings, as `rm_regression.py` saves it."""

import re
from functools import partial

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from reward_modeling.common.errors import UserError
from reward_modeling.frozen_backbone.gate_flags import GatingFlags
from reward_modeling.frozen_backbone.gated_saving import ObjectiveModel
from reward_modeling.models.attention import register_shared_prefix_attention
from reward_modeling.models.gated_model import gated_model_class, is_gated
from reward_modeling.models.rating_outputs import RANGES, WEIGHTS, RatingOutputs, output_names
from reward_modeling.models.support import context_length
from reward_modeling.models.tokenizer import set_pad_token
from reward_modeling.scoring.checkpoint import load_checkpoint

NO_NAME = re.compile(r"LABEL_\d+")
WANTED = "expected a model of ratings with several named outputs, as rm_regression.py saves it"


def load_objectives(args: GatingFlags, dtype: torch.dtype, device: torch.device) -> ObjectiveModel:
    """
    Raises:
        UserError: it is no model of several named outputs, one for each attribute, of a family that can have a gate.
    """
    register_shared_prefix_attention()
    options = {"revision": args.model_revision, "trust_remote_code": args.trust_remote_code}
    try:
        model, tokenizer = load_checkpoint(
            args.model_name, dtype, check=partial(check_objectives, args.model_name), no_head=no_objectives, **options
        )
    except UserError as error:
        message = str(error)
        raise UserError(message if message.startswith("--") else f"--model_name {message}") from error
    with_pad_token(model, tokenizer)
    context = context_length(model.config)
    if args.max_length is not None and context is not None and args.max_length > context:
        raise UserError(f"--max_length: expected at most {context:,}, the model's context, found {args.max_length:,}.")
    outputs = outputs_of(args.model_name, model.config)
    ranges = {name: list(of) for name, of in outputs.ranges.items()} if hasattr(model.config, RANGES) else {}
    return ObjectiveModel(model.to(device).eval(), tokenizer, outputs.attributes, ranges, outputs.levels)


def with_pad_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give both a pad token that ends no answer: readers of the saved model take the last token that is not pad."""
    set_pad_token(tokenizer)
    known = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > known:  # the same weights each time, or features of an earlier run would be those of another
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        with torch.no_grad():
            model.get_input_embeddings().weight[known:] = 0.0
    model.config.pad_token_id = model.config.get_text_config().pad_token_id = tokenizer.pad_token_id


def outputs_of(name: str, config: PreTrainedConfig) -> RatingOutputs:
    """What the outputs are. Which weights they have in a reward does not matter: the gate takes their place."""
    weights = None if hasattr(config, WEIGHTS) else dict.fromkeys(output_names(config), 1.0)
    return RatingOutputs.of_config(name, config, weights)


def no_objectives(name: str, found: str) -> UserError:
    return UserError(
        f"{name}: {WANTED}, found {found}. A gate weighs objectives that were trained before it: train them with "
        "rm_regression.py --attributes a,b,..."
    )


def check_objectives(name: str, config: PreTrainedConfig) -> None:
    """By the configuration alone, before weights are read.

    Raises:
        UserError: see `load_objectives`.
    """
    wanted = f"{WANTED}, found"
    if is_gated(config):
        raise UserError(f"{name}: {wanted} one that has a gate already. Pass the model that it was made from.")
    if config.num_labels < 2:
        raise UserError(
            f"{name}: {wanted} one with one label. A gate weighs several objectives: train them with rm_regression.py "
            "--attributes a,b,..."
        )
    if all(NO_NAME.fullmatch(each) for each in output_names(config)):
        raise UserError(
            f"{name}: {wanted} {config.num_labels} outputs without names (LABEL_0 ...). Name them in id2label of its "
            "config.json, in the order of the outputs."
        )
    if len(outputs_of(name, config).attributes) < 2:
        raise UserError(f"{name}: {wanted} one attribute. A gate weighs several: train more with rm_regression.py.")
    if gated_model_class(type(config)) is None:
        raise UserError(
            f"{name}: expected a decoder with one linear head at the last token, found {config.model_type}. A prompt "
            "has no end of its own in other models."
        )
