"""One link: a secure stream that speaks messages. One reader, a watch for silence, and a writer while it is needed.

``post`` queues a control message and never waits; ``answer`` sends it in the same moment when nothing is before it;
``send_block`` waits until its bytes are on their way. Control frames go between blocks, so none waits behind more than
one block. Pings, Pongs and Goodbyes are dealt with here.
Which messages are legal is decided in protocol/connection.py; what they mean is not our business.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

import trio

from protocol import messages as m
from protocol.connection import Connection
from protocol.errors import LinkLost, LocalProtocolError, RemoteProtocolError
from protocol.limits import BLOCK_BYTES, HELLO_SECONDS_MAX, SENTENCE_BYTES_MAX, SILENCE_SECONDS_MAX
from runtime.identity import Peer
from runtime.seam import SecureStream

# Control bytes we keep for a reader who does not read: four manifests and change. Beyond that they are too slow.
CONTROL_BYTES_MAX = 2 * 1024 * 1024
# Whoever has much to post waits for this (``wait_room``), so that a long list is not taken for a reader who sleeps.
CONTROL_BYTES_MANY = 256 * 1024
# Within a block nobody is woken for less than what comes in so long at the rate of the block before: less than half of
# the time that a block should take, and never later than its end. The least is a TLS record, of which nothing can be
# used before all of it is there; the most what a socket has room for from the beginning.
GATHER_SECONDS = 0.02
GATHER_BYTES_MIN = 16 * 1024 + 256
GATHER_BYTES_MAX = 64 * 1024
# A goodbye is a courtesy; it may not hold up the one who leaves.
GOODBYE_SECONDS_MAX = 2.0
# A writer who was woken no oftener than this between two pings is not worth the memory of a task that waits.
SELDOM = 8

_OURS: frozenset[type[m.Message]] = frozenset((m.Ping, m.Pong, m.Goodbye))


class Link:
    """A link to ``peer``. ``await open()``, then ``run()`` in a nursery beside whoever calls ``receive()``."""

    def __init__(self, stream: SecureStream, peer: Peer, connection: Connection, *, dialled: bool) -> None:
        self.peer = peer
        self.dialled = dialled
        self.remote = stream.remote
        self.line = stream.line  # what can be seen of the way, if anything
        self.lost: str | None = None  # why it ended, once it has
        self.round_trip_seconds: float | None = None
        self.bytes_sent = 0
        self.bytes_received = 0
        self._stream = stream
        # Of streams that can: a small message mostly leaves without waiting, and without a deadline that costs more.
        self._send_now: Callable[[bytes], bool | None] | None = getattr(stream, "send_now", None)
        # Of streams that can: what is not worth waking up for.
        self._gather: Callable[..., None] | None = getattr(stream, "gather", None)
        self._raw_rate = 0.0  # of the last block, bytes per second
        self._connection = connection
        self._control: list[bytes] = []
        self._control_bytes = 0
        self._block: tuple[bytes, memoryview, trio.Event] | None = None
        self._block_leaving = False
        self._room = trio.Event()
        self._wake = trio.Event()
        self._ended = trio.Event()
        self._closing = False
        self._life: trio.Nursery | None = None  # while it runs
        self._writing = False  # a writer is there
        self._blocks = False  # it has sent blocks: then it stays
        self._woken = 0  # how often it was lately; for a message now and then it comes and goes
        self._heard_at = trio.current_time()
        self._listening_since: float | None = None
        self._ping_number = 0
        self._ping_sent_at: float | None = None

    def __repr__(self) -> str:
        return f"<link to {self.peer.role} {self.peer.node[:8]} {self.remote}>"

    @property
    def hello(self) -> m.Hello:
        """What they said of themselves; there after ``open()``."""
        assert self._connection.hello is not None
        return self._connection.hello

    @property
    def certificate(self) -> bytes | None:
        """What they proved themselves with."""
        return self._stream.certificate

    @property
    def features(self) -> frozenset[str]:
        """What both sides can do."""
        return self._connection.features

    @property
    def alive(self) -> bool:
        """Whether it still makes sense to post."""
        return self.lost is None and not self._closing

    @property
    def busy(self) -> bool:
        """Whether so much is queued that what nobody needs should not be posted."""
        return self._control_bytes > CONTROL_BYTES_MANY

    async def open(self, hello: m.Hello) -> None:
        """Exchange Hello; the listener speaks first.

        Raises:
            LinkLost: they went away, or said Goodbye instead (its reason is in the text).
            RemoteProtocolError: they do not speak our protocol.
        """
        try:
            with trio.fail_after(HELLO_SECONDS_MAX):
                if not self.dialled:
                    await self._stream.send_all(self._connection.send(hello))
                message = await self._next_message()
                if isinstance(message, m.Goodbye):
                    raise LinkLost(f"{self.remote} refused: {message.code}: {message.reason}")
                if message is None:
                    raise LinkLost(f"{self.remote} hung up before Hello")
                if self.dialled:
                    await self._stream.send_all(self._connection.send(hello))
        except trio.TooSlowError as error:
            raise LinkLost(f"{self.remote} said no Hello in {HELLO_SECONDS_MAX:.0f} s") from error

    # --- sending ---

    def post(self, message: m.Message) -> None:
        """Queue a control message. A link that has ended swallows it: who cares hears of the end by ``receive``."""
        if not self.alive:
            return
        data = self._connection.send(message)
        self._control.append(data)
        self._control_bytes += len(data)
        if self._control_bytes > CONTROL_BYTES_MAX:
            self._end(f"{self.remote} does not read: {self._control_bytes} bytes of messages wait")
            return
        self._wake_writer()

    def answer(self, message: m.Message) -> None:
        """As ``post``, but it leaves at once if it can: for who says one thing at a time, to many, and need not wake a
        task for each. What is posted in a row leaves together by ``post``."""
        waiting = self._control or self._control_bytes or self._block_leaving
        if self._send_now is None or self._life is None or waiting or not self.alive:
            self.post(message)
            return
        data = self._connection.send(message)
        try:
            left = self._send_now(data)
        except LinkLost as error:
            self._end(str(error))
            return
        if left:
            self.bytes_sent += len(data)
            return
        # Not now: it is queued. A part of it went: nothing is left to queue, and the writer flushes the rest.
        self._control.append(data if left is None else b"")
        self._control_bytes += len(self._control[-1])
        self._wake_writer()

    async def send_block(self, block: m.Block, data: memoryview) -> None:
        """Send a block and its bytes; return when they have left us. One caller at a time.

        Raises:
            LinkLost: the link ended before.
        """
        if not self.alive:
            raise LinkLost(self.lost or "closing")
        if self._block is not None or len(data) != block.length:
            raise LocalProtocolError("one block at a time, of the announced length")
        done = trio.Event()
        self._block = (self._connection.send(block), data, done)
        self._blocks = True
        self._wake_writer()
        try:
            await done.wait()
        except trio.Cancelled:
            # The caller will use the buffer for something else: a block that has begun cannot go on, nor stay torn.
            if self._block_leaving:
                self._end("we left within a block")
            self._block = None
            raise
        if self.lost is not None:
            raise LinkLost(self.lost)

    async def wait_room(self) -> None:
        """Wait until little is queued, or the link has ended: for whoever posts long lists."""
        while self.alive and self._control_bytes > CONTROL_BYTES_MANY:
            await self._room.wait()

    def close(self, code: str = "bye", reason: str = "") -> None:
        """Say Goodbye after what is queued, and end. Does not wait."""
        if self.alive:
            # Cut to bytes, not characters: the limit is on the wire.
            text = reason.encode("utf-8")[:SENTENCE_BYTES_MAX].decode("utf-8", "ignore")
            self.post(m.Goodbye(code=code, reason=text))
            self._closing = True
            self._wake_writer()

    async def wait_ended(self) -> None:
        """Wait until the link is gone."""
        await self._ended.wait()

    # --- receiving ---

    async def receive(self) -> m.Message | None:
        """Return the next message that is not dealt with here; None when they said Goodbye or hung up between frames.

        After a Block, ``receive_raw`` must be called before this again.

        Raises:
            LinkLost: the connection broke.
            RemoteProtocolError: they broke a rule; they have been told, and the link ends.
        """
        try:
            while True:
                message = await self._next_message()
                if message is None:
                    self._end("they hung up")
                    return None
                if type(message) not in _OURS:
                    return message
                if isinstance(message, m.Ping):
                    self.answer(m.Pong(number=message.number))
                elif isinstance(message, m.Pong):
                    self._pong(message)
                elif isinstance(message, m.Goodbye):
                    self._end(f"they said goodbye: {message.code}: {message.reason}")
                    return None
        except RemoteProtocolError as error:
            self.close("protocol-error", str(error))
            raise
        except LinkLost as error:
            self._end(str(error))
            raise

    async def receive_raw(self, target: memoryview) -> None:
        """Put the bytes of the Block that just came into ``target`` (of its length). Cancelled, it ends the link: what
        is left of the block has no place any more.

        Raises:
            LinkLost: the connection broke before they were all there.
        """
        self._connection.receive_raw(target)
        began_at = trio.current_time()
        # Of a slow line each wakeup brings a few packets, and costs as much as a hundred.
        together = min(int(self._raw_rate * GATHER_SECONDS), GATHER_BYTES_MAX)
        gather = self._gather if together >= GATHER_BYTES_MIN else None
        try:
            while self._connection.in_raw:
                if gather is not None:
                    gather(together, len(self._connection.wanted()))
                if await self._fill() == 0:
                    raise LinkLost(f"{self.remote} hung up within a block")
            self._raw_rate = len(target) / max(1e-6, trio.current_time() - began_at)
        except LinkLost as error:
            self._end(str(error))
            raise
        except trio.Cancelled:
            self._end("cancelled in the middle of a block")
            raise

    def messages(self) -> AsyncIterator[m.Message]:
        """Iterate over ``receive()`` until the link ends."""
        return _Messages(self)

    async def _next_message(self) -> m.Message | None:
        while True:
            message = self._connection.next_message()
            if message is not None:
                return message
            if await self._fill() == 0:
                try:
                    self._connection.receive_end()
                except RemoteProtocolError as error:
                    # Whoever is killed hangs up anywhere; that is no fault to be counted.
                    raise LinkLost(f"{self.remote}: {error}") from error
                return None

    async def _fill(self) -> int:
        self._listening_since = trio.current_time()
        try:
            count = await self._stream.receive_into(self._connection.wanted())
        finally:
            self._listening_since = None
        if count:
            self._heard_at = trio.current_time()
            self.bytes_received += count
            self._connection.filled(count)
        return count

    def _pong(self, pong: m.Pong) -> None:
        if pong.number == self._ping_number and self._ping_sent_at is not None:
            self.round_trip_seconds = trio.current_time() - self._ping_sent_at
            self._ping_sent_at = None

    # --- living ---

    async def run(self) -> None:
        """Write what is to be written until the link ends; the stream is closed then. Never raises for their faults."""
        try:
            async with trio.open_nursery() as nursery:
                self._life = nursery
                if self._control or self._block is not None or self._closing:
                    self._wake_writer()
                await self._watch_silence()
                nursery.cancel_scope.cancel()
        finally:
            self._life = None
            self._end("closed by us")

    def _wake_writer(self) -> None:
        self._woken += 1
        if self._writing:
            self._wake.set()
        elif self._life is not None and self.lost is None:
            self._writing = True
            self._life.start_soon(self._write)

    def ping(self) -> None:
        """Give a sign of life, and measure the round trip. An earlier Ping that is still unanswered is not waited for:
        to the other side, which may be all right, we would be the silent ones."""
        self._ping_number = (self._ping_number + 1) % 2**32
        self._ping_sent_at = trio.current_time()
        self.answer(m.Ping(number=self._ping_number))

    async def _write(self) -> None:
        try:
            await self._write_all()
        except LinkLost as error:
            self._end(str(error))

    async def _write_all(self) -> None:
        while self.lost is None:
            if self._control:
                data = b"".join(self._control)
                self._control.clear()
                left = self._send_now(data) if self._send_now is not None and data else None
                if left:
                    self.bytes_sent += len(data)
                else:
                    await self._send((data,) if left is None else ())
                self._control_bytes -= len(data)
                self._room.set()
                self._room = trio.Event()
            elif self._closing:
                self._end("closed by us")
            elif self._block is not None:
                header, raw, done = self._block
                self._block_leaving = True
                await self._send((header, raw))
                self._block_leaving = False
                self._block = None
                done.set()
            elif not self._blocks and self._woken <= SELDOM:
                # A quiet link needs no task that waits: a thousand of them are what fills a tracker's memory.
                self._writing = False
                return
            else:
                self._wake = trio.Event()
                await self._wake.wait()

    async def _send(self, parts: tuple[bytes | memoryview, ...]) -> None:
        size = sum(len(part) for part in parts)
        # Whoever takes less than a default block in the time we wait for any sign of life is as good as gone.
        seconds = SILENCE_SECONDS_MAX * max(1.0, size / BLOCK_BYTES)
        try:
            with trio.fail_after(GOODBYE_SECONDS_MAX if self._closing else seconds):
                await self._stream.send_parts(parts)
        except trio.TooSlowError as error:
            raise LinkLost(f"{self.remote} takes nothing") from error
        self.bytes_sent += size

    async def _watch_silence(self) -> None:
        wait_seconds = SILENCE_SECONDS_MAX / 3
        while self.lost is None:
            with trio.move_on_after(wait_seconds):
                await self._ended.wait()
                return
            self.ping()
            if self._gather is not None:
                # A line that has become a thousand times slower within a block is not silent.
                self._gather(1, 0, at_once=True)
            if self._woken <= SELDOM:
                self._wake.set()  # a writer that waits since busier times goes
            self._woken = 0
            wait_seconds = SILENCE_SECONDS_MAX / 3
            if self._listening_since is None:
                continue  # it is we who do not listen: our disk is slow, or our budget is spent
            silent_seconds = trio.current_time() - max(self._heard_at, self._listening_since)
            if silent_seconds >= SILENCE_SECONDS_MAX:
                self._end(f"nothing heard for {silent_seconds:.0f} s")
                return
            wait_seconds = min(wait_seconds, SILENCE_SECONDS_MAX - silent_seconds)

    def _end(self, reason: str) -> None:
        if self.lost is None:
            self.lost = reason
            self._stream.close()
            if self._block is not None:
                self._block[2].set()
                self._block = None
            self._control.clear()
            self._room.set()
            self._wake.set()
            self._ended.set()


class _Messages:
    """Not an async generator: one that is left by an exception waits for the garbage collector, and trio says so."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def __aiter__(self) -> _Messages:
        return self

    async def __anext__(self) -> m.Message:
        message = await self._link.receive()
        if message is None:
            raise StopAsyncIteration
        return message


@contextlib.asynccontextmanager
async def running(link: Link) -> AsyncIterator[Link]:
    """Run ``link`` while the block lasts; then it says goodbye and ends."""
    # Shielded, or a program that stops would take the writer away before it could say goodbye.
    life = trio.CancelScope(shield=True)

    async def live() -> None:
        with life:
            await link.run()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(live)
        try:
            yield link
        finally:
            link.close()
            with trio.move_on_after(GOODBYE_SECONDS_MAX, shield=True):
                await link.wait_ended()
            life.cancel()
