"""From conversations to forward passes for scoring: every text once, a shared prompt once, little padding.

A window of conversations becomes tokens (`conversations`), is grouped by equal prompts, and cut into micro-batches.
The plan of a window depends on its conversations alone: on however many processes it runs, the same passes are
computed, and give bit for bit the same rewards.
"""

from dataclasses import dataclass

from reward_modeling.data.conversations import Conversation
from reward_modeling.data.planning import PADDED, Chunk, GroupSizes, MicroBatch, plan_evaluation
from reward_modeling.models.tokenizer import common_prefix_length
from reward_modeling.scoring.conversations import ConversationReader, ScoringCounts, prompt_key


@dataclass(frozen=True)
class Batches:
    """How texts become forward passes.

    `batching` is "shared_prefix", "packed" or "padded"; a pass has at most `max_tokens` tokens, padding included, or
    a single conversation. With `equal_lengths` only rows of one length make a padded pass: nothing is padded then.
    """

    batching: str
    max_tokens: int
    equal_lengths: bool = False


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


def plan_window(
    window: list[tuple[int, Conversation]], reader: ConversationReader, batches: Batches, counts: ScoringCounts
) -> WindowPlan:
    """Forward passes that score each distinct text of the window once; `window` has (number in the input, messages)."""
    rows = reader.tokenize(window, counts)
    # By tokens: texts may be cut to the same ones, which computed apart would differ by rounding, and win a tie.
    indices_of: dict[tuple[int, ...], list[int]] = {}
    rows_of_prompt: dict[object, list[tuple[int, ...]]] = {}
    for (index, conversation), ids in zip(window, map(tuple, rows), strict=True):
        # padded rows share nothing: each one is a group of its own, and is sorted by its own length
        group = rows_of_prompt.setdefault(index if batches.batching == PADDED else prompt_key(conversation), [])
        if ids not in indices_of:
            group.append(ids)
        indices_of.setdefault(ids, []).append(index)
    counts.conversations += len(window)
    counts.scored += len(indices_of)
    distinct = list(filter(None, rows_of_prompt.values()))
    groups = [_group(sequences) for sequences in distinct]
    if batches.batching == PADDED:
        passes = _padded_batches([len(ids) for (ids,) in distinct], batches)
    else:
        options = {"max_tokens": batches.max_tokens, "batching": batches.batching, "num_processes": 1}
        (passes,) = plan_evaluation(GroupSizes.from_rows(groups), **options)
    return WindowPlan(groups, [[indices_of[ids] for ids in sequences] for sequences in distinct], passes)


def _group(sequences: list[tuple[int, ...]]) -> dict:
    """One group row, with what all sequences begin with as its prefix. A sequence alone shares nothing."""
    prefix_length = common_prefix_length(sequences) if len(sequences) > 1 else 0
    return {
        "prefix_ids": sequences[0][:prefix_length],
        "completion_ids": [ids[prefix_length:] for ids in sequences],
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
