"""Where in a row the numbers stand: a column under its name, in an object, or in several columns, as of --columns.

value_of({"a": {"right": True}, "b": {"right": False}}, "a.right+b.right")      # [True, False]
"""

from collections.abc import Mapping
from dataclasses import dataclass

from reward_modeling.generations.added_columns import REWARDS
from reward_modeling.generations.forms.reader import column_of

TRUTH = "is_correct"  # read where it is there, unless --truth_column names another one
REWARD_COLUMN = "--reward_column"
SEVERAL_HELP = " Several columns, one for each answer, have + between; a dot leads into an object: a.score+b.score."


@dataclass(frozen=True)
class RewardColumns:
    """Where in a row the numbers stand."""

    rewards: str = REWARDS
    by: str | None = None
    """An attribute that is chosen by, in the place of the reward."""
    weights: Mapping[str, float] | None = None
    """Of attributes, whose weighted sum is chosen by."""
    truth: str | None = None
    final: str | None = None

    @property
    def truth_name(self) -> str:
        return self.truth or TRUTH

    @property
    def named(self) -> dict[str, str]:
        """The flags that name columns, with what they name."""
        flags = {REWARD_COLUMN: None if self.attributes else self.rewards}
        flags |= {"--truth_column": self.truth, "--answer_column": self.final}
        return {flag: name for flag, name in flags.items() if name is not None}

    @property
    def are_scores(self) -> bool:
        """Whether what is chosen by is the reward that score.py has written."""
        return self.rewards == REWARDS and not self.attributes

    @property
    def attributes(self) -> tuple[str, ...]:
        return (self.by,) if self.by else tuple(self.weights or ())


def value_of(row: Mapping[str, object], name: str) -> object:
    """What a row has under a name: a.b leads into the object a; a+b is a list with a value of each column, in the order
    of the answers. None where there is nothing."""
    if name in row:
        return row[name]
    values = [column_of(row, part) for part in _parts(name)]
    if len(values) == 1:
        return values[0]
    return None if all(value is None for value in values) else values


class MissingColumns:
    """Which columns flags name, several with + between, and no row has had yet."""

    def __init__(self, named: Mapping[str, str]):
        self._named = named
        self._missing = {flag: set(_parts(names)) for flag, names in named.items() if names}

    def see(self, row: Mapping[str, object]) -> None:
        """A row, which may have some of them."""
        for flag, missing in self._missing.items():
            if missing and self._named[flag] in row:  # a + may be a part of a name
                missing.clear()
            elif missing:
                missing -= {name for name in missing if name in row or column_of(row, name) is not None}

    def columns(self) -> list[tuple[str, str]]:
        """(flag, column)."""
        return [(flag, name) for flag, missing in self._missing.items() for name in sorted(missing)]


def _parts(names: str) -> list[str]:
    return [part for part in map(str.strip, names.split("+")) if part] or [names]
