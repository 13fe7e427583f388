"""Pairs of HelpSteer: up to four answers of a prompt, each rated by people on five attributes, 0 to 4.

`--score` names the attributes whose mean is compared: helpfulness and correctness in the published mixtures.
`--pairs distinct_scores` is mixture 2, `--pairs best_vs_random` mixture 1; `all_pairs` gives every pair with different
scores, and `lists` a row for each prompt with all its answers and their ranks. A row is an answer; answers belong
together when their prompts are the same to the letter.

    python data_prep/helpsteer.py --pairs distinct_scores --output_path data/helpsteer
    python data_prep/helpsteer.py --score helpfulness --pairs best_vs_random --output_path data/helpsteer_helpfulness
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

if not __package__:  # run as a script
    import _path  # noqa: F401

from reward_modeling.common.flags import flag, one_of
from reward_modeling.data.sources import Columns
from reward_modeling.preference_sets.answer_pairs import ANSWER_CHOICES, CHOICES_HELP, build_pairs, list_problems
from reward_modeling.preference_sets.arguments import SourceArguments
from reward_modeling.preference_sets.row_values import number_of, text_of
from reward_modeling.preference_sets.source import PreferenceSource, SourcePairs
from reward_modeling.preference_sets.writing import run_source

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
COLUMNS = Columns(
    required=("prompt", "response"),  # and the attributes that are compared
    read=("prompt", "response", *ATTRIBUTES),
    row_formats="prompt and response as texts, the attributes of --score as numbers",
)
SOURCE = PreferenceSource("helpsteer", COLUMNS, licence="CC-BY-4.0", published={"mixture1": 8_206, "mixture2": 21_576})


@dataclass
class ScriptArguments(SourceArguments):
    """The defaults to edit."""

    dataset_path: str = "nvidia/HelpSteer"
    output_path: str = "data/helpsteer"
    pairs: Annotated[str, one_of(*ANSWER_CHOICES)] = flag("distinct_scores", CHOICES_HELP)
    score: str = flag("helpfulness,correctness", f"The mean of these attributes; of {', '.join(ATTRIBUTES)}.")
    write_margin: bool = flag(False, "A margin column, the difference of the scores: the loss subtracts it.")

    def problems(self) -> list[str]:
        if set(self.attributes) <= set(ATTRIBUTES) and len(set(self.attributes)) == len(self.attributes):
            return list_problems(self)
        problem = f"--score: expected some of {', '.join(ATTRIBUTES)}, with commas, found {self.score!r}"
        return [problem, *list_problems(self)]

    @property
    def attributes(self) -> tuple[str, ...]:
        """The attributes that `score` names, in the order of `ATTRIBUTES` where they are ones."""
        names = (name.strip() for name in self.score.split(","))
        return tuple(sorted(names, key=lambda name: ATTRIBUTES.index(name) if name in ATTRIBUTES else -1))


def to_answers(
    row: dict, attributes: tuple[str, ...], name: str = SOURCE.name, read_prompt: Callable[[str], str | list] = str
) -> dict:
    """One answer, with the mean of some attributes."""
    scores = [number_of(row, attribute) for attribute in attributes]
    return {
        "prompt": read_prompt(text_of(row, "prompt")),
        "answers": [text_of(row, "response")],
        "scores": [sum(scores) / len(scores)],
        "source": name,
    }


def build(arguments: ScriptArguments, source: PreferenceSource = SOURCE, convert: Callable = to_answers) -> SourcePairs:
    """The pairs of the set, which must have the columns of its scores."""
    columns = replace(source.columns, required=("prompt", "response", *arguments.attributes))
    return build_pairs(arguments, replace(source, columns=columns), convert)


if __name__ == "__main__":
    run_source(ScriptArguments, build)
