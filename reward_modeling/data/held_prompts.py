"""A prompt beside conversations that may have it already: in their first turns, or written in another way.

holds_prompt(messages, "<|user|>How far is the moon?")   # True: conversations with a user's turn are whole
is_rendering("<|user|>How far is the moon?", messages)   # True: the prompt says nothing that these do not say
"""

import re

from reward_modeling.data.messages import Message, is_message_list, parse_json, texts_in

# What renderings write around messages: <|im_start|>, [INST], and the words of "### Instruction:" and "Human:".
_MARK = re.compile(r"<[^<>\n]{1,40}>|\[/?[A-Z_ ]{1,20}\]")
_HEADINGS = "system user assistant human gpt bot model chatgpt instruction input response question answer prompt"
HEADINGS = frozenset(_HEADINGS.split())


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
