"""Pairs or ratings of UltraFeedback: up to four answers of a prompt, which GPT-4 rated on four aspects and as a whole.

`--score fine_grained` compares the mean of the ratings (1 to 5, those that are "N/A" left out), `--score overall` the
overall score (1 to 10). `--pairs distinct_scores` is mixture 2, `--pairs best_vs_random` mixture 1; `all_pairs` gives
every pair with different scores. `--pairs lists` writes no pairs, but a row for each prompt with all its answers and
their ranks by that score, equal scores as equal ranks; rm.py trains on them as --list_loss says.

`--rows ratings` writes each answer with its ratings, for rm_regression.py: the overall score (1 to 10) and the four
aspects (1 to 5), null where one is "N/A". An answer with a rating that is no number from 1 to 5 is left out, and
counted. `--attribute_prefix ultrafeedback-` gives the attributes the names of the merged set of ArmoRM, where they
stand beside those of HelpSteer: the helpfulness of one is not that of the other.

The system prompts in the set were given to the models that wrote the answers, one principle to each: two answers of a
prompt were given different ones, so a pair of them has the instruction alone as its prompt.

Until 2023-12-29 some 2,600 answers had the overall score 10 where 1 was meant. Today's version is right. For an older
copy, `--drop_doubtful_tens` leaves out answers with an overall score of 10 whose ratings have a mean of 4 or less.

    python data_prep/ultrafeedback.py --pairs distinct_scores --output_path data/ultrafeedback
    python data_prep/ultrafeedback.py --pairs lists --output_path data/ultrafeedback_lists
    python data_prep/ultrafeedback.py --rows ratings --attribute_prefix ultrafeedback- --output_path data/uf_ratings
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

if not __package__:  # run as a script
    import _path  # noqa: F401

from reward_modeling.common.flags import flag, one_of
from reward_modeling.data.sources import Columns
from reward_modeling.preference_sets.answer_pairs import ANSWER_CHOICES, CHOICES_HELP, build_pairs, list_problems
from reward_modeling.preference_sets.arguments import RATINGS, RatedSourceArguments
from reward_modeling.preference_sets.ratings import SourceRatings, answer_row, rating_of, read_ratings
from reward_modeling.preference_sets.row_values import dicts_of, name_source, optional_number, text_of
from reward_modeling.preference_sets.source import PreferenceSource, SourcePairs
from reward_modeling.preference_sets.writing import run_source

SOURCE = PreferenceSource(
    "ultrafeedback",
    Columns(
        required=("instruction", "completions"),
        read=("source", "instruction", "completions"),
        row_formats="instruction as text, completions as a list of answers with annotations and scores",
    ),
    licence="MIT",
    published={"mixture1": 62_793, "mixture2": 267_416},
)
OVERALL = "overall_score"
ASPECTS = ("instruction_following", "truthfulness", "honesty", "helpfulness")
ASPECT_SCALE = (1, 5)
SCALES = {OVERALL: (1, 10), **dict.fromkeys(ASPECTS, ASPECT_SCALE)}  # in the order of ArmoRM's objectives
NO_RATING = "N/A"
HIGHEST_OVERALL = 10
LOW_FINE_GRAINED = 4  # a rating of 4 or less is at odds with an overall score of 10


@dataclass
class ScriptArguments(RatedSourceArguments):
    """The defaults to edit."""

    dataset_path: str = "openbmb/UltraFeedback"
    output_path: str = "data/ultrafeedback"
    pairs: Annotated[str, one_of(*ANSWER_CHOICES)] = flag("distinct_scores", CHOICES_HELP)
    score: Annotated[str, one_of("fine_grained", "overall")] = flag(
        "fine_grained", "fine_grained (mean of the ratings, 1-5) or overall (1-10)."
    )
    drop_doubtful_tens: bool = flag(
        False, "With --score overall or --rows ratings: leave out overall scores of 10 that the ratings speak against."
    )
    write_margin: bool = flag(False, "A margin column, the difference of the scores: the loss subtracts it.")

    def problems(self) -> list[str]:
        problems = [*list_problems(self), *self.rating_problems("pairs", "score", "write_margin")]
        if not self.drop_doubtful_tens or self.score == "overall" or self.row_kind == RATINGS:
            return problems
        return [f"--drop_doubtful_tens: expected with --score overall alone, found --score {self.score}", *problems]


def to_answers(row: dict, score: str, drop_doubtful_tens: bool) -> dict:
    """The answers of a prompt with the chosen score of each."""
    prompt, completions = text_of(row, "instruction"), dicts_of(row, "completions", "a list of completions")
    return {
        "prompt": prompt,
        # an answer that is null has no words, and is counted so
        "answers": ["" if answer.get("response") is None else text_of(answer, "response") for answer in completions],
        "scores": [_score(answer, score, drop_doubtful_tens) for answer in completions],
        "source": name_source(SOURCE.name, row.get("source")),
    }


def _score(completion: Mapping, score: str, drop_doubtful_tens: bool) -> float | None:
    if score == "fine_grained":
        return fine_grained(completion)
    return overall_score(completion, drop_doubtful_tens)


def overall_score(completion: Mapping, drop_doubtful_tens: bool) -> float | None:
    """None where there is none, or where it is a doubtful ten."""
    overall = optional_number(completion, OVERALL)
    if drop_doubtful_tens and overall == HIGHEST_OVERALL:
        ratings = fine_grained(completion)
        return None if ratings is not None and ratings <= LOW_FINE_GRAINED else overall
    return overall


def fine_grained(completion: Mapping) -> float | None:
    """The column's value; where it is null, what the column is by definition: the mean of the ratings there are."""
    value = optional_number(completion, "fine-grained_score")
    if value is not None:
        return value
    ratings = [rating for rating in aspect_ratings(completion).values() if isinstance(rating, float)]
    return sum(ratings) / len(ratings) if ratings else None


def aspect_ratings(completion: Mapping) -> dict[str, float | str | None]:
    """The rating of each aspect that is annotated, None where it is "N/A"; what is no number stays as it is.

    In the published set it is a text; a copy of it may have numbers.
    """
    annotations = completion.get("annotations")
    aspects = annotations if isinstance(annotations, dict) else {}
    return {name: _rating_in(aspect.get("Rating")) for name, aspect in aspects.items() if isinstance(aspect, dict)}


def _rating_in(said: object) -> float | str | None:
    if said is None or (isinstance(said, str) and said.strip() == NO_RATING):
        return None
    try:
        rating = math.nan if isinstance(said, bool) else float(said)
    except (TypeError, ValueError, OverflowError):
        rating = math.nan
    low, high = ASPECT_SCALE
    return rating if low <= rating <= high else f"{said!r}, which is no rating from {low} to {high}"


def to_ratings(row: dict, drop_doubtful_tens: bool) -> list[dict]:
    """The answers of a prompt, each with its ratings."""
    prompt, source = text_of(row, "instruction"), name_source(SOURCE.name, row.get("source"))
    found = []
    for answer in dicts_of(row, "completions", "a list of completions"):
        rating_of(answer, OVERALL, SCALES[OVERALL])  # or the row goes
        aspects = aspect_ratings(answer)  # an answer with a text among them is left out, and counted
        ratings = {OVERALL: overall_score(answer, drop_doubtful_tens), **{name: aspects.get(name) for name in ASPECTS}}
        text = "" if answer.get("response") is None else text_of(answer, "response")
        found.append(answer_row(prompt, text, ratings, source))
    return found


def build(arguments: ScriptArguments) -> SourcePairs | SourceRatings:
    """Read the set and make its pairs, or take its ratings."""
    if arguments.row_kind == RATINGS:
        return read_ratings(arguments, SOURCE, SCALES, to_ratings, arguments.attribute_prefix)
    return build_pairs(arguments, SOURCE, to_answers)


if __name__ == "__main__":
    run_source(ScriptArguments, build)
