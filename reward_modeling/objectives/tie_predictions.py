"""What a trained model of ties says of pairs, for the figures of an evaluation."""

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from reward_modeling.common.pair_statistics import PredictTies
from reward_modeling.objectives.ties import TIE_MODELS, TieModel


def tie_predictions(tie_model: str, tie_threshold: float) -> PredictTies:
    """Of a model with these values in its config.json (see `models.reward_normalization.tie_values_of`)."""
    return partial(predict_ties, model=TIE_MODELS[tie_model], threshold=tie_threshold)


def predict_ties(differences: NDArray, model: TieModel, threshold: float) -> tuple[NDArray, NDArray]:
    """P(tie), and P(first answer | no tie), `(pairs,)` each, from the differences of the rewards.

    Where there is no tie, Davidson's model has Bradley and Terry's probabilities, and Rao and Kupper's has surer ones.
    """
    difference = torch.from_numpy(np.asarray(differences, dtype=np.float64))
    value = difference.new_tensor(threshold)
    sides = (model.loss(difference, torch.full_like(difference, side), value) for side in (1.0, 0.0))
    first, second = (torch.exp(-loss) for loss in sides)
    ties = model.probability(difference, value)
    # of losses far apart both may be 0 in float64; the rewards then say it all
    total = first + second
    given = torch.where(total > 0, first / total, (difference > 0).to(difference.dtype))
    return ties.numpy(), given.numpy()
