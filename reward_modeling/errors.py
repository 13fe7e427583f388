"""Mistakes of the user's: one clear message, exit status 2, no traceback.

A script's entry point is wrapped once:

    if __name__ == "__main__":
        run_script(main)
"""

import os
import sys
from collections.abc import Callable


class UserError(Exception):
    """Something that the user can put right.

    The message says what was expected, what was found, where, and what to do about it.
    """


def run_script(main: Callable[[], None]) -> None:
    """Run `main`; a `UserError` is printed on standard error and ends the process with status 2."""
    try:
        main()
    except UserError as error:
        rank = os.environ.get("RANK", "0")
        who = "" if rank == "0" else f" (process {rank})"
        print(f"\nerror{who}: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
