"""Requests that wait, in turns: a batch is drawn from all of them, and a small one waits for a part of a large one.

    queue = FairQueue(batch_tokens=4096)
    queue.add(job)
    parts = queue.draw()  # conversations of several jobs, of 4,096 tokens together

Not safe for threads by itself: `batches.Batcher` has a lock around it.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from reward_modeling.data.conversations import Tokens
from reward_modeling.serving.errors import ApiError
from reward_modeling.serving.head_outputs import Answer

TURNS = 4  # parts of a batch that requests take turns for


@dataclass(frozen=True)
class Scored:
    """A request's answers, in its order, and its share of the tokens that were computed."""

    answers: list[Answer]
    computed_tokens: int


@dataclass(eq=False)
class Job:
    """A request's conversations on their way. `answers` is written by the thread that computes alone."""

    conversations: Sequence[Tokens]
    costs: Sequence[int]  # tokens that each one adds to a batch that has the one before it
    future: asyncio.Future
    answers: list[Answer] = field(default_factory=list)
    taken: int = 0  # conversations that batches have drawn
    computed_tokens: float = 0.0
    gone: bool = False  # nobody waits any more

    def waiting_tokens(self) -> int:
        return sum(len(one.ids) for one in self.conversations[self.taken :])

    def resolve(self, outcome: Scored | ApiError) -> None:
        """Answer the request, from any thread. Only the first outcome counts."""

        def set_outcome() -> None:
            if self.future.done():
                return
            if isinstance(outcome, ApiError):
                self.future.set_exception(outcome)
            else:
                self.future.set_result(outcome)

        self.future.get_loop().call_soon_threadsafe(set_outcome)


@dataclass(frozen=True)
class Part:
    """Conversations of a job that one batch computes: those from `start` to `end`."""

    job: Job
    start: int
    end: int

    @property
    def conversations(self) -> Sequence[Tokens]:
        return self.job.conversations[self.start : self.end]

    @property
    def tokens(self) -> int:
        return sum(len(one.ids) for one in self.conversations)


class FairQueue:
    """Jobs in the order of their turns."""

    def __init__(self, batch_tokens: int):
        self.batch_tokens = batch_tokens
        self.conversations = self.tokens = 0  # of what waits
        self._jobs: dict[Job, None] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job) -> None:
        self._jobs[job] = None
        self.conversations += len(job.conversations)
        self.tokens += job.waiting_tokens()

    def remove(self, job: Job) -> None:
        """What of it still waits, if anything does."""
        if job in self._jobs:
            del self._jobs[job]
            self.conversations -= len(job.conversations) - job.taken
            self.tokens -= job.waiting_tokens()

    def draw(self) -> list[Part]:
        """The next batch: at least one conversation where one waits, and no more than `batch_tokens` of several.

        A job gets a quarter of the batch in a turn, and then stands behind the others; where there is room left, turns
        go round again.
        """
        left, parts = self.batch_tokens, []
        while self._jobs and left > 0:
            job = next(iter(self._jobs))
            if parts and len(job.conversations[job.taken].ids) > left:
                break
            start = job.taken
            left -= self._take(job, min(left, max(1, self.batch_tokens // TURNS)))
            parts.append(Part(job, start, job.taken))
            del self._jobs[job]
            if job.taken < len(job.conversations):
                self._jobs[job] = None
        return parts

    def _take(self, job: Job, most: int) -> int:
        """Draw one conversation, and then as many as fit into so many tokens; returns the tokens that they cost."""
        cost = 0
        for index in range(job.taken, len(job.conversations)):
            ids = job.conversations[index].ids
            more = len(ids) if not cost else job.costs[index]
            if cost and cost + more > most:
                break
            cost += more
            job.taken += 1
            self.conversations -= 1
            self.tokens -= len(ids)
        return cost
