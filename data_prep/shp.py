"""Stanford Human Preferences: a post of Reddit and two comments on it, of which one has more votes.

    python data_prep/shp.py --max_pairs_per_prompt 5 --output_path data/shp       # mixture 2
    python data_prep/shp.py --max_pairs_per_prompt 1 --output_path data/shp_one   # mixture 1

The label says which comment is preferred (1: A), not the order of the scores. Posts with many comments have many
pairs: `max_pairs_per_prompt` of them are drawn at random for each post.
"""

import re
from dataclasses import dataclass
from typing import Annotated

if not __package__:  # run as a script
    import _path  # noqa: F401

from reward_modeling.common.flags import NOT_NEGATIVE, flag
from reward_modeling.data.preferences import RowDropped
from reward_modeling.data.report import DropReason
from reward_modeling.data.sources import Columns
from reward_modeling.preference_sets.arguments import SourceArguments
from reward_modeling.preference_sets.row_values import number_of, text_of, wrong_type
from reward_modeling.preference_sets.source import PreferenceSource, SourcePairs, limit_pairs_per_prompt, read_pairs
from reward_modeling.preference_sets.writing import run_source

COLUMNS = ("post_id", "domain", "history", "human_ref_A", "human_ref_B", "labels", "score_ratio", "score_A", "score_B")
SOURCE = PreferenceSource(
    "shp",
    Columns(
        COLUMNS, COLUMNS, "a post (history), two comments (human_ref_A, human_ref_B), labels 1 where A is preferred"
    ),
    licence="see the card: comments of Reddit",
    published={"mixture1": 55_916, "mixture2": 109_526},
)


@dataclass
class ScriptArguments(SourceArguments):
    """The defaults to edit."""

    dataset_path: str = flag(
        "stanfordnlp/SHP", "Hub id; or a local file, folder or glob, such as 'SHP/*/train.json' of a clone."
    )
    output_path: str = "data/shp"
    min_score_ratio: Annotated[float, NOT_NEGATIVE] = flag(
        2.0, "Keep pairs whose score_ratio is above it; exactly it is too little. 0: all pairs."
    )
    max_pairs_per_prompt: Annotated[int, NOT_NEGATIVE] = flag(
        5, "Of each post: 5 in mixture 2, 1 in mixture 1. 0: all of them."
    )


def to_pair(row: dict, min_score_ratio: float) -> dict:
    """The preferred comment of a post against the other."""
    label = number_of(row, "labels")
    if label not in (0, 1):
        raise wrong_type(row, "labels", "0 or 1")
    ratio = number_of(row, "score_ratio")
    if not ratio > min_score_ratio:  # so that NaN goes too
        raise RowDropped(DropReason.SMALL_SCORE_RATIO, f"score_ratio {ratio:g}")
    chosen, rejected = ("A", "B") if label == 1 else ("B", "A")
    return {
        "prompt": text_of(row, "history"),
        "chosen": text_of(row, f"human_ref_{chosen}"),
        "rejected": text_of(row, f"human_ref_{rejected}"),
        "chosen_score": number_of(row, f"score_{chosen}"),
        "rejected_score": number_of(row, f"score_{rejected}"),
        "source": f"shp/{re.sub('_(train|validation|test)$', '', text_of(row, 'domain'))}",
        "group": text_of(row, "post_id"),
    }


def build(arguments: ScriptArguments) -> SourcePairs:
    """The pairs of the set, limited for each post."""
    pairs = read_pairs(arguments, SOURCE, to_pair)
    if not arguments.max_pairs_per_prompt:
        return pairs
    return limit_pairs_per_prompt(pairs, arguments.max_pairs_per_prompt, arguments.seed)


if __name__ == "__main__":
    run_source(ScriptArguments, build)
