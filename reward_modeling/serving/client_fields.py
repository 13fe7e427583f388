"""What a server has answered, field by field: of the type and the number that was asked for, or not understood."""

import math
from collections.abc import Mapping
from typing import Any


class NotUnderstood(Exception):
    """A field is not what the protocol has there; the message says what was expected."""


def an_object(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise NotUnderstood(f"expected an object as {name}, found {_few(value)}")
    return value


def the_only_one(value: Any, name: str) -> Any:
    """Of a list, which has to have one entry, since one conversation was sent."""
    if not isinstance(value, list) or len(value) != 1:
        raise NotUnderstood(f"expected a list of one entry as {name}, found {_few(value)}")
    return value[0]


def a_number(value: Any, name: str) -> float:
    """null is not a number."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NotUnderstood(f"expected a number as {name}, found {_few(value)}")
    try:
        return float(value)
    except OverflowError as error:
        raise NotUnderstood(f"expected a number as {name}, found one beyond all floats") from error


def numbers(value: Any, name: str) -> dict[str, float]:
    """A list of one number and more, under the names name[0], name[1], ..."""
    if not isinstance(value, list) or not value:
        raise NotUnderstood(f"expected a list of numbers as {name}, found {_few(value)}")
    return {f"{name}[{place}]": a_number(one, f"{name}[{place}]") for place, one in enumerate(value)}


def a_count(value: Any, name: str) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise NotUnderstood(f"expected a count as {name}, found {_few(value)}")
    return value


def a_text(value: Any, name: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise NotUnderstood(f"expected a text as {name}, found {_few(value)}")
    return value


def tokens_of(found: Mapping[str, Any], name: str) -> int | None:
    """What the server has counted, where it says so."""
    usage = found.get("usage")
    return None if usage is None else a_count(an_object(usage, "usage").get(name), f"usage.{name}")


def _few(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:80]!r}"
