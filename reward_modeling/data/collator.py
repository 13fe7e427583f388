"""Micro-batches as tensors: padded rows (the reference), packed rows, and packed rows with shared prefixes.

A group row is what `prompt_groups.tokenize_and_group` writes:

    {"prefix_ids": [1, 2, 3], "completion_ids": [[4, 5], [6]], "units": [[0, 1]], "targets": [[0.0]], ...}

padded          input_ids (2, 5)   1 2 3 4 5 | 1 2 3 6 0       read_positions 4, 8
 in two blocks            (1, 5)   1 2 3 4 5                   read_positions 4
                          (1, 4)   1 2 3 6                     read_positions 3
packed          input_ids (1, 9)   1 2 3 4 5 1 2 3 6           position_ids 0 1 2 3 4 0 1 2 3   read_positions 4, 8
shared_prefix   input_ids (1, 6)   1 2 3 4 5 6                 position_ids 0 1 2 3 4 3         read_positions 4, 5
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from reward_modeling.data.packed_row import PackedRow
from reward_modeling.data.planning import PACKED, PADDED, MicroBatch, shared_lengths, unit_weights
from reward_modeling.data.shared_beginnings import shared_among


class Responses(NamedTuple):
    """Of a chunk the prefix and the completions that it needs, and what is read of each, counted from the prefix on.

    `shared`: of each completion the tokens that it begins with as the one before it does, see shared_beginnings.py.
    """

    prefix: list[int]
    completions: list[list[int]]
    reads: list[list[int]]
    shared: list[int]


class MicroBatchCollator:
    """Builds the keyword arguments of the model's forward, and the targets that the loss needs.

    Args:
        batching: "shared_prefix", "packed" or "padded".
        pad_token_id: for padded rows.
        collate_targets: of an objective; without it there are no targets.
        padding_side: of padded rows; "left" for a model that reads the last place, be it padding.
    """

    def __init__(
        self,
        batching: str,
        pad_token_id: int,
        collate_targets: Callable | None = None,
        *,
        padding_side: str = "right",
    ):
        self.batching = batching
        self.pad_token_id = pad_token_id
        self.collate_targets = collate_targets
        self.padding_side = padding_side

    def __call__(self, micro_batch: MicroBatch, groups: dict[int, dict]) -> dict:
        """
        Returns:
            `model_inputs`: for the model's forward, of several blocks of padded rows under "blocks"; `targets`: what
            the objective makes of the units; `weights`, `(units,)` float32: how much each counts in the loss; `members`
            and `unit_of_member`, `(members,)` long: the rows of all completions of the units, and whose they are;
            `num_tokens` and `row_tokens`: tokens in this batch, and in one unpadded row per completion of a unit.
        """
        responses: list[Responses] = []
        blocks: list[int] = []  # per completion, where rows are padded
        lengths: list[int] = []  # per completion, with its prefix
        units, targets, weights = [], [], []  # a unit is numbers of completions in the micro-batch
        for chunk in micro_batch:
            group = groups[chunk.group]
            of_chunk = group["units"][chunk.unit_start : chunk.unit_end]
            used = sorted({number for unit in of_chunk for number in unit})
            if chunk.counted:
                numbers = {number: len(lengths) + place for place, number in enumerate(used)}
                units += [[numbers[number] for number in unit] for unit in of_chunk]
                targets += group["targets"][chunk.unit_start : chunk.unit_end]
                weights += unit_weights(group)[chunk.unit_start : chunk.unit_end]
            completions = [group["completion_ids"][number] for number in used]
            own_lengths = [len(group["prefix_ids"]) + len(ids) for ids in completions]
            named = group.get("read_positions")  # without them it is the last token
            reads = [named[number] for number in used] if named else [[length - 1] for length in own_lengths]
            shared = shared_among(shared_lengths(group), used)
            responses.append(Responses(group["prefix_ids"], completions, reads, shared))
            lengths += own_lengths
            blocks += chunk.blocks or [0] * len(used)
        if self.batching == PADDED:
            model_inputs, reads, rows = self._padded(responses, blocks)
        else:
            model_inputs, reads = self._packed(responses)
            rows = list(range(len(lengths)))
        read_of_units = [[read for number in unit for read in reads[number]] for unit in units]
        members = [number for unit in units for number in unit]
        unit_of_member = [place for place, unit in enumerate(units) for _ in unit]
        return {
            "model_inputs": model_inputs,
            "targets": self.collate_targets(read_of_units, targets) if self.collate_targets else {},
            "weights": torch.tensor(weights, dtype=torch.float32),
            "members": torch.tensor([rows[number] for number in members], dtype=torch.long),
            "unit_of_member": torch.tensor(unit_of_member, dtype=torch.long),
            "num_tokens": sum(block["input_ids"].numel() for block in model_inputs.get("blocks", [model_inputs])),
            "row_tokens": sum(lengths[number] for number in members),
        }

    def _padded(
        self, responses: list[Responses], blocks: list[int]
    ) -> tuple[dict[str, Any], list[list[int]], list[int]]:
        """The model's inputs; per completion what is read of it, by its number in the logits, and its row of all."""
        tokens = [of.prefix + ids for of in responses for ids in of.completions]
        positions = [of_row for of in responses for of_row in of.reads]
        of_blocks: list[list[int]] = [[] for _ in range(max(blocks) + 1)]
        for number, block in enumerate(blocks):
            of_blocks[block].append(number)
        reads: list[list[int]] = [[] for _ in tokens]
        rows = [0] * len(tokens)
        next_read, next_row, inputs = itertools.count(), itertools.count(), []
        for numbers in of_blocks:
            for number in numbers:
                rows[number] = next(next_row)
                reads[number] = [next(next_read) for _ in positions[number]]
            if not numbers:  # other processes have rows here: nothing reads this one
                next(next_row), next(next_read)
            in_block = [(tokens[number], positions[number]) for number in numbers] or [([self.pad_token_id], [0])]
            inputs.append(self._block(in_block))
        return inputs[0] if len(inputs) == 1 else {"blocks": inputs}, reads, rows

    def _block(self, rows: list[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
        """Padded rows; each comes with the positions that are read of it."""
        of_rows = [torch.tensor(tokens) for tokens, _ in rows]
        options = {"batch_first": True, "padding_side": self.padding_side}
        input_ids = pad_sequence(of_rows, padding_value=self.pad_token_id, **options)
        attention_mask = pad_sequence([torch.ones_like(row) for row in of_rows], **options)
        width = input_ids.shape[1]
        first = [(width - len(row)) * (self.padding_side == "left") for row in of_rows]
        read = [
            number * width + first[number] + position
            for number, (_, positions) in enumerate(rows)
            for position in positions
        ]
        return {"input_ids": input_ids, "attention_mask": attention_mask, "read_positions": torch.tensor(read)}

    def _packed(self, responses: list[Responses]) -> tuple[dict[str, Any], list[list[int]]]:
        """The model's inputs, and per completion what is read of it, by its number in the logits."""
        row = PackedRow()
        for prefix, completions, reads, shared in responses:
            if self.batching == PACKED:
                whole = [prefix + completion for completion in completions]
                row.add([], whole, reads, [0] * len(whole))
            else:
                row.add(prefix, completions, reads, shared)
        # Each token is read once: one in a shared prefix belongs to several completions.
        number_of: dict[int, int] = {}
        reads = [[number_of.setdefault(place, len(number_of)) for place in of] for of in row.places]
        return {
            "input_ids": torch.tensor([row.tokens]),
            "position_ids": torch.tensor([row.position_ids]),
            "packed_layout": row.layout(list(number_of)),
            "read_positions": torch.tensor(list(number_of)),
        }, reads
