"""Preference data in its standard form: every source row is kept, or dropped under a named reason.

    rows = load_preference_dataset("data/train.jsonl.gz", num_proc=8)
    train_rows, eval_rows = split_by_prompt(rows, eval_size=1000, seed=0)

Accepted rows (`source` and the numbers of `labels.py` may be added to each; for lists of answers see
`answer_lists.py`):

| form               | prompt              | chosen, rejected                                             |
|--------------------|---------------------|--------------------------------------------------------------|
| full conversations | none, or part of it | message lists; equal but for the last, the assistant's       |
| explicit prompt    | text or messages    | the completions alone: texts, or lists of assistant messages |
| plain texts        | none                | texts, scored as they are                                    |

Where the rows come from (files, folders, the Hub) and the cache on disk: see `sources.py` and `cached_rows.py`.
"""

from dataclasses import replace
from functools import partial
from itertools import chain
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value
from numpy.typing import NDArray

from reward_modeling.data.answer_lists import is_answer_list, read_answer_list
from reward_modeling.data.cached_rows import load_rows
from reward_modeling.data.keys import draw_prompts, prompt_key
from reward_modeling.data.labels import NUMBERS, check_labels, read_numbers
from reward_modeling.data.messages import Message, says_nothing, texts_in, to_json
from reward_modeling.data.pairs import PROMPT_PASSED_OVER, Pair, read_pair
from reward_modeling.data.read_options import ReadOptions
from reward_modeling.data.report import DropReason
from reward_modeling.data.row_forms import FORMS, LIST_COLUMNS, Row, RowDropped, to_standard_columns
from reward_modeling.data.sources import PREFERENCE_COLUMNS, Columns, HubOptions
from reward_modeling.data.template_options import read_template_options
from reward_modeling.data.text_beginnings import common_beginning, text_unit, write_joined
from reward_modeling.data.unread_columns import is_suspect, may_be_question, unread_columns, unread_message_keys

CACHE_VERSION = 10  # raise it when standardise_row gives other rows than before
EXCERPT_LENGTH = 200
SUSPECT_LENGTH = 60
READ_OF_CONVERSATIONS = frozenset(("prompt", "system", "tools", "chat_template_kwargs"))  # by a chat template alone
READ = frozenset(("chosen", "rejected", *NUMBERS, "source")) | READ_OF_CONVERSATIONS
READ_OF_LISTS = frozenset(("completions", "weight", "source")) | READ_OF_CONVERSATIONS

STANDARD_FEATURES = Features(
    {
        "where": Value("string"),
        "prompt": Value("string"),
        "chosen": Value("string"),
        "rejected": Value("string"),
        "is_text": Value("bool"),
        "answers": List(Value("string")),  # of a list of more than two; chosen and rejected are its ends
        "ranks": List(Value("int32")),  # of each of them, 1 for the best
        **{name: Value("float64") for name in NUMBERS},
        "source": Value("string"),
        "template_options": Value("string"),  # JSON of what goes to the template beside the messages; "" for nothing
        "form": Value("string"),  # how the row was written; "" for the usual way
        "unread": Value("string"),  # JSON list of columns, and keys of messages, that say something and are not read
        "prompt_key": Value("int64"),
        "reason": Value("string"),
        "excerpt": Value("string"),  # of a dropped row; else JSON of unread columns that may be of the conversation
    }
)


NO_OPTIONS = ReadOptions()
SAMPLE_SEED = 0x5A3B1E  # added to the run's, so that a sample is no continuation of the hold-out


def load_preference_dataset(
    path: str, options: ReadOptions = NO_OPTIONS, *, num_proc: int | None = None, default_split: str = "train"
) -> Dataset:
    """Return one standard row (`STANDARD_FEATURES`) for every row of `path`, memory-mapped from disk.

    `path` is a `.json`, `.jsonl` (both also `.gz`), `.parquet` or `.arrow` file, a folder or a glob of them,
    a folder written by `save_to_disk` (`folder:split` picks a split), or a Hub id `org/name[:split]`
    or `org/name:config:split`.
    A local path wins over a Hub id. Rows that cannot be used have a `reason` (see `DropReason`).

    Raises:
        UserError: nothing readable at `path`, no such split, no `chosen`/`rejected` column, a broken file.
    """
    return load_rows(
        path,
        to_row=partial(standardise_row, options=options),
        features=STANDARD_FEATURES,
        version=f"{CACHE_VERSION}{options.key}",
        missing=DropReason.NO_CHOSEN_OR_REJECTED,
        num_proc=num_proc,
        default_split=default_split,
        columns=preference_columns(options),
        hub=HubOptions(revision=options.revision),
        finish=write_joined,
    )


def preference_columns(options: ReadOptions = NO_OPTIONS) -> Columns:
    """The columns of preference rows, with those that the options name."""
    others = (*(tuple(sorted(form.columns)) for form in FORMS), *LIST_COLUMNS)
    return replace(PREFERENCE_COLUMNS, others=others, named=options.columns)


def standardise_row(row: object, where: str, options: ReadOptions = NO_OPTIONS) -> dict[str, object]:
    """Return the standard row of one source row; if it cannot be used, with its reason and an excerpt."""
    try:
        return {"where": where, **_checked(row, options)}
    except RowDropped as dropped:
        return dropped_row(where, dropped.reason, _excerpt(row, dropped.detail))


def dropped_row(where: str, reason: DropReason, excerpt: str) -> dict[str, object]:
    """The standard row of one that cannot be used."""
    nothing = dict.fromkeys(("prompt", "chosen", "rejected"), "") | {"is_text": False}
    nothing |= {"answers": [], "ranks": []} | dict.fromkeys((*NUMBERS, "source"))
    nothing |= dict.fromkeys(("template_options", "form", "unread"), "")
    return {"where": where, **nothing, "prompt_key": 0, "reason": reason.value, "excerpt": excerpt}


class _Said(NamedTuple):
    """What a row says, whichever way it is written."""

    pair: Pair
    answers: list[list[Message] | str]  # of a list of more than two; else none
    ranks: list[int]
    numbers: dict[str, float | None]
    read: frozenset[str]  # the columns that were read


def _checked(row: object, options: ReadOptions) -> dict[str, object]:
    """The fields of a row that passes every check; the checks stand in the order of `DropReason`."""
    if not isinstance(row, dict):
        raise RowDropped(DropReason.WRONG_TYPE)
    forms: set[str] = set()
    row = to_standard_columns(options.renamed(row), forms)
    said = _said_by_list(row, forms) if is_answer_list(row) else _said_by_pair(row, options, forms)
    pair, is_text = said.pair, said.pair.prompt is None
    has_options = not is_text and ("tools" in row or "chat_template_kwargs" in row)
    template_options = read_template_options(row) if has_options else ""
    source = row.get("source")
    source = source if source is None or isinstance(source, str) else to_json(source)
    if is_text:
        texts, answers = {"prompt": "", "chosen": pair.chosen, "rejected": pair.rejected}, said.answers
        unit = text_unit(pair.chosen, pair.rejected)
    else:
        texts = {name: to_json(messages) for name, messages in zip(pair._fields, pair, strict=True)}
        answers = list(map(to_json, said.answers))
        # Templates trim messages: prompts that differ in that alone must not stand on both sides of a split.
        unit = to_json([{**message, "content": message["content"].strip()} for message in pair.prompt])
    read = said.read - READ_OF_CONVERSATIONS if is_text else said.read
    if PROMPT_PASSED_OVER in forms:
        forms.remove(PROMPT_PASSED_OVER)
        read -= {"prompt"}
    keys = [] if is_text else unread_message_keys(chain(*pair, *said.answers))
    unread, excerpt = ("", "") if row.keys() <= read and not keys else _unread(row, said, read, options, keys)
    try:
        for text in (texts["chosen"], texts["rejected"], *answers, source, unread, excerpt):
            if text:
                text.encode()
        key = prompt_key((unit + template_options).encode())
    except UnicodeEncodeError:  # JSON's "\ud800" is half a character: no text, and Arrow refuses it
        raise RowDropped(DropReason.WRONG_TYPE, "half a character (\\ud800 to \\udfff)") from None
    form = "; ".join(sorted(forms)) if forms else ""
    values = {"source": source, "template_options": template_options, "form": form, "unread": unread}
    values |= {"prompt_key": key, "reason": "", "excerpt": excerpt}
    return {**texts, "is_text": is_text, "answers": answers, "ranks": said.ranks, **said.numbers, **values}


def _said_by_pair(row: Row, options: ReadOptions, forms: set[str]) -> _Said:
    votes = row.get("preferred") if options.reads("preferred") else None
    numbers, pair = read_numbers(row), read_pair(row, forms)
    if options.reads("preferred") and says_nothing(votes) and numbers["chosen_probability"] is None:
        raise RowDropped(DropReason.NO_SCORE, "preferred holds no vote")  # the order of the answers is no label
    numbers, is_turned = check_labels(numbers, forms, votes, options.preferred_values)
    if is_turned:
        pair = pair._replace(chosen=pair.rejected, rejected=pair.chosen)
    return _Said(pair, [], [], numbers, READ if votes is None else READ | {"preferred"})


def _said_by_list(row: Row, forms: set[str]) -> _Said:
    """Of two answers a pair."""
    found = read_answer_list(row, forms)
    numbers, _ = check_labels(read_numbers({"weight": row.get("weight")}), forms)
    read = READ_OF_LISTS | {"scores" if says_nothing(row.get("ranks")) else "ranks"}
    several = (found.answers, found.ranks) if len(found.answers) > 2 else ([], [])
    return _Said(found.pair, *several, numbers, read)


def _unread(
    row: Row, said: _Said, read: frozenset[str], options: ReadOptions, message_keys: list[str]
) -> tuple[str, str]:
    """What nobody reads, and what stands in the columns that may be a part of the conversation."""
    # What plain texts say of a question has to stand in both of them.
    pair = said.pair
    sides = ((pair.chosen,), (pair.rejected,)) if pair.prompt is None else ((*pair, *said.answers),)
    found = [unread_columns(row, read | set(options.ignored), texts_in(list(side))) for side in sides]
    names = list(dict.fromkeys(name for names in found for name in names))
    suspects = {name: row[name] for name in names if is_suspect(name, row[name])}
    others = {name: row[name] for name in names if name not in suspects and may_be_question(name, row[name])}
    if others and not _has_question(pair):
        suspects |= others
    shown = {name: _shortened(to_json(value), SUSPECT_LENGTH) for name, value in suspects.items()}
    return tuple(to_json(found) if found else "" for found in (names + message_keys, shown))


def _has_question(pair: Pair) -> bool:
    """Whether something stands before the answers that they may be answers to."""
    if pair.prompt is None:
        return bool(common_beginning(pair.chosen, pair.rejected))
    return any(message["role"] == "user" for message in pair.prompt)


def _excerpt(row: object, field: str) -> str:
    """At most `EXCERPT_LENGTH` characters that show what is wrong with a row: the field, both ends of the others."""
    if not isinstance(row, dict):
        return _shortened(to_json(row), EXCERPT_LENGTH)
    shown = {name: row[name] for name in (*NUMBERS, "preferred", "ranks", "scores") if row.get(name) is not None}
    extra = _shortened(to_json(shown), 60) if shown else ""
    room = (EXCERPT_LENGTH - len(field) - len(extra) - len(" | chosen:  | rejected:  | ")) // 2
    names = ("prompt", "completions") if is_answer_list(row) else ("chosen", "rejected")
    sides = (f"{side}: {_shortened(to_json(row.get(side)), room)}" for side in names)
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


def kept_column(rows: Dataset, name: str) -> pa.ChunkedArray:
    """A column of the rows that are kept."""
    return read_column(rows, name).filter(pc.equal(read_column(rows, "reason"), ""))


def kept_rows(rows: Dataset) -> NDArray[np.int64]:
    """The numbers of the rows that can be used, `(kept,)`."""
    return np.flatnonzero(pc.equal(read_column(rows, "reason"), "").to_numpy())


def sample_by_prompt(rows: Dataset, most: int, seed: int) -> tuple[Dataset, int]:
    """Rows with at most `most` kept ones, whole prompts only, and how many kept ones were left out.

    The first in an order that the seed and `prompt_key` alone give, which is another one than that of the hold-out.
    Dropped rows stay.
    """
    kept = kept_rows(rows)
    keys = np.asarray(read_column(rows, "prompt_key"), dtype=np.int64)[kept]
    left_out = kept[~draw_prompts(keys, most, seed + SAMPLE_SEED)] if most < len(kept) else kept[:0]
    return rows.select(np.setdiff1d(np.arange(len(rows)), left_out)), len(left_out)


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
