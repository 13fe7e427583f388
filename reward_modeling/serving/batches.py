"""Requests that wait, and the thread that computes them in batches.

While a batch is computed the next requests gather, and the next batch is drawn from all of them: `batch_tokens` tokens,
in turns, so that a small request waits for a part of a large one and not for all of it.

    batcher = Batcher(compute, batch_tokens=4096, max_conversations=1000, max_tokens=1_000_000, metrics=metrics)
    batcher.start()
    answers = await batcher.score(tokens)
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from reward_modeling.common.errors import UserError
from reward_modeling.data.conversations import Tokens
from reward_modeling.serving.errors import ApiError, internal_error, unavailable, whereabouts
from reward_modeling.serving.metrics import Metrics
from reward_modeling.serving.model import Answer

logger = logging.getLogger("serve")

TURNS = 4  # parts of a batch that requests take turns for
LOST_DEVICE = (torch.AcceleratorError,)  # after which no kernel runs any more
ALONE = "The forward pass failed, and nothing else was in it. The server goes on; its log has the kind of error."
OUT_OF_MEMORY = (
    "Memory ran out in the forward pass. Send fewer or shorter conversations in a request, or start the server with a "
    "smaller --max_tokens_per_batch."
)


@dataclass
class Computed:
    """What a batch came to: an answer for each conversation, and the tokens of its passes, padding included."""

    answers: list[Answer]
    tokens: int
    passes: int


@dataclass(eq=False)
class Job:
    """A request's conversations on their way through the queue. Only the thread that computes writes `answers`."""

    conversations: Sequence[Tokens]
    costs: Sequence[int]  # tokens that each one adds to a batch that has the one before it
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future
    answers: list[Answer] = field(default_factory=list)
    taken: int = 0
    computed_tokens: float = 0.0
    gone: bool = False  # nobody waits any more
    arrived: float = field(default_factory=time.monotonic)

    def waiting(self) -> int:
        """Tokens that are still to be taken."""
        return sum(len(one.ids) for one in self.conversations[self.taken :])

    def resolve(self, outcome: "Scored | ApiError") -> None:
        """From any thread."""

        def set_outcome() -> None:
            if self.future.done():  # cancelled
                return
            if isinstance(outcome, ApiError):
                self.future.set_exception(outcome)
            else:
                self.future.set_result(outcome)

        self.loop.call_soon_threadsafe(set_outcome)


@dataclass(frozen=True)
class Scored:
    """A request's answers, in its order, and its share of the tokens that were computed."""

    answers: list[Answer]
    computed_tokens: int


@dataclass(frozen=True)
class Part:
    """Conversations of a job that a batch computes: those from `start` to `end`."""

    job: Job
    start: int
    end: int

    @property
    def conversations(self) -> Sequence[Tokens]:
        return self.job.conversations[self.start : self.end]


class Batcher:
    """The queue, bounded in conversations and tokens, and its thread."""

    def __init__(
        self,
        compute: Callable[[list[Tokens]], Computed],
        *,
        batch_tokens: int,
        max_conversations: int,
        max_tokens: int,
        metrics: Metrics,
    ):
        self.compute = compute
        self.batch_tokens = batch_tokens
        self.max_conversations = max_conversations
        self.max_tokens = max_tokens
        self.metrics = metrics
        self.dead: str | None = None  # why nothing is computed any more
        self._waiting: dict[Job, None] = {}  # in the order of their turns
        self._conversations = self._tokens = 0  # of what waits
        self._condition = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="forward passes", daemon=True)
        metrics.watch_queue(lambda: self._conversations, lambda: self._tokens)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive() and self.dead is None and not self._closing

    async def score(self, conversations: Sequence[Tokens], costs: Sequence[int]) -> Scored:
        """Answers to the conversations; where the caller is cancelled, what has not begun is not computed.

        Raises:
            ApiError: the queue is full, nothing is computed any more, or the batch failed.
        """
        if not conversations:
            return Scored([], 0)
        loop = asyncio.get_running_loop()
        job = Job(conversations, costs, loop, loop.create_future())
        self._put(job)
        try:
            return await job.future
        except asyncio.CancelledError:
            self._drop(job)
            raise

    def check_room(self, conversations: int, tokens: int) -> None:
        """
        Raises:
            ApiError: what waits and this together are more than the queue holds, or it is closed.
        """
        if self.dead is not None:
            raise unavailable(f"The server computes nothing any more ({self.dead}). Start it again.", 60)
        if self._closing:
            raise unavailable("The server is stopping. Send the request to another one.", 5)
        full = self._conversations + conversations > self.max_conversations or self._tokens + tokens > self.max_tokens
        if full and self._waiting:
            self.metrics.refused.inc()
            raise unavailable(
                f"The queue is full: {self._conversations:,} conversations of {self._tokens:,} tokens wait, and at "
                f"most {self.max_conversations:,} of {self.max_tokens:,} may. Send the request again later.",
                self.metrics.seconds_for(self._tokens),
            )

    def close(self) -> None:
        """Take no more; the thread ends when it has computed what waits."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()

    def abandon(self, outcome: ApiError) -> None:
        """Answer all that waits with this error."""
        with self._condition:
            waiting = list(self._waiting)
            self._waiting.clear()
            self._conversations = self._tokens = 0
        for job in waiting:
            job.resolve(outcome)

    def join(self, seconds: float) -> bool:
        """Wait for the end of the thread; whether it has come."""
        if self._thread.ident is None:
            return True
        self._thread.join(seconds)
        return not self._thread.is_alive()

    # --- the queue ---------------------------------------------------------------------------------------------

    def _put(self, job: Job) -> None:
        tokens = job.waiting()
        with self._condition:
            self.check_room(len(job.conversations), tokens)
            self._waiting[job] = None
            self._conversations += len(job.conversations)
            self._tokens += tokens
            self._condition.notify()

    def _drop(self, job: Job) -> None:
        with self._condition:
            job.gone = True
            if job in self._waiting:
                del self._waiting[job]
                self._conversations -= len(job.conversations) - job.taken
                self._tokens -= job.waiting()
        self.metrics.cancelled.inc()

    def _draw(self) -> list[Part] | None:
        """The next batch; None when there is nothing more to come."""
        with self._condition:
            while not self._waiting and not self._closing:
                self._condition.wait()
            left, parts = self.batch_tokens, []
            turn = max(1, self.batch_tokens // TURNS)
            while self._waiting and (left > 0 or not parts):
                job = next(iter(self._waiting))
                part, cost = self._take(job, min(turn, left), left, first=not parts)
                if part is None:
                    break
                parts.append(part)
                left -= cost
                del self._waiting[job]
                if job.taken < len(job.conversations):
                    self._waiting[job] = None  # behind the others
            return parts or None

    def _take(self, job: Job, turn: int, left: int, *, first: bool) -> tuple[Part | None, int]:
        """At least one conversation where it fits into what is left, and then as many as fit into this turn."""
        start, cost = job.taken, 0
        for index in range(start, len(job.conversations)):
            more = len(job.conversations[index].ids) if index == start else job.costs[index]
            if index == start and more > left and not first:
                return None, 0
            if index > start and cost + more > turn:
                break
            cost += more
            job.taken = index + 1
            self._conversations -= 1
            self._tokens -= len(job.conversations[index].ids)
        return Part(job, start, job.taken), cost

    # --- the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        reason = "its thread has ended"
        try:
            while (parts := self._draw()) is not None:
                self._compute_all(parts)
        except LOST_DEVICE as error:
            reason = "the device has failed"
            logger.error("The device has failed, nothing is computed any more: %s.", whereabouts(error))
        except Exception as error:
            logger.error("Nothing is computed any more: %s.", whereabouts(error))
        finally:
            if not self._closing or self._waiting:
                self.dead = reason
                self.abandon(unavailable(f"The server computes nothing any more ({reason}). Start it again.", 60))

    def _compute_all(self, parts: list[Part]) -> None:
        """The parts in one batch; where that fails each request by itself, so that none fails for another's sake."""
        parts = [part for part in parts if not part.job.gone]
        if not parts:
            return
        try:
            self._compute(parts)
        except LOST_DEVICE:
            for part in parts:
                self._fail(part.job, internal_error("The device has failed. The server has to be started again."))
            raise
        except Exception as error:
            self.metrics.failed_batches.inc()
            logger.error("A batch of %d requests failed: %s.", len(parts), whereabouts(error))
            torch.cuda.empty_cache()
            jobs = list(dict.fromkeys(part.job for part in parts))
            if len(jobs) == 1:
                self._fail(jobs[0], internal_error(OUT_OF_MEMORY if is_out_of_memory(error) else ALONE))
                return
            for job in jobs:
                self._compute_all([part for part in parts if part.job is job])

    def _compute(self, parts: list[Part]) -> None:
        started = time.perf_counter()
        conversations = [one for part in parts for one in part.conversations]
        computed = self.compute(conversations)
        if len(computed.answers) != len(conversations):
            raise RuntimeError(f"{len(computed.answers)} answers to {len(conversations)} conversations")
        given = sum(len(one.ids) for one in conversations)
        self.metrics.count_batch(len(conversations), given, computed.tokens, time.perf_counter() - started)
        answers = iter(computed.answers)
        for part in parts:
            job = part.job
            job.answers += [next(answers) for _ in range(part.start, part.end)]
            job.computed_tokens += computed.tokens * sum(len(one.ids) for one in part.conversations) / given
            if len(job.answers) == len(job.conversations):
                job.resolve(Scored(job.answers, round(job.computed_tokens)))

    def _fail(self, job: Job, error: ApiError) -> None:
        """Answer with the error; what of the request still waits is not computed."""
        with self._condition:
            job.gone = True
            if job in self._waiting:
                del self._waiting[job]
                self._conversations -= len(job.conversations) - job.taken
                self._tokens -= job.waiting()
        job.resolve(error)


def is_out_of_memory(error: BaseException) -> bool:
    """The scorer turns it into a UserError of its own words."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, UserError) and isinstance(error.__cause__, torch.OutOfMemoryError)
    )
