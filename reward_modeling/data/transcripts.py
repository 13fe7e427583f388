"""Dialogues written as one text, the way of HH-RLHF, into messages.

    parse_transcript("\\n\\nHuman: Hello!\\n\\nAssistant: Hi.")
    # [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hi."}]

Pure functions: no files, no tokenizer.
"""

import re
from collections.abc import Iterable
from itertools import pairwise

ROLES = {"Human": "user", "User": "user", "Assistant": "assistant"}
_BEGINS = re.compile(r"\s*(Human|User):")
# A turn begins the text, or follows a blank line: the same words elsewhere are what somebody said.
_AFTER_BLANK_LINE, _AFTER_LINE_BREAK = (
    {asker: re.compile(rf"(?:\A\s*|(?:\r?\n){{{breaks}}} ?)({asker}|Assistant):") for asker in ("Human", "User")}
    for breaks in (2, 1)
)


def parse_transcript(text: str, *, keep_empty_answer: bool = False) -> list[dict] | None:
    """The messages of a transcript; None where `text` is none: plain text stays plain text.

    A transcript begins (after white space) with "Human:" and has at least one turn that begins with
    "\\n\\nAssistant:". Contents lose the white space around them. Turns without words go, and neighbouring turns of one
    speaker become one with a blank line between: chat templates refuse two in a row. Line breaks may be "\\r\\n", and
    one space may follow them. "User:" may stand for "Human:", and single line breaks for blank lines: then the turns
    have to alternate.

    Args:
        keep_empty_answer: what a last "Assistant:" without words is. False: an invitation to answer, as a prompt ends
            in one; it goes. True: an answer of no words; it stays, as a message with the content "".

    >>> parse_transcript("Human: Hello!\\n\\nAssistant:")
    [{'role': 'user', 'content': 'Hello!'}]
    >>> parse_transcript("Human: Hello!\\n\\nAssistant:", keep_empty_answer=True)
    [{'role': 'user', 'content': 'Hello!'}, {'role': 'assistant', 'content': ''}]
    """
    turns = turns_of(text)
    if turns is None:
        return None
    last = len(turns) - 1 if keep_empty_answer and turns[-1]["role"] == "assistant" else None
    return merge_turns(turn for number, turn in enumerate(turns) if turn["content"] or number == last)


def turns_of(text: str) -> list[dict] | None:
    """Every turn of a transcript as it stands, those without words and two in a row of one speaker too; None where
    `text` is no transcript (see `parse_transcript`).

    >>> turns_of("Human: Hello!\\n\\nHuman:\\n\\nAssistant: Hi.")
    [{'role': 'user', 'content': 'Hello!'}, {'role': 'user', 'content': ''}, {'role': 'assistant', 'content': 'Hi.'}]
    """
    begins = _BEGINS.match(text)
    if begins is None:  # most texts: quickly
        return None
    asker = begins[1]
    turns = _split(text, _AFTER_BLANK_LINE[asker])
    if turns is not None and asker == "Human":
        return turns
    turns = turns or _split(text, _AFTER_LINE_BREAK[asker])
    return turns if turns and _alternate(turns) else None


def is_of_hh_rlhf(text: str) -> bool:
    """Whether a text is a transcript with "Human:" and blank lines, which nobody writes by chance.

    >>> is_of_hh_rlhf("Human: Hello!\\n\\nAssistant: Hi."), is_of_hh_rlhf("Human: Hello!\\nAssistant: Hi.")
    (True, False)
    """
    begins = _BEGINS.match(text)
    return begins is not None and begins[1] == "Human" and _split(text, _AFTER_BLANK_LINE["Human"]) is not None


def invites_answer(text: str) -> bool:
    """Whether a text is a transcript that goes on in an answer. One that is not written as those of HH-RLHF has to end
    with "Assistant:"; else it may be a dialogue that somebody asks about.

    >>> invites_answer("User: Hello!\\nAssistant:"), invites_answer("User: Hello!\\nAssistant: Hi.")
    (True, False)
    """
    return is_of_hh_rlhf(text) or (text.rstrip().endswith("Assistant:") and turns_of(text) is not None)


def _split(text: str, turn: re.Pattern) -> list[dict] | None:
    """The turns of a text that begins with one; None where the assistant has none."""
    _, *pieces = turn.split(text)
    speakers, contents = pieces[::2], pieces[1::2]
    if "Assistant" not in speakers:
        return None
    return [
        {"role": ROLES[speaker], "content": content.strip()}
        for speaker, content in zip(speakers, contents, strict=True)
    ]


def _alternate(turns: list[dict]) -> bool:
    return all(turn["role"] != following["role"] for turn, following in pairwise(turns))


def merge_turns(messages: Iterable[dict]) -> list[dict]:
    """Neighbouring messages of one role as one, with a blank line between what they say.

    >>> merge_turns([{"role": "user", "content": "Hello!"}, {"role": "user", "content": "Anybody?"}])
    [{'role': 'user', 'content': 'Hello!\\n\\nAnybody?'}]
    """
    merged: list[dict] = []
    for message in messages:
        if merged and merged[-1]["role"] == message["role"]:
            said = [content for content in (merged[-1]["content"], message["content"]) if content]
            merged[-1] = {**merged[-1], "content": "\n\n".join(said)}
        else:
            merged.append(message)
    return merged
