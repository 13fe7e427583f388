"""Nvidia's HelpSteer3: a conversation, two answers, and how much people prefer one, from -3 to 3.

    python data_prep/helpsteer3.py --output_path data/helpsteer3
    python data_prep/helpsteer3.py --min_strength 2 --write_margin true --output_path data/helpsteer3_clear

Below 0 the first answer is preferred, above 0 the second; 0 is no preference and dropped. The set has no score of an
answer: chosen_score is the strength of the preference (1 slightly better, 2 better, 3 much better) and rejected_score
0, so that only their difference means something. `write_margin` writes it as the margin too, which rm.py subtracts
in the loss.
"""

from dataclasses import dataclass
from typing import Annotated

if not __package__:  # run as a script
    import _path  # noqa: F401

from reward_modeling.common.flags import flag, from_to
from reward_modeling.data.preferences import RowDropped
from reward_modeling.data.report import DropReason
from reward_modeling.data.sources import Columns, HubOptions
from reward_modeling.preference_sets.arguments import SourceArguments
from reward_modeling.preference_sets.row_values import name_source, number_of, text_of, wrong_type
from reward_modeling.preference_sets.source import PreferenceSource, SourcePairs, read_pairs
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

    dataset_path: str = flag(
        "nvidia/HelpSteer3", "Hub id, or a local file, folder or glob, such as preference/train.jsonl.gz of a clone."
    )
    split: str = flag("train", "train or validation.")
    output_path: str = "data/helpsteer3"
    min_strength: Annotated[int, from_to(1, STRONGEST)] = flag(
        1, "Drop weaker preferences: 1 slightly better, 2 better, 3 much better."
    )
    write_margin: bool = flag(False, "Write the strength as margin, which rm.py subtracts in the loss.")


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
        "source": name_source("helpsteer3", domain.lower() if isinstance(domain, str) else None),
    }


def build(arguments: ScriptArguments) -> SourcePairs:
    """The pairs of the set."""
    return read_pairs(arguments, SOURCE, to_pair, hub=HubOptions(config=CONFIG_NAME))


if __name__ == "__main__":
    run_source(ScriptArguments, build)
