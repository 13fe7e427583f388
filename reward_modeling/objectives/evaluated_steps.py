"""The held-out solutions under a process model, each with the probabilities and the labels of its steps."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.aggregations import AGGREGATIONS, aggregate
from reward_modeling.data.loader import PromptGroups


@dataclass(frozen=True)
class EvaluatedSteps:
    """The solutions in the order of the data, each of them once."""

    where: list[str]
    probabilities: list[NDArray]
    """Of each solution `(steps,)`: P(right)."""
    labels: list[NDArray]
    """Of each solution `(steps,)`, NaN where there is none or where another chain of a tree counts the step."""
    known_labels: list[NDArray]
    """The same, with the labels that other chains of the tree count."""
    losses: NDArray
    """`(solutions,)`, as in training."""
    prompts: NDArray
    """`(solutions,)`: the number of each one's prompt."""
    unfinished: NDArray[np.bool_]
    """`(solutions,)`: whether each goes on behind its last label, where nobody says whether its steps are right."""
    aggregation: str
    """Which of `aggregated` is the reward."""

    @classmethod
    def from_rows(cls, rows: Sequence[tuple], groups: PromptGroups, aggregation: str) -> "EvaluatedSteps":
        """Whatever the order of the rows, and so on any number of processes, the same solutions.

        Args:
            rows: ((group, solution of the group), loss, *probabilities).
        """
        keys = np.array([key for key, *_ in rows], dtype=np.int64).reshape(-1, 2)
        numbers = groups.sizes.unit_offsets[keys[:, 0]] + keys[:, 1]
        order = np.argsort(numbers, kind="stable")
        if not np.array_equal(numbers[order], np.arange(len(groups))):
            raise RuntimeError(f"expected each of {len(groups)} solutions once, found {len(rows)}")
        values = [rows[number][1:] for number in order.tolist()]
        labels = [of.astype(np.float64) for of in groups.target_lists()]
        return cls(
            groups.of_units("where"),
            probabilities=[np.array(of[1:], dtype=np.float64) for of in values],
            labels=labels,
            known_labels=with_labels_of_others(groups, labels),
            losses=np.array([of[0] for of in values], dtype=np.float64),
            prompts=groups.sizes.group_of_unit,
            unfinished=np.array(groups.of_units("unfinished"), dtype=np.bool_),
            aggregation=aggregation,
        )

    def __len__(self) -> int:
        return len(self.where)

    @property
    def weights(self) -> NDArray:
        """`(solutions,)`: how many steps each loss is a mean over."""
        return np.array([np.isfinite(of).sum() for of in self.labels], dtype=np.float64)

    @property
    def aggregated(self) -> dict[str, NDArray]:
        """Of each aggregation `(solutions,)`."""
        of_each = [aggregate(of.tolist()) for of in self.probabilities]
        return {name: np.array([of[name] for of in of_each]) for name in AGGREGATIONS}

    @property
    def rewards(self) -> NDArray:
        """`(solutions,)`."""
        return self.aggregated[self.aggregation]

    @property
    def not_finite(self) -> str | None:
        """What to say where an output is not a finite number, of which no figure can be made; None if all are."""
        bad = [number for number, of in enumerate(self.probabilities) if not np.isfinite(of).all()]
        if not bad:
            return None
        return (
            f"held-out outputs are not finite in {len(bad):,} of {len(self):,} solutions, the first "
            f"{self.where[bad[0]]}, so there are no figures. Train without fp16, or lower --learning_rate."
        )

    def score_lines(self) -> Iterator[dict]:
        """The lines of eval_scores.jsonl."""
        rewards = self.rewards.tolist()
        for where, reward, steps, labels in zip(
            self.where, rewards, self.probabilities, self.known_labels, strict=True
        ):
            known = [None if math.isnan(label) else _as_given(label) for label in labels.tolist()]
            yield {"where": where, "reward": reward, "steps": steps.tolist(), "labels": known}


def _as_given(label: float) -> float:
    """0.9 for what float32 has made of a label of 0.9."""
    return float(str(np.float32(label)))


def with_labels_of_others(groups: PromptGroups, labels: Sequence[NDArray]) -> list[NDArray]:
    """The labels of a tree's steps in each of its chains: a step is the same where all tokens up to its end are,
    and all steps before it end where they do."""
    filled, unit = [], 0
    for group in groups.groups.select_columns(["prefix_ids", "completion_ids", "units", "read_positions"]):
        of_step: dict[tuple, float] = {}
        steps = []
        for (number,) in group["units"]:
            ids = [*group["prefix_ids"], *group["completion_ids"][number]]
            ends = group["read_positions"][number]
            steps.append([(tuple(ids[: place + 1]), *ends[:before]) for before, place in enumerate(ends)])
        for keys, known in zip(steps, labels[unit : unit + len(steps)], strict=True):
            for key, label in zip(keys, known.tolist(), strict=True):
                if not math.isnan(label):
                    of_step.setdefault(key, label)
        for keys, known in zip(steps, labels[unit : unit + len(steps)], strict=True):
            others = np.array([of_step.get(key, math.nan) for key in keys])
            filled.append(np.where(np.isnan(known), others, known))
        unit += len(steps)
    return filled
