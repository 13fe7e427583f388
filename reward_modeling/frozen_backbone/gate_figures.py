"""What a gate does on pairs that it was not trained on, and what it adds over weights that are the same everywhere.

An objective *decides* a pair where, of the contributions gate(prompt)_i x (debiased difference)_i that have the sign of
the margin, its own is the largest. So one objective decides each pair whose margin is not 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reward_modeling.common.intervals import longer_wins, share_of_rows
from reward_modeling.common.prompt_differences import difference_of_means, difference_of_shares
from reward_modeling.frozen_backbone.gate_pairs import GatePairs
from reward_modeling.models.gated_model import Gate

NO_SOURCE = "no source"
CONSTANT = 0.01  # deviation of a weight over prompts below which it is called the same for all
FEW_PROMPTS = 100  # of so many, a fifth of them decided otherwise, the interval reaches 9 points to either side


@dataclass(frozen=True, eq=False)
class GatedMargins:
    """A part of the pairs under a gate and under what it is compared with."""

    gate: NDArray[np.float64]
    """`(pairs,)` margins."""
    fixed: NDArray[np.float64]
    """Under the best fixed weights of the training pairs."""
    single: NDArray[np.float64]
    """Under the best single objective of the training pairs."""
    shares: NDArray[np.float64]
    """`(pairs, objectives)`: the weights in each prompt, 1 together."""
    decided_by: NDArray[np.int64]
    """`(pairs,)`: the objective; -1 where the margin is 0."""
    probability: NDArray[np.float64]
    prompt: NDArray[np.int64]
    """`(pairs,)`: a number for each prompt."""
    sources: list[str]
    lengths: NDArray[np.int64]


def margins_of(pairs: GatePairs, part: NDArray[np.int64], gate: Gate, fixed: NDArray, single: int) -> GatedMargins:
    """
    Args:
        fixed: `(objectives,)` weights.
        single: an objective.
    """
    shares = shares_of(pairs, part, gate)
    differences = pairs.differences[part].astype(np.float64)
    contributions = shares * float(gate.logit_scale.detach()) * differences
    margin = contributions.sum(axis=1)
    towards = np.where(np.sign(contributions) == np.sign(margin)[:, None], np.abs(contributions), -1.0)
    return GatedMargins(
        margin,
        differences @ fixed,
        differences[:, single],
        shares,
        np.where(margin == 0, -1, towards.argmax(axis=1)),
        pairs.probability[part],
        np.unique(pairs.keys[part], return_inverse=True)[1],
        [pairs.sources[number] or NO_SOURCE for number in part.tolist()],
        pairs.lengths[part],
    )


@torch.no_grad()
def shares_of(pairs: GatePairs, part: NDArray[np.int64], gate: Gate) -> NDArray[np.float64]:
    """`(pairs, objectives)`: how much each objective counts in the prompt of each pair; 1 together."""
    shares = np.empty((len(part), pairs.objectives))
    prompt = pairs.prompt[part]
    order = np.argsort(prompt, kind="stable")
    for rows, block in pairs.blocks_of_prompts(part):
        first, last = np.searchsorted(prompt[order], [rows[0], rows[-1] + 1])
        places = order[first:last]
        shares[places] = gate.weights(torch.from_numpy(block)).double().numpy()[np.searchsorted(rows, prompt[places])]
    return shares


def gate_figures(margins: GatedMargins, names: Sequence[str]) -> dict[str, Any]:
    """The figures of evaluation.json. Ties, of which nobody is preferred, count in the losses alone."""
    told = margins.probability != 0.5
    prompts, lengths = margins.prompt[told], margins.lengths[told]
    right = {
        name: _right(getattr(margins, name)[told], margins.probability[told]) for name in ("gate", "fixed", "single")
    }
    swap = margins.probability[told] < 0.5
    better, worse = np.where(swap[:, None], lengths[:, ::-1], lengths).T
    losses = {name: _losses(getattr(margins, name), margins.probability) for name in ("gate", "fixed")}
    return {
        "pairs": len(margins.gate),
        "prompts": len(np.unique(margins.prompt)),
        "ties": int((~told).sum()),
        "accuracy": _accuracy(margins.gate[told], right["gate"], prompts),
        "fixed_weights_accuracy": _accuracy(margins.fixed[told], right["fixed"], prompts),
        "best_objective_accuracy": _accuracy(margins.single[told], right["single"], prompts),
        "longer_wins": longer_wins(better, worse, prompts),
        "gate_less_fixed_weights": difference_of_shares(right["gate"], right["fixed"], prompts),
        "gate_less_best_objective": difference_of_shares(right["gate"], right["single"], prompts),
        "loss": float(losses["gate"].mean()),
        "fixed_weights_loss": float(losses["fixed"].mean()),
        "loss_of_gate_less_fixed_weights": difference_of_means(losses["gate"], losses["fixed"], margins.prompt),
        "objectives": _by_objective(margins, names),
        "by_source": _by_source(margins, names, right, told),
    }


def _right(margins: NDArray, probability: NDArray) -> NDArray[np.float64]:
    """1 where the order is that of the people, 0 where it is not or the rewards are equal."""
    return (np.sign(margins) == np.sign(probability - 0.5)).astype(np.float64)


def _losses(margins: NDArray, probability: NDArray) -> NDArray[np.float64]:
    return probability * np.logaddexp(0, -margins) + (1 - probability) * np.logaddexp(0, margins)


def _accuracy(margins: NDArray, right: NDArray, prompts: NDArray) -> dict[str, Any]:
    return dict(share_of_rows(right, margins == 0, prompts))


def _by_objective(margins: GatedMargins, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Of each objective the mean weight over prompts, its deviation, and the share of pairs that it decides."""
    _, first = np.unique(margins.prompt, return_index=True)
    shares = margins.shares[first]
    return {
        name: {
            "weight": float(shares[:, place].mean()),
            "deviation": float(shares[:, place].std()),
            "decides": float((margins.decided_by == place).mean()),
        }
        for place, name in enumerate(names)
    }


def _by_source(
    margins: GatedMargins, names: Sequence[str], right: Mapping[str, NDArray], told: NDArray[np.bool_]
) -> dict[str, dict[str, Any]]:
    """Of each kind of prompt, which is what the column `source` says: the weights, and who is right how often."""
    sources, found = np.array(margins.sources), {}
    for source in dict.fromkeys(margins.sources):
        here = sources == source
        _, first = np.unique(margins.prompt[here], return_index=True)
        weights = margins.shares[here][first].mean(axis=0)
        counted, prompts = here[told], margins.prompt[told][here[told]]
        found[source] = {
            "pairs": int(here.sum()),
            "prompts": len(first),
            "weights": dict(zip(names, weights.tolist(), strict=True)),
            "decides": {name: float((margins.decided_by[here] == n).mean()) for n, name in enumerate(names)},
            "accuracy": _accuracy(margins.gate[told][counted], right["gate"][counted], prompts),
            "gate_less_fixed_weights": difference_of_shares(right["gate"][counted], right["fixed"][counted], prompts),
        }
    return found


def gate_warnings(figures: Mapping[str, Any]) -> list[str]:
    """What a reader must know before he uses the gate."""
    found = []
    if max(of["deviation"] for of in figures["objectives"].values()) < CONSTANT:
        found.append(
            "the gate does nothing: its weights are the same for all prompts (they deviate by less than "
            f"{CONSTANT:g}). Fixed weights are as good, and every tool takes them"
        )
    difference = figures["gate_less_fixed_weights"]
    if difference["prompts"] < FEW_PROMPTS:
        found.append(
            f"the gate was measured on few prompts, {difference['prompts']}, and on {difference['differ']} of them it "
            f"orders pairs unlike fixed weights. Fewer than {FEW_PROMPTS} say little about which of the two is better: "
            "pass more pairs, or a greater --held_out"
        )
    if difference["value"] is not None and not difference["low"] > 0:
        found.append(
            f"the gate was not shown to be better than fixed weights: {100 * difference['value']:+.1f} points of "
            f"accuracy ({100 * difference['low']:+.1f} to {100 * difference['high']:+.1f})"
        )
    return found
