"""argparse for the fields of a dataclass, without transformers, whose import takes longer than all the rest of --help.

The types are those of transformers' HfArgumentParser, for its TrainingArguments: str, int, float, bool, lists of them,
enumerations, dictionaries as text, and each of these or None. A flag may be spelt with dashes.
"""

import argparse
import dataclasses
from enum import Enum
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

OF_ARGPARSE = ("choices", "nargs", "const")  # what a field may say beside its help
YES, NO = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")


def string_to_bool(text: str) -> bool:
    """The value of a switch that is given one."""
    if text.lower() not in (*YES, *NO):
        raise argparse.ArgumentTypeError(f"expected true or false, found {text}")
    return text.lower() in YES


def add_flags(parser: argparse.ArgumentParser, arguments_class: type) -> list[str]:
    """A flag for each field; returns the names of those that take one value or several."""
    hints = get_type_hints(arguments_class)
    several = []
    for declared in dataclasses.fields(arguments_class):
        if declared.init and _add_flag(parser, declared, hints[declared.name]):
            several.append(declared.name)
    return several


def _add_flag(parser: argparse.ArgumentParser, declared: dataclasses.Field, hint: Any) -> bool:
    """Whether the flag takes one value, which is then no list, or several."""
    name, kinds = declared.name, _kinds(hint)
    names = dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"])
    options = {option: declared.metadata[option] for option in OF_ARGPARSE if option in declared.metadata}
    options |= {"help": declared.metadata.get("help"), "default": _default(declared)}
    kind = _read_kind(kinds)
    is_several = str in kinds and list[str] in kinds
    if kind is bool:
        parser.add_argument(*names, type=string_to_bool, **({"nargs": "?", "const": True} | options))
        if declared.default is True:
            no = {"default": False, "dest": name, "help": options["help"]}
            parser.add_argument(f"--no_{name}", f"--no-{name.replace('_', '-')}", action="store_false", **no)
    elif isinstance(kind, type) and issubclass(kind, Enum):
        parser.add_argument(*names, **({"choices": [member.value for member in kind]} | options))
    elif get_origin(kind) is list:
        if isinstance(options["default"], str):  # which argparse would read as one of the list
            options["default"] = None
        parser.add_argument(*names, type=get_args(kind)[0], **({"nargs": "+"} | options))
    else:
        parser.add_argument(*names, type=kind, **({"nargs": "+"} if is_several else {}) | options)
    return is_several


def _kinds(hint: Any) -> tuple:
    """What a hint allows."""
    return get_args(hint) if get_args(hint) and get_origin(hint) not in (list, dict) else (hint,)


def _read_kind(kinds: tuple) -> Any:
    """The type as which a value is read: text where the class reads it itself, as a dictionary."""
    without_none = [kind for kind in kinds if kind is not NoneType]
    if bool in without_none:
        return bool
    if str in without_none and (NoneType in kinds or len(without_none) == 1):
        return str
    return next(kind for kind in without_none if kind is not str)


def _default(declared: dataclasses.Field) -> Any:
    has_factory = declared.default_factory is not dataclasses.MISSING
    return declared.default_factory() if has_factory else declared.default
