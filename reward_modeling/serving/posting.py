"""Questions to a running server as JSON, asked again while it is busy or away.

    post_json("http://127.0.0.1:8000/v1/rewards", {"conversations": [...]})

The standard library alone, so that a trainer's own environment needs nothing else.
"""

import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any

from reward_modeling.common.errors import UserError, first_line

TIMEOUT, PATIENCE = 180.0, 600.0  # seconds for one answer, and for an answer at all
LONGEST_WAIT = 30.0  # seconds between two tries
# A full queue, a server that stops, and proxies in front of one that starts. Everything else will not be better later.
WORTH_ANOTHER_TRY = frozenset({429, 502, 503, 504})
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
        UserError: the server refuses the question, or what answers speaks no JSON.
        ConnectionError: no answer within `patience`.
    """
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    end = time.monotonic() + patience
    for tries, usual_wait in enumerate(_usual_waits(), start=1):
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return _read(url, answer.read())
        except urllib.error.HTTPError as error:
            if error.code not in WORTH_ANOTHER_TRY:
                raise UserError(_refusal(url, error)) from error
            wait, found = _seconds_named(error) or usual_wait, f"status {error.code}"
        except (OSError, HTTPException) as error:  # refused, reset, timed out, or ended in the middle of an answer
            wait, found = usual_wait, first_line(error)
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


def _seconds_named(error: urllib.error.HTTPError) -> float | None:
    """What Retry-After says; None where it is missing or a date."""
    named = error.headers.get("Retry-After", "")
    return float(named) * _waits.uniform(1.0, 1.5) if named.isdigit() else None


def _read(url: str, text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(
            f"{url}: expected JSON, found {text[:80]!r}. Give the address of a server of rewards, as serve.py is."
        ) from error


def _refusal(url: str, error: urllib.error.HTTPError) -> str:
    """The server's own message where it has one."""
    text = error.read().decode(errors="replace")
    try:
        said = json.loads(text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        said = text[:300]
    return f"{url}: expected rewards, found status {error.code} ({error.reason}): {said}"
