"""Verification that a saved mixture is the model of ratings and the gate that it was made of.

Its weights have to be those of its parts, bit by bit, and its formula has to give the scores of the parts on the same
hidden states. Its own hidden states have to be the features that the gate was trained on, within rounding. Scores from
tokens are not compared with a tolerance: a head of ridge regression has large weights that cancel, so that its scores
move by much where hidden states move by little.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from reward_modeling.checkpoints.verification import tolerance
from reward_modeling.common.errors import UserError
from reward_modeling.data.loader import PromptGroups
from reward_modeling.frozen_backbone.features import Features, read_rows
from reward_modeling.frozen_backbone.gated_saving import ObjectiveModel, weights_of_parts
from reward_modeling.models.gated_model import Gate, gated_model_class

SAMPLE = 16  # answers whose hidden states and scores are compared
# Of the sum of the absolute values of all terms of a score: 16 roundings of float32 (6e-8), which is more than a matrix
# product of 4,096 terms was seen to have (2e-7).
FORMULA_TOLERANCE = 1e-6


class Sample(NamedTuple):
    """Conversations with the features that were computed of them."""

    rows: list[list[int]]
    gates: list[int]
    answers: NDArray[np.float32]
    """`(sample, hidden)`"""
    prompts: NDArray[np.float32]


class Outputs(NamedTuple):
    """What the saved model gives a sample, in float32 on the CPU."""

    hidden: torch.Tensor
    """`(2 x sample, hidden)`: of the answers, then of the prompts."""
    scores: torch.Tensor


def draw_sample(groups: PromptGroups, features: Features) -> Sample:
    """Answers spread evenly over the data."""
    used = np.flatnonzero(groups.sizes.units_per_group)
    first = np.concatenate([[0], np.cumsum(np.diff(groups.sizes.completion_offsets)[used])])
    answers = np.unique(np.linspace(0, len(features) - 1, min(SAMPLE, len(features))).astype(int))
    rows, gates = [], []
    for answer in answers.tolist():
        place = int(np.searchsorted(first, answer, side="right") - 1)
        group, number = groups.groups[int(used[place])], int(answer - first[place])
        rows.append([*group["prefix_ids"], *group["completion_ids"][number]])
        gates.append(group["read_positions"][number][0])
    prompts = read_rows(features.prompts, features.prompt_of[answers])
    return Sample(rows, gates, features.answers(answers), prompts)


def verify(
    folder: Path, objectives: ObjectiveModel, matrix: NDArray, gate: Gate, sample: Sample, device: torch.device
) -> dict[str, Any]:
    """Reload what was saved; each conversation is computed alone, by transformers' own attention.

    Returns:
        `answers`; `formula_difference` and `formula_tolerance`, of scores from the same hidden states; as shares of
        a hidden state's length `hidden_difference`, `hidden_tolerance` and, below float32, `hidden_rounding`; of scores
        from tokens `largest_difference` and, below float32, `rounding`, how far that moves them. And the conversations
        themselves: `rows`, `gates` and their scores, `rewards` of the parts, `rewards_alone` from tokens in float32.

    Raises:
        UserError: the saved model is not the trained one.
    """
    dtype = objectives.model.dtype
    saved = _load(folder, dtype)
    _check_weights(folder, saved, weights_of_parts(objectives, matrix, gate))
    expected, figures = _check_formula(folder, saved, objectives, matrix, gate, sample)
    low = _outputs(_with_room(saved, device), sample)
    whole = low if dtype == torch.float32 else _outputs(_with_room(_load(folder, torch.float32), device), sample)
    features = torch.from_numpy(np.concatenate([sample.answers, sample.prompts]))
    rounding = None if whole is low else _apart(low.hidden, whole.hidden)
    difference, bound = _apart(features, whole.hidden), tolerance(1.0, rounding)
    if not difference <= bound:
        again = "" if rounding is None else "Run again with --dtype float32; if that fails too: "
        raise UserError(
            f"{folder}: expected the saved model to have the hidden states that the gate was trained on, found them up "
            f"to {difference:.3g} of their length apart, where {bound:.3g} is rounding. Nothing was kept. {again}"
            "Please report it."
        )
    figures |= {"hidden_difference": difference, "hidden_tolerance": bound}
    figures["largest_difference"] = float((low.scores.double() - expected).abs().max())
    if rounding is not None:
        moved = float((low.scores - whole.scores).abs().max())
        figures |= {"hidden_rounding": rounding, "rounding": moved}
    # under the names of other models' verification.json: see checkpoints.verified_rows
    figures |= {"passed": True, "rows": sample.rows, "gates": sample.gates}
    figures |= {"rewards": expected.tolist(), "rewards_alone": whole.scores.tolist()}
    return {"answers": len(sample.rows)} | figures


def _load(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(folder)
    options = {"dtype": dtype, "attn_implementation": "eager"}
    return gated_model_class(type(config)).from_pretrained(folder, config=config, **options).eval()


def _with_room(model: nn.Module, device: torch.device) -> nn.Module:
    """On the device, or on the CPU where the device has no room beside what trained."""
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    if device.type == "cuda" and torch.cuda.mem_get_info(device)[0] < 1.5 * size:
        return model
    return model.to(device)


def _check_weights(folder: Path, saved: nn.Module, expected: Mapping[str, torch.Tensor]) -> None:
    found = saved.state_dict()
    wrong = sorted(found.keys() ^ expected.keys())
    wrong += [name for name in found.keys() & expected.keys() if not torch.equal(found[name], expected[name].cpu())]
    if wrong:
        raise UserError(
            f"{folder}: expected the saved model to have the weights of its parts, found others in {len(wrong)} of "
            f"them, such as {wrong[0]}. Nothing was kept. Please report it."
        )


@torch.no_grad()
def _check_formula(
    folder: Path, saved: PreTrainedModel, objectives: ObjectiveModel, matrix: NDArray, gate: Gate, sample: Sample
) -> tuple[torch.Tensor, dict[str, float]]:
    """The scores of the parts, `(sample,)` in float64, and how far those of the saved model are from them."""
    answers, prompts = torch.from_numpy(sample.answers), torch.from_numpy(sample.prompts)
    gating, rewards = gate(prompts).double(), torch.from_numpy(objectives.head.T @ matrix).double()
    expected = (gating * (answers.double() @ rewards)).sum(dim=1)
    terms = np.abs(objectives.head).T.astype(np.float64) @ np.abs(matrix)
    bound = FORMULA_TOLERANCE * float((gating.abs() * (answers.double().abs() @ torch.from_numpy(terms))).sum(1).max())
    difference = float((saved.scores(answers, prompts).score.double() - expected).abs().max())
    if not difference <= bound:
        raise UserError(
            f"{folder}: expected the saved model to give the scores that the gate was trained on, found them up to "
            f"{difference:.3g} apart on the same hidden states, where {bound:.3g} is rounding. Nothing was kept. "
            "Please report it."
        )
    return expected, {"formula_difference": difference, "formula_tolerance": bound}


@torch.no_grad()
def _outputs(model: PreTrainedModel, sample: Sample) -> Outputs:
    """With a mask: a pad token that ends a conversation too would be left out without one."""
    rows = []
    for ids, gate in zip(sample.rows, sample.gates, strict=True):
        tokens = torch.tensor([ids], device=model.device)
        rows.append(model(tokens, torch.ones_like(tokens), gate_positions=torch.tensor([gate], device=model.device)))
    answers, prompts, scores = (
        torch.cat([row[name] for row in rows]).float().cpu() for name in ("hidden_state", "prompt_embedding", "score")
    )
    return Outputs(torch.cat([answers, prompts]), scores)


def _apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest distance of two hidden states as a share of the length of the one that is expected."""
    lengths = expected.norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    return float(((found - expected).norm(dim=1) / lengths).max())
