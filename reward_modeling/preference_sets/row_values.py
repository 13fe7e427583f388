"""What a script asks of a public set's row: a value of the right type, or the reason why the row is not used."""

import math
from collections.abc import Mapping

from reward_modeling.data.preferences import RowDropped
from reward_modeling.data.report import DropReason


def wrong_type(row: Mapping, column: str, expected: str) -> RowDropped:
    """To raise where a column has not the type it should have."""
    return RowDropped(DropReason.WRONG_TYPE, f"{column}: expected {expected}, found {str(row.get(column))[:80]!r}")


def text_of(row: Mapping, column: str) -> str:
    """A text; `RowDropped` where it is none."""
    if not isinstance(row.get(column), str):
        raise wrong_type(row, column, "text")
    return row[column]


def number_of(row: Mapping, column: str) -> float:
    """A number; `RowDropped` where it is missing, or none."""
    number = optional_number(row, column)
    if number is None:
        raise RowDropped(DropReason.NO_SCORE, f"{column} is missing")
    return number


def optional_number(row: Mapping, column: str) -> float | None:
    """A number, or None where it is missing; `RowDropped` where it is something else."""
    value = row.get(column)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong_type(row, column, "a number")
    return float_of(value)


def float_of(value: float) -> float:
    """Infinite where float64 cannot hold it: JSON knows such integers, and an infinite score is dropped."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def dicts_of(row: Mapping, column: str, expected: str) -> list[dict]:
    """A list of objects; `RowDropped` where it is something else."""
    values = row[column]
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise wrong_type(row, column, expected)
    return values


def preference_of(row: Mapping, column: str, strongest: int) -> int:
    """Which of two answers is preferred and how much: below 0 the first, above 0 the second, 0 neither."""
    preference = number_of(row, column)
    if preference not in range(-strongest, strongest + 1):
        raise wrong_type(row, column, f"a whole number from -{strongest} to {strongest}")
    return int(preference)


def name_source(name: str, subset: object) -> str:
    """The source of a pair: the set, and the part of it where the row names one."""
    return f"{name}/{subset}" if isinstance(subset, str) and subset else name
