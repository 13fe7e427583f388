"""One row of a benchmark's file as one row to be scored: a prompt, right answers, wrong answers.

| benchmark            | prompt                             | chosen                           | rejected           |
|----------------------|------------------------------------|----------------------------------|--------------------|
| rewardbench          | text or messages                   | one text                         | one text           |
| rewardbench2         | text or messages                   | [text]; Ties: at least one       | 3 texts; Ties: any |
| rm_bench             | text or messages                   | 3 texts                          | 3 texts            |
| preference_test_sets | none, text, transcript or messages | text, whole transcript, messages | as chosen          |

`subset` (RM-Bench: `domain`) says where a row belongs; a test set is its file. A transcript is HH-RLHF's
"\\n\\nHuman: ...\\n\\nAssistant: ..." (see `transcripts`). A row that cannot be read says in `reason` what was expected
and what was found. (Pairs are rows of `data.load_preference_dataset`: see `benchmark_data`.)
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

from datasets import Features, List, Value

from reward_modeling.loading import Columns
from reward_modeling.transcripts import merge_turns, parse_transcript

CACHE_VERSION = 1  # raise it when rows are read otherwise than before
EXCERPT_LENGTH = 160
MISSING_COLUMN = "expected every column, found a row that lacks one"

EVALUATION_FEATURES = Features(
    {
        "where": Value("string"),
        "id": Value("string"),  # JSON of the row's own id
        "subset": Value("string"),
        "prompt": Value("string"),  # JSON of a message list; "" where the answers are plain texts
        "chosen": List(Value("string")),  # each the JSON of the messages after the prompt, or of a plain text
        "rejected": List(Value("string")),
        "prompt_key": Value("int64"),
        "reason": Value("string"),  # why a row cannot be read, else ""
        "excerpt": Value("string"),
    }
)

# Templates render a role that they do not know without a word; the last two are ShareGPT's.
ROLES = {name: name for name in ("system", "user", "assistant", "tool")} | {"human": "user", "gpt": "assistant"}

Message = dict[str, object]
Fields = dict[str, object]  # subset, prompt, chosen and rejected, before they become JSON
to_json: Callable[[object], str] = json.JSONEncoder(ensure_ascii=False, default=str).encode


class _Unreadable(Exception):
    """Says what was expected of a row and what was found."""


@dataclass(frozen=True)
class RowFormat:
    """A benchmark's columns, and the function that takes a row of them apart."""

    columns: Columns
    read: Callable[[dict], Fields]


def _finite(row_id: object) -> object:
    """NaN and infinity, which Python's JSON knows and JSON does not, as words."""
    return str(row_id) if isinstance(row_id, float) and not math.isfinite(row_id) else row_id


# --- what a row to be scored says ---------------------------------------------------------------------------


def conversations(row: dict) -> tuple[list, list]:
    """The conversations with a right and with a wrong answer: message lists, or plain texts (`str`) as they are."""
    prompt = json.loads(row["prompt"]) if row["prompt"] else ""
    chosen, rejected = ([prompt + json.loads(answer) for answer in row[side]] for side in ("chosen", "rejected"))
    return chosen, rejected


def answer_length(completion: str) -> int:
    """Characters of the last message of an element of `chosen` or `rejected`; of all of it where it is plain text."""
    answer = json.loads(completion)
    return len(answer if isinstance(answer, str) else answer[-1]["content"])


# --- rows ---------------------------------------------------------------------------------------------------


def evaluation_row(row: object, where: str, *, benchmark: str, subset: str | None = None) -> dict[str, object]:
    """One row of `EVALUATION_FEATURES`; `subset` is that of all rows of a file whose rows do not say it."""
    try:
        if not isinstance(row, dict):
            raise _Unreadable(f"expected an object with columns, found {_kind(row)}")
        row_format = ROW_FORMATS[benchmark]
        if missing := [name for name in row_format.columns.required if row.get(name) is None]:
            said = f"no {', '.join(missing)} in {to_json(row)}"
            return _unreadable_row(where, row, subset, MISSING_COLUMN, said)
        given = {} if subset is None else {"subset": subset}
        return filled_row(where, row.get("id"), **given, **row_format.read(row))
    except _Unreadable as error:
        return _unreadable_row(where, row, subset, str(error), to_json(row))


def _unreadable_row(where: str, row: object, subset: str | None, reason: str, shown: str) -> dict[str, object]:
    said = row if isinstance(row, dict) else {}
    subset = subset or said.get("subset") or said.get("domain")
    row_id = to_json(_finite(said.get("id"))).encode(errors="replace").decode()
    shown = shown if len(shown) <= EXCERPT_LENGTH else f"{shown[: EXCERPT_LENGTH - 1]}…"
    return {
        "where": where,
        "id": row_id,
        "subset": subset.encode(errors="replace").decode() if isinstance(subset, str) else "",
        "prompt": "",
        "chosen": [],
        "rejected": [],
        "prompt_key": 0,
        "reason": reason,
        "excerpt": shown.encode(errors="replace").decode(),  # half a character must not reach Arrow
    }


def filled_row(
    where: str, row_id: object, *, subset: str, prompt: list[Message] | None, chosen: list, rejected: list
) -> dict[str, object]:
    """A row that can be scored; `prompt` is None where chosen and rejected are plain texts."""
    row = {
        "where": where,
        "id": to_json(_finite(row_id)),
        "subset": subset,
        "prompt": "" if prompt is None else to_json(prompt),
        "chosen": [to_json(answer) for answer in chosen],
        "rejected": [to_json(answer) for answer in rejected],
    }
    try:
        for text in (row["id"], subset, *row["chosen"], *row["rejected"]):
            text.encode()
        # A plain text names no prompt: each row is one of its own.
        prompt_hash = blake2b((row["prompt"] or "\0".join(row["chosen"] + row["rejected"])).encode(), digest_size=8)
    except UnicodeEncodeError as error:
        raise _Unreadable(f"expected text, found half a character ({error.object[error.start]!r})") from error
    key = int.from_bytes(prompt_hash.digest(), "little", signed=True)
    return {**row, "prompt_key": key, "reason": "", "excerpt": ""}


def _rewardbench(row: dict) -> Fields:
    return {
        "subset": _text(row, "subset"),
        "prompt": _messages(row["prompt"], "prompt"),
        "chosen": [[_answer(_text(row, "chosen"))]],
        "rejected": [[_answer(_text(row, "rejected"))]],
    }


def _rewardbench2(row: dict) -> Fields:
    is_ties = row["subset"] == "Ties"
    if is_ties and not (isinstance(row.get("id"), str) and re.fullmatch(r"(ref|tied):.+", row["id"])):
        raise _Unreadable(f"expected id of a row of Ties as 'ref:N' or 'tied:N', found {row.get('id')!r}")
    return {
        "subset": _text(row, "subset"),
        "prompt": _messages(row["prompt"], "prompt"),
        "chosen": _answers(row, "chosen", None if is_ties else 1),
        "rejected": _answers(row, "rejected", None if is_ties else 3),
    }


def _rm_bench(row: dict) -> Fields:
    return {
        "subset": _text(row, "domain"),
        "prompt": _messages(row["prompt"], "prompt"),
        "chosen": _answers(row, "chosen", 3),
        "rejected": _answers(row, "rejected", 3),
    }


def _test_set(row: dict) -> Fields:
    sides = _whole_sides(row)
    for name, messages in zip(("chosen", "rejected"), sides, strict=True):
        if messages[-1]["role"] != "assistant":
            raise _Unreadable(f"expected the assistant's message last in {name}, found role {messages[-1]['role']!r}")
        if all(message["role"] == "assistant" for message in messages):
            raise _Unreadable(f"expected a user's message before the answer, found none in {name} and no prompt")
    chosen, rejected = sides
    # Here two prompts may differ: each side keeps its own turns, and what both begin with is the prompt.
    length = 0
    while length < min(len(chosen), len(rejected)) - 1 and chosen[length] == rejected[length]:
        length += 1
    return {"prompt": chosen[:length], "chosen": [chosen[length:]], "rejected": [rejected[length:]]}


def _whole_sides(row: dict) -> list[list[Message]]:
    """The whole conversations of chosen and rejected, however the row spells them."""
    prompt, chosen, rejected = row.get("prompt"), row["chosen"], row["rejected"]
    is_text = isinstance(chosen, str) and isinstance(rejected, str)
    if is_text:
        sides = [parse_transcript(text, keep_empty_answer=True) for text in (chosen, rejected)]
        if None not in sides:
            return sides
    is_transcript = isinstance(prompt, str) and parse_transcript(prompt) is not None
    before = parse_transcript(prompt) if is_transcript else _prompt(prompt)
    if not is_text:
        sides = [_messages(row[name], name, "assistant") for name in ("chosen", "rejected")]
        return sides if _are_whole(sides, prompt, before) else [before + messages for messages in sides]
    if not before:
        raise _Unreadable(
            "expected a prompt, or chosen and rejected as whole conversations (messages, or transcripts that begin "
            "with 'Human:' and have an 'Assistant:'), found texts without a prompt"
        )
    if is_transcript:  # the answers are part of one: without outer space, and joined to what the assistant said before
        return [merge_turns([*before, _answer(text.strip())]) for text in (chosen, rejected)]
    return [[*before, _answer(text)] for text in (chosen, rejected)]


def _are_whole(sides: list[list[Message]], prompt: object, before: list[Message]) -> bool:
    """Whether the prompt stands in the conversations already: a text may stand there in other words.

    The same question as for training rows: see `data.load_preference_dataset`.
    """
    if not before:
        return True
    if isinstance(prompt, str):
        return all(messages[0]["role"] in ("user", "system") for messages in sides)
    length = len(before)
    return all(
        any(messages[start : start + length] == before for start in range(len(messages) - length + 1))
        for messages in sides
    )


# --- fields -------------------------------------------------------------------------------------------------


def _prompt(value: object) -> list[Message]:
    """The prompt's messages; none where it is missing, blank or an empty list."""
    if value is None or value == [] or (isinstance(value, str) and not value.strip()):
        return []
    return _messages(value, "prompt")


def _messages(value: object, name: str, role: str = "user") -> list[Message]:
    """At least one message, with equal JSON for equal messages; a text is one of `role`."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, list) or not value:
        raise _Unreadable(f"expected {name} as a text or a list of messages, found {_kind(value)}")
    return [_message(message, f"{name}[{number}]") for number, message in enumerate(value)]


def _message(message: object, name: str) -> Message:
    """Role, content, then other keys by name; Arrow gives every message the keys of all: those of null go."""
    if not isinstance(message, dict):
        raise _Unreadable(f"expected {name} as a message with role and content, found {_kind(message)}")
    for key in ("role", "content"):
        if not isinstance(message.get(key), str):
            raise _Unreadable(f"expected {name} with {key} as a text, found {_kind(message.get(key))}")
    if message["role"] not in ROLES:
        raise _Unreadable(f"expected {name} with role {', '.join(sorted(ROLES))}, found {message['role']!r}")
    others = {key: message[key] for key in sorted(message.keys() - {"role", "content"}) if message[key] is not None}
    return {"role": ROLES[message["role"]], "content": message["content"], **others}


def _answers(row: dict, name: str, count: int | None) -> list[list[Message]]:
    texts = row[name]
    is_right = isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)
    if not is_right or (count is not None and len(texts) != count):
        number = "at least one text" if count is None else f"{count} text{'s' if count > 1 else ''}"
        raise _Unreadable(f"expected {name} as a list of {number}, found {_kind(texts)}")
    return [[_answer(text)] for text in texts]


def _answer(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _text(row: dict, name: str) -> str:
    if not isinstance(row[name], str):
        raise _Unreadable(f"expected {name} as a text, found {_kind(row[name])}")
    return row[name]


def _kind(value: object) -> str:
    """What a value is, in words."""
    if value is None or isinstance(value, str):
        return "nothing" if value is None else "a text"
    if isinstance(value, list):
        kinds = sorted({_kind(element) for element in value}) if value else []
        return f"a list of {len(value)} ({', '.join(kinds)})" if kinds else "an empty list"
    return "an object" if isinstance(value, dict) else f"{type(value).__name__} {value!r}"


def _columns(required: tuple[str, ...], row_formats: str) -> Columns:
    return Columns(required, tuple(dict.fromkeys(("prompt", *required, "id"))), row_formats)


ROW_FORMATS = {
    "rewardbench": RowFormat(
        _columns(
            ("prompt", "chosen", "rejected", "subset"),
            "prompt as a text or messages, chosen and rejected as one text each, subset as a name",
        ),
        _rewardbench,
    ),
    "rewardbench2": RowFormat(
        _columns(
            ("prompt", "chosen", "rejected", "subset"),
            "prompt as a text or messages, chosen as a list of 1 text and rejected of 3 (Ties: of at least one, and "
            "id 'ref:N' or 'tied:N'), subset as a name",
        ),
        _rewardbench2,
    ),
    "rm_bench": RowFormat(
        _columns(
            ("prompt", "chosen", "rejected", "domain"),
            "prompt as a text or messages, chosen and rejected as lists of 3 texts, domain as a name",
        ),
        _rm_bench,
    ),
    "preference_test_sets": RowFormat(
        _columns(
            ("chosen", "rejected"),
            "prompt as a text or messages with the two answers as texts, or whole conversations in chosen and rejected "
            "(messages, or transcripts that begin with 'Human:')",
        ),
        _test_set,
    ),
}
