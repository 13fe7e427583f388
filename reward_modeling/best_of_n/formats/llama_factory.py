"""LLaMA-Factory's ShareGPT rows, for preferences and for supervised fine-tuning, and the entry of dataset_info.json.

Its reader (src/llamafactory/data/converter.py) wants turns of user or tool and of the assistant one after the other,
and leaves out, with a warning, a row in which they are not: such a row is not written here, and counted.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from reward_modeling.best_of_n.answers import ScoredPrompt
from reward_modeling.best_of_n.formats.base import NotWritable, Row, RowFormat, options_of, with_shared_turns
from reward_modeling.best_of_n.selection import Selected
from reward_modeling.data.messages import Message, to_json

ASKS = {"user": "human", "tool": "observation", "function": "observation", "ipython": "observation"}
SYSTEM = ("system", "developer")
KNOWN = frozenset(("role", "content", "tool_calls", "name", "tool_call_id"))


class LlamaFactory(RowFormat):
    """System message and tools have columns of their own; chat_template_kwargs have no place."""

    def pair(self, prompt: ScoredPrompt, selected: Selected) -> Row:
        before, messages = with_shared_turns(prompt, selected.chosen, selected.rejected)
        system, turns = _turns(before)
        sides = dict(zip(("chosen", "rejected"), messages, strict=True))
        if any(len(messages) > 1 for messages in sides.values()):
            raise NotWritable("answers of several messages")
        row = {"conversations": turns, **{name: _turn(messages[0]) for name, messages in sides.items()}}
        _check_order([*turns, row["chosen"]])
        return row | {"system": system}

    def answer(self, prompt: ScoredPrompt, selected: Selected) -> Row:
        system, turns = _turns(prompt.messages)
        turns += [_turn(message) for message in selected.chosen.messages]
        _check_order(turns)
        return {"conversations": turns, "system": system}

    def template_options(self, prompt: ScoredPrompt) -> Row:
        tools, kwargs = options_of(prompt)
        if kwargs:
            raise NotWritable(f"chat_template_kwargs ({', '.join(kwargs)})")
        return {"tools": to_json([_function(tool) for tool in tools]) if tools else ""}

    def beside(self, name: str, *, pairs: bool) -> Mapping[str, Any]:
        columns = {"messages": "conversations", "system": "system", "tools": "tools"}
        entry: dict[str, Any] = {"file_name": name, "formatting": "sharegpt"}
        if pairs:
            entry["ranking"] = True
            columns |= {"chosen": "chosen", "rejected": "rejected"}
        return entry | {"columns": columns}


def _turns(messages: Sequence[Message] | str) -> tuple[str, list[Row]]:
    """The system message, and the turns behind it."""
    if isinstance(messages, str):
        raise NotWritable("a plain text")
    system = ""
    if messages and messages[0]["role"] in SYSTEM:
        system, messages = messages[0]["content"], messages[1:]
    return system, [_turn(message) for message in messages]


def _turn(message: Message) -> Row:
    if others := sorted(message.keys() - KNOWN):
        raise NotWritable(f"{', '.join(others)} of a message")
    role, content = message["role"], message["content"]
    if role in ASKS:
        return {"from": ASKS[role], "value": content}
    if role != "assistant":
        raise NotWritable(f"a {role} message behind the first")
    if not message.get("tool_calls"):
        return {"from": "gpt", "value": content}
    if content.strip():
        raise NotWritable("words beside a call of a tool")
    calls = [_function(call) for call in message["tool_calls"]]
    return {"from": "function_call", "value": to_json(calls[0] if len(calls) == 1 else calls)}


def _function(value: Any) -> Any:
    """What OpenAI's form has under `function`: of a tool its description, of a call its name and arguments."""
    inner = value.get("function") if isinstance(value, dict) else None
    return inner if isinstance(inner, dict) else value


def _check_order(turns: Sequence[Row]) -> None:
    """The user or a tool, and the assistant, one after the other; the last one is the assistant's answer."""
    for place, turn in enumerate(turns):
        if (turn["from"] in ASKS.values()) != (place % 2 == 0):
            raise NotWritable("two turns in a row of one side")
