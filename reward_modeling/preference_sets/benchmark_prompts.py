"""The prompts of benchmarks and of other files, as texts to compare, and their words.

    for benchmark in read_named_prompts("rewardbench,rewardbench2=copies/rb2.parquet,my_test.jsonl"):
        print(benchmark.name, len(benchmark.texts))

A prompt is what its messages say, those of the system apart. Two are equal ("exact") where `plain_text` of them is:
Unicode's NFKC form in lower case, each run of white space as one space, curly quotes as straight ones, and without the
quotes and marks of a sentence at both ends. Symbols inside count: "2+2" is not "2-2", nor "C++" "C#". Its words, for
runs of them, are letters and digits with the marks that combine with them; everything else only separates words.
"""

import json
import re
import sys
import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from datasets import Dataset, Features, Value

from reward_modeling.common.errors import UserError
from reward_modeling.data.cached_rows import load_rows
from reward_modeling.data.messages import UnreadableMessages, read_messages
from reward_modeling.data.preferences import load_preference_dataset
from reward_modeling.data.sources import Columns
from reward_modeling.evaluation.benchmarks.catalog import BENCHMARKS
from reward_modeling.evaluation.benchmarks.reading import read_benchmark

MOST_BENCHMARKS = 62  # each is a bit of an int64, see `decontamination`
PROMPT_FEATURES = Features({"where": Value("string"), "prompt": Value("string"), "reason": Value("string")})
NO_PROMPT = "no_prompt"
_STRAIGHT = dict.fromkeys(range(0x2018, 0x201C), "'") | dict.fromkeys(range(0x201C, 0x2020), '"')  # quotes
_OUTER = " .,;:!?\"'`«»\u2039\u203a¿¡।。、「」『』"  # of a text in NFKC, where "…" is "..." and wide marks are narrow


@cache
def _word() -> re.Pattern[str]:
    """Letters and digits, and marks (category M) after the first: without vowel signs words of Hindi or Thai agree
    that are different ones."""
    marks = "".join(chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] == "M")
    # The class is long and no mark is ASCII: to ask that first makes it eight times as fast.
    return re.compile(rf"[^\W_]+(?:(?![\0-\x7f])[{re.escape(marks)}]+[^\W_]*)*")


def plain_text(text: str) -> str:
    """What is equal for prompts that are the same but for case, white space, and what stands around them.

    >>> plain_text(' “What is  2+2?” ')
    'what is 2+2'
    """
    return " ".join(unicodedata.normalize("NFKC", text).lower().split()).translate(_STRAIGHT).strip(_OUTER)


def words_of(text: str) -> list[str]:
    """
    >>> words_of("What's  2+2? (Émile asks)")
    ['what', 's', '2', '2', 'émile', 'asks']
    """
    return _word().findall(unicodedata.normalize("NFKC", text).lower())


def prompt_text(prompt: str) -> str:
    """`plain_text` of a standard row's prompt; "" where it names none, as a plain text."""
    messages = json.loads(prompt) if prompt else []
    return plain_text("\n".join(one["content"] for one in messages if one["role"] != "system"))


@dataclass(frozen=True)
class NamedPrompts:
    """The prompts of one benchmark or file."""

    name: str
    sources: tuple[str, ...]
    places: list[str]
    texts: list[str]
    """Each once, as `plain_text` has it."""


def read_named_prompts(names: str, num_proc: int | None = None, flag: str = "--decontaminate") -> list[NamedPrompts]:
    """Read what a flag names: benchmarks, `benchmark=path` for local copies, and files, with commas between them.

    Raises:
        UserError: a benchmark or file cannot be read, or has no prompts.
    """
    entries = [entry.strip() for entry in names.split(",") if entry.strip()]
    if len(entries) > MOST_BENCHMARKS:
        raise UserError(f"{flag}: expected at most {MOST_BENCHMARKS} benchmarks, found {len(entries)}.")
    try:
        return [_read_prompts(entry, num_proc) for entry in entries]
    except UserError as error:
        raise UserError(f"{flag} {error}") from error


def _read_prompts(entry: str, num_proc: int | None) -> NamedPrompts:
    name, separator, path = entry.partition("=")
    if not separator:
        name, path = (entry, None) if entry in BENCHMARKS else (Path(entry).name, entry)
    try:
        if name in BENCHMARKS and BENCHMARKS[name].is_published:
            read = read_benchmark(name, path, num_proc=num_proc)
            sources, rows = read.sources, read.rows
        else:
            sources, rows = (path or "",), _rows_of_file(path, num_proc)
    except UserError as error:
        raise UserError(f"{entry}: {error}") from error
    places: dict[str, str] = {}  # each text once, where it stands first
    for batch in rows.select_columns(["where", "reason", "prompt"]).iter(batch_size=1000):
        for where, reason, prompt in zip(batch["where"], batch["reason"], batch["prompt"], strict=True):
            if text := "" if reason else prompt_text(prompt):
                places.setdefault(text, where)
    if not places:
        raise UserError(f"{entry}: expected prompts, found none in {', '.join(sources)}.")
    return NamedPrompts(name, tuple(sources), list(places.values()), list(places))


def _rows_of_file(path: str | None, num_proc: int | None) -> Dataset:
    """Preference rows, or rows with a prompt."""
    if not path:
        raise UserError("expected a path, found none. Name it, as in my_test=my_test.jsonl.")
    try:
        return load_preference_dataset(path, num_proc=num_proc)
    except UserError as no_pairs:
        try:
            return load_rows(
                path,
                to_row=_prompt_row,
                features=PROMPT_FEATURES,
                version="prompts 1",
                missing=NO_PROMPT,
                num_proc=num_proc,
                columns=Columns(("prompt",), ("prompt",), "prompt as text or a message list"),
            )
        except UserError:
            raise UserError(f"expected preference rows, or rows with a prompt: {no_pairs}") from no_pairs


def _prompt_row(row: object, where: str) -> dict[str, str]:
    try:
        messages = read_messages(row.get("prompt") if isinstance(row, dict) else None, "user")
    except UnreadableMessages:
        return {"where": where, "prompt": "", "reason": NO_PROMPT}
    return {"where": where, "prompt": json.dumps(messages, default=str), "reason": ""}
