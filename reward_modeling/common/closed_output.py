"""`script | head`: the process ends where nobody reads what it prints any more."""

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

STATUS = 128 + signal.SIGPIPE  # what a shell gives for a program that SIGPIPE has ended


@contextmanager
def ends_with_its_reader() -> Iterator[None]:
    """A block at whose end all is printed; without words and with status 141 where the reader has left before."""
    try:
        try:
            yield
        except SystemExit:
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except BrokenPipeError:
        if not _has_lost_its_reader(sys.stdout.fileno()):  # a pipe or a connection of the job itself
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # for what is in Python's buffer, which it flushes when it ends
        os.close(nowhere)
        sys.exit(STATUS)


def _has_lost_its_reader(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, 0)  # errors are reported unasked
    return bool(poll.poll(0))
