"""The thread that computes what waits, in batches. While it computes one, the requests of the next gather.

batcher = Batcher(compute, batch_tokens=4096, max_conversations=1000, max_tokens=1_000_000, metrics=metrics)
batcher.start()
scored = await batcher.score(tokens, costs)
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from reward_modeling.common.errors import UserError
from reward_modeling.data.conversations import Tokens
from reward_modeling.serving.errors import ApiError, internal_error, unavailable, whereabouts
from reward_modeling.serving.head_outputs import Answer
from reward_modeling.serving.metrics import Metrics
from reward_modeling.serving.queue import FairQueue, Job, Part, Scored

logger = logging.getLogger("serve")

LOST_DEVICE = (torch.AcceleratorError,)  # after which no kernel runs any more
FAILED = "The forward pass of this request failed. The server goes on; its log has the kind of error."
OUT_OF_MEMORY = (
    "Memory ran out in the forward pass of this request. Send fewer or shorter conversations, or start the server with "
    "a smaller --max_tokens_per_batch."
)
SECONDS_TO_RESTART = 60


@dataclass(frozen=True)
class Computed:
    """What a batch came to: an answer for each conversation, and the tokens of its passes, padding included."""

    answers: list[Answer]
    tokens: int


class Batcher:
    """A queue, bounded in conversations and tokens, and its thread."""

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
        self.max_conversations = max_conversations
        self.max_tokens = max_tokens
        self.metrics = metrics
        self.dead: str | None = None  # why nothing is computed any more
        self._queue = FairQueue(batch_tokens)
        self._unanswered: set[Job] = set()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="forward passes", daemon=True)
        metrics.watch_queue(lambda: self._queue.conversations, lambda: self._queue.tokens)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive() and self.dead is None and not self._closing

    async def score(self, conversations: Sequence[Tokens], costs: Sequence[int]) -> Scored:
        """Answers to the conversations; where the caller is cancelled, what has not begun is not computed.

        Args:
            costs: tokens that each one adds to a batch that has the one before it.

        Raises:
            ApiError: the queue is full, nothing is computed any more, or the batch failed.
        """
        if not conversations:
            return Scored([], 0)
        job = Job(conversations, costs, asyncio.get_running_loop().create_future())
        with self._changed:
            self.check_room(len(conversations), job.waiting_tokens())
            self._unanswered.add(job)
            self._queue.add(job)
            self._changed.notify()
        try:
            return await job.future
        except asyncio.CancelledError:
            self._leave_out(job)
            self.metrics.cancelled.inc()
            raise
        finally:
            self._unanswered.discard(job)

    def check_room(self, conversations: int, tokens: int) -> None:
        """
        Raises:
            ApiError: this and what waits is more than the queue holds, or it is closed.
        """
        if self.dead is not None:
            raise self._nothing_computed()
        if self._closing:
            raise unavailable("The server is stopping. Send the request to another one.", SECONDS_TO_RESTART)
        queue = self._queue
        full = queue.conversations + conversations > self.max_conversations or queue.tokens + tokens > self.max_tokens
        if full and len(queue):
            self.metrics.refused.inc()
            raise unavailable(
                f"The queue is full: {queue.conversations:,} conversations of {queue.tokens:,} tokens wait, and at "
                f"most {self.max_conversations:,} of {self.max_tokens:,} may. Send the request again later.",
                self.metrics.seconds_for(queue.tokens),
            )

    def close(self) -> None:
        """Take no more; the thread ends when it has computed what waits."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def abandon(self, outcome: ApiError) -> None:
        """Answer all that have no answer yet with this error, and compute no more of them."""
        for job in list(self._unanswered):
            self._leave_out(job)
            job.resolve(outcome)

    def join(self, seconds: float) -> bool:
        """Wait for the end of the thread; whether it has come."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def _leave_out(self, job: Job) -> None:
        with self._changed:
            job.gone = True
            self._queue.remove(job)

    def _nothing_computed(self) -> ApiError:
        return unavailable(f"The server computes nothing any more ({self.dead}). Start it again.", SECONDS_TO_RESTART)

    # --- the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        reason = "its thread has ended"
        try:
            while parts := self._next_batch():
                self._compute_all(parts)
            return
        except LOST_DEVICE as error:
            reason = "the device has failed"
            logger.error("The device has failed, nothing is computed any more: %s.", whereabouts(error))
        except Exception as error:
            logger.error("Nothing is computed any more: %s.", whereabouts(error))
        with self._changed:  # what is put in the queue before this is abandoned, and nothing comes in after it
            self.dead = reason
        self.abandon(self._nothing_computed())

    def _next_batch(self) -> list[Part]:
        """Empty where there is nothing more to come."""
        with self._changed:
            while not len(self._queue) and not self._closing:
                self._changed.wait()
            return self._queue.draw()

    def _compute_all(self, parts: list[Part]) -> None:
        """The parts in one batch; where that fails each request by itself, so that none fails for another's sake."""
        parts = [part for part in parts if not part.job.gone]
        if not parts:
            return
        try:
            self._compute(parts)
        except LOST_DEVICE:
            raise
        except Exception as error:
            self.metrics.failed_batches.inc()
            jobs = list(dict.fromkeys(part.job for part in parts))
            logger.error("A batch of %d requests failed: %s.", len(jobs), whereabouts(error))
            torch.cuda.empty_cache()
            if len(jobs) == 1:
                self._leave_out(jobs[0])
                jobs[0].resolve(internal_error(OUT_OF_MEMORY if is_out_of_memory(error) else FAILED))
                return
            for job in jobs:
                self._compute_all([part for part in parts if part.job is job])

    def _compute(self, parts: list[Part]) -> None:
        started = time.perf_counter()
        conversations = [one for part in parts for one in part.conversations]
        computed = self.compute(conversations)
        if len(computed.answers) != len(conversations):
            raise RuntimeError(f"{len(computed.answers)} answers to {len(conversations)} conversations")
        given = sum(part.tokens for part in parts)
        self.metrics.count_batch(len(conversations), given, computed.tokens, time.perf_counter() - started)
        answers = iter(computed.answers)
        for part in parts:
            job = part.job
            job.answers += [next(answers) for _ in part.conversations]
            job.computed_tokens += computed.tokens * part.tokens / given
            if len(job.answers) == len(job.conversations):
                job.resolve(Scored(job.answers, round(job.computed_tokens)))


def is_out_of_memory(error: BaseException) -> bool:
    """The scorer makes a UserError of it, whose words are for those who call it."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, UserError) and isinstance(error.__cause__, torch.OutOfMemoryError)
    )
