"""The scripts of data_prep as modules: which there are, and the arguments that options of a mixture give them."""

import importlib
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from types import ModuleType

from reward_modeling.common.arguments import ScriptArgumentParser
from reward_modeling.common.errors import UserError, did_you_mean
from reward_modeling.preference_sets.arguments import OUTPUT_FLAGS, SourceArguments

SCRIPTS = Path(__file__).resolve().parents[2] / "data_prep"
NO_SOURCES = ("build_mixture", "lint")  # scripts that read no set of their own


def known_scripts() -> list[str]:
    names = sorted(file.stem for file in SCRIPTS.glob("*.py"))
    return [name for name in names if name not in NO_SOURCES and not name.startswith("_")]


def script_module(name: str) -> ModuleType:
    """
    Raises:
        UserError: data_prep has no such script.
    """
    known = known_scripts()
    if name not in known:
        raise UserError(f"script: expected one of {', '.join(known)}, found {name!r}{did_you_mean(name, known)}")
    return importlib.import_module(f"data_prep.{name}")


def source_arguments(script: str | None, options: Mapping[str, object]) -> SourceArguments:
    """The arguments of a script, or of a file, with these options in place of its defaults.

    Raises:
        UserError: the script has no such option, or refuses a value.
    """
    kind = SourceArguments if script is None else script_module(script).ScriptArguments
    known = [one.name for one in fields(kind) if one.name not in OUTPUT_FLAGS]
    decided = [name for name in options if name in OUTPUT_FLAGS]
    problems = [f"option {name}: expected where build_mixture.py takes it, as --{name}, found here" for name in decided]
    problems += unknown_names([name for name in options if name not in decided], known, "option")
    if problems:
        raise UserError("\n".join(problems))
    parser = ScriptArgumentParser(kind, allow_abbrev=False, prog=f"data_prep/{script}.py")
    given = {name: value for name, value in options.items() if value is not None}
    tokens = [
        f"--{name}={','.join(map(str, value)) if isinstance(value, list) else value}" for name, value in given.items()
    ]
    try:
        return parser.parse_args_into_dataclasses(tokens, look_for_args_file=False)[0]
    except (ValueError, TypeError) as error:
        raise UserError(f"options: {error}") from error


def unknown_names(given: Collection[str], known: Collection[str], kind: str) -> list[str]:
    """What is wrong with the names that are not known."""
    names = f"; known: {', '.join(known)}"
    return [f"unknown {kind} {name!r}{did_you_mean(str(name), known) or names}" for name in given if name not in known]
