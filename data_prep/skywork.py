"""Skywork's 80K preference pairs (v0.2, 77,016 rows): chosen from several public sets, and standard already.

    python data_prep/skywork.py --output_path data/skywork

It has no scores. Later models that score high on RewardBench were trained on it.
"""

from dataclasses import dataclass

if not __package__:  # run as a script
    import _path  # noqa: F401

from reward_modeling.data.sources import Columns
from reward_modeling.preference_sets.arguments import SourceArguments
from reward_modeling.preference_sets.row_values import name_source
from reward_modeling.preference_sets.source import PreferenceSource, SourcePairs, read_pairs
from reward_modeling.preference_sets.writing import run_source

COLUMNS = ("chosen", "rejected")
SOURCE = PreferenceSource(
    "skywork",
    Columns(COLUMNS, (*COLUMNS, "source"), "chosen and rejected as message lists"),
    licence="see the card: that of each set it was chosen from",
)


@dataclass
class ScriptArguments(SourceArguments):
    """The defaults to edit."""

    dataset_path: str = "Skywork/Skywork-Reward-Preference-80K-v0.2"
    output_path: str = "data/skywork"


def to_pair(row: dict) -> dict:
    """The pair as it stands."""
    return {"chosen": row["chosen"], "rejected": row["rejected"], "source": name_source("skywork", row.get("source"))}


def build(arguments: ScriptArguments) -> SourcePairs:
    """The pairs of the set."""
    return read_pairs(arguments, SOURCE, to_pair)


if __name__ == "__main__":
    run_source(ScriptArguments, build)
