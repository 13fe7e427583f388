"""Features of answers and prompts: hidden states of a model that is not trained, on disk and memory-mapped.

    features = Features.open(folder, groups, layout)
    for rows, block in features.blocks():     # a slice, and (answers, hidden) float32 in memory
        ...

`feature_cache.py` makes the folder. It holds what follows from the model and the tokens alone: an .npy file for each
name below, and `contents.json` when all of it is there. What is known of the rows, such as
their ratings, comes from the rows each time.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.atomic import CONTENTS
from reward_modeling.data.loader import PromptGroups
from reward_modeling.frozen_backbone.feature_pass import Layout

BLOCK_BYTES = 2**25  # of features that are read at once
# Of float32 and as long as the data: read from disk where they are used.
COMPLETIONS, PROMPTS = "completions", "prompts"
# Read whole: `(completions,)` tokens of each, and `(prompts,)` keys.
TOKENS, KEYS = "completion_tokens", "prompt_keys"


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
    completions: NDArray[np.float32]
    """`(completions, hidden)`: at the last token of each."""
    prompts: NDArray[np.float32]
    """`(prompts, hidden)`: at the gate's position."""
    prompt_keys: NDArray[np.int64]
    """`(prompts,)`: equal for prompts with the same tokens up to the gate's position, in any set."""
    completion_of: NDArray[np.int64]
    """`(answers,)`: the row in `completions` of each answer; it never goes back to an earlier prompt's."""
    prompt_of: NDArray[np.int64]
    """`(answers,)`: the number of each answer's prompt."""
    completion_tokens: NDArray[np.int64]
    """`(answers,)`: tokens of each answer, the end of its turn included."""
    ratings: NDArray[np.float32]
    """`(answers, attributes)`, as they stand in the rows, NaN if unknown; `(answers, 0)` of preference rows."""
    pairs: NDArray[np.int64]
    """`(pairs, 2)`: the numbers of the chosen and of the rejected answer; `(0, 2)` of rated rows."""
    targets: NDArray[np.float32]
    """`(pairs, 3)`: probability, strength and margin, see `objectives.pair_reader`."""
    weights: NDArray[np.float64]
    """`(pairs,)`: how much each counts."""
    where: Sequence[str]
    """Of each rated answer, or of each pair, where its row stands."""
    sources: Sequence[str | None]
    """Of each rated answer, or of each pair, the set that it is from."""

    @classmethod
    def open(cls, folder: Path, groups: PromptGroups, layout: Layout) -> "Features":
        """
        Args:
            groups, layout: what the folder was computed of, or other ratings of the same tokens.

        Raises:
            FileNotFoundError: the folder is not there, or not complete.
        """
        check_complete(folder)
        completions, prompts = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in (COMPLETIONS, PROMPTS))
        answers, targets = len(layout.prompt_of), groups.targets().astype(np.float32)
        rated = not len(layout.pairs)
        return cls(
            folder,
            completions,
            prompts,
            np.load(folder / f"{KEYS}.npy"),
            layout.completion_of,
            layout.prompt_of,
            np.load(folder / f"{TOKENS}.npy")[layout.completion_of],
            targets if rated else np.zeros((answers, 0), dtype=np.float32),
            layout.pairs,
            np.zeros((0, 3), dtype=np.float32) if rated else targets,
            np.zeros(0) if rated else groups.sizes.unit_weights.astype(np.float64),
            groups.of_units("where"),
            groups.of_units("sources"),
        )

    def __len__(self) -> int:
        """Answers."""
        return len(self.prompt_of)

    @property
    def hidden_size(self) -> int:
        return self.completions.shape[1]

    def answers(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """`(numbers, hidden)` of some answers, in memory."""
        return read_rows(self.completions, self.completion_of[numbers])

    def blocks(self, block_bytes: int = BLOCK_BYTES) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """All answers in order, a block in memory at a time: where it stands, and `(answers, hidden)`."""
        return blocks_of(self.completions, self.completion_of, block_bytes)


def blocks_of(
    array: NDArray, rows: NDArray[np.int64], block_bytes: int = BLOCK_BYTES
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """These rows of `(completions, hidden)` float32, a block in memory at a time; they lie about in order."""
    step = max(1, block_bytes // array.strides[0])
    for first in range(0, len(rows), step):
        block = rows[first : first + step]
        least = int(block.min())
        yield slice(first, first + len(block)), _read(array, least, int(block.max()) + 1)[block - least]


def _read(array: NDArray, first: int, last: int) -> NDArray:
    """Rows of an array in memory, or of one that is memory-mapped, as `read_rows` has them."""
    if not isinstance(array, np.memmap):
        return array[first:last]
    with Path(array.filename).open("rb") as file:
        file.seek(array.offset + first * array.strides[0])
        return np.fromfile(file, array.dtype, (last - first) * array.shape[1]).reshape(-1, array.shape[1])


def read_rows(array: NDArray, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows of an array in memory, or of one that is memory-mapped.

    Of a mapped one they are read from its file: pages of a mapping would count as memory of the process, and in the end
    all of them would.
    """
    if not isinstance(array, np.memmap):
        return np.asarray(array[rows], dtype=np.float32)
    read = np.empty((len(rows), array.shape[1]), dtype=array.dtype)
    file = os.open(array.filename, os.O_RDONLY)
    try:
        for place, row in enumerate(rows.tolist()):
            os.preadv(file, [read[place]], array.offset + row * read.strides[0])
    finally:
        os.close(file)
    return read.astype(np.float32, copy=False)
