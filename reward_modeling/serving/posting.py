"""Questions to a running server as JSON, asked again while it is busy or away.

post_json("http://127.0.0.1:8000/v1/rewards", {"conversations": [...]})

"""

import random
import time
from collections.abc import Iterator
from typing import Any

from reward_modeling.common.errors import UserError, first_line
from reward_modeling.serving.asking import NO_ANSWER, Response, ask
from reward_modeling.serving.refusals import Refusal

TIMEOUT, PATIENCE = 180.0, 600.0  # seconds for one answer, and for an answer at all
LONGEST_WAIT = 30.0  # seconds between two tries
# A full queue, a server that stops, and proxies in front of one that starts. Everything else will not be better later.
WORTH_ANOTHER_TRY = frozenset({429, 502, 503, 504})
REFUSALS = frozenset({400, 413, 422})  # of what was sent, and of nothing else
# Waits differ from process to process, and the random state of a training is left as it is.
_waits = random.Random()


def post_json(
    url: str, body: Any, *, api_key: str | None = None, timeout: float = TIMEOUT, patience: float = PATIENCE
) -> Any:
    """What the server answers.

    A server that cannot be reached, gives no answer in time or has a full queue is asked again: after the seconds that
    it names (Retry-After), else after 1, 2, 4, ... of them, up to 30, each less by a random part.

    Args:
        timeout: seconds for one answer.
        patience: seconds until the last try begins; 0 for one try.

    Raises:
        Refusal: the server does not take what was sent.
        UserError: it wants another key, has no such address or redirects, or what answers speaks no JSON.
        ConnectionError: no answer within `patience`.
    """
    end = time.monotonic() + patience
    for tries, usual_wait in enumerate(_usual_waits(), start=1):
        try:
            response = ask("POST", url, body, api_key=api_key, timeout=timeout)
        except NO_ANSWER as error:
            wait, found = usual_wait, first_line(error)
        else:
            if response.status not in WORTH_ANOTHER_TRY:
                return _read(url, response)
            wait, found = _seconds_named(response) or usual_wait, f"status {response.status}"
        if time.monotonic() + wait > end:
            raise ConnectionError(
                f"{url}: expected an answer within {patience:g} seconds, found none in {tries} tries; the last one: "
                f"{found}. Look whether the server runs there, and at its log."
            )
        time.sleep(wait)
    raise AssertionError("there is always another wait")


def _usual_waits() -> Iterator[float]:
    wait = 1.0
    while True:
        yield wait * _waits.uniform(0.5, 1.0)
        wait = min(2 * wait, LONGEST_WAIT)


def _seconds_named(response: Response) -> float | None:
    """What Retry-After says; None where it is missing or a date."""
    named = response.headers.get("Retry-After", "")
    return float(named) * _waits.uniform(1.0, 1.5) if named.isascii() and named.isdigit() else None


def _read(url: str, response: Response) -> Any:
    if response.status != 200:
        kind = Refusal if response.status in REFUSALS else UserError
        raise kind(f"{url}: expected rewards, found status {response.status} ({response.reason}): {response.message()}")
    try:
        return response.json()
    except ValueError as error:
        raise UserError(
            f"{url}: expected JSON, found {response.content[:80]!r}. Give the address of a server of rewards, as "
            "serve.py is."
        ) from error
