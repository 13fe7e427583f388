"""What the checkpoint itself, loaded here, adds to the rows that were saved with it.

Whether its files still give what was saved; one row about as long as those it was trained on, whose end a cut beyond
the saved rows would lose; and conversations as messages, which show the chat template that a server uses. What is due
for the last two is computed here, in float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from reward_modeling.serving.clients import DESCRIBED, Row
from reward_modeling.serving.verification_case import Checkpoint
from reward_modeling.serving.verification_rows import Outputs, SavedCheckpoint, row_of
from reward_modeling.serving.verification_values import distance, tolerances_of

ASKED = {"role": "user", "content": "How do I brew green tea?"}
ANSWERED = {"role": "assistant", "content": 'Heat water to 80 °C, wait 2 minutes; then pour ("slowly") - and enjoy!'}
FOLLOWED = {"role": "user", "content": "Thanks. And how much of it for 3 cups?\n\nPlease be brief."}
ENDED = {"role": "assistant", "content": "  About 6 g: 2 g a cup.\n"}  # white space, which some templates strip
SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
# A template may refuse one, such as Gemma's a system turn.
CONVERSATIONS = ([ASKED, ANSWERED], [ASKED, ANSWERED, FOLLOWED, ENDED], [SYSTEM, ASKED, ANSWERED])


@dataclass(frozen=True)
class Sample:
    """Rows, and what is due for them: `outputs` are `(rows, outputs)`."""

    rows: list[Row]
    outputs: Outputs

    def and_also(self, other: "Sample") -> "Sample":
        return Sample([*self.rows, *other.rows], np.concatenate([self.outputs, other.outputs]))


@dataclass(frozen=True)
class Local:
    """`apart` is how far the files' outputs are from the saved ones, as a multiple of the tolerance."""

    apart: float
    long: Sample
    templated: Sample

    @property
    def is_changed(self) -> bool:
        return not self.apart <= 1


def look_locally(checkpoint: SavedCheckpoint, model: Checkpoint, most_tokens: int | None) -> Local:
    """
    Args:
        most_tokens: that the server takes, where it says so: the long row is shorter than that.
    """
    due, found = (checkpoint.values(one, DESCRIBED) for one in (checkpoint.outputs, model.outputs(checkpoint.rows)))
    apart = distance(due, found, tolerances_of(due, None, checkpoint.noise))
    if not apart <= 1:  # nothing that is computed of these files is due
        empty = Sample([], checkpoint.outputs[:0])
        return Local(apart, empty, empty)
    length = min([model.longest(), *([most_tokens - 1] if most_tokens else [])])
    long, templated = long_rows(checkpoint, length), model.templated(CONVERSATIONS)
    return Local(apart, *(_computed(checkpoint, model, rows) for rows in (long, templated)))


def _computed(checkpoint: SavedCheckpoint, model: Checkpoint, rows: list[Row]) -> Sample:
    return Sample(rows, model.outputs(rows) if rows else checkpoint.outputs[:0])


def long_rows(checkpoint: SavedCheckpoint, length: int) -> list[Row]:
    """One row of so many tokens, made of the saved ones; none where one of them is as long."""
    rows = checkpoint.rows
    longest = max(rows, key=lambda row: len(row.ids))
    if length <= len(longest.ids):
        return []
    ids = _repeated([row.ids for row in rows], length - len(longest.ids)) + longest.ids
    gate, end = rows[0].gate, None if rows[0].end is None else length - 1
    row = row_of(ids, None if gate is None else min(gate, length - 1), checkpoint.tokenizer)
    return [replace(row, end=end)]


def _repeated(rows: Sequence[Sequence[int]], length: int) -> list[int]:
    joined = [token for row in rows for token in row]
    return (joined * (length // len(joined) + 1))[:length]
