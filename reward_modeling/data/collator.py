"""Micro-batches as tensors: padded rows (the reference), packed rows, and packed rows with shared prefixes.

A group row is what `prompt_groups.tokenize_and_group` writes:

    {"prefix_ids": [1, 2, 3], "completion_ids": [[4, 5], [6]], "units": [[0, 1]], "targets": [[0.0]], ...}

padded          input_ids (2, 5)   1 2 3 4 5 | 1 2 3 6 0       read_positions 4, 8
packed          input_ids (1, 9)   1 2 3 4 5 1 2 3 6           position_ids 0 1 2 3 4 0 1 2 3   read_positions 4, 8
shared_prefix   input_ids (1, 6)   1 2 3 4 5 6                 position_ids 0 1 2 3 4 3         read_positions 4, 5
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch.nn.utils.rnn import pad_sequence

from reward_modeling.data.planning import PACKED, PADDED, Chunk, MicroBatch
from reward_modeling.models.packed_layout import PackedLayout, Span


@dataclass
class Responses:
    """The distinct completions that a micro-batch needs, group by group, and the units over them."""

    # Of each group the prefix, its completions, and per completion the tokens of prefix + completion that are read.
    groups: list[tuple[list[int], list[list[int]], list[list[int]]]] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)  # per completion, with its prefix
    units: list[list[int]] = field(default_factory=list)  # numbers of completions in the micro-batch
    targets: list[Sequence[float]] = field(default_factory=list)

    def add(self, group: dict, chunk: Chunk) -> None:
        units = group["units"][chunk.unit_start : chunk.unit_end]
        used = sorted({number for unit in units for number in unit})
        numbers = {number: len(self.lengths) + place for place, number in enumerate(used)}
        completions = [group["completion_ids"][number] for number in used]
        lengths = [len(group["prefix_ids"]) + len(ids) for ids in completions]
        named = group.get("read_positions")  # without them it is the last token
        reads = [named[number] for number in used] if named else [[length - 1] for length in lengths]
        self.groups.append((group["prefix_ids"], completions, reads))
        self.lengths += lengths
        if chunk.counted:
            self.units += [[numbers[number] for number in unit] for unit in units]
            self.targets += group["targets"][chunk.unit_start : chunk.unit_end]


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
            responses.add(groups[chunk.group], chunk)
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
            "row_tokens": sum(responses.lengths[number] for number in members),
        }

    def _padded(self, responses: Responses) -> tuple[dict, list[list[int]]]:
        """The model's inputs, and per completion the rows of the logits that are its own."""
        rows = [
            torch.tensor(prefix + completion)
            for prefix, completions, _ in responses.groups
            for completion in completions
        ]
        input_ids = pad_sequence(rows, batch_first=True, padding_value=self.pad_token_id)
        attention_mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        of_rows = [positions for _, _, of_group in responses.groups for positions in of_group]
        width = input_ids.shape[1]
        positions, reads = _number_reads([[number * width + each for each in of] for number, of in enumerate(of_rows)])
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "read_positions": torch.tensor(positions),
        }, reads

    def _packed(self, responses: Responses) -> tuple[dict, list[list[int]]]:
        tokens: list[int] = []
        position_ids: list[int] = []
        spans: list[Span] = []
        completion_spans: list[int] = []
        read: list[list[int]] = []

        def add_span(ids: list[int], first_position: int, prefix_start: int, prefix_end: int) -> None:
            spans.append(Span(len(tokens), len(tokens) + len(ids), prefix_start, prefix_end))
            tokens.extend(ids)
            position_ids.extend(range(first_position, first_position + len(ids)))

        for prefix, completions, read_positions in responses.groups:
            shared = self.batching != PACKED and len(prefix) > 0
            prefix_start = len(tokens)
            if shared:
                add_span(prefix, 0, prefix_start, prefix_start)
            skipped = len(tokens) - prefix_start  # tokens of the conversation that are not in the completion's own span
            for completion, positions in zip(completions, read_positions, strict=True):
                shift = len(tokens) - skipped
                if shared:
                    add_span(completion, skipped, prefix_start, prefix_start + skipped)
                else:
                    add_span(prefix + completion, 0, 0, 0)
                read.append([each + (shift if each >= skipped else prefix_start) for each in positions])
                completion_spans.append(len(spans) - 1)
        positions, reads = _number_reads(read)
        return {
            "input_ids": torch.tensor([tokens]),
            "position_ids": torch.tensor([position_ids]),
            "packed_layout": PackedLayout(tuple(spans), tuple(completion_spans), tuple(positions)),
            "read_positions": torch.tensor(positions),
        }, reads


def _number_reads(positions: list[list[int]]) -> tuple[list[int], list[list[int]]]:
    """The tokens that are read, each once, and per completion its own among them.

    One in a shared prefix belongs to several completions.
    """
    number_of: dict[int, int] = {}
    of_completions = [[number_of.setdefault(each, len(number_of)) for each in of] for of in positions]
    return list(number_of), of_completions
