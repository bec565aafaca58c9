"""Serves an ASGI application over plain HTTP/1.1: hypercorn, held to our bounds. Knows no application.

Who says something else is refused, with a line in the log. HTTP/2 is something else: neither browsers nor proxies speak
it without TLS, and it would be one more parser of what strangers say.

The listening socket is made first, so that a wrong address is told before anything else starts.
"""

from __future__ import annotations

import logging
import socket as stdlib_socket
from typing import Any

import h11
import hypercorn.protocol
import hypercorn.trio.run
import structlog
import trio
from hypercorn.config import Config, Sockets
from hypercorn.events import Closed, Event
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio import serve
from hypercorn.trio.tcp_server import TCPServer

from protocol.errors import ConfigError
from protocol.ids import format_address, parse_address

log = structlog.get_logger()

# From connecting to the end of the first request's head, and between requests.
IDLE_SECONDS_MAX = 15.0
# A reader that takes nothing for so long is cut off by the kernel.
STALL_MILLISECONDS_MAX = 4000
STOP_SECONDS_MAX = 1.0
BACKLOG = 100

# Tracebacks of the application and of the server; where it listens is told by the program.
_errors = logging.getLogger("hypercorn.error")
_errors.setLevel(logging.WARNING)


class _Http1(H11Protocol):
    """hypercorn's HTTP/1.1, which tells of those who speak otherwise and changes to no other version."""

    _refused = False

    async def handle(self, event: Event) -> None:
        try:
            await super().handle(event)
        except h11.RemoteProtocolError as error:
            self._refuse(str(error))
            await self._send_error_response(error.error_status_hint)
            await self.send(Closed())
        else:
            if self.connection.their_state is h11.ERROR:
                self._refuse("no HTTP/1.1, too large, or cut off")

    async def _check_protocol(self, event: h11.Request) -> None:
        # An offer to change ("Upgrade: h2c") is passed over, as RFC 9110 §7.8 allows.
        if event.http_version not in (b"1.0", b"1.1"):
            version = event.http_version.decode("ascii")
            raise h11.RemoteProtocolError(f"HTTP/{version} without TLS", error_status_hint=505)

    def _refuse(self, reason: str) -> None:
        # Closing comes through here once more.
        if not self._refused:
            self._refused = True
            log.warning("http client refused", remote=format_address(*(self.client or ("", 0))), reason=reason)


class _Connection(TCPServer):
    """hypercorn's connection, whose failures end that connection and nothing else.

    As it comes (0.18), a client that hangs up in the middle of a request can make two of its tasks send at once, and
    the error ends the server, and with it the program. Considered: a serve loop of our own around it; that needs more
    of what is theirs alone.
    """

    async def run(self) -> None:
        self._over = trio.Event()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._cut_off)
                try:
                    await super().run()
                finally:
                    self._over.set()
                nursery.cancel_scope.cancel()
        except* Exception as group:  # noqa: BLE001  # whatever it is, it is about one connection
            log.warning("http connection failed", reason=repr(_first(group)))

    async def _cut_off(self) -> None:
        """End the connection a moment after we were cancelled: hypercorn shields what it sends from that, and a reader
        that takes a little now and then could keep a program from stopping."""
        try:
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(STOP_SECONDS_MAX, shield=True):
                await self._over.wait()
            if not self._over.is_set():
                await trio.aclose_forcefully(self.stream)

    async def _close(self) -> None:
        # Not while somebody sends: shutting down counts as sending, the stream lets one at a time, and an application
        # that answers whom we refuse would fail with a traceback. Sending ends: the kernel cuts off who takes nothing,
        # and we cut off everybody when we stop.
        with trio.CancelScope(shield=True):
            async with self.send_lock:
                await super()._close()


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


# There is no other way in: both are names that hypercorn's modules imported, and look up when a client comes.
hypercorn.trio.run.TCPServer = _Connection  # type: ignore[attr-defined]
hypercorn.protocol.H11Protocol = _Http1  # type: ignore[attr-defined]


class _BoundConfig(Config):
    """hypercorn's settings, with sockets that were made before."""

    bound: Sockets

    def create_sockets(self) -> Sockets:
        return self.bound


class HttpServer:
    """Listens on ``address`` (port 0: any free one) from the moment it is made. ``stall_milliseconds``: who takes
    nothing for so long is cut off, and so long may it take to stop.

    Raises:
        ConfigError: the address cannot be used.
    """

    def __init__(self, address: str, *, stall_milliseconds: int = STALL_MILLISECONDS_MAX) -> None:
        host, port = parse_address(address)
        family = stdlib_socket.AF_INET6 if ":" in host else stdlib_socket.AF_INET
        try:
            self._socket = stdlib_socket.create_server((host, port), family=family, backlog=BACKLOG)
        except OSError as error:
            raise ConfigError(f"cannot serve HTTP on {address}: {error.strerror or error}") from error
        self._socket.setblocking(False)
        if hasattr(stdlib_socket, "TCP_USER_TIMEOUT"):
            # Accepted connections inherit it.
            self._socket.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_USER_TIMEOUT, stall_milliseconds)
        host, port = self._socket.getsockname()[:2]
        self.address = format_address(host, port)

    def close(self) -> None:
        """Stop listening, when ``run`` was never called."""
        self._socket.close()

    async def run(self, app: Any, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the ASGI application ``app`` until cancelled."""
        config = _BoundConfig()
        config.bound = Sockets([], [self._socket], [])
        config.backlog = BACKLOG
        config.keep_alive_timeout = IDLE_SECONDS_MAX
        # Not while an answer is under way: who reads an endless one (server-sent events) says nothing more. A body that
        # never ends keeps nothing open either: no application here waits for one.
        config.read_timeout = None
        config.graceful_timeout = STOP_SECONDS_MAX
        config.shutdown_timeout = STOP_SECONDS_MAX
        config.include_server_header = False
        config.accesslog = None
        config.errorlog = _errors
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(serve, app, config)
                task_status.started()
        finally:
            self.close()
