"""Whether the files of a checkpoint are what was written: their hashes, in its contents.json.

Hashing takes 0.05 s a GB beside reading the file, which is still in memory after a save (xxh3, on one core). Every
process hashes its share, so that a checkpoint of many processes takes no longer.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import xxhash
from accelerate.utils import gather_object

from reward_modeling.common.atomic import CONTENTS

logger = logging.getLogger(__name__)

PART = 2**24  # bytes that are read at once


def checksum(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while part := file.read(PART):
            digest.update(part)
    return digest.hexdigest()


def shared_checksums(folder: Path, process: int, num_processes: int) -> dict[str, str]:
    """Of all files in the folder. All processes have to call this, and get the whole."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != CONTENTS]
    return _share({path.relative_to(folder).as_posix(): path for path in files}, process, num_processes)


def damaged_files(checkpoint: Path, process: int = 0, num_processes: int = 1) -> list[str]:
    """Names of files that are not what was written. All processes have to call this, and get the same.

    A checkpoint of an earlier version lists no hashes: of it sizes are all that is known.
    """
    entries = json.loads((checkpoint / CONTENTS).read_text(encoding="utf-8"))
    expected = {
        name: entry["xxh3_128"] for name, entry in entries.items() if isinstance(entry, Mapping) and "xxh3_128" in entry
    }
    found = _share({name: checkpoint / name for name in expected}, process, num_processes)
    return sorted(name for name, value in expected.items() if found[name] != value)


def _share(files: dict[str, Path], process: int, num_processes: int) -> dict[str, str]:
    """The largest first, so that the processes have about the same to do."""
    by_size = sorted(files, key=lambda name: (-files[name].stat().st_size, name))
    own = {name: checksum(files[name]) for name in by_size[process::num_processes]}
    if num_processes == 1:
        return own
    return {name: value for part in gather_object([own]) for name, value in part.items()}
