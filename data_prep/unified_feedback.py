"""LLM-Blender's Unified-Feedback: eight sets in one format, two conversations with a rating each. It is mixture 5.

    python data_prep/unified_feedback.py --output_path data/unified_feedback
    python data_prep/unified_feedback.py --config_name Nectar --output_path data/nectar_pairs

The order of A and B says nothing: the conversation with the higher rating is chosen, and equal ratings (the ties of
the arena are 0.5 and 0.5, "both bad" is 0 and 0) are dropped.
"""

from dataclasses import dataclass
from typing import Annotated

if not __package__:  # run as a script
    import _path  # noqa: F401

from reward_modeling.common.flags import flag, one_of
from reward_modeling.data.preferences import RowDropped
from reward_modeling.data.report import DropReason
from reward_modeling.data.sources import Columns, HubOptions
from reward_modeling.preference_sets.answer_choice import TOLERANCE
from reward_modeling.preference_sets.arguments import SourceArguments
from reward_modeling.preference_sets.row_values import name_source, number_of
from reward_modeling.preference_sets.source import PreferenceSource, SourcePairs, read_pairs
from reward_modeling.preference_sets.writing import run_source

CONFIG_NAMES = (
    "all",
    "Nectar",
    "UltraFeedback",
    "chatbot_arena_conversations",
    "hh-rlhf",
    "summarize_from_feedback",
    "synthetic-instruct-gptj-pairwise",
    "ultrafeedback-binarized-preferences-cleaned",
    "webgpt_comparisons",
)
COLUMNS = ("conv_A", "conv_B", "conv_A_rating", "conv_B_rating")
SOURCE = PreferenceSource(
    "unified_feedback",
    Columns(COLUMNS, (*COLUMNS, "source"), "conv_A and conv_B as message lists, conv_A_rating and conv_B_rating"),
    licence="MIT",
    published={"mixture5": 886_000},
)


@dataclass
class ScriptArguments(SourceArguments):
    """The defaults to edit."""

    dataset_path: str = "llm-blender/Unified-Feedback"
    split: str = flag("train", "train or val.")
    output_path: str = "data/unified_feedback"
    config_name: Annotated[str, one_of(*CONFIG_NAMES)] = flag(
        "all", f"Which of its sets: {', '.join(CONFIG_NAMES)}. Local files are read as they are."
    )


def to_pair(row: dict) -> dict:
    """The conversation with the higher rating against the other."""
    rating_a, rating_b = number_of(row, "conv_A_rating"), number_of(row, "conv_B_rating")
    if abs(rating_a - rating_b) <= TOLERANCE:  # some are means, as float32: thirds differ in the last digit
        raise RowDropped(DropReason.EQUAL_SCORES, f"both rated {rating_a:g}")
    chosen, rejected = ("A", "B") if rating_a > rating_b else ("B", "A")
    return {
        "chosen": row[f"conv_{chosen}"],
        "rejected": row[f"conv_{rejected}"],
        "chosen_score": max(rating_a, rating_b),
        "rejected_score": min(rating_a, rating_b),
        "source": name_source("unified_feedback", row.get("source")),
    }


def build(arguments: ScriptArguments) -> SourcePairs:
    """The pairs of the set."""
    return read_pairs(arguments, SOURCE, to_pair, hub=HubOptions(config=arguments.config_name))


if __name__ == "__main__":
    run_source(ScriptArguments, build)
