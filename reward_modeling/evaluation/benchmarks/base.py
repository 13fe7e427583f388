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

import difflib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

from datasets import Dataset, Features, List, Value

from reward_modeling.data.report import DataReport
from reward_modeling.data.sources import Columns

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


PAIRS = "pairs"
TEST_SETS = "preference_test_sets"
LARGEST_SHARE_UNREADABLE = 0.01


@dataclass(frozen=True)
class BenchmarkRows:
    """A benchmark as it was read."""

    benchmark: str
    """One of `BENCHMARKS`."""
    sources: tuple[str, ...]
    """What was read, as the user or the Hub names it."""
    rows: Dataset
    """`EVALUATION_FEATURES`, memory-mapped, in the order of the input; test sets in the order of `TEST_SET_ROWS`, then
    those of other names."""
    report: DataReport | None = None
    """Pairs alone: what was read and what was dropped."""


def _flag(benchmark: str) -> str:
    return f"--{benchmark}_path"


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's subsets with their rows, and which subsets each figure is made of."""

    name: str
    subset_rows: Mapping[str, int]
    figures: Mapping[str, tuple[str, ...]]

    def figure_rows(self, rows: Mapping[str, int]) -> dict[str, int]:
        """Rows behind each figure, from the rows of each subset that was read."""
        return {figure: sum(rows.get(name, 0) for name in names) for figure, names in self.figures.items()}


FEW = 3  # subsets that are missing, or of another size, before one message names them together


def check_subsets(names: Iterable[str] | Mapping[str, int], benchmark: Benchmark) -> list[str]:
    """What is unknown, missing or of another size than published, in loud messages; empty if all is well.

    Args:
        names: the subsets that were read, in any order, repeated or not; or {subset: rows}, whose counts are checked
            too (no rows is missing).
    """
    counts = dict(names) if isinstance(names, Mapping) else {}
    found = set(names) - {name for name, rows in counts.items() if rows == 0}
    messages = []
    for name in sorted(found - set(benchmark.subset_rows)):
        near = difflib.get_close_matches(name, benchmark.subset_rows, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        messages.append(f"{benchmark.name}: unknown subset {name!r}{hint}: its rows count in no score")
    missing = [name for name in benchmark.subset_rows if name not in found]
    resized = [name for name, rows in benchmark.subset_rows.items() if name in found and counts.get(name, rows) != rows]
    # Each by itself while they are few: a file of one's own would else fill the screen.
    for names_of_message in [[name] for name in missing] if len(missing) <= FEW else [missing]:
        messages.append(_missing_message(names_of_message, benchmark))
    for names_of_message in [[name] for name in resized] if len(resized) <= FEW else [resized]:
        messages.append(_resized_message(names_of_message, counts, benchmark))
    return messages


def _missing_message(names: list[str], benchmark: Benchmark) -> str:
    spoiled = [figure for figure, subsets in benchmark.figures.items() if {*names} & {*subsets} and figure not in names]
    result = f": incomplete, and without a score: {', '.join(spoiled)}" if spoiled else ""
    if len(names) == 1:
        return f"{benchmark.name}: subset {names[0]!r} ({benchmark.subset_rows[names[0]]:,} rows) is missing{result}"
    return f"{benchmark.name}: {len(names)} subsets are missing ({', '.join(names)}){result}"


def _resized_message(names: list[str], counts: Mapping[str, int], benchmark: Benchmark) -> str:
    if len(names) == 1:
        sizes = f"subset {names[0]!r} has {counts[names[0]]:,} rows, expected {benchmark.subset_rows[names[0]]:,}: its"
    else:
        first = f"{names[0]} {counts[names[0]]:,} for {benchmark.subset_rows[names[0]]:,}"
        sizes = f"{len(names)} subsets have other numbers of rows than published ({first}, and so on): their"
    score, of = ("score", "it") if len(names) == 1 else ("scores", "them")
    return f"{benchmark.name}: {sizes} {score}, and those made of {of}, are not those of the published benchmark"


def weighted_mean(values: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Sum of weight x value / sum of weights over the names in `weights`; NaN where one has no value."""
    if not weights.keys() <= values.keys():
        return math.nan
    return sum(weight * values[name] for name, weight in weights.items()) / sum(weights.values())


def plain_mean(values: Mapping[str, float], names: Iterable[str]) -> float:
    """The mean of the values under `names`; NaN where one has no value."""
    return weighted_mean(values, dict.fromkeys(names, 1))
