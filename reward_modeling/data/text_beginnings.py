"""What stands for the prompt of plain texts: the beginning that chosen and rejected have in common.

    text_unit(Pair(None, "Q: How far is the moon? A: Far.", "Q: How far is the moon? A: Here."))
    # "Q: How far is the moon? A:"

A beginning is cut back to whole words, and short ones are none: "The" at the beginning of two answers is no question.
Where one row's beginning is the beginning of another row's, both have one prompt: the answers of a row may happen to
begin alike. That only a whole set of rows shows: `join_beginnings`.
"""

import os
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset

from reward_modeling.data.keys import prompt_key

SHORTEST = 20  # characters of a beginning that stands for a prompt
ROWS_AT_ONCE = 10_000


def common_beginning(chosen: str, rejected: str) -> str:
    """The whole words that two texts both begin with; "" where they are too few to name a prompt.

    >>> common_beginning("What is a good way to knit? Slowly.", "What is a good way to knit? Slower.")
    'What is a good way to knit?'
    """
    common = os.path.commonprefix((chosen, rejected))  # noqa: RUF071 (texts: character by character is meant)
    if len(common) < SHORTEST:
        return ""
    end = len(common)
    while end and (common[end - 1].isalnum() or common[end - 1] == "_"):  # it may end inside a word
        end -= 1
    words = common[:end].rstrip()
    return words if len(words) >= SHORTEST else ""


def text_unit(chosen: str, rejected: str) -> str:
    """What two texts are held out by: what they both begin with, else themselves."""
    return common_beginning(chosen, rejected) or f"{chosen}\0{rejected}"


def join_beginnings(rows: Dataset) -> np.ndarray | None:
    """`prompt_key` of every row, `(rows,)`, that of rows whose beginning continues another row's being that one's.

    Sorted, a text stands right before all that continue it: one pass over the beginnings, each once, in memory.

    Returns:
        None where nothing changes.
    """
    table = rows.data.select(["chosen", "rejected", "is_text", "reason", "prompt_key"])
    keys = table.column("prompt_key").to_numpy().copy()
    beginnings: dict[int, str] = {}
    for start in range(0, len(rows), ROWS_AT_ONCE):
        batch = table.slice(start, ROWS_AT_ONCE)
        batch = batch.filter(pc.and_(batch.column("is_text"), pc.equal(batch.column("reason"), "")))
        if len(batch):
            columns = (batch.column(name).to_pylist() for name in ("prompt_key", "chosen", "rejected"))
            for key, chosen, rejected in zip(*columns, strict=True):
                if key not in beginnings and (beginning := common_beginning(chosen, rejected)):
                    beginnings[key] = beginning
    root, moved = None, {}
    for beginning in sorted(beginnings.values()):
        if root is not None and beginning.startswith(root):
            moved[prompt_key(beginning.encode())] = prompt_key(root.encode())
        else:
            root = beginning
    if not moved:
        return None
    old = np.fromiter(moved, dtype=np.int64, count=len(moved))
    order = np.argsort(old)
    new = np.fromiter(moved.values(), dtype=np.int64, count=len(moved))[order]
    places = np.searchsorted(old[order], keys).clip(max=len(old) - 1)
    return np.where(old[order][places] == keys, new[places], keys)


def write_joined(rows: Dataset, folder: Path) -> Dataset | None:
    """Rows whose keys change written again, into a file of their own; None where none does."""
    keys = join_beginnings(rows) if pc.any(rows.data.column("is_text")).as_py() else None
    if keys is None:
        return None
    named = {"prompt_key", "group_key"} & set(rows.column_names)
    return rows.map(
        lambda batch, numbers: dict.fromkeys(named, keys[numbers]),
        with_indices=True,
        batched=True,
        batch_size=ROWS_AT_ONCE,
        features=rows.features,
        cache_file_name=str(folder / "joined.arrow"),
        desc="joining the prompts of plain texts",
    )
