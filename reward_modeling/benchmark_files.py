"""Where the preference test sets stand that a person has on disk: which file, folder or split is which set."""

import json
import re
from pathlib import Path

from reward_modeling.arguments import named_paths
from reward_modeling.benchmarks import TEST_SET_ROWS
from reward_modeling.errors import UserError
from reward_modeling.json_lines import FILE_ERRORS, broken_file
from reward_modeling.loading import JSON_SUFFIXES, NOT_DATA, SUFFIXES, TABLE_SUFFIXES

_SHARD = re.compile(r"-\d{5}-of-\d{5}$")


def test_set_sources(path: str, flag: str) -> list[tuple[str, str]]:
    """(name, source) of each test set at `path`: the known ones in their order, then others by name.

    A source is what `loading.find_source` takes; a set of several shards has one for each. `flag` is for messages.

    Raises:
        UserError: no sets there, or the list of them is malformed.
    """
    local = Path(path).expanduser()
    if local.is_file() or (local / "state.json").is_file():
        sets = [(_set_name(local), path)]
    elif (local / "dataset_dict.json").is_file():
        try:
            splits = json.loads((local / "dataset_dict.json").read_text())["splits"]
        except (*FILE_ERRORS, KeyError, TypeError) as error:
            raise broken_file(path, error) from error
        sets = [(name, f"{path}:{name}") for name in splits]
    elif local.is_dir():
        sets = _sets_of_folder(path, local, flag)
    else:
        sets = _listed_sets(path, flag)
    known = list(TEST_SET_ROWS)
    return sorted(sets, key=lambda part: (known.index(part[0]) if part[0] in known else len(known), part[0]))


def _sets_of_folder(path: str, folder: Path, flag: str) -> list[tuple[str, str]]:
    children = [child for child in sorted(folder.iterdir()) if _may_be_set(child)]
    if [child.name for child in children] == ["data"] and children[0].is_dir():  # as the Hub lays them out
        children = [child for child in sorted(children[0].iterdir()) if _may_be_set(child)]
    if not children:
        found = ", ".join(sorted(child.name for child in folder.iterdir())[:5]) or "nothing"
        raise _sets_error(flag, f"found {found} in {path}")
    by_name: dict[str, list[Path]] = {}
    for child in children:
        by_name.setdefault(_set_name(child), []).append(child)
    for name, files in by_name.items():
        if len(files) > 1 and not all(_SHARD.search(_stem(file)) for file in files):
            raise _sets_error(
                flag, f"found {' and '.join(file.name for file in files)} in {path}, all for the set {name}"
            )
    return [(name, str(file)) for name, files in by_name.items() for file in files]


def _may_be_set(child: Path) -> bool:
    if child.name.startswith((".", "_")) or child.name in NOT_DATA or child.name.endswith("manifest.json"):
        return False
    return child.is_dir() or child.name.endswith((*JSON_SUFFIXES, *TABLE_SUFFIXES))


def _stem(file: Path) -> str:
    if file.is_dir():
        return file.name
    suffixes = (suffix for suffix in (*JSON_SUFFIXES, *TABLE_SUFFIXES) if file.name.endswith(suffix))
    return file.name.removesuffix(max(suffixes, key=len, default=""))


def _set_name(file: Path) -> str:
    return _SHARD.sub("", _stem(file))


def _listed_sets(path: str, flag: str) -> list[tuple[str, str]]:
    sets = named_paths(path)
    if not sets or not all(name and source for name, source in sets):
        raise _sets_error(
            flag, f"found {path!r}, which does not exist in {Path.cwd()} and is no list of names and paths"
        )
    names = [name for name, _ in sets]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise _sets_error(flag, f"found {', '.join(twice)} twice in {path!r}")
    return sets


def _sets_error(flag: str, found: str) -> UserError:
    return UserError(
        f"{flag}: expected a folder with one {SUFFIXES} file or folder for each set, a DatasetDict folder "
        f"of save_to_disk with one split for each, or a list such as shp=shp.jsonl,summarize=other/file.parquet; "
        f"{found}. The sets are {', '.join(TEST_SET_ROWS)}: name their files after them, once each."
    )
