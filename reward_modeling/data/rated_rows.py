"""Answers with ratings: a conversation, and a number for each of its attributes.

    rows = load_rated_rows("data/train.jsonl", ("helpfulness", "verbosity"), options)

| column                             | meaning                                                                      |
|------------------------------------|------------------------------------------------------------------------------|
| `messages`, or `prompt`, `response` | a conversation that ends with the answer; or the question, and the answer    |
| one for each attribute             | its rating, a number; null: not rated                                        |
| or `ratings`                       | an object of attributes and their ratings                                    |

`system`, `tools`, `chat_template_kwargs` and `source` are read as in preference rows.
"""

import math
from functools import partial

from datasets import Dataset, Features, List, Value

from reward_modeling.data.cached_rows import load_rows
from reward_modeling.data.keys import prompt_key
from reward_modeling.data.labels import FLOAT32_MAX, read_number
from reward_modeling.data.messages import Message, messages_in_text, parse_json, texts_in, to_json
from reward_modeling.data.pairs import json_type, read_side, with_system
from reward_modeling.data.read_options import ReadOptions
from reward_modeling.data.report import DropReason
from reward_modeling.data.row_forms import Row, RowDropped, is_blank, is_blank_message
from reward_modeling.data.sources import Columns, HubOptions
from reward_modeling.data.template_options import read_template_options
from reward_modeling.data.unread_columns import is_suspect, unread_columns

CACHE_VERSION = 1  # to be raised when other rows come out than before
EXCERPT_LENGTH = 200
READ = frozenset(("messages", "prompt", "response", "ratings", "system", "tools", "chat_template_kwargs", "source"))
ROW_FORMATS = "messages, or prompt and response; and a column for each attribute, or an object in ratings"
RATED_FEATURES = Features(
    {
        "where": Value("string"),
        "prompt": Value("string"),
        "response": Value("string"),
        "is_text": Value("bool"),
        "ratings": List(Value("float64")),  # in the order of the attributes; null where not rated
        "source": Value("string"),
        "template_options": Value("string"),
        "form": Value("string"),
        "unread": Value("string"),
        "prompt_key": Value("int64"),
        "reason": Value("string"),
        "excerpt": Value("string"),
    }
)


def load_rated_rows(
    path: str, attributes: tuple[str, ...], options: ReadOptions, *, num_proc: int | None = None
) -> Dataset:
    """One row of `RATED_FEATURES` for every row of `path`, as `preferences.load_preference_dataset` reads pairs.

    Raises:
        UserError: nothing readable at `path`, no conversation in it, a broken file.
    """
    return load_rows(
        path,
        to_row=partial(rated_row, attributes=attributes, options=options),
        features=RATED_FEATURES,
        version=f"rated-{CACHE_VERSION}-{attributes}{options.key}",
        missing=DropReason.NO_CHOSEN_OR_REJECTED,
        num_proc=num_proc,
        columns=Columns(("prompt", "response"), None, ROW_FORMATS, (("messages",),), options.columns),
        hub=HubOptions(revision=options.revision),
    )


def rated_row(row: object, where: str, attributes: tuple[str, ...], options: ReadOptions) -> dict[str, object]:
    """The row of one source row; if it cannot be used, with its reason and an excerpt."""
    try:
        return {"where": where, **_checked(row, attributes, options)}
    except RowDropped as dropped:
        excerpt = f"{dropped.detail} | {to_json(row)}" if dropped.detail else to_json(row)
        nothing = dict.fromkeys(("prompt", "response", "template_options", "form", "unread"), "")
        nothing |= {"is_text": False, "ratings": [], "source": None, "prompt_key": 0}
        excerpt = excerpt[:EXCERPT_LENGTH].encode(errors="replace").decode()
        return {"where": where, **nothing, "reason": dropped.reason.value, "excerpt": excerpt}


def _checked(row: object, attributes: tuple[str, ...], options: ReadOptions) -> dict[str, object]:
    if not isinstance(row, dict):
        raise RowDropped(DropReason.WRONG_TYPE)
    forms: set[str] = set()
    row = options.renamed(row)
    prompt, answer = _conversation(row, forms)
    ratings = _ratings(row, attributes)
    template_options = read_template_options(row) if "tools" in row or "chat_template_kwargs" in row else ""
    source = row.get("source")
    source = source if source is None or isinstance(source, str) else to_json(source)
    names = unread_columns(row, READ | {*attributes, *options.ignored}, texts_in([*prompt, *answer]))
    suspects = {name: to_json(row[name])[:60] for name in names if is_suspect(name, row[name])}
    texts = {"prompt": to_json(prompt), "response": to_json(answer)}
    unread, excerpt = (to_json(found) if found else "" for found in (names, suspects))
    # Templates trim messages: prompts that differ in that alone must not stand on both sides of a split.
    unit = to_json([{**message, "content": message["content"].strip()} for message in prompt])
    try:
        for text in (*texts.values(), source, unread, excerpt):
            if text:
                text.encode()
        key = prompt_key((unit + template_options).encode())
    except UnicodeEncodeError:  # JSON's "\ud800" is half a character: no text, and Arrow refuses it
        raise RowDropped(DropReason.WRONG_TYPE, "half a character (\\ud800 to \\udfff)") from None
    values = {"source": source, "template_options": template_options, "form": "; ".join(sorted(forms))}
    values |= {"unread": unread, "prompt_key": key, "reason": "", "excerpt": excerpt}
    return {**texts, "is_text": False, "ratings": ratings, **values}


def _conversation(row: Row, forms: set[str]) -> tuple[list[Message], list[Message]]:
    """The messages before the answer, and the answer."""
    whole = row.get("messages")
    if whole is not None:
        messages = read_side(messages_in_text(whole, forms), "user", forms)
        if not messages or messages[-1]["role"] != "assistant":
            raise RowDropped(DropReason.LAST_NOT_ASSISTANT)
        prompt, answer = messages[:-1], messages[-1:]
    else:
        asked, said = (messages_in_text(row.get(name), forms) for name in ("prompt", "response"))
        if asked is None or said is None:
            raise RowDropped(DropReason.NO_CHOSEN_OR_REJECTED)
        prompt = [] if is_blank(asked) else read_side(asked, "user", forms)
        answer = read_side(said, "assistant", forms)
        if not answer or answer[-1]["role"] != "assistant":
            raise RowDropped(DropReason.LAST_NOT_ASSISTANT)
    if is_blank_message(answer[-1]):
        raise RowDropped(DropReason.EMPTY_REPLY)
    system = row.get("system")
    return (prompt if system is None or is_blank(system) else with_system(prompt, system)), answer


def _ratings(row: Row, attributes: tuple[str, ...]) -> list[float | None]:
    """In the order of the attributes."""
    given = row.get("ratings")
    given = parse_json(given) if isinstance(given, str) else given
    if given is not None and not isinstance(given, dict):
        raise RowDropped(DropReason.WRONG_TYPE, f"ratings is {json_type(given)}")
    values = row if given is None else {**row, **given}
    ratings = [read_number(name, values.get(name)) for name in attributes]
    ratings = [None if rating is None or math.isnan(rating) else rating for rating in ratings]
    if any(rating is not None and abs(rating) > FLOAT32_MAX for rating in ratings):
        raise RowDropped(DropReason.NAN_MARGIN)
    if all(rating is None for rating in ratings):
        raise RowDropped(DropReason.NO_SCORE, "none of the attributes is rated")
    return ratings
