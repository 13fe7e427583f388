"""One way of sending that gave other rewards: what was sent, what was due, what was served."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from reward_modeling.serving.clients import Row, Way
from reward_modeling.serving.verification_rows import Outputs, SavedCheckpoint
from reward_modeling.serving.verification_values import Values, distance

Messages = Sequence[Mapping[str, str]]
OF_ROWS = ("rows", "served", "refused", "counted")


class Checkpoint(Protocol):
    """The model itself, where its weights are needed: see `verification_probe.Probe`."""

    def outputs(self, rows: Sequence[Row], dtype: str = "float32") -> Outputs: ...

    def templated(self, conversations: Sequence[Messages]) -> list[Row]: ...

    def longest(self) -> int: ...


@dataclass(frozen=True)
class Cause:
    """A fault by its name, and a sentence that says what was computed."""

    name: str
    sentence: str


@dataclass(frozen=True)
class Case:
    """`served` has None, and `refused` the server's message, of a row that was refused.

    `counted` are the tokens that the server says it has read, and `max_length` the most that it takes, where it says
    so. `outputs` are the checkpoint's own, of which the values are due that a server shows.
    """

    checkpoint: SavedCheckpoint
    shows: str
    way: Way
    rows: list[Row]
    outputs: Outputs
    served: list[Values | None]
    refused: list[str | None]
    counted: list[int | None]
    tolerances: Values
    max_length: int | None

    def values(self, outputs: Outputs) -> list[Values]:
        """What a server of this protocol gives of these outputs."""
        return self.checkpoint.values(outputs, self.shows)

    def distance(self, expected: Sequence[Values], tolerances: Values | None = None) -> float:
        """Of what was served from these values, as a multiple of the tolerance: at most 1 is equal."""
        return distance(expected, self.served, tolerances or self.tolerances)

    def only(self, places: Sequence[int]) -> "Case":
        """These rows of it."""
        lists = {name: [getattr(self, name)[place] for place in places] for name in OF_ROWS}
        return replace(self, outputs=self.outputs[list(places)], **lists)
