"""Micro-batches as tensors: padded rows (the reference), packed rows, and packed rows with shared prefixes.

A group row is what `prompt_groups.tokenize_and_group` writes:

    {"prefix_ids": [1, 2, 3], "completion_ids": [[4, 5], [6]], "units": [[0, 1]], "targets": [[0.0]], ...}

padded          input_ids (2, 5)   1 2 3 4 5 | 1 2 3 6 0       read_positions 4, 8
packed          input_ids (1, 9)   1 2 3 4 5 1 2 3 6           position_ids 0 1 2 3 4 0 1 2 3   read_positions 4, 8
shared_prefix   input_ids (1, 6)   1 2 3 4 5 6                 position_ids 0 1 2 3 4 3         read_positions 4, 5
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from reward_modeling.data.planning import PACKED, PADDED, MicroBatch
from reward_modeling.models.packed_layout import PackedLayout, Span


@dataclass
class Responses:
    """The distinct completions that a micro-batch needs, group by group, and the units over them."""

    groups: list[tuple[list[int], list[list[int]], list[list[int]]]] = field(default_factory=list)
    units: list[list[int]] = field(default_factory=list)  # numbers of completions in the micro-batch
    targets: list[Sequence[float]] = field(default_factory=list)
    num_completions: int = 0
    row_tokens: int = 0  # what one unpadded row per completion of a unit would take

    def add(self, group: dict, unit_start: int, unit_end: int, counted: bool) -> None:
        units = group["units"][unit_start:unit_end]
        used = sorted({number for unit in units for number in unit})
        numbers = {number: self.num_completions + place for place, number in enumerate(used)}
        completions = [group["completion_ids"][number] for number in used]
        self.groups.append((group["prefix_ids"], completions, _read_positions(group, used)))
        self.num_completions += len(used)
        if counted:
            self.units += [[numbers[number] for number in unit] for unit in units]
            self.targets += group["targets"][unit_start:unit_end]
            rows = [
                len(group["prefix_ids"]) + len(group["completion_ids"][number]) for unit in units for number in unit
            ]
            self.row_tokens += sum(rows)

    def __iter__(self) -> Iterator[tuple[list[int], list[list[int]], list[list[int]]]]:
        """Of each group prefix, completions, and the tokens of prefix + completion that are read."""
        return iter(self.groups)


def _read_positions(group: dict, used: list[int]) -> list[list[int]]:
    """Per completion; the last token where the group names none."""
    named = group.get("read_positions")
    if named:
        return [named[number] for number in used]
    return [[len(group["prefix_ids"]) + len(group["completion_ids"][number]) - 1] for number in used]


class MicroBatchCollator:
    """Builds the keyword arguments of the model's forward, and the targets that the loss needs.

    Args:
        batching: "shared_prefix", "packed" or "padded".
        pad_token_id: for padded rows.
        collate_targets: of an objective; without it there are no targets.
    """

    def __init__(self, batching: str, pad_token_id: int, collate_targets: Callable | None = None):
        self.batching = batching
        self.pad_token_id = pad_token_id
        self.collate_targets = collate_targets

    def __call__(self, micro_batch: MicroBatch, groups: dict[int, dict]) -> dict:
        """
        Returns:
            `model_inputs`: for the model's forward; `targets`: what the objective makes of the units; `members` and
            `unit_of_member`, `(members,)` long: the completions of all units, and whose they are; `num_tokens` and
            `row_tokens`: tokens in this batch, and in one unpadded row per completion of a unit.
        """
        responses = Responses()
        for chunk in micro_batch:
            responses.add(groups[chunk.group], chunk.unit_start, chunk.unit_end, chunk.counted)
        model_inputs, reads = self._padded(responses) if self.batching == PADDED else self._packed(responses)
        units = [[read for number in unit for read in reads[number]] for unit in responses.units]
        members = [number for unit in responses.units for number in unit]
        unit_of_member = [place for place, unit in enumerate(responses.units) for _ in unit]
        return {
            "model_inputs": model_inputs,
            "targets": self.collate_targets(units, responses.targets) if self.collate_targets else {},
            "members": torch.tensor(members, dtype=torch.long),
            "unit_of_member": torch.tensor(unit_of_member, dtype=torch.long),
            "num_tokens": model_inputs["input_ids"].numel(),
            "row_tokens": responses.row_tokens,
        }

    def _padded(self, responses: Responses) -> tuple[dict, list[list[int]]]:
        """The model's inputs, and per completion the rows of the logits that are its own."""
        rows = [prefix + completion for prefix, completions, _ in responses for completion in completions]
        longest = max(map(len, rows))
        input_ids = torch.full((len(rows), longest), self.pad_token_id)
        attention_mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for number, row in enumerate(rows):
            input_ids[number, : len(row)] = torch.tensor(row)
            attention_mask[number, : len(row)] = 1
        reads = _Reads()
        per_row = (positions for _, _, of_group in responses for positions in of_group)
        for number, positions in enumerate(per_row):
            reads.add([number * longest + position for position in positions])
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "read_positions": torch.tensor(reads.positions),
        }, reads.of_completions

    def _packed(self, responses: Responses) -> tuple[dict, list[list[int]]]:
        tokens: list[int] = []
        positions: list[int] = []
        spans: list[Span] = []
        completion_spans: list[int] = []
        reads = _Reads()

        def add_span(ids: list[int], first_position: int, prefix_start: int, prefix_end: int) -> None:
            spans.append(Span(len(tokens), len(tokens) + len(ids), prefix_start, prefix_end))
            tokens.extend(ids)
            positions.extend(range(first_position, first_position + len(ids)))

        for prefix, completions, read_positions in responses:
            shared = self.batching != PACKED and len(prefix) > 0
            prefix_start = prefix_end = len(tokens)
            if shared:
                add_span(prefix, 0, prefix_start, prefix_end)
                prefix_end = len(tokens)
            for completion, of_completion in zip(completions, read_positions, strict=True):
                if shared:
                    add_span(completion, len(prefix), prefix_start, prefix_end)
                else:
                    add_span(prefix + completion, 0, 0, 0)
                start, skipped = spans[-1].start, len(prefix) if shared else 0
                reads.add(
                    [
                        prefix_start + position if position < skipped else start + position - skipped
                        for position in of_completion
                    ]
                )
                completion_spans.append(len(spans) - 1)
        return {
            "input_ids": torch.tensor([tokens]),
            "position_ids": torch.tensor([positions]),
            "packed_layout": PackedLayout(tuple(spans), tuple(completion_spans), tuple(reads.positions)),
            "read_positions": torch.tensor(reads.positions),
        }, reads.of_completions


class _Reads:
    """The tokens that are read, each once: one in a shared prefix belongs to several completions."""

    def __init__(self):
        self.positions: list[int] = []
        self.of_completions: list[list[int]] = []
        self._number_of: dict[int, int] = {}

    def add(self, positions: list[int]) -> None:
        """The positions of the next completion."""
        for position in positions:
            if position not in self._number_of:
                self._number_of[position] = len(self.positions)
                self.positions.append(position)
        self.of_completions.append([self._number_of[position] for position in positions])
