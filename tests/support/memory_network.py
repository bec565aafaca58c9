"""A network in one process: hosts, listeners, pipes. No latency; every fault on demand or drawn from a seed.

``MemoryHub(seed)`` is the wire; ``hub.host("10.0.0.1")`` is a ``Network`` as the node at that address sees it. Reads
deliver pieces of random length, because the way bytes are split must change nothing. A pipe holds 64 KiB: who writes to
one who does not read waits, as in TCP.
"""

from __future__ import annotations

import random
from collections import deque

import trio

from protocol.errors import ConfigError, LinkLost
from protocol.ids import format_address
from runtime.seam import Buffer, ByteStream, Listener

PIPE_BYTES = 64 * 1024
DIAL_SECONDS_MAX = 10.0
_ANY_HOST = ("0.0.0.0", "::")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class _Pipe:
    """One direction of a connection."""

    def __init__(self, rng: random.Random | None) -> None:
        self.data = bytearray()
        self.ended = False  # the writer closed
        self.gone = False  # the reader closed
        self.broken = False
        self.frozen = False
        self.changed = trio.Event()
        self._rng = rng

    def change(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    async def write(self, data: Buffer, remote: str) -> None:
        rest = memoryview(data).cast("B")
        await trio.lowlevel.checkpoint()
        while True:
            if self.broken or self.gone or self.ended:
                raise LinkLost(f"{remote}: the connection broke")
            room = PIPE_BYTES - len(self.data)
            if room > 0 and len(rest):
                self.data += rest[:room]
                rest = rest[room:]
                self.change()
            if not len(rest):
                return
            await self.changed.wait()

    async def read_into(self, target: memoryview, remote: str) -> int:
        await trio.lowlevel.checkpoint()
        while True:
            if self.broken or self.gone:
                raise LinkLost(f"{remote}: the connection broke")
            if not self.frozen:
                if self.data:
                    most = min(len(target), len(self.data))
                    count = self._rng.randint(1, most) if self._rng is not None else most
                    target[:count] = self.data[:count]
                    del self.data[:count]
                    self.change()
                    return count
                if self.ended:
                    return 0
            await self.changed.wait()


class MemoryStream:
    """One end of a connection."""

    def __init__(self, incoming: _Pipe, outgoing: _Pipe, remote: str) -> None:
        self.incoming = incoming
        self.outgoing = outgoing
        self._remote = remote
        self.closed = False

    @property
    def remote(self) -> str:
        return self._remote

    @property
    def line(self) -> None:
        return None

    async def send_all(self, data: Buffer) -> None:
        await self.outgoing.write(data, self._remote)

    async def receive_into(self, target: memoryview) -> int:
        return await self.incoming.read_into(target, self._remote)

    def close(self) -> None:
        self.closed = True
        self.outgoing.ended = True
        self.incoming.gone = True
        self.outgoing.change()
        self.incoming.change()

    def reset(self) -> None:
        """Break both directions; what was on its way is lost."""
        for pipe in (self.incoming, self.outgoing):
            pipe.broken = True
            pipe.change()

    def freeze(self, *, frozen: bool = True) -> None:
        """Half-open: bytes still go in, and none comes out, on either side."""
        for pipe in (self.incoming, self.outgoing):
            pipe.frozen = frozen
            pipe.change()


class MemoryListener:
    """Where connections arrive."""

    def __init__(self, hub: MemoryHub, host: str, port: int) -> None:
        self._hub = hub
        self._key = (host, port)
        self._waiting: deque[MemoryStream] = deque()
        self._arrived = trio.Event()
        self.closed = False

    @property
    def address(self) -> str:
        return format_address(*self._key)

    def arrive(self, stream: MemoryStream) -> None:
        self._waiting.append(stream)
        self._arrived.set()

    async def accept(self) -> ByteStream:
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            if self.closed:
                raise trio.ClosedResourceError
            self._arrived = trio.Event()
            await self._arrived.wait()
        return self._waiting.popleft()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._hub.listeners.pop(self._key, None)
            for stream in self._waiting:
                stream.close()
            self._arrived.set()


class MemoryHub:
    """The wire between all hosts. ``splits`` False delivers whatever is there."""

    def __init__(self, seed: int = 0, *, splits: bool = True) -> None:
        self.listeners: dict[tuple[str, int], MemoryListener] = {}
        self.refused: set[str] = set()  # addresses that answer "connection refused"
        self.silent: set[str] = set()  # addresses that never answer
        self.streams: list[MemoryStream] = []  # dialling ends, in the order of their birth
        self.dials: list[str] = []
        self._rng = random.Random(f"memory network {seed}") if splits else None
        self._next_port = 20_000

    def host(self, address: str) -> MemoryNetwork:
        """The network as the node at ``address`` sees it."""
        return MemoryNetwork(self, address)

    def free_port(self) -> int:
        self._next_port += 1
        return self._next_port

    def connect(self, source: str, host: str, port: int) -> MemoryStream | None:
        listener = self.listeners.get((host, port))
        if listener is None:
            for anywhere in _ANY_HOST:
                listener = listener or self.listeners.get((anywhere, port))
        if listener is None or listener.closed:
            return None
        there, back = _Pipe(self._rng), _Pipe(self._rng)
        stream = MemoryStream(back, there, format_address(host, port))
        listener.arrive(MemoryStream(there, back, format_address(source, self.free_port())))
        self.streams.append(stream)
        return stream

    def open_streams(self) -> list[MemoryStream]:
        """Dialling ends that are not closed."""
        return [stream for stream in self.streams if not stream.closed]

    def reset_all(self) -> None:
        """Break every connection there is."""
        for stream in self.streams:
            stream.reset()

    def freeze_all(self, *, frozen: bool = True) -> None:
        """Make every connection there is half open."""
        for stream in self.streams:
            stream.freeze(frozen=frozen)


class MemoryNetwork:
    """``Network`` of one host of a hub."""

    def __init__(self, hub: MemoryHub, address: str) -> None:
        self._hub = hub
        self._address = address

    async def dial(self, host: str, port: int) -> ByteStream:
        await trio.lowlevel.checkpoint()
        address = format_address(host, port)
        self._hub.dials.append(address)
        if address in self._hub.silent:
            await trio.sleep(DIAL_SECONDS_MAX)
            raise LinkLost(f"{address}: no answer")
        target = self._address if host in _LOOPBACK else host
        stream = None if address in self._hub.refused else self._hub.connect(self._address, target, port)
        if stream is None:
            raise LinkLost(f"{address}: connection refused")
        return stream

    async def listen(self, host: str, port: int) -> Listener:
        await trio.lowlevel.checkpoint()
        place = self._address if host in (*_LOOPBACK, *_ANY_HOST) else host
        if place != self._address:
            raise ConfigError(f"cannot listen on {format_address(host, port)}: it is not an address of this host")
        port = port or self._hub.free_port()
        if (place, port) in self._hub.listeners:
            raise ConfigError(f"cannot listen on {format_address(host, port)}: address already in use")
        listener = MemoryListener(self._hub, place, port)
        self._hub.listeners[place, port] = listener
        return listener
