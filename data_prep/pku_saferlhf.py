"""PKU-SafeRLHF: a question and two answers, with one label for the more helpful and one for the safer of them.

    python data_prep/pku_saferlhf.py --sample 150000 --output_path data/pku                               # mixture 4
    python data_prep/pku_saferlhf.py --dataset_path PKU-Alignment/PKU-SafeRLHF-30K --output_path data/pku_30k   # 3

The labels may disagree; the mixtures add the set for safety, so "safer" is the default. Today's PKU-SafeRLHF is a
smaller set than the one that mixture 4 was drawn from: unless --revision says otherwise, its revision v0 is read.
"""

import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reward_modeling.common.errors import run_script
from reward_modeling.data.sources import Columns
from reward_modeling.preference_sets.source import (
    PreferenceSource,
    SourceArguments,
    SourcePairs,
    number_of,
    read_pairs,
    sample_pairs,
    text_of,
    wrong_type,
)
from reward_modeling.preference_sets.writing import run_source

FULL_SET, FULL_SET_REVISION = "PKU-Alignment/PKU-SafeRLHF", "v0"
PREFERENCES = ("safer", "better")
COLUMNS = ("prompt", "response_0", "response_1", "better_response_id", "safer_response_id")
SOURCE = PreferenceSource(
    "pku_saferlhf",
    Columns(COLUMNS, COLUMNS, "prompt, response_0 and response_1 as texts, better_response_id, safer_response_id"),
    licence="CC-BY-NC-4.0",
    published={"mixture3": 26_874, "mixture4": 150_000},
)


@dataclass
class ScriptArguments(SourceArguments):
    """The defaults to edit."""

    dataset_path: str = field(
        default=FULL_SET,
        metadata={
            "help": "Hub id (mixture 3: PKU-Alignment/PKU-SafeRLHF-30K), or a local .parquet, .jsonl, .json or .arrow "
            "file, folder or glob."
        },
    )
    revision: str | None = field(
        default=None,
        metadata={
            "help": f"Branch, tag or commit on the Hub. Unset: {FULL_SET_REVISION} of {FULL_SET}, and the newest of "
            "any other set. main: the newest."
        },
    )
    output_path: str = field(default="data/pku_saferlhf", metadata={"help": "Folder to write the pairs to."})
    preference: str = field(
        default="safer", metadata={"help": "Which label decides: safer, or better (the more helpful answer)."}
    )
    sample: int | None = field(
        default=None, metadata={"help": "Draw so many pairs at random (mixture 4: 150000). Unset: all."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.revision is None and self.dataset_path.split(":")[0] == FULL_SET:
            self.revision = FULL_SET_REVISION

    def problems(self) -> list[str]:
        """Adds those of the choice."""
        found = [*super().problems(), *self.choice_problems({"preference": PREFERENCES})]
        if self.sample is not None and self.sample < 1:
            found.append(f"--sample: expected at least 1, found {self.sample}")
        return found


def to_pair(row: dict, preference: str) -> dict:
    """The answer that the label names against the other."""
    label = f"{preference}_response_id"
    chosen = number_of(row, label)
    if chosen not in (0, 1):
        raise wrong_type(row, label, "0 or 1")
    return {
        "prompt": text_of(row, "prompt"),
        "chosen": text_of(row, f"response_{chosen:.0f}"),
        "rejected": text_of(row, f"response_{1 - chosen:.0f}"),
        "source": SOURCE.name,
    }


def build(arguments: ScriptArguments) -> SourcePairs:
    """The pairs of the set, or a sample of them."""
    pairs = read_pairs(arguments, SOURCE, partial(to_pair, preference=arguments.preference))
    return pairs if arguments.sample is None else sample_pairs(pairs, arguments.sample, arguments.seed)


def main() -> None:
    run_source(ScriptArguments, build)


if __name__ == "__main__":
    sys.argv[0] = "data_prep/pku_saferlhf.py"
    run_script(main)
