"""A model of ratings and its gate as one model in the published layout; `gated_verification.py` checks what was saved.

The upstream saves a gate by itself: nothing brings backbone, objectives, transform matrix and gate together, and users
who did so by hand got other scores than were published (RLHF-Reward-Modeling #37).
"""

import copy
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reward_modeling.data.gate_position import gate_tail, has_published_place
from reward_modeling.models.gated_model import (
    MATRIX,
    NAMES,
    PATTERN,
    Gate,
    GateSettings,
    gated_model_class,
)
from reward_modeling.models.rating_outputs import RANGES
from reward_modeling.models.reward_normalization import set_statistics


class ObjectiveModel(NamedTuple):
    """The frozen part of a mixture: what `rm_regression.py` has trained."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    names: tuple[str, ...]
    ranges: dict[str, list[float]]
    levels: int = 1  # outputs of each objective, whose mean is what the model says of it

    @property
    def head(self) -> NDArray[np.float32]:
        """`(objectives, hidden)`."""
        weights = self.model.score.weight.detach().float().cpu().numpy()
        return weights.reshape(len(self.names), self.levels, -1).mean(axis=1)


def merge(
    objectives: ObjectiveModel, matrix: NDArray, gate: Gate, settings: GateSettings, statistics: dict[str, float]
) -> PreTrainedModel:
    """One model of all parts; the backbone's weights are shared with `objectives`, not copied.

    Args:
        matrix: `(objectives, objectives)`, applied as `rewards @ matrix`.
        statistics: mean and standard deviation of held-out scores.
    """
    config = copy.deepcopy(objectives.model.config)
    set_statistics(config, statistics)
    config.num_labels = 1
    config.id2label, config.label2id = {0: "LABEL_0"}, {"LABEL_0": 0}
    own = {NAMES: list(objectives.names)} | ({RANGES: objectives.ranges} if objectives.ranges else {})
    if has_published_place(objectives.tokenizer):
        own[PATTERN] = list(gate_tail(objectives.tokenizer))
    config.update(vars(settings) | own)
    model_class = gated_model_class(type(config))
    with torch.device("meta"):  # shapes alone: all weights are there
        merged = model_class(config)
    prefix = merged.base_model_prefix
    setattr(merged, prefix, getattr(objectives.model, prefix))
    merged.regression_layer.weight = nn.Parameter(torch.from_numpy(objectives.head.copy()))
    merged.reward_transform_matrix = nn.Parameter(torch.from_numpy(matrix.astype(np.float32)), requires_grad=False)
    merged.gating = gate
    return merged


def weights_of_parts(objectives: ObjectiveModel, matrix: NDArray, gate: Gate) -> dict[str, torch.Tensor]:
    """What the parts have under the names of the merged model; see `merge`."""
    prefix = objectives.model.base_model_prefix
    backbone = getattr(objectives.model, prefix).state_dict()
    heads = {
        "regression_layer.weight": torch.from_numpy(objectives.head),
        MATRIX: torch.from_numpy(matrix.astype(np.float32)),
    }
    of_gate = {f"gating.{name}": weight for name, weight in gate.state_dict().items()}
    return {f"{prefix}.{name}": weight for name, weight in backbone.items()} | heads | of_gate
