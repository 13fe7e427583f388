"""Argilla's Intel-Orca pairs: one question, two answers, which a language model has rated again.

    python data_prep/orca.py --output_path data/orca
    python data_prep/orca.py --exclude_gsm8k true --output_path data/orca_card    # the filter that its card recommends
    python data_prep/orca.py --min_chosen_score 0 --output_path data/orca_untied  # no ties, and nothing else

Which clauses the published mixtures used is not known: they say "equal ratings dropped" and have 6,405 pairs, while
ties alone leave about 8,800 of 12,859. The defaults (no ties, the better answer rated 8 or more, questions of GSM8K's
training set kept) come nearest to it.
"""

from dataclasses import dataclass
from typing import Annotated

if not __package__:  # run as a script
    import _path  # noqa: F401

from reward_modeling.common.flags import NOT_NEGATIVE, flag
from reward_modeling.data.preferences import RowDropped
from reward_modeling.data.report import DropReason
from reward_modeling.data.sources import Columns
from reward_modeling.preference_sets.arguments import SourceArguments
from reward_modeling.preference_sets.row_values import float_of, number_of, text_of, wrong_type
from reward_modeling.preference_sets.source import PreferenceSource, SourcePairs, read_pairs
from reward_modeling.preference_sets.writing import run_source

COLUMNS = ("system", "input", "chosen", "rejected", "generations", "rating", "status", "chosen_score", "in_gsm8k_train")
SOURCE = PreferenceSource(
    "orca",
    Columns(COLUMNS, COLUMNS, "system, input, chosen and rejected as texts, with rating, status and chosen_score"),
    licence="Apache-2.0",
    published={"mixture1": 6_405, "mixture2": 6_405},
)


@dataclass
class ScriptArguments(SourceArguments):
    """The defaults to edit."""

    dataset_path: str = "argilla/distilabel-intel-orca-dpo-pairs"
    output_path: str = "data/orca"
    drop_ties: bool = flag(True, "Drop rows whose status is 'tie'.")
    drop_equal_ratings: bool = flag(True, "Drop rows whose two ratings are equal, and rows that have not two.")
    min_chosen_score: Annotated[float, NOT_NEGATIVE] = flag(
        8.0, "Drop rows whose chosen_score is lower, or missing. 0: keep any."
    )
    exclude_gsm8k: bool = flag(False, "Drop questions that are in the training set of GSM8K.")


def to_pair(row: dict, drop_ties: bool, drop_equal_ratings: bool, min_chosen_score: float, exclude_gsm8k: bool) -> dict:
    """The pair as it stands: where the rating turned it round ("swapped"), the set has done so already."""
    if drop_ties and row["status"] == "tie":
        raise RowDropped(DropReason.EQUAL_SCORES, "status tie")
    ratings = _ratings(row)
    if drop_equal_ratings:
        if len(ratings) != 2:
            raise RowDropped(DropReason.NO_SCORE, f"rating: expected two numbers, found {row['rating']}")
        if ratings[0] == ratings[1]:
            raise RowDropped(DropReason.EQUAL_SCORES, f"both rated {ratings[0]:g}")
    if min_chosen_score:
        score = number_of(row, "chosen_score")
        if not score >= min_chosen_score:
            raise RowDropped(DropReason.FILTERED, f"chosen_score {score:g}")
    if exclude_gsm8k and row["in_gsm8k_train"]:
        raise RowDropped(DropReason.FILTERED, "a question of GSM8K")
    system, question = row["system"], {"role": "user", "content": text_of(row, "input")}
    return {
        "prompt": [{"role": "system", "content": text_of(row, "system")}, question] if system else [question],
        "chosen": text_of(row, "chosen"),
        "rejected": text_of(row, "rejected"),
        "chosen_score": row["chosen_score"],
        "rejected_score": _rejected_score(row, ratings),
        "source": "orca",
    }


def _ratings(row: dict) -> list[float]:
    ratings = row["rating"] or []
    if not isinstance(ratings, list) or not all(isinstance(rating, (int, float)) for rating in ratings):
        raise wrong_type(row, "rating", "a list of numbers")
    return [float_of(rating) for rating in ratings]


def _rejected_score(row: dict, ratings: list[float]) -> float | None:
    """The ratings are in the order of `generations`, which was shuffled: the answers are found in it by their texts.

    None unless both are there once and the better one's rating is the `chosen_score` that the set states.
    """
    generations, answers = row["generations"], [row["chosen"], row["rejected"]]
    if not isinstance(generations, list) or sorted(generations, key=str) != sorted(answers) or len(ratings) != 2:
        return None
    chosen, rejected = (ratings[generations.index(answer)] for answer in answers)
    return rejected if chosen == row["chosen_score"] else None


def build(arguments: ScriptArguments) -> SourcePairs:
    """The pairs of the set that pass every clause."""
    return read_pairs(arguments, SOURCE, to_pair)


if __name__ == "__main__":
    run_source(ScriptArguments, build)
