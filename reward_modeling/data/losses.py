"""Whether everything that was said in a conversation is in what the chat template made of it.

    find_losses(messages, text)  # Losses(answer="", message="", thoughts=0): all is there

A template may drop a message, or print what follows `</think>` alone. Rows of which the model would see a part only
must not be trained on as if it saw them whole.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from reward_modeling.data.messages import THOUGHT_KEYS
from reward_modeling.data.rendering import MOVED_ROLES

# What closes a thought, and what stands after it is what was said. Templates leave out thoughts of earlier turns.
THOUGHT_ENDS = ("</think>", "</thinking>", "</thought>", "[/THINK]", "</reasoning>")
THOUGHT_MARKS = (*THOUGHT_ENDS, "<think>", "<thinking>", "<thought>", "[THINK]", "<reasoning>")
EXCERPT = 60  # characters of what is lost that a report shows


class Losses(NamedTuple):
    """What of a conversation is not in its rendering: empty and 0 where all is there."""

    answer: str = ""  # what the answer loses, in words
    message: str = ""  # which message vanishes, in words
    thoughts: int = 0  # thoughts of earlier turns, which templates leave out on purpose


NOTHING_LOST = Losses()


def find_losses(messages: Sequence[dict], text: str, answers: int = 1) -> Losses:
    """Look for the content of every message in a rendering, in order; white space at both ends does not count.

    Args:
        answers: how many of the last messages are the answer.
    """
    place = 0
    for message in messages:
        content = message.get("content")
        if isinstance(content, str) and content:
            content = content.strip()
            place = text.find(content, place)
            if place < 0 or len(message) > 2:
                return _look_closely(messages, text, answers)
            place += len(content)
        elif len(message) > 2:
            return _look_closely(messages, text, answers)
    return NOTHING_LOST


def unwritten_tools(options: dict[str, Any], text: str) -> list[str]:
    """Names of the tools that the template was given and did not write."""
    tools = options.get("tools")
    names = (_function_name(tool) for tool in tools) if isinstance(tools, list) else ()
    return [name for name in names if name and not _is_named(name, text)]


def _look_closely(messages: Sequence[dict], text: str, answers: int) -> Losses:
    """The same without white space, for templates that trim lines, and for what they write as JSON."""
    squeezed = _squeeze(text)
    place = before = thoughts = 0
    answer = vanished = ""
    for number, message in enumerate(messages):
        is_answer = number >= len(messages) - answers
        if missing := next(_missing_parts(message, text, squeezed), None):
            if missing[0] != "thought":
                loss = f"{message['role']}'s {missing[0]} {missing[1]!r}"
                answer, vanished = (loss, vanished) if is_answer else (answer, loss)
            elif is_answer:
                answer = f"thought {_excerpt(missing[1])}"
            else:
                thoughts += 1
        content = message.get("content")
        end = _find(content, squeezed, place)
        if end < 0 and message["role"] in MOVED_ROLES and _find(content, squeezed, 0) >= 0:
            continue
        said = _after_thought(message)
        said_end = -1 if said is None else _find(said, squeezed, place)
        # the whole of it may stand in a later turn, where the same was said
        if said_end >= 0 and (end < 0 or said_end <= end - len(_squeeze(content))):
            end = said_end
            if _is_blank_thought(content, said):
                pass
            elif is_answer:
                answer = answer or _excerpt(content)
            else:
                thoughts += 1
        elif end < 0 and number and (end := _find(content, squeezed, before)) >= 0:
            # what was taken for the message before was this one
            vanished = vanished or _vanished(messages[number - 1])
        elif end < 0 and is_answer:
            answer = answer or _excerpt(content)
        elif end < 0:
            vanished = vanished or _vanished(message)
        if end >= 0:
            before, place = place, end
    return Losses(answer, vanished, thoughts)


def _missing_parts(message: dict, text: str, squeezed: str) -> Iterator[tuple[str, str]]:
    """What a message says beside its content and is not in the rendering: (thought or tool call, what)."""
    if len(message) <= 2:
        return
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        name = _function_name(call)
        if name and not _is_named(name, text):
            yield "tool call", name
    for key in THOUGHT_KEYS:
        thought = message.get(key)
        if isinstance(thought, str) and thought.strip() and _find(thought, squeezed, 0) < 0:
            yield "thought", thought


def _is_named(name: str, text: str) -> bool:
    """Whether a name stands in a text as a word of its own."""
    return name in text and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None


def _function_name(call: object) -> str:
    function = call.get("function", call) if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else ""


def _after_thought(message: dict) -> str | None:
    """What an assistant says after its thought; None where there is none."""
    content = message.get("content")
    if message["role"] == "assistant" and isinstance(content, str):
        for mark in THOUGHT_ENDS:
            if mark in content:
                return content.rpartition(mark)[2]
    return None


def _is_blank_thought(content: str, said: str) -> bool:
    """Whether nothing but marks stands before what was said."""
    thought = content[: len(content) - len(said)]
    for mark in THOUGHT_MARKS:
        thought = thought.replace(mark, "")
    return not thought.strip()


def _find(content: object, squeezed: str, start: int) -> int:
    """Where the first rendering of a content ends in a text without white space; -1 where it does not stand there."""
    if not isinstance(content, str) or not content.strip():
        return start
    plain = _squeeze(content)
    place = squeezed.find(plain, start)
    if place >= 0:
        return place + len(plain)
    for ascii_alone in (False, True):
        written = _squeeze(json.dumps(content, ensure_ascii=ascii_alone)[1:-1].replace("\\n", "").replace("\\t", ""))
        place = squeezed.replace("\\n", "").replace("\\t", "").find(written, start)
        if place >= 0:
            return place + len(written)
    return -1


def _squeeze(text: str) -> str:
    return "".join(text.split())


def _excerpt(content: object) -> str:
    words = " ".join(str(content).split())
    return repr(words if len(words) <= EXCERPT else words[:EXCERPT] + "...")


def _vanished(message: dict) -> str:
    return f"{message['role']} {_excerpt(message.get('content'))}"
