"""What the linter measures of each row's texts: numbers alone, so that a million pairs fit in memory.

    columns = measure_rows(rows, scratch, num_proc=2)    # one row of MEASURES for each row, dropped ones all zero
    measure("Sure.\\n\\n- one\\n- two")["items"]          # 2

Of a list of ranked answers the reply that is called chosen is its first best one, and rejected its first worst one.

All of it is counting and a few heuristics, which are said here and nowhere else. White space around a reply does not
count: chat templates trim it.

- *unfinished*: at least 40 characters that end in a letter or digit where a sentence would end (not in a list item, a
  heading, a row of a table or an address). Languages that end sentences otherwise look unfinished.
- *cut*: a code block that is not closed, or the last sign is a comma, dash or open bracket, or the last word one that
  no English sentence ends in ("the", "and"). Cut replies are unfinished too.
- *marks*: what a chat template writes around messages, left over in a reply: `<|im_end|>`, `</s>`, `[INST]`,
  `<end_of_turn>` and their like, whatever the tokenizer.
- *refusal*: the first 250 characters say, in English, that the writer cannot or will not help.
"""

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, Features, Value, concatenate_datasets
from numpy.typing import NDArray

from reward_modeling.data.cached_rows import map_processes
from reward_modeling.data.control_tokens import MARK
from reward_modeling.data.keys import mix_keys, text_key
from reward_modeling.data.labels import TIE
from reward_modeling.data.pairs import TRANSCRIPTS
from reward_modeling.data.preferences import kept_column, kept_rows, read_column

SIDES = ("chosen", "rejected")
SHORT_REPLY = 40  # characters: below it a reply without a full stop ("Paris") is taken to be whole
REFUSAL_OPENING = 250  # characters in which a refusal has to be said
ROWS_PER_BATCH = 1000
ROWS_PER_PART = 200_000
ROWS_PER_WORKER = 5000  # a worker process costs about as much as measuring this many rows

CONVERSATION, PLAIN_TEXT, TRANSCRIPT = range(3)
"""What a row is; the last: a conversation that was written as a transcript."""

_READ = ["prompt", *SIDES, "answers", "ranks", "is_text", "form", "prompt_key", "reason"]
_HEADING = re.compile(r"#{1,6}\s+\S")
_NUMBERED = re.compile(r"\d{1,3}[.)]\s+\S")
_BULLET = re.compile(r"[-*+•]\s+\S")
_BOLD = re.compile(r"\*\*(?=\S)[^*\n]+\*\*|__(?=\S)[^_\n]+__")
_INLINE_CODE = re.compile(r"(?<!`)`[^`\n]+`(?!`)")
_FENCE = "```"
_NOT = r"(?:can't|cannot|can not|won't|will not|am unable to|am not able to|'m unable to|'m not able to)"
_HELP = (
    r"(?:help|assist|provide|answer|fulfil|fulfill|comply|do (?:that|this|so)|give|offer|support|engage|create|write|"
    r"generate|discuss|share|recommend|condone|participate|respond|complete|tell|advise|encourage|promote)"
)
_REFUSAL = re.compile(
    rf"\b(?:[Ii] ?{_NOT} (?:[a-z]+ ){{0,3}}?{_HELP}\b"  # upper case beyond it: "I Can't Tell You Why" is a song
    r"|[Ii](?: must|'ll have to| have to) (?:respectfully )?decline"
    r"|[Ii](?: am|'m) not comfortable|[Ii] (?:do not|don't) feel comfortable"
    r"|[Aa]s an? (?:AI|ai|artificial intelligence|language model)\b[^.\n]{0,60}\b[Ii] "
    r"(?:can't|cannot|can not|do not|don't|am not|am unable))"
)
_IN_EVERY_REFUSAL = ("n't", "not", "unable", "decline")  # looked for first: it costs a tenth
_CUT_SIGNS = frozenset(",([{-\u2013\u2014&")
_NEVER_LAST = (
    "a an the and or but nor of to in for with by as from at into than that which who whose because if when while "
    "is are was were be been being has have had can could will would should may might must its their your my our "
    "his her this these those such very"
)
_CUT_WORDS = frozenset(_NEVER_LAST.split())


def measure(text: str) -> dict[str, int]:
    """What is counted in one text."""
    unfinished, cut = ending(text)
    headings, items, fences = _line_marks(text)
    return {
        "characters": len(text),
        "words": len(text.split()),
        "lines": text.count("\n") + 1,
        "headings": headings,
        "items": items,
        "bold": len(_BOLD.findall(text)) if "**" in text or "__" in text else 0,
        "code": fences + (len(_INLINE_CODE.findall(text)) if "`" in text else 0),
        "digits": sum(map(text.count, "0123456789")),
        "questions": text.count("?"),
        "exclamations": text.count("!"),
        "refusal": int(is_refusal(text)),
        "unfinished": int(unfinished),
        "cut": int(cut),
        "marks": len(MARK.findall(text)) if "<" in text or "[" in text else 0,
    }


def _line_marks(text: str) -> tuple[int, int, int]:
    """Headings, list items and code blocks; within a block of code nothing else counts."""
    headings = items = fences = 0
    for line in text.split("\n"):
        line = line.lstrip(" \t")
        first = line[:1]
        if first == "`" and line.startswith(_FENCE):
            fences += 1
        elif fences % 2 or not first:
            continue
        elif first == "#":
            headings += _HEADING.match(line) is not None
        elif first in "-*+•0123456789":
            items += _is_item(line)
    return headings, items, (fences + 1) // 2


def _is_item(line: str) -> bool:
    return (_BULLET.match(line) or _NUMBERED.match(line)) is not None


def is_refusal(text: str) -> bool:
    """Whether a reply opens with a refusal, by its words (English)."""
    opening = text[:REFUSAL_OPENING].replace("\u2019", "'")
    if not any(word in opening for word in _IN_EVERY_REFUSAL):
        return False
    return _REFUSAL.search(" ".join(opening.split())) is not None


def ending(text: str) -> tuple[bool, bool]:
    """Whether a reply is unfinished, and whether it was cut in the middle: see the top of this module."""
    text = text.rstrip()
    if text.count(_FENCE) % 2:
        return True, True
    if len(text) < SHORT_REPLY:
        return False, False
    last_line = text[text.rfind("\n") + 1 :].lstrip()
    last_word = last_line.rpartition(" ")[2]
    if last_line[-1] in _CUT_SIGNS and not set(last_line) <= _CUT_SIGNS:  # a line of dashes is a rule
        return True, True
    if last_word in _CUT_WORDS:
        return True, True
    needs_no_stop = last_line[0] in "#|" or _is_item(last_line) or "://" in last_word or "@" in last_word
    return text[-1].isalnum() and not needs_no_stop, False


# --- rows -----------------------------------------------------------------------------------------------------

TEXT_MEASURES = tuple(measure(""))
MEASURES = Features(
    {
        "kind": Value("int8"),
        "has_prompt": Value("bool"),
        "has_system": Value("bool"),
        "prompt_key": Value("int64"),  # 0 where there is no prompt
        "chosen_key": Value("int64"),
        "rejected_key": Value("int64"),
        "list_key": Value("int64"),  # of a list's answers and ranks in any order; 0 of a pair
        "prompt_characters": Value("int32"),
        "turns": Value("int32"),  # the user's
        **{f"{side}_{name}": Value("int32") for side in SIDES for name in TEXT_MEASURES},
    }
)


def texts_of_row(row: dict) -> tuple[int, list[dict], str, str]:
    """The kind of a kept row, its prompt's messages, and the two replies as plain text."""
    if not row["is_text"]:
        chosen, rejected = (join_contents(json.loads(row[side])) for side in SIDES)
        kind = TRANSCRIPT if TRANSCRIPTS in row["form"] else CONVERSATION
        return kind, json.loads(row["prompt"]), chosen, rejected
    return PLAIN_TEXT, [], row["chosen"], row["rejected"]


def join_contents(messages: list[dict]) -> str:
    """What messages say, without their roles."""
    return "\n\n".join(message["content"] for message in messages)


def measure_rows(rows: Dataset, scratch: Path, num_proc: int = 1) -> Dataset:
    """`MEASURES` of every row, in its order, written below `scratch`.

    Args:
        rows: standard rows of `data.preferences.load_preference_dataset`. Of dropped ones every measure is 0.
    """
    starts = range(0, len(rows), ROWS_PER_PART)
    parts = []
    for number, start in enumerate(starts, 1):  # workers end after each part, and the pages they have read go with them
        part = rows.select(range(start, min(start + ROWS_PER_PART, len(rows))))
        parts.append(
            part.select_columns(_READ).map(
                _measure_batch,
                batched=True,
                batch_size=ROWS_PER_BATCH,
                remove_columns=_READ,
                features=MEASURES,
                num_proc=map_processes(num_proc, len(part), ROWS_PER_WORKER),
                cache_file_name=str(scratch / f"measures-{number}.arrow"),
                new_fingerprint=f"measures-{number}",
                desc=f"measuring texts, part {number} of {len(starts)}",
            )
        )
    return concatenate_datasets(parts)


def _measure_batch(batch: dict[str, list]) -> dict[str, list]:
    rows = (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))
    seen: dict[str, tuple[int, dict[str, int]]] = {}  # neighbouring pairs share replies
    measured = map(partial(_measure_row, seen=seen), rows)
    return {name: list(values) for name, values in zip(MEASURES, zip(*measured, strict=True), strict=True)}


def _measure_row(row: dict, seen: dict[str, tuple[int, dict[str, int]]]) -> tuple:
    """The values of `MEASURES`, in its order."""
    if row["reason"]:
        return (0,) * len(MEASURES)
    kind, prompt, *replies = texts_of_row(row)
    replies = [reply.strip() for reply in replies]
    for reply in replies:
        if reply not in seen:
            seen[reply] = text_key(reply), measure(reply)
    (chosen_key, chosen), (rejected_key, rejected) = (seen[reply] for reply in replies)
    roles = [message["role"] for message in prompt]
    return (
        kind,
        bool(prompt),
        "system" in roles,
        _prompt_key(row, kind, prompt),
        chosen_key,
        rejected_key,
        text_key(*sorted(map("{} {}".format, row["ranks"], row["answers"]))) if row["ranks"] else 0,
        sum(len(message["content"]) for message in prompt),
        roles.count("user"),
        *chosen.values(),
        *rejected.values(),
    )


def _prompt_key(row: dict, kind: int, prompt: list[dict]) -> int:
    """Plain texts have a key for each row: here they are one group, so that opposite pairs meet."""
    if not prompt:
        return 0
    return row["prompt_key"] if kind == CONVERSATION else text_key(json.dumps(prompt, ensure_ascii=False))


# --- columns ---------------------------------------------------------------------------------------------------


class Measured:
    """The columns of the kept rows."""

    def __init__(self, rows: Dataset, measures: Dataset):
        self.rows, self._measures = rows, measures
        self.kept = kept_rows(rows)
        """`(pairs,)` row numbers."""

        probability = read_column(rows, "chosen_probability").to_numpy()[self.kept]
        self.is_tie: NDArray[np.bool_] = probability == TIE
        """`(pairs,)`: neither reply is better."""
        self.list_lengths: NDArray[np.int64] = pc.list_value_length(kept_column(rows, "ranks")).to_numpy()
        """`(pairs,)`: how many answers the list of a row has; 0 of a pair."""

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, name: str) -> NDArray:
        """`(pairs,)` of a measure, or of a number of the rows themselves (NaN where a row has none)."""
        table = self._measures if name in self._measures.column_names else self.rows
        return read_column(table, name).to_numpy()[self.kept]

    def added(self, side: str, names: tuple[str, ...]) -> NDArray:
        return sum(self[f"{side}_{name}"] for name in names)

    def first(self, mask: NDArray[np.bool_]) -> str | None:
        """Where the first pair stands that `mask` has."""
        return self.rows[int(self.kept[np.argmax(mask)])]["where"] if mask.any() else None

    def sample(self, count: int, seed: int, among: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """`count` row numbers drawn at random: by what the pairs say, whatever their order."""
        mix = self["rejected_key"]
        for name in ("chosen_key", "prompt_key"):
            mix = self[name] ^ mix_keys(mix, seed).view(np.int64)
        numbers = mix_keys(mix, seed)
        places = np.arange(len(self)) if among is None else np.flatnonzero(among)
        return self.kept[places[np.argsort(numbers[places], kind="stable")[:count]]]
