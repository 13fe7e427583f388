"""Features of answers and prompts: hidden states of a model that is not trained, on disk and memory-mapped.

    features = Features.open(folder)
    for rows, block in features.blocks():     # a slice, and (answers, hidden) float32 in memory
        ...

`feature_cache.py` makes them. A folder holds an .npy file for each array below, `rows.jsonl` with the `where` and
`source` of each row, and `contents.json` when all of it is there.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.atomic import CONTENTS

ROWS = "rows.jsonl"
BLOCK_BYTES = 2**25  # of features that are read at once
# Of float32 and as long as the data: read from disk where they are used. The others are read whole.
MAPPED = ("answers", "prompts")
SMALL = ("prompt_of", "completion_tokens", "prompt_keys", "ratings", "pairs", "targets", "weights")


def check_complete(folder: Path) -> None:
    """
    Raises:
        FileNotFoundError: the folder is not there, or a file that was written has not the size that it had.
    """
    try:
        entries = json.loads((folder / CONTENTS).read_text(encoding="utf-8"))
    except ValueError as error:
        raise FileNotFoundError(f"{folder}: {CONTENTS} is not as it was written") from error
    torn = [name for name, entry in entries.items() if (folder / name).stat().st_size != entry["bytes"]]
    if torn:
        raise FileNotFoundError(f"{folder}: {torn[0]} is not as long as it was")


@dataclass(frozen=True, eq=False)
class Features:
    """The hidden states after the final norm, with what is known of the rows that they are of.

    Of rated rows each row is an answer. Of preference rows an answer to a prompt stands once, in however many pairs.
    """

    folder: Path
    answers: NDArray[np.float32]
    """`(answers, hidden)`: at the last token of each."""
    prompts: NDArray[np.float32]
    """`(prompts, hidden)`: at the gate's position."""
    prompt_of: NDArray[np.int64]
    """`(answers,)`: the number of each answer's prompt."""
    completion_tokens: NDArray[np.int64]
    """`(answers,)`: tokens of each answer, the end of its turn included."""
    prompt_keys: NDArray[np.int64]
    """`(prompts,)`: equal for prompts with the same tokens up to the gate's position, in any set."""
    ratings: NDArray[np.float32]
    """`(answers, attributes)`, as they stand in the rows, NaN if unknown; `(answers, 0)` of preference rows."""
    pairs: NDArray[np.int64]
    """`(pairs, 2)`: the numbers of the chosen and of the rejected answer; `(0, 2)` of rated rows."""
    targets: NDArray[np.float32]
    """`(pairs, 3)`: probability, strength and margin, see `objectives.pair_reader`."""
    weights: NDArray[np.float64]
    """`(pairs,)`: how much each counts."""

    @classmethod
    def open(cls, folder: Path) -> "Features":
        """
        Raises:
            FileNotFoundError: the folder is not there, or not complete.
        """
        check_complete(folder)
        mapped = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in MAPPED}
        return cls(folder, **mapped, **{name: np.load(folder / f"{name}.npy") for name in SMALL})

    def __len__(self) -> int:
        """Answers."""
        return len(self.prompt_of)

    @property
    def hidden_size(self) -> int:
        return self.answers.shape[1]

    @cached_property
    def _rows(self) -> Mapping[str, list]:
        lines = (json.loads(line) for line in (self.folder / ROWS).open(encoding="utf-8"))
        pairs = [(line["where"], line["source"]) for line in lines]
        return {"where": [where for where, _ in pairs], "sources": [source for _, source in pairs]}

    @property
    def where(self) -> list[str]:
        """Of each rated answer, or of each pair, where its row stands."""
        return self._rows["where"]

    @property
    def sources(self) -> list[str | None]:
        """Of each rated answer, or of each pair, the set that it is from."""
        return self._rows["sources"]

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """All answers in order, a block in memory at a time: see `blocks_of_file`."""
        return blocks_of_file(self.folder / "answers.npy")

    def prompt_blocks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """As `blocks`, of the prompts."""
        return blocks_of_file(self.folder / "prompts.npy")


def blocks_of_file(path: Path, block_bytes: int = BLOCK_BYTES) -> Iterator[tuple[slice, NDArray]]:
    """The rows of an .npy file in order: where a block stands, and the block as an array in memory.

    Read from the file, and not by a mapping, whose pages would count as memory of the process.
    """
    array = np.load(path, mmap_mode="r")
    (rows, size), dtype = array.shape, array.dtype
    step = max(1, block_bytes // (size * dtype.itemsize))
    with path.open("rb") as file:
        file.seek(array.offset)
        for first in range(0, rows, step):
            count = min(step, rows - first)
            yield slice(first, first + count), np.fromfile(file, dtype, count * size).reshape(count, size)
