"""Answers with ratings: a conversation, and a number for each of its attributes.

    rows = load_rated_rows("data/train.jsonl", ("helpfulness", "verbosity"), options)

| column                              | meaning                                                                      |
|-------------------------------------|------------------------------------------------------------------------------|
| `messages`, or `prompt`, `response` | a conversation that ends with the answer; or the question, and the answer    |
| one for each attribute              | its rating, a number, or true and false for 1 and 0; null, NaN: not rated    |
| or `ratings`                        | an object of attributes and their ratings, also as JSON text                 |

`system`, `tools`, `chat_template_kwargs` and `source` are read as in preference rows.
"""

import math
from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from itertools import chain

from datasets import Dataset, Features, List, Value

from reward_modeling.data.cached_rows import load_rows
from reward_modeling.data.held_prompts import looks_rendered
from reward_modeling.data.keys import prompt_key
from reward_modeling.data.labels import FLOAT32_MAX, read_number
from reward_modeling.data.messages import Message, parse_json, says_nothing, texts_in, to_json
from reward_modeling.data.pairs import RENDERED_PROMPTS, TRANSCRIPTS, json_type, read_side, read_text, with_system
from reward_modeling.data.read_options import ReadOptions
from reward_modeling.data.report import DropReason
from reward_modeling.data.row_forms import Row, RowDropped, is_blank, is_blank_message
from reward_modeling.data.sources import Columns, HubOptions
from reward_modeling.data.template_options import read_template_options
from reward_modeling.data.transcripts import invites_answer, merge_turns, parse_transcript
from reward_modeling.data.unread_columns import is_suspect, unread_columns, unread_message_keys

CACHE_VERSION = 3  # to be raised when other rows come out than before
EXCERPT_LENGTH = 200
SUSPECT_LENGTH = 60
MOST_NUMBERS = 8  # named in the excerpt of a row without ratings
READ = frozenset(("ratings", "system", "tools", "chat_template_kwargs", "source"))  # beside the conversation
OF_RATINGS = "ratings."  # before the name of a key of `ratings`, among the names of columns
ROW_FORMATS = (
    "messages, or prompt and response; and a column for each attribute, or an object in ratings. Columns of other "
    "names are read by --columns prompt=NAME,response=NAME"
)
# Of rows of other kinds their columns, and what to do.
HINTS = (
    (("chosen", "rejected"), "Preference pairs (chosen, rejected) are what rm.py trains on. "),
    *(((name,), f"To read {name}: --columns response={name}. ") for name in ("completion", "answer", "output")),
    (("conversations",), "To read conversations: --columns messages=conversations. "),
)
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
        missing=DropReason.NO_RESPONSE,
        num_proc=num_proc,
        columns=Columns(("prompt", "response"), None, ROW_FORMATS, (("messages",),), options.columns, HINTS),
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
        return {"where": where, **nothing, "reason": dropped.reason.value, "excerpt": _encodable(excerpt)}


def _encodable(text: str) -> str:
    """The beginning of an excerpt; half a character must not reach Arrow through it."""
    return text[:EXCERPT_LENGTH].encode(errors="replace").decode()


def _checked(row: object, attributes: tuple[str, ...], options: ReadOptions) -> dict[str, object]:
    """The fields of a row that passes every check."""
    if not isinstance(row, dict):
        raise RowDropped(DropReason.WRONG_TYPE)
    forms: set[str] = set()
    row = options.renamed(row)
    prompt, answer, read = _conversation(row, forms)
    ratings, other_ratings = _ratings(row, attributes, {name for name in attributes if options.reads(name)})
    template_options = read_template_options(row) if "tools" in row or "chat_template_kwargs" in row else ""
    source = row.get("source")
    source = source if source is None or isinstance(source, str) else to_json(source)
    names = unread_columns(row, {*READ, *read, *attributes, *options.ignored}, texts_in([*prompt, *answer]))
    suspects = {name: to_json(row[name])[:SUSPECT_LENGTH] for name in names if is_suspect(name, row[name])}
    names += unread_message_keys(chain(prompt, answer)) + [f"{OF_RATINGS}{name}" for name in other_ratings]
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


# --- the conversation -------------------------------------------------------------------------------------------------


def _conversation(row: Row, forms: set[str]) -> tuple[list[Message], list[Message], tuple[str, ...]]:
    """The messages before the answer, the answer, and the columns that they stand in."""
    whole = read_text(row.get("messages"), forms)
    if says_nothing(whole):
        prompt, answer = _prompt_and_answer(row, forms)
        read = ("messages", "prompt", "response")
    else:
        messages = read_side(whole, "user", forms)
        if messages[-1]["role"] != "assistant":
            raise RowDropped(DropReason.LAST_NOT_ASSISTANT, f"messages end with {messages[-1]['role']}")
        prompt, answer, read = messages[:-1], messages[-1:], ("messages",)
    if is_blank_message(answer[-1]):
        raise RowDropped(DropReason.EMPTY_REPLY)
    if prompt and prompt[0]["role"] == "user" and looks_rendered(prompt[0]["content"]):
        forms.add(RENDERED_PROMPTS)
    system = row.get("system")
    return (prompt if system is None or is_blank(system) else with_system(prompt, system)), answer, read


def _prompt_and_answer(row: Row, forms: set[str]) -> tuple[list[Message], list[Message]]:
    asked, said = (read_text(row.get(name), forms) for name in ("prompt", "response"))
    if said is None:
        raise RowDropped(DropReason.NO_RESPONSE)
    if isinstance(asked, str) and isinstance(said, str) and invites_answer(asked):
        forms.add(TRANSCRIPTS)
        if not said.strip():
            raise RowDropped(DropReason.EMPTY_REPLY)
        # What the assistant has begun to say in the prompt is the beginning of the answer.
        turns = merge_turns([*parse_transcript(asked), {"role": "assistant", "content": said.strip()}])
        return turns[:-1], turns[-1:]
    answer = read_side(said, "assistant", forms)
    if not answer:
        raise RowDropped(DropReason.EMPTY_REPLY)
    if answer[-1]["role"] != "assistant":
        raise RowDropped(DropReason.LAST_NOT_ASSISTANT, f"response ends with {answer[-1]['role']}")
    if any(message["role"] in ("user", "system", "developer") for message in answer):
        raise RowDropped(
            DropReason.WRONG_TYPE, "response has turns of others: a whole conversation is read as messages"
        )
    return ([] if is_blank(asked) else read_side(asked, "user", forms)), answer


# --- the ratings ------------------------------------------------------------------------------------------------------


def _ratings(row: Row, attributes: tuple[str, ...], named: set[str]) -> tuple[list[float | None], list[str]]:
    """In the order of the attributes, None where not rated; and the attributes of `ratings` that nobody reads.

    Args:
        named: the attributes that --columns reads, of a column and of nothing else.
    """
    given = row.get("ratings")
    if isinstance(given, str) and given.strip():
        given = parse_json(given)
        if given is None and row["ratings"].strip() != "null":
            raise RowDropped(DropReason.WRONG_TYPE, "ratings is a text that is no object")
    given = {} if says_nothing(given) else given
    if not isinstance(given, dict):
        raise RowDropped(DropReason.WRONG_TYPE, f"ratings is {json_type(given)}")
    # A column counts where the object has no rating: Arrow gives every object the keys of all.
    of_object = {name: value for name, value in given.items() if name not in named and not says_nothing(value)}
    values = [of_object.get(name, row.get(name)) for name in attributes]
    ratings = [read_rating(name, value) for name, value in zip(attributes, values, strict=True)]
    if all(rating is None for rating in ratings):
        raise RowDropped(DropReason.NOT_RATED, _numbers_in(row, given))
    read = {*attributes} - named
    others = [name for name, value in given.items() if name not in read and not says_nothing(value)]
    return ratings, others


def read_rating(name: str, value: object) -> float | None:
    """A number, also as text; true and false are 1 and 0; None where the value says nothing.

    Raises:
        RowDropped: it is no number, or an infinite one.
    """
    if isinstance(value, str):
        value = {"true": True, "false": False}.get(value.strip().lower(), value.strip())
    if isinstance(value, bool | Decimal):
        value = float(value)
    number = read_number(name, value)
    if number is None or math.isnan(number):
        return None
    if abs(number) > FLOAT32_MAX:
        raise RowDropped(DropReason.NAN_MARGIN, f"{name} {number}")
    return number


def _numbers_in(row: Row, given: dict[str, object]) -> str:
    """The names of a row's numbers, of which one may be what an attribute was meant to be."""
    names = [name for name, value in (row | given).items() if isinstance(value, int | float) and value == value]
    return f"its numbers: {_listed(names)}" if names else ""


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NUMBERS} others" if len(names) > MOST_NUMBERS else ""
    return ", ".join(names[:MOST_NUMBERS]) + more
