"""One row of a benchmark's file as one row to be scored: a prompt, right answers, wrong answers.

A row that cannot be read says in `reason` what was expected and what was found.
"""

import json
import math

from datasets import Features, List, Value

from reward_modeling.data.conversations import Conversation, Templated
from reward_modeling.data.keys import text_key
from reward_modeling.data.messages import ROLES, Message, UnreadableMessages, read_messages, to_json
from reward_modeling.evaluation.benchmarks.base import Benchmark

CACHE_VERSION = 10  # raise it when rows are read otherwise than before
EXCERPT_LENGTH = 160
MISSING_COLUMN = "expected every column, found a row that lacks one"

EVALUATION_FEATURES = Features(
    {
        "where": Value("string"),
        "id": Value("string"),  # JSON of the row's own id
        "subset": Value("string"),
        "prompt": Value("string"),  # JSON of a message list; "" where the answers are plain texts
        "template_options": Value("string"),  # JSON of what goes to the template beside the messages; "" for nothing
        "chosen": List(Value("string")),  # each the JSON of the messages after the prompt, or of a plain text
        "rejected": List(Value("string")),
        "ranks": List(Value("int32")),  # of a ranked list, whose answers all stand in `chosen`: 1 for the best
        "chosen_probability": Value("float64"),  # and weight: null where a row does not say it
        "weight": Value("float64"),
        "steps": List(Value("string")),  # of an answer whose steps are scored; then there is no chosen and no rejected
        "step_labels": List(Value("int32")),  # of each step: see `RIGHT_STEP`
        "prompt_key": Value("int64"),
        "reason": Value("string"),  # why a row cannot be read, else ""
        "excerpt": Value("string"),
    }
)
UNFILLED = {
    **dict.fromkeys(EVALUATION_FEATURES, ""),
    **{name: [] for name in ("chosen", "rejected", "ranks", "steps", "step_labels")},
    **{"chosen_probability": None, "weight": None, "prompt_key": 0},
}

RIGHT_STEP, WRONG_STEP, UNKNOWN_STEP = 1, 0, -1

Fields = dict[str, object]  # subset, prompt, chosen and rejected, before they become JSON


class UnreadableRow(Exception):
    """Says what was expected of a row and what was found."""


# --- a row to be scored ---------------------------------------------------------------------------------------


def conversations(row: dict) -> tuple[list[Conversation], list[Conversation]]:
    """The conversations with a right and with a wrong answer: message lists, or plain texts (`str`) as they are."""
    prompt = json.loads(row["prompt"]) if row["prompt"] else ""
    chosen, rejected = ([prompt + json.loads(answer) for answer in row[side]] for side in ("chosen", "rejected"))
    if not row["template_options"]:
        return chosen, rejected
    options = json.loads(row["template_options"])
    return tuple([Templated(messages, options) for messages in of_side] for of_side in (chosen, rejected))


def answer_length(completion: str) -> int:
    """Characters of the last message of an element of `chosen` or `rejected`; of all of it where it is plain text."""
    answer = json.loads(completion)
    return len(answer if isinstance(answer, str) else answer[-1]["content"])


def evaluation_row(row: object, where: str, *, benchmark: Benchmark, subset: str | None = None) -> dict[str, object]:
    """One row of `EVALUATION_FEATURES`; `subset` is that of all rows of a file whose rows do not say it."""
    values = row if isinstance(row, dict) else {}
    row_id, excerpt = values.get(benchmark.id_column), to_json(row)
    try:
        if values is not row:
            raise UnreadableRow(f"expected an object with columns, found {_kind(row)}")
        if missing := [name for name in benchmark.columns.required if row.get(name) is None]:
            excerpt = f"no {', '.join(missing)} in {excerpt}"
            raise UnreadableRow(MISSING_COLUMN)
        fields = benchmark.read_row(row) if benchmark.read_row else read_fields(row, benchmark)
        return filled_row(where, row_id, **{"subset": subset, **fields})
    except UnreadableRow as error:
        reason = str(error)
    subset = subset or benchmark.subset_of(values) or values.get(benchmark.subset_column)
    excerpt = excerpt if len(excerpt) <= EXCERPT_LENGTH else f"{excerpt[: EXCERPT_LENGTH - 1]}…"
    texts = {"id": _json_id(row_id), "subset": subset if isinstance(subset, str) else "", "excerpt": excerpt}
    # Half a character must not reach Arrow.
    texts = {name: text.encode(errors="replace").decode() for name, text in texts.items()}
    return {**UNFILLED, "where": where, "reason": reason, **texts}


def filled_row(
    where: str,
    row_id: object,
    *,
    subset: str,
    prompt: list[Message] | None,
    chosen: list = (),
    rejected: list = (),
    steps: list[str] = (),
    step_labels: list[int] = (),
    template_options: str = "",
) -> dict[str, object]:
    """A row that can be scored; `prompt` is None where chosen and rejected are plain texts."""
    row = {**UNFILLED, "where": where, "id": _json_id(row_id), "subset": subset, "template_options": template_options}
    row["prompt"] = "" if prompt is None else to_json(prompt)
    row["chosen"], row["rejected"] = ([to_json(answer) for answer in answers] for answers in (chosen, rejected))
    row["steps"], row["step_labels"] = list(steps), list(step_labels)
    answers = (*row["chosen"], *row["rejected"], *steps)
    try:
        for text in (row["id"], subset, *answers, row["prompt"]):
            text.encode()
    except UnicodeEncodeError as error:
        raise UnreadableRow(f"expected text, found half a character ({error.object[error.start]!r})") from error
    # A plain text names no prompt: each row is one of its own.
    row["prompt_key"] = text_key(row["prompt"] + template_options) if row["prompt"] else text_key(*answers)
    return row


def _json_id(row_id: object) -> str:
    """NaN and infinity, which Python's JSON knows and JSON does not, as words."""
    return to_json(str(row_id) if isinstance(row_id, float) and not math.isfinite(row_id) else row_id)


# --- fields ---------------------------------------------------------------------------------------------------


def read_fields(row: dict, benchmark: Benchmark) -> Fields:
    """Of a row with a prompt and its answers: a text on each side of a pair, lists of texts otherwise."""
    subset = text_of(row, benchmark.subset_column)
    fields = {"subset": subset, "prompt": messages_of(row["prompt"], "prompt")}
    for name, count in zip(("chosen", "rejected"), benchmark.num_answers(subset), strict=True):
        fields[name] = [[assistant(text_of(row, name))]] if benchmark.is_pairs else answers_of(row, name, count)
    return fields


def prompt_of(value: object) -> list[Message]:
    """The prompt's messages; none where it is missing, blank or an empty list."""
    if value is None or value == [] or (isinstance(value, str) and not value.strip()):
        return []
    return messages_of(value, "prompt")


def messages_of(value: object, name: str, role: str = "user") -> list[Message]:
    """At least one message; a text is one of `role`."""
    try:
        messages = read_messages(value, role)
        if not messages:
            raise UnreadableMessages("messages", value)
    except UnreadableMessages as error:
        where = name if error.number is None else f"{name}[{error.number}]"
        expected = {
            "messages": "as a text or a list of messages",
            "message": "as a message with role and content",
            "known role": f"with role {', '.join(sorted(ROLES))}",
            "text": "with parts of type text alone",
        }.get(error.part, f"with {error.part} as a text")
        found = repr(error.found) if error.part in ("known role", "text") else _kind(error.found)
        raise UnreadableRow(f"expected {where} {expected}, found {found}") from error
    return messages


def _kind(value: object) -> str:
    """What a value is, in words."""
    if isinstance(value, list) and value:
        return f"a list of {len(value)} ({', '.join(sorted({_kind(element) for element in value}))})"
    words = {type(None): "nothing", str: "a text", list: "an empty list", dict: "an object"}
    return words.get(type(value)) or f"{type(value).__name__} {value!r}"


def answers_of(row: dict, name: str, count: int | None) -> list[list[Message]]:
    """A list of `count` texts (None: at least one) as answers."""
    texts = row[name]
    is_right = isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)
    if not is_right or (count is not None and len(texts) != count):
        number = "at least one text" if count is None else f"{count} text{'s' if count > 1 else ''}"
        raise UnreadableRow(f"expected {name} as a list of {number}, found {_kind(texts)}")
    return [[assistant(text)] for text in texts]


def steps_of(row: dict, name: str) -> list[str]:
    """At least one text."""
    return [message["content"] for (message,) in answers_of(row, name, None)]


def question_of(row: dict, name: str) -> list[Message]:
    """A text that is not blank, as the user's message."""
    text = text_of(row, name)
    if not text.strip():
        raise UnreadableRow(f"expected {name} as a text that says something, found none in it")
    return messages_of(text, name)


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def text_of(row: dict, name: str) -> str:
    if not isinstance(row[name], str):
        raise UnreadableRow(f"expected {name} as a text, found {_kind(row[name])}")
    return row[name]
