"""What best_of_n_loop.py prints: truth and reward before and after, and what choosing by reward gives."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.errors import UserError
from reward_modeling.common.intervals import pair_accuracy, share_of_rows
from reward_modeling.common.prompt_differences import difference_of_means, difference_of_shares

Rows = Sequence[dict[str, Any]]
SHOWN = (1, 2, 4, 8, 16, 32)  # n


def compare(before: Rows, after: Rows, report: dict[str, Any]) -> dict[str, Any]:
    """Figures of two policies' scored answers to the same prompts.

    Args:
        report: of best_of_n.py on `before`.

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
        "best of n": [row for row in report["truth"]["rows"] if row["n"] in SHOWN],
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
    for row in figures["best of n"]:
        cells = [row["best"], row["random"], row["oracle"], row["best_less"]["random"]]
        print(f"| {row['n']} | {' | '.join(map(in_percent, cells))} |")


def in_percent(figure: dict[str, Any]) -> str:
    return spread(figure, lambda value: f"{100 * value:.1f}")


def as_number(figure: dict[str, Any]) -> str:
    return spread(figure, lambda value: f"{value:.2f}")


def spread(figure: dict[str, Any], write) -> str:
    ends = [figure[name] for name in ("low", "high")]
    if None in ends:
        return write(figure["value"]) if figure["value"] is not None else "none"
    return f"{write(figure['value'])} [{write(ends[0])}, {write(ends[1])}]"
