"""PKU-SafeRLHF: a question and two answers, with one label for the more helpful and one for the safer of them.

    python data_prep/pku_saferlhf.py --sample 150000 --output_path data/pku                               # mixture 4
    python data_prep/pku_saferlhf.py --dataset_path PKU-Alignment/PKU-SafeRLHF-30K --output_path data/pku_30k   # 3

The labels may disagree; the mixtures add the set for safety, so "safer" is the default. Today's PKU-SafeRLHF is a
smaller set than the one that mixture 4 was drawn from: unless --revision says otherwise, its revision v0 is read.
"""

from dataclasses import dataclass
from typing import Annotated

if not __package__:  # run as a script
    import _path  # noqa: F401

from reward_modeling.common.flags import at_least, flag, one_of
from reward_modeling.data.sources import Columns
from reward_modeling.preference_sets.arguments import SourceArguments
from reward_modeling.preference_sets.row_values import number_of, text_of, wrong_type
from reward_modeling.preference_sets.source import PreferenceSource, SourcePairs, read_pairs, sample_pairs
from reward_modeling.preference_sets.writing import run_source

FULL_SET, FULL_SET_REVISION = "PKU-Alignment/PKU-SafeRLHF", "v0"
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

    dataset_path: str = flag(
        FULL_SET,
        "Hub id (mixture 3: PKU-Alignment/PKU-SafeRLHF-30K), or a local .parquet, .jsonl, .json or .arrow "
        "file, folder or glob.",
    )
    revision: str | None = flag(
        None,
        f"Branch, tag or commit on the Hub. Unset: {FULL_SET_REVISION} of {FULL_SET}, and the newest of "
        "any other set. main: the newest.",
    )
    output_path: str = "data/pku_saferlhf"
    preference: Annotated[str, one_of("safer", "better")] = flag(
        "safer", "Which label decides: safer, or better (the more helpful answer)."
    )
    sample: Annotated[int | None, at_least(1)] = flag(
        None, "Draw so many pairs at random (mixture 4: 150000). Unset: all."
    )

    def __post_init__(self):
        super().__post_init__()
        if self.revision is None and self.dataset_path.split(":")[0] == FULL_SET:
            self.revision = FULL_SET_REVISION


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
    pairs = read_pairs(arguments, SOURCE, to_pair)
    return pairs if arguments.sample is None else sample_pairs(pairs, arguments.sample, arguments.seed)


if __name__ == "__main__":
    run_source(ScriptArguments, build)
