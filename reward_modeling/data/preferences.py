"""Preference data in its standard form: every source row is kept, or dropped under a named reason.

    rows = load_preference_dataset("data/train.jsonl.gz", num_proc=8)
    train_rows, eval_rows = split_by_prompt(rows, eval_size=1000, seed=0)

Accepted rows (`margin`, `chosen_score`, `rejected_score` and `source` may be added to each):

| form               | prompt              | chosen, rejected                                             |
|--------------------|---------------------|--------------------------------------------------------------|
| full conversations | none, or part of it | message lists; equal but for the last, the assistant's       |
| explicit prompt    | text or messages    | the completions alone: texts, or lists of assistant messages |
| plain texts        | none                | texts, scored as they are                                    |

Where the rows come from (files, folders, the Hub) and the cache on disk are the business of `sources.py`.
"""

import json
import math
from collections.abc import Callable
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, Value

from reward_modeling.data import sources
from reward_modeling.data.report import DropReason

CACHE_VERSION = 3  # raise it when standardise_row gives other rows than before
EXCERPT_LENGTH = 200
FLOAT32_MAX = float(np.finfo(np.float32).max)  # the loss is computed in float32

STANDARD_FEATURES = Features(
    {
        "where": Value("string"),
        "prompt": Value("string"),
        "chosen": Value("string"),
        "rejected": Value("string"),
        "is_text": Value("bool"),
        "margin": Value("float64"),
        "chosen_score": Value("float64"),
        "rejected_score": Value("float64"),
        "source": Value("string"),
        "prompt_key": Value("int64"),
        "reason": Value("string"),
        "excerpt": Value("string"),
    }
)


Message = dict[str, object]
# The C encoder is built once; str() for what a Parquet struct may hold beside text (timestamps).
_to_json: Callable[[object], str] = json.JSONEncoder(ensure_ascii=False, default=str).encode


class _Dropped(Exception):
    """Leaves the checks of a row with the reason of the first that fails, and which field it was."""

    def __init__(self, reason: DropReason, field: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.field = field


def load_preference_dataset(path: str, *, num_proc: int | None = None, default_split: str = "train") -> Dataset:
    """Return one standard row (`STANDARD_FEATURES`) for every row of `path`, memory-mapped from disk.

    `path` is a `.json`, `.jsonl` (both also `.gz`), `.parquet` or `.arrow` file, a folder or a glob of them,
    a folder written by `save_to_disk` (`folder:split` picks a split), or a Hub id `org/name[:split]`.
    A local path wins over a Hub id. Rows that cannot be used have a `reason` (see `DropReason`).

    Raises:
        UserError: nothing readable at `path`, no such split, no `chosen`/`rejected` column, a broken file.
    """
    return sources.load_rows(
        path,
        to_row=standardise_row,
        features=STANDARD_FEATURES,
        version=CACHE_VERSION,
        missing=DropReason.NO_CHOSEN_OR_REJECTED,
        num_proc=num_proc,
        default_split=default_split,
    )


def standardise_row(row: object, where: str) -> dict[str, object]:
    """Return the standard row of one source row; if it cannot be used, with its reason and an excerpt."""
    try:
        return {"where": where, **_checked(row), "reason": "", "excerpt": ""}
    except _Dropped as dropped:
        return dropped_row(where, dropped.reason, _excerpt(row, dropped.field))


def dropped_row(where: str, reason: DropReason, excerpt: str) -> dict[str, object]:
    """The standard row of one that cannot be used."""
    return {
        "where": where,
        "prompt": "",
        "chosen": "",
        "rejected": "",
        "is_text": False,
        "margin": None,
        "chosen_score": None,
        "rejected_score": None,
        "source": None,
        "prompt_key": 0,
        "reason": reason.value,
        "excerpt": excerpt,
    }


def _checked(row: object) -> dict[str, object]:
    """The fields of a row that passes every check; the checks stand in the order of `DropReason`."""
    if not isinstance(row, dict):
        raise _Dropped(DropReason.WRONG_TYPE)
    chosen, rejected, prompt = row.get("chosen"), row.get("rejected"), row.get("prompt")
    if chosen is None or rejected is None:
        raise _Dropped(DropReason.NO_CHOSEN_OR_REJECTED)
    if type(chosen) is not type(rejected):
        raise _Dropped(DropReason.WRONG_TYPE, f"chosen is {_kind(chosen)}, rejected {_kind(rejected)}")
    numbers = {name: _number(name, row.get(name)) for name in ("margin", "chosen_score", "rejected_score")}
    is_text = isinstance(chosen, str) and prompt is None
    texts = _check_texts(chosen, rejected) if is_text else _check_conversations(prompt, chosen, rejected)
    if any(number is not None and not abs(number) <= FLOAT32_MAX for number in numbers.values()):
        raise _Dropped(DropReason.NAN_MARGIN)
    source = row.get("source")
    fields = {
        **texts,
        "is_text": is_text,
        **numbers,
        "source": source if source is None or isinstance(source, str) else _to_json(source),
    }
    fields["prompt_key"] = _prompt_key(fields)
    return fields


def _check_texts(chosen: str, rejected: str) -> dict[str, str]:
    if not chosen.strip() or not rejected.strip():
        raise _Dropped(DropReason.EMPTY_REPLY)
    if chosen == rejected:
        raise _Dropped(DropReason.IDENTICAL_TEXT)
    return {"prompt": "", "chosen": chosen, "rejected": rejected}


def _check_conversations(prompt: object, chosen: object, rejected: object) -> dict[str, str]:
    chosen_prompt = rejected_prompt = [] if prompt is None else _messages(prompt, "user")
    chosen, rejected = _messages(chosen, "assistant"), _messages(rejected, "assistant")
    if not chosen or not rejected or _is_blank(chosen[-1]) or _is_blank(rejected[-1]):
        raise _Dropped(DropReason.EMPTY_REPLY)
    if any(message["role"] in ("user", "system") for message in (*chosen, *rejected)):
        # UltraFeedback-binarized has whole conversations *and* a prompt; elsewhere the prompt stands before them.
        whole = all(_holds_prompt(messages, prompt, chosen_prompt) for messages in (chosen, rejected))
        before = [] if whole else chosen_prompt
        chosen_prompt, rejected_prompt = [*before, *chosen[:-1]], [*before, *rejected[:-1]]
        chosen, rejected = chosen[-1:], rejected[-1:]
    elif prompt is None:
        chosen_prompt, rejected_prompt = chosen[:-1], rejected[:-1]
        chosen, rejected = chosen[-1:], rejected[-1:]
    if chosen_prompt != rejected_prompt:
        raise _Dropped(DropReason.PROMPTS_DIFFER)
    if chosen[-1]["role"] != "assistant" or rejected[-1]["role"] != "assistant":
        raise _Dropped(DropReason.LAST_NOT_ASSISTANT)
    if chosen == rejected:
        raise _Dropped(DropReason.IDENTICAL_TEXT)
    return {"prompt": _to_json(chosen_prompt), "chosen": _to_json(chosen), "rejected": _to_json(rejected)}


def _holds_prompt(messages: list[Message], prompt: object, prompt_messages: list[Message]) -> bool:
    """Whether a conversation with turns of the user's already has the prompt in it.

    A message list has to be found in it; of a prompt that is a text, the row may hold another rendering, so there a
    conversation that begins with a user or system turn is taken as whole.
    """
    if isinstance(prompt, str):
        return messages[0]["role"] in ("user", "system")
    length = len(prompt_messages)
    return any(messages[start : start + length] == prompt_messages for start in range(len(messages) - length + 1))


def _messages(value: object, role: str) -> list[Message]:
    """A message list in canonical form; a string is one message of `role`."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, list):
        raise _Dropped(DropReason.WRONG_TYPE, f"messages are {_kind(value)}")
    return [_message(message) for message in value]


def _message(message: object) -> Message:
    """Role, content, then the other keys by name: equal messages give equal JSON.

    Null values go: Arrow gives every message of a column the keys of all.
    """
    if not isinstance(message, dict):
        raise _Dropped(DropReason.WRONG_TYPE, f"a message is {_kind(message)}")
    role, content = message.get("role"), message.get("content")
    for name, value in (("role", role), ("content", content)):
        if not isinstance(value, str):
            raise _Dropped(DropReason.WRONG_TYPE, f"a message's {name} is {_kind(value)}")
    canonical: Message = {"role": role, "content": content}
    if len(message) > 2:
        others = sorted(message.keys() - {"role", "content"})
        canonical.update((key, message[key]) for key in others if message[key] is not None)
    return canonical


def _is_blank(message: Message) -> bool:
    return not message["content"].strip()


def _kind(value: object) -> str:
    """A type as its JSON is called."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "missing"}
    return kinds.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def _number(name: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _Dropped(DropReason.WRONG_TYPE, f"{name} is {_kind(value)}")
    try:
        return float(value)
    except OverflowError:  # JSON knows integers beyond float64
        return math.inf


def _prompt_key(fields: dict[str, object]) -> int:
    """The first 8 bytes of blake2b, little-endian and signed, of what stands for the prompt."""
    prompt, chosen, rejected = fields["prompt"], fields["chosen"], fields["rejected"]
    try:
        pair = f"{chosen}\0{rejected}".encode()
        (fields["source"] or "").encode()
        unit = pair if fields["is_text"] else _without_outer_space(prompt).encode()
    except UnicodeEncodeError:  # JSON's "\ud800" is half a character: no text, and Arrow refuses it
        raise _Dropped(DropReason.WRONG_TYPE) from None
    return int.from_bytes(blake2b(unit).digest()[:8], "little", signed=True)


def _without_outer_space(prompt: str) -> str:
    """Templates trim messages: prompts that differ in that alone must not stand on both sides of a split."""
    return _to_json([{**message, "content": message["content"].strip()} for message in json.loads(prompt)])


def _excerpt(row: object, field: str) -> str:
    """At most `EXCERPT_LENGTH` characters that show what is wrong with a row: the field, both ends of the others."""
    if not isinstance(row, dict):
        return _shortened(_to_json(row), EXCERPT_LENGTH)
    shown = {name: row[name] for name in ("margin", "chosen_score", "rejected_score") if row.get(name)}
    extra = _shortened(_to_json(shown), 60) if shown else ""
    room = (EXCERPT_LENGTH - len(field) - len(extra) - len(" | chosen:  | rejected:  | ")) // 2
    sides = (f"{side}: {_shortened(_to_json(row.get(side)), room)}" for side in ("chosen", "rejected"))
    # The field first: tables show the first characters only.
    return " | ".join(part for part in (field, *sides, extra) if part)


def _shortened(text: str, length: int) -> str:
    # A half character (see _prompt_key) must not reach Arrow through the excerpt.
    text = text if len(text) <= length else f"{text[: length // 2 - 1]}…{text[-(length // 2 - 1) :]}"
    return text.encode(errors="replace").decode()


def read_column(rows: Dataset, name: str) -> pa.ChunkedArray:
    """A whole column, in the order of the rows.

    `datasets` reads the rows of a selection one by one, which for a million of them takes hundreds of megabytes;
    Arrow takes them at once.
    """
    column = rows.data.column(name)
    return column if rows._indices is None else column.take(rows._indices.column(0))


def split_by_prompt(rows: Dataset, eval_size: int, seed: int, max_share: float = 0.1) -> tuple[Dataset, Dataset]:
    """Return (train, eval) rows; no prompt stands on both sides.

    Held out are at most `min(eval_size, max_share * kept rows)` kept rows, whole prompts only: the first in
    an order that the seed and `prompt_key` alone give, whatever the order of the rows. It may be none.
    Dropped rows stay on the train side, so that each is counted once.
    """
    columns = rows.select_columns(["prompt_key", "reason"]).with_format("arrow")[:]
    kept = np.asarray(pc.equal(columns["reason"], ""), dtype=bool)
    keys = np.asarray(columns["prompt_key"], dtype=np.int64)
    limit = min(eval_size, int(max_share * np.count_nonzero(kept)))
    prompts, counts = np.unique(keys[kept], return_counts=True)
    # A prompt with more rows than may be held out would end the order at once.
    prompts, counts = prompts[counts <= limit], counts[counts <= limit]
    order = np.argsort(mixed(prompts, seed), kind="stable")
    held_out = prompts[order[np.cumsum(counts[order]) <= limit]]
    is_eval = kept & np.isin(keys, held_out)
    return rows.select(np.flatnonzero(~is_eval)), rows.select(np.flatnonzero(is_eval))


def mixed(keys: np.ndarray, seed: int) -> np.ndarray:
    """A pseudo-random uint64 for each int64 key, the same in any order: splitmix64 over key and seed."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is meant
        seeds = np.array([seed % 2**64], dtype=np.uint64)
        return _splitmix64(keys.view(np.uint64) ^ _splitmix64(seeds))


def _splitmix64(values: np.ndarray) -> np.ndarray:
    """Steele, Lea and Flood (2014), "Fast splittable pseudorandom number generators"."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
