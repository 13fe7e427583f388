"""The merged set that ArmoRM was trained on: conversations with the ratings of eight sets, on 19 attributes.

    python data_prep/armorm_ratings.py --output_path data/armorm_ratings
    accelerate launch rm_regression.py --train_set_path data/armorm_ratings --attributes helpsteer-helpfulness,...

A row is an answer with the ratings of the set it is from, null in all other columns. Attributes that are alike stay
apart, since each set has a scale of its own.

ArmoRM's public training code takes the numbers as they stand in the columns. The card of its model gives the attributes
of HelpSteer back on 0..4 as 5 x - 0.5: so they should stand here as (rating + 0.5) / 5, from 0.1 to 0.9, and the others
from 0 to 1. That could not be looked up in the set itself: the table and the manifest say what the ranges are. Numbers
are written as they are found, so that these columns go together with others of the same scale alone.
"""

from dataclasses import dataclass

if not __package__:  # run as a script
    import _path  # noqa: F401

from reward_modeling.data.messages import says_nothing
from reward_modeling.data.preferences import RowDropped
from reward_modeling.data.report import DropReason
from reward_modeling.data.sources import Columns
from reward_modeling.preference_sets.arguments import RATINGS, SourceArguments
from reward_modeling.preference_sets.ratings import SourceRatings, read_ratings
from reward_modeling.preference_sets.row_values import name_source
from reward_modeling.preference_sets.source import PreferenceSource
from reward_modeling.preference_sets.writing import run_source

# In the order of the published model's outputs.
ATTRIBUTES = (
    *(f"helpsteer-{name}" for name in ("helpfulness", "correctness", "coherence", "complexity", "verbosity")),
    "ultrafeedback-overall_score",
    *(f"ultrafeedback-{name}" for name in ("instruction_following", "truthfulness", "honesty", "helpfulness")),
    "beavertails-is_safe",
    "prometheus-score",
    *(f"argilla-{name}" for name in ("overall_quality", "judge_lm")),
    *(f"code-{name}" for name in ("complexity", "style", "explanation", "instruction-following", "readability")),
)
SOURCE = PreferenceSource(
    "armorm",
    Columns(("messages",), ("messages", *ATTRIBUTES), "messages, and the 19 attributes as numbers"),
    licence="see the card: that of each set it was merged from",
)


@dataclass
class ScriptArguments(SourceArguments):
    """The defaults to edit."""

    dataset_path: str = "RLHFlow/ArmoRM-Multi-Objective-Data-v0.1"
    output_path: str = "data/armorm_ratings"

    @property
    def row_kind(self) -> str:
        return RATINGS


def to_ratings(row: dict) -> dict:
    """The conversation with its ratings; whether an answer is safe may be true or false, which are read as 1 and 0."""
    ratings = {name: row.get(name) for name in ATTRIBUTES}
    rated = [name for name, rating in ratings.items() if not says_nothing(rating)]
    if not rated:
        raise RowDropped(DropReason.NOT_RATED)
    # The set it is from; instruction following of Argilla's mathematics stands among UltraFeedback's.
    return {"messages": row["messages"], "ratings": ratings, "source": name_source("armorm", rated[0].split("-")[0])}


def build(arguments: ScriptArguments) -> SourceRatings:
    """The answers of the set."""
    return read_ratings(arguments, SOURCE, dict.fromkeys(ATTRIBUTES), to_ratings)


if __name__ == "__main__":
    run_source(ScriptArguments, build)
