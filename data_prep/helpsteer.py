"""Pairs of HelpSteer: up to four answers of a prompt, each rated by people on five attributes, 0 to 4.

`--score` names the attributes whose mean is compared: helpfulness and correctness in the published mixtures.
`--pairs distinct_scores` is mixture 2, `--pairs best_vs_random` mixture 1; `all_pairs` gives every pair with different
scores. A row is an answer; answers belong together when their prompts are the same to the letter.

    python data_prep/helpsteer.py --pairs distinct_scores --output_path data/helpsteer
    python data_prep/helpsteer.py --score helpfulness --pairs best_vs_random --output_path data/helpsteer_helpfulness
"""

import sys
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reward_modeling.common.errors import run_script
from reward_modeling.data.sources import Columns
from reward_modeling.preference_sets.answer_pairs import PAIR_CHOICES, pairs_from_answers
from reward_modeling.preference_sets.source import (
    PreferenceSource,
    SourceArguments,
    SourcePairs,
    number_of,
    read_answers,
    text_of,
)
from reward_modeling.preference_sets.writing import run_source

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
COLUMNS = Columns(
    required=("prompt", "response"),  # and the attributes that are compared, see `source_for`
    read=("prompt", "response", *ATTRIBUTES),
    row_formats="prompt and response as texts, the attributes of --score as numbers",
)
SOURCE = PreferenceSource("helpsteer", COLUMNS, licence="CC-BY-4.0", published={"mixture1": 8_206, "mixture2": 21_576})


@dataclass
class ScriptArguments(SourceArguments):
    """The defaults to edit."""

    dataset_path: str = field(
        default="nvidia/HelpSteer",
        metadata={"help": "Hub id, or a local .parquet, .jsonl, .json or .arrow file, folder or glob."},
    )
    output_path: str = field(
        default="data/helpsteer", metadata={"help": "Folder to write the pairs and their manifest.json to."}
    )
    pairs: str = field(default="distinct_scores", metadata={"help": f"{', '.join(PAIR_CHOICES)}."})
    score: str = field(
        default="helpfulness,correctness",
        metadata={"help": f"The mean of these attributes; of {', '.join(ATTRIBUTES)}."},
    )
    write_margin: bool = field(
        default=False, metadata={"help": "A margin column, the difference of the scores: the loss subtracts it."}
    )

    def problems(self) -> list[str]:
        found = super().problems() + self.choice_problems({"pairs": PAIR_CHOICES})
        if not set(self.attributes) <= set(ATTRIBUTES) or len(set(self.attributes)) < len(self.attributes):
            found.append(f"--score: expected some of {', '.join(ATTRIBUTES)}, with commas, found {self.score!r}")
        return found

    @property
    def attributes(self) -> tuple[str, ...]:
        """The attributes that `score` names, in the order of `ATTRIBUTES` where they are ones."""
        names = (name.strip() for name in self.score.split(","))
        return tuple(sorted(names, key=lambda name: ATTRIBUTES.index(name) if name in ATTRIBUTES else -1))


def to_answers(row: dict, *, attributes: tuple[str, ...]) -> dict:
    """One answer, with the mean of some attributes."""
    scores = [number_of(row, name) for name in attributes]
    return {
        "prompt": text_of(row, "prompt"),
        "answers": [text_of(row, "response")],
        "scores": [sum(scores) / len(scores)],
        "source": SOURCE.name,
    }


def source_for(source: PreferenceSource, attributes: tuple[str, ...]) -> PreferenceSource:
    """A source that must have the columns of its scores."""
    return replace(source, columns=replace(source.columns, required=("prompt", "response", *attributes)))


def build(arguments: ScriptArguments) -> SourcePairs:
    """Read the set and make its pairs."""
    source = source_for(SOURCE, arguments.attributes)
    return pairs_from_answers(
        read_answers(arguments, source, partial(to_answers, attributes=arguments.attributes)),
        arguments.pairs,
        arguments.seed,
        num_proc=arguments.num_proc,
        write_margin=arguments.write_margin,
    )


def main() -> None:
    """From flags to files."""
    run_source(ScriptArguments, build)


if __name__ == "__main__":
    sys.argv[0] = "data_prep/helpsteer.py"
    run_script(main)
