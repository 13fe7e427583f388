"""Whether a running server gives the rewards of a checkpoint: the rows that were saved with it, sent and compared.

    report = verify_server(read_checkpoint(folder), CLIENTS["vllm"](Connection(url)), load=lambda: Probe(folder))
    report.equal, report_lines(report)

The rows are those of verification.json, and what is due for them was computed by plain transformers in float32. Each
way in which the protocol's clients send a conversation is compared by itself. With the model loaded here, a long row
and messages are compared too (verification_local.py). Where the answers differ, the cause is sought by computing what
it would give (verification_causes.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from reward_modeling.common.errors import UserError
from reward_modeling.models.gated_model import is_gated
from reward_modeling.serving.client_connection import Refused
from reward_modeling.serving.clients import DESCRIBED, Answer, Client, Row, ServerInfo, Way
from reward_modeling.serving.verification_case import Case, Cause, Checkpoint
from reward_modeling.serving.verification_causes import find_causes
from reward_modeling.serving.verification_local import Local, Sample, look_locally
from reward_modeling.serving.verification_rows import FLOAT32, SavedCheckpoint
from reward_modeling.serving.verification_values import Values, distance, largest_difference, tolerances_of


@dataclass(frozen=True)
class Comparison:
    """One way of sending, row by row; `left_out` counts the rows that it cannot send."""

    way: Way
    rows: list[Row]
    expected: list[Values]
    served: list[Values | None]
    tolerances: Values
    left_out: int
    causes: list[Cause] = field(default_factory=list)

    @property
    def differences(self) -> list[float]:
        """Of each row the largest; infinite where it was refused."""
        return [largest_difference(*both) for both in zip(self.expected, self.served, strict=True)]

    @property
    def equal(self) -> bool:
        return distance(self.expected, self.served, self.tolerances) <= 1


@dataclass(frozen=True)
class Report:
    """All ways; equal is a server by which all are that decide, and of which there is at least one.

    `local` is None where the model was not loaded. Files that do not give what was saved are not what is served.
    """

    checkpoint: SavedCheckpoint
    server: ServerInfo
    url: str
    protocol: str
    dtype: str
    takes_messages: bool
    comparisons: list[Comparison]
    local: Local | None = None

    @property
    def deciding(self) -> list[Comparison]:
        return [one for one in self.comparisons if one.way.decides and one.rows]

    @property
    def is_changed(self) -> bool:
        return self.local is not None and self.local.is_changed

    @property
    def equal(self) -> bool:
        return bool(self.deciding) and all(one.equal for one in self.deciding) and not self.is_changed

    @property
    def messages(self) -> int:
        """Conversations that were compared as messages."""
        return sum(len(one.rows) for one in self.deciding if one.way.as_messages)

    @property
    def longest_row(self) -> int:
        """Tokens up to which every way was compared but that of messages."""
        return min(max(len(row.ids) for row in one.rows) for one in self.deciding if not one.way.as_messages)

    @property
    def tolerance(self) -> float:
        """The largest of what decides."""
        return max(value for one in self.deciding for value in one.tolerances.values())

    @property
    def largest(self) -> float:
        """The largest difference of what decides."""
        return max(max(one.differences) for one in self.deciding)


def verify_server(
    checkpoint: SavedCheckpoint,
    client: Client,
    *,
    load: Callable[[], Checkpoint],
    dtype: str = FLOAT32,
    ways: Sequence[Way] | None = None,
    load_model: bool = False,
) -> Report:
    """Send the checkpoint's rows, compare the answers, and look for the causes of what differs.

    Args:
        load: gives the checkpoint with its weights. Called where there is a difference to explain, or rounding to be
            measured, or with `load_model`.
        dtype: in which the server computes; below float32 its rounding is allowed for.
        ways: None: all of the client's. One that informs alone is left out where there is nothing to show.
        load_model: also see whether the files are what was saved, and compare a long row, and messages.

    Raises:
        UserError: the server cannot be reached, or speaks another protocol, or says that it computes in another
            precision than `dtype`, which is below float32; the model has a gate, of which this protocol knows nothing.
    """
    if is_gated(checkpoint.config) and client.shows != DESCRIBED:
        raise UserError(
            f"--protocol {client.protocol}: expected --protocol ours for {checkpoint.name}, whose gate reads where the "
            "prompt ends: of tokens and texts no other protocol can say where that is."
        )
    server = client.about()
    if dtype != FLOAT32 and server.dtype not in (None, dtype):
        raise UserError(
            f"--served_dtype {dtype}: expected a server that computes in it, found one that says {server.dtype}."
        )
    local = look_locally(checkpoint, load(), server.max_length) if load_model else None
    rounding = None if dtype == FLOAT32 else rounding_in(checkpoint, local, dtype, load)
    ways = ways or client.ways
    takes_messages = any(way.as_messages for way in ways)
    asked = client.connection.url, client.protocol, dtype, takes_messages
    report = Report(checkpoint, server, *asked, [], local)
    for way in ways:
        sample = _sample_for(way, report)
        if (way.decides and not way.as_messages) or any(map(way.can_send, sample.rows)):
            report.comparisons.append(_compare(checkpoint, client, way, sample, rounding, server, load))
    return report


def _sample_for(way: Way, report: Report) -> Sample:
    """Messages are sent where other ways show this very model: what differs then is the template."""
    saved = Sample(report.checkpoint.rows, report.checkpoint.outputs)
    if report.local is None:
        return saved
    if way.as_messages:
        is_model = bool(report.comparisons) and report.comparisons[0].equal
        return report.local.templated if is_model else Sample([], saved.outputs[:0])
    return saved.and_also(report.local.long) if way.decides else saved


def rounding_in(checkpoint: SavedCheckpoint, local: Local | None, dtype: str, load: Callable[[], Checkpoint]) -> float:
    """How far computing in `dtype` moves the outputs: as saved, or measured now."""
    is_saved = checkpoint.precision == dtype and checkpoint.rounding is not None
    rows = [] if is_saved else [*checkpoint.rows]
    rows += [] if local is None else local.long.rows + local.templated.rows
    found = [checkpoint.rounding] if is_saved else []
    if rows:
        model = load()
        found.append(np.abs(model.outputs(rows, dtype) - model.outputs(rows)).max())
    return float(np.max(found))


def _compare(
    checkpoint: SavedCheckpoint,
    client: Client,
    way: Way,
    sample: Sample,
    rounding: float | None,
    server: ServerInfo,
    load: Callable[[], Checkpoint],
) -> Comparison:
    places = [place for place, row in enumerate(sample.rows) if way.can_send(row)]
    rows, outputs = [sample.rows[place] for place in places], sample.outputs[places]
    shows = way.shows or client.shows
    expected = checkpoint.values(outputs, shows)
    all_values = checkpoint.values(np.concatenate([checkpoint.outputs, sample.outputs]), shows)
    tolerances = tolerances_of(all_values, rounding, checkpoint.noise)
    answers = [_ask(client, way, row) for row in rows]
    served = [_values(answer, due, shows) for answer, due in zip(answers, expected, strict=True)]
    comparison = Comparison(way, rows, expected, served, tolerances, len(sample.rows) - len(rows))
    if not rows or comparison.equal:
        return comparison
    refused = [str(answer) if isinstance(answer, Refused) else None for answer in answers]
    counted = [answer.tokens if isinstance(answer, Answer) else None for answer in answers]
    case = Case(checkpoint, shows, way, rows, outputs, served, refused, counted, tolerances, server.max_length)
    return Comparison(**vars(comparison) | {"causes": find_causes(case, load)})


def _ask(client: Client, way: Way, row: Row) -> Answer | Refused:
    try:
        return client.ask(way, row)
    except Refused as refused:
        return refused


def _values(answer: Answer | Refused, due: Values, shows: str) -> Values | None:
    """Of what a server says beside the reward, that which is known of the checkpoint too."""
    if isinstance(answer, Refused):
        return None
    known = shows != DESCRIBED
    return {name: value for name, value in answer.values.items() if known or name in due}
