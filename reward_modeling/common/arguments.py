"""Command-line arguments of a script: one dataclass, an optional YAML file, mistakes in one short message."""

import argparse
import copy
import json
import sys
from collections.abc import Callable, Collection, Sequence
from typing import NoReturn, TypeVar

from reward_modeling.common.errors import UserError, nearest_name
from reward_modeling.common.flag_parser import add_flags
from reward_modeling.common.flags import PATH, flag_names, flags_with, help_of
from reward_modeling.common.paths import expand_home
from reward_modeling.common.yaml_files import read_yaml

Arguments = TypeVar("Arguments")

HELP_ALL = "Show these flags and those of transformers' TrainingArguments, which all work here."
NEARLY = 0.8  # of both spellings: of so many flags one is always a little like any word
SHORTEST_BEGINNING = 4  # letters
NOT_KEPT = "(not kept)"  # in the place of a secret
# What other tools call it; the names here are those of rm.py and eval_bench_mark.py.
OTHER_NAMES = {
    "lr": ("learning_rate",),
    "batch_size": ("pairs_per_step", "max_tokens_per_batch"),
    "epochs": ("num_train_epochs",),
    "model": ("model_name", "reward_name_or_path"),
    "model_name_or_path": ("model_name", "reward_name_or_path"),
    "dataset": ("train_set_path", "pairs_path"),
    "dataset_name": ("train_set_path", "pairs_path"),
    "output": ("output_path", "output_dir"),
    "max_seq_length": ("max_length",),
}


class FlagFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Each flag under one name, though `--max-length` is read, too, and without an unset default."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        shown = copy.copy(action)
        shown.option_strings = [name for name in action.option_strings if "-" not in name.lstrip("-")]
        return super()._format_action_invocation(shown)

    def _get_help_string(self, action: argparse.Action) -> str:
        return action.help if action.default is None else super()._get_help_string(action)


class ScriptArgumentParser(argparse.ArgumentParser):
    """argparse for a dataclass of some 150 fields: a mistake names the flag, not the whole usage."""

    def __init__(self, arguments_class: type, *, show_all: bool = False, **options):
        super().__init__(formatter_class=FlagFormatter, **options)
        self.arguments_class = arguments_class
        self.usage = "%(prog)s [--config FILE.yaml] [--flag value ...]"
        self._one_or_more = add_flags(self, arguments_class)
        self._paths = flags_with(arguments_class, PATH)
        for action in self._actions:
            if action.help is None:  # a script that changes a default leaves the help to its base class
                action.help = help_of(arguments_class, action.dest.removeprefix("no_"))
        self._fold_inherited_flags(arguments_class, show_all)

    def _fold_inherited_flags(self, arguments_class: type, show_all: bool) -> None:
        """--help shows the flags that this project declares; transformers' own come with --help_all."""
        base = next((base for base in arguments_class.__mro__ if base.__module__.startswith("transformers.")), None)
        if base is None:
            for action in self._actions:
                if (
                    action.help is None or f"--{action.dest}" not in action.option_strings
                ):  # one of transformers'; --no_bf16
                    action.help = argparse.SUPPRESS
            return
        names = (name for name in flag_names(arguments_class) if help_of(arguments_class, name) != help_of(base, name))
        own = {"--help", *(f"--{name}" for name in names)}  # and no --no_bf16
        for action in self._actions:
            if not show_all and not own & set(action.option_strings):
                action.help = argparse.SUPPRESS
        self.add_argument("--help_all", action="help", help=HELP_ALL)

    def parse_known_args(self, args=None, namespace=None):
        namespace, rest = super().parse_known_args(args, namespace)
        for name in self._one_or_more:
            value = getattr(namespace, name)
            if isinstance(value, list) and len(value) == 1:
                setattr(namespace, name, value[0])
        for name in self._paths:  # here alone: what is read afterwards never sees a `~`
            setattr(namespace, name, _at_home(getattr(namespace, name)))
        return namespace, rest

    def parse_arguments(self, argv: Sequence[str]) -> tuple[object, list[str]]:
        """The dataclass, and the values that no flag has taken."""
        namespace, rest = self.parse_known_args(argv)
        names = flag_names(self.arguments_class)
        values = {name: value for name, value in vars(namespace).items() if name in names}
        return self.arguments_class(**values), rest

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}. All flags: python {self.prog} --help")


def parse_script_arguments(
    arguments_class: type[Arguments], argv: Sequence[str] | None = None
) -> tuple[Arguments, dict[str, object]]:
    """Read `--config FILE.yaml` and flags, flags winning, into the dataclass.

    Returns:
        The arguments, and those that were given, as they were given.

    Raises:
        UserError: unknown flag, wrong value, a flag or key that is there twice, unreadable YAML.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = script_parser(arguments_class, show_all="--help_all" in argv)
    tokens = all_tokens(parser, argv)
    try:
        arguments, left_over = parser.parse_arguments(tokens)
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"arguments: {error}") from error
    if left_over:
        raise UserError(_too_many_values(tokens, left_over))
    return arguments, _given_values(parser, tokens)


def script_parser(arguments_class: type, *, show_all: bool = False) -> ScriptArgumentParser:
    """The parser of a script's flags, with --config."""
    parser = ScriptArgumentParser(arguments_class, show_all=show_all, allow_abbrev=False)
    parser.add_argument("--config", help="A YAML file of flags and values; flags on the command line win.")
    return parser


def all_tokens(parser: ScriptArgumentParser, argv: list[str], others: Collection[str] = ()) -> list[str]:
    """The command line with what the file of --config says before it.

    Args:
        others: names of flags that this parser does not know, and that are right all the same.

    Raises:
        UserError: an unknown flag or key, one that is there twice, an unreadable file.
    """
    config_path = _config_path(argv)
    from_file = {}
    if config_path is not None:
        from_file = read_yaml(config_path, f"--config {config_path}", "a mapping of flags to values")
    # reversed: --no_bf16 has the destination of --bf16 and comes after it
    known = {name: f"--{name}" for name in others}
    known |= {action.dest: action.option_strings[0] for action in reversed(parser._actions) if action.option_strings}
    _check_names(list(from_file), list(known), lambda name: f"{config_path}: unknown key {name!r}")
    tokens = [token for name, value in from_file.items() for token in _as_tokens(known[name], value)]
    if argv and not argv[0].startswith("-") and argv[0].endswith((".yaml", ".yml")):
        raise UserError(f"expected flags, found {argv[0]}: a file of flags is passed as --config {argv[0]}")
    given = [token.split("=")[0] for token in argv if token.startswith("--")]
    options = [option for action in parser._actions for option in action.option_strings]
    options += [option for name in others for option in spellings(name)]
    _check_names(given, options, lambda name: f"unknown flag {name}")
    if problems := _given_twice(parser, argv):
        raise UserError("\n".join(problems))
    return tokens + argv


def spellings(name: str) -> list[str]:
    """A flag as the command line may have it."""
    return [f"--{no}{spelt}" for no in ("", "no_") for spelt in (name, name.replace("_", "-"))] + [
        f"--no-{name.replace('_', '-')}"
    ]


def without_tokens(argv: Sequence[str]) -> list[str]:
    """The command line without the values of --hub_token and the like: trackers write it down."""
    kept = []
    for token in argv:
        name = kept[-1] if kept else ""
        flag, equals, _ = token.partition("=")
        if _takes_token(name):
            kept.append(NOT_KEPT)
        elif equals and _takes_token(flag):
            kept.append(f"{flag}={NOT_KEPT}")
        else:
            kept.append(token)
    return kept


def _takes_token(flag: str) -> bool:
    """Whether the flag's value is a secret; `--hub-token` is read, too."""
    return flag.startswith("--") and flag.endswith(("_token", "-token"))


def _at_home(value: object) -> object:
    """A path, or several of them, with home in the place of `~`; whatever else a flag may have as it is."""
    if isinstance(value, list):
        return [_at_home(one) for one in value]
    return expand_home(value) if isinstance(value, str) else value


def _given_twice(parser: ScriptArgumentParser, argv: list[str]) -> list[str]:
    """argparse would take the last one, and say nothing of the others."""
    actions = {option: action for action in parser._actions for option in action.option_strings}
    given: dict[str, list[str]] = {}
    for option in (token.split("=")[0] for token in argv):
        if option in actions:
            given.setdefault(actions[option].dest, []).append(option)
    problems = []
    for options in (options for options in given.values() if len(options) > 1):
        flag, found = options[0], "it twice" if len(set(options)) == 1 else f"{' and '.join(dict.fromkeys(options))}"
        if len(options) > 2:
            found = f"it {len(options)} times"
        several = f"Several values go behind one flag: {flag} a b" if actions[flag].nargs == "+" else "Pass one of them"
        problems.append(f"{flag}: expected it once, found {found}. {several}.")
    return problems


def _config_path(argv: list[str]) -> str | None:
    for position, token in enumerate(argv):
        if token.startswith("--config="):
            return expand_home(token.removeprefix("--config="))
        if token == "--config":
            if position + 1 == len(argv):
                raise UserError("--config: expected a YAML file, found nothing")
            return expand_home(argv[position + 1])
    return None


def _check_names(names: list[str], known: list[str], describe: Callable[[str], str]) -> None:
    problems = [describe(name) + _hint(name, known) for name in names if name not in known]
    if problems:
        raise UserError("\n".join(problems))


def _hint(name: str, known: list[str]) -> str:
    """Which flag was meant: what another tool's is called here, one that is nearly spelt so, or one that begins so."""
    dashes, name = ("--" if name.startswith("--") else ""), name.removeprefix("--")
    bare = [other.removeprefix("--") for other in known]
    meant = next((other for other in OTHER_NAMES.get(name, ()) if other in bare), None)
    meant = meant or nearest_name(name, bare, cutoff=NEARLY)
    if meant is None and len(name) >= SHORTEST_BEGINNING:
        meant = min((other for other in bare if other.startswith(name)), key=len, default=None)
    return "" if meant is None else f"; did you mean {dashes}{meant}?"


def _too_many_values(tokens: list[str], left_over: list[str]) -> str:
    """Most often an unquoted glob, of which the shell has made many values."""
    before = [token for token in tokens[: tokens.index(left_over[0])] if token.startswith("--")]
    found = ", ".join(map(repr, left_over[:3])) + (f" and {len(left_over) - 3} more" if len(left_over) > 3 else "")
    if not before:
        return f"expected flags, found {found}"
    return (
        f"{before[-1]}: expected one value, found {found} after it. Several files go in as a folder or a glob, and a "
        "glob in quotes ('data/*.jsonl'): the shell makes many values of it otherwise."
    )


def _as_tokens(option: str, value: object) -> list[str]:
    if value is None:
        return []
    if isinstance(value, list):
        return [option, *map(str, value)]
    return [option, json.dumps(value) if isinstance(value, dict) else str(value)]


def _given_values(parser: ScriptArgumentParser, tokens: list[str]) -> dict[str, object]:
    """The arguments that were passed, without the defaults, for the record beside the model."""
    namespace = parser.parse_args(tokens)
    options = {option: action.dest for action in parser._actions for option in action.option_strings}
    names = {options[token.split("=")[0]] for token in tokens if token.split("=")[0] in options}
    return {name: NOT_KEPT if name.endswith("_token") else getattr(namespace, name) for name in sorted(names)}
