"""--step_separator and --prompt_format, where a script loads a model of any kind.

step_format = read_step_format(args.step_separator, args.prompt_format)
loaded = load_model(path, readout_of=partial(readout_by_flags, step_format=step_format))
"""

import logging
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

from reward_modeling.common.errors import UserError
from reward_modeling.models.pairwise_format import compares_answers
from reward_modeling.models.process_format import PROCESS, is_outcome_model, is_process_model
from reward_modeling.scoring.readouts.base import Readout
from reward_modeling.scoring.readouts.catalog import any_readout
from reward_modeling.scoring.scorer import RewardScorer

StepFormat = Mapping[str, Any]
PROCESS_MODEL = "a process model (a token classifier of wrong and right steps, as rm_process.py and TRL save it)"


def readout_by_flags(
    path: str,
    config: PreTrainedConfig,
    weights: Mapping[str, float] | None = None,
    *,
    step_format: StepFormat | None = None,
) -> Readout:
    """`any_readout`, whose mistakes name the flags.

    Args:
        step_format: see `read_step_format`.

    Raises:
        UserError: see `check_step_format` and `readouts.catalog.readout_of`.
    """
    check_step_format(path, config, step_format)
    return any_readout(path, config, weights, step_format)


def check_step_format(path: str, config: PreTrainedConfig, step_format: StepFormat | None) -> None:
    """
    Raises:
        UserError: how steps are written is given for a model that reads none, or is not for one that does not say it.
    """
    is_process = is_process_model(config)
    if step_format and not is_process:
        raise UserError(
            f"--step_separator, --prompt_format: expected {PROCESS_MODEL}, found {described(path, config)}. "
            "Leave them out."
        )
    if is_process and PROCESS not in config.to_dict() and "separator" not in (step_format or {}):
        raise UserError(
            f"{path}: expected in its config.json what rm_process.py saves ({PROCESS}), found nothing that "
            "says where a step ends. Pass the separator that the model was trained with: --step_separator '\\n' for a "
            "model of TRL, whose prompts stand as they are; beside --prompt_format chat the chat template writes them."
        )


def described(path: str, config: PreTrainedConfig) -> str:
    """Its name, its kind and its class."""
    kind = ""
    if is_process_model(config) and is_outcome_model(config):
        kind = "an outcome model, which scores whole answers: "
    elif is_process_model(config):
        kind = "a process model, which scores steps: "
    elif compares_answers(config):
        kind = "a pairwise model, which compares two answers: "
    return f"{path} ({kind}{', '.join(config.architectures or ['no architecture'])})"


def log_steps(logger: logging.Logger, scorer: RewardScorer, step_format: StepFormat | None) -> None:
    """How an answer is read, with the tokens of the separator: one that the model has never seen is of several."""
    process, tokenizer = scorer.readout.process, scorer.tokenizer
    saved, given = scorer.model.config.to_dict().get(PROCESS) or {}, step_format or {}
    if others := {name: saved[name] for name in given if saved.get(name, given[name]) != given[name]}:
        logger.warning("Steps: read in another way than the model was trained with (%s).", others)
    ids = tokenizer(process.separator, add_special_tokens=False)["input_ids"]
    tokens = " ".join(map(str, tokenizer.convert_ids_to_tokens(ids)))
    ends = f"each ends in {process.separator!r} (tokens: {tokens})" if ids else "each is read at its own last token"
    if process.outcome:
        ends = f"the whole answer is one; {ends}"
    how = "is written by the chat template" if process.chat else "stands as it is"
    logger.info("Steps: %s; the prompt %s.", ends, how)
