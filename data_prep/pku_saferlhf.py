"""PKU-SafeRLHF: a question and two answers, with one label for the more helpful and one for the safer of them.

    python data_prep/pku_saferlhf.py --sample 150000 --output_path data/pku                               # mixture 4
    python data_prep/pku_saferlhf.py --dataset_path PKU-Alignment/PKU-SafeRLHF-30K --output_path data/pku_30k   # 3

The labels may disagree; the mixtures add the set for safety, so "safer" is the default. `--preference both` takes both:
where they name one answer, it is chosen. Where they do not, each label counts with its weight, and the pair gets the
soft label that says the same as one pair for each label, of these weights:

    chosen_probability of the safer answer = safer_weight, that of the other = 1 - safer_weight

Chosen is the likelier one. With the default of one half such a pair is a tie, which rm.py trains on as --ties says
(drop leaves it out). Two weighted pairs that say the opposite of each other would be dropped as contradictions.

Today's PKU-SafeRLHF is a smaller set than the one that mixture 4 was drawn from: unless --revision says otherwise, its
revision v0 is read.
"""

from dataclasses import dataclass
from typing import Annotated

if not __package__:  # run as a script
    import _path  # noqa: F401

from reward_modeling.common.flags import at_least, flag, from_to, one_of
from reward_modeling.data.sources import Columns
from reward_modeling.preference_sets.arguments import SourceArguments
from reward_modeling.preference_sets.row_values import number_of, text_of, wrong_type
from reward_modeling.preference_sets.source import PreferenceSource, SourcePairs, read_pairs, sample_pairs
from reward_modeling.preference_sets.writing import run_source

EQUAL_WEIGHT = 0.5
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
    preference: Annotated[str, one_of("safer", "better", "both")] = flag(
        "safer", "Which label decides: safer, better (the more helpful answer), or both."
    )
    safer_weight: Annotated[float, from_to(0, 1)] = flag(
        EQUAL_WEIGHT,
        "With --preference both: the weight of the safer label where they disagree; of the other, 1 minus it.",
    )
    sample: Annotated[int | None, at_least(1)] = flag(
        None, "Draw so many pairs at random (mixture 4: 150000). Unset: all."
    )

    def __post_init__(self):
        super().__post_init__()
        if self.revision is None and self.dataset_path.split(":")[0] == FULL_SET:
            self.revision = FULL_SET_REVISION

    def problems(self) -> list[str]:
        if self.preference == "both" or self.safer_weight == EQUAL_WEIGHT:
            return []
        return [f"--safer_weight: expected with --preference both alone, found --preference {self.preference}"]


def to_pair(row: dict, preference: str, safer_weight: float) -> dict:
    """The answer that the label names against the other; of two labels that disagree, the one of greater weight."""
    labels = ("safer", "better") if preference == "both" else (preference,)
    named = [_named_answer(row, f"{label}_response_id") for label in labels]
    agree = len(set(named)) == 1
    chosen = named[0] if agree or safer_weight >= EQUAL_WEIGHT else named[1]
    return {
        "prompt": text_of(row, "prompt"),
        "chosen": text_of(row, f"response_{chosen}"),
        "rejected": text_of(row, f"response_{1 - chosen}"),
        "chosen_probability": None if agree else max(safer_weight, 1 - safer_weight),
        "source": SOURCE.name,
    }


def _named_answer(row: dict, label: str) -> int:
    answer = number_of(row, label)
    if answer not in (0, 1):
        raise wrong_type(row, label, "0 or 1")
    return int(answer)


def build(arguments: ScriptArguments) -> SourcePairs:
    """The pairs of the set, or a sample of them."""
    pairs = read_pairs(arguments, SOURCE, to_pair)
    return pairs if arguments.sample is None else sample_pairs(pairs, arguments.sample, arguments.seed)


if __name__ == "__main__":
    run_source(ScriptArguments, build)
