"""What a whole set of rows shows of its columns: how they were written, which of them nobody reads.

Nothing is left unread in silence: columns that say something are counted, and where one looks like a part of the
conversation, or like the label, there is no going on without a word of the user's.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reward_modeling.common.errors import UserError
from reward_modeling.data.labels import TIE
from reward_modeling.data.messages import to_json
from reward_modeling.data.read_options import OWN, TARGETS
from reward_modeling.data.report import NO_USER_TURN, DataReport
from reward_modeling.data.unread_columns import OF_MESSAGES, looks_like_conversation, looks_like_label

KeptColumn = Callable[[str], pa.ChunkedArray]
FORM_SEPARATOR = "; "
SHOWN_COLUMNS = 20
USER_TURN = '"role": "user"'  # as JSON of a prompt has it, and no text inside of that, where quotes are escaped
SUBTRACTED, NOT_USED = ", which the loss subtracts", ", which the loss passes over"


def note_rows(report: DataReport, column: KeptColumn, flag: str, targets: Sequence[str] = TARGETS) -> None:
    """Count in the report how the rows that are kept were written, and what of them was not read.

    Args:
        column: from the name of a column of the standard to its values in the rows that are kept.
        flag: that says where the rows are, for the message.
        targets: what --columns may read.

    Raises:
        UserError: a column that nobody reads looks like a part of the conversation, or like the label.
    """
    forms: Counter[str] = Counter()
    for entry in pc.value_counts(column("form")).to_pylist():
        forms.update(dict.fromkeys(filter(None, entry["values"].split(FORM_SEPARATOR)), entry["counts"]))
    report.notes |= {f"rows read from {name}": count for name, count in forms.most_common()}
    unread, rows = unread_counts(column), len(column("unread"))
    is_text, has_user = column("is_text"), pc.match_substring(column("prompt"), USER_TURN)
    if suspects := suspicious_columns(column, unread):
        has_prompt = not pc.any(is_text).as_py() and pc.any(has_user).as_py()
        raise UserError(f"{flag}: " + _unread_message(suspects, unread, rows, has_prompt, targets))
    report.notes |= {f"rows with a {_in_words(name)}, not read": n for name, n in unread.most_common(SHOWN_COLUMNS)}
    if len(unread) > SHOWN_COLUMNS:
        report.notes["other columns that are not read"] = len(unread) - SHOWN_COLUMNS
    without_user = pc.sum(pc.invert(pc.or_(is_text, has_user))).as_py() or 0
    if 2 * without_user > rows:  # a few answer nobody on purpose
        report.notes[NO_USER_TURN] = without_user


def _in_words(name: str) -> str:
    return f"message key {name.removesuffix(OF_MESSAGES)}" if name.endswith(OF_MESSAGES) else f"column {name}"


def note_labels(report: DataReport, column: KeptColumn, *, margins: bool, strengths: bool) -> None:
    """Count the labels that are more than a preference, and say which of them the loss passes over.

    Args:
        margins, strengths: whether the loss takes those of the rows.
    """
    probability, weights = column("chosen_probability"), column("weight")
    in_words = {
        "rows with a chosen_probability between 0.5 and 1": pc.and_(
            pc.greater(probability, TIE), pc.less(probability, 1.0)
        ),
        "rows that are ties": pc.equal(probability, TIE),
        "rows with a weight": pc.is_valid(weights),
        "rows with a strength" + NOT_USED * (not strengths): pc.is_valid(column("strength")),
        "rows with a margin" + (SUBTRACTED if margins else NOT_USED): pc.is_valid(column("margin")),
    }
    counts = {words: pc.sum(which).as_py() or 0 for words, which in in_words.items()}
    counts["answers in lists of more than two"] = pc.sum(pc.list_value_length(column("answers"))).as_py() or 0
    report.notes |= {words: count for words, count in counts.items() if count}


def has_ties(column: KeptColumn, in_lists: bool) -> bool:
    """Whether any pair is a tie, or with `in_lists` any two answers of a list are."""
    if pc.any(pc.equal(column("chosen_probability"), TIE)).as_py():
        return True
    if not in_lists:
        return False
    lists = column("ranks").combine_chunks()
    lists = lists.filter(pc.greater(pc.list_value_length(lists), 0))
    if not len(lists):
        return False
    lengths = pc.list_value_length(lists).to_numpy()
    worst = np.maximum.reduceat(pc.list_flatten(lists).to_numpy(), np.cumsum([0, *lengths[:-1]]))
    return bool((worst < lengths).any())  # of answers that differ in rank, the worst has the number of answers


def unread_counts(column: KeptColumn) -> Counter[str]:
    """The columns and keys of messages that say something and that nobody reads, each with the number of its rows."""
    counts: Counter[str] = Counter()
    for entry in pc.value_counts(column("unread")).to_pylist():
        for name in json.loads(entry["values"] or "[]"):
            counts[name] += entry["counts"]
    return counts


def suspicious_columns(column: KeptColumn, unread: Counter[str]) -> dict[str, tuple[str, str]]:
    """The unread columns that look like a part of the conversation: where the first stands, and what it says.

    By their names; or because most rows have no prompt, and this text.
    """
    excerpts, places = column("excerpt"), column("where")
    found: dict[str, tuple[str, str]] = {}
    for name in unread:
        shown = pc.match_substring(excerpts, f"{to_json(name)}: ")
        is_named = looks_like_conversation(name) or looks_like_label(name)
        if (count := pc.sum(shown).as_py() or 0) and (is_named or 2 * count > len(excerpts)):
            first = pc.index(shown, True).as_py()
            found[name] = (places[first].as_py(), json.loads(excerpts[first].as_py())[name])
    return found


def _unread_message(
    suspects: dict[str, tuple[str, str]], counts: Counter[str], rows: int, has_prompt: bool, targets: Sequence[str]
) -> str:
    lines = [
        f"  {name} in {counts[name]:,} of {rows:,} rows: {value} ({where})" for name, (where, value) in suspects.items()
    ]
    ignored = ",".join(name.removesuffix(OWN) for name in suspects)
    return (
        "expected every column of the conversation and of the label to be read, found columns that look like one and "
        "that nobody reads:\n"
        + "\n".join(lines)
        + f"\n{_advice(list(suspects), has_prompt, targets)}To go on without: "
        f"--ignore_columns {ignored}"
    )


def _advice(names: list[str], has_prompt: bool, targets: Sequence[str]) -> str:
    """How to read the columns."""
    parts = [name for name in names if not looks_like_label(name) and not name.endswith(OWN)]
    if not parts:
        return ""
    asked = [name for name in parts if _target(name) == "prompt"]
    if {"instruction", "input"} <= set(asked):
        asked = ["instruction", "input"]
    others = [f"{_target(name)}={name}" for name in parts if _target(name) not in ("prompt", name)]
    if "prompt" in asked:  # a text beside whole conversations, which say something else
        return "The conversations are whole without it: put it into their messages. "
    if has_prompt and asked:
        return f"To read {' and '.join(asked)}, put it into the messages of prompt. "
    flag = ",".join([f"prompt={'+'.join(asked[:2])}"] * bool(asked) + others[:1])
    if not flag:
        return f"{' and '.join(parts)} can be read where the rows have a prompt: --columns prompt=NAME. "
    return f"To read them: --columns {flag} (what can be read: {', '.join(targets)}). "


def _target(name: str) -> str:
    lower = name.lower()
    if "system" in lower:
        return "system"
    return "tools" if "tool" in lower or "function" in lower else "prompt"
