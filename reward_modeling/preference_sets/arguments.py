"""The flags that every script of data_prep has; which scripts there are, and what options of a mixture give them."""

import glob
import importlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated

from reward_modeling.common.arguments import ScriptArgumentParser
from reward_modeling.common.errors import UserError, did_you_mean
from reward_modeling.common.flags import PATH, SEED, at_least, changed_flags, flag, flag_names, flag_problems, one_of
from reward_modeling.data.read_options import (
    COLUMNS_HELP,
    IGNORE_HELP,
    PREFERRED_HELP,
    RATED_TARGETS,
    TARGETS,
    read_options_problems,
)

SCRIPTS = Path(__file__).resolve().parents[2] / "data_prep"
NO_SOURCES = ("build_mixture", "lint")  # scripts that read no set of their own
PAIRS, RATINGS = "pairs", "ratings"  # kinds of rows
PREFIX_HELP = "Of ratings: what goes before the names of the attributes, as ultrafeedback- in ultrafeedback-honesty."
FORMATS = ("parquet", "jsonl")
OUTPUT_FLAGS = ("output_path", "format", "num_proc", "overwrite")  # all others decide which pairs there are


@dataclass
class SourceArguments:
    """The flags of a script that reads one public set; each script sets its own defaults and adds its own flags."""

    dataset_path: Annotated[str, PATH] = flag(
        "", "Hub id, or a local .parquet, .jsonl, .json or .arrow file, folder or glob."
    )
    split: str = flag("train", "Split; in a local folder, the files named so (train.jsonl.gz).")
    revision: str | None = flag(None, "Branch, tag or commit on the Hub.")
    output_path: Annotated[str, PATH] = flag("", "Folder to write the pairs and their manifest.json to.")
    format: Annotated[str, one_of(*FORMATS)] = flag("parquet", "parquet or jsonl.")
    seed: Annotated[int, SEED] = flag(0, "Of every random choice.")
    num_proc: Annotated[int | None, at_least(1)] = flag(
        None, "Worker processes that read. Unset: one per core, at most 16."
    )
    overwrite: bool = flag(False, "Replace what is in output_path.")

    def __post_init__(self):
        check_flags(self)

    def problems(self) -> list[str]:
        """What is wrong beside the values that a flag does not take."""
        return []

    @property
    def row_kind(self) -> str:
        """Whether pairs are written, or rows of ratings."""
        return PAIRS

    def options(self) -> dict[str, object]:
        """What decides which pairs there are, for the manifest: not where they go, nor how many workers there are.

        A local path has no revision, and a file or a glob no split: both are None there.
        """
        options = {name: value for name, value in asdict(self).items() if name not in OUTPUT_FLAGS}
        path = self.dataset_path
        local, before_split = Path(path).expanduser(), Path(path.rpartition(":")[0] or path).expanduser()
        if local.is_file() or (glob.has_magic(path) and not local.exists()):
            return options | {"split": None, "revision": None}
        return options | {"revision": None} if local.exists() or before_split.exists() else options


@dataclass
class RatedSourceArguments(SourceArguments):
    """The flags of a script whose set rates its answers: it writes pairs or ratings."""

    rows: Annotated[str, one_of(PAIRS, RATINGS)] = flag(
        PAIRS,
        "pairs, which rm.py reads; or ratings, which rm_regression.py reads: a row for each answer with a column for "
        "each attribute.",
    )
    attribute_prefix: str = flag("", PREFIX_HELP)

    @property
    def row_kind(self) -> str:
        return self.rows

    def rating_problems(self, *of_pairs: str) -> list[str]:
        """What is wrong with the flags where ratings are written, or are not.

        Args:
            of_pairs: flags that say which pairs are made.
        """
        wrong = prefix_problems(self.attribute_prefix, "--attribute_prefix")
        if self.rows == PAIRS:
            found = f"found --attribute_prefix {self.attribute_prefix}"
            return wrong or [f"--attribute_prefix: expected with --rows ratings, {found}"] * bool(self.attribute_prefix)
        given = [f"--{name} {getattr(self, name)}" for name in changed_flags(self, list(of_pairs))]
        names = ", ".join(f"--{name}" for name in of_pairs)
        for_pairs = f"--rows ratings: expected none of {names}, which are for pairs, found {' '.join(given)}"
        return [*wrong, *[for_pairs] * bool(given)]


def check_flags(arguments: object) -> None:
    """
    Raises:
        UserError: with everything that is wrong with the values.
    """
    raise_all([*flag_problems(arguments), *arguments.problems()])


def raise_all(problems: Collection[str]) -> None:
    """
    Raises:
        UserError: with all the problems, where there are any.
    """
    if problems:
        raise UserError("\n".join(problems))


# --- scripts --------------------------------------------------------------------------------------------------


def known_scripts() -> list[str]:
    names = sorted(file.stem for file in SCRIPTS.glob("*.py"))
    return [name for name in names if name not in NO_SOURCES and not name.startswith("_")]


def script_module(name: str) -> ModuleType:
    known = known_scripts()
    if name not in known:
        raise UserError(f"script: expected one of {', '.join(known)}, found {name!r}{did_you_mean(name, known)}")
    return importlib.import_module(f"data_prep.{name}")


def rows_problem(script: str) -> str:
    """What to say where a script is asked for `rows` that has no such flag."""
    rated = [name for name in known_scripts() if issubclass(script_module(name).ScriptArguments, RatedSourceArguments)]
    alone = script_module(script).ScriptArguments().row_kind
    return f"rows: expected with a set that has pairs and ratings ({', '.join(rated)}), found {script}: {alone} alone"


@dataclass
class FileArguments(SourceArguments):
    """The options of a file of preference rows or of rows of ratings in a mixture."""

    columns: str | None = flag(None, COLUMNS_HELP)
    ignore_columns: str | None = flag(None, IGNORE_HELP)
    preferred_values: str | None = flag(None, PREFERRED_HELP)
    attributes: str | None = flag(
        None,
        "The columns of ratings, with commas between, where its rows are ratings. Unset: those that a manifest.json of "
        "data_prep names, else its rows are pairs.",
    )
    attribute_prefix: str = flag("", PREFIX_HELP)

    @property
    def targets(self) -> tuple[str, ...]:
        """What `columns` may read."""
        return TARGETS if self.attributes is None else (*RATED_TARGETS, *attribute_names(self.attributes))

    def problems(self) -> list[str]:
        names = attribute_names(self.attributes)
        return [
            *read_options_problems(self.columns, self.ignore_columns, self.preferred_values, self.targets),
            *(
                ["attributes: expected the columns of ratings, found none"]
                * (self.attributes is not None and not names)
            ),
            *name_problems(names, "attributes"),
            *prefix_problems(self.attribute_prefix, "attribute_prefix"),
        ]


def attribute_names(attributes: str | None) -> list[str]:
    """The names in a flag that has commas between them."""
    return [name.strip() for name in (attributes or "").split(",") if name.strip()]


def name_problems(names: Sequence[str], option: str) -> list[str]:
    """What is wrong with the names of attributes, each of which is a column."""
    taken = sorted(set(names) & set(RATED_TARGETS))
    repeated = sorted({name for name in names if names.count(name) > 1})
    problems = [
        f"{option}: expected columns of ratings, found {name}, which is read as something else" for name in taken
    ]
    return problems + [f"{option}: expected each attribute once, found {name} twice" for name in repeated]


def prefix_problems(prefix: str, option: str) -> list[str]:
    """What is wrong with the letters of a prefix: rm_regression.py has commas between names and = behind them."""
    found = [
        words
        for words, is_there in (
            ("a comma", "," in prefix),
            ("=", "=" in prefix),
            ("white space at its beginning", prefix != prefix.lstrip()),
            ("a character that cannot be printed", not prefix.isprintable()),
        )
        if is_there
    ]
    return [f"{option}: expected what --attributes can name, found {' and '.join(found)} in {prefix!r}"] * bool(found)


def prefixed_name(prefix: str, name: str) -> str:
    """The name of an attribute's column.

    Raises:
        UserError: a column of that name is read as something else.
    """
    if prefix and prefix + name in RATED_TARGETS:
        raise UserError(
            f"attribute_prefix {prefix!r}: expected names of ratings, found that {name} becomes {prefix}{name}, a "
            "column that is read as something else. Take another prefix."
        )
    return prefix + name


def source_arguments(script: str | None, options: Mapping[str, object]) -> SourceArguments:
    """The arguments of a script, or of a file, with these options in place of its defaults.

    Raises:
        UserError: the script has no such option, or refuses a value.
    """
    kind = FileArguments if script is None else script_module(script).ScriptArguments
    known = [name for name in flag_names(kind) if name not in OUTPUT_FLAGS]
    decided = [name for name in options if name in OUTPUT_FLAGS]
    problems = [f"option {name}: expected where build_mixture.py takes it, as --{name}, found here" for name in decided]
    if script is not None and "rows" in options and "rows" not in known:
        problems.append(f"option {rows_problem(script)}")
        known.append("rows")
    raise_all([*problems, *unknown_names([name for name in options if name not in decided], known, "option")])
    parser = ScriptArgumentParser(kind, allow_abbrev=False, prog=f"data_prep/{script}.py")
    tokens = [
        f"--{name}={','.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in options.items()
        if value is not None
    ]
    try:
        arguments, _ = parser.parse_arguments(tokens)
        return arguments
    except (ValueError, TypeError) as error:
        raise UserError(f"options: {error}") from error


def unknown_names(given: Collection[str], known: Collection[str], kind: str) -> list[str]:
    """What is wrong with the names that are not known."""
    names = f"; known: {', '.join(known)}"
    return [f"unknown {kind} {name!r}{did_you_mean(str(name), known) or names}" for name in given if name not in known]
