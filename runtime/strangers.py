"""Who may come in before he has proven who he is: so many of each host at once, and a line for the rest.

An office that lost its tracker comes back through one address within seconds. Turned away, each node would wait longer
and longer before it tries again, and the tracker would know them all only after half a minute; in line, a thousand are
in as fast as handshakes go. Who waits costs a socket and a task, and nothing of TLS.

Considered: more at once for each host. Then one host could keep everybody else out.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import trio

from protocol.ids import parse_address
from protocol.limits import HANDSHAKE_SECONDS_MAX

# Sockets that have not proven who they are: per address, and in all. 51 KiB each at most.
STRANGERS_PER_HOST_MAX = 32
STRANGERS_MAX = 1024
# Those that wait for a place of their host, all hosts together; and how long: the dialler's deadline for the handshake
# runs already, and what is left of it must do for that.
WAITING_MAX = 1024
WAIT_SECONDS_MAX = 0.8 * HANDSHAKE_SECONDS_MAX


@dataclass
class Strangers:
    """How many connections have not proven anything yet, by host."""

    total: int = 0
    waiting: int = 0
    hosts: dict[str, int] = field(default_factory=dict)
    _lines: dict[str, deque[trio.Event]] = field(default_factory=dict)

    @contextlib.asynccontextmanager
    async def admit(self, remote: str) -> AsyncIterator[bool]:
        """Count one while the block lasts; yields False when there are too many, and stayed so."""
        host = origin(remote)
        if not await self._enter(host):
            yield False
            return
        try:
            yield True
        finally:
            self._leave(host)

    async def _enter(self, host: str) -> bool:
        if self.hosts.get(host, 0) >= STRANGERS_PER_HOST_MAX:
            return await self._wait(host)
        if self.total >= STRANGERS_MAX:
            return False
        self.total += 1
        self.hosts[host] = self.hosts.get(host, 0) + 1
        return True

    async def _wait(self, host: str) -> bool:
        if self.waiting >= WAITING_MAX:
            return False
        turn = trio.Event()
        line = self._lines.setdefault(host, deque())
        line.append(turn)
        self.waiting += 1
        try:
            with trio.move_on_after(WAIT_SECONDS_MAX):
                await turn.wait()
        except trio.Cancelled:
            if turn.is_set():
                self._leave(host)
            raise
        finally:
            self.waiting -= 1
            if not turn.is_set():
                line.remove(turn)
                if not line:
                    del self._lines[host]
        return turn.is_set()

    def _leave(self, host: str) -> None:
        line = self._lines.get(host)
        if line is not None:
            # The place goes to who came first, and is never free for somebody who came later.
            line.popleft().set()
            if not line:
                del self._lines[host]
            return
        self.total -= 1
        self.hosts[host] -= 1
        if not self.hosts[host]:
            del self.hosts[host]


def origin(remote: str) -> str:
    """Return what strangers are counted by: the host, or the /64 network of an IPv6 one, which one person has whole."""
    host = parse_address(remote)[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), 64), strict=False))
