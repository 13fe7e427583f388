"""Conversations that a server cuts: to which length, and at which end."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from reward_modeling.serving.clients import Row
from reward_modeling.serving.verification_case import Case, Cause, Checkpoint
from reward_modeling.serving.verification_rows import Outputs
from reward_modeling.serving.verification_values import distance

MOST_TOKENS = 32_768  # that are computed to find a length
LEAST_WHOLE = 2  # rows that are equal, where others are called long
ROUND = 64  # lengths that people set are its multiples, where there is no room to try all


@dataclass(frozen=True)
class Side:
    """Where tokens are lost."""

    name: str
    keep: Callable[[list[int], int], list[int]]


SIDES = (
    Side("the end", lambda ids, length: ids[:length]),
    Side("the beginning", lambda ids, length: ids[-length:]),
    Side("the beginning after BOS", lambda ids, length: ids[:1] + ids[len(ids) - length + 1 :]),
)


def find_cut(case: Case, checkpoint: Checkpoint, own: Outputs) -> Cause | None:
    """The length that explains all rows; the shortest row that differs is tried first."""
    expected = case.values(own)
    differs = [
        distance([due], [served], case.tolerances) > 1 for due, served in zip(expected, case.served, strict=True)
    ]
    lengths = [len(row.ids) for row in case.rows]
    longest_whole = max((length for length, other in zip(lengths, differs, strict=True) if not other), default=0)
    if not any(differs) or any(row.end is not None for row in case.rows):  # of these the answer has all tokens
        return None
    place = min((place for place, other in enumerate(differs) if other), key=lambda place: lengths[place])
    tries = [
        (side, length)
        for length in lengths_to_try(case, longest_whole, lengths[place])
        for side in SIDES
        if length > 1 or side is SIDES[0]
    ]
    if not tries:
        return None
    outputs = checkpoint.outputs([_cut(case.rows[place], side, length) for side, length in tries])
    for (side, length), values in zip(tries, case.values(outputs), strict=True):
        if distance([values], [case.served[place]], case.tolerances) > 1:
            continue
        rows = [_cut(row, side, length) for row in case.rows]
        if case.distance(case.values(checkpoint.outputs(rows))) <= 1:
            cut = sum(len(row.ids) > length for row in case.rows)
            return Cause(
                "a cut",
                f"The server cuts conversations to {length:,} tokens, at {side.name} ({cut} of {len(rows)} rows): of "
                "the tokens that are left the checkpoint itself gives what was served. Give it a greater length.",
            )
    return None


def long_rows_alone(case: Case) -> Cause | None:
    """Where all rows are equal up to a length, and none beyond."""
    due = case.values(case.outputs)
    differs = [distance([one], [served], case.tolerances) > 1 for one, served in zip(due, case.served, strict=True)]
    whole = [len(row.ids) for row, other in zip(case.rows, differs, strict=True) if not other]
    others = [len(row.ids) for row, other in zip(case.rows, differs, strict=True) if other]
    if not whole or not others or max(whole) >= min(others) or len(whole) < LEAST_WHOLE:
        return None
    return Cause(
        "long rows",
        f"Rows of up to {max(whole):,} tokens are equal, and those of {min(others):,} and more are not: the server "
        "cuts them, or computes other positions or another attention window. Look at its greatest length.",
    )


def lengths_to_try(case: Case, longest_whole: int, shortest_cut: int) -> list[int]:
    """From the longest row that is whole up to below the shortest that is not.

    What the server says comes first: the most that it takes, and how many tokens it has read.
    """
    said = [case.max_length, *(count for count in case.counted if count is not None)]
    possible = range(max(1, longest_whole), shortest_cut)
    likely = [length for length in dict.fromkeys(said) if length in possible]
    others = possible if sum(possible) * len(SIDES) <= MOST_TOKENS else _round_lengths(possible)
    return list(dict.fromkeys([*likely, *others]))


def _round_lengths(possible: range) -> Iterator[int]:
    """The largest first, as far as there is room."""
    room = MOST_TOKENS
    for length in range(possible.stop - 1 - (possible.stop - 1) % ROUND, possible.start - 1, -ROUND):
        room -= length * len(SIDES)
        if room < 0:
            return
        yield length


def _cut(row: Row, side: Side, length: int) -> Row:
    return row if len(row.ids) <= length else replace(row, ids=side.keep(row.ids, length), text=None)
