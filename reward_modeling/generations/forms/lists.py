"""Several answers to one prompt, in a list."""

from typing import ClassVar

from reward_modeling.generations.answers import Answers, NotScored, Unreadable
from reward_modeling.generations.forms.base import Form, Reading, Row, joined, list_of, prompt_of
from reward_modeling.generations.forms.sides import read_sides

KEYS = ("completion", "response")  # of an answer that is an object with what else is known of it


class Responses(Form):
    """{"prompt": text or messages, "responses": [text or messages, ...]}, as Online-RLHF samples and annotates."""

    name: ClassVar[str] = "responses"
    columns: ClassVar[tuple[tuple[str, ...], ...]] = (("responses",),)
    column: ClassVar[str] = "responses"

    def read(self, row: Row, reading: Reading) -> Answers:
        answers = list_of(row[self.column])
        if answers is None:
            raise Unreadable(NotScored.WRONG_TYPE, f"{self.column}: expected a list")
        notes: set[str] = set()
        answers = [_answer_in(one) for one in answers]
        return joined(read_sides(self.prompt(row), answers, notes, plain_text=reading.plain_text), row, notes)

    def prompt(self, row: Row) -> object:
        return prompt_of(row)


class Completions(Responses):
    """{"prompt": ..., "completions": [...]}; as objects with `completion` (NeMo-RL, beside `context`) or `response`
    (UltraFeedback, beside `instruction`)."""

    name: ClassVar[str] = "completions"
    columns: ClassVar[tuple[tuple[str, ...], ...]] = (("completions",),)
    column: ClassVar[str] = "completions"

    def prompt(self, row: Row) -> object:
        return prompt_of(row) if row.get("context") is None else row["context"]


def _answer_in(one: object) -> object:
    """The answer of {"response": ..., "model": ...}; anything else as it is."""
    if isinstance(one, dict) and "role" not in one and "from" not in one:
        return next((one[key] for key in KEYS if key in one), one)
    return one
