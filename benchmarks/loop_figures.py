"""What best_of_n_loop.py prints: truth and reward before and after, and what choosing by reward gives."""

from collections.abc import Sequence
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.errors import UserError
from reward_modeling.common.intervals import pair_accuracy, share_of_rows
from reward_modeling.common.prompt_differences import difference_of_means, difference_of_shares

Rows = Sequence[dict[str, Any]]


def compare(before: Rows, after: Rows) -> dict[str, Any]:
    """Figures of two policies' scored answers to the same prompts.

    Raises:
        UserError: an answer has no reward.
    """
    (right, rewards), (right_after, rewards_after) = tables(before), tables(after)
    prompts = np.repeat(np.arange(len(right)), right.shape[1])
    return {
        "truth": shares({"before": right, "after": right_after}, prompts)
        | {"difference": difference_of_shares(right_after.ravel(), right.ravel(), prompts)},
        "reward": {
            "before": difference_of_means(rewards.ravel(), np.zeros(rewards.size), prompts),
            "after": difference_of_means(rewards_after.ravel(), np.zeros(rewards.size), prompts),
            "difference": difference_of_means(rewards_after.ravel(), rewards.ravel(), prompts),
        },
        "pairs of truth": pairs_of_truth(right, rewards),
        "best of n": best_of_n(right, rewards),
    }


def tables(rows: Rows) -> tuple[NDArray, NDArray]:
    """Truth as 0 and 1, and rewards, both `(prompts, answers)` float64."""
    rewards = [row["rewards"] for row in rows]
    if any(of_row is None or None in of_row for of_row in rewards):
        raise UserError("expected a reward for each answer, found null: look at the manifest beside the scored rows.")
    return np.array([row["is_correct"] for row in rows], dtype=np.float64), np.array(rewards, dtype=np.float64)


def shares(of: dict[str, NDArray], prompts: NDArray) -> dict[str, Any]:
    none = np.zeros(len(prompts), dtype=bool)
    return {name: share_of_rows(right.ravel(), none, prompts) for name, right in of.items()}


def pairs_of_truth(right: NDArray, rewards: NDArray) -> dict[str, Any]:
    """How often a right answer has a higher reward than a wrong one of the same prompt, over all such pairs."""
    pairs = [
        (rewards[prompt, one], rewards[prompt, other], prompt)
        for prompt in range(len(right))
        for one in np.flatnonzero(right[prompt] == 1)
        for other in np.flatnonzero(right[prompt] == 0)
    ]
    chosen, rejected, prompts = (np.array(column) for column in zip(*pairs, strict=True)) if pairs else ([], [], None)
    return pair_accuracy(chosen, rejected, prompts)


def best_of_n(right: NDArray, rewards: NDArray) -> dict[int, dict[str, Any]]:
    """For n = 1, 2, 4 ...: the truth of the answer of highest reward among n, and of any (oracle) over all subsets."""
    answers = right.shape[1]
    sizes = [size for size in (2**power for power in range(10)) if size < answers] + [answers]
    none = np.zeros(len(right), dtype=bool)
    chance = right.mean(axis=1)
    figures = {}
    for size in sizes:
        chosen = np.array([expected_best(*row, size) for row in zip(right, rewards, strict=True)])
        oracle = np.array([1 - comb(int((row == 0).sum()), size) / comb(answers, size) for row in right])
        gain = difference_of_means(chosen, chance, np.arange(len(right)))
        figures[size] = {
            "by reward": share_of_rows(chosen, none),
            "oracle": share_of_rows(oracle, none),
            "gain over random": gain,
        }
    return figures


def expected_best(right: NDArray, rewards: NDArray, size: int) -> float:
    """The mean over all subsets of `size` answers of the truth of the best; equal rewards share it.

    The answer at place r from the lowest reward is the best of the subsets of it and size - 1 of the r below.
    """
    values, groups = np.unique(rewards, return_inverse=True)
    total, below = 0.0, 0
    for group in range(len(values)):
        members = groups == group
        count = int(members.sum())
        subsets = comb(below + count, size) - comb(below, size)
        total += subsets * float(right[members].mean())
        below += count
    return total / comb(len(right), size)


def print_figures(figures: dict[str, Any]) -> None:
    truth, reward = figures["truth"], figures["reward"]
    print("\nHeld-out prompts; 95% intervals over prompts\n\n| | before | after | difference |\n|---|---|---|---|")
    print("| true score | " + " | ".join(in_percent(truth[name]) for name in ("before", "after", "difference")) + " |")
    print("| reward | " + " | ".join(as_number(reward[name]) for name in ("before", "after", "difference")) + " |")
    pairs = figures["pairs of truth"]
    print(
        f"\nRight answers have higher rewards than wrong ones in {in_percent(pairs)}% of {pairs['rows']} pairs (before)"
    )
    print("\nChoosing among the untrained policy's answers\n\n| n | by reward | random | oracle | gain over random |")
    print("|---|---|---|---|---|")
    for size, row in figures["best of n"].items():
        chosen, gain = in_percent(row["by reward"]), in_percent(row["gain over random"])
        print(f"| {size} | {chosen} | {100 * truth['before']['value']:.1f} | {in_percent(row['oracle'])} | {gain} |")


def in_percent(figure: dict[str, Any]) -> str:
    return spread(figure, lambda value: f"{100 * value:.1f}")


def as_number(figure: dict[str, Any]) -> str:
    return spread(figure, lambda value: f"{value:.2f}")


def spread(figure: dict[str, Any], write) -> str:
    ends = [figure[name] for name in ("low", "high")]
    if None in ends:
        return write(figure["value"]) if figure["value"] is not None else "none"
    return f"{write(figure['value'])} [{write(ends[0])}, {write(ends[1])}]"
