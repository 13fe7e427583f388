"""Which sets the flags of paths name: one, several with commas or spaces between, or several with names of their own.

set_paths("a.jsonl,b.jsonl")                 # ["a.jsonl", "b.jsonl"]
evaluation_paths("easy=a.jsonl,hard=b.jsonl")  # {"easy": ["a.jsonl"], "hard": ["b.jsonl"]}
evaluation_paths("a.jsonl")                  # {"": ["a.jsonl"]}
"""

import glob
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from reward_modeling.common.errors import UserError
from reward_modeling.common.paths import named_paths, split_list

NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
NAMED = re.compile(r"[^,=/]+=")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+){0,2}")
# The names of figures begin so; "eval_accuracy_easy" is that of a source.
TAKEN = (
    "loss",
    "accuracy",
    "margin",
    "reward",
    "calibration",
    "longer",
    "pairs",
    "runtime",
    "samples",
    "steps",
    "model",
)


def exists(path: str) -> bool:
    """Whether something of this name is on the disk, without a split behind a colon too, or files match it."""
    before_split = path.rpartition(":")[0]
    if any(Path(one).exists() for one in (path, before_split) if one):
        return True
    return glob.has_magic(path) and next(glob.iglob(path, recursive=True), None) is not None  # noqa: PTH207


def set_paths(given: str | Sequence[str]) -> list[str]:
    """The sets of --train_set_path, in their order."""
    return [path for text in ([given] if isinstance(given, str) else given) for path in split_list(text, exists)]


def evaluation_paths(given: str | Sequence[str] | None) -> dict[str, list[str]]:
    """The sets of --eval_set_path by name; "" is that of sets without one, and no set is {}.

    Raises:
        UserError: a name that cannot be one, a name without a path, or names for some sets alone.
    """
    if given is None:
        return {}
    texts = [given] if isinstance(given, str) else list(given)
    are_named = [NAMED.match(text) is not None and not exists(text) for text in texts]
    if not any(are_named):
        return {"": set_paths(texts)}
    entries = [entry for text in texts for entry in named_paths(text)] if all(are_named) else []
    if problems := list(_problems(entries)):
        found = " ".join(texts)
        raise UserError(
            f"--eval_set_path: expected one set, or name=path for each of several, found {found!r}: "
            f"{'; '.join(problems)}."
        )
    return {name: set_paths(path) for name, path in entries}


def _problems(entries: Sequence[tuple[str, str]]) -> Iterator[str]:
    if not entries:
        yield "some have a name, and some have none"
    yield from (f"{name} has no path" for name, path in entries if not path)
    for name, count in Counter(name for name, _ in entries).items():
        if not NAME.fullmatch(name):
            yield f"{name!r} is no name (letters, digits, dots and dashes)"
        elif name.startswith(TAKEN):
            yield f"{name!r} begins as figures do, which are logged as eval_{name.split('_')[0]}...; take another name"
        elif count > 1:
            yield f"{name} is there twice"


def in_words(named: Mapping[str, Sequence[str]]) -> str:
    """For a report: the paths, each set with its name."""
    return ", ".join(f"{name}={'+'.join(paths)}" if name else ", ".join(paths) for name, paths in named.items())


def check_revision(revision: str | None, paths: Sequence[str]) -> None:
    """
    Raises:
        UserError: there is a revision, and not exactly one data set of the Hub that it could be of.
    """
    on_hub = dict.fromkeys(path.partition(":")[0] for path in paths if not exists(path) and HUB_ID.fullmatch(path))
    if revision is not None and len(on_hub) != 1:
        found = ", ".join(on_hub) or f"none ({', '.join(paths)})"
        raise UserError(
            f"--dataset_revision {revision}: expected one data set of the Hub that it is of, found {found}. Leave "
            "it out, or download the others and pass their paths."
        )
