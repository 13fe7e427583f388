"""Micro-batches as tensors: padded rows (the reference), packed rows, and packed rows with shared prefixes.

A group row is what `grouping.tokenize_and_group` writes:

    {"prefix_ids": [1, 2, 3], "completion_ids": [[4, 5], [6]], "chosen_index": [0], "rejected_index": [1], ...}

padded          input_ids (2, 5)   1 2 3 4 5 | 1 2 3 6 0       end_positions 4, 8
packed          input_ids (1, 9)   1 2 3 4 5 1 2 3 6           position_ids 0 1 2 3 4 0 1 2 3
shared_prefix   input_ids (1, 6)   1 2 3 4 5 6                 position_ids 0 1 2 3 4 3
"""

from dataclasses import dataclass, field

import torch

from reward_modeling.data.planning import PACKED, PADDED, MicroBatch
from reward_modeling.models.packed_layout import PackedLayout, Span


@dataclass
class Responses:
    """The distinct completions that a micro-batch needs, group by group, and the pairs over them."""

    groups: list[tuple[list[int], list[list[int]]]] = field(default_factory=list)  # (prefix, completions)
    pairs: list[tuple[int, int]] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    num_responses: int = 0
    row_tokens: int = 0  # what one unpadded row per answer of a pair would take

    def add(self, group: dict, pair_start: int, pair_end: int, counted: bool) -> None:
        pairs = list(
            zip(
                group["chosen_index"][pair_start:pair_end],
                group["rejected_index"][pair_start:pair_end],
                strict=True,
            )
        )
        used = sorted({number for pair in pairs for number in pair})
        numbers = {number: self.num_responses + place for place, number in enumerate(used)}
        self.groups.append((group["prefix_ids"], [group["completion_ids"][number] for number in used]))
        self.num_responses += len(used)
        if counted:
            self.pairs += [(numbers[chosen], numbers[rejected]) for chosen, rejected in pairs]
            self.margins += group["margins"][pair_start:pair_end]
            lengths = {number: len(group["completion_ids"][number]) for number in used}
            self.row_tokens += sum(lengths[a] + lengths[b] + 2 * len(group["prefix_ids"]) for a, b in pairs)


class MicroBatchCollator:
    """Builds the keyword arguments of the model's forward, and the pairs that the loss needs.

    Args:
        batching: "shared_prefix", "packed" or "padded".
        pad_token_id: for padded rows.
    """

    def __init__(self, batching: str, pad_token_id: int):
        self.batching = batching
        self.pad_token_id = pad_token_id

    def __call__(self, micro_batch: MicroBatch, groups: dict[int, dict]) -> dict:
        """
        Returns:
            `model_inputs`: for the model's forward; `pairs` `(pairs, 2)` long, numbers of the rewards that the
            forward returns; `margins` `(pairs,)` float32; `num_tokens` and `row_tokens`: tokens in this batch,
            and in one unpadded row per answer of a pair.
        """
        responses = Responses()
        for chunk in micro_batch:
            responses.add(groups[chunk.group], chunk.pair_start, chunk.pair_end, chunk.counted)
        model_inputs = self._padded(responses) if self.batching == PADDED else self._packed(responses)
        return {
            "model_inputs": model_inputs,
            "pairs": torch.tensor(responses.pairs, dtype=torch.long).reshape(-1, 2),
            "margins": torch.tensor(responses.margins, dtype=torch.float32),
            "num_tokens": model_inputs["input_ids"].numel(),
            "row_tokens": responses.row_tokens,
        }

    def _padded(self, responses: Responses) -> dict:
        rows = [prefix + completion for prefix, completions in responses.groups for completion in completions]
        longest = max(map(len, rows))
        input_ids = torch.full((len(rows), longest), self.pad_token_id)
        attention_mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for number, row in enumerate(rows):
            input_ids[number, : len(row)] = torch.tensor(row)
            attention_mask[number, : len(row)] = 1
        ends = torch.tensor([number * longest + len(row) - 1 for number, row in enumerate(rows)])
        return {"input_ids": input_ids, "attention_mask": attention_mask, "end_positions": ends}

    def _packed(self, responses: Responses) -> dict:
        tokens: list[int] = []
        positions: list[int] = []
        spans: list[Span] = []
        scored_spans: list[int] = []

        def add_span(ids: list[int], first_position: int, prefix_start: int, prefix_end: int) -> None:
            spans.append(Span(len(tokens), len(tokens) + len(ids), prefix_start, prefix_end))
            tokens.extend(ids)
            positions.extend(range(first_position, first_position + len(ids)))

        for prefix, completions in responses.groups:
            shared = self.batching != PACKED and len(prefix) > 0
            prefix_start = prefix_end = len(tokens)
            if shared:
                add_span(prefix, 0, prefix_start, prefix_end)
                prefix_end = len(tokens)
            for completion in completions:
                if shared:
                    add_span(completion, len(prefix), prefix_start, prefix_end)
                else:
                    add_span(prefix + completion, 0, 0, 0)
                scored_spans.append(len(spans) - 1)
        return {
            "input_ids": torch.tensor([tokens]),
            "position_ids": torch.tensor([positions]),
            "packed_layout": PackedLayout(tuple(spans), tuple(scored_spans)),
            "end_positions": torch.tensor([spans[number].end - 1 for number in scored_spans]),
        }
