"""The answers of each prompt together, wherever in whatever files they stand.

    with gather(rows, folder) as gathered:
        for prompt in gathered.prompts(): ...

In memory are 20 bytes for each row: where it stands in a scratch file, and a number for its prompt. The scratch file
has no name, so that nothing is left of it however the process ends.
"""

import json
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from reward_modeling.best_of_n.answers import ScoredAnswer, ScoredPrompt

BUFFER = 1 << 20


class Gathered:
    """Rows on disk, and which of them are of one prompt."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._keys, self._places, self._scored = array("q"), array("Q"), array("I")

    def add(self, prompt: ScoredPrompt) -> None:
        """A row: a prompt with some of its answers."""
        self._keys.append(prompt.key)
        self._places.append(self._file.tell())
        self._scored.append(sum(answer.reward is not None for answer in prompt.answers))
        fields = vars(prompt) | {"answers": [vars(answer) for answer in prompt.answers]}
        self._file.write(json.dumps(fields).encode() + b"\n")

    def scored_of_prompts(self) -> NDArray[np.int64]:
        """How many answers with a reward each prompt has, `(prompts,)`."""
        if not len(self._keys):
            return np.zeros(0, dtype=np.int64)
        _, prompt = np.unique(np.frombuffer(self._keys, dtype=np.int64), return_inverse=True)
        return np.bincount(prompt, np.frombuffer(self._scored, dtype=np.uint32)).astype(np.int64)

    def __len__(self) -> int:
        """The number of rows."""
        return len(self._keys)

    def prompts(self) -> Iterator[ScoredPrompt]:
        """Each prompt once with all its answers, in the order in which the first rows of them stand."""
        if not len(self._keys):
            return
        keys, places = np.frombuffer(self._keys, dtype=np.int64), np.frombuffer(self._places, dtype=np.uint64)
        _, first, prompt = np.unique(keys, return_index=True, return_inverse=True)
        order = np.lexsort([np.arange(len(keys)), first[prompt]])
        ends = np.flatnonzero(np.diff(first[prompt][order], append=-1))
        start = 0
        for end in ends.tolist():
            rows = [self._row(place) for place in places[order[start : end + 1]].tolist()]
            rows[0].answer_sets = len({tuple(sorted(answer.key for answer in row.answers)) for row in rows})
            for row in rows[1:]:
                rows[0].answers.extend(row.answers)
            # Prompts may differ in white space: one of them is taken that does not depend on the order of the rows.
            rows[0].messages = min((row.messages for row in rows), key=json.dumps)
            yield rows[0]
            start = end + 1

    def _row(self, place: int) -> ScoredPrompt:
        self._file.seek(place)
        fields = json.loads(self._file.readline())
        return ScoredPrompt(**{**fields, "answers": [_answer(answer) for answer in fields["answers"]]})


def _answer(fields: dict) -> ScoredAnswer:
    """As it was before it became JSON, which has no tuples."""
    steps = None if fields["steps"] is None else tuple(fields["steps"])
    return ScoredAnswer(**{**fields, "models": tuple(fields["models"]), "steps": steps})


@contextmanager
def gather(prompts: Iterable[ScoredPrompt], scratch: Path) -> Iterator[Gathered]:
    """Read all rows.

    Args:
        scratch: a folder with room for them.
    """
    with tempfile.TemporaryFile(dir=scratch, buffering=BUFFER) as file:
        gathered = Gathered(file)
        for prompt in prompts:
            gathered.add(prompt)
        yield gathered
