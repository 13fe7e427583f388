"""How preference rows may be written: what makes a row of `prompt`, `chosen` and `rejected` of every accepted form.

Whole rows in other columns are a table, `FORMS`: a further form is one more function and one line. The function takes
the row, and gives it back with the columns of the standard in place of its own (None: the row is not of this form). How
messages themselves may be written stands in `messages`; texts that are dialogues in `transcripts`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from reward_modeling.data.messages import parse_json, says_nothing
from reward_modeling.data.report import DropReason
from reward_modeling.data.transcripts import turns_of

Row = dict[str, object]


class RowDropped(Exception):
    """Raised for a row that is not used, by the first check that fails, with what is wrong in words."""

    def __init__(self, reason: DropReason, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class RowForm:
    """A way to write a pair down."""

    name: str
    """As reports name it."""
    columns: frozenset[str]
    """That a row of this form has."""
    to_standard: Callable[[Row], Row | None]


def _openai(row: Row) -> Row:
    """{"input": {"messages": [...], "tools": [...]}, "preferred_output": [...], "non_preferred_output": [...]}"""
    given = _object(row["input"], "input")
    rest = _without(row, "input", "preferred_output", "non_preferred_output")
    rest |= {f"input.{name}": value for name, value in given.items() if name not in ("messages", "tools")}
    answers = {"chosen": row["preferred_output"], "rejected": row["non_preferred_output"]}
    return rest | {"prompt": given.get("messages"), "tools": given.get("tools")} | answers


def _nemo_rl(row: Row) -> Row | None:
    """{"context": [...], "completions": [{"rank": 0, "completion": [...]}, {"rank": 1, "completion": [...]}]}"""
    completions = row["completions"]
    completions = parse_json(completions) if isinstance(completions, str) else completions
    if not isinstance(completions, list) or not all(isinstance(one, dict) for one in completions):
        raise RowDropped(DropReason.WRONG_TYPE, "completions are no list of objects")
    if len(completions) < 2:
        raise RowDropped(DropReason.TOO_FEW_ANSWERS, f"completions: {len(completions)}")
    ranks, answers = ([one.get(name) for one in completions] for name in ("rank", "completion"))
    rest = _without(row, "context", "completions") | {"prompt": row["context"]}
    if len(completions) > 2:
        return rest | {"completions": answers, "ranks": ranks}
    if not all(isinstance(rank, int | float) and not isinstance(rank, bool) and rank == rank for rank in ranks):
        raise RowDropped(DropReason.NO_SCORE, f"ranks: {ranks}")
    better, worse = answers if ranks[0] <= ranks[1] else answers[::-1]
    tie = {"chosen_probability": 0.5} if ranks[0] == ranks[1] else {}
    return rest | {"chosen": better, "rejected": worse} | tie


def _llama_factory(row: Row) -> Row | None:
    """{"conversations": [...], "chosen": {"from": "gpt", "value": ...}, "rejected": {"from": "gpt", "value": ...}}"""
    if not (isinstance(row["chosen"], dict) and isinstance(row["rejected"], dict)) or not is_blank(row.get("prompt")):
        return None
    return _without(row, "conversations") | {"prompt": row["conversations"]}


FORMS = (
    RowForm("OpenAI's preference file", frozenset(("input", "preferred_output", "non_preferred_output")), _openai),
    RowForm("NeMo-RL's preference file", frozenset(("context", "completions")), _nemo_rl),
    RowForm("LLaMA-Factory's ranking file", frozenset(("conversations", "chosen", "rejected")), _llama_factory),
)


# A list of answers, with what says which are better: see `answer_lists`.
LIST_COLUMNS = (("completions", "ranks"), ("completions", "scores"))
_OWN_COLUMNS = frozenset.union(*(form.columns for form in FORMS)) - {"chosen", "rejected"}


def to_standard_columns(row: Row, forms: set[str]) -> Row:
    """The row with the columns of the standard; `forms` takes the name of its form if it is another one."""
    if _OWN_COLUMNS.isdisjoint(row):  # most rows: quickly
        return row
    for form in FORMS:
        if form.columns <= row.keys() and not any(row[name] is None for name in form.columns):
            standard = form.to_standard(row)
            if standard is not None:
                forms.add(form.name)
                return standard
    return row


def _without(row: Row, *names: str) -> Row:
    return {name: value for name, value in row.items() if name not in names}


def _object(value: object, name: str) -> dict:
    value = parse_json(value) if isinstance(value, str) else value
    if not isinstance(value, dict):
        raise RowDropped(DropReason.WRONG_TYPE, f"{name} is no object")
    return value


def is_blank(value: object) -> bool:
    """Whether a prompt is none: missing, white space, or messages that say nothing."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, list):
        return all(isinstance(one, dict) and is_blank_message(one) for one in value)
    return says_nothing(value)


def is_blank_message(message: dict) -> bool:
    """Whether a message has neither words nor calls of tools."""
    said = message.get("content", message.get("value"))
    if isinstance(said, str) and said.strip():  # most messages: quickly
        return False
    return (isinstance(said, str) or said == []) and not message.get("tool_calls")


# --- transcripts ------------------------------------------------------------------------------------------------------


def transcript_turns(text: str, side: str) -> list[dict]:
    """The turns of one side of HH-RLHF.

    Raises:
        RowDropped: it is no transcript, does not end with the assistant, or has two turns in a row of one speaker.
    """
    turns = turns_of(text)
    if turns is None:
        raise RowDropped(DropReason.NOT_A_TRANSCRIPT, f"{side}: {text[:150]!r}")
    if turns[-1]["role"] != "assistant":
        raise RowDropped(DropReason.LAST_NOT_ASSISTANT, f"it ends in {turns[-1]['content'][-150:]!r}")
    for turn, following in pairwise(turns):
        if turn["role"] == following["role"]:
            raise RowDropped(DropReason.SAME_ROLE_TWICE, f"{turn['role']}: {following['content'][:150]!r}")
    return turns
