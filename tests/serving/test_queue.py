"""How batches are drawn from what waits, and what becomes of requests whose batch, client or thread is lost."""

import asyncio
import logging
import threading
import time

import pytest
import torch

from reward_modeling.common.errors import UserError
from reward_modeling.data.conversations import Tokens
from reward_modeling.scoring import ScoredConversation
from reward_modeling.serving import batches
from reward_modeling.serving.batches import Batcher, Computed
from reward_modeling.serving.errors import ApiError
from reward_modeling.serving.head_outputs import Answer
from reward_modeling.serving.metrics import Metrics
from reward_modeling.serving.model import ServedModel
from reward_modeling.serving.queue import FairQueue, Job

# ----------------------------------------------------------------------------------------------------------
# Turns
# ----------------------------------------------------------------------------------------------------------


def job_of(*lengths: int, future: asyncio.Future | None = None) -> Job:
    rows = [Tokens([0] * length) for length in lengths]
    return Job(rows, lengths, future)


def drawn(queue: FairQueue, names: dict[Job, str]) -> list[tuple[str, int, int]]:
    return [(names[part.job], part.start, part.end) for part in queue.draw()]


def test_a_small_request_waits_for_a_part_of_a_large_one():
    queue = FairQueue(batch_tokens=400)
    large, small, late = job_of(*[50] * 20), job_of(30, 30), job_of(10)
    names = {large: "large", small: "small", late: "late"}
    queue.add(large)
    assert drawn(queue, names) == [("large", 0, 2), ("large", 2, 4), ("large", 4, 6), ("large", 6, 8)]
    queue.add(small)
    queue.add(late)
    # a turn each, and what is left of the batch for the large one again
    assert drawn(queue, names) == [
        *[("large", 8, 10), ("small", 0, 2), ("late", 0, 1)],
        *[("large", 10, 12), ("large", 12, 14)],
    ]
    assert (queue.conversations, queue.tokens, len(queue)) == (6, 300, 1)
    assert drawn(queue, names) == [("large", 14, 16), ("large", 16, 18), ("large", 18, 20)]
    assert (queue.draw(), queue.conversations, queue.tokens) == ([], 0, 0)


def test_what_is_larger_than_a_batch_is_one_by_itself():
    queue = FairQueue(batch_tokens=100)
    first, second = job_of(10), job_of(500, 20)
    names = {first: "first", second: "second"}
    queue.add(first)
    queue.add(second)
    assert drawn(queue, names) == [("first", 0, 1)]
    assert drawn(queue, names) == [("second", 0, 1)]
    assert drawn(queue, names) == [("second", 1, 2)]


def test_what_a_prompt_shares_costs_once():
    prompt = list(range(90))
    rows = [Tokens([*prompt, number, number], prompt="p") for number in range(100, 108)]
    other = [*rows, Tokens([*prompt, 1], prompt="q")]
    assert ServedModel.costs(other) == [92, *[2] * 7, 91]
    queue = FairQueue(batch_tokens=400)
    queue.add(Job(rows, ServedModel.costs(rows), None))
    assert [(part.start, part.end) for part in queue.draw()] == [(0, 5), (5, 8)]


def test_a_request_that_is_removed_leaves_nothing_behind():
    queue = FairQueue(batch_tokens=100)
    job, other = job_of(*[50] * 5), job_of(7)
    queue.add(job)
    queue.add(other)
    queue.draw()
    queue.remove(job)
    queue.remove(job)
    assert (queue.conversations, queue.tokens, len(queue)) == (0, 0, 0)


# ----------------------------------------------------------------------------------------------------------
# The thread
# ----------------------------------------------------------------------------------------------------------


def answers_of(conversations: list[Tokens]) -> Computed:
    """The first token as the reward."""
    answers = [Answer(ScoredConversation(float(one.ids[0])), [float(one.ids[0])]) for one in conversations]
    return Computed(answers, sum(len(one.ids) for one in conversations))


class Gate:
    """Computes when it is opened, and keeps what it has computed."""

    def __init__(self):
        self.open = threading.Event()
        self.begun = threading.Event()
        self.computed: list[list[int]] = []

    def __call__(self, conversations: list[Tokens]) -> Computed:
        self.begun.set()
        assert self.open.wait(30)
        self.computed.append([one.ids[0] for one in conversations])
        return answers_of(conversations)


def batcher_of(compute, **limits) -> Batcher:
    limits = {"batch_tokens": 100, "max_conversations": 50, "max_tokens": 1000} | limits
    batcher = Batcher(compute, metrics=Metrics(), **limits)
    batcher.start()
    return batcher


async def ask(batcher: Batcher, *firsts: int, length: int = 10) -> list[float]:
    rows = [Tokens([first] + [0] * (length - 1)) for first in firsts]
    scored = await batcher.score(rows, ServedModel.costs(rows))
    return [answer.scored.reward for answer in scored.answers]


async def until(true) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def test_requests_gather_while_a_batch_is_computed():
    async def run() -> None:
        gate = Gate()
        batcher = batcher_of(gate)
        first = asyncio.create_task(ask(batcher, 1))
        await until(gate.begun.is_set)
        others = [asyncio.create_task(ask(batcher, number)) for number in range(2, 8)]
        await until(lambda: batcher._queue.conversations == 6)
        gate.open.set()
        assert await first == [1]
        assert await asyncio.gather(*others) == [[number] for number in range(2, 8)]
        assert gate.computed == [[1], [2, 3, 4, 5, 6, 7]]
        batcher.close()
        assert batcher.join(5)

    asyncio.run(run())


def test_many_requests_of_all_sizes_get_their_own_answers():
    async def run() -> None:
        batcher = batcher_of(answers_of, max_conversations=10_000, max_tokens=10**6)
        asked = [range(1000 * number, 1000 * number + number % 37 + 1) for number in range(100)]
        found = await asyncio.gather(*(ask(batcher, *firsts) for firsts in asked))
        assert found == [[float(first) for first in firsts] for firsts in asked]
        batcher.close()

    asyncio.run(run())


def test_what_a_client_has_left_is_not_computed():
    async def run() -> None:
        gate = Gate()
        batcher = batcher_of(gate)
        first = asyncio.create_task(ask(batcher, 1))
        await until(gate.begun.is_set)
        left, stays = asyncio.create_task(ask(batcher, 2)), asyncio.create_task(ask(batcher, 3))
        await until(lambda: batcher._queue.conversations == 2)
        left.cancel()
        await until(left.done)
        assert batcher._queue.conversations == 1
        gate.open.set()
        assert await asyncio.gather(first, stays) == [[1], [3]]
        assert gate.computed == [[1], [3]]
        assert batcher.metrics.registry.get_sample_value("reward_cancelled_total") == 1
        batcher.close()

    asyncio.run(run())


@pytest.mark.parametrize(("limits", "length"), [({"max_conversations": 2}, 10), ({"max_tokens": 25}, 10)])
def test_a_full_queue_refuses_and_says_when_to_come_again(limits, length):
    async def run() -> None:
        gate = Gate()
        batcher = batcher_of(gate, **limits)
        tasks = [asyncio.create_task(ask(batcher, 1, length=length))]
        await until(gate.begun.is_set)
        tasks += [asyncio.create_task(ask(batcher, number, length=length)) for number in (2, 3)]
        await until(lambda: batcher._queue.conversations == 2)
        with pytest.raises(ApiError) as refused:
            await ask(batcher, 4, length=length)
        assert refused.value.status == 503
        assert int(refused.value.headers["Retry-After"]) >= 1
        gate.open.set()
        assert await asyncio.gather(*tasks) == [[1], [2], [3]]
        assert await ask(batcher, 4, length=length) == [4]  # there is room again
        batcher.close()

    asyncio.run(run())


def fails_on(number: int, error: Exception):
    def compute(conversations: list[Tokens]) -> Computed:
        if any(one.ids[0] == number for one in conversations):
            raise error
        return answers_of(conversations)

    return compute


def out_of_memory() -> UserError:
    """As the scorer raises it."""
    error = UserError("Memory ran out: SECRET")
    error.__cause__ = torch.OutOfMemoryError("CUDA out of memory")
    return error


@pytest.mark.parametrize(
    ("error", "words"), [(RuntimeError("SECRET"), "The forward pass of this"), (out_of_memory(), "Memory ran out")]
)
def test_a_batch_that_fails_fails_the_request_whose_fault_it_is(error, words, caplog):
    async def run() -> None:
        gate = Gate()
        failing = fails_on(3, error)
        batcher = batcher_of(lambda conversations: (gate(conversations), failing(conversations))[1])
        first = asyncio.create_task(ask(batcher, 1))
        await until(gate.begun.is_set)
        others = [asyncio.create_task(ask(batcher, number)) for number in (2, 3, 4)]
        await until(lambda: batcher._queue.conversations == 3)
        gate.open.set()
        found = await asyncio.gather(first, *others, return_exceptions=True)
        assert found[:2] + found[3:] == [[1], [2], [4]]
        assert found[2].status == 500
        assert words in found[2].message
        assert await ask(batcher, 5) == [5]
        assert batcher.is_alive
        batcher.close()

    with caplog.at_level(logging.INFO):
        asyncio.run(run())
    assert "SECRET" not in caplog.text
    assert "A batch of 3 requests failed" in caplog.text


def test_a_lost_device_ends_the_thread_and_every_request(monkeypatch, caplog):
    class LostDevice(Exception):
        pass

    async def run() -> None:
        batcher = batcher_of(fails_on(1, LostDevice("SECRET")))
        for _ in range(2):
            with pytest.raises(ApiError) as failed:
                await ask(batcher, 1)
            assert failed.value.status == 503
            await until(lambda: not batcher.is_alive)
        assert batcher.join(5)

    monkeypatch.setattr(batches, "LOST_DEVICE", (LostDevice,))
    asyncio.run(run())
    assert "SECRET" not in caplog.text


def test_a_batcher_that_closes_computes_what_waits_and_takes_no_more():
    async def run() -> None:
        gate = Gate()
        batcher = batcher_of(gate)
        tasks = [asyncio.create_task(ask(batcher, number)) for number in range(30)]
        await until(lambda: gate.begun.is_set() and len(batcher._unanswered) == 30)
        batcher.close()
        with pytest.raises(ApiError) as refused:
            await ask(batcher, 5)
        assert refused.value.status == 503
        gate.open.set()
        assert await asyncio.gather(*tasks) == [[number] for number in range(30)]
        assert batcher.join(5)

    asyncio.run(run())
