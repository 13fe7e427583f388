"""Pairs of HelpSteer2: two answers of a prompt, each rated by people on five attributes, 0 to 4.

The choices are those of helpsteer.py. Here a prompt may be a conversation: one text, in which the user speaks first and
each later turn begins with a line "<extra_id_1>Assistant" or "<extra_id_1>User". It becomes messages, without the turns
that have no words. Two turns in a row of one speaker drop the row; the answer is the assistant's turn after the prompt.

    python data_prep/helpsteer2.py --score helpfulness --output_path data/helpsteer2
"""

import re
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

if not __package__:  # run as a script
    import _path  # noqa: F401

from data_prep import helpsteer
from reward_modeling.data.preferences import RowDropped
from reward_modeling.data.report import DropReason
from reward_modeling.preference_sets.source import PreferenceSource, SourcePairs
from reward_modeling.preference_sets.writing import run_source

SOURCE = PreferenceSource("helpsteer2", helpsteer.COLUMNS, licence="CC-BY-4.0")
_TURN = re.compile(r"(?:\A|\n)<extra_id_1>(User|Assistant)(?=\n|\Z)")
_ROLES = {"User": "user", "Assistant": "assistant"}


@dataclass
class ScriptArguments(helpsteer.ScriptArguments):
    """The defaults to edit."""

    dataset_path: str = "nvidia/HelpSteer2"
    output_path: str = "data/helpsteer2"


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


def build(arguments: ScriptArguments) -> SourcePairs:
    """Read the set and make its pairs."""
    convert = partial(helpsteer.to_answers, name=SOURCE.name, read_prompt=prompt_messages)
    return helpsteer.build(arguments, SOURCE, convert)


if __name__ == "__main__":
    run_source(ScriptArguments, build)
