"""What we tell the service manager: ready, reloading, stopping, and that the event loop still turns.

The protocol is sd_notify(3): one datagram of ``NAME=value`` lines to the socket that $NOTIFY_SOCKET names. Without that
variable nobody asked, and every call does nothing. The watchdog is fed by a trio task and by nothing else: a loop that
hangs feeds nobody, and the manager restarts us, which loses nothing that was acknowledged.

Decides nothing about what ready means. A manager that does not listen is no reason to fail: its loss is logged once.

Considered: the sdnotify and systemd-python packages. It is one datagram; the first does no watchdog, the second needs
a compiler.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping

import structlog
import trio

log = structlog.get_logger()

Send = Callable[[bytes], None]

# Two of three feedings may be late before the manager believes that we hang.
FEEDINGS_PER_INTERVAL = 3
STATUS_CHARACTERS_MAX = 200


class ServiceManager:
    """Who started us, if it wants to hear of us."""

    def __init__(self, send: Send | None = None, watchdog_seconds: float | None = None) -> None:
        """``send`` delivers one datagram (``OSError`` when it cannot); None: nobody listens. ``watchdog_seconds``:
        how long we may be silent; None: as long as we like."""
        self._send = send
        self._watchdog_seconds = watchdog_seconds

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> ServiceManager:
        """Return the manager that $NOTIFY_SOCKET, $WATCHDOG_USEC and $WATCHDOG_PID speak of."""
        address = environment.get("NOTIFY_SOCKET", "")
        # A path, or (with "@") a name in Linux' abstract space; anything else is of a kind we do not know.
        if address[:1] not in ("/", "@"):
            return cls()
        if address.startswith("@"):
            address = "\0" + address[1:]
        return cls(lambda data: _send(address, data), _watchdog_seconds(environment))

    @property
    def listens(self) -> bool:
        """Whether anybody asked to be told."""
        return self._send is not None

    def ready(self, status: str = "") -> None:
        """We serve; also the end of ``reloading``. ``status`` is for people."""
        self._tell("READY=1", *_status(status))

    def reloading(self) -> None:
        """Settings are being read again; ``ready`` ends that."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """We were told to end, and are ending."""
        self._tell("STOPPING=1")

    async def feed_watchdog(self) -> None:
        """Say again and again that the loop turns, until cancelled; returns at once when nobody watches."""
        if self._watchdog_seconds is None:
            return
        while True:
            self._tell("WATCHDOG=1")
            await trio.sleep(self._watchdog_seconds / FEEDINGS_PER_INTERVAL)

    def _tell(self, *lines: str) -> None:
        if self._send is None:
            return
        try:
            self._send("\n".join(lines).encode("utf-8", "replace"))
        except OSError as error:
            # Deaf from now on. Whoever watches us will notice; to end because of it would be worse.
            self._send = None
            log.warning("service manager not reached", reason=str(error))


def _status(text: str) -> list[str]:
    # A line break would begin another variable.
    return [f"STATUS={' '.join(text.split())[:STATUS_CHARACTERS_MAX]}"] if text else []


def _watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    text, process = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not text.isdecimal() or (process and process != str(os.getpid())):
        return None
    return int(text) / 1e6 or None


def _send(address: str, data: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        # A full queue must not hold the loop up that the watchdog is about.
        sender.setblocking(False)
        # When the manager is slow, the next word will do.
        with contextlib.suppress(BlockingIOError):
            sender.sendto(data, address)
