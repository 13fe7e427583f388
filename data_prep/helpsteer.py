"""Pairs or ratings of HelpSteer: up to four answers of a prompt, each rated by people on five attributes, 0 to 4.

`--score` names the attributes whose mean is compared: helpfulness and correctness in the published mixtures.
`--pairs distinct_scores` is mixture 2, `--pairs best_vs_random` mixture 1; `all_pairs` gives every pair with different
scores, and `lists` a row for each prompt with all its answers and their ranks. A row is an answer; answers belong
together when their prompts are the same to the letter. `--rows ratings` writes no pairs, but each answer with its five
ratings, for rm_regression.py.

    python data_prep/helpsteer.py --pairs distinct_scores --output_path data/helpsteer
    python data_prep/helpsteer.py --score helpfulness --pairs best_vs_random --output_path data/helpsteer_helpfulness
    python data_prep/helpsteer.py --rows ratings --output_path data/helpsteer_ratings
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

if not __package__:  # run as a script
    import _path  # noqa: F401

from reward_modeling.common.flags import flag, one_of
from reward_modeling.data.sources import Columns
from reward_modeling.preference_sets.answer_pairs import ANSWER_CHOICES, CHOICES_HELP, build_pairs, list_problems
from reward_modeling.preference_sets.arguments import RATINGS, RatedSourceArguments
from reward_modeling.preference_sets.ratings import SourceRatings, answer_row, rating_of, read_ratings
from reward_modeling.preference_sets.row_values import number_of, text_of
from reward_modeling.preference_sets.source import PreferenceSource, SourcePairs
from reward_modeling.preference_sets.writing import run_source

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
SCALE = (0, 4)
ReadPrompt = Callable[[str], str | list]
COLUMNS = Columns(
    required=("prompt", "response"),  # and the attributes that are compared
    read=("prompt", "response", *ATTRIBUTES),
    row_formats="prompt and response as texts, the attributes of --score as numbers",
)
SOURCE = PreferenceSource("helpsteer", COLUMNS, licence="CC-BY-4.0", published={"mixture1": 8_206, "mixture2": 21_576})


@dataclass
class ScriptArguments(RatedSourceArguments):
    """The defaults to edit."""

    dataset_path: str = "nvidia/HelpSteer"
    output_path: str = "data/helpsteer"
    pairs: Annotated[str, one_of(*ANSWER_CHOICES)] = flag("distinct_scores", CHOICES_HELP)
    score: str = flag("helpfulness,correctness", f"The mean of these attributes; of {', '.join(ATTRIBUTES)}.")
    write_margin: bool = flag(False, "A margin column, the difference of the scores: the loss subtracts it.")

    def problems(self) -> list[str]:
        problems = [*list_problems(self), *self.rating_problems("pairs", "score", "write_margin")]
        if set(self.attributes) <= set(ATTRIBUTES) and len(set(self.attributes)) == len(self.attributes):
            return problems
        return [f"--score: expected some of {', '.join(ATTRIBUTES)}, with commas, found {self.score!r}", *problems]

    @property
    def attributes(self) -> tuple[str, ...]:
        """The attributes that `score` names, in the order of `ATTRIBUTES` where they are ones."""
        names = (name.strip() for name in self.score.split(","))
        return tuple(sorted(names, key=lambda name: ATTRIBUTES.index(name) if name in ATTRIBUTES else -1))


def as_text(prompt: str) -> str:
    """A prompt as it stands."""
    return prompt


def to_answers(
    row: dict, attributes: tuple[str, ...], name: str = SOURCE.name, read_prompt: ReadPrompt = as_text
) -> dict:
    """One answer, with the mean of some attributes."""
    scores = [number_of(row, attribute) for attribute in attributes]
    return {
        "prompt": read_prompt(text_of(row, "prompt")),
        "answers": [text_of(row, "response")],
        "scores": [sum(scores) / len(scores)],
        "source": name,
    }


def to_ratings(row: dict, name: str = SOURCE.name, read_prompt: ReadPrompt = as_text) -> dict:
    """One answer with its ratings."""
    ratings = {attribute: rating_of(row, attribute, SCALE) for attribute in ATTRIBUTES}
    return answer_row(read_prompt(text_of(row, "prompt")), text_of(row, "response"), ratings, name)


def build(
    arguments: ScriptArguments, source: PreferenceSource = SOURCE, read_prompt: ReadPrompt = as_text
) -> SourcePairs | SourceRatings:
    """The pairs of the set, which must have the columns of its scores, or its ratings."""
    reading = {"name": source.name, "read_prompt": read_prompt}
    if arguments.row_kind == RATINGS:
        scales = dict.fromkeys(ATTRIBUTES, SCALE)
        return read_ratings(arguments, source, scales, partial(to_ratings, **reading), arguments.attribute_prefix)
    columns = replace(source.columns, required=("prompt", "response", *arguments.attributes))
    return build_pairs(arguments, replace(source, columns=columns), partial(to_answers, **reading))


if __name__ == "__main__":
    run_source(ScriptArguments, build)
