"""Nvidia's HelpSteer3: a conversation, two answers, and how much people prefer one, from -3 to 3.

    python data_prep/helpsteer3.py --output_path data/helpsteer3
    python data_prep/helpsteer3.py --min_strength 2 --write_margin true --output_path data/helpsteer3_clear

Below 0 the first answer is preferred, above 0 the second; 0 is no preference and dropped. The set has no score of an
answer: chosen_score is the strength of the preference (1 slightly better, 2 better, 3 much better) and rejected_score
0, so that only their difference means something. `write_margin` writes it as the margin too, which rm.py subtracts
in the loss.
"""

import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reward_modeling.common.errors import run_script
from reward_modeling.data.hub import HubOptions
from reward_modeling.data.report import DropReason
from reward_modeling.data.sources import Columns
from reward_modeling.preference_sets.source import (
    PreferenceSource,
    RowDropped,
    SourceArguments,
    SourcePairs,
    number_of,
    read_pairs,
    text_of,
    wrong_type,
)
from reward_modeling.preference_sets.writing import run_source

CONFIG_NAME = "preference"  # the others hold feedback and edits
STRONGEST = 3
COLUMNS = ("context", "response1", "response2", "overall_preference")
SOURCE = PreferenceSource(
    "helpsteer3",
    Columns(COLUMNS, (*COLUMNS, "domain"), "context as messages, response1 and response2, overall_preference -3 to 3"),
    licence="CC-BY-4.0",
)


@dataclass
class ScriptArguments(SourceArguments):
    """The defaults to edit."""

    dataset_path: str = field(
        default="nvidia/HelpSteer3",
        metadata={"help": "Hub id, or a local file, folder or glob, such as preference/train.jsonl.gz of a clone."},
    )
    split: str = field(default="train", metadata={"help": "train or validation."})
    output_path: str = field(default="data/helpsteer3", metadata={"help": "Folder to write the pairs to."})
    min_strength: int = field(
        default=1, metadata={"help": "Drop weaker preferences: 1 slightly better, 2 better, 3 much better."}
    )
    write_margin: bool = field(
        default=False, metadata={"help": "Write the strength as margin, which rm.py subtracts in the loss."}
    )

    def problems(self) -> list[str]:
        """Adds that of the strength."""
        found = super().problems()
        if not 1 <= self.min_strength <= STRONGEST:
            found.append(f"--min_strength: expected 1 to {STRONGEST}, found {self.min_strength}")
        return found


def to_pair(row: dict, min_strength: int, write_margin: bool) -> dict:
    """The preferred answer against the other."""
    preference = number_of(row, "overall_preference")
    if preference not in range(-STRONGEST, STRONGEST + 1):
        raise wrong_type(row, "overall_preference", f"a whole number from -{STRONGEST} to {STRONGEST}")
    strength = abs(preference)
    if not strength:
        raise RowDropped(DropReason.EQUAL_SCORES, "overall_preference 0")
    if strength < min_strength:
        raise RowDropped(DropReason.FILTERED, f"overall_preference {preference:g}")
    if not isinstance(row["context"], list) or not row["context"]:
        raise wrong_type(row, "context", "messages")
    chosen, rejected = (1, 2) if preference < 0 else (2, 1)
    domain = row.get("domain")
    return {
        "prompt": row["context"],
        "chosen": text_of(row, f"response{chosen}"),
        "rejected": text_of(row, f"response{rejected}"),
        "chosen_score": strength,
        "rejected_score": 0.0,
        "margin": strength if write_margin else None,
        "source": f"helpsteer3/{domain.lower()}" if isinstance(domain, str) and domain else "helpsteer3",
    }


def build(arguments: ScriptArguments) -> SourcePairs:
    """The pairs of the set."""
    convert = partial(to_pair, min_strength=arguments.min_strength, write_margin=arguments.write_margin)
    return read_pairs(arguments, SOURCE, convert, hub=HubOptions(config=CONFIG_NAME))


def main() -> None:
    run_source(ScriptArguments, build)


if __name__ == "__main__":
    sys.argv[0] = "data_prep/helpsteer3.py"
    run_script(main)
