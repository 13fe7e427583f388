"""What is read off a checkpoint's forward passes, by its config.json."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

from reward_modeling.common.errors import UserError
from reward_modeling.models.gated_model import is_gated
from reward_modeling.models.pairwise_format import compares_answers
from reward_modeling.models.process_format import ProcessFormat, check_labels, is_process_model
from reward_modeling.models.rating_outputs import RatingOutputs, has_ratings
from reward_modeling.scoring.readouts.base import Readout
from reward_modeling.scoring.readouts.comparisons import comparison_readout, refuse_pairwise
from reward_modeling.scoring.readouts.gated import Gated
from reward_modeling.scoring.readouts.one_label import OneLabel
from reward_modeling.scoring.readouts.ratings import Quantiles, Ratings
from reward_modeling.scoring.readouts.steps import Steps


def readout_of(
    path: str,
    config: PreTrainedConfig,
    weights: Mapping[str, float] | None = None,
    process: Mapping[str, Any] | None = None,
) -> Readout:
    """
    Args:
        path: what a message calls the model.
        weights: of the named outputs in the reward. None: those that were saved with the model.
        process: of a process model what takes the place of what is saved: see `ProcessFormat`.

    Raises:
        UserError: the model has several outputs and no weights for them, or weights that are not of its outputs; or it
            compares answers, or is no process model, or one that does not say where its steps end.
    """
    refuse_pairwise(path, config)
    if is_process_model(config):
        if weights is not None:
            raise UserError(
                f"weights: expected a model with named outputs, found in {path} a process model, whose reward is an "
                "aggregation of its steps. Leave them out."
            )
        check_labels(path, config)
        return Steps(ProcessFormat.of_config(path, config, **(process or {})))
    if process is not None:
        raise UserError(
            f"{path}: expected a process model, as rm_process.py saves it (a *ForTokenClassification with the labels "
            f"wrong and right), found {', '.join(config.architectures or ['no architecture'])}. RewardScorer scores "
            "answers with a reward model."
        )
    if is_gated(config):
        if weights is not None:
            raise UserError(
                f"weights: expected a model whose weights are fixed, found that {path} has a gate, which weighs its "
                "objectives anew for each prompt. Leave them out."
            )
        return Gated(path, config)
    if has_ratings(config):
        outputs = RatingOutputs.of_config(path, config, weights)
        return Ratings(outputs) if outputs.levels == 1 else Quantiles(outputs)
    if weights is not None:
        raise UserError(
            f"weights: expected a model with named outputs, such as those of rm_regression.py, found in {path} one "
            "label, which is the reward. Leave them out."
        )
    return OneLabel()


def any_readout(
    path: str,
    config: PreTrainedConfig,
    weights: Mapping[str, float] | None = None,
    process: Mapping[str, Any] | None = None,
) -> Readout:
    """That of a model that scores one answer or its steps, or of one that compares two; see `readout_of`."""
    if compares_answers(config):
        return comparison_readout(path, config, weights)
    return readout_of(path, config, weights, process)
