"""Argilla's binarised Capybara: dialogues of several turns with two last answers, each rated 1 to 5.

    python data_prep/capybara.py --output_path data/capybara
    python data_prep/capybara.py --min_chosen_rating 4 --output_path data/capybara_good

Rows with one text on both sides are always dropped.
"""

from dataclasses import dataclass
from typing import Annotated

if not __package__:  # run as a script
    import _path  # noqa: F401

from reward_modeling.common.flags import flag, from_to
from reward_modeling.data.preferences import RowDropped
from reward_modeling.data.report import DropReason
from reward_modeling.data.sources import Columns
from reward_modeling.preference_sets.arguments import SourceArguments
from reward_modeling.preference_sets.row_values import name_source, number_of
from reward_modeling.preference_sets.source import PreferenceSource, SourcePairs, read_pairs
from reward_modeling.preference_sets.writing import run_source

# Not `prompt`: it holds the dialogue as one text, and the messages hold it already.
COLUMNS = ("chosen", "rejected", "rating_chosen", "rating_rejected")
SOURCE = PreferenceSource(
    "capybara",
    Columns(COLUMNS, (*COLUMNS, "source"), "chosen and rejected as message lists, rating_chosen and rating_rejected"),
    licence="Apache-2.0",
    published={"mixture1": 7_562, "mixture2": 7_562},
)


@dataclass
class ScriptArguments(SourceArguments):
    """The defaults to edit."""

    dataset_path: str = "argilla/distilabel-capybara-dpo-7k-binarized"
    output_path: str = "data/capybara"
    drop_equal_ratings: bool = flag(True, "Drop pairs whose ratings are equal, as the mixtures do.")
    min_chosen_rating: Annotated[int, from_to(0, 5)] = flag(
        0, "Drop pairs whose better answer is rated lower (1 to 5). 0: keep any."
    )


def to_pair(row: dict, drop_equal_ratings: bool, min_chosen_rating: int) -> dict:
    """The pair as it stands, with its ratings as scores; one without ratings only where none is asked for."""
    needs_ratings = drop_equal_ratings or min_chosen_rating > 0
    chosen, rejected = (
        number_of(row, name) if needs_ratings or row[name] is not None else None
        for name in ("rating_chosen", "rating_rejected")
    )
    if drop_equal_ratings and chosen == rejected:
        raise RowDropped(DropReason.EQUAL_SCORES, f"both rated {chosen:g}")
    if min_chosen_rating and chosen < min_chosen_rating:
        raise RowDropped(DropReason.FILTERED, f"rating_chosen {chosen:g}")
    return {
        "chosen": row["chosen"],
        "rejected": row["rejected"],
        "chosen_score": chosen,
        "rejected_score": rejected,
        "source": name_source("capybara", row.get("source")),
    }


def build(arguments: ScriptArguments) -> SourcePairs:
    """The pairs of the set."""
    return read_pairs(arguments, SOURCE, to_pair)


if __name__ == "__main__":
    run_source(ScriptArguments, build)
