"""From tokens to forward passes for scoring: every row once, a shared prompt once, little padding.

A window of conversations as tokens is grouped by what begins alike (`beginnings`), and cut into micro-batches. The plan
of a window depends on its conversations alone: on however many processes it runs, the same passes are computed, and
give bit for bit the same rewards.
"""

from dataclasses import dataclass
from typing import NamedTuple

from reward_modeling.common.prefixes import common_prefix_length
from reward_modeling.data.conversations import Tokens
from reward_modeling.data.planning import PADDED, SHARED_PREFIX, Chunk, GroupSizes, MicroBatch, plan_evaluation
from reward_modeling.data.shared_beginnings import shared_with_previous
from reward_modeling.scoring.beginnings import group_by_beginnings
from reward_modeling.scoring.conversations import ScoringCounts
from reward_modeling.scoring.trees import group_as_trees


@dataclass(frozen=True)
class Batches:
    """How texts become forward passes.

    `batching` is "shared_prefix", "packed" or "padded"; a pass has at most `max_tokens` tokens, padding included, or
    a single conversation. With `equal_lengths` only rows of one length make a padded pass: nothing is padded then. With
    `trees` rows share all that any of them begin with alike (data/shared_beginnings.py), and not their prompt alone.
    """

    batching: str
    max_tokens: int
    equal_lengths: bool = False
    trees: bool = False


@dataclass
class WindowPlan:
    """The passes of one window. `groups[g]` is a row for `MicroBatchCollator`, each completion a unit of its own.

    `indices[g][c]` are the conversations, by their numbers in the input, that completion c of group g stands for.
    """

    groups: list[dict]
    indices: list[list[list[int]]]
    micro_batches: list[MicroBatch]  # the heaviest first

    def scored_by(self, micro_batch: MicroBatch) -> list[list[int]]:
        """For each reward of this pass, in its order, the conversations that it belongs to."""
        return [self.indices[chunk.group][c] for chunk in micro_batch for c in range(chunk.unit_start, chunk.unit_end)]


class Row(NamedTuple):
    """A conversation's tokens, and the places that are read of them."""

    ids: tuple[int, ...]
    reads: tuple[int, ...]

    @classmethod
    def of(cls, tokens: Tokens) -> "Row":
        """The ends of its steps, or the place of a gate and the last one, or the last one alone."""
        last = len(tokens.ids) - 1
        reads = tokens.reads if tokens.reads is not None else [last] if tokens.gate is None else [tokens.gate, last]
        return cls(tuple(tokens.ids), tuple(reads))


def plan_window(window: list[tuple[int, Tokens]], batches: Batches, counts: ScoringCounts) -> WindowPlan:
    """Forward passes that score each distinct row of the window once; `window` has (number in the input, tokens).

    Where tokens have a gate two of each are read: the gate's, which completions of one prompt share, and the last.
    What has no tokens, since it does not fit into the model, is passed over.
    """
    # By tokens: texts may be cut to the same ones, which computed apart would differ by rounding, and win a tie.
    indices_of: dict[Row, list[int]] = {}
    for index, tokens in window:
        if len(tokens.ids):
            indices_of.setdefault(Row.of(tokens), []).append(index)
    rows = list(indices_of)
    counts.conversations += len(window)
    counts.scored += len(indices_of)
    if not rows:
        return WindowPlan([], [], [])
    together = [[row] for row in rows]
    if batches.batching == SHARED_PREFIX:
        group = group_as_trees if batches.trees else group_by_beginnings
        alike = group([row.ids for row in rows], batches.max_tokens)
        together = [[rows[number] for number in numbers] for numbers in alike]
    groups = [_group(of_group, batches.trees) for of_group in together]
    if batches.batching == PADDED:
        passes = _padded_batches([len(row.ids) for row in rows], batches)
    else:
        options = {"max_tokens": batches.max_tokens, "batching": batches.batching, "num_processes": 1}
        (passes,) = plan_evaluation(GroupSizes.from_rows(groups), **options)
    return WindowPlan(groups, [[indices_of[row] for row in of_group] for of_group in together], passes)


def _group(rows: list[Row], is_tree: bool) -> dict:
    """One group row, with what all sequences begin with as its prefix. A sequence alone shares nothing.

    Args:
        rows: in the order of their tokens.
    """
    sequences = [row.ids for row in rows]
    prefix_length = common_prefix_length(sequences) if len(sequences) > 1 else 0
    return {
        "prefix_ids": sequences[0][:prefix_length],
        "completion_ids": [ids[prefix_length:] for ids in sequences],
        "shared_lengths": shared_with_previous(sequences, prefix_length) if is_tree else [0] * len(sequences),
        "read_positions": [list(row.reads) for row in rows],
        "units": [[number] for number in range(len(sequences))],
        "targets": [[]] * len(sequences),
    }


def _padded_batches(lengths: list[int], batches: Batches) -> list[MicroBatch]:
    """Rows of like length together, the longest first, as one block a pass: no unit holds two of them together."""
    micro_batches: list[MicroBatch] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        chunk = Chunk(number, 0, 1, lengths[number], (lengths[number],))
        current = micro_batches[-1] if micro_batches else []
        longest = current[0].tokens if current else 0
        full = (len(current) + 1) * longest > batches.max_tokens
        if not current or full or (batches.equal_lengths and longest != chunk.tokens):
            micro_batches.append([])
        micro_batches[-1].append(chunk)
    return micro_batches
