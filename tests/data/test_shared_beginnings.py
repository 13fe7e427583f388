"""Completions that begin alike as a tree: every conversation is whole, and each token is computed once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_modeling.common.prefixes import common_prefix_length
from reward_modeling.data.collator import MicroBatchCollator
from reward_modeling.data.planning import PACKED, SHARED_PREFIX, Chunk, GroupSizes
from reward_modeling.data.shared_beginnings import (
    FEWEST_SHARED,
    Segment,
    segments,
    shared_among,
    shared_with_previous,
)

# Few tokens and few lengths, so that many begin alike.
PIECES = st.lists(st.sampled_from([[1] * 9, [2] * 9, [3], [4, 5]]), min_size=1, max_size=5)
SEQUENCES = st.lists(
    PIECES.map(lambda pieces: [7, *(token for piece in pieces for token in piece)]), min_size=1, max_size=9
)


def group_of(sequences: list[list[int]]) -> dict:
    sequences = sorted(map(list, dict.fromkeys(map(tuple, sequences))))
    prefix_length = common_prefix_length(sequences)
    return {
        "prefix_ids": sequences[0][:prefix_length],
        "completion_ids": [ids[prefix_length:] for ids in sequences],
        "shared_lengths": shared_with_previous(sequences, prefix_length),
        "read_positions": [[len(ids) // 2, len(ids) - 1] for ids in sequences],
        "units": [[number] for number in range(len(sequences))],
        "targets": [[] for _ in sequences],
    }


def test_the_example_of_the_module():
    found, last_of = segments([4, 5, 3], [0, 3, 2])
    assert found == [
        Segment(0, 0, 2, None),
        Segment(0, 2, 3, 0),
        Segment(0, 3, 4, 1),
        Segment(1, 3, 5, 1),
        Segment(2, 2, 3, 0),
    ]
    assert last_of == [2, 3, 4]
    assert sum(each.end - each.start for each in found) == 7


def test_of_some_completions_the_least_between_them_counts():
    assert shared_among([0, 30, 20, 40], [0, 1, 2, 3]) == [0, 30, 20, 40]
    assert shared_among([0, 30, 20, 40], [1, 3]) == [0, 20]
    assert shared_among([0, 30, 20, 40], [2]) == [0]
    assert shared_among([], []) == []


def test_a_few_tokens_are_not_worth_a_span():
    one, other = [1] * (FEWEST_SHARED + 5), [1] * (FEWEST_SHARED + 4) + [2]
    assert shared_with_previous([one, other], 4) == [0, FEWEST_SHARED]
    assert shared_with_previous([one, other], 5) == [0, 0]


@settings(max_examples=200, deadline=None)
@given(SEQUENCES, st.data())
def test_every_conversation_is_whole_and_as_many_tokens_are_computed_as_were_planned(sequences, data):
    group = group_of(sequences)
    count = len(group["units"])
    start = data.draw(st.integers(0, count - 1))
    end = data.draw(st.integers(start + 1, count))
    planned = GroupSizes.from_rows([group]).chunk(SHARED_PREFIX, 0, start, end)
    batch = MicroBatchCollator(SHARED_PREFIX, 0)([planned], {0: group})
    inputs, layout = batch["model_inputs"], batch["model_inputs"]["packed_layout"]
    tokens = inputs["input_ids"][0].tolist()
    assert len(tokens) == planned.tokens == batch["num_tokens"]
    seen = {}
    for read, place in enumerate(inputs["read_positions"].tolist()):
        places = layout.places_seen(read)
        assert places[-1] == place
        assert inputs["position_ids"][0, places].tolist() == list(range(len(places)))
        seen[read] = [tokens[each] for each in places]
    whole = [group["prefix_ids"] + ids for ids in group["completion_ids"][start:end]]
    expected = {tuple(ids[: len(ids) // 2 + 1]) for ids in whole} | {tuple(ids) for ids in whole}
    assert {tuple(ids) for ids in seen.values()} == expected


def test_shared_beginnings_save_tokens_and_nothing_else_does():
    sequences = [[7, *[1] * 30, *[2] * 20, 3], [7, *[1] * 30, *[2] * 20, 4], [7, *[1] * 30, 5], [7, 6]]
    group = group_of(sequences)
    sizes = GroupSizes.from_rows([group])
    assert sizes.chunk(SHARED_PREFIX, 0, 0, 4).tokens == 1 + 30 + 20 + 4
    assert sizes.chunk(PACKED, 0, 0, 4).tokens == sum(map(len, sequences))
    flat = {name: value for name, value in group.items() if name != "shared_lengths"}
    assert GroupSizes.from_rows([flat]).chunk(SHARED_PREFIX, 0, 0, 4).tokens == sum(map(len, sequences)) - 3


@pytest.mark.parametrize("reads_only", [False, True])
def test_a_kernel_gets_the_keys_of_all_that_a_span_follows(reads_only):
    import torch

    group = group_of([[7, *[1] * 9, *[2] * 9, 3], [7, *[1] * 9, *[2] * 9, 4], [7, *[1] * 9, 5], [7, 6]])
    batch = MicroBatchCollator(SHARED_PREFIX, 0)([Chunk(0, 0, 4, 0)], {0: group})
    layout = batch["model_inputs"]["packed_layout"]
    lengths = layout.variable_length(torch.device("cpu"), reads_only)
    keys = np.split(lengths.key_index.numpy(), lengths.cu_seqlens_k[1:-1].tolist())
    if reads_only:
        expected = [layout.places_seen(read) for read in range(len(layout.read_positions))]
    else:
        paths = [[*before, number] for number, before in enumerate(layout.prefix_spans)]
        spans = layout.spans
        expected = [[place for each in path for place in range(*spans[each][:2])] for path in paths]
    assert [each.tolist() for each in keys] == expected
    assert lengths.max_length_k == max(map(len, expected))
    assert max(map(len, layout.prefix_spans)) == 3
