"""A network between simulated hosts: latency, bandwidth in each direction, and everything that goes wrong.

TCP as programs see it: bytes in order, back-pressure, a refused or unanswered dial, a reset, a peer that fell silent.
While two hosts are partitioned nothing arrives, and nothing is lost either: retransmission brings it after the healing,
if the connection lives that long. A host behind NAT can only dial out.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass, field

import trio

from protocol.errors import ConfigError, LinkLost
from protocol.ids import format_address
from runtime.seam import Buffer

SEGMENT_BYTES = 64 * 1024
WINDOW_BYTES = 512 * 1024
DIAL_SECONDS_MAX = 10.0


@dataclass
class HostPort:
    """A host's place in the network. Rates are bytes per second."""

    address: str
    up_bytes_per_second: float = 125e6
    down_bytes_per_second: float = 125e6
    latency_seconds: float = 0.005
    nat: bool = False
    alive: bool = True
    up_free_at: float = 0.0
    down_free_at: float = 0.0
    sent_bytes: int = 0
    listeners: dict[int, SimListener] = field(default_factory=dict)
    streams: dict[SimStream, None] = field(default_factory=dict)


class SimNetwork:
    """All hosts and what is between them."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.hosts: dict[str, HostPort] = {}
        self.split: set[frozenset[str]] = set()
        self.changed = trio.Event()
        self.refuse_dial = lambda source, target: False

    def add_host(self, address: str, **settings) -> HostPort:
        host = self.hosts[address] = HostPort(address, **settings)
        return host

    def reachable(self, a: str, b: str) -> bool:
        return frozenset((a, b)) not in self.split

    def partition(self, a: str, b: str) -> None:
        if a != b:
            self.split.add(frozenset((a, b)))

    def heal(self) -> None:
        self.split.clear()
        self.wake()

    def wake(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    def reset_one(self) -> bool:
        """Reset a connection drawn at random; False: there is none."""
        streams = [stream for address in sorted(self.hosts) for stream in self.hosts[address].streams]
        if not streams:
            return False
        self.rng.choice(streams).reset("connection reset (simulated)")
        return True

    def host_down(self, address: str, *, silent: bool) -> None:
        """The host's process or power is gone. Not ``silent``: its kernel resets what was open."""
        host = self.hosts[address]
        host.alive = False
        host.listeners.clear()
        for stream in list(host.streams):
            if silent:
                stream.vanish()
            else:
                stream.reset("the process died")
        host.streams.clear()

    def host_up(self, address: str) -> None:
        host = self.hosts[address]
        host.alive = True
        host.up_free_at = host.down_free_at = 0.0


class SimNet:
    """The seam's ``Network`` as one host sees it."""

    def __init__(self, network: SimNetwork, host: HostPort) -> None:
        self._network = network
        self._host = host
        self._port = 40000

    async def dial(self, host: str, port: int) -> SimStream:
        network, own = self._network, self._host
        target = network.hosts.get(host)
        where = format_address(host, port)
        await trio.sleep(2 * own.latency_seconds * network.rng.uniform(0.5, 2))
        if target is None or not network.reachable(own.address, host) or (target.nat and host != own.address):
            await trio.sleep(DIAL_SECONDS_MAX)
            raise LinkLost(f"{where}: no answer")
        listener = target.listeners.get(port)
        if not own.alive or not target.alive or listener is None or network.refuse_dial(own.address, host):
            raise LinkLost(f"{where}: refused")
        self._port += 1
        ours = SimStream(network, own, target, where)
        theirs = SimStream(network, target, own, format_address(own.address, self._port))
        ours.peer, theirs.peer = theirs, ours
        listener.arrive(theirs)
        return ours

    async def listen(self, host: str, port: int) -> SimListener:
        await trio.lowlevel.checkpoint()
        if port == 0:
            self._port += 1
            port = self._port
        if port in self._host.listeners:
            raise ConfigError(f"cannot listen on port {port}: taken")
        listener = self._host.listeners[port] = SimListener(self._host, port)
        return listener


class SimListener:
    def __init__(self, host: HostPort, port: int) -> None:
        self.address = format_address(host.address, port)
        self._host = host
        self._port = port
        self._arrived: deque[SimStream] = deque()
        self._event = trio.Event()

    def arrive(self, stream: SimStream) -> None:
        self._arrived.append(stream)
        self._event.set()

    async def accept(self) -> SimStream:
        while not self._arrived:
            self._event = trio.Event()
            await self._event.wait()
        await trio.lowlevel.checkpoint()
        return self._arrived.popleft()

    def close(self) -> None:
        if self._host.listeners.get(self._port) is self:
            del self._host.listeners[self._port]
        for stream in self._arrived:
            stream.close()
        self._arrived.clear()


class SimStream:
    """One end. What the other end has sent lies in ``inbox`` with the moment at which it arrives."""

    def __init__(self, network: SimNetwork, own: HostPort, other: HostPort, remote: str) -> None:
        self.remote = remote
        self.peer: SimStream
        self._network = network
        self._own = own
        self._other = other
        self._inbox: deque[tuple[float, bytes]] = deque()
        self._inbox_bytes = 0
        self._ended = False  # they closed
        self._lost: str | None = None
        self._closed = False
        self._gone = False  # the other host vanished without a word
        self._event = trio.Event()
        own.streams[self] = None

    async def send_all(self, data: Buffer) -> None:
        rest = memoryview(data).cast("B")
        await trio.lowlevel.checkpoint()
        while rest:
            self._check()
            # A receive window: who does not read holds the sender up.
            if self.peer._inbox_bytes >= WINDOW_BYTES or self._gone:
                await self._wait(math.inf)
                continue
            piece = bytes(rest[:SEGMENT_BYTES])
            rest = rest[len(piece) :]
            own, now = self._own, trio.current_time()
            own.up_free_at = max(own.up_free_at, now) + len(piece) / own.up_bytes_per_second
            own.sent_bytes += len(piece)
            if own.up_free_at - now > 0.001:
                await trio.sleep_until(own.up_free_at)
                self._check()
            self._deliver(piece)

    def _deliver(self, piece: bytes) -> None:
        other, now = self._other, trio.current_time()
        other.down_free_at = max(other.down_free_at, now) + len(piece) / other.down_bytes_per_second
        jitter = self._network.rng.lognormvariate(0, 0.3)
        arrives_at = other.down_free_at + (self._own.latency_seconds + other.latency_seconds) * jitter
        peer = self.peer
        if peer._inbox:
            arrives_at = max(arrives_at, peer._inbox[-1][0])
        peer._inbox.append((arrives_at, piece))
        peer._inbox_bytes += len(piece)
        peer._wake()

    async def receive_into(self, target: memoryview) -> int:
        await trio.lowlevel.checkpoint()
        while True:
            self._check()
            if not self._network.reachable(self._own.address, self._other.address):
                await self._wait(math.inf, or_healed=True)
                continue
            if self._inbox:
                arrives_at, piece = self._inbox[0]
                if arrives_at > trio.current_time():
                    await self._wait(arrives_at)
                    continue
                count = min(len(target), len(piece))
                if count > 1 and self._network.rng.random() < 0.05:
                    count = self._network.rng.randint(1, count)
                target[:count] = piece[:count]
                if count == len(piece):
                    self._inbox.popleft()
                else:
                    self._inbox[0] = (arrives_at, piece[count:])
                self._inbox_bytes -= count
                self.peer._wake()
                return count
            if self._ended:
                return 0
            await self._wait(math.inf)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._own.streams.pop(self, None)
            self._wake()
            if not self._gone:
                self.peer._ended = True
                self.peer._wake()

    def reset(self, why: str) -> None:
        for end in (self, self.peer):
            if end._lost is None:
                end._lost = why
            end._own.streams.pop(end, None)
            end._wake()

    def vanish(self) -> None:
        """Our host lost its power: they hear nothing, ever."""
        self._lost = "the host died"
        self.peer._gone = True
        self._wake()

    def _check(self) -> None:
        if self._closed:
            raise LinkLost(f"{self.remote}: closed by us")
        if self._lost is not None:
            raise LinkLost(f"{self.remote}: {self._lost}")

    async def _wait(self, until: float, *, or_healed: bool = False) -> None:
        event = self._network.changed if or_healed else self._event
        with trio.move_on_at(until):
            await event.wait()

    def _wake(self) -> None:
        self._event.set()
        self._event = trio.Event()
