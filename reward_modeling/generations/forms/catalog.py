"""Which form a row is of: the first one here whose columns it has."""

from reward_modeling.generations.answers import NotScored, Unreadable
from reward_modeling.generations.forms.base import Form, Row
from reward_modeling.generations.forms.lists import Completions, Responses
from reward_modeling.generations.forms.pairs import Arena, ArenaHard, ArenaResponses, Preference
from reward_modeling.generations.forms.single import Alpaca, Completion, InputOutput, Messages, Text

FORMS: tuple[Form, ...] = (
    Responses(),
    Arena(),
    ArenaResponses(),
    Preference(),
    Completions(),
    ArenaHard(),
    Completion(),
    Alpaca(),
    InputOutput(),
    Messages(),
    Text(),
)
SHOWN_COLUMNS = 12


def form_of(row: Row, as_it_stands: Row | None = None) -> Form:
    """
    Args:
        as_it_stands: the row with its columns under their own names, for a message.

    Raises:
        Unreadable: of none.
    """
    for form in FORMS:
        if form.has(row):
            return form
    for name in (name for form in FORMS for names in form.columns if row.keys() >= {*names} for name in names):
        if row[name] is None:
            raise Unreadable(NotScored.NO_ANSWER, f"{name}: null")
    names = ", ".join(map(str, list(row if as_it_stands is None else as_it_stands)[:SHOWN_COLUMNS])) or "none"
    raise Unreadable(NotScored.NO_FORM, f"columns: {names}")
