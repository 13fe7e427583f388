"""From a row as it stands in a file to its answers: columns under the names of the user's, then its form."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from reward_modeling.data.pairs import read_text
from reward_modeling.data.read_options import ReadOptions
from reward_modeling.generations.answers import Answers, NotScored, Unreadable
from reward_modeling.generations.forms.base import Form, Reading, list_of
from reward_modeling.generations.forms.catalog import form_of
from reward_modeling.generations.forms.sides import in_own_words

NO_OPTIONS = ReadOptions()
LISTS = ("responses", "completions", "choices", "history")  # columns that hold lists, of messages or of answers


@dataclass(frozen=True)
class RowReader:
    """What a row's answers are, by the columns and the way of reading that the flags ask for."""

    columns: ReadOptions = NO_OPTIONS
    reading: Reading = field(default_factory=Reading)

    def read(self, row: object) -> Answers:
        """
        Raises:
            Unreadable: nothing of it can be scored.
        """
        return self.form(row).read(self.renamed(row), self.reading)

    def form(self, row: object) -> Form:
        """
        Raises:
            Unreadable: of none.
        """
        return form_of(self.renamed(row), row)

    def of_table(self, row: Mapping[str, object]) -> dict[str, object]:
        """A row of a table of text (CSV, TSV), which has messages and lists of answers as JSON, with these as such.

        Raises:
            Unreadable: a text begins like messages, and is no JSON.
        """
        own = (names[0] for target, names in self.columns.columns if target in LISTS and len(names) == 1)
        lists = {*LISTS, *own}
        with in_own_words():
            read = {name: read_text(value, set()) for name, value in row.items()}
        found = {name: list_of(value) for name, value in read.items() if name in lists}
        return read | {name: value for name, value in found.items() if value is not None}

    def renamed(self, row: object) -> Mapping[str, object]:
        """The row with its columns under the names by which they are read."""
        if not isinstance(row, Mapping):
            raise Unreadable(NotScored.WRONG_TYPE, "expected an object with columns")
        if not self.columns.columns:
            return row
        inner = {name: column_of(row, name) for name in self.columns.named if "." in name and name not in row}
        renamed = self.columns.renamed({**row, **inner})
        if self.columns.reads("responses") and isinstance(renamed.get("responses"), str):
            renamed["responses"] = [renamed["responses"]]  # the only one: the user says what it is
        return renamed


def column_of(row: Mapping[str, object], name: str) -> object:
    """A column by its name; "a.b" is what stands under b in the object a. None where there is none."""
    if name in row:
        return row[name]
    value: object = row
    for key in name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
