"""A network between simulated hosts: latency, bandwidth in each direction, and everything that goes wrong.

TCP as programs see it: bytes in order, back-pressure, a refused or unanswered dial, a reset, a peer that fell silent.
While two hosts are partitioned nothing arrives, and nothing is lost either: retransmission brings it after the healing,
if the connection lives that long. A host behind NAT can only dial out.

A host that loses its power says nothing; its connections stay half-open until somebody sends on them and the host,
when it is up again, answers with a reset. The same when a process dies behind a partition: the reset is said once it
can be heard.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import trio
from simulation.timeline import Bell, Timeline

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
    frozen_until: float = 0.0  # suspended: nothing comes in, nothing goes out, and nobody notices
    frozen: bool = False
    up_free_at: float = 0.0
    down_free_at: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0
    listeners: dict[int, SimListener] = field(default_factory=dict)
    streams: dict[SimStream, None] = field(default_factory=dict)


class SimNetwork:
    """All hosts and what is between them."""

    def __init__(self, rng: random.Random, timeline: Timeline) -> None:
        self.rng = rng
        self.timeline = timeline
        self.hosts: dict[str, HostPort] = {}
        self.split: dict[frozenset[str], int] = {}  # how many faults hold them apart
        self.refusing: dict[str, int] = {}
        self.orphans: dict[SimStream, None] = {}  # their other end is no more, and nobody has told them
        self.on_sent: Callable[[SimStream, bytes], None] | None = None

    def add_host(self, address: str, **settings) -> HostPort:
        host = self.hosts[address] = HostPort(address, **settings)
        return host

    def reachable(self, a: str, b: str) -> bool:
        if self.split and frozenset((a, b)) in self.split:
            return False
        return not (self.hosts[a].frozen or self.hosts[b].frozen)

    def partition(self, a: str, b: str) -> None:
        if a != b:
            pair = frozenset((a, b))
            self.split[pair] = self.split.get(pair, 0) + 1

    def join(self, a: str, b: str) -> None:
        """Undo one ``partition`` of these two."""
        pair = frozenset((a, b))
        count = self.split.pop(pair, 0)
        if count > 1:
            self.split[pair] = count - 1
        self.wake()

    def heal(self) -> None:
        self.split.clear()
        self.refusing.clear()
        self.wake()

    def wake(self) -> None:
        """Who can be reached has changed."""
        for host in self.hosts.values():
            for stream in host.streams:
                stream.bell.ring()
        for stream in list(self.orphans):
            if stream.void_bytes:
                # What was not acknowledged is sent again; whoever gets it knows of no such connection.
                stream.told_gone()

    def freeze(self, address: str, frozen: bool) -> None:
        host = self.hosts[address]
        host.frozen = frozen
        if not frozen:
            host.frozen_until = 0.0
        self.wake()

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
        host.alive = not silent  # a kernel without our process still answers: refused
        host.listeners.clear()
        for stream in list(host.streams):
            if silent or not self.reachable(address, stream.other.address):
                stream.vanish()
            else:
                stream.reset("the process died")
        host.streams.clear()

    def host_up(self, address: str) -> None:
        host = self.hosts[address]
        host.alive = True
        host.up_free_at = host.down_free_at = 0.0
        self.wake()


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
        now = network.timeline.now
        await network.timeline.sleep_until(now + 2 * own.latency_seconds * network.rng.uniform(0.5, 2))
        silent = target is None or not target.alive or not network.reachable(own.address, host)
        if target is None or silent or (target.nat and target is not own):
            await network.timeline.sleep_until(network.timeline.now + DIAL_SECONDS_MAX)
            raise LinkLost(f"{where}: no answer")
        listener = target.listeners.get(port)
        if listener is None or own.address in network.refusing or host in network.refusing:
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
        listener = self._host.listeners[port] = SimListener(self._network.timeline, self._host, port)
        return listener


class SimListener:
    def __init__(self, timeline: Timeline, host: HostPort, port: int) -> None:
        self.address = format_address(host.address, port)
        self._host = host
        self._port = port
        self._arrived: deque[SimStream] = deque()
        self._bell = Bell(timeline)

    def arrive(self, stream: SimStream) -> None:
        self._arrived.append(stream)
        self._bell.ring()

    async def accept(self) -> SimStream:
        while not self._arrived:
            await self._bell.wait()
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
        self.line = None
        self.peer: SimStream
        self.own = own
        self.other = other
        self.bell = Bell(network.timeline)
        self.void_bytes = 0  # sent to an end that is no more
        self._network = network
        self._timeline = network.timeline
        self._inbox: deque[tuple[float, bytes]] = deque()
        self._inbox_bytes = 0
        self._ended = False  # they closed
        self._lost: str | None = None
        self._closed = False
        self._gone = False  # the other end vanished without a word
        own.streams[self] = None

    async def send_all(self, data: Buffer) -> None:
        rest = memoryview(data).cast("B")
        yielded = False
        self._check()
        while rest:
            # A receive window: who does not read holds the sender up.
            if self.peer._inbox_bytes + self.void_bytes >= WINDOW_BYTES:
                await self.bell.wait()
                self._check()
                yielded = True
                continue
            piece = bytes(rest[:SEGMENT_BYTES])
            rest = rest[len(piece) :]
            own, now = self.own, self._timeline.now
            own.up_free_at = max(own.up_free_at, now) + len(piece) / own.up_bytes_per_second
            own.sent_bytes += len(piece)
            if own.up_free_at - now > 0.001:
                await self._timeline.sleep_until(own.up_free_at)
                self._check()
                yielded = True
            self._deliver(piece)
        if not yielded:
            await self._breathe()

    async def _breathe(self) -> None:
        """Let others run, now and then: each time would cost more than all the rest."""
        if self._network.rng.random() < 0.25:
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()

    def _deliver(self, piece: bytes) -> None:
        network = self._network
        if network.on_sent is not None:
            network.on_sent(self, piece)
        if self._gone:
            self.void_bytes += len(piece)
            if self.other.alive and network.reachable(self.own.address, self.other.address):
                self.told_gone()
            return
        other, now = self.other, self._timeline.now
        other.down_free_at = max(other.down_free_at, now) + len(piece) / other.down_bytes_per_second
        other.received_bytes += len(piece)
        jitter = network.rng.lognormvariate(0, 0.3)
        arrives_at = other.down_free_at + (self.own.latency_seconds + other.latency_seconds) * jitter
        peer = self.peer
        if peer._inbox:
            arrives_at = max(arrives_at, peer._inbox[-1][0])
        peer._inbox.append((arrives_at, piece))
        peer._inbox_bytes += len(piece)
        peer.bell.ring()

    async def receive_into(self, target: memoryview) -> int:
        waited = False
        while True:
            self._check()
            if not self._network.reachable(self.own.address, self.other.address):
                await self.bell.wait()
                waited = True
                continue
            if self._inbox:
                arrives_at, piece = self._inbox[0]
                if arrives_at > self._timeline.now:
                    await self.bell.wait(arrives_at)
                    waited = True
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
                self.peer.bell.ring()
                if not waited:
                    await self._breathe()
                return count
            if self._ended:
                return 0
            await self.bell.wait()
            waited = True

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.own.streams.pop(self, None)
            self._network.orphans.pop(self, None)
            self.bell.ring()
            if not self._gone:
                self.peer._ended = True
                self.peer.bell.ring()

    def reset(self, why: str) -> None:
        for end in (self, self.peer):
            if end._lost is None:
                end._lost = why
            end.own.streams.pop(end, None)
            end._network.orphans.pop(end, None)
            end.bell.ring()

    def vanish(self) -> None:
        """Our end is no more, without a word: they hear nothing until they send and somebody answers."""
        self._lost = "the host died"
        if not self.peer._closed and self.peer._lost is None:
            self.peer._gone = True
            self._network.orphans[self.peer] = None
            # What was on its way and what nobody had read are lost with us.
            self.peer.void_bytes += self._inbox_bytes
        self.bell.ring()

    def told_gone(self) -> None:
        """The host at the other end, up again, answers what we sent with a reset."""
        if not (self.other.alive and self._network.reachable(self.own.address, self.other.address)):
            return
        if self._lost is None:
            self._lost = "connection reset by a host that knows nothing of it"
        self.own.streams.pop(self, None)
        self._network.orphans.pop(self, None)
        self.bell.ring()

    def _check(self) -> None:
        if self._closed:
            raise LinkLost(f"{self.remote}: closed by us")
        if self._lost is not None:
            raise LinkLost(f"{self.remote}: {self._lost}")
