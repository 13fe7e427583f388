"""Messages in their one form, which every reader of conversations makes of a row's own.

    read_messages([{"content": "Hello!", "name": None, "role": "Human"}], "user")
    # [{"role": "user", "content": "Hello!"}]

Another way to write a conversation down is to be read here: training, benchmarks and data_prep then take it alike.
Whoever changes what is read raises the `CACHE_VERSION` of `preferences` and of the benchmarks.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator

Message = dict[str, object]
# The C encoder is built once; str() for what a Parquet struct may hold beside text (timestamps).
to_json: Callable[[object], str] = json.JSONEncoder(ensure_ascii=False, default=str).encode

KNOWN_ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
# Names that others have for a role, in any case. A template renders a role that it does not know without a word.
ROLES: dict[str, str] = {
    **{name: name for name in KNOWN_ROLES},
    "human": "user",
    **dict.fromkeys(("gpt", "bot", "model", "chatgpt"), "assistant"),
    "observation": "tool",
}

_KNOWN = frozenset(KNOWN_ROLES)

# How rows may be written, as reports name it.
FROM_AND_VALUE = "messages of from and value (ShareGPT)"
PARTS = "contents as lists of parts"
ROLE_NAMES = "roles under other names (human, gpt, bot, model)"
ONE_MESSAGE = "one message object"
JSON_TEXT = "messages in JSON strings"

TOOL_CALLS = ("tool_calls", "function_call")  # beside one of these a message needs no content
THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking")
# A text that begins like messages.
_LIKE_MESSAGES = re.compile(r"""\s*(?:\[\s*)?\{\s*["'](?:role|from|content|value)["']\s*:""")
_NAMES_SPEAKER = re.compile(r"""["'](?:role|from)["']\s*:""")


class UnreadableMessages(Exception):
    """What is no conversation: which part of it (messages, JSON, message, role, content, known role, text), and what is
    there."""

    def __init__(self, part: str, found: object, number: int | None = None) -> None:
        super().__init__(part, found, number)
        self.part = part
        self.found = found
        self.number = number
        """Of the message in its list, from 0; None where there is no list."""


def read_messages(value: object, text_role: str, forms: set[str] | None = None) -> list[Message]:
    """A message list in canonical form: equal conversations give equal JSON. A text is one message of `text_role`.

    Args:
        forms: takes the names of the ways of writing that are not the usual one.

    Raises:
        UnreadableMessages: it is neither, or a message has no content that is a text, or no known role.
    """
    forms = set() if forms is None else forms
    if isinstance(value, str):
        return [{"role": text_role, "content": value}]
    if isinstance(value, dict) and value:
        forms.add(ONE_MESSAGE)
        value = [value]
    if not isinstance(value, list):
        raise UnreadableMessages("messages", value)
    messages = []
    for number, message in enumerate(value):
        if isinstance(message, dict) and len(message) == 2:  # most messages: quickly
            role, content = message.get("role"), message.get("content")
            if isinstance(content, str) and isinstance(role, str) and role in _KNOWN:
                messages.append({"role": role, "content": content})
                continue
        messages.append(_read_message(message, number, forms))
    return messages


def _read_message(message: object, number: int, forms: set[str]) -> Message:
    """Role, content, then the other keys by name. Keys that say nothing are none: Arrow gives every message of a column
    the keys of all, and templates ask whether a key is there."""
    if not isinstance(message, dict):
        raise UnreadableMessages("message", message, number)
    others = {key: value for key, value in message.items() if not says_nothing(value)}
    role_key, content_key = (
        # null where Arrow gives messages of the one form the keys of the other
        name if message.get(name) is not None or message.get(other) is None else other
        for name, other in (("role", "from"), ("content", "value"))
    )
    if (role_key, content_key) != ("role", "content"):
        forms.add(FROM_AND_VALUE)
    role, content = others.pop(role_key, None), message.get(content_key)
    others.pop(content_key, None)
    if "tool_calls" not in others and _is_call(others.get("function_call")):
        others["tool_calls"] = [{"type": "function", "function": others.pop("function_call")}]
    if not isinstance(role, str):
        raise UnreadableMessages("role", role, number)
    if not isinstance(content, str):
        content = _joined_parts(content, number, any(name in others for name in TOOL_CALLS), forms)
    known = _known_role(role, number, forms)
    if "tool_calls" in others:
        others["tool_calls"] = _with_arguments(others["tool_calls"])
    return {"role": known, "content": content, **{key: others[key] for key in sorted(others)}}


def says_nothing(value: object) -> bool:
    """Whether a value is null, NaN (a table's null), or an empty text, list or object."""
    return value is None or value != value or (isinstance(value, str | list | dict) and not value)


def _known_role(role: str, number: int, forms: set[str]) -> str:
    if role in KNOWN_ROLES:
        return role
    known = ROLES.get(role.strip().lower())
    if known is None:
        raise UnreadableMessages("known role", role, number)
    forms.add(ROLE_NAMES)
    return known


def _joined_parts(content: object, number: int, calls_tools: bool, forms: set[str]) -> str:
    """The text of a content that is a list of parts, joined as templates join them: with nothing between."""
    if content is None or content == []:
        if calls_tools:
            return ""
        raise UnreadableMessages("content", content, number)
    parts = content if isinstance(content, list) else [content]
    forms.add(PARTS)
    return "".join(_part_text(part, content, number) for part in parts)


def _part_text(part: object, content: object, number: int) -> str:
    if isinstance(part, str) and isinstance(content, list):
        return part
    if not isinstance(part, dict):
        raise UnreadableMessages("content", content, number)
    kind = part.get("type")
    if kind is not None and kind not in ("text", "input_text", "output_text"):
        raise UnreadableMessages("text", kind, number)
    if isinstance(part.get("text"), str):
        return part["text"]
    if others := sorted(key for key, value in part.items() if key not in ("type", "text") and not says_nothing(value)):
        raise UnreadableMessages("text", others[0], number)
    raise UnreadableMessages("content", content, number)


def _is_call(value: object) -> bool:
    """Whether a value names a function, as OpenAI's files did before they had lists of calls."""
    return isinstance(value, dict) and isinstance(value.get("name"), str)


def _with_arguments(calls: object) -> object:
    """Tool calls with their arguments as objects, as templates expect them: OpenAI's files have them as JSON."""
    if not isinstance(calls, list):
        return calls
    return [_with_parsed(call) for call in calls]


def _with_parsed(call: object) -> object:
    if not isinstance(call, dict):
        return call
    if isinstance(call.get("function"), dict):
        return {**call, "function": _with_parsed(call["function"])}
    arguments = call.get("arguments")
    parsed = parse_json(arguments) if isinstance(arguments, str) else None
    return {**call, "arguments": parsed} if isinstance(parsed, dict) else call


# --- texts that hold JSON ---------------------------------------------------------------------------------------------


def parse_json(text: str) -> object:
    """What a text holds as JSON, or as Python writes lists and objects down; None where it is neither."""
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return None


def messages_in_text(value: object, forms: set[str]) -> object:
    """The messages that a text holds as JSON; any other value as it is.

    Raises:
        UnreadableMessages: a text that begins like messages, and is no JSON.
    """
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{") or not _LIKE_MESSAGES.match(value):
        return value
    parsed = parse_json(value)
    if parsed is None and _NAMES_SPEAKER.search(value) and value.lstrip()[0] == "[":
        raise UnreadableMessages("JSON", value)
    if not is_message_list(parsed):
        return value
    forms.add(JSON_TEXT)
    return parsed


def is_message_list(value: object) -> bool:
    """Whether a value is a message, or a list of some that each name who speaks."""
    if isinstance(value, dict):
        return _speaker(value).lower() in ROLES
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) and _speaker(one) for one in value)


def _speaker(message: dict) -> str:
    speaker = message.get("role", message.get("from"))
    return speaker if isinstance(speaker, str) else ""


def texts_in(value: object) -> Iterator[str]:
    """Every text in a value, of messages what they say."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from texts_in(one)
    elif isinstance(value, dict):
        said = [key for key in ("content", "value", "text") if key in value] if _speaker(value) else list(value)
        for key in said:
            yield from texts_in(value[key])
    elif value is not None:
        yield to_json(value)
