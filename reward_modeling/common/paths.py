"""Paths as flags have them: `~` means home wherever one begins, and one flag may hold several."""

import os
import re
from collections.abc import Callable
from pathlib import Path

# Where a path begins: at the start, and after a comma or the equals sign of name=path.
HOME = re.compile(r"(^|[,=]\s*)(~[^/,=]*)")


def expand_home(text: str) -> str:
    """The text with home in the place of each `~` that begins a path: "~/a", "~/a,~/b", "x=~/a,y=~user/b".

    A `~` inside a name ("a~", "data/~b") stays, and so does that of a user who does not exist.
    """
    return HOME.sub(lambda found: found[1] + os.path.expanduser(found[2]), text)  # noqa: PTH111 (of a part of a text)


def local_path(text: str) -> Path:
    """The type of a path for argparse."""
    return Path(expand_home(text))


def split_list(text: str, exists: Callable[[str], bool] = os.path.exists) -> list[str]:
    """The entries of "a,b"; a text of which a file is named, comma and all, is one entry.

    Args:
        exists: whether a text is the name of something.
    """
    return [text] if "," not in text or exists(text) else [part for part in map(str.strip, text.split(",")) if part]


def named_paths(text: str) -> list[tuple[str, str]]:
    """(name, path) of each entry of "name=path,name=path"; one of both is empty where the entry lacks it.

    A comma may be part of a path: one that separates stands before "name=".
    """
    entries = (entry.partition("=") for entry in re.split(r",(?=[^,=/]*=)", text) if entry.strip())
    return [(name.strip(), path.strip()) for name, _, path in entries]
