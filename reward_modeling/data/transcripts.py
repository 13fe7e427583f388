"""Dialogues written as one text, the way of HH-RLHF, into messages.

    parse_transcript("\\n\\nHuman: Hello!\\n\\nAssistant: Hi.")
    # [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hi."}]

Pure functions: no files, no tokenizer.
"""

import re
from collections.abc import Iterable

ROLES = {"Human": "user", "Assistant": "assistant"}
# A turn begins the text, or follows a blank line: the same words elsewhere are what somebody said.
_BEGINS = re.compile(r"\s*Human:")
_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")


def parse_transcript(text: str, *, keep_empty_answer: bool = False) -> list[dict] | None:
    """The messages of a transcript; None where `text` is none: plain text stays plain text.

    A transcript begins (after white space) with "Human:" and has at least one turn that begins with
    "\\n\\nAssistant:". Contents lose the white space around them. Turns without words go, and neighbouring turns of one
    speaker become one with a blank line between: chat templates refuse two in a row.

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
    if not _BEGINS.match(text):  # most texts: quickly
        return None
    before, *pieces = _TURN.split(text)
    speakers, contents = pieces[::2], pieces[1::2]
    if before or speakers[:1] != ["Human"] or "Assistant" not in speakers:
        return None
    return [
        {"role": ROLES[speaker], "content": content.strip()}
        for speaker, content in zip(speakers, contents, strict=True)
    ]


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
