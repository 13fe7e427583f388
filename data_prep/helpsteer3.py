"""Nvidia's HelpSteer3: a conversation, two answers, and how much people prefer one, from -3 to 3.

    python data_prep/helpsteer3.py --output_path data/helpsteer3
    python data_prep/helpsteer3.py --min_strength 2 --write_margin true --output_path data/helpsteer3_clear
    python data_prep/helpsteer3.py --min_strength 0 --soft_labels true --output_path data/helpsteer3_soft

Below 0 the first answer is preferred, above 0 the second; 0 is no preference, which is dropped, or with
`--min_strength 0` kept as a tie. The column `strength` is how much the chosen answer is preferred: 1 slightly better,
2 better, 3 much better; rm.py reads it with --loss scaled and with --loss_margin strength. The set has no score of an
answer: chosen_score is the strength too and rejected_score 0, so that only their difference means something.
`write_margin` writes the strength as the margin, which rm.py subtracts in the loss.

`soft_labels` adds `chosen_probability`, the share of the annotators who prefer the chosen answer. One without a
preference counts half:

    chosen_probability = (annotators for chosen + annotators for neither / 2) / annotators

How much each of them prefers it does not enter the share: that is in `strength`. Annotations that the set's makers left
out as outliers are not counted, so that the shares lie nearer to 1 than those of all who were asked.

The set rates no answer by itself: there is no `--rows ratings` here, as helpsteer.py and helpsteer2.py have it.
"""

from dataclasses import dataclass, replace
from typing import Annotated

if not __package__:  # run as a script
    import _path  # noqa: F401

from reward_modeling.common.flags import flag, from_to
from reward_modeling.data.labels import FIRST, NEITHER, SECOND, TIE, share_of_votes
from reward_modeling.data.preferences import RowDropped
from reward_modeling.data.report import DropReason
from reward_modeling.data.sources import Columns, HubOptions
from reward_modeling.preference_sets.arguments import SourceArguments
from reward_modeling.preference_sets.row_values import (
    dicts_of,
    name_source,
    optional_number,
    preference_of,
    text_of,
    wrong_type,
)
from reward_modeling.preference_sets.source import PreferenceSource, SourcePairs, read_pairs
from reward_modeling.preference_sets.writing import run_source

CONFIG_NAME = "preference"  # the others hold feedback and edits
STRONGEST = 3
COLUMNS = ("context", "response1", "response2", "overall_preference")
ANNOTATORS = "individual_preference"
SOURCE = PreferenceSource(
    "helpsteer3",
    Columns(COLUMNS, (*COLUMNS, "domain"), "context as messages, response1 and response2, overall_preference -3 to 3"),
    licence="CC-BY-4.0",
)


@dataclass
class ScriptArguments(SourceArguments):
    """The defaults to edit."""

    dataset_path: str = flag(
        "nvidia/HelpSteer3", "Hub id, or a local file, folder or glob, such as preference/train.jsonl.gz of a clone."
    )
    split: str = flag("train", "train or validation.")
    output_path: str = "data/helpsteer3"
    min_strength: Annotated[int, from_to(0, STRONGEST)] = flag(
        1, "Drop weaker preferences: 1 slightly better, 2 better, 3 much better. 0 keeps no preference, as a tie."
    )
    soft_labels: bool = flag(False, "Write chosen_probability, the share of the annotators who prefer the chosen one.")
    write_margin: bool = flag(False, "Write the strength as margin, which rm.py subtracts in the loss.")


def to_pair(row: dict, min_strength: int, write_margin: bool, soft_labels: bool) -> dict:
    """The preferred answer against the other; of a tie the first against the second."""
    preference = preference_of(row, "overall_preference", STRONGEST)
    strength = abs(preference)
    if strength < min_strength:
        reason = DropReason.FILTERED if strength else DropReason.EQUAL_SCORES
        raise RowDropped(reason, f"overall_preference {preference}")
    if not isinstance(row["context"], list) or not row["context"]:
        raise wrong_type(row, "context", "messages")
    chosen, rejected = (1, 2) if preference <= 0 else (2, 1)
    probability = share_for(row, chosen) if soft_labels else None if strength else TIE
    outvoted = soft_labels and strength and probability < TIE  # the strength is of the other answer
    domain = row.get("domain")
    return {
        "prompt": row["context"],
        "chosen": text_of(row, f"response{chosen}"),
        "rejected": text_of(row, f"response{rejected}"),
        "chosen_probability": probability,
        "strength": None if outvoted else strength,
        "chosen_score": strength,
        "rejected_score": 0.0,
        "margin": strength if write_margin else None,
        "source": name_source("helpsteer3", domain.lower() if isinstance(domain, str) else None),
    }


def share_for(row: dict, answer: int) -> float:
    """The share of a row's annotators who prefer an answer, 1 or 2; those without a preference count half."""
    annotators = dicts_of(row, ANNOTATORS, "a list of annotators' preferences")
    scored = [annotator for annotator in annotators if optional_number(annotator, "score") is not None]
    if not scored:
        raise RowDropped(DropReason.NO_SCORE, f"{ANNOTATORS} has no score")
    scores = [preference_of(annotator, "score", STRONGEST) for annotator in scored]
    towards = -1 if answer == 1 else 1
    return share_of_votes([NEITHER if not score else FIRST if score * towards > 0 else SECOND for score in scores])


def build(arguments: ScriptArguments) -> SourcePairs:
    """The pairs of the set, which must have the annotators' scores where labels are made of them."""
    needed = (ANNOTATORS,) if arguments.soft_labels else ()
    required, read = ((*names, *needed) for names in (SOURCE.columns.required, SOURCE.columns.read))
    source = replace(SOURCE, columns=replace(SOURCE.columns, required=required, read=read))
    return read_pairs(arguments, source, to_pair, hub=HubOptions(config=CONFIG_NAME))


if __name__ == "__main__":
    run_source(ScriptArguments, build)
