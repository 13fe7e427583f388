"""What stands in front of every route: the key, the size of a body, a client that goes away, errors without words.

A request reaches a route with its whole body, which is as large as is allowed. While the route works, the connection
is watched: where the client leaves, the route is cancelled.
"""

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import Mapping
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reward_modeling.serving.errors import ApiError, bad_request, internal_error, unavailable, whereabouts
from reward_modeling.serving.metrics import Metrics
from reward_modeling.serving.settings import Settings

logger = logging.getLogger("serve")

OPEN = ("/health",)  # without a key
OTHER = "other"
NO_ANSWER = 499  # nginx's number for a client that closed the connection


class ClientGone(Exception):
    """The connection was closed from the other end."""


class State:
    """What the server is about."""

    def __init__(self):
        self.in_flight = 0  # requests whose bodies have come, and that have no answer yet
        self.stopping = False
        self.held_bytes = 0


class Limits:
    """Middleware."""

    def __init__(self, app: ASGIApp, *, settings: Settings, state: State, metrics: Metrics, routes: frozenset[str]):
        self.app = app
        self.settings = settings
        self.state = state
        self.metrics = metrics
        self.routes = routes
        self._key = None if settings.api_key is None else _digest(settings.api_key.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in self.routes else OTHER
        started, status = time.perf_counter(), 0

        async def counted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            try:
                await send(message)
            except Exception as error:  # of the connection: no route has a part in it
                raise ClientGone from error

        with self.metrics.in_flight.track_inprogress(), suppress(ClientGone):
            try:
                await self._answer(scope, receive, counted_send)
            except ApiError as error:
                if not status:
                    await error.response()(scope, receive, counted_send)
            except ClientGone:
                raise
            except Exception as error:
                # Only its kind and its place: its words may quote the request. uvicorn would log all of it.
                logger.error("%s failed: %s.", route, whereabouts(error))
                if not status:
                    error = internal_error("The server made a mistake. Its log has the kind of error.")
                    await error.response()(scope, receive, counted_send)
        status = status or NO_ANSWER
        self.metrics.requests.labels(route, str(status)).inc()
        self.metrics.request_seconds.labels(route).observe(time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        _check_single(scope)
        if scope["path"] not in OPEN:
            self._check_key(headers)
        if self.state.stopping and scope["path"] not in OPEN:
            raise stopping()
        body = _Body(self.settings, self.state)
        try:
            content = b"" if scope["method"] in ("GET", "HEAD") else await body.read(headers, receive)
            if self.state.stopping and scope["path"] not in OPEN:
                raise stopping()
            self.state.in_flight += 1
            try:
                await self._run(content, scope, receive, send)
            finally:
                self.state.in_flight -= 1
        finally:
            body.release()

    def _check_key(self, headers: Mapping[bytes, bytes]) -> None:
        if self._key is None:
            return
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        # Digests, so that not even the length of the key shows in the time that the comparison takes.
        if not hmac.compare_digest(_digest(given.strip()), self._key) or scheme.lower() != b"bearer":
            found = "no Authorization header" if b"authorization" not in headers else "another key"
            raise ApiError(
                401,
                f"expected the server's key, found {found}. Send the header `Authorization: Bearer KEY`.",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def _run(self, content: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """The route; cancelled where the client goes away."""
        given = False

        async def receive_body() -> Message:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": content, "more_body": False}
            return await gone

        work = asyncio.create_task(self.app(scope, receive_body, send))
        gone = asyncio.create_task(_until_gone(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
                return
            work.cancel()
            await asyncio.wait({work})
            if not work.cancelled():
                work.result()
            raise ClientGone
        finally:
            for task in (work, gone):
                task.cancel()


class _Body:
    """A request's body as it comes, no further than is allowed."""

    def __init__(self, settings: Settings, state: State):
        self.settings = settings
        self.state = state
        self.held = 0

    async def read(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        """
        Raises:
            ApiError: it is no JSON by its header, or too large; or all bodies together are.
            ClientGone: before its end.
        """
        kind = headers.get(b"content-type", b"application/json").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            raise ApiError(
                415,
                "expected a body of JSON with the header `Content-Type: application/json`, found "
                f"{kind[:100].decode('latin-1')!r}.",
            )
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise ApiError(415, "expected a body that is not compressed, found a Content-Encoding. Leave it out.")
        length = headers.get(b"content-length")
        if length is not None and int(length) > self.settings.max_body_bytes:
            raise self._too_large(f"{int(length):,}")
        chunks: list[bytes] = []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            self._hold(len(message["body"]))
            chunks.append(message["body"])
            if not message.get("more_body", False):
                return b"".join(chunks)

    def _hold(self, count: int) -> None:
        self.held += count
        self.state.held_bytes += count
        if self.held > self.settings.max_body_bytes:
            raise self._too_large("more")
        if self.state.held_bytes > self.settings.max_held_bytes:
            raise unavailable("The server holds as many requests as it may. Send the request again later.", 1)

    def release(self) -> None:
        self.state.held_bytes -= self.held
        self.held = 0

    def _too_large(self, found: str) -> ApiError:
        return ApiError(
            413,
            f"expected a body of at most {self.settings.max_body_bytes:,} bytes, found {found}. Send the conversations "
            "in several requests.",
        )


def _check_single(scope: Scope) -> None:
    """
    Raises:
        ApiError: there is more than one key, of which a proxy in front may have read the other one.
    """
    count = sum(name.lower() == b"authorization" for name, _ in scope["headers"])
    if count > 1:
        raise bad_request(f"expected one Authorization header, found {count}. Leave the others out.")


async def _until_gone(receive: Receive) -> Message:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return message


def stopping() -> ApiError:
    return unavailable("The server is stopping. Send the request to another one.", 5)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
