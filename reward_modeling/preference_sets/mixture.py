"""Mixtures of preference sets: a small YAML file that says what goes in, checked as a whole when it is read.

    name: my_mixture
    description: HH-RLHF, and a tenth of my own pairs.
    include: mixture1                  # optional: the sources of another mixture, first
    seed: 0                            # optional
    sources:
      - script: shp                    # data_prep/shp.py
        options: {min_score_ratio: 3}  # its flags
        limit: 10000                   # at most so many pairs, fewer where other sources repeat or contradict them
      - path: my_pairs.jsonl           # anything that rm.py takes
        weight: 0.1                    # a share of its pairs

A mixture is named by its file, or by its name where data_prep/mixtures/ has it. Each source has a name of its own: its
`name`, else that of its script or file. A path is seen from where the script runs, and must be there (or be a Hub id).
"""

import difflib
import glob
import importlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import ModuleType

import yaml

from reward_modeling.common.arguments import ScriptArgumentParser, YamlLoader, named_paths
from reward_modeling.common.errors import UserError
from reward_modeling.data.sources import PREFERENCE_COLUMNS, hub_name
from reward_modeling.preference_sets.source import PreferenceSource, SourceArguments, SourcePairs, read_pairs

SCRIPTS = Path(__file__).resolve().parents[2] / "data_prep"
MIXTURES = SCRIPTS / "mixtures"
NO_SOURCES = ("build_mixture", "lint")  # scripts of data_prep that read no set of their own
DECIDED_ELSEWHERE = ("output_path", "format", "num_proc", "overwrite")


@dataclass(frozen=True)
class MixtureSource:
    """One source of a mixture: a script of data_prep, or a file."""

    script: str | None = None
    path: str | None = None
    name: str | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    limit: int | None = None
    weight: float = 1.0
    mixture: str = ""
    """The mixture whose file lists it: published counts are those of that one."""

    @property
    def shown(self) -> str:
        return self.name or self.script or Path(self.path).name.split(".")[0]


@dataclass(frozen=True)
class Mixture:
    """What a mixture's file says, with the sources of those that it includes."""

    name: str
    description: str
    seed: int
    sources: tuple[MixtureSource, ...]


SOURCE_KEYS = tuple(one.name for one in fields(MixtureSource) if one.name != "mixture")
MIXTURE_KEYS = ("name", "description", "seed", "include", "sources")


def read_mixture(name_or_path: str) -> Mixture:
    """
    Raises:
        UserError: there is no such file, or something in it is wrong; every mistake is named.
    """
    mixture = _read(_mixture_file(name_or_path), ())
    names = Counter(source.shown for source in mixture.sources)
    twice = [
        f"sources: expected a name for each, found {count} named {name}. Give one another, as in name: {name}_2"
        for name, count in names.items()
        if count > 1
    ]
    if twice:
        raise UserError("\n".join(f"{name_or_path}: {problem}" for problem in twice))
    return mixture


def known_mixtures() -> list[str]:
    return sorted(file.stem for file in MIXTURES.glob("*.yaml"))


def _mixture_file(name_or_path: str) -> Path:
    shipped, local = MIXTURES / f"{name_or_path}.yaml", Path(name_or_path).expanduser()
    if local.is_file():
        return local
    if shipped.is_file() and "/" not in name_or_path:
        return shipped
    raise UserError(
        f"mixture: expected a YAML file or one of {', '.join(known_mixtures())}, found {name_or_path!r}, which is "
        f"neither, seen from {Path.cwd()}{_meant(name_or_path, known_mixtures())}"
    )


def _read(file: Path, including: tuple[Path, ...]) -> Mixture:
    if file.resolve() in including:
        raise UserError(f"{file}: expected mixtures that end somewhere, found that it includes itself. Change include.")
    content = _yaml(file)
    problems = _mixture_problems(content)
    name, sources = content.get("name", file.stem), content.get("sources", [])
    for number, entry in enumerate(sources if isinstance(sources, list) else [], 1):
        problems += [f"source {number}{_called(entry)}: {problem}" for problem in _source_problems(entry)]
    if problems:
        raise UserError("\n".join(f"{file}: {problem}" for problem in problems))
    included: list[MixtureSource] = []
    for other in _as_list(content.get("include", [])):
        beside = file.parent / f"{other}"
        inner = beside if beside.is_file() else _mixture_file(f"{other}")
        included += _read(inner, (*including, file.resolve())).sources
    own = [MixtureSource(**_without_nulls(entry), mixture=name) for entry in sources]
    return Mixture(name, content.get("description", ""), content.get("seed", 0), (*included, *own))


def _mixture_problems(content: dict[str, object]) -> list[str]:
    found = _unknown(content, MIXTURE_KEYS, "key")
    for key in ("name", "description"):
        if not isinstance(content.get(key, ""), str):
            found.append(f"{key}: expected text, found {content[key]!r}")
    seed, sources = content.get("seed", 0), content.get("sources", [])
    if not _is_whole(seed) or not 0 <= seed < 2**32:
        found.append(f"seed: expected a whole number from 0 to {2**32 - 1}, found {seed!r}")
    if not isinstance(sources, list) or not (sources or content.get("include")):
        found.append(f"sources: expected a list with a script or a path in each entry, found {sources!r}")
    return found


def _yaml(file: Path) -> dict[str, object]:
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), YamlLoader)
    except OSError as error:
        raise UserError(f"{file}: expected a readable YAML file ({error.strerror}).") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: expected YAML, found {error}") from error
    if not isinstance(content, dict):
        raise UserError(
            f"{file}: expected a mixture with {', '.join(MIXTURE_KEYS)}, found {type(content).__name__}. Look at "
            "data_prep/mixtures/mixture2.yaml."
        )
    return {str(key): value for key, value in content.items()}


def _source_problems(entry: object) -> list[str]:
    if not isinstance(entry, dict):
        return [f"expected script or path and its settings, found {entry!r}"]
    found = _unknown(entry, SOURCE_KEYS, "key")
    named = [key for key in ("script", "path") if entry.get(key) is not None]
    if len(named) != 1:
        found.append(f"expected either script or path, found {' and '.join(named) or 'neither'}")
    found += [f"{key}: expected text, found {entry[key]!r}" for key in (*named, "name") if not _is_text(entry.get(key))]
    weight, limit, options = (entry.get(key) for key in ("weight", "limit", "options"))
    if weight is not None and not (_is_number(weight) and 0 <= weight <= 1):
        found.append(f"weight: expected a share from 0 to 1, found {weight!r}; limit takes a number of pairs")
    if limit is not None and not (_is_whole(limit) and limit >= 1):
        found.append(f"limit: expected a whole number of pairs, at least 1, found {limit!r}")
    if options is not None and not isinstance(options, dict):
        found.append(f"options: expected names with values, found {options!r}")
    elif not found:
        found += _option_problems(entry, options or {})
        paths = {"path": entry.get("path"), "option dataset_path": (options or {}).get("dataset_path")}
        found += [f"{key}: {problem}" for key, path in paths.items() for problem in _path_problems(path)]
    return found


def _path_problems(path: object) -> list[str]:
    """What looks like a local path must be there now, not only when the sources before it are read."""
    if not isinstance(path, str) or not path:
        return []
    before_split = path.rpartition(":")[0]
    if any(Path(one).expanduser().exists() for one in (path, before_split) if one):
        return []
    if glob.has_magic(path):
        found = next(glob.iglob(str(Path(path).expanduser()), recursive=True), None)  # noqa: PTH207 (absolute ones too)
        return [] if found else [f"expected files, found none that match {path}, seen from {Path.cwd()}"]
    if hub_name(path) is not None and path.split("/")[0] not in (".", ".."):
        return []
    return [
        f"expected an existing path or a Hub id (org/name), found {path!r}, which is neither, seen from {Path.cwd()}"
    ]


def _option_problems(entry: dict, options: dict) -> list[str]:
    """The script's own arguments are built of the options: whatever it would refuse is refused here."""
    try:
        source_arguments(entry.get("script"), options)
    except UserError as error:
        return str(error).splitlines()
    return []


# --- scripts --------------------------------------------------------------------------------------------------


def known_scripts() -> list[str]:
    names = sorted(file.stem for file in SCRIPTS.glob("*.py"))
    return [name for name in names if name not in NO_SOURCES and not name.startswith("_")]


def script_module(name: str) -> ModuleType:
    """
    Raises:
        UserError: data_prep has no such script.
    """
    if name not in known_scripts():
        known = known_scripts()
        raise UserError(f"script: expected one of {', '.join(known)}, found {name!r}{_meant(name, known)}")
    return importlib.import_module(f"data_prep.{name}")


def source_arguments(script: str | None, options: Mapping[str, object]) -> SourceArguments:
    """The arguments of a script, or of a file, with these options in place of its defaults.

    Raises:
        UserError: the script has no such option, or refuses a value.
    """
    kind = SourceArguments if script is None else script_module(script).ScriptArguments
    known = [one.name for one in fields(kind) if one.name not in DECIDED_ELSEWHERE]
    decided = [name for name in options if name in DECIDED_ELSEWHERE]
    problems = [f"option {name}: expected where build_mixture.py takes it, as --{name}, found here" for name in decided]
    problems += _unknown({name: None for name in options if name not in decided}, known, "option")
    if problems:
        raise UserError("\n".join(problems))
    parser = ScriptArgumentParser(kind, allow_abbrev=False, prog=f"data_prep/{script}.py")
    tokens = [f"--{name}={_flag_value(value)}" for name, value in options.items() if value is not None]
    try:
        return parser.parse_args_into_dataclasses(tokens, look_for_args_file=False)[0]
    except (ValueError, TypeError) as error:
        raise UserError(f"options: {error}") from error


def read_source(source: MixtureSource, seed: int, path: str | None, num_proc: int | None) -> SourcePairs:
    """The pairs of a source.

    Args:
        seed: of its random choices, unless its options have one.
        path: a local copy to read instead.

    Raises:
        UserError: nothing readable there.
    """
    options = {"seed": seed, **source.options}
    if path or source.path:
        options["dataset_path"] = path or source.path
    arguments = source_arguments(source.script, options)
    arguments.num_proc = num_proc
    try:
        if source.script is not None:
            return script_module(source.script).build(arguments)
        return read_pairs(arguments, PreferenceSource(source.shown, PREFERENCE_COLUMNS, licence="not known"), _as_it_is)
    except UserError as error:
        cure = f"A local copy is passed as --source_paths {source.shown}=PATH."
        raise UserError(str(error).replace("The flag for the path is --dataset_path.", cure)) from error


def check_source_names(mixture: Mixture, source_paths: str | None) -> dict[str, str]:
    """Name -> local path, of `--source_paths name=path,name=path`.

    Raises:
        UserError: it is no such list, names what is no source of the mixture, or a path is not there.
    """
    entries = named_paths(source_paths or "")
    names, problems = [source.shown for source in mixture.sources], []
    for name, path in entries:
        if not path:
            problems.append(f"expected name=path with commas between, found {name!r}")
        elif name not in names:
            close = _meant(name, names) or f"; sources of {mixture.name}: {', '.join(names)}"
            problems.append(f"unknown source {name!r}{close}")
        else:
            problems += [f"{name}: {problem}" for problem in _path_problems(path)]
    if problems:
        raise UserError("\n".join(f"--source_paths: {problem}" for problem in problems))
    return dict(entries)


def _as_it_is(row: dict) -> dict:
    return row


def _flag_value(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


# --- words ----------------------------------------------------------------------------------------------------


def _unknown(given: Mapping[str, object], known: tuple[str, ...] | list[str], kind: str) -> list[str]:
    names = f"; known: {', '.join(known)}"
    return [f"unknown {kind} {name!r}{_meant(str(name), known) or names}" for name in given if name not in known]


def _meant(name: str, known: tuple[str, ...] | list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _called(entry: object) -> str:
    name = (entry.get("script") or entry.get("path")) if isinstance(entry, dict) else None
    return f" ({name})" if name else ""


def _without_nulls(entry: dict) -> dict:
    return {key: value for key, value in entry.items() if value is not None}


def _as_list(value: object) -> list:
    return value if isinstance(value, list) else [value]


def _is_text(value: object) -> bool:
    return value is None or (isinstance(value, str) and bool(value.strip()))


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
