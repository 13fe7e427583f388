"""Pairwise: the model reads a prompt with two answers and says which is the better one, trained on preference pairs.

One output: the logit of "A" less that of "B", read where the answer of the model would begin. Each pair is read in both
orders, in one step. What it reads of a row: pairwise_reader.py; the text: data/pair_texts.py; the head that it begins
with: models/comparison_head.py. The flags: pairwise_flags.py.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from reward_modeling.data.pair_texts import check_opening
from reward_modeling.models.comparison_head import answer_tokens, check_language_model, comparison_head
from reward_modeling.models.pairwise_format import pairwise_values
from reward_modeling.objectives.base import Objective
from reward_modeling.objectives.bradley_terry import smoothed
from reward_modeling.objectives.comparison_words import comparison_lines, comparison_shares, comparison_table
from reward_modeling.objectives.held_out_comparisons import (
    EvaluatedComparisons,
    comparison_figures,
    comparison_metrics,
)
from reward_modeling.objectives.pair_reader import PROBABILITY
from reward_modeling.objectives.pairwise_flags import PairwiseFlags
from reward_modeling.objectives.pairwise_reader import CHOSEN_LENGTH, REJECTED_LENGTH, PairwiseReader
from reward_modeling.objectives.ties import TIE

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from reward_modeling.data.loader import PromptGroups

# Order of the sums that are kept during training. Compared are the pairs that are no ties.
UNITS, COMPARED, CORRECT, FLIPPED, FIRST = range(5)


class Pairwise(Objective):
    """P(the answer that stands first is the better one) = sigmoid(output)."""

    flags = PairwiseFlags
    kind = "comparisons"
    compares = True
    progress_figures = ("accuracy", "flips")

    @property
    def reader(self) -> PairwiseReader:
        return PairwiseReader(ties=self.options.ties, list_weight=self.options.list_weight)

    # --- the head ---

    def __init__(self, flags: PairwiseFlags):
        super().__init__(flags)
        self.begins_as_language_model = False

    def check_model(self, model_name: str, config: "PreTrainedConfig") -> None:
        self.begins_as_language_model = self.options.init_head == "lm"
        if self.begins_as_language_model:
            check_language_model(model_name, config)

    def take_tokenizer(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        """Raises `UserError`: A and B are no tokens, or the template does not write what stands before an answer."""
        if self.begins_as_language_model:
            answer_tokens(tokenizer)
        check_opening(tokenizer)

    def initial_head(
        self,
        model_name: str,
        config: "PreTrainedConfig",
        tokenizer: "PreTrainedTokenizerBase",
        *,
        revision: str | None = None,
    ) -> dict[str, torch.Tensor]:
        if self.options.init_head == "new":
            return {}
        return comparison_head(model_name, config, tokenizer, revision=revision)

    def saved_values(self) -> dict[str, Any]:
        return pairwise_values()

    # --- the loss ---

    @staticmethod
    def collate(units: Sequence[Sequence[int]], targets: Sequence[Sequence[float]]) -> dict[str, torch.Tensor]:
        """`pairs` `(pairs, 2)` long, the rows of the logits with the chosen and with the rejected answer first;
        `probabilities`, `chosen_lengths` and `rejected_lengths`, `(pairs,)` float32.
        """
        known = torch.tensor(targets, dtype=torch.float32).reshape(-1, 3)
        return {
            "pairs": torch.tensor(units, dtype=torch.long).reshape(-1, 2),
            "probabilities": known[:, PROBABILITY],
            "chosen_lengths": known[:, CHOSEN_LENGTH],
            "rejected_lengths": known[:, REJECTED_LENGTH],
        }

    def loss(self, logits: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
        chosen_first, rejected_first = both_orders(logits, targets)
        probability = smoothed(targets["probabilities"], self.options.label_smoothing)
        return comparison_loss(chosen_first, rejected_first, probability)

    # --- figures ---

    def sums(self, logits: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
        """The pairs; those that are no ties; of these the right ones, and those whose verdict flips with the order; of
        all the sum of the mean probabilities of the answer that stands first."""
        chosen_first, rejected_first = both_orders(logits, targets)
        compared = targets["probabilities"] != TIE
        right = (chosen_first > rejected_first).float() + 0.5 * (chosen_first == rejected_first)
        flipped = chosen_first * rejected_first > 0  # both times the first answer, or both times the second
        first = (torch.sigmoid(chosen_first) + torch.sigmoid(rejected_first)) / 2
        numbers = (len(first), compared.sum(), right[compared].sum(), flipped[compared].sum(), first.sum())
        return torch.stack([torch.as_tensor(number, dtype=logits.dtype, device=logits.device) for number in numbers])

    def figures(self, sums: Sequence[float]) -> dict[str, float]:
        """`first_probability` is 0.5 where no place is preferred."""
        of_compared = {"accuracy": CORRECT, "flips": FLIPPED} if sums[COMPARED] else {}  # of ties alone there are none
        figures = {name: sums[place] / sums[COMPARED] for name, place in of_compared.items()}
        return figures | {"first_probability": sums[FIRST] / sums[UNITS]}

    def evaluated(self, logits: torch.Tensor, targets: dict[str, torch.Tensor]) -> list[tuple[float, ...]]:
        """Of a pair the outputs in both orders, its probability and the lengths of both answers."""
        known = (targets[name] for name in ("probabilities", "chosen_lengths", "rejected_lengths"))
        columns = (*both_orders(logits, targets), *known)
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def held_out(self, rows: Sequence[tuple], groups: "PromptGroups") -> EvaluatedComparisons:
        return EvaluatedComparisons.from_rows(rows, groups)

    def metrics(self, held_out: EvaluatedComparisons) -> dict[str, float]:
        return comparison_metrics(held_out, self.evaluation_loss)

    def evaluation(self, held_out: EvaluatedComparisons) -> dict[str, Any]:
        return {"loss": self.evaluation_loss(held_out), **comparison_figures(held_out)}

    def evaluation_loss(self, pairs: EvaluatedComparisons) -> float:
        """The weighted mean loss of the pairs."""
        names = ("chosen_first", "rejected_first", "probabilities", "weights")
        first, second, probabilities, weights = (torch.tensor(getattr(pairs, name)) for name in names)
        losses = comparison_loss(first, second, smoothed(probabilities, self.options.label_smoothing))
        return ((losses * weights).sum() / weights.sum()).item()

    def evaluation_lines(self, logs: Mapping[str, float]) -> list[str]:
        return comparison_lines(logs)

    def evaluation_table(self, evaluation: Mapping[str, Any]) -> str:
        return comparison_table(evaluation)

    def evaluation_shares(self, evaluation: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
        return comparison_shares(evaluation)


def both_orders(logits: torch.Tensor, targets: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The outputs with the chosen answer first and with the rejected one first, `(pairs,)` each."""
    chosen_first, rejected_first = logits[:, 0][targets["pairs"]].unbind(dim=1)
    return chosen_first, rejected_first


def comparison_loss(
    chosen_first: torch.Tensor, rejected_first: torch.Tensor, probability: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy of the better answer, the mean over both orders, one value per pair.

    With p the probability that the chosen answer is the better one, l and l' the logits of "A" less those of "B":

        1/2 (-p log sigmoid(l) - (1 - p) log sigmoid(-l)) + 1/2 (-(1 - p) log sigmoid(l') - p log sigmoid(-l'))

    That of RLHFlow's pair-pm, whose softmax is over the vocabulary, in both orders of a pair instead of one.

    Args:
        chosen_first: l, `(pairs,)`, float32.
        rejected_first: l', `(pairs,)`, float32.
        probability: `(pairs,)`, in [0, 1].

    Returns:
        `(pairs,)`.
    """
    loss = F.binary_cross_entropy_with_logits
    return (
        loss(chosen_first, probability, reduction="none") + loss(rejected_first, 1 - probability, reduction="none")
    ) / 2
