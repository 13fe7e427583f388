"""Flags that say themselves how they are checked, what a resume does with them, and whether a run logs them.

    @dataclass
    class Flags:
        max_length: Annotated[int, at_least(1), OnResume.DATA, LOGGED] = field(default=4096, metadata={"help": "..."})

A script that changes a default repeats name and type alone (`max_length: int = 2048`): help and rules are those of the
base class.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from enum import Enum
from typing import Annotated, Any, get_origin

NEEDS_ADAPTER = "needs an adapter"  # refused without --use_peft
LOGGED = "logged"  # the value stands in run.json and in the model card, whether it was given or not


class OnResume(Enum):
    """What happens where a checkpoint was made with another value."""

    FIXED = "refused: the checkpoint's value would go on without a word, or the steps would be others"
    FREE = "said: it takes effect from here on"
    DATA = "said where the data differ: pairs and tokens depend on it"


@dataclass(frozen=True)
class Check:
    """Which values a flag takes. None, where a flag may be unset, always passes."""

    expected: str
    passes: Callable[[Any], bool]


def one_of(*allowed: str) -> Check:
    """One of these words."""
    return Check(f"one of {', '.join(allowed)}", lambda value: value in allowed)


def at_least(least: float) -> Check:
    """A number from `least` on."""
    return Check(f"at least {least}", lambda value: value >= least)


def from_to(low: float, high: int) -> Check:
    """A number from `low` to `high`, both included."""
    return Check(f"{low} to {high}", lambda value: low <= value <= high)


def below(end: float) -> Check:
    """A number from 0 on and below `end`."""
    return Check(f"0 or more and below {end:g}", lambda value: 0 <= value < end)


NOT_NEGATIVE = Check("0 or more", lambda value: 0 <= value < math.inf)


def flag_problems(arguments: Any) -> Iterator[str]:
    """Every value that its flag does not take, with what was expected and what was found."""
    for name in flag_names(type(arguments)):
        value = getattr(arguments, name)
        for check in (rule for rule in rules_of(type(arguments), name) if isinstance(rule, Check)):
            if value is not None and not check.passes(value):
                yield f"--{name}: expected {check.expected}, found {value!r}"


def flags_with(arguments_class: type, rule: object) -> list[str]:
    """The names of the flags that have this rule, in the order in which they are declared."""
    return [name for name in flag_names(arguments_class) if rule in rules_of(arguments_class, name)]


def flag_names(arguments_class: type) -> list[str]:
    return [field.name for field in fields(arguments_class)]


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
