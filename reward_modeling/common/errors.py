"""Mistakes of the user's: one clear message, exit status 2, no traceback.

A script's entry point is wrapped once:

    if __name__ == "__main__":
        run_script(main)
"""

import difflib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from reward_modeling.common.closed_output import ends_with_its_reader
from reward_modeling.common.interruption import ends_at_once, wait_for_a_signal
from reward_modeling.common.screen import filter_noise

HUB_ERRORS = (OSError, ValueError)  # what loading from the Hub raises: the errors of huggingface_hub are OSErrors
SECONDS_TO_SPEAK = 3  # that process 0 has for its message before others end, and the launcher ends it


class UserError(Exception):
    """Something that the user can put right.

    The message says what was expected, what was found, where, and what to do about it.
    """


@contextmanager
def report_once_per_node() -> Iterator[None]:
    """For mistakes that every process of a launch finds: the first one of each machine says it, the others only end.

    Of each machine, since a file may be missing on one of them alone.
    """
    try:
        yield
    except UserError:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            raise
        time.sleep(SECONDS_TO_SPEAK)
        sys.exit(2)


def run_script(main: Callable[[], None]) -> None:
    """Run `main`; a `UserError` is printed on standard error and ends the process with status 2.

    Ctrl-C and the signals that end a process do so with one line, and `| head` with none.
    """
    filter_noise()
    with ends_with_its_reader():
        try:
            with ends_at_once():
                try:
                    main()
                except UserError:
                    raise
                except Exception:
                    wait_for_a_signal()
                    raise
        except UserError as error:
            rank = os.environ.get("RANK", "0")
            who = "" if rank == "0" else f" (process {rank})"
            print(f"\nerror{who}: {error}", file=sys.stderr, flush=True)
            sys.exit(2)


def problems_with(read: Callable[..., object], *given: object) -> list[str]:
    """What `read` says against what was given: its message, or nothing where it can be read."""
    try:
        read(*given)
    except UserError as error:
        return [str(error)]
    return []


def one_line(error: BaseException) -> str:
    """The kind of an error and the first line of what it says; of its cause where `datasets` wraps it."""
    while type(error).__module__ == "datasets.exceptions" and error.__cause__ is not None:  # scoring has no datasets
        error = error.__cause__
    return f"{type(error).__name__}: {first_line(error)}"


def first_line(error: BaseException) -> str:
    """What an error says, short enough to stand in a message of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def nearest_name(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that looks most like a misspelt one; None where none does.

    Args:
        cutoff: how much of both names has to be alike, from 0 to 1.
    """
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: "; did you mean max_length?", or nothing."""
    nearest = nearest_name(name, known)
    return f"; did you mean {nearest}?" if nearest else ""
