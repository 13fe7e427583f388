"""Skywork's 80K preference pairs (v0.2, 77,016 rows): chosen from several public sets, and standard already.

    python data_prep/skywork.py --output_path data/skywork

It has no scores. Later models that score high on RewardBench were trained on it.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reward_modeling.common.errors import run_script
from reward_modeling.data.sources import Columns
from reward_modeling.preference_sets.source import PreferenceSource, SourceArguments, SourcePairs, read_pairs
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

    dataset_path: str = field(
        default="Skywork/Skywork-Reward-Preference-80K-v0.2",
        metadata={"help": "Hub id, or a local .parquet, .jsonl, .json or .arrow file, folder or glob."},
    )
    output_path: str = field(default="data/skywork", metadata={"help": "Folder to write the pairs to."})


def to_pair(row: dict) -> dict:
    """The pair as it stands."""
    origin = row.get("source")
    return {
        "chosen": row["chosen"],
        "rejected": row["rejected"],
        "source": f"skywork/{origin}" if isinstance(origin, str) and origin else "skywork",
    }


def build(arguments: ScriptArguments) -> SourcePairs:
    """The pairs of the set."""
    return read_pairs(arguments, SOURCE, to_pair)


def main() -> None:
    run_source(ScriptArguments, build)


if __name__ == "__main__":
    sys.argv[0] = "data_prep/skywork.py"
    run_script(main)
