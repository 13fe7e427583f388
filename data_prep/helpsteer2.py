"""Pairs or ratings of HelpSteer2: two answers of a prompt, which people rated on five attributes, 0 to 4, and compared.

The choices are those of helpsteer.py. Here a prompt may be a conversation: one text, in which the user speaks first and
each later turn begins with a line "<extra_id_1>Assistant" or "<extra_id_1>User". It becomes messages, without the turns
that have no words. Two turns in a row of one speaker drop the row; the answer is the assistant's turn after the prompt.

    python data_prep/helpsteer2.py --score helpfulness --output_path data/helpsteer2
    python data_prep/helpsteer2.py --rows ratings --output_path data/helpsteer2_ratings
    python data_prep/helpsteer2.py --preference --output_path data/helpsteer2_preference

`--preference` reads the set's other part, HelpSteer2-Preference: which of the two answers people prefer, and how much
(`preference_strength`, below 0 the first, above 0 the second). Its size, 0 to 3, becomes the column `strength`, which
rm.py reads with --loss scaled and with --loss_margin strength. No preference, 0, is a tie: a pair with a
`chosen_probability` of one half, which rm.py trains on as --ties says. The part is one file for all splits, whose rows
say which they are of; those of another split than `--split` are counted as left out.
"""

import re
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

if not __package__:  # run as a script
    import _path  # noqa: F401

from data_prep import helpsteer
from reward_modeling.common.flags import changed_flags, flag
from reward_modeling.data.labels import TIE
from reward_modeling.data.preferences import RowDropped
from reward_modeling.data.report import DropReason
from reward_modeling.data.sources import Columns, HubOptions
from reward_modeling.preference_sets.ratings import SourceRatings
from reward_modeling.preference_sets.row_values import preference_of, text_of
from reward_modeling.preference_sets.source import PreferenceSource, SourcePairs, read_pairs
from reward_modeling.preference_sets.writing import run_source

SOURCE = PreferenceSource("helpsteer2", helpsteer.COLUMNS, licence="CC-BY-4.0")
PREFERENCE_FOLDER = "preference"
PREFERENCE_COLUMNS = Columns(
    required=("prompt", "response_1", "response_2", "preference_strength"),
    read=("prompt", "response_1", "response_2", "preference_strength", "split"),
    row_formats="prompt, response_1 and response_2 as texts, preference_strength -3 to 3",
)
STRONGEST = 3
SPLIT_NAMES = {"validation": "val"}  # as the rows of the preferences name them
_TURN = re.compile(r"(?:\A|\n)<extra_id_1>(User|Assistant)(?=\n|\Z)")
_ROLES = {"User": "user", "Assistant": "assistant"}


@dataclass
class ScriptArguments(helpsteer.ScriptArguments):
    """The defaults to edit."""

    dataset_path: str = "nvidia/HelpSteer2"
    output_path: str = "data/helpsteer2"
    preference: bool = flag(False, "Read which answer is preferred and how much, in place of the ratings.")

    def problems(self) -> list[str]:
        given = [f"--{name} {getattr(self, name)}" for name in changed_flags(self, ["rows", "pairs", "score"])]
        if not self.preference or not given:
            return super().problems()
        others = "--rows, --pairs and --score"
        return [f"--preference: expected without {others}, which are for ratings, found {' '.join(given)}"]


def prompt_messages(prompt: str) -> list[dict]:
    """
    >>> prompt_messages("Hello!\\n<extra_id_1>Assistant\\nHi.\\n<extra_id_1>User\\nBye.")[1:]
    [{'role': 'assistant', 'content': 'Hi.'}, {'role': 'user', 'content': 'Bye.'}]

    Raises:
        RowDropped: the speakers do not take turns.
    """
    first, *pieces = _TURN.split(prompt)
    if not pieces:
        return [{"role": "user", "content": prompt}]
    turns = [("User", first), *zip(pieces[::2], pieces[1::2], strict=True)]
    messages = [{"role": _ROLES[speaker], "content": words.strip()} for speaker, words in turns if words.strip()]
    speakers = [*(message["role"] for message in messages), "assistant"]  # the answer is the next turn
    if any(speaker == following for speaker, following in pairwise(speakers)):
        raise RowDropped(DropReason.SAME_ROLE_TWICE, f"the turns of the prompt, then the answer: {', '.join(speakers)}")
    return messages


def to_pair(row: dict, split: str, write_margin: bool) -> dict:
    """The preferred answer against the other; of a tie the first against the second."""
    if (found := row.get("split")) not in (None, split, SPLIT_NAMES.get(split)):
        raise RowDropped(DropReason.FILTERED, f"split {found}")
    preference = preference_of(row, "preference_strength", STRONGEST)
    chosen, rejected = (1, 2) if preference <= 0 else (2, 1)
    return {
        "prompt": prompt_messages(text_of(row, "prompt")),
        "chosen": text_of(row, f"response_{chosen}"),
        "rejected": text_of(row, f"response_{rejected}"),
        "chosen_probability": None if preference else TIE,
        "strength": abs(preference),
        "margin": abs(preference) if write_margin else None,
        "source": SOURCE.name,
    }


def build_preferences(arguments: ScriptArguments) -> SourcePairs:
    """The pairs of the preferences, which the Hub knows as a folder with the one split "train"."""
    path = Path(arguments.dataset_path).expanduser() / PREFERENCE_FOLDER
    reading = replace(arguments, dataset_path=str(path) if path.is_dir() else arguments.dataset_path, split="train")
    pairs = read_pairs(
        reading,
        replace(SOURCE, columns=PREFERENCE_COLUMNS),
        partial(to_pair, split=arguments.split),
        hub=HubOptions(data_dir=PREFERENCE_FOLDER),
    )
    return replace(pairs, options={**arguments.options(), "split": arguments.split})


def build(arguments: ScriptArguments) -> SourcePairs | SourceRatings:
    """Read the set and make its pairs, or take its ratings."""
    if arguments.preference:
        return build_preferences(arguments)
    return helpsteer.build(arguments, SOURCE, prompt_messages)


if __name__ == "__main__":
    run_source(ScriptArguments, build)
