"""Micro-batches as tensors, compared number by number."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reward_modeling.data.collator import MicroBatchCollator
from reward_modeling.data.planning import PACKED, PADDED, SHARED_PREFIX, Chunk
from reward_modeling.models.packed_layout import Span
from reward_modeling.objectives.bradley_terry import BradleyTerry

PAD = 0
EXAMPLE = {
    "prefix_ids": [1, 2, 3],
    "completion_ids": [[4, 5], [6]],
    "units": [[0, 1]],
    "targets": [[1.0, 1.0, 0.5]],
}
# Completions 0 and 2 alone are in the second pair; the third needs 1 and 3.
WIDE = {
    "prefix_ids": [10, 11],
    "completion_ids": [[20], [21, 22], [23, 24, 25], [26, 27, 28, 29]],
    "units": [[0, 1], [2, 0], [1, 3]],
    "targets": [[1.0, 1.0, 1.0], [1.0, 1.0, 2.0], [0.5, 1.0, 3.0]],
}


def collate(batching: str, chunks: list[Chunk], *groups: dict) -> dict:
    return MicroBatchCollator(batching, PAD, BradleyTerry.collate)(chunks, dict(enumerate(groups)))


def whole(*groups: dict) -> list[Chunk]:
    return [Chunk(number, 0, len(group["units"]), 0) for number, group in enumerate(groups)]


def rows_of(batch: dict) -> list[list[int]]:
    """The conversation that ends at each end position, as a model that follows the layout reads it."""
    inputs = batch["model_inputs"]
    tokens, ends = inputs["input_ids"].flatten().tolist(), inputs["read_positions"].tolist()
    if "packed_layout" not in inputs:
        width = inputs["input_ids"].shape[1]
        return [tokens[end // width * width : end + 1] for end in ends]
    spans = {span.end - 1: span for span in inputs["packed_layout"].spans}
    return [
        tokens[spans[end].prefix_start : spans[end].prefix_end] + tokens[spans[end].start : spans[end].end]
        for end in ends
    ]


def test_padded_is_the_example_of_the_docstring():
    batch = collate(PADDED, whole(EXAMPLE), EXAMPLE)
    inputs = batch["model_inputs"]
    assert set(inputs) == {"input_ids", "attention_mask", "read_positions"}
    assert inputs["input_ids"].tolist() == [[1, 2, 3, 4, 5], [1, 2, 3, 6, 0]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert inputs["read_positions"].tolist() == [4, 8]
    assert batch["num_tokens"] == 10


def test_packed_is_the_example_of_the_docstring():
    batch = collate(PACKED, whole(EXAMPLE), EXAMPLE)
    inputs = batch["model_inputs"]
    assert set(inputs) == {"input_ids", "position_ids", "packed_layout", "read_positions"}
    assert inputs["input_ids"].tolist() == [[1, 2, 3, 4, 5, 1, 2, 3, 6]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 3]]
    assert inputs["packed_layout"].spans == (Span(0, 5, 0, 0), Span(5, 9, 0, 0))
    assert inputs["read_positions"].tolist() == [4, 8]
    assert batch["num_tokens"] == 9


def test_shared_prefix_is_the_example_of_the_docstring():
    batch = collate(SHARED_PREFIX, whole(EXAMPLE), EXAMPLE)
    inputs = batch["model_inputs"]
    assert inputs["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 3, 4, 3]]
    assert inputs["packed_layout"].spans == (Span(0, 3, 0, 0), Span(3, 5, 0, 3), Span(5, 6, 0, 3))
    assert inputs["read_positions"].tolist() == [4, 5]
    assert batch["num_tokens"] == 6


@pytest.mark.parametrize("batching", [PADDED, PACKED, SHARED_PREFIX])
def test_pairs_and_margins_of_several_groups_follow_the_responses(batching):
    batch = collate(batching, whole(EXAMPLE, WIDE), EXAMPLE, WIDE)
    assert batch["targets"]["pairs"].dtype == torch.long
    assert batch["targets"]["pairs"].tolist() == [[0, 1], [2, 3], [4, 2], [3, 5]]
    assert batch["targets"]["margins"].dtype == torch.float32
    assert batch["targets"]["margins"].tolist() == [0.5, 1.0, 2.0, 3.0]
    assert rows_of(batch) == [
        [1, 2, 3, 4, 5],
        [1, 2, 3, 6],
        [10, 11, 20],
        [10, 11, 21, 22],
        [10, 11, 23, 24, 25],
        [10, 11, 26, 27, 28, 29],
    ]
    # two answers a pair: (5 + 4) + (3 + 4) + (5 + 3) + (4 + 6)
    assert batch["row_tokens"] == 34


def test_the_second_group_of_a_packed_row_points_to_its_own_prefix():
    inputs = collate(SHARED_PREFIX, whole(EXAMPLE, WIDE), EXAMPLE, WIDE)["model_inputs"]
    assert inputs["packed_layout"].spans[3:] == (
        Span(6, 8, 0, 0),
        Span(8, 9, 6, 8),
        Span(9, 11, 6, 8),
        Span(11, 14, 6, 8),
        Span(14, 18, 6, 8),
    )
    assert inputs["position_ids"][0, 6:].tolist() == [0, 1, 2, 2, 3, 2, 3, 4, 2, 3, 4, 5]
    assert inputs["read_positions"].tolist() == [4, 5, 8, 10, 13, 17]


@pytest.mark.parametrize("batching", [PADDED, PACKED, SHARED_PREFIX])
def test_some_pairs_of_a_group_bring_only_their_completions(batching):
    batch = collate(batching, [Chunk(0, 1, 2, 0)], WIDE)
    assert rows_of(batch) == [[10, 11, 20], [10, 11, 23, 24, 25]]
    assert batch["targets"]["pairs"].tolist() == [[1, 0]]
    assert batch["targets"]["margins"].tolist() == [2.0]
    assert batch["row_tokens"] == 8
    assert batch["num_tokens"] == {PADDED: 10, PACKED: 8, SHARED_PREFIX: 6}[batching]


@pytest.mark.parametrize("batching", [PADDED, PACKED, SHARED_PREFIX])
def test_an_uncounted_chunk_is_computed_but_adds_no_pairs(batching):
    alone = collate(batching, [Chunk(0, 0, 1, 0, counted=False)], EXAMPLE)
    assert rows_of(alone) == [[1, 2, 3, 4, 5], [1, 2, 3, 6]]
    assert alone["targets"]["pairs"].shape == (0, 2)
    assert alone["targets"]["margins"].shape == (0,)
    assert alone["row_tokens"] == 0
    beside = collate(batching, [Chunk(0, 0, 1, 0, counted=False), Chunk(1, 0, 1, 0)], EXAMPLE, WIDE)
    assert beside["targets"]["pairs"].tolist() == [[2, 3]]
    assert beside["targets"]["margins"].tolist() == [1.0]
    assert beside["row_tokens"] == 7


def test_a_group_without_a_prefix_is_packed_as_whole_rows():
    group = {**EXAMPLE, "prefix_ids": []}
    inputs = collate(SHARED_PREFIX, whole(group), group)["model_inputs"]
    assert inputs["input_ids"].tolist() == [[4, 5, 6]]
    assert inputs["position_ids"].tolist() == [[0, 1, 0]]
    assert inputs["packed_layout"].spans == (Span(0, 2, 0, 0), Span(2, 3, 0, 0))


def test_padding_uses_the_given_token_and_is_masked_by_place():
    """A pad token inside a text is an ordinary token: the mask comes from the lengths."""
    group = {**EXAMPLE, "completion_ids": [[7, 7], [7]]}
    inputs = MicroBatchCollator(PADDED, 7)(whole(group), {0: group})["model_inputs"]
    assert inputs["input_ids"].tolist() == [[1, 2, 3, 7, 7], [1, 2, 3, 7, 7]]
    assert inputs["attention_mask"].sum(dim=1).tolist() == [5, 4]
    assert inputs["read_positions"].tolist() == [4, 8]


def test_blocks_are_padded_each_to_its_longest_and_their_logits_follow_each_other():
    """The pairs of WIDE, whose rows 0 and 2 stand in the second block; nothing stands in the third but one token."""
    chunks = [Chunk(0, 0, 1, 9, (5, 4), (0, 0)), Chunk(1, 0, 3, 18, (3, 4, 5, 6), (1, 0, 1, 3))]
    batch = collate(PADDED, chunks, EXAMPLE, WIDE)
    assert set(batch["model_inputs"]) == {"blocks"}
    blocks = batch["model_inputs"]["blocks"]
    assert [block["input_ids"].tolist() for block in blocks] == [
        [[1, 2, 3, 4, 5], [1, 2, 3, 6, 0], [10, 11, 21, 22, 0]],
        [[10, 11, 20, 0, 0], [10, 11, 23, 24, 25]],
        [[PAD]],
        [[10, 11, 26, 27, 28, 29]],
    ]
    assert [block["attention_mask"].sum(dim=1).tolist() for block in blocks] == [[5, 4, 4], [3, 5], [1], [6]]
    assert [block["read_positions"].tolist() for block in blocks] == [[4, 8, 13], [2, 9], [0], [5]]
    # rows of the logits: 0 to 2, 3 and 4, 5 of the one token, 6
    assert batch["targets"]["pairs"].tolist() == [[0, 1], [3, 2], [4, 3], [2, 6]]
    assert batch["targets"]["margins"].tolist() == [0.5, 1.0, 2.0, 3.0]
    assert batch["members"].tolist() == [0, 1, 3, 2, 4, 3, 2, 6]
    assert batch["num_tokens"] == 15 + 10 + 1 + 6 and batch["row_tokens"] == 34


def test_several_tokens_of_a_row_are_read_in_any_block():
    group = {**EXAMPLE, "read_positions": [[2, 4], [0, 1, 3]]}
    batch = MicroBatchCollator(PADDED, PAD, lambda units, _: units)([Chunk(0, 0, 1, 9, (5, 4), (1, 0))], {0: group})
    assert [block["read_positions"].tolist() for block in batch["model_inputs"]["blocks"]] == [[0, 1, 3], [2, 4]]
    assert batch["targets"] == [[3, 4, 0, 1, 2]]
    assert batch["members"].tolist() == [1, 0]


def test_padding_on_the_left_of_blocks_moves_what_is_read():
    """As above, read from the right place of each block; the one token of a block without rows is not moved."""
    chunks = [Chunk(0, 0, 1, 9, (5, 4), (0, 2)), Chunk(1, 0, 1, 7, (3, 4), (2, 2))]
    group = {**EXAMPLE, "read_positions": [[2, 4], [3]]}
    wide = {**WIDE, "read_positions": [[0, 2], [3], [4], [5]]}
    collator = MicroBatchCollator(PADDED, PAD, lambda units, _: units, padding_side="left")
    batch = collator(chunks, {0: group, 1: wide})
    blocks = batch["model_inputs"]["blocks"]
    assert [block["input_ids"].tolist() for block in blocks] == [
        [[1, 2, 3, 4, 5]],
        [[PAD]],
        [[1, 2, 3, 6], [0, 10, 11, 20], [10, 11, 21, 22]],
    ]
    assert [block["attention_mask"].tolist() for block in blocks] == [
        [[1, 1, 1, 1, 1]],
        [[1]],
        [[1, 1, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]],
    ]
    assert [block["read_positions"].tolist() for block in blocks] == [[2, 4], [0], [3, 5, 7, 11]]
    assert batch["targets"] == [[0, 1, 3], [4, 5, 6]]
    assert batch["members"].tolist() == [0, 2, 3, 4]


@st.composite
def drawn_groups(draw) -> list[dict]:
    groups = []
    tokens = st.integers(1, 99)
    for _ in range(draw(st.integers(1, 4))):
        count = draw(st.integers(2, 5))
        possible = [(i, j) for i in range(count) for j in range(count) if i != j]
        pairs = draw(st.lists(st.sampled_from(possible), min_size=1, max_size=6, unique=True))
        groups.append(
            {
                "prefix_ids": draw(st.lists(tokens, max_size=6)),
                "completion_ids": [draw(st.lists(tokens, min_size=1, max_size=6)) for _ in range(count)],
                "units": [list(pair) for pair in pairs],
                "targets": [[1.0, 1.0, float(number)] for number in range(len(pairs))],
            }
        )
    return groups


@given(drawn_groups(), st.sampled_from([PADDED, PACKED, SHARED_PREFIX]))
def test_every_pair_reads_the_two_whole_conversations_it_compares(groups, batching):
    batch = collate(batching, whole(*groups), *groups)
    rows = rows_of(batch)
    found = [(rows[chosen], rows[rejected]) for chosen, rejected in batch["targets"]["pairs"].tolist()]
    expected = [
        tuple(group["prefix_ids"] + group["completion_ids"][number] for number in pair)
        for group in groups
        for pair in group["units"]
    ]
    assert found == expected
    assert batch["row_tokens"] == sum(len(row) for pair in expected for row in pair)
    assert batch["num_tokens"] == batch["model_inputs"]["input_ids"].numel()
