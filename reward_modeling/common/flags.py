"""Flags that say which values they take, what a resume does with them, and whether a run logs them.

    @dataclass
    class Flags:
        max_length: Annotated[int, at_least(1), OnResume.DATA, LOGGED] = flag(4096, "Longest conversation, in tokens.")

A script that changes a default repeats name and type alone (`max_length: int = 2048`): help and rules are those of the
base class.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Annotated, Any, get_origin

from reward_modeling.common.errors import did_you_mean

PATH = "a path"  # or several, or name=path: `~` means home, wherever one begins
NEEDS_ADAPTER = "needs an adapter"  # refused without --use_peft
LOGGED = "logged"  # the value stands in run.json and in the model card, whether it was given or not


class OnResume(Enum):
    """What happens where a checkpoint was made with another value."""

    FIXED = "refused: a checkpoint's own value would silently win, or the steps would be others"
    FREE = "allowed, with a warning: the new value takes effect from here on"
    DATA = "named as the cause where the data differ, since pairs and tokens depend on it"


@dataclass(frozen=True)
class Check:
    """Which values a flag takes. None, where a flag may be unset, always passes."""

    expected: str
    passes: Callable[[Any], bool]
    advice: str = ""
    choices: tuple[str, ...] = ()

    def problem(self, name: str, value: Any) -> str | None:
        """What was expected and what was found, or None for a value that passes."""
        if value is None or self.passes(value):
            return None
        hint = did_you_mean(str(value).lower(), self.choices)
        return f"--{name}: expected {self.expected}, found {_as_typed(value)}{hint}" + (
            f". {self.advice}" if self.advice else ""
        )


def _as_typed(value: Any) -> str:
    """As a person writes it on the command line; words in quotes."""
    return str(value).lower() if isinstance(value, bool) else repr(value)


def one_of(*choices: str) -> Check:
    """One of these words; or several, for a flag that takes a list."""

    def passes(value: str | list[str]) -> bool:
        return {*([value] if isinstance(value, str) else value)} <= {*choices}

    return Check(f"one of {', '.join(choices)}", passes, choices=choices)


def at_least(least: float) -> Check:
    """A number from `least` on."""
    return Check(f"at least {least}", lambda value: value >= least)


def from_to(low: float, high: float) -> Check:
    """A number from `low` to `high`, both included."""
    return Check(f"{low} to {high}", lambda value: low <= value <= high)


def below(end: float) -> Check:
    """A number from 0 on and below `end`."""
    return Check(f"0 or more and below {end:g}", lambda value: 0 <= value < end)


def unsupported(default: Any, reason: str) -> Check:
    """A flag of transformers that would do nothing here, or something else than it says."""
    return Check(_as_typed(default).strip("'"), lambda value: value == default, reason)


NOT_NEGATIVE = Check("0 or more", lambda value: 0 <= value < math.inf)
SEED = from_to(0, 2**32 - 1)


def flag(default: Any, help: str) -> Any:
    """A field of a dataclass of flags."""
    return field(default=default, metadata={"help": help})


def flag_problems(arguments: Any) -> Iterator[str]:
    """One message for each value that its flag does not take."""
    for name in flag_names(type(arguments)):
        checks = (rule for rule in rules_of(type(arguments), name) if isinstance(rule, Check))
        yield from filter(None, (check.problem(name, getattr(arguments, name)) for check in checks))


def flags_with(arguments_class: type, rule: object) -> list[str]:
    """The names of the flags that have this rule, in the order in which they are declared."""
    return [name for name in flag_names(arguments_class) if rule in rules_of(arguments_class, name)]


def changed_flags(arguments: Any, names: list[str]) -> list[str]:
    """Those of the flags whose value is not their default."""
    defaults = type(arguments).__dataclass_fields__
    return [name for name in names if getattr(arguments, name) != defaults[name].default]


def flag_names(arguments_class: type) -> list[str]:
    return [declared.name for declared in fields(arguments_class)]


def rules_of(arguments_class: type, name: str) -> tuple:
    """The rules of the nearest class that gives any."""
    for base in arguments_class.__mro__:
        annotation = inspect.get_annotations(base).get(name)
        if get_origin(annotation) is Annotated:
            return annotation.__metadata__
    return ()


def help_of(arguments_class: type, name: str) -> str | None:
    """The help of the nearest class that gives one."""
    for base in arguments_class.__mro__:
        declared = base.__dict__.get("__dataclass_fields__", {}).get(name)
        if declared is not None and "help" in declared.metadata:
            return declared.metadata["help"]
    return None
