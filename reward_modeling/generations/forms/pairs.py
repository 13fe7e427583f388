"""Two answers in a row: preference rows, and those of arenas."""

from typing import ClassVar

from reward_modeling.data.pairs import read_pair
from reward_modeling.data.report import DropReason
from reward_modeling.data.row_forms import RowDropped, to_standard_columns
from reward_modeling.generations.answers import Answers, NotScored, Unreadable
from reward_modeling.generations.forms.base import Form, Reading, Row, joined, list_of, prompt_of
from reward_modeling.generations.forms.sides import MESSAGES_AS_TEXT, Side, holds_messages, in_own_words, read_sides

# Pairs that cannot be trained on, and whose answers are scored all the same, each by itself.
STILL_SCORED = (DropReason.IDENTICAL_TEXT, DropReason.PROMPTS_DIFFER, DropReason.EMPTY_REPLY)


class Preference(Form):
    """{"prompt": ..., "chosen": ..., "rejected": ...} in the forms that rm.py reads: rewards of chosen, rejected."""

    name: ClassVar[str] = "chosen and rejected"
    columns: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("chosen", "rejected"),
        ("input", "preferred_output", "non_preferred_output"),
    )

    def read(self, row: Row, reading: Reading) -> Answers:
        notes: set[str] = set()
        with in_own_words():
            row = to_standard_columns(dict(row), notes)
        prompt, answers = prompt_of(row), [row.get("chosen"), row.get("rejected")]
        if reading.plain_text and all(isinstance(value, str) for value in (prompt or "", *answers)):
            return joined(read_sides(prompt, answers, notes, plain_text=True), row, notes)
        with in_own_words():
            sides = _as_in_training({**row, "prompt": prompt, "system": None}, notes)
        if any(map(holds_messages, (prompt, *answers))):
            notes.add(MESSAGES_AS_TEXT)
        return joined(sides or read_sides(prompt, answers, notes, has_prompt=False), row, notes)


def _as_in_training(row: Row, notes: set[str]) -> list[Side] | None:
    """The two sides of a pair; None of one that training drops, and whose answers are scored all the same."""
    try:
        pair = read_pair(row, notes, json_texts=False)
    except RowDropped as dropped:
        if dropped.reason in STILL_SCORED:
            return None
        raise
    if pair.prompt is None:
        raise Unreadable(NotScored.PLAIN_TEXT)
    if not pair.prompt:
        raise Unreadable(NotScored.NO_PROMPT)
    return [Side(pair.prompt, answer) for answer in (pair.chosen, pair.rejected)]


class Arena(Form):
    """{"conversation_a": [...], "conversation_b": [...]}, LMArena's: rewards of a, b."""

    name: ClassVar[str] = "LMArena's conversations"
    columns: ClassVar[tuple[tuple[str, ...], ...]] = (("conversation_a", "conversation_b"),)

    def read(self, row: Row, reading: Reading) -> Answers:
        notes: set[str] = set()
        both = [row["conversation_a"], row["conversation_b"]]
        sides = read_sides(None, both, notes, has_prompt=False, json_texts=True)
        return joined(sides, row, notes)


class ArenaResponses(Form):
    """{"prompt": ..., "response_a": ..., "response_b": ...}, LMArena's: rewards of a, b.

    Each may be a list of turns, also as JSON text: what the user said, and what each model said to it.
    """

    name: ClassVar[str] = "LMArena's responses"
    columns: ClassVar[tuple[tuple[str, ...], ...]] = (("response_a", "response_b"),)

    def read(self, row: Row, reading: Reading) -> Answers:
        notes: set[str] = set()
        prompt, answers = prompt_of(row), [row["response_a"], row["response_b"]]
        asked = list_of(prompt)
        said = [list_of(answer) for answer in answers]
        if asked and all(isinstance(turn, str) for turn in asked) and all(turns is not None for turns in said):
            whole = [turns_of(asked, turns) for turns in said]
            return joined(_each(whole, notes), row, notes)
        return joined(read_sides(prompt, answers, notes, plain_text=reading.plain_text), row, notes)


def turns_of(asked: list, said: list) -> list[dict] | Unreadable:
    """The conversation of some questions, one after the other, and what was said to each."""
    if len(asked) != len(said):
        return Unreadable(NotScored.PROMPTS_DIFFER, f"{len(asked)} turns of the user's, {len(said)} of the model's")
    texts = [turn.get("content") if isinstance(turn, dict) else turn for turn in said]
    pairs = zip(asked, texts, strict=True)
    return [{"role": role, "content": text} for pair in pairs for role, text in zip(ROLES, pair, strict=True)]


ROLES = ("user", "assistant")


def _each(conversations: list[list[dict] | Unreadable], notes: set[str]) -> list[Side | Unreadable]:
    return [
        one if isinstance(one, Unreadable) else read_sides(None, [one], notes, has_prompt=False)[0]
        for one in conversations
    ]


class ArenaHard(Form):
    """{"question_id": ..., "choices": [{"turns": [...]}, ...]}, the answers of MT-Bench and Arena-Hard v0.1, whose
    questions are in a file of their own (`--questions`); a reward for each choice."""

    name: ClassVar[str] = "Arena-Hard v0.1"
    columns: ClassVar[tuple[tuple[str, ...], ...]] = (("question_id", "choices"),)

    def read(self, row: Row, reading: Reading) -> Answers:
        asked = None if reading.questions is None else reading.questions(row["question_id"])
        if asked is None:
            raise Unreadable(NotScored.NO_QUESTION, f"question_id {row['question_id']}")
        choices = list_of(row["choices"])
        if not choices or not all(isinstance(one, dict) and isinstance(one.get("turns"), list) for one in choices):
            raise Unreadable(NotScored.WRONG_TYPE, "choices: expected a list of objects with turns")
        notes: set[str] = set()
        return joined(_each([turns_of(asked, one["turns"]) for one in choices], notes), row, notes)
