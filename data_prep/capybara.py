"""Argilla's binarised Capybara: dialogues of several turns with two last answers, each rated 1 to 5.

    python data_prep/capybara.py --output_path data/capybara
    python data_prep/capybara.py --min_chosen_rating 4 --output_path data/capybara_good

Rows with one text on both sides are always dropped.
"""

import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reward_modeling.common.errors import run_script
from reward_modeling.data.report import DropReason
from reward_modeling.data.sources import Columns
from reward_modeling.preference_sets.source import (
    PreferenceSource,
    RowDropped,
    SourceArguments,
    SourcePairs,
    number_of,
    read_pairs,
)
from reward_modeling.preference_sets.writing import run_source

# Not `prompt`: it holds the dialogue as one text, and the messages hold it already.
COLUMNS = ("chosen", "rejected", "rating_chosen", "rating_rejected")
SOURCE = PreferenceSource(
    "capybara",
    Columns(COLUMNS, (*COLUMNS, "source"), "chosen and rejected as message lists, rating_chosen and rating_rejected"),
    licence="Apache-2.0",
    published={"mixture1": 7_562, "mixture2": 7_562},
)
HIGHEST_RATING = 5


@dataclass
class ScriptArguments(SourceArguments):
    """The defaults to edit."""

    dataset_path: str = field(
        default="argilla/distilabel-capybara-dpo-7k-binarized",
        metadata={"help": "Hub id, or a local .parquet, .jsonl, .json or .arrow file, folder or glob."},
    )
    output_path: str = field(default="data/capybara", metadata={"help": "Folder to write the pairs to."})
    drop_equal_ratings: bool = field(
        default=True, metadata={"help": "Drop pairs whose ratings are equal, as the mixtures do."}
    )
    min_chosen_rating: int = field(
        default=0, metadata={"help": "Drop pairs whose better answer is rated lower (1 to 5). 0: keep any."}
    )

    def problems(self) -> list[str]:
        """Adds that of the rating."""
        found = super().problems()
        if not 0 <= self.min_chosen_rating <= HIGHEST_RATING:
            found.append(f"--min_chosen_rating: expected 0 to {HIGHEST_RATING}, found {self.min_chosen_rating}")
        return found


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
    origin = row.get("source")
    return {
        "chosen": row["chosen"],
        "rejected": row["rejected"],
        "chosen_score": chosen,
        "rejected_score": rejected,
        "source": f"capybara/{origin}" if isinstance(origin, str) and origin else "capybara",
    }


def build(arguments: ScriptArguments) -> SourcePairs:
    """The pairs of the set."""
    convert = partial(
        to_pair,
        drop_equal_ratings=arguments.drop_equal_ratings,
        min_chosen_rating=arguments.min_chosen_rating,
    )
    return read_pairs(arguments, SOURCE, convert)


def main() -> None:
    run_source(ScriptArguments, build)


if __name__ == "__main__":
    sys.argv[0] = "data_prep/capybara.py"
    run_script(main)
