"""Pairs of Nectar: seven answers of a prompt, ranked by GPT-4; rank 1 is the best.

The score of an answer is its rank with the sign turned. `--pairs best_vs_random` (the default) gives a pair for each
prompt; `distinct_scores` and `all_pairs` give up to 21, some 3.8 million in all: ranks are no grades, and neighbouring
ones are often as good as each other. `--pairs lists` writes no pairs, but a row for each prompt with all its answers
and their ranks, some 183,000 in all, which rm.py trains on as --list_loss says.

A prompt is a transcript, "Human: ... Assistant: ...", that ends where the answer begins; neighbouring turns of one
speaker become one.

    python data_prep/nectar.py --output_path data/nectar
    python data_prep/nectar.py --pairs lists --output_path data/nectar_lists
"""

from dataclasses import dataclass
from typing import Annotated

if not __package__:  # run as a script
    import _path  # noqa: F401

from reward_modeling.common.flags import flag, one_of
from reward_modeling.data.preferences import RowDropped
from reward_modeling.data.report import DropReason
from reward_modeling.data.sources import Columns
from reward_modeling.data.transcripts import parse_transcript
from reward_modeling.preference_sets.answer_pairs import ANSWER_CHOICES, CHOICES_HELP, build_pairs, list_problems
from reward_modeling.preference_sets.arguments import SourceArguments
from reward_modeling.preference_sets.row_values import dicts_of, name_source, optional_number, text_of
from reward_modeling.preference_sets.source import PreferenceSource, SourcePairs
from reward_modeling.preference_sets.writing import run_source

SOURCE = PreferenceSource(
    "nectar",
    Columns(
        required=("prompt", "answers"),
        read=("prompt", "answers", "source"),
        row_formats='prompt as a transcript ("Human: ... Assistant:"), answers as a list of {answer, model, rank}',
    ),
    licence="Apache-2.0",
)


@dataclass
class ScriptArguments(SourceArguments):
    """The defaults to edit."""

    dataset_path: str = "berkeley-nest/Nectar"
    output_path: str = "data/nectar"
    pairs: Annotated[str, one_of(*ANSWER_CHOICES)] = flag("best_vs_random", CHOICES_HELP)
    write_margin: bool = flag(False, "A margin column, the difference of the ranks: the loss subtracts it.")

    def problems(self) -> list[str]:
        return list_problems(self)


def to_answers(row: dict) -> dict:
    """The answers of a prompt; the score of each is its rank with the sign turned."""
    messages = parse_transcript(text_of(row, "prompt"))
    if messages is None:
        raise RowDropped(DropReason.NOT_A_TRANSCRIPT, row["prompt"])
    if not messages or messages[-1]["role"] != "user":
        raise RowDropped(DropReason.SAME_ROLE_TWICE, f"the prompt does not end with the user: {row['prompt'][-100:]}")
    answers = dicts_of(row, "answers", "a list of answers")
    return {
        "prompt": messages,
        # an answer that is null has no words, and is counted so
        "answers": ["" if answer.get("answer") is None else text_of(answer, "answer") for answer in answers],
        "scores": [_score(answer) for answer in answers],
        "source": _source(row),
    }


def _score(answer: dict) -> float | None:
    rank = optional_number(answer, "rank")
    return None if rank is None else -rank


def _source(row: dict) -> str:
    """The set's name, and the sets that the prompt was found in."""
    names = row.get("source")
    names = names if isinstance(names, list) else [names]
    subset = "+".join(name for name in names if isinstance(name, str))
    return name_source(SOURCE.name, subset)


def build(arguments: ScriptArguments) -> SourcePairs:
    """Read the set and make its pairs."""
    return build_pairs(arguments, SOURCE, to_answers)


if __name__ == "__main__":
    run_source(ScriptArguments, build)
