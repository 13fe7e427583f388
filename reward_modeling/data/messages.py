"""Messages in their one form, which every reader of conversations makes of a row's own.

    read_messages([{"content": "Hello!", "name": None, "role": "user"}], "user")
    # [{"role": "user", "content": "Hello!"}]

Another way to write a conversation down is to be read in `_read_message`: training, benchmarks and data_prep then take
it alike. Whoever changes what is read raises the `CACHE_VERSION` of `preferences` and of the benchmarks.
"""

import json
from collections.abc import Callable

Message = dict[str, object]
# The C encoder is built once; str() for what a Parquet struct may hold beside text (timestamps).
to_json: Callable[[object], str] = json.JSONEncoder(ensure_ascii=False, default=str).encode


class UnreadableMessages(Exception):
    """What is no conversation: which part of it (messages, message, role, content), and what stands in its place."""

    def __init__(self, part: str, found: object, number: int | None = None) -> None:
        super().__init__(part, found, number)
        self.part = part
        self.found = found
        self.number = number
        """Of the message in its list, from 0; None where there is no list."""


def read_messages(value: object, role: str) -> list[Message]:
    """A message list in canonical form: equal conversations give equal JSON. A text is one message of `role`.

    Raises:
        UnreadableMessages: it is neither, or a message has no role or content that is a text.
    """
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, list):
        raise UnreadableMessages("messages", value)
    return [_read_message(message, number) for number, message in enumerate(value)]


def _read_message(message: object, number: int) -> Message:
    """Role, content, then the other keys by name.

    Null values go: Arrow gives every message of a column the keys of all.
    """
    if not isinstance(message, dict):
        raise UnreadableMessages("message", message, number)
    role, content = message.get("role"), message.get("content")
    for part, value in (("role", role), ("content", content)):
        if not isinstance(value, str):
            raise UnreadableMessages(part, value, number)
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
