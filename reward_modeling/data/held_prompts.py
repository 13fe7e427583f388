"""A prompt beside conversations that may have it already: in their first turns, or written in another way.

holds_prompt(messages, "<|user|>How far is the moon?")   # True: conversations with a user's turn are whole
is_rendering("<|user|>How far is the moon?", messages)   # True: the prompt says nothing that these do not say
"""

import re
from itertools import zip_longest

from reward_modeling.data.messages import (
    THOUGHT_KEYS,
    TOOL_CALLS,
    Message,
    is_message_list,
    parse_json,
    texts_in,
    to_json,
)
from reward_modeling.data.transcripts import is_of_hh_rlhf, turns_of

# What renderings write around messages: <|im_start|>, [INST], and the words of "### Instruction:" and "Human:".
_MARK = re.compile(r"<[^<>\n]{1,40}>|\[/?[A-Z_ ]{1,20}\]")
_HEADINGS = "system user assistant human gpt bot model chatgpt instruction input response question answer prompt"
HEADINGS = frozenset(_HEADINGS.split())
# How a rendered conversation begins.
_RENDERED = re.compile(
    r"\s*(?:<s>\s*)?(?:#{2,3}\s*(?:human|user|system|assistant|instruction)\s*:|\[INST\]|<\|[a-z_]+\|>|<start_of_turn>|"
    r"(?:human|user)\s*:.*\bassistant\s*:)",
    re.IGNORECASE | re.DOTALL,
)
# What templates write of a message. Ids, timestamps and the like change no prompt.
WRITTEN_KEYS = ("role", "content", *TOOL_CALLS, "tool_call_id", "name", *THOUGHT_KEYS)
SHOWN_LENGTH = 45
SHOWN_BEFORE = 15  # of it, the characters before the first that differs


def holds_prompt(messages: list[Message], prompt: str | list[Message]) -> bool:
    """Whether a conversation with turns of the user's already has the row's prompt in it.

    A message list has to be found in it; of a prompt that is a text, the row may hold another rendering, so there a
    conversation that begins with a user or system turn is taken as whole.
    """
    if isinstance(prompt, str):
        return messages[0]["role"] in ("user", "system")
    length = len(prompt)
    return any(same_messages(messages[start : start + length], prompt) for start in range(len(messages) - length + 1))


def shared_turns(prompt: list[Message], sides: tuple[list[Message], ...]) -> int:
    """How many of the prompt's last messages stand again at the beginning of every side."""
    lengths = range(min(len(prompt), *map(len, sides)), 0, -1)
    return next((n for n in lengths if all(same_messages(prompt[-n:], side[:n]) for side in sides)), 0)


def same_messages(some: list[Message], others: list[Message]) -> bool:
    """Whether messages say the same but for the white space around them."""
    return len(some) == len(others) and all(
        one["role"] == other["role"] and one["content"].strip() == other["content"].strip()
        for one, other in zip(some, others, strict=True)
    )


def first_difference(chosen: list[Message], rejected: list[Message]) -> str:
    """The first message in which two prompts differ to a template, and how; "" where there is none.

    >>> hello, bye = {"role": "user", "content": "Hello!", "id": "u0"}, {"role": "user", "content": "Bye!"}
    >>> first_difference([hello, bye], [{**hello, "id": "v0"}, hello])
    "message 2, content: 'Bye!' in chosen, 'Hello!' in rejected"
    >>> first_difference([hello], [])
    "message 1: chosen alone has one (user: 'Hello!')"
    """
    for number, (one, other) in enumerate(zip_longest(chosen, rejected), 1):
        if one is None or other is None:
            side, message = ("rejected", other) if one is None else ("chosen", one)
            return f"message {number}: {side} alone has one ({message['role']}: {message['content'][:SHOWN_LENGTH]!r})"
        if one == other:  # most messages: quickly
            continue
        for key in WRITTEN_KEYS:
            said = [value.strip() if isinstance(value := message.get(key), str) else value for message in (one, other)]
            if said[0] != said[1]:
                shown = _around_difference(*(value if isinstance(value, str) else to_json(value) for value in said))
                return f"message {number}, {key}: {shown[0]!r} in chosen, {shown[1]!r} in rejected"
    return ""


def _around_difference(one: str, other: str) -> list[str]:
    shorter = min(len(one), len(other))
    differs = next((place for place in range(shorter) if one[place] != other[place]), shorter)
    start = max(0, differs - SHOWN_BEFORE)
    return [text[start : start + SHOWN_LENGTH] for text in (one, other)]


def looks_rendered(text: str) -> bool:
    """Whether a text begins as chat templates write conversations: "### Human:", "[INST]", "<|im_start|>".

    >>> looks_rendered("<|im_start|>user"), looks_rendered("USER: Hi ASSISTANT:"), looks_rendered("User: a word")
    (True, True, False)
    """
    return _RENDERED.match(text) is not None


def is_rendering(prompt: str, messages: list[Message]) -> bool:
    """Whether a text says nothing beside the messages but who speaks."""
    contents = [message["content"].strip() for message in messages]
    if prompt.strip() in contents:
        return True
    parsed = parse_json(prompt) if prompt.lstrip()[:1] in ("[", "{") else None
    rest = "\n".join(texts_in(parsed)) if is_message_list(parsed) else prompt
    for content in sorted(filter(None, contents), key=len, reverse=True):
        rest = rest.replace(content, "\n")
    return HEADINGS.issuperset(re.findall(r"\w+", _MARK.sub(" ", rest).lower()))


def are_transcripts(prompt: str | list | dict | None, chosen: str, rejected: str) -> bool:
    """Whether two texts are whole dialogues. Beside a prompt of other words, dialogues that are not written as those of
    HH-RLHF are answers: to somebody who asked for a dialogue.

    >>> sides = "User: Hi\\nAssistant: Ho", "User: Hi\\nAssistant: Hey"
    >>> are_transcripts(None, *sides), are_transcripts("Hi", *sides), are_transcripts("Write a dialogue.", *sides)
    (True, True, False)
    """
    sides = (turns_of(chosen), turns_of(rejected))
    if None in sides:
        return False
    if prompt is None or (is_of_hh_rlhf(chosen) and is_of_hh_rlhf(rejected)):
        return True
    asked = prompt if isinstance(prompt, str) else "\n".join(texts_in(prompt))
    return all(is_rendering(asked, turns[:-1]) for turns in sides)
