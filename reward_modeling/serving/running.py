"""The server as a process: its socket, its signals, its end.

SIGTERM (or Ctrl-C): requests in flight are finished, new ones get 503, and the process ends with status 0 when all are
answered, at the latest after `shutdown_timeout` and `CLOSING_SECONDS`. A second signal ends it at once.
"""

import asyncio
import ipaddress
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from reward_modeling.common.errors import UserError
from reward_modeling.common.interruption import finishes_first, leave
from reward_modeling.serving.connections import TimedProtocol
from reward_modeling.serving.errors import whereabouts
from reward_modeling.serving.limits import stopping
from reward_modeling.serving.service import Service
from reward_modeling.serving.settings import Settings

logger = logging.getLogger("serve")

CLOSING_SECONDS = 5  # that clients get to read their last answers
SECONDS_FOR_THE_THREAD = 1.0  # to end: it may be in a batch that nobody waits for any more
TICK = 0.02  # seconds between two looks at what is in flight
BACKLOG = 2048  # connections that the system holds before they are accepted


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens at this address, where connections wait until they are served.

    It listens at once: of two servers that are started together the second one ends here, before its model is loaded.

    Raises:
        UserError: there is no such address, or another process has it.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of a server that was just ended
        bound.bind(address)
        bound.listen(BACKLOG)
    except OSError as error:
        raise _cannot_listen(host, port, error) from error
    return bound


def _cannot_listen(host: str, port: int, error: OSError) -> UserError:
    return UserError(
        f"--host {host} --port {port}: expected an address to listen at, found that it cannot be had "
        f"({error.strerror}). Pass another port, or 0 for any that is free."
    )


def check_reach(bound: socket.socket, settings: Settings) -> None:
    """Warn of a server that others can reach, and that asks for no key."""
    address = bound.getsockname()[0]
    if settings.api_key is None and not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        logger.warning(
            "The server listens at %s, beyond this machine, and has no key: whoever reaches it may use it. Pass "
            "--api_key_file, or --host 127.0.0.1.",
            address,
        )


class WithoutWords(logging.Filter):
    """Puts the kind and the place of an error in the place of its traceback, which ends in its words."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None:
            record.msg, record.args = f"{record.getMessage().strip()}: {whereabouts(record.exc_info[1])}", ()
            record.exc_info = record.exc_text = None
        return True


class SaidOnce(logging.Filter):
    """Lets a warning through once: what a client sends may be the reason for any number of them."""

    def __init__(self):
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.WARNING:
            return True
        if record.msg in self._said:
            return False
        self._said.add(record.msg)
        record.msg = f"{record.msg.rstrip('.')}. Said once."
        return True


class Server(uvicorn.Server):
    """uvicorn's server with signals that are answered elsewhere."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(app: FastAPI, bound: socket.socket) -> None:
    """Serve until a signal comes; returns when the last request is answered, and ends the process where one hangs."""
    service: Service = app.state.service
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).addFilter(WithoutWords())
    logging.getLogger("uvicorn.error").addFilter(SaidOnce())
    asyncio.run(_serve(app, bound, service))
    if not service.batcher.join(SECONDS_FOR_THE_THREAD):
        leave(0)


async def _serve(app: FastAPI, bound: socket.socket, service: Service) -> None:
    settings = service.settings
    server = Server(_config(app, settings))
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_loop_error)
    signals = 0
    ending: list[asyncio.Task] = []

    def note(of: signal.Signals) -> None:
        nonlocal signals
        signals += 1
        if signals > 1:
            leave(128 + of)
        logger.info("%s: the requests in flight are finished, new ones are refused.", of.name)
        loop.call_soon_threadsafe(lambda: ending.append(loop.create_task(_finish(server, service))))

    service.state.stopping = False
    with finishes_first(note, lambda of: f"Stopped by {of.name}."):
        try:
            listening = asyncio.create_task(_announce(server, bound, settings))
            await server.serve(sockets=[bound])
        finally:
            listening.cancel()
    logger.info("Stopped.")


def _config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=TimedProtocol.with_limits(settings.client_timeout, settings.max_connections),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,  # it would hold whatever a client writes into a path
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=settings.keep_alive,
        timeout_graceful_shutdown=CLOSING_SECONDS,
    )


async def _announce(server: Server, bound: socket.socket, settings: Settings) -> None:
    while not server.started:
        await asyncio.sleep(TICK)
    host, port = bound.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    logger.info("Serving %s at http://%s:%d (stop with Ctrl-C or SIGTERM).", settings.model_name, host, port)


async def _finish(server: Server, service: Service) -> None:
    """The end, in order: no new requests, the answers to those in flight, no more connections."""
    service.state.stopping = True
    loop = asyncio.get_running_loop()
    deadline = loop.time() + service.settings.shutdown_timeout
    while service.state.in_flight and loop.time() < deadline:
        await asyncio.sleep(TICK)
    if service.state.in_flight:
        logger.warning(
            "%d requests were not answered within %g seconds.",
            *(service.state.in_flight, service.settings.shutdown_timeout),
        )
        service.batcher.abandon(stopping())
    server.should_exit = True


def _log_loop_error(_loop: asyncio.AbstractEventLoop, context: dict) -> None:
    """What asyncio would log with all its words."""
    error = context.get("exception")
    logger.error("In the event loop: %s.", context["message"] if error is None else whereabouts(error))
