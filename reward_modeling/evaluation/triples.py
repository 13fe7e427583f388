"""Whether comparisons of two answers are transitive: triples of answers to one prompt that go round in a circle."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.intervals import Accuracy, share_of_rows
from reward_modeling.common.pair_probabilities import log_odds


@dataclass(frozen=True)
class Triples:
    """Arrays are `(prompts,)`, of prompts that have any triple."""

    triples: NDArray[np.int64]
    """Three answers of which every two were compared."""
    circles: NDArray[np.int64]
    """Those of them in which each answer is better than one other: a beats b, b beats c, and c beats a."""

    def figures(self) -> Accuracy:
        """The share of triples that are circles; the interval takes those of a prompt together."""
        flags = [
            np.repeat([1.0, 0.0], [of, all_of - of]) for all_of, of in zip(self.triples, self.circles, strict=True)
        ]
        prompts = np.repeat(np.arange(len(self.triples)), self.triples)
        right = np.concatenate(flags)
        return share_of_rows(right, np.zeros(len(right), dtype=bool), prompts) | {"prompts": len(self.triples)}


def count_triples(rows: Iterable[tuple[object, list[str], NDArray]]) -> Triples | None:
    """
    Args:
        rows: of each its prompt, its answers, and the outputs `(answers, answers)`. Rows of one prompt are taken
            together, and equal answers to it are one.

    Returns:
        None where no prompt has three answers of which every two were compared.
    """
    odds_of: dict[object, dict[tuple[str, str], float]] = {}
    for prompt, answers, logits in rows:
        odds = log_odds(logits, logits.T)
        for one, other in np.argwhere(np.isfinite(odds)).tolist():
            if answers[one] != answers[other]:
                odds_of.setdefault(prompt, {})[answers[one], answers[other]] = odds[one, other]
    counts = np.array([_of_prompt(odds) for odds in odds_of.values()], dtype=np.int64).reshape(-1, 2)
    counts = counts[counts[:, 0] > 0]
    return Triples(*counts.T) if len(counts) else None


def _of_prompt(odds: Mapping[tuple[str, str], float]) -> tuple[int, int]:
    """Triples and circles, by counting closed walks of three steps: a triple has six of them, a circle three."""
    numbers = {answer: place for place, answer in enumerate(dict.fromkeys(answer for pair in odds for answer in pair))}
    known = np.zeros((len(numbers),) * 2, dtype=np.int64)
    better = np.zeros_like(known)
    for (one, other), value in odds.items():
        known[numbers[one], numbers[other]] = 1
        better[numbers[one], numbers[other]] = value > 0
    return int(np.trace(known @ known @ known)) // 6, int(np.trace(better @ better @ better)) // 3
