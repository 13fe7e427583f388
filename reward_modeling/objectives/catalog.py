"""Every kind of reward model, and which one a checkpoint is of."""

from transformers import PreTrainedConfig

from reward_modeling.objectives.base import Objective
from reward_modeling.objectives.bradley_terry import BradleyTerry


def objective_of(config: PreTrainedConfig) -> type[Objective]:
    """The kind of a saved model: one label is one scalar, whoever has trained it."""
    return BradleyTerry
