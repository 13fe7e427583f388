"""What is read off a checkpoint's forward passes, by its config.json."""

from collections.abc import Mapping

from transformers import PreTrainedConfig

from reward_modeling.common.errors import UserError
from reward_modeling.models.gated_model import is_gated
from reward_modeling.models.pairwise_format import compares_answers
from reward_modeling.models.rating_outputs import RatingOutputs, has_ratings
from reward_modeling.scoring.readouts.base import Readout
from reward_modeling.scoring.readouts.comparisons import comparison_readout, refuse_pairwise
from reward_modeling.scoring.readouts.gated import Gated
from reward_modeling.scoring.readouts.one_label import OneLabel
from reward_modeling.scoring.readouts.ratings import Quantiles, Ratings


def readout_of(path: str, config: PreTrainedConfig, weights: Mapping[str, float] | None = None) -> Readout:
    """
    Args:
        path: what a message calls the model.
        weights: of the named outputs in the reward. None: those that were saved with the model.

    Raises:
        UserError: the model has several outputs and no weights for them, or weights that are not of its outputs; or it
            compares answers.
    """
    refuse_pairwise(path, config)
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


def any_readout(path: str, config: PreTrainedConfig, weights: Mapping[str, float] | None = None) -> Readout:
    """That of a model that scores one answer, or of one that compares two; see `readout_of`."""
    return (comparison_readout if compares_answers(config) else readout_of)(path, config, weights)
