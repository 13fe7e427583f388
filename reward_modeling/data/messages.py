"""Messages in their one form, which every reader of conversations makes of a row's own.

    read_messages([{"content": "Hello!", "name": None, "role": "user"}], "user")
    # [{"role": "user", "content": "Hello!"}]

Another way to write a conversation down is to be read in `_read_message`: training, benchmarks and data_prep then take
it alike. Whoever changes what is read raises the `CACHE_VERSION` of `preferences` and of the benchmarks.
"""

import json
from collections.abc import Callable, Mapping

Message = dict[str, object]
# The C encoder is built once; str() for what a Parquet struct may hold beside text (timestamps).
to_json: Callable[[object], str] = json.JSONEncoder(ensure_ascii=False, default=str).encode


class UnreadableMessages(Exception):
    """What is no conversation: which part of it (messages, message, role, content, known role), and what is there."""

    def __init__(self, part: str, found: object, number: int | None = None) -> None:
        super().__init__(part, found, number)
        self.part = part
        self.found = found
        self.number = number
        """Of the message in its list, from 0; None where there is no list."""


def read_messages(value: object, text_role: str, roles: Mapping[str, str] | None = None) -> list[Message]:
    """A message list in canonical form: equal conversations give equal JSON. A text is one message of `text_role`.

    Args:
        roles: what each known role is called here; without it every role stands as it is.

    Raises:
        UnreadableMessages: it is neither, or a message has no role or content that is a text, or no known role.
    """
    if isinstance(value, str):
        return [{"role": text_role, "content": value}]
    if not isinstance(value, list):
        raise UnreadableMessages("messages", value)
    return [_read_message(message, number, roles) for number, message in enumerate(value)]


def _read_message(message: object, number: int, roles: Mapping[str, str] | None) -> Message:
    """Role, content, then the other keys by name.

    Null values go: Arrow gives every message of a column the keys of all.
    """
    if not isinstance(message, dict):
        raise UnreadableMessages("message", message, number)
    role, content = message.get("role"), message.get("content")
    for part, value in (("role", role), ("content", content)):
        if not isinstance(value, str):
            raise UnreadableMessages(part, value, number)
    if roles is not None:
        if role not in roles:
            raise UnreadableMessages("known role", role, number)
        role = roles[role]
    canonical: Message = {"role": role, "content": content}
    if len(message) > 2:
        others = sorted(message.keys() - {"role", "content"})
        canonical.update((key, message[key]) for key in others if message[key] is not None)
    return canonical


def holds_prompt(messages: list[Message], prompt: str | list[Message]) -> bool:
    """Whether a conversation with turns of the user's already has the row's prompt in it.

    A message list has to be found in it; of a prompt that is a text, the row may hold another rendering, so there a
    conversation that begins with a user or system turn is taken as whole.
    """
    if isinstance(prompt, str):
        return messages[0]["role"] in ("user", "system")
    length = len(prompt)
    return any(messages[start : start + length] == prompt for start in range(len(messages) - length + 1))
