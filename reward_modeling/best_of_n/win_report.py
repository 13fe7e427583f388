"""What the report of best_of_n.py says of win probabilities, the rewards of a pairwise model: how probable it is that
an answer is better than another one of its row.

They compare within one row alone. In each they are one half on average.
"""

from collections.abc import Mapping

from reward_modeling.display.text import count
from reward_modeling.generations.added_columns import WIN_PROBABILITY


def are_win_probabilities(report: Mapping) -> bool:
    return report["columns"]["reward_kind"] == WIN_PROBABILITY


def reward_name(report: Mapping) -> str:
    return "win probability" if are_win_probabilities(report) else "reward"


def plural_of_reward(report: Mapping) -> str:
    return "win probabilities" if are_win_probabilities(report) else "rewards"


def win_notes(report: Mapping) -> list[str]:
    """What they are and are not, a sentence each."""
    if not are_win_probabilities(report):
        return []
    texts = [
        "A win probability is how probable it is that an answer is better than another one of its row, by a pairwise "
        "model. In each row it is 0.5 on average: a gain says how far the model tells answers apart, and nothing of "
        "how good they are beside those of other rows."
    ]
    if report["curve"] and report["curve"][-1]["n"] > 2:
        texts.append(
            "Where n is below the number of a row's answers the best of n are chosen by comparisons with all of them, "
            "which is more than n answers alone would tell."
        )
    if report["select"] == "dpo_pairs":
        texts.append(
            "The pairs have win probabilities as chosen_score and rejected_score, too, which their score_kind says. "
            "rm.py with --loss_margin scores would subtract the differences, from 0 to 1, as margins."
        )
    fewest, most = report["columns"]["answers_of_rows"]
    if fewest != most:
        texts.append(
            f"Rows have {count(fewest)} to {count(most)} answers with a reward. The same two answers are further apart "
            "in a row of few, where --min_gap asks for less."
        )
    return texts


def margin_warning(report: Mapping, *, writes_margin: bool) -> list[str]:
    """
    Args:
        writes_margin: whether the gap of a pair is written as `margin`.
    """
    if not (writes_margin and are_win_probabilities(report)):
        return []
    return [
        "--write_margin: margins are differences of win probabilities, from 0 to 1, where a trainer subtracts a margin "
        "from a difference of rewards of any size."
    ]
