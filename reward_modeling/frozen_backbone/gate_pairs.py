"""Pairs of answers as a gate sees them: how far apart the objectives put them, and where their prompt is.

pairs = GatePairs.of(features, rewards)          # rewards: (answers, objectives), debiased
parts = split(pairs, held_out=0.2, seed=42)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.errors import UserError
from reward_modeling.frozen_backbone.features import Features, read_rows
from reward_modeling.objectives.pair_reader import PROBABILITY

CHUNK = 4096  # prompts whose hidden states are in memory at once


@dataclass(frozen=True, eq=False)
class GatePairs:
    """All pairs, with the hidden states of their prompts on disk."""

    differences: NDArray[np.float32]
    """`(pairs, objectives)`: of each objective the debiased reward of chosen less that of rejected."""
    probability: NDArray[np.float64]
    """`(pairs,)`: that chosen is better; 0.5 is a tie."""
    weights: NDArray[np.float64]
    """`(pairs,)`: how much each counts in the loss."""
    prompt: NDArray[np.int64]
    """`(pairs,)`: the row of its prompt in `prompts`."""
    prompts: NDArray[np.float32]
    """`(prompts, hidden)`, most often memory-mapped."""
    keys: NDArray[np.int64]
    """`(pairs,)`: equal for equal prompts, which are trained on or held out together."""
    sources: Sequence[str | None]
    lengths: NDArray[np.int64]
    """`(pairs, 2)`: tokens of chosen and rejected."""

    @classmethod
    def of(cls, features: Features, rewards: NDArray) -> "GatePairs":
        """
        Args:
            rewards: `(answers, objectives)`, debiased.
        """
        chosen, rejected = features.pairs.T
        prompt = features.prompt_of[chosen]
        return cls(
            (rewards[chosen] - rewards[rejected]).astype(np.float32),
            features.targets[:, PROBABILITY].astype(np.float64),
            features.weights,
            prompt,
            features.prompts,
            features.prompt_keys[prompt],
            features.sources,
            np.stack([features.completion_tokens[chosen], features.completion_tokens[rejected]], axis=1),
        )

    def __len__(self) -> int:
        return len(self.prompt)

    @property
    def objectives(self) -> int:
        return self.differences.shape[1]

    def blocks_of_prompts(self, pairs: NDArray[np.int64]) -> Iterator[tuple[NDArray, NDArray]]:
        """The prompts of these pairs, each once: their rows, and `(prompts, hidden)` float32 in memory."""
        rows = np.unique(self.prompt[pairs])
        for first in range(0, len(rows), CHUNK):
            block = rows[first : first + CHUNK]
            yield block, read_rows(self.prompts, block)


class Parts(NamedTuple):
    """Numbers of pairs, each of which stands in one part; a prompt's pairs stand together."""

    train: NDArray[np.int64]
    choose: NDArray[np.int64]
    """Held out: the step with the least loss on them is taken."""
    measure: NDArray[np.int64]
    """Held out, and looked at once, for the figures that are reported."""


def split(pairs: GatePairs, held_out: float, seed: int) -> Parts:
    """By prompt, whatever the order of the pairs; the held-out share in two halves.

    Raises:
        UserError: there are too few prompts for three parts.
    """
    keys = np.unique(pairs.keys)
    of_half = round(len(keys) * held_out / 2)
    if len(keys) < 3:
        found = "one prompt" if len(keys) == 1 else f"{len(keys)} prompts"
        raise UserError(
            f"--train_set_path: expected pairs of many prompts, found {found} in {len(pairs):,} pairs. A gate learns "
            "how prompts differ: of one prompt all weights are the same. Pass other rows, or use fixed weights."
        )
    of_half = max(1, of_half)
    part_of_key = np.zeros(len(keys), dtype=np.int64)
    order = np.random.default_rng(seed).permutation(len(keys))
    part_of_key[order[:of_half]] = 1
    part_of_key[order[of_half : 2 * of_half]] = 2
    part = part_of_key[np.searchsorted(keys, pairs.keys)]
    return Parts(*(np.flatnonzero(part == number) for number in range(3)))
