"""The process: a socket of its own, uvicorn on it, and an end that waits for the answers under way."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import sys
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import OptionError
from .limits import Limits

MOST_CONNECTIONS = 1000
HEADER_SECONDS = 30.0
BACKLOG = 128
# seconds for which one thread keeps Python to itself; Python's own 0.005 would keep the computation waiting
SWITCH_SECONDS = 0.0005


class PatientProtocol(H11Protocol):
    """HTTP/1.1; a client that sends no request in time, be it the first or a later one, is left."""

    _leaving: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait."""
        super().connection_made(transport)
        self._wait_or_not()

    def data_received(self, data: bytes) -> None:
        """Take bytes; those that complete a request's header end the wait."""
        super().data_received(data)
        self._wait_or_not()

    def on_response_complete(self) -> None:
        """Wait for the next request, unless it is there already."""
        super().on_response_complete()
        self._wait_or_not()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        super().connection_lost(exc)
        self._end_wait()

    def _wait_or_not(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._end_wait()
        elif self._leaving is None and not self.transport.is_closing():
            self._leaving = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _end_wait(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None


class PromptServer(uvicorn.Server):
    """A server that any second signal ends at once; uvicorn's own does so for SIGINT alone."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal."""
        self.force_exit = self.should_exit
        super().handle_exit(sig, frame)


def bound_socket(host: str, port: int) -> socket.socket:
    """A listening socket; OptionError where there cannot be one.

    port: 0 takes a free one.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise OptionError(
            f"--host is {host!r}, which is no address of this machine; 127.0.0.1 is itself, 0.0.0.0 is every network"
        ) from error
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise OptionError(refusal(error, host, port)) from error
    bound.set_inheritable(True)
    return bound


def refusal(error: OSError, host: str, port: int) -> str:
    """The sentence of a socket that cannot be had."""
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is taken, perhaps by another doge-serve; give another --port, or stop that one"
    if error.errno == errno.EACCES:
        return f"port {port} is not allowed to this user; give a --port of at least 1024"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host is {host}, which is no address of this machine; 127.0.0.1 is itself, 0.0.0.0 is every network"
    return f"port {port} of {host} cannot be had: {error.strerror}; give another --port or --host"


def url_of(bound: socket.socket) -> str:
    """The address of a listening socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def server_of(app: ASGIApp, limits: Limits) -> uvicorn.Server:
    """The server of an application. Told to end, it finishes the answers under way."""
    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=int(limits.max_seconds) + 5,
        timeout_keep_alive=30,
    )
    return PromptServer(config)


def serve(app: ASGIApp, bound: socket.socket, limits: Limits) -> None:
    """Answer until a signal comes, then finish the answers under way; a second signal ends at once."""
    sys.setswitchinterval(SWITCH_SECONDS)
    server = server_of(app, limits)

    def stop(number: int, frame: FrameType | None) -> None:
        # uvicorn raises the signal again at its end, for whoever had a handler before it
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    server.run(sockets=[bound])
