"""From a row as it stands in a file to its answers: columns under the names of the user's, then its form."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from reward_modeling.data.read_options import ReadOptions
from reward_modeling.generations.answers import Answers, NotScored, Unreadable
from reward_modeling.generations.forms.base import Form, Reading, list_of
from reward_modeling.generations.forms.catalog import form_of

NO_OPTIONS = ReadOptions()


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

    def renamed(self, row: object) -> Mapping[str, object]:
        """The row with its columns under the names by which they are read."""
        if not isinstance(row, Mapping):
            raise Unreadable(NotScored.WRONG_TYPE, "expected an object with columns")
        if not self.columns.columns:
            return row
        inner = {name: column_of(row, name) for name in self.columns.named if "." in name and name not in row}
        renamed = self.columns.renamed({**row, **inner})
        answers = renamed.get("responses") if self.columns.reads("responses") else None
        if isinstance(answers, str) and list_of(answers) is None:  # the only one, where the user says what it is
            renamed["responses"] = [answers]
        return renamed


def column_of(row: Mapping[str, object], name: str) -> object:
    """A column by its name; "a.b" is what stands under b in the object a. None where there is none."""
    if name in row:
        return row[name]
    value: object = row
    for key in name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
