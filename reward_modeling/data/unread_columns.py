"""Columns of a row, and keys of its messages, that nobody reads: which of them say something, and which look like a
part of the conversation."""

import re
from collections.abc import Iterable, Mapping

from reward_modeling.data.messages import THOUGHT_KEYS, Message, is_message_list, says_nothing, texts_in

OF_MESSAGES = " (of messages)"  # a key of messages among the names of columns
READ_OF_MESSAGES = frozenset(("role", "content", "from", "name", "tool_calls", "tool_call_id", *THOUGHT_KEYS))
FEWEST_WORDS = 3  # of a text that may be a question
LONG_ENOUGH = 10  # characters of a text that is looked for inside others; a shorter one has to be one of them
# Words of a name, in the singular.
_CONVERSATION = """prompt question input instruction query request context history conversation dialog dialogue message
turn trajectory trajectories system developer tool function passage document article post persona scenario problem image
video audio"""
_LABEL = "label preference preferred winner better best weight flipped"
_LABEL_ID = "preferred winner better best"  # whose id says which answer it is
# Words that make a name one of what is known *of* a conversation: behind the others, and those of counts anywhere.
_COUNT = "num count n number"
_ABOUT = """id idx index uuid hash md5 sha sha1 sha256 length len token char count num number n type kind category topic
source origin lang language date time timestamp url link name model version split embedding score rating logprob domain
task difficulty quality"""
CONVERSATION, LABEL, LABEL_ID, ABOUT, COUNT = (
    frozenset(words.split()) for words in (_CONVERSATION, _LABEL, _LABEL_ID, _ABOUT, _COUNT)
)


def unread_columns(row: Mapping[str, object], read: Iterable[str], texts: Iterable[str]) -> list[str]:
    """Names of the columns outside `read` that say something which the `texts` of the pair do not say."""
    read, texts = set(read), [text.strip() for text in texts]
    return [
        name
        for name, value in row.items()
        if name not in read and not _says_nothing(value) and not _is_contained(name, value, texts)
    ]


def unread_message_keys(messages: Iterable[Message]) -> list[str]:
    """Names of the keys of messages that say something and that nobody reads, as names of columns (`OF_MESSAGES`)."""
    found: dict[str, None] = {}
    for message in messages:
        if len(message) > 2:  # few messages have more than a role and a content
            keys = unread_columns(message, READ_OF_MESSAGES, [message["content"]])
            found |= dict.fromkeys(key + OF_MESSAGES for key in keys if not _is_about(key))
    return list(found)


def _says_nothing(value: object) -> bool:
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, list):
        return all(map(_says_nothing, value))
    return all(map(_says_nothing, value.values())) if isinstance(value, dict) else says_nothing(value)


def _is_contained(name: str, value: object, texts: list[str]) -> bool:
    """Whether the texts of a value all stand in the pair already; a label or a number never does."""
    if isinstance(value, bool | int | float) or looks_like_label(name):
        return False
    said = [text.strip() for text in texts_in(value)]
    return all(
        any(text == other or (len(text) >= LONG_ENOUGH and text in other) for other in texts) for text in said if text
    )


def is_suspect(name: str, value: object) -> bool:
    """Whether an unread column may be a part of the conversation, or of the label."""
    return looks_like_label(name) or (looks_like_conversation(name) and not isinstance(value, bool | int | float))


def may_be_question(name: str, value: object) -> bool:
    """Whether a column of any name, in a row without a prompt, may be what the answers answer."""
    if _is_about(name) or not (isinstance(value, str) or is_message_list(value)):
        return False
    return any(len(text.split()) >= FEWEST_WORDS for text in texts_in(value))


def looks_like_conversation(name: str) -> bool:
    """Whether a column of this name may be a part of the conversation.

    The last of the words that say so decides.

    >>> list(filter(looks_like_conversation, ("question", "system_prompt", "inputText", "prompt_id", "split")))
    ['question', 'system_prompt', 'inputText']
    >>> list(filter(looks_like_conversation, ("task_prompt", "prompt_task", "sourceDocument", "num_turns")))
    ['task_prompt', 'sourceDocument']
    """
    words = _words(name)
    deciding = [word for word in words if word in CONVERSATION or word in ABOUT]
    return bool(deciding) and deciding[-1] in CONVERSATION and COUNT.isdisjoint(words)


def looks_like_label(name: str) -> bool:
    """Whether a column of this name may say which answer is preferred, or how much a row counts.

    >>> list(filter(looks_like_label, ("label", "sample_weight", "better_id", "label_source")))
    ['label', 'sample_weight', 'better_id']
    """
    words = {*_words(name)}
    return bool(words & LABEL) and not words & (ABOUT - {"id"} if words & LABEL_ID else ABOUT)


def _is_about(name: str) -> bool:
    """Whether a column of this name tells something of the row, as an id does."""
    words = _words(name)
    return bool(words) and (words[-1] in ABOUT or not COUNT.isdisjoint(words))


def _words(name: str) -> list[str]:
    """The words of a name in their order, each as it stands and then in the singular."""
    words = re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower())
    return [word for whole in words for word in (whole, whole.removesuffix("s"))]
