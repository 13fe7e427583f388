"""A model of ratings and its gate as one model in the published layout, saved whole or not at all, and verified.

The upstream saves a gate by itself: nothing brings backbone, objectives, transform matrix and gate together, and users
who did so by hand got other scores than were published (RLHF-Reward-Modeling #37).
"""

import copy
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reward_modeling.common.errors import UserError
from reward_modeling.data.gate_position import gate_tail, has_published_place
from reward_modeling.data.loader import PromptGroups
from reward_modeling.models.gated_model import (
    NAMES,
    PATTERN,
    Gate,
    GateSettings,
    gated_model_class,
)
from reward_modeling.models.rating_outputs import RANGES
from reward_modeling.models.reward_normalization import set_statistics

# Of a score beside the greatest one: the same model, whose rows are computed one by one here and packed there.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
SAMPLE = 16  # answers whose scores are compared


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


class Sample(NamedTuple):
    """Conversations with the scores that features gave them."""

    rows: list[list[int]]
    gates: list[int]
    scores: NDArray[np.float64]


def draw_sample(groups: PromptGroups, scores: NDArray) -> Sample:
    """Answers spread evenly over the data.

    Args:
        scores: `(answers,)`, in the order of the groups' completions (of prompts that have units).
    """
    used = np.flatnonzero(groups.sizes.units_per_group)
    first = np.concatenate([[0], np.cumsum(np.diff(groups.sizes.completion_offsets)[used])])
    answers = np.unique(np.linspace(0, len(scores) - 1, min(SAMPLE, len(scores))).astype(int))
    rows, gates = [], []
    for answer in answers.tolist():
        place = int(np.searchsorted(first, answer, side="right") - 1)
        group, number = groups.groups[int(used[place])], int(answer - first[place])
        rows.append([*group["prefix_ids"], *group["completion_ids"][number]])
        gates.append(group["read_positions"][number][0])
    return Sample(rows, gates, scores[answers])


@contextmanager
def _in_evaluation(model: nn.Module):
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def verify(folder: Path, sample: Sample, dtype: torch.dtype, device: torch.device) -> dict[str, float]:
    """Reload what was saved, and compare its scores with those of the features that the gate was trained on.

    Each conversation is computed alone, by transformers' own attention.

    Returns:
        `answers`, `largest_difference`, `tolerance`.

    Raises:
        UserError: the saved model is not the trained one.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    options = {"dtype": dtype, "attn_implementation": "eager"}
    model = gated_model_class(type(config)).from_pretrained(folder, config=config, **options).to(device)
    with torch.no_grad(), _in_evaluation(model):
        found = [
            float(model(_tensor([ids], device), gate_positions=_tensor([gate], device)).score[0])
            for ids, gate in zip(sample.rows, sample.gates, strict=True)
        ]
    difference = float(np.abs(np.array(found) - sample.scores).max())
    tolerance = TOLERANCES[dtype] * max(1.0, float(np.abs(sample.scores).max()))
    if not difference <= tolerance:
        raise UserError(
            f"{folder}: expected the saved model to give the scores that the gate was trained on, found them up to "
            f"{difference:.3g} apart, where {tolerance:.3g} is rounding. Nothing was kept. Run again with --dtype "
            "float32; if that fails too, please report it."
        )
    return {"answers": len(found), "largest_difference": difference, "tolerance": tolerance}


def _tensor(values: Sequence, device: torch.device) -> torch.Tensor:
    return torch.tensor(values, device=device)
