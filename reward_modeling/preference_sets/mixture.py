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

Sources of ratings make a mixture of their own, of which rows are answers: those of the scripts that have a flag `rows`,
with options: {rows: ratings}, and files with options: {attributes: ...}, or with the manifest.json of such a folder.

The `weight` and `limit` of a source count rows, a list of ranked answers as one. They have nothing to do with a column
`weight` in its rows, which goes into the mixture as it is.

A mixture is named by its file, or by its name where data_prep/mixtures/ has it. Each source has a name of its own: its
`name`, else that of its script or file. A path is seen from where the script runs, and must be there (or be a Hub id).
"""

import glob
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from reward_modeling.common.errors import UserError, did_you_mean
from reward_modeling.common.paths import expand_home, named_paths
from reward_modeling.common.yaml_files import read_yaml
from reward_modeling.data.sources import hub_name
from reward_modeling.preference_sets.arguments import SCRIPTS, raise_all, source_arguments, unknown_names

MIXTURES = SCRIPTS / "mixtures"


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
    def label(self) -> str:
        return self.name or self.script or Path(self.path).name.split(".")[0]


@dataclass(frozen=True)
class Mixture:
    """What a mixture's file says, with the sources of those that it includes."""

    name: str
    description: str
    seed: int
    sources: tuple[MixtureSource, ...]


SOURCE_KEYS = [one.name for one in fields(MixtureSource) if one.name != "mixture"]
MIXTURE_KEYS = ("name", "description", "seed", "include", "sources")


# --- files ----------------------------------------------------------------------------------------------------


def read_mixture(name_or_path: str) -> Mixture:
    """
    Raises:
        UserError: there is no such file, or something in it is wrong; every mistake is named.
    """
    mixture = _read(_mixture_file(name_or_path), ())
    names = Counter(source.label for source in mixture.sources)
    raise_all(
        [
            f"{name_or_path}: sources: expected a name for each, found {count} named {name}. Give one another, as in "
            f"name: {name}_2"
            for name, count in names.items()
            if count > 1
        ]
    )
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
        f"neither, seen from {Path.cwd()}{did_you_mean(name_or_path, known_mixtures())}"
    )


def _read(file: Path, including: tuple[Path, ...]) -> Mixture:
    if file.resolve() in including:
        raise UserError(f"{file}: expected mixtures that end somewhere, found that it includes itself. Change include.")
    keys = ", ".join(MIXTURE_KEYS)
    content = read_yaml(file, f"{file}", f"a mixture, such as data_prep/mixtures/mixture2.yaml, with {keys}")
    raise_all([f"{file}: {problem}" for problem in _mixture_problems(content)])
    name = content.get("name", file.stem)
    sources: list[MixtureSource] = []
    include = content.get("include", [])
    for other in include if isinstance(include, list) else [include]:
        other = expand_home(f"{other}")
        beside = file.parent / other
        inner = beside if beside.is_file() else _mixture_file(other)
        sources += _read(inner, (*including, file.resolve())).sources
    for entry in content.get("sources", []):
        given = {key: value for key, value in entry.items() if value is not None}
        given |= {"path": expand_home(given["path"])} if "path" in given else {}
        sources.append(MixtureSource(**given, mixture=name))
    return Mixture(name, content.get("description", ""), content.get("seed", 0), tuple(sources))


def _mixture_problems(content: dict[str, object]) -> Iterator[str]:
    yield from unknown_names(content, MIXTURE_KEYS, "key")
    for key in ("name", "description"):
        if not isinstance(content.get(key, ""), str):
            yield f"{key}: expected text, found {content[key]!r}"
    seed, sources = content.get("seed", 0), content.get("sources", [])
    if not _is_whole(seed) or not 0 <= seed < 2**32:
        yield f"seed: expected a whole number from 0 to {2**32 - 1}, found {seed!r}"
    if not isinstance(sources, list) or not (sources or content.get("include")):
        yield f"sources: expected a list with a script or a path in each entry, found {sources!r}"
    for number, entry in enumerate(sources if isinstance(sources, list) else [], 1):
        called = (entry.get("script") or entry.get("path")) if isinstance(entry, dict) else None
        for problem in _source_problems(entry):
            yield f"source {number}{f' ({called})' if called else ''}: {problem}"


def _source_problems(entry: object) -> list[str]:
    if not isinstance(entry, dict):
        return [f"expected script or path and its settings, found {entry!r}"]
    problems = unknown_names(entry, SOURCE_KEYS, "key")
    named = [key for key in ("script", "path") if entry.get(key) is not None]
    if len(named) != 1:
        problems.append(f"expected either script or path, found {' and '.join(named) or 'neither'}")
    for key in (*named, "name"):
        text = entry.get(key)
        if text is not None and not (isinstance(text, str) and text.strip()):
            problems.append(f"{key}: expected text, found {text!r}")
    weight, limit, options = (entry.get(key) for key in ("weight", "limit", "options"))
    if weight is not None and not ((_is_whole(weight) or isinstance(weight, float)) and 0 <= weight <= 1):
        problems.append(f"weight: expected a share from 0 to 1, found {weight!r}; limit takes a number of pairs")
    if limit is not None and not (_is_whole(limit) and limit >= 1):
        problems.append(f"limit: expected a whole number of pairs, at least 1, found {limit!r}")
    if options is not None and not isinstance(options, dict):
        problems.append(f"options: expected names with values, found {options!r}")
    elif not problems:
        try:  # the script's own arguments are built of the options: whatever it would refuse is refused here
            source_arguments(entry.get("script"), options or {})
        except UserError as error:
            problems += str(error).splitlines()
        paths = {"path": entry.get("path"), "option dataset_path": (options or {}).get("dataset_path")}
        problems += [f"{key}: {problem}" for key, path in paths.items() for problem in _path_problems(path)]
    return problems


def _path_problems(path: object) -> list[str]:
    """What looks like a local path must be there now, not only when the sources before it are read."""
    if not isinstance(path, str) or not path:
        return []
    before_split = path.rpartition(":")[0]
    if any(Path(one).expanduser().exists() for one in (path, before_split) if one):
        return []
    here = f"seen from {Path.cwd()}"
    if glob.has_magic(path):
        found = next(glob.iglob(str(Path(path).expanduser()), recursive=True), None)  # noqa: PTH207 (absolute ones too)
        return [] if found else [f"expected files, found none that match {path}, {here}"]
    if hub_name(path) is not None and path.split("/")[0] not in (".", ".."):
        return []
    return [f"expected an existing path or a Hub id (org/name), found {path!r}, which is neither, {here}"]


def check_source_names(mixture: Mixture, source_paths: str | None) -> dict[str, str]:
    """Name -> local path, of `--source_paths name=path,name=path`.

    Raises:
        UserError: it is no such list, names what is no source of the mixture, or a path is not there.
    """
    entries = named_paths(source_paths or "")
    names, problems = [source.label for source in mixture.sources], []
    for name, path in entries:
        if not path:
            problems.append(f"expected name=path with commas between, found {name!r}")
        elif name not in names:
            close = did_you_mean(name, names) or f"; sources of {mixture.name}: {', '.join(names)}"
            problems.append(f"unknown source {name!r}{close}")
        else:
            problems += [f"{name}: {problem}" for problem in _path_problems(path)]
    raise_all([f"--source_paths: {problem}" for problem in problems])
    return dict(entries)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
