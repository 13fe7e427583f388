"""Preference data in its standard form: every source row is kept, or dropped under a named reason.

    rows = load_preference_dataset("data/train.jsonl.gz", num_proc=8)
    train_rows, eval_rows = split_by_prompt(rows, eval_size=1000, seed=0)

Accepted rows (`margin`, `chosen_score`, `rejected_score` and `source` may be added to each):

| form               | prompt              | chosen, rejected                                             |
|--------------------|---------------------|--------------------------------------------------------------|
| full conversations | none, or part of it | message lists; equal but for the last, the assistant's       |
| explicit prompt    | text or messages    | the completions alone: texts, or lists of assistant messages |
| plain texts        | none                | texts, scored as they are                                    |

Where the rows come from (files, folders, the Hub) and the cache on disk: see `sources.py` and `cached_rows.py`.
"""

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, Value
from numpy.typing import NDArray

from reward_modeling.data.cached_rows import load_rows
from reward_modeling.data.keys import draw_prompts, prompt_key
from reward_modeling.data.messages import Message, UnreadableMessages, holds_prompt, read_messages, to_json
from reward_modeling.data.report import DropReason

CACHE_VERSION = 4  # raise it when standardise_row gives other rows than before
EXCERPT_LENGTH = 200
NUMBERS = ("margin", "chosen_score", "rejected_score")
FLOAT32_MAX = float(np.finfo(np.float32).max)  # the loss is computed in float32

STANDARD_FEATURES = Features(
    {
        "where": Value("string"),
        "prompt": Value("string"),
        "chosen": Value("string"),
        "rejected": Value("string"),
        "is_text": Value("bool"),
        **{name: Value("float64") for name in NUMBERS},
        "source": Value("string"),
        "template_options": Value("string"),
        "prompt_key": Value("int64"),
        "reason": Value("string"),
        "excerpt": Value("string"),
    }
)


class RowDropped(Exception):
    """Raised for a row that is not used, by the first check that fails, with what is wrong in words."""

    def __init__(self, reason: DropReason, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


def load_preference_dataset(path: str, *, num_proc: int | None = None, default_split: str = "train") -> Dataset:
    """Return one standard row (`STANDARD_FEATURES`) for every row of `path`, memory-mapped from disk.

    `path` is a `.json`, `.jsonl` (both also `.gz`), `.parquet` or `.arrow` file, a folder or a glob of them,
    a folder written by `save_to_disk` (`folder:split` picks a split), or a Hub id `org/name[:split]`.
    A local path wins over a Hub id. Rows that cannot be used have a `reason` (see `DropReason`).

    Raises:
        UserError: nothing readable at `path`, no such split, no `chosen`/`rejected` column, a broken file.
    """
    return load_rows(
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
    except RowDropped as dropped:
        return dropped_row(where, dropped.reason, _excerpt(row, dropped.detail))


def dropped_row(where: str, reason: DropReason, excerpt: str) -> dict[str, object]:
    """The standard row of one that cannot be used."""
    nothing = dict.fromkeys(("prompt", "chosen", "rejected", "template_options"), "") | {"is_text": False}
    nothing |= dict.fromkeys((*NUMBERS, "source"))
    return {"where": where, **nothing, "prompt_key": 0, "reason": reason.value, "excerpt": excerpt}


def _checked(row: object) -> dict[str, object]:
    """The fields of a row that passes every check; the checks stand in the order of `DropReason`."""
    if not isinstance(row, dict):
        raise RowDropped(DropReason.WRONG_TYPE)
    chosen, rejected, prompt = row.get("chosen"), row.get("rejected"), row.get("prompt")
    if chosen is None or rejected is None:
        raise RowDropped(DropReason.NO_CHOSEN_OR_REJECTED)
    if type(chosen) is not type(rejected):
        raise RowDropped(DropReason.WRONG_TYPE, f"chosen is {_json_type(chosen)}, rejected {_json_type(rejected)}")
    numbers = {name: _number(name, row.get(name)) for name in NUMBERS}
    is_text = isinstance(chosen, str) and prompt is None
    texts, unit = _check_texts(chosen, rejected) if is_text else _check_conversations(prompt, chosen, rejected)
    if any(number is not None and not abs(number) <= FLOAT32_MAX for number in numbers.values()):
        raise RowDropped(DropReason.NAN_MARGIN)
    source = row.get("source")
    source = source if source is None or isinstance(source, str) else to_json(source)
    try:
        for text in (texts["chosen"], texts["rejected"], source or ""):
            text.encode()
        key = prompt_key(unit.encode())
    except UnicodeEncodeError:  # JSON's "\ud800" is half a character: no text, and Arrow refuses it
        raise RowDropped(DropReason.WRONG_TYPE) from None
    return {**texts, "is_text": is_text, **numbers, "source": source, "template_options": "", "prompt_key": key}


def _check_texts(chosen: str, rejected: str) -> tuple[dict[str, str], str]:
    """The standard texts; and what stands for the prompt: plain texts name none, so each pair is one of its own."""
    if not chosen.strip() or not rejected.strip():
        raise RowDropped(DropReason.EMPTY_REPLY)
    if chosen == rejected:
        raise RowDropped(DropReason.IDENTICAL_TEXT)
    return {"prompt": "", "chosen": chosen, "rejected": rejected}, f"{chosen}\0{rejected}"


def _check_conversations(prompt: object, chosen: object, rejected: object) -> tuple[dict[str, str], str]:
    """The standard texts; and what stands for the prompt."""
    chosen_prompt = rejected_prompt = [] if prompt is None else _messages(prompt, "user")
    chosen, rejected = _messages(chosen, "assistant"), _messages(rejected, "assistant")
    if not chosen or not rejected or _is_blank(chosen[-1]) or _is_blank(rejected[-1]):
        raise RowDropped(DropReason.EMPTY_REPLY)
    if any(message["role"] in ("user", "system") for message in (*chosen, *rejected)):
        # UltraFeedback-binarized has whole conversations *and* a prompt; elsewhere the prompt stands before them.
        held = prompt if isinstance(prompt, str) else chosen_prompt
        whole = all(holds_prompt(messages, held) for messages in (chosen, rejected))
        before = [] if whole else chosen_prompt
        chosen_prompt, rejected_prompt = [*before, *chosen[:-1]], [*before, *rejected[:-1]]
        chosen, rejected = chosen[-1:], rejected[-1:]
    elif prompt is None:
        chosen_prompt, rejected_prompt = chosen[:-1], rejected[:-1]
        chosen, rejected = chosen[-1:], rejected[-1:]
    if chosen_prompt != rejected_prompt:
        raise RowDropped(DropReason.PROMPTS_DIFFER)
    if chosen[-1]["role"] != "assistant" or rejected[-1]["role"] != "assistant":
        raise RowDropped(DropReason.LAST_NOT_ASSISTANT)
    if chosen == rejected:
        raise RowDropped(DropReason.IDENTICAL_TEXT)
    # Templates trim messages: prompts that differ in that alone must not stand on both sides of a split.
    unit = to_json([{**message, "content": message["content"].strip()} for message in chosen_prompt])
    return {"prompt": to_json(chosen_prompt), "chosen": to_json(chosen), "rejected": to_json(rejected)}, unit


def _messages(value: object, role: str) -> list[Message]:
    try:
        return read_messages(value, role)
    except UnreadableMessages as error:
        what = {"messages": "messages are", "message": "a message is"}
        words = what.get(error.part, f"a message's {error.part} is")
        raise RowDropped(DropReason.WRONG_TYPE, f"{words} {_json_type(error.found)}") from error


def _is_blank(message: Message) -> bool:
    return not message["content"].strip()


def _json_type(value: object) -> str:
    """A type as its JSON is called."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "missing"}
    return kinds.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def _number(name: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RowDropped(DropReason.WRONG_TYPE, f"{name} is {_json_type(value)}")
    try:
        return float(value)
    except OverflowError:  # JSON knows integers beyond float64
        return math.inf


def _excerpt(row: object, field: str) -> str:
    """At most `EXCERPT_LENGTH` characters that show what is wrong with a row: the field, both ends of the others."""
    if not isinstance(row, dict):
        return _shortened(to_json(row), EXCERPT_LENGTH)
    shown = {name: row[name] for name in NUMBERS if row.get(name)}
    extra = _shortened(to_json(shown), 60) if shown else ""
    room = (EXCERPT_LENGTH - len(field) - len(extra) - len(" | chosen:  | rejected:  | ")) // 2
    sides = (f"{side}: {_shortened(to_json(row.get(side)), room)}" for side in ("chosen", "rejected"))
    # The field first: tables show the first characters only.
    return " | ".join(part for part in (field, *sides, extra) if part)


def _shortened(text: str, length: int) -> str:
    # A half character (see _checked) must not reach Arrow through the excerpt.
    text = text if len(text) <= length else f"{text[: length // 2 - 1]}…{text[-(length // 2 - 1) :]}"
    return text.encode(errors="replace").decode()


def read_column(rows: Dataset, name: str) -> pa.ChunkedArray:
    """A whole column, in the order of the rows.

    `datasets` reads the rows of a selection one by one, which for a million of them takes hundreds of megabytes;
    Arrow takes them at once.
    """
    column = rows.data.column(name)
    return column if rows._indices is None else column.take(rows._indices.column(0))


def kept_rows(rows: Dataset) -> NDArray[np.int64]:
    """The numbers of the rows that can be used, `(kept,)`."""
    return np.flatnonzero(pc.equal(read_column(rows, "reason"), "").to_numpy())


def split_by_prompt(rows: Dataset, eval_size: int, seed: int, max_share: float = 0.1) -> tuple[Dataset, Dataset]:
    """Return (train, eval) rows; no prompt stands on both sides.

    Held out are at most `min(eval_size, max_share * kept rows)` kept rows, whole prompts only: the first in
    an order that the seed and `prompt_key` alone give, whatever the order of the rows. It may be none.
    Dropped rows stay on the train side, so that each is counted once.
    """
    kept = kept_rows(rows)
    keys = np.asarray(read_column(rows, "prompt_key"), dtype=np.int64)[kept]
    held_out = kept[draw_prompts(keys, min(eval_size, int(max_share * len(kept))), seed)]
    return rows.select(np.setdiff1d(np.arange(len(rows)), held_out)), rows.select(held_out)
