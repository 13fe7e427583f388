"""What the outputs of a model of ratings are, as its config.json says it:

    id2label         the attributes, in the order of the outputs
    label_ranges     the least and the greatest rating of each: an output of 0 and of 1
    reward_weights   the weight of each attribute, as 0..1, in the reward
    quantile_levels  there are as many outputs for each attribute, one after the other: quantiles of its rating, called
                     helpfulness@0.05 and so on. Their mean is what the model says of it

`rm_regression.py` writes them. Of a model that was trained elsewhere all but the first may be missing: its outputs are
taken as they are, and the weights have to be given.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig

from reward_modeling.common.errors import UserError, did_you_mean
from reward_modeling.common.words import QUANTILE_MARK

RANGES, WEIGHTS, LEVELS = "label_ranges", "reward_weights", "quantile_levels"


@dataclass(frozen=True)
class RatingOutputs:
    """The outputs of one model, and what its reward is made of."""

    attributes: tuple[str, ...]
    weights: dict[str, float]  # of every attribute
    ranges: dict[str, tuple[float, float]]
    levels: int = 1  # outputs of each attribute

    @classmethod
    def of_config(
        cls, path: str, config: PreTrainedConfig, weights: Mapping[str, float] | None = None
    ) -> "RatingOutputs":
        """
        Args:
            path: what a message calls the model.
            weights: of some attributes, the others counting nothing. None: those that were saved.

        Raises:
            UserError: there are no weights, neither given nor saved, or not for these attributes; or two outputs have
                one name.
        """
        saved = config.to_dict()
        levels = len(saved.get(LEVELS) or [None])
        names = output_names(config)
        attributes = names[::levels] if levels == 1 else [name.rpartition(QUANTILE_MARK)[0] for name in names[::levels]]
        if len(set(attributes)) < len(attributes):
            raise UserError(
                f"{path}: expected outputs with names of their own, found {', '.join(attributes)} in id2label of its "
                "config.json. Name them there."
            )
        weights = saved.get(WEIGHTS) if weights is None else weights
        if weights is None:
            raise UserError(
                f"{path}: expected a reward model with one label, or weights for several, found {len(names)} labels "
                f"({', '.join(attributes)}) and no {WEIGHTS} in its config.json. Say what the reward is made of: "
                f'weights={{"{attributes[0]}": 1.0}}; of a script --weights {attributes[0]}=1.'
            )
        _check_weights(path, weights, attributes)
        ranges = saved.get(RANGES) or {}
        return cls(
            tuple(attributes),
            {name: float(weights.get(name, 0.0)) for name in attributes},
            {name: tuple(ranges.get(name, (0.0, 1.0))) for name in attributes},
            levels,
        )

    @property
    def output_weights(self) -> list[float]:
        """Of each output in the reward, which is linear in them."""
        return [self.weights[name] / self.levels for name in self.attributes for _ in range(self.levels)]

    def quantiles(self, outputs: torch.Tensor) -> torch.Tensor:
        """`(completions, attributes, levels)` on the scale of the ratings, from the outputs `(completions, labels)`."""
        low, high = outputs.new_tensor([self.ranges[name] for name in self.attributes]).T[:, :, None]
        return low + outputs.unflatten(1, (-1, self.levels)) * (high - low)


def has_ratings(config: PreTrainedConfig) -> bool:
    """Whether the outputs are several, or one that has a name of ours: else there is one label, which is the reward."""
    return config.num_labels > 1 or hasattr(config, WEIGHTS)


def output_names(config: PreTrainedConfig) -> list[str]:
    """In the order of the outputs; `LABEL_0` and so on where nobody has named them."""
    return [config.id2label[number] for number in range(config.num_labels)]


def names_of_saved_values(saved: Mapping[str, Any]) -> list[str]:
    """The names of the outputs of an adapter, of which peft writes down none: ours has the ranges in their order."""
    levels = saved.get(LEVELS)
    attributes = list(saved.get(RANGES, ()))
    if levels is None:
        return attributes
    return [f"{name}{QUANTILE_MARK}{level:.2f}" for name in attributes for level in levels]


def _check_weights(path: str, weights: Mapping[str, float], attributes: Sequence[str]) -> None:
    if not isinstance(weights, Mapping):
        raise UserError(f'weights: expected names and numbers, {{"{attributes[0]}": 1.0}}, found {weights!r}.')
    problems = [
        f"{name!r}{did_you_mean(name, attributes) or ', which is none'}" for name in weights if name not in attributes
    ]
    problems += [f"{name}: {value!r}" for name, value in weights.items() if not _is_number(value)]
    if not problems and not any(weights.values()):
        problems.append(f"{dict(weights)}, by which every reward would be 0")
    if problems:
        raise UserError(
            f"weights: expected finite numbers for some of {', '.join(attributes)}, which {path} gives, found "
            f"{'; '.join(problems)}."
        )


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer beyond float64
        return False
