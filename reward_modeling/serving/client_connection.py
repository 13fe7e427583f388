"""What a client asks a server that is compared with a checkpoint: its key, its errors, its numbers."""

import math
import time
from collections.abc import Mapping
from typing import Any

from reward_modeling.common.errors import UserError, first_line
from reward_modeling.serving.asking import NO_ANSWER, Response, ask, check_url

SECONDS = 120.0  # for one answer: a large model on a CPU takes that long for a long conversation
BUSY_TRIES, LONGEST_PAUSE = 5, 10.0  # of a server that answers 503, and the seconds between them


class Refused(Exception):
    """The server refuses this row; the message is the server's."""


class Connection:
    """One server: the key and the rows go to it alone, and its own answers are read (see `asking`)."""

    def __init__(self, url: str, *, api_key: str | None = None, seconds: float = SECONDS):
        self.url = check_url(url, "--verify_server").removesuffix("/v1")
        self.api_key, self.seconds = api_key, seconds

    def get(self, path: str) -> dict[str, Any] | None:
        """The object of an address that not every server has; None where there is none."""
        response = self._send("GET", path)
        found = _object(response) if response.status == 200 else None
        return found if isinstance(found, dict) else None

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """
        Raises:
            Refused: the request is one that the server does not take.
            UserError: there is no server, it wants another key, or it has no such address.
        """
        response = self._send("POST", path, body)
        for _ in range(BUSY_TRIES - 1):
            if response.status != 503:
                break
            time.sleep(_pause(response.headers.get("Retry-After")))
            response = self._send("POST", path, body)
        self._check(path, response)
        found = _object(response)
        if not isinstance(found, dict):
            said = response.content[:200].decode(errors="replace")
            raise self.not_understood(f"POST {path}", f"expected an object of JSON, found {said!r}")
        return found

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Response:
        name, options = f"--verify_server {self.url}", {"api_key": self.api_key, "timeout": self.seconds}
        try:
            return ask(method, f"{self.url}{path}", body, name=name, **options)
        except NO_ANSWER as error:
            raise UserError(
                f"{name}: expected a server that answers {method} {path}, found none "
                f"({type(error).__name__}: {first_line(error)}). Start it, and wait until its model is loaded."
            ) from error

    def _check(self, path: str, response: Response) -> None:
        status, said = response.status, response.message()
        if status in (401, 403):
            raise UserError(
                f"--verify_server {self.url}: expected that the server takes the key, found status {status} ({said}). "
                "Pass --api_key_file FILE."
            )
        if status in (400, 413, 422):
            raise Refused(said)
        if status in (404, 405):
            raise UserError(
                f"--verify_server {self.url}: expected POST {path}, found status {status} ({said}). Is --protocol the "
                "one that this server speaks, and --served_model_name a model that it has?"
            )
        if not 200 <= status < 300:
            raise UserError(f"--verify_server {self.url}: expected an answer to POST {path}, found {status} ({said}).")

    def not_understood(self, question: str, why: object) -> UserError:
        return UserError(
            f"--verify_server {self.url}: expected an answer to {question} that can be read: {str(why)[:300]}. Is "
            "--protocol the one that this server speaks?"
        )


def _object(response: Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _pause(header: str | None) -> float:
    try:
        seconds = float(header or 1)
        return min(LONGEST_PAUSE, max(0.0, seconds)) if math.isfinite(seconds) else LONGEST_PAUSE
    except ValueError:  # a date
        return 1.0
