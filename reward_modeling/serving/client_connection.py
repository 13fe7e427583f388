"""One HTTP connection to a server: its key, its errors, its answers."""

import math
import time
from collections.abc import Mapping
from typing import Any

import requests

from reward_modeling.common.errors import UserError, first_line

SECONDS = 120.0  # for one answer: a large model on a CPU takes that long for a long conversation
BUSY_TRIES, LONGEST_PAUSE = 5, 10.0  # of a server that answers 503, and the seconds between them


class Refused(Exception):
    """The server refuses this row; the message is the server's."""


class Connection:
    """One server. Proxies and .netrc of the environment are left out: a key goes to the server that was named alone."""

    def __init__(self, url: str, *, api_key: str | None = None, seconds: float = SECONDS):
        if not url.startswith(("http://", "https://")):
            raise UserError(f"--verify_server: expected a URL such as http://127.0.0.1:8000, found {url!r}.")
        self.url, self.seconds = url.rstrip("/").removesuffix("/v1"), seconds
        self.session = requests.Session()
        self.session.trust_env = False
        if api_key:
            self.session.headers["Authorization"] = f"Bearer {api_key}"

    def get(self, path: str) -> dict[str, Any] | None:
        """The object of an address that not every server has; None where there is none."""
        response = self._send("GET", path)
        found = _object(response) if response.ok else None
        return found if isinstance(found, dict) else None

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """
        Raises:
            Refused: the request is one that the server does not take.
            UserError: there is no server, it wants another key, or it has no such address.
        """
        response = self._send("POST", path, body)
        for _ in range(BUSY_TRIES - 1):
            if response.status_code != 503:
                break
            time.sleep(_pause(response.headers.get("Retry-After")))
            response = self._send("POST", path, body)
        self._check(path, response)
        found = _object(response)
        if not isinstance(found, dict):
            raise self._not_understood(path, response.text)
        return found

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> requests.Response:
        try:
            return self.session.request(
                method, f"{self.url}{path}", json=body, timeout=self.seconds, allow_redirects=False
            )
        except requests.RequestException as error:
            raise UserError(
                f"--verify_server {self.url}: expected a server that answers {method} {path}, found none "
                f"({type(error).__name__}: {first_line(error)}). Start it, and wait until its model is loaded."
            ) from error

    def _check(self, path: str, response: requests.Response) -> None:
        status, said = response.status_code, message_of(response)
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

    def _not_understood(self, path: str, found: object) -> UserError:
        return UserError(
            f"--verify_server {self.url}: expected rewards in the answer to POST {path}, found {str(found)[:200]!r}. "
            "Is --protocol the one that this server speaks?"
        )

    def values(self, path: str, numbers: Any, name: str) -> dict[str, float]:
        """A list of numbers under the names name[0], name[1], ...; null is not a number."""
        if not isinstance(numbers, list) or not numbers or not all(map(_is_number, numbers)):
            raise self._not_understood(path, numbers)
        return {f"{name}[{place}]": as_float(number) for place, number in enumerate(numbers)}


def message_of(response: requests.Response) -> str:
    """What an error says, on one line."""
    found = _object(response)
    for key in ("error", "message", "detail"):
        found = found.get(key, found) if isinstance(found, dict) else found
    return " ".join(str(found if found is not None else response.text).split())[:300]


def _object(response: requests.Response) -> Any:
    try:
        return response.json()
    except requests.JSONDecodeError:
        return None


def _pause(header: str | None) -> float:
    try:
        return min(LONGEST_PAUSE, max(0.0, float(header or 1)))
    except ValueError:  # a date
        return 1.0


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def as_float(value: float | None) -> float:
    return math.nan if value is None else float(value)
