"""One request to a server, and its answer, whatever its status: for all clients here.

    answer = ask("POST", "http://127.0.0.1:8000/v1/rewards", {"messages": [...]}, api_key=None, timeout=60)
    answer.status, answer.json()

The standard library alone, so that a trainer's own environment needs nothing else. A key and the conversations go to
the server that was named, and what it answers is what counts: no redirect is followed, and neither proxies nor .netrc
of the environment are read.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException, InvalidURL
from typing import Any
from urllib.parse import urlsplit
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, Request

from reward_modeling.common.errors import UserError

# These two alone: other handlers of urllib follow redirects, read proxies, and raise for statuses.
_opener = OpenerDirector()
_opener.add_handler(HTTPHandler())
_opener.add_handler(HTTPSHandler())

NO_ANSWER = (OSError, HTTPException)  # refused, reset, timed out, or ended in the middle of an answer


@dataclass(frozen=True)
class Response:
    """Of any status but a redirect."""

    status: int
    reason: str
    headers: Mapping[str, str]
    content: bytes

    def json(self) -> Any:
        """
        Raises:
            ValueError: it is no JSON.
        """
        try:
            return json.loads(self.content)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error

    def message(self) -> str:
        """What an error says, on one line."""
        try:
            found = self.json()
        except ValueError:
            found = self.content.decode(errors="replace")
        for key in ("error", "message", "detail"):
            found = found.get(key, found) if isinstance(found, dict) else found
        return " ".join(str(found).split())[:300]


def check_url(url: str, name: str) -> str:
    """The address without a slash at its end.

    Args:
        name: under which it was given, for the message.

    Raises:
        UserError: it is none of HTTP, or has a name and password, which belong into a file.
    """
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) > 0
        is_right = is_right and parts.username is None and url.isascii() and url.isprintable() and " " not in url
    except ValueError:
        is_right = False
    if not is_right:
        raise UserError(
            f"{name}: expected an http address such as http://127.0.0.1:8000, without a name or password, found "
            f"{url.rpartition('@')[2]!r}."
        )
    return url.rstrip("/")


def ask(
    method: str, url: str, body: Any = None, *, api_key: str | None, timeout: float, name: str | None = None
) -> Response:
    """
    Args:
        url: see `check_url`.
        body: None: no body; else it is sent as JSON.
        api_key: see `keys.check_key`.
        timeout: seconds for one answer.
        name: of the server in messages. Unset: the address.

    Raises:
        UserError: the server redirects.
        OSError, HTTPException: `NO_ANSWER`.
    """
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
    request = Request(url, None if body is None else json.dumps(body).encode(), headers, method=method)
    try:
        with _opener.open(request, timeout=timeout) as response:
            answer = Response(response.status, response.reason, response.headers, response.read())
    except InvalidURL as error:
        raise UserError(f"{name or url}: expected an address that can be asked, found one that cannot.") from error
    if 300 <= answer.status < 400:
        raise UserError(
            f"{name or url}: expected rewards, found a redirect (status {answer.status}) to "
            f"{str(answer.headers.get('Location'))[:200]!r}. It is not followed, since the key and the conversations "
            "would go to another address. Name that one if it is right."
        )
    return answer
