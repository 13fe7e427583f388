"""Steps and micro-batches: every pair once, the same steps on any machine, and never too many tokens."""

import itertools
import math
import time
from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reward_modeling.data import micro_batches as dealing
from reward_modeling.data.collator import MicroBatchCollator
from reward_modeling.data.micro_batches import Chunk, balance, block_shapes, computed_tokens
from reward_modeling.data.padding import cut_further, cut_loads, cut_rows, cut_rows_within, padded_tokens
from reward_modeling.data.planning import PACKED, PADDED, SHARED_PREFIX, GroupSizes, plan_epoch
from reward_modeling.data.planning import plan_evaluation as evaluate

BATCHINGS = [SHARED_PREFIX, PACKED, PADDED]
EVERY_PAIR_OF = {count: [(i, j) for i in range(count) for j in range(i + 1, count)] for count in range(2, 8)}


def group_sizes(groups: list[tuple[int, list[int], list[tuple[int, int]]]]) -> GroupSizes:
    """From (prefix length, completion lengths, pairs) of each group."""
    return GroupSizes(
        prefix_lengths=np.array([prefix for prefix, _, _ in groups]),
        completion_lengths=np.array([length for _, lengths, _ in groups for length in lengths]),
        shared_lengths=np.zeros(sum(len(lengths) for _, lengths, _ in groups), dtype=np.int64),
        completion_offsets=np.cumsum([0] + [len(lengths) for _, lengths, _ in groups]),
        members=np.array([number for _, _, units in groups for unit in units for number in unit], dtype=np.int64),
        member_offsets=np.cumsum([0] + [len(unit) for _, _, units in groups for unit in units]),
        unit_offsets=np.cumsum([0] + [len(pairs) for _, _, pairs in groups]),
        unit_weights=np.ones(sum(len(pairs) for _, _, pairs in groups)),
        unit_shares=np.ones(sum(len(pairs) for _, _, pairs in groups)),
    )


@st.composite
def drawn_group(draw) -> tuple[int, list[int], list[tuple[int, int]]]:
    """As grouping leaves them: every completion is in some pair, and there may be no pair at all."""
    possible = EVERY_PAIR_OF[draw(st.integers(2, 7))]
    pairs = draw(st.lists(st.sampled_from(possible), max_size=12, unique=True))
    used = sorted({number for pair in pairs for number in pair})
    lengths = [draw(st.integers(1, 40)) for _ in used]
    return draw(st.integers(0, 60)), lengths, [(used.index(i), used.index(j)) for i, j in pairs]


drawn_sizes = st.lists(drawn_group(), min_size=1, max_size=30).map(
    lambda groups: group_sizes([*groups, (3, [2, 1], [(0, 1)])])
)


def plan(sizes, **changes):
    options = {"units_per_step": 8, "max_tokens": 300, "batching": SHARED_PREFIX, "seed": 1, "epoch": 0}
    return plan_epoch(sizes, **(options | changes))


def counted_pairs(processes) -> list[tuple[int, int]]:
    """(group, pair) of every counted pair, in order of their numbers."""
    return sorted(
        (chunk.group, pair)
        for micro_batches in processes
        for micro_batch in micro_batches
        for chunk in micro_batch
        if chunk.counted
        for pair in range(chunk.unit_start, chunk.unit_end)
    )


def all_pairs(sizes) -> list[tuple[int, int]]:
    return [(group, pair) for group, count in enumerate(sizes.units_per_group.tolist()) for pair in range(count)]


def uniform(count: int, pairs: int = 1, prefix: int = 10, length: int = 5) -> GroupSizes:
    """Groups of two completions; more than one pair stands for the same two, which the planner does not mind."""
    return group_sizes([(prefix, [length, length], [(0, 1)] * pairs)] * count)


# --- steps --------------------------------------------------------------------------------------------------


@given(drawn_sizes, st.sampled_from(BATCHINGS), st.integers(1, 40), st.integers(1, 5), st.integers(0, 3))
def test_every_pair_exactly_once_per_epoch(sizes, batching, pairs_per_step, processes, epoch):
    epoch_plan = plan(sizes, batching=batching, units_per_step=pairs_per_step, epoch=epoch)
    steps = [counted_pairs(epoch_plan.micro_batches(step, processes)) for step in range(len(epoch_plan))]
    assert sorted(pair for step in steps for pair in step) == all_pairs(sizes)
    assert [len(step) for step in steps] == [epoch_plan.step_units(step) for step in range(len(epoch_plan))]
    assert all(steps)


@given(drawn_sizes, st.integers(1, 40))
def test_the_pairs_of_a_step_depend_on_data_seed_and_step_size_alone(sizes, pairs_per_step):
    reference = plan(sizes, units_per_step=pairs_per_step)
    expected = [counted_pairs(reference.micro_batches(step, 1)) for step in range(len(reference))]
    for batching in BATCHINGS:
        for processes, max_tokens, target_tokens in [(2, 300, None), (3, 10_000, 64), (7, 1, None)]:
            other = plan(
                sizes,
                units_per_step=pairs_per_step,
                batching=batching,
                max_tokens=max_tokens,
                target_tokens=target_tokens,
            )
            found = [counted_pairs(other.micro_batches(step, processes)) for step in range(len(other))]
            assert found == expected


@given(drawn_sizes, st.integers(1, 40), st.integers(0, 9), st.integers(0, 9))
def test_the_number_of_steps_is_that_of_every_epoch(sizes, pairs_per_step, seed, epoch):
    """The Trainer counts the steps of the first epoch: an epoch with one more would lose its last one."""
    epoch_plan = plan(sizes, units_per_step=pairs_per_step, seed=seed, epoch=epoch)
    assert len(epoch_plan) == math.ceil(sizes.num_units / pairs_per_step)


@settings(max_examples=300)
@given(drawn_sizes, st.integers(1, 40), st.integers(0, 9))
def test_steps_are_of_like_size(sizes, pairs_per_step, seed):
    epoch_plan = plan(sizes, units_per_step=pairs_per_step, seed=seed)
    mean = sizes.num_units / len(epoch_plan)
    largest = min(sizes.units_per_group.max(), pairs_per_step)
    assert mean <= pairs_per_step
    for step in range(len(epoch_plan)):
        assert abs(epoch_plan.step_units(step) - mean) <= largest


@given(st.integers(1, 100), st.integers(1, 9))
def test_steps_of_single_pairs_are_full(steps, pairs_per_step):
    epoch_plan = plan(uniform(steps * pairs_per_step), units_per_step=pairs_per_step)
    assert [epoch_plan.step_units(step) for step in range(len(epoch_plan))] == [pairs_per_step] * steps


def test_a_long_epoch_has_full_steps_on_average():
    sizes = group_sizes([(5, [3] * 4, EVERY_PAIR_OF[4])] * 1000 + [(5, [3] * 2, [(0, 1)])] * 501)
    epoch_plan = plan(sizes, units_per_step=32)
    pairs = [epoch_plan.step_units(step) for step in range(len(epoch_plan))]
    assert len(pairs) == math.ceil(6501 / 32)
    assert 31.8 < np.mean(pairs) <= 32
    assert min(pairs) >= 26 and max(pairs) <= 38


def test_groups_as_large_as_a_step_stay_whole():
    """Also where the number of pairs is no multiple of a step's."""
    sizes = group_sizes([(5, [3] * 4, EVERY_PAIR_OF[4])] * 50 + [(5, [3] * 2, [(0, 1)])])
    epoch_plan = plan(sizes, units_per_step=6)
    assert sorted((epoch_plan.pieces[:, 2] - epoch_plan.pieces[:, 1]).tolist()) == [1] + [6] * 50
    assert len(epoch_plan) == 51


def test_no_step_is_empty_between_groups_as_large_as_a_step():
    sizes = group_sizes([(5, [3] * 4, EVERY_PAIR_OF[4][:4])] * 9 + [(5, [3] * 2, [(0, 1)])])
    for seed in range(50):
        epoch_plan = plan(sizes, units_per_step=4, seed=seed)
        assert sorted(epoch_plan.step_units(step) for step in range(len(epoch_plan))) == [1] + [4] * 9


def test_a_group_larger_than_a_step_is_cut_evenly():
    sizes = group_sizes([(5, [3] * 7, EVERY_PAIR_OF[7])])
    epoch_plan = plan(sizes, units_per_step=8)
    assert sorted(epoch_plan.pieces.tolist()) == [[0, 0, 7], [0, 7, 14], [0, 14, 21]]
    assert [epoch_plan.step_units(step) for step in range(3)] == [7, 7, 7]


def test_groups_without_pairs_are_passed_over():
    sizes = group_sizes([(5, [], []), (5, [1, 1], [(0, 1)]), (0, [], [])])
    assert plan(sizes).pieces.tolist() == [[1, 0, 1]]
    assert counted_pairs(evaluate(sizes, max_tokens=10, batching=PACKED, num_processes=1)) == [(1, 0)]


def test_epochs_and_seeds_shuffle_differently_and_repeatably():
    sizes = uniform(50)
    orders = [plan(sizes, seed=seed, epoch=epoch).pieces[:, 0].tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert orders[0] == plan(sizes, seed=0, epoch=0).pieces[:, 0].tolist()
    assert orders[0] != list(range(50))


# --- micro-batches ------------------------------------------------------------------------------------------


def real_tokens(sizes: GroupSizes, micro_batch: list[Chunk], batching: str) -> int:
    """Tokens of the batch that the collator makes of it."""
    groups = {}
    for chunk in micro_batch:
        start, end = sizes.completion_offsets[chunk.group : chunk.group + 2]
        pairs = sizes.group_members(chunk.group, 0, sizes.units_per_group[chunk.group]).reshape(-1, 2).tolist()
        groups[chunk.group] = {
            "prefix_ids": [1] * int(sizes.prefix_lengths[chunk.group]),
            "completion_ids": [[1] * length for length in sizes.completion_lengths[start:end].tolist()],
            "units": pairs,
            "targets": [[1.0, 1.0, 0.0]] * len(pairs),
        }
    return MicroBatchCollator(batching, 0)(micro_batch, groups)["num_tokens"]


@settings(max_examples=150)
@given(drawn_sizes, st.sampled_from(BATCHINGS), st.integers(1, 400), st.integers(1, 5), st.booleans())
def test_micro_batches_hold_max_tokens_in_real_batches(sizes, batching, max_tokens, processes, in_evaluation):
    if in_evaluation:
        steps = [evaluate(sizes, max_tokens=max_tokens, batching=batching, num_processes=processes)]
    else:
        epoch_plan = plan(sizes, batching=batching, max_tokens=max_tokens, target_tokens=max(1, max_tokens // 3))
        steps = [epoch_plan.micro_batches(step, processes) for step in range(len(epoch_plan))]
    for step in steps:
        assert len(step) == processes
        assert len({len(micro_batches) for micro_batches in step}) == 1
        for micro_batch in [micro_batch for micro_batches in step for micro_batch in micro_batches]:
            tokens = real_tokens(sizes, micro_batch, batching)
            assert tokens == computed_tokens(micro_batch)
            single_pair = len(micro_batch) == 1 and micro_batch[0].unit_end - micro_batch[0].unit_start == 1
            # a block of one token stands where another process has rows and this one has no more
            rows = sum(len(chunk.rows) for chunk in micro_batch)
            assert tokens <= max_tokens + max(0, len(block_shapes(micro_batch)) - rows) or single_pair
        for together in zip(*step, strict=True):
            assert len({len(block_shapes(micro_batch)) for micro_batch in together}) == 1


def test_a_split_group_repeats_its_prompt_and_tears_no_pair_apart():
    """4 completions of 10 after a prompt of 20: two pairs over three completions take 50 tokens."""
    sizes = group_sizes([(20, [10] * 4, [(0, 1), (0, 2), (1, 2), (3, 0)])])
    (micro_batches,) = plan(sizes, max_tokens=50).micro_batches(0, 1)
    chunks = sorted(chunk for micro_batch in micro_batches for chunk in micro_batch)
    assert chunks == [Chunk(0, 0, 3, 50), Chunk(0, 3, 4, 40)]
    whole = plan(sizes, max_tokens=60).micro_batches(0, 1)
    assert whole == [[[Chunk(0, 0, 4, 60)]]]


def test_tokens_of_a_group_in_each_batching():
    sizes = group_sizes([(20, [1, 2, 3], [(0, 1), (0, 2)])])
    assert sizes.chunk(SHARED_PREFIX, 0, 0, 2) == Chunk(0, 0, 2, 26)
    assert sizes.chunk(PACKED, 0, 0, 2) == Chunk(0, 0, 2, 66)
    assert sizes.chunk(SHARED_PREFIX, 0, 1, 2) == Chunk(0, 1, 2, 24)
    assert sizes.chunk(PACKED, 0, 1, 2) == Chunk(0, 1, 2, 44)
    assert sizes.chunk(PADDED, 0, 0, 2) == Chunk(0, 0, 2, 66, (21, 22, 23))


@given(
    st.lists(st.integers(1, 90), min_size=1, max_size=40), st.integers(1, 5), st.integers(90, 400), st.integers(1, 4)
)
def test_loads_differ_by_at_most_the_longest_chunk(lengths, processes, max_tokens, divisor):
    chunks = [Chunk(number, 0, 1, length) for number, length in enumerate(lengths)]
    dealt = balance(chunks, processes, max_tokens, max(1, max_tokens // divisor))
    loads = [
        sum(chunk.tokens for chunk in micro_batch if chunk.counted)
        for micro_batches in dealt
        for micro_batch in micro_batches
    ]
    assert max(loads) - min(loads) <= max(lengths)
    assert sum(loads) == sum(lengths)
    assert max(loads) <= max_tokens


def test_target_tokens_sets_the_number_of_micro_batches():
    chunks = [Chunk(number, 0, 1, 10) for number in range(16)]
    assert [len(batches) for batches in balance(chunks, 2, 100)] == [1, 1]
    assert [len(batches) for batches in balance(chunks, 2, 100, 40)] == [2, 2]
    assert [len(batches) for batches in balance(chunks, 2, 100, 1)] == [8, 8]


def test_one_process_gets_no_copies():
    """205 chunks of more than half of a micro-batch: their number grows by several at a time, and stops at 205."""
    chunks = [Chunk(number, 0, 1, 51) for number in range(205)]
    (micro_batches,) = balance(chunks, 1, 100)
    assert sorted(chunk.group for batch in micro_batches for chunk in batch if chunk.counted) == list(range(205))
    assert all(chunk.counted for batch in micro_batches for chunk in batch)


def test_more_processes_than_chunks_get_uncounted_copies():
    sizes = group_sizes([(5, [4, 4], [(0, 1)]), (5, [1, 1], [(0, 1)])])
    dealt = plan(sizes).micro_batches(0, 5)
    assert [[[chunk.counted for chunk in batch] for batch in batches] for batches in dealt] == (
        [[[True]], [[True]], [[False]], [[False]], [[False]]]
    )
    assert {chunk.group for batches in dealt[2:] for batch in batches for chunk in batch} == {1}  # the shortest
    assert counted_pairs(dealt) == [(0, 0), (1, 0)]


@given(drawn_sizes, st.sampled_from(BATCHINGS), st.integers(1, 9), st.integers(1, 400))
def test_evaluation_counts_every_pair_once(sizes, batching, processes, max_tokens):
    dealt = evaluate(sizes, max_tokens=max_tokens, batching=batching, num_processes=processes)
    assert counted_pairs(dealt) == all_pairs(sizes)


# --- padding ------------------------------------------------------------------------------------------------

descending = st.lists(st.integers(1, 60), min_size=1, max_size=9).map(lambda lengths: sorted(lengths, reverse=True))


def every_cut(rows: int) -> list[list[int]]:
    """All ways to cut so many rows."""
    inner = range(1, rows)
    return [[0, *chosen, rows] for count in range(rows) for chosen in itertools.combinations(inner, count)]


@given(descending, st.integers(0, 200))
def test_rows_are_cut_as_the_best_of_all_ways(lengths, cost):
    def value(cuts: list[int]) -> int:
        return padded_tokens(lengths, cuts) + cost * (len(cuts) - 1)

    assert value(cut_rows(lengths, cost)) == min(map(value, every_cut(len(lengths))))


def test_rows_of_the_docstring():
    lengths = [9, 9, 8, 4, 4, 3, 3]
    assert cut_rows(lengths, 6) == [0, 3, 7]
    assert (padded_tokens(lengths, [0, 3, 7]), padded_tokens(lengths, [0, 7])) == (43, 63)
    assert cut_rows(lengths, 1000) == [0, 7]
    assert cut_rows(lengths, 0) == [0, 2, 3, 5, 7]


@given(descending, st.integers(0, 200), st.integers(1, 300))
def test_blocks_keep_to_the_tokens_that_their_rows_leave(lengths, cost, spare):
    most = sum(lengths) + spare
    cuts = cut_rows_within(lengths, cost, most)
    assert padded_tokens(lengths, cuts) <= most
    if padded_tokens(lengths, cut_rows(lengths, cost)) <= most:
        assert cuts == cut_rows(lengths, cost)


@given(descending, st.integers(1, 12))
def test_more_blocks_never_take_more_tokens(lengths, count):
    cuts = cut_further(lengths, [0, len(lengths)], count)
    assert len(cuts) - 1 == min(count, len(lengths))
    assert padded_tokens(lengths, cuts) <= padded_tokens(lengths, [0, len(lengths)])


@given(st.lists(st.integers(1, 90), min_size=1, max_size=40), st.integers(1, 300), st.integers(1, 9), st.integers(1, 5))
@example([37, 34, 1, 33], 34, 1, 1)  # one load beyond the capacity takes the mean there too
def test_loads_in_order_are_few_full_and_even_parts(loads, capacity, least, multiple_of):
    starts = cut_loads(loads, capacity, least, multiple_of)
    parts = [loads[start:end] for start, end in itertools.pairwise(starts)]
    assert [load for part in parts for load in part] == loads and all(parts)
    assert len(parts) % multiple_of == 0 or len(parts) == len(loads)
    assert all(sum(part) <= capacity or len(part) == 1 for part in parts)
    # filled one after the other there are as few as can be
    greedy, room = 0, 0
    for load in loads:
        greedy, room = (greedy, room - load) if load <= room else (greedy + 1, capacity - load)
    assert len(parts) == min(len(loads), -(-max(greedy, least) // multiple_of) * multiple_of)


def drawn_pairs(count: int) -> GroupSizes:
    """Prompts of 60 tokens and answers of 120 in the median, cut at 512, in pairs: the spread of real ones."""
    rng = np.random.default_rng(0)
    prompts = np.clip(rng.lognormal(np.log(60), 0.8, count), 3, 256).astype(int)
    answers = np.clip(rng.lognormal(np.log(120), 0.8, 2 * count), 3, 256).astype(int)
    offsets = np.arange(count + 1)
    members = np.tile([0, 1], count)
    return GroupSizes(
        prompts,
        answers,
        np.zeros_like(answers),
        2 * offsets,
        members,
        2 * offsets,
        offsets,
        np.ones(count),
        np.ones(count),
    )


@pytest.mark.parametrize("max_tokens", [1024, 8192])
def test_little_is_padded(max_tokens):
    """Micro-batches of one block each, as units came, took 1.3 and 1.9 times the tokens of the rows."""
    sizes = drawn_pairs(2000)
    real = (2 * sizes.prefix_lengths).sum() + sizes.completion_lengths.sum()
    epoch_plan = plan(sizes, units_per_step=64, max_tokens=max_tokens, batching=PADDED)
    training = [batch for step in range(len(epoch_plan)) for batch in epoch_plan.micro_batches(step, 1)[0]]
    (evaluation,) = evaluate(sizes, max_tokens=max_tokens, batching=PADDED, num_processes=1)
    for micro_batches in (training, evaluation):
        assert sum(map(computed_tokens, micro_batches)) < 1.25 * real
        # which is not bought with many small passes
        assert sum(len(block_shapes(batch)) for batch in micro_batches) < 4 * real / (0.9 * max_tokens)
    as_one_block = [[chunk._replace(blocks=()) for chunk in batch] for batch in training]
    assert max_tokens == 1024 or sum(map(computed_tokens, as_one_block)) > 1.4 * real  # what the blocks save


def test_a_process_with_fewer_rows_computes_as_many_blocks():
    """A micro-batch of one pair beside one of rows of three lengths: a number is left out, and its block is a token."""
    sizes = group_sizes([(0, [40, 40], [(0, 1)]), (0, [39, 20, 3, 3], [(0, 1), (1, 2), (2, 3)])])
    one, other = evaluate(sizes, max_tokens=90, batching=PADDED, num_processes=2)
    assert [block_shapes(batch) for batch in one] == [[(1, 40), (1, 1), (1, 40)]]
    assert [block_shapes(batch) for batch in other] == [[(1, 39), (1, 20), (2, 3)]]
    assert real_tokens(sizes, one[0], PADDED) == computed_tokens(one[0]) == 81


def test_a_list_counts_as_one_pair_in_a_step():
    """20 lists of 4 answers, six pairs each: in steps of 5 lists, and not of 5 pairs; none is cut, unless it counts."""
    lists = group_sizes([(3, [2, 2, 2, 2], list(itertools.combinations(range(4), 2)))] * 20)
    as_one = replace(lists, unit_shares=np.full(120, 1 / 6))
    of_lists = plan(as_one, units_per_step=5, max_tokens=10_000)
    assert as_one.num_steps(5) == len(of_lists) == 4
    assert [of_lists.step_units(step) for step in range(4)] == [30] * 4
    of_pairs = plan(lists, units_per_step=5, max_tokens=10_000)
    assert len(of_pairs) == lists.num_steps(5) == 24 and len(of_pairs.pieces) == 40
    one_unit = replace(group_sizes([(3, [2, 2, 2], [(0, 1, 2)])] * 4), unit_shares=np.full(4, 3.0))
    assert len(plan(one_unit, units_per_step=2, max_tokens=10_000)) == 4  # a unit is never cut


def test_weights_are_what_a_step_is_divided_by():
    sizes = replace(group_sizes([(1, [1, 1], [(0, 1)])] * 6), unit_weights=np.array([0.5, 2.0, 1.0, 0.1, 0.2, 0.3]))
    epoch_plan = plan(sizes, units_per_step=2, max_tokens=100)
    for step in range(3):
        groups = epoch_plan.pieces[epoch_plan.step_starts[step] : epoch_plan.step_starts[step + 1], 0]
        assert epoch_plan.step_weight(step) == pytest.approx(sizes.unit_weights[groups].sum(), rel=1e-15)
    assert sum(map(epoch_plan.step_weight, range(3))) == pytest.approx(4.1)


# --- size ---------------------------------------------------------------------------------------------------


def test_many_long_units_are_dealt_out_a_few_times(monkeypatch):
    """Units of more than half of a micro-batch: the first guess at the number of micro-batches is far too low."""
    tries = []
    longest_first = dealing._longest_first

    def counted(ordered, num_bins, max_tokens):
        tries.append(num_bins)
        return longest_first(ordered, num_bins, max_tokens)

    monkeypatch.setattr(dealing, "_longest_first", counted)
    (micro_batches,) = evaluate(uniform(4000, length=28), max_tokens=131, batching=SHARED_PREFIX, num_processes=1)
    assert tries[-1] == len(micro_batches) > 1.5 * tries[0] and len(tries) < 50
    assert tries[-2] >= tries[-1] / (1 + dealing.GROWTH) - 1  # the last number that was too small is near


@pytest.mark.slow
@pytest.mark.parametrize(("batching", "limit"), [(SHARED_PREFIX, 10), (PADDED, 30)])
def test_a_million_pairs_are_planned_in_seconds(batching, limit):
    rng = np.random.default_rng(0)
    groups, completions = 250_000, 4
    sizes = GroupSizes(
        prefix_lengths=rng.integers(20, 600, groups).astype(np.int32),
        completion_lengths=rng.integers(1, 400, groups * completions).astype(np.int32),
        shared_lengths=np.zeros(groups * completions, dtype=np.int32),
        completion_offsets=np.arange(groups + 1) * completions,
        members=np.tile([0, 1, 0, 2, 1, 2, 2, 3], groups),
        member_offsets=np.arange(4 * groups + 1) * 2,
        unit_offsets=np.arange(groups + 1) * 4,
        unit_weights=np.ones(groups * 4),
        unit_shares=np.ones(groups * 4),
    )
    started = time.process_time()
    epoch_plan = plan(sizes, units_per_step=32, max_tokens=16_384, batching=batching)
    planned = 0
    for step in range(len(epoch_plan)):
        (micro_batches,) = epoch_plan.micro_batches(step, 1)
        planned += sum(chunk.unit_end - chunk.unit_start for batch in micro_batches for chunk in batch)
    seconds = time.process_time() - started
    assert (len(epoch_plan), planned) == (31_250, 1_000_000)
    assert seconds < limit


def test_sizes_of_rows_in_memory_are_those_of_a_data_set():
    rows = [
        {"prefix_ids": [1, 2, 3], "completion_ids": [[4], [5, 6]], "units": [[1, 0]]},
        {"prefix_ids": [], "completion_ids": [[7], [8], [9, 9]], "units": [[0, 1], [2]]},
    ]
    lengths = [
        {name: [1.0] * len(row["units"]) for name in ("weights", "shares")}
        | {"prefix_length": len(row["prefix_ids"]), "completion_lengths": [len(ids) for ids in row["completion_ids"]]}
        | {"shared_lengths": [0] * len(row["completion_ids"])}
        for row in rows
    ]
    groups = Dataset.from_list([row | more for row, more in zip(rows, lengths, strict=True)])
    expected, sizes = GroupSizes.from_dataset(groups), GroupSizes.from_rows(rows)
    for name, value in vars(expected).items():
        assert np.array_equal(getattr(sizes, name), value), name
