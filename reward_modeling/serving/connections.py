"""Connections that wait for no client longer than they should, on uvicorn's protocol of h11.

uvicorn itself waits without end for the rest of a request, and for a client that does not read its answer.
"""

import asyncio
import json
from typing import ClassVar

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from reward_modeling.serving.errors import unavailable

LINGER_BYTES = 4 * 1024 * 1024  # of a body that was refused: who is cut off while sending may not read why
LINGER_SECONDS = 5.0
TOO_LATE = "expected the whole request within {seconds:g} seconds, found a part of it. Send it faster, or in parts."


async def too_many(scope: Scope, receive: Receive, send: Send) -> None:
    """The application of a connection beyond the limit."""
    error = unavailable("The server has as many connections as it may. Connect again later.", 1)
    error.headers["Connection"] = "close"
    await error.response()(scope, receive, send)


class TimedProtocol(H11Protocol):
    """A connection with a clock that runs while its client is to send a request or to read an answer."""

    client_timeout: ClassVar[float] = 60.0
    max_connections: ClassVar[int] = 512

    _clock: asyncio.TimerHandle | None = None
    _lingered = 0

    @classmethod
    def with_limits(cls, client_timeout: float, max_connections: int) -> type["TimedProtocol"]:
        return type(cls.__name__, (cls,), {"client_timeout": client_timeout, "max_connections": max_connections})

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        if len(self.connections) > 2 * self.max_connections:
            transport.abort()
        elif len(self.connections) > self.max_connections:
            self.app = too_many
        self._start_clock(self.client_timeout)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._is_answered() and self.conn.their_state is h11.SEND_BODY:
            self._lingered += len(data)
            if self._lingered > LINGER_BYTES:
                self.transport.close()
        elif self._waits_for_us():
            if not self.transport.get_write_buffer_size():  # nor is there an earlier answer that it does not read
                self._stop_clock()
        elif self._clock is None:  # the first bytes of a request
            self._start_clock(self.client_timeout)

    def on_response_complete(self) -> None:
        super().on_response_complete()  # which begins with the next request, where that has come
        self._lingered = 0
        self._stop_clock()
        if self._is_answered() and self.conn.their_state is h11.SEND_BODY:
            self._start_clock(LINGER_SECONDS)
        elif self.transport.get_write_buffer_size() or self._has_part_of_a_request():
            self._start_clock(self.client_timeout)

    def _unsupported_upgrade_warning(self) -> None:
        """A client that asks for a WebSocket is answered by HTTP; uvicorn would log it, with advice to install one."""

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._clock is None:
            self._start_clock(self.client_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        super().connection_lost(exc)

    def _is_answered(self) -> bool:
        return self.cycle is not None and self.cycle.response_complete

    def _has_part_of_a_request(self) -> bool:
        """Of its head, or of the body after it."""
        if self._is_answered() or self.cycle is None:
            return self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        return self.cycle.more_body

    def _waits_for_us(self) -> bool:
        """A whole request has come, and has no answer yet."""
        return self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body

    def _start_clock(self, seconds: float) -> None:
        self._stop_clock()
        self._clock = self.loop.call_later(seconds, self._time_is_up)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _time_is_up(self) -> None:
        self._clock = None
        if self.transport.get_write_buffer_size():  # it does not read
            self.transport.abort()
            return
        has_begun_to_answer = self.cycle is not None and self.cycle.response_started and not self._is_answered()
        lingers = self._is_answered() and self.conn.their_state is h11.SEND_BODY
        if not self.transport.is_closing() and not has_begun_to_answer and not lingers:
            self.transport.write(_too_late(self.client_timeout))
        self.transport.close()


def _too_late(seconds: float) -> bytes:
    """A whole response: h11 makes none to a part of a request."""
    error = {"message": TOO_LATE.format(seconds=seconds), "type": "RequestTimeoutError", "param": None, "code": 408}
    body = json.dumps({"error": error}).encode()
    head = f"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"connection: close\r\n\r\n" + body
