"""Micro-batches as tensors: padded rows (the reference), packed rows, and packed rows with shared prefixes.

A group row is what `prompt_groups.tokenize_and_group` writes:

    {"prefix_ids": [1, 2, 3], "completion_ids": [[4, 5], [6]], "units": [[0, 1]], "targets": [[0.0]], ...}

padded          input_ids (2, 5)   1 2 3 4 5 | 1 2 3 6 0       read_positions 4, 8
packed          input_ids (1, 9)   1 2 3 4 5 1 2 3 6           position_ids 0 1 2 3 4 0 1 2 3   read_positions 4, 8
shared_prefix   input_ids (1, 6)   1 2 3 4 5 6                 position_ids 0 1 2 3 4 3         read_positions 4, 5
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from reward_modeling.data.planning import PACKED, PADDED, MicroBatch
from reward_modeling.models.packed_layout import PackedLayout, Span

# Of a chunk the prefix, the completions that it needs, and per completion the tokens of prefix + completion that are
# read.
Responses = tuple[list[int], list[list[int]], list[list[int]]]


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
            `model_inputs`: for the model's forward; `targets`: what the objective makes of the units; `members` and
            `unit_of_member`, `(members,)` long: the completions of all units, and whose they are; `num_tokens` and
            `row_tokens`: tokens in this batch, and in one unpadded row per completion of a unit.
        """
        responses: list[Responses] = []
        lengths: list[int] = []  # per completion, with its prefix
        units, targets = [], []  # a unit is numbers of completions in the micro-batch
        for chunk in micro_batch:
            group = groups[chunk.group]
            of_chunk = group["units"][chunk.unit_start : chunk.unit_end]
            used = sorted({number for unit in of_chunk for number in unit})
            if chunk.counted:
                numbers = {number: len(lengths) + place for place, number in enumerate(used)}
                units += [[numbers[number] for number in unit] for unit in of_chunk]
                targets += group["targets"][chunk.unit_start : chunk.unit_end]
            completions = [group["completion_ids"][number] for number in used]
            own_lengths = [len(group["prefix_ids"]) + len(ids) for ids in completions]
            named = group.get("read_positions")  # without them it is the last token
            reads = [named[number] for number in used] if named else [[length - 1] for length in own_lengths]
            responses.append((group["prefix_ids"], completions, reads))
            lengths += own_lengths
        model_inputs, places = (self._padded if self.batching == PADDED else self._packed)(responses)
        # Each token is read once: one in a shared prefix belongs to several completions.
        number_of: dict[int, int] = {}
        reads = [[number_of.setdefault(place, len(number_of)) for place in of] for of in places]
        model_inputs["read_positions"] = torch.tensor(list(number_of))
        if "packed_layout" in model_inputs:
            model_inputs["packed_layout"].read_positions = tuple(number_of)
        read_of_units = [[read for number in unit for read in reads[number]] for unit in units]
        members = [number for unit in units for number in unit]
        unit_of_member = [place for place, unit in enumerate(units) for _ in unit]
        return {
            "model_inputs": model_inputs,
            "targets": self.collate_targets(read_of_units, targets) if self.collate_targets else {},
            "members": torch.tensor(members, dtype=torch.long),
            "unit_of_member": torch.tensor(unit_of_member, dtype=torch.long),
            "num_tokens": model_inputs["input_ids"].numel(),
            "row_tokens": sum(lengths[number] for number in members),
        }

    def _padded(self, responses: list[Responses]) -> tuple[dict[str, Any], list[list[int]]]:
        """The model's inputs, and per completion its tokens of them that are read."""
        rows = [torch.tensor(prefix + ids) for prefix, completions, _ in responses for ids in completions]
        options = {"batch_first": True, "padding_side": self.padding_side}
        input_ids = pad_sequence(rows, padding_value=self.pad_token_id, **options)
        attention_mask = pad_sequence([torch.ones_like(row) for row in rows], **options)
        reads = [positions for _, _, of_group in responses for positions in of_group]
        width = input_ids.shape[1]
        first = [(width - len(row)) * (self.padding_side == "left") for row in rows]
        places = [
            [number * width + first[number] + position for position in of_row] for number, of_row in enumerate(reads)
        ]
        return {"input_ids": input_ids, "attention_mask": attention_mask}, places

    def _packed(self, responses: list[Responses]) -> tuple[dict[str, Any], list[list[int]]]:
        tokens: list[int] = []
        position_ids: list[int] = []
        spans: list[Span] = []
        completion_spans: list[int] = []
        places: list[list[int]] = []

        def add_span(ids: list[int], first_position: int, prefix_start: int, prefix_end: int) -> None:
            spans.append(Span(len(tokens), len(tokens) + len(ids), prefix_start, prefix_end))
            tokens.extend(ids)
            position_ids.extend(range(first_position, first_position + len(ids)))

        for prefix, completions, reads in responses:
            shared = self.batching != PACKED and len(prefix) > 0
            prefix_start = len(tokens)
            if shared:
                add_span(prefix, 0, prefix_start, prefix_start)
            skipped = len(tokens) - prefix_start  # tokens of the conversation that are not in the completion's own span
            for completion, positions in zip(completions, reads, strict=True):
                shift = len(tokens) - skipped
                if shared:
                    add_span(completion, skipped, prefix_start, prefix_start + skipped)
                else:
                    add_span(prefix + completion, 0, 0, 0)
                places.append([each + (shift if each >= skipped else prefix_start) for each in positions])
                completion_spans.append(len(spans) - 1)
        return {
            "input_ids": torch.tensor([tokens]),
            "position_ids": torch.tensor([position_ids]),
            "packed_layout": PackedLayout(tuple(spans), tuple(completion_spans)),
        }, places
