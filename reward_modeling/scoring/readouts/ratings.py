"""One output for each attribute; the reward is their weighted sum.

`rm_regression.py` trains such models, and says in config.json what the outputs are:

    id2label         the attributes, in the order of the outputs
    label_ranges     the least and the greatest rating of each: an output of 0 and of 1
    reward_weights   the weight of each output in the reward

Of a model that was trained elsewhere the last two may be missing: its outputs are given as they are, and the weights
have to be passed.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from transformers import PreTrainedConfig
from transformers.utils import ModelOutput

from reward_modeling.common.errors import UserError, did_you_mean
from reward_modeling.scoring.readouts.base import REWARD, Readout, ScoredConversation

SAVED_WEIGHTS, SAVED_RANGES = "reward_weights", "label_ranges"


class Ratings(Readout):
    """Named outputs with the weights of their sum.

    Args:
        weights: of some of the attributes; the others count nothing.
        ranges: of the attributes whose outputs are 0..1.

    Raises:
        UserError: a name is that of two outputs; weights or ranges are of names that are none.
    """

    def __init__(
        self,
        path: str,
        attributes: Sequence[str],
        weights: Mapping[str, float],
        ranges: Mapping[str, Sequence[float]],
    ):
        if len(set(attributes)) < len(attributes):
            raise UserError(
                f"{path}: expected outputs with names of their own, found {', '.join(attributes)} in id2label of its "
                "config.json. Name them there."
            )
        check_weights(path, weights, attributes)
        self.attributes = tuple(attributes)
        self.reward_weights = {name: float(weights.get(name, 0.0)) for name in attributes}
        self.ranges = [tuple(ranges.get(name, (0.0, 1.0))) for name in attributes]

    @classmethod
    def of_config(cls, path: str, config: PreTrainedConfig, weights: Mapping[str, float] | None) -> "Ratings":
        """
        Raises:
            UserError: there are no weights, neither passed nor saved.
        """
        names = output_names(config)
        saved = config.to_dict()
        weights = saved.get(SAVED_WEIGHTS) if weights is None else weights
        if weights is None:
            raise UserError(
                f"{path}: expected a reward model with one label, or weights for several, found {len(names)} labels "
                f"({', '.join(names)}) and no {SAVED_WEIGHTS} in its config.json. Say what the reward is made of: "
                f'weights={{"{names[0]}": 1.0}}; of eval_bench_mark.py --weights {names[0]}=1.'
            )
        return cls(path, names, weights, saved.get(SAVED_RANGES) or {})

    def columns(self, output: ModelOutput) -> torch.Tensor:
        """The reward, then the attributes on the scale of their ratings."""
        outputs = output.logits.float()
        reward = (outputs * outputs.new_tensor(list(self.reward_weights.values()))).sum(dim=1, keepdim=True)
        low, high = outputs.new_tensor(self.ranges).T
        return torch.cat([reward, low + outputs * (high - low)], dim=1)

    def describe(self, row: Sequence[float]) -> ScoredConversation:
        return ScoredConversation(row[REWARD], dict(zip(self.attributes, row[REWARD + 1 :], strict=True)))


def output_names(config: PreTrainedConfig) -> list[str]:
    """In the order of the outputs; `LABEL_0` and so on where nobody has named them."""
    return [config.id2label[number] for number in range(config.num_labels)]


def check_weights(path: str, weights: Mapping[str, float], attributes: Sequence[str]) -> None:
    """
    Raises:
        UserError: names that are none of the outputs, values that are no numbers, or nothing that counts.
    """
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
    return isinstance(value, int | float) and math.isfinite(value)
