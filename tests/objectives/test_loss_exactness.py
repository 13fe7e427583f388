"""Every loss in every kind of batch against one written out from plain logits: values and all gradients.

The reference has each completion alone in a row of the plain model, and takes the labels from the rows as they were
written: no reader, collator or loss of ours.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from exactness import PAD, TOLERANCE, build_model, differences, make_group

from reward_modeling.common.words import BATCHINGS, PADDED, SHARED_PREFIX
from reward_modeling.data.collator import MicroBatchCollator
from reward_modeling.data.planning import Chunk
from reward_modeling.objectives.bradley_terry import BradleyTerry, BradleyTerryFlags


class PairRow(NamedTuple):
    chosen: int
    rejected: int
    probability: float | None = None
    strength: float | None = None
    margin: float | None = None
    weight: float | None = None


class ListRow(NamedTuple):
    answers: list[int]
    ranks: list[int]
    weight: float | None = None


@dataclass
class Prompt:
    prefix: int
    completions: list[int]  # their lengths
    rows: list[PairRow | ListRow]


PROMPTS = [
    Prompt(40, [5, 30, 1, 17], [ListRow([0, 1, 2, 3], [2, 1, 2, 3]), PairRow(3, 0, 0.7, 2.0, 0.25, 0.5)]),
    Prompt(1, [3, 9], [PairRow(0, 1), PairRow(1, 0, 0.5, 0.0, weight=3.0)]),
    Prompt(23, [1, 2, 3, 4, 5, 40], [ListRow([5, 1, 2, 0, 3, 4], [1, 2, 3, 4, 5, 6], 1.5), PairRow(2, 4, 0.9, 3.0)]),
    Prompt(12, [6, 7, 6], [ListRow([0, 2, 1], [1, 1, 2], 0.25), PairRow(0, 1, 0.5), PairRow(1, 2, 1.0, 0.5, -1.0, 2)]),
]


# --- the reference ----------------------------------------------------------------------------------------------------


def cross_entropy(d: torch.Tensor, p: float, threshold: float) -> torch.Tensor:
    first = 1 / (1 + torch.exp(-d))
    return -p * torch.log(first) - (1 - p) * torch.log(1 - first)


def rao_kupper(d: torch.Tensor, p: float, threshold: float) -> torch.Tensor:
    one, other = torch.exp(d), 1.0
    first, second = one / (one + threshold * other), other / (other + threshold * one)
    if p == 0.5:
        return -torch.log(1 - first - second)
    return -p * torch.log(first) - (1 - p) * torch.log(second)


def davidson(d: torch.Tensor, p: float, threshold: float) -> torch.Tensor:
    one, other, tie = torch.exp(d), 1.0, threshold * torch.exp(d / 2)
    if p == 0.5:
        return -torch.log(tie / (one + other + tie))
    return -p * torch.log(one / (one + other + tie)) - (1 - p) * torch.log(other / (one + other + tie))


def plackett_luce(rewards: list[torch.Tensor], ranks: list[int]) -> torch.Tensor:
    """One choice after the other down to the last but one rank; of tied ones the share that is gone is Efron's."""
    terms = []
    for rank in sorted(set(ranks))[:-1]:
        left = sum(torch.exp(r) for r, of in zip(rewards, ranks, strict=True) if of >= rank)
        tied = [r for r, of in zip(rewards, ranks, strict=True) if of == rank]
        together = sum(map(torch.exp, tied))
        terms += [torch.log(left - number / len(tied) * together) - r for number, r in enumerate(tied)]
    return sum(terms) / len(terms)


class Case(NamedTuple):
    flags: dict[str, Any]
    of_pair: Callable = cross_entropy

    def losses(self, rewards: torch.Tensor, row: PairRow | ListRow) -> list[tuple[float, torch.Tensor]]:
        """The weights and losses of one row, from the rewards of its prompt's completions."""
        weight = 1.0 if row.weight is None else row.weight
        threshold, penalty = self.flags.get("tie_threshold"), self.flags.get("center_rewards_coefficient", 0.0)
        if isinstance(row, PairRow):
            p = 1.0 if row.probability is None else row.probability
            margin = (row.margin or 0.0) if self.flags["loss"] == "margin" else 0.0
            loss = self.of_pair(rewards[row.chosen] - rewards[row.rejected] - margin, p, threshold)
            if self.flags["loss"] == "scaled" and p != 0.5 and row.strength is not None:
                loss = row.strength * loss
            return [(weight, loss + penalty * (rewards[row.chosen] + rewards[row.rejected]) ** 2)]
        of, by_pair = [rewards[number] for number in row.answers], self.flags.get("list_weight") == "pair"
        couples = list(itertools.permutations(range(len(of)), 2))
        ordered = [(one, other) for one, other in couples if row.ranks[one] < row.ranks[other]]
        if self.flags.get("list_loss") == "plackett_luce":
            loss = plackett_luce(of, row.ranks) + penalty * (2 * sum(of) / len(of)) ** 2
            return [(weight * len(ordered) if by_pair else weight, loss)]
        tied = [(one, other) for one, other in couples if one < other and row.ranks[one] == row.ranks[other]]
        compared = [(pair, 1.0) for pair in ordered] + [(pair, 0.5) for pair in tied if threshold is not None]
        share = weight if by_pair else weight / len(compared)
        return [
            (share, self.of_pair(of[one] - of[other], p, threshold) + penalty * (of[one] + of[other]) ** 2)
            for (one, other), p in compared
        ]


CASES = {
    "soft labels": Case({"loss": "bradley_terry"}),
    "margins": Case({"loss": "margin"}),
    "scaled, with weights": Case({"loss": "scaled", "list_weight": "pair"}),
    "rao_kupper": Case({"loss": "bradley_terry", "ties": "rao_kupper", "tie_threshold": 2.5}, rao_kupper),
    "davidson": Case({"loss": "bradley_terry", "ties": "davidson", "tie_threshold": 0.6}, davidson),
    "lists as pairs, by pair": Case({"loss": "bradley_terry", "list_weight": "pair"}),
    "plackett_luce": Case({"loss": "bradley_terry", "list_loss": "plackett_luce"}),
    "plackett_luce, by pair": Case({"loss": "margin", "list_loss": "plackett_luce", "list_weight": "pair"}),
    "all together": Case(
        {
            **{"loss": "scaled", "ties": "davidson", "tie_threshold": 1.3, "list_loss": "plackett_luce"},
            "center_rewards_coefficient": 0.01,
        },
        davidson,
    ),
}


def groups() -> list[dict]:
    return [make_group(prompt.prefix, prompt.completions, seed) for seed, prompt in enumerate(PROMPTS, start=1)]


def written_out(model, case: Case):
    """The weighted mean of the losses, in float64 from the rewards on, and its gradients."""
    model.zero_grad()
    weighted = []
    for group, prompt in zip(groups(), PROMPTS, strict=True):
        rows = [torch.tensor([group["prefix_ids"] + ids]) for ids in group["completion_ids"]]
        ends = torch.cat([model.model(ids).last_hidden_state[0, -1:] for ids in rows])
        rewards = torch.nn.functional.linear(ends, model.score.weight)[:, 0].double()
        weighted += [loss for row in prompt.rows for loss in case.losses(rewards, row)]
    return of_mean(model, torch.stack([loss for _, loss in weighted]), torch.tensor([weight for weight, _ in weighted]))


def of_mean(model, losses: torch.Tensor, weights: torch.Tensor):
    """The losses in order, since units stand in another one than rows, and the gradients of their weighted mean."""
    ((losses * weights).sum() / weights.sum()).backward()
    order = torch.argsort(losses.detach())
    products = (losses.detach() * weights)[order].double()
    return products, {name: weight.grad.clone() for name, weight in model.named_parameters()}


# --- what is held against it ------------------------------------------------------------------------------------------


def standard_row(row: PairRow | ListRow) -> dict[str, Any]:
    """As a file has it, once it is read; the texts are the numbers of the completions."""
    names = ("chosen_probability", "strength", "margin", "weight", "chosen_score", "rejected_score")
    if isinstance(row, ListRow):
        answers = {"answers": list(map(str, row.answers)), "ranks": row.ranks, "weight": row.weight}
        return dict.fromkeys(names) | answers
    texts = {"answers": [], "ranks": [], "chosen": str(row.chosen), "rejected": str(row.rejected)}
    return texts | dict.fromkeys(names) | dict(zip(names, row[2:], strict=False))


def group_rows(objective: BradleyTerry) -> list[dict]:
    """Groups with the units and labels that the objective's reader makes of the rows."""
    rows = groups()
    for group, prompt in zip(rows, PROMPTS, strict=True):
        examples = [objective.reader.read_row(standard_row(row)) for row in prompt.rows]
        group["units"] = [[int(of.completions[place]) for place in unit] for of in examples for unit in of.units]
        group["targets"] = [list(targets) for of in examples for targets in of.targets]
        group["weights"] = [weight for of in examples for weight in of.weights]
    return rows


def losses_and_gradients(model, batching: str, case: Case, change: Callable | None = None):
    objective = BradleyTerry(BradleyTerryFlags(**case.flags))
    rows = group_rows(objective)
    chunks = [Chunk(number, 0, len(group["units"]), 0) for number, group in enumerate(rows)]
    batch = MicroBatchCollator(batching, PAD, BradleyTerry.collate)(chunks, dict(enumerate(rows)))
    if change is not None:
        change(batch)
    model.zero_grad()
    losses = objective.loss(model(**batch["model_inputs"]).logits.float(), batch["targets"])
    return of_mean(model, losses, batch["weights"])


@pytest.fixture(scope="module")
def models():
    plain, fast = build_model("gemma", "eager"), build_model("gemma", SHARED_PREFIX)
    fast.load_state_dict(plain.state_dict())
    return plain, fast


@pytest.mark.parametrize("name", CASES)
def test_every_loss_is_exact_in_every_batch(models, name):
    plain, fast = models
    reference = written_out(plain, CASES[name])
    for batching in BATCHINGS:
        model = plain if batching == PADDED else fast
        found = losses_and_gradients(model, batching, CASES[name])
        assert len(found[0]) == len(reference[0])
        assert max(differences(reference, found)) < TOLERANCE


def swap_answers(batch: dict) -> None:
    """As if each unit had its first and second answer exchanged."""
    for name in ("pairs", "lists"):
        units = batch["targets"][name]
        batch["targets"][name] = torch.cat([units[:, 1:2], units[:, 0:1], units[:, 2:]], dim=1)


def weigh_alike(batch: dict) -> None:
    batch["weights"] = torch.ones_like(batch["weights"])


def read_one_too_early(batch: dict) -> None:
    batch["model_inputs"]["read_positions"] = batch["model_inputs"]["read_positions"] - 1


@pytest.mark.parametrize("change", [swap_answers, weigh_alike, read_one_too_early])
@pytest.mark.parametrize("name", CASES)
def test_what_the_comparison_must_find(models, name, change):
    """The negative controls."""
    plain, _ = models
    wrong = losses_and_gradients(plain, PADDED, CASES[name], change)
    assert max(differences(written_out(plain, CASES[name]), wrong)) > 100 * TOLERANCE


def test_no_loss_is_another(models):
    """Each flag says something about these rows."""
    plain, _ = models
    gradients = {name: written_out(plain, case)[1]["score.weight"] for name, case in CASES.items()}
    for one, other in itertools.combinations(CASES, 2):
        distance = (gradients[one] - gradients[other]).norm() / gradients[one].norm()
        assert distance > 100 * TOLERANCE and math.isfinite(distance), (one, other)
