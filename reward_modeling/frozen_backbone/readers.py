"""Readers of rows whose prompts are read too: of each conversation the gate's position, then the last token."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from reward_modeling.data.examples import RowReader
from reward_modeling.data.gate_position import Tail, gate_position
from reward_modeling.objectives.pair_reader import PairReader
from reward_modeling.objectives.rating_reader import RatingReader


class ReadsPrompts(RowReader):
    """To be mixed into a reader: it decides alone which tokens are read."""

    read_off: ClassVar[str] = "the state of prompt and answer"
    tail: Tail | None  # see `gate_position`

    def read_positions(
        self, ids: Sequence[int], prompt_length: Callable[[], int], piece_lengths: Sequence[int]
    ) -> list[int]:
        return [gate_position(ids[: prompt_length()], self.tail), len(ids) - 1]


@dataclass(frozen=True)
class RatingFeatureReader(ReadsPrompts, RatingReader):
    """Answers with their ratings."""

    tail: Tail | None = None


@dataclass(frozen=True)
class PairFeatureReader(ReadsPrompts, PairReader):
    """Pairs, and lists of answers as their pairs."""

    tail: Tail | None = None
