"""Threads that read requests, where one of much text keeps none of little text waiting.

A small request begins in threads of its own; one that is large, or goes on, stands in another line.
"""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

SMALL_BODY = 262_144  # bytes, read in some milliseconds

# Of a request's reading: None for each that another one follows, and then what came out.
Steps = Iterator[Any]


class Lanes:
    """Two lines of work.

    Args:
        threads: of each line. A fast tokenizer lets go of Python while it works.
        together: one thread for both lines, since the tokenizer is not safe for several.
    """

    def __init__(self, threads: int, *, together: bool = False):
        self._small = ThreadPoolExecutor(1 if together else threads, thread_name_prefix="tokens")
        self._large = self._small if together else ThreadPoolExecutor(threads, thread_name_prefix="tokens of much text")

    async def run(self, steps: Steps, size: int) -> Any:
        """What comes out of the steps; no further step is taken where the caller is cancelled.

        Args:
            size: of the request, in bytes.
        """
        loop = asyncio.get_running_loop()
        if size <= SMALL_BODY:
            result = await loop.run_in_executor(self._small, _begin, steps)
            if result is not None:
                return result
        gone = False

        def rest() -> Any:
            return next(result for result in steps if gone or result is not None)

        try:
            return await loop.run_in_executor(self._large, rest)
        except asyncio.CancelledError:
            gone = True
            raise

    def close(self) -> None:
        for line in (self._small, self._large):
            line.shutdown(wait=False, cancel_futures=True)


def _begin(steps: Steps) -> Any:
    """Two steps, which are all of a request of one lot."""
    first = next(steps)
    return next(steps) if first is None else first
