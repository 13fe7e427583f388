"""Rows as they are scored together: some thousand conversations at a time, the same ones on every process.

What a window is follows from the rows alone. So every window gives the same rewards bit for bit, on any number of
processes and wherever a run was begun again.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from reward_modeling.data.conversations import Conversation
from reward_modeling.generations.added_columns import ADDED
from reward_modeling.generations.answers import Answers, Unreadable
from reward_modeling.generations.forms import RowReader
from reward_modeling.generations.input_rows import InputRow, values_to_read
from reward_modeling.scoring.windows import WINDOW


@dataclass
class ReadRow:
    """A row with what was read of it."""

    row: InputRow
    form: str | None
    answers: Answers | None
    problem: Unreadable | None
    """Why nothing of it can be scored."""
    refused: dict[int, Unreadable] = field(default_factory=dict)
    """Of answers that could be read what keeps them from being scored."""

    def to_score(self) -> list[tuple[int, Conversation]]:
        """(place, conversation) of its answers."""
        if self.answers is None:
            return []
        return [(place, one) for place, one in self.answers.conversations() if place not in self.refused]


def read_row(row: InputRow, reader: RowReader) -> ReadRow:
    """What can be read of a row; rewards of an earlier scoring are no part of it.

    A table of text has lists as JSON. They are lists in the row that is given back, and so in the output: there a text
    is nothing but a text.
    """
    form = None
    try:
        row = row._replace(values=reader.of_table(row.values)) if row.is_text else row
        values = {name: value for name, value in values_to_read(row).items() if name not in ADDED}
        form = reader.form(values).name
        return ReadRow(row, form, reader.read(values), None)
    except Unreadable as problem:
        return ReadRow(row, form, None, problem)


def answers_in(row: ReadRow) -> int:
    return 0 if row.answers is None else len(row.answers)


def windows_of(rows: Iterable[ReadRow], size_of: Callable[[ReadRow], int] = answers_in) -> Iterator[list[ReadRow]]:
    """Windows that end where a prompt ends, as those of the scorer: answers to it that are equal get equal rewards.

    Args:
        size_of: how much of a window a row is.
    """
    window: list[ReadRow] = []
    size, last = 0, None
    for row in rows:
        prompt = None if row.answers is None else (row.answers.prompt, row.answers.options)
        goes_on = prompt is not None and prompt == last
        if max(size, len(window)) >= 2 * WINDOW or (max(size, len(window)) >= WINDOW and not goes_on):
            yield window
            window, size = [], 0
        window.append(row)
        size += size_of(row)
        last = prompt
    if window:
        yield window
