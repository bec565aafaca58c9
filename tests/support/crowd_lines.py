"""What lies between two nodes of a simulated crowd: a connection each way, whose kernel keeps what the line has not
carried yet, and the line itself, a queue that all connections of a node fill in turns. Pure, in virtual time.

    node -> what waits to be written -> the kernel's buffer -> the line's queue -> the receiver's line -> node

A block has left its node when the kernel has taken it, as ``send`` says of a socket. From there it waits for its turn.
Words are small, but go the same way: behind what the kernel holds of that connection, and behind whatever is in the
line's queue. Between them and the blocks that wait to be written, words go first (runtime/link.py).

Left out: lost segments, slow start, and how congestion control shares a line; connections share it by turns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

# As much of one connection goes into the line's queue in one turn: 26 ms of a line of 20 Mbit/s.
TURN_BYTES = 64 * 1024
# A queue of so long is before each line, each way (bench/testbed.py).
QUEUE_SECONDS = 0.1
# What the kernel takes for a connection beyond what its receiver has taken in. It grows with the connection's share of
# the line; with this figure five and nine nodes on lines of 20 and 100 Mbit/s come out as in bench/crowd.py.
KERNEL_BYTES = 128 * 1024
# A request, an answer without a block, a Have: with frame, record and segment.
WORD_BYTES = 150
_EPSILON = 1e-9

_Then = tuple[Callable[..., None], tuple[Any, ...]]


class Clock(Protocol):
    """The world."""

    now: float

    def after(self, seconds: float, happen: Callable[..., None], *arguments: Any) -> None:
        """Let something happen."""


class Line:
    """What a node sends leaves here. ``rate``: bytes per second. ``sparse_bytes``: of a connection that has no more
    than that to send it goes into the queue at once, and waits for no turn."""

    def __init__(self, clock: Clock, rate: float, sparse_bytes: int = 0) -> None:
        self._clock = clock
        self.rate = rate
        self._sparse_bytes = sparse_bytes
        self.gone = False
        self._turns: deque[Way] = deque()
        self._free_at = 0.0
        self._due = False

    def wants(self, way: Way) -> None:
        """A connection has something for the line."""
        if not way.listed:
            if way.waiting_bytes <= self._sparse_bytes and way.held_up_seconds() <= _EPSILON and not self.gone:
                self._put(way)
                return
            way.listed = True
            self._turns.append(way)
        self._serve()

    def _serve(self) -> None:
        while self._turns and not self.gone:
            ahead_seconds = self._free_at - self._clock.now
            if ahead_seconds > QUEUE_SECONDS + _EPSILON:
                if not self._due:
                    self._due = True
                    self._clock.after(ahead_seconds - QUEUE_SECONDS, self._again)
                return
            way = self._turns.popleft()
            way.listed = False
            held_up_seconds = way.held_up_seconds()
            if held_up_seconds > _EPSILON:
                way.listed = True
                self._clock.after(held_up_seconds, self._back, way)
                continue
            self._put(way)
            if way.waiting_bytes:
                way.listed = True
                self._turns.append(way)

    def _put(self, way: Way) -> None:
        """Let what waits of a connection into the queue, as much as goes in a turn."""
        size_bytes, done = way.take(TURN_BYTES)
        self._free_at = max(self._free_at, self._clock.now) + size_bytes / self.rate
        self._clock.after(self._free_at - self._clock.now, way.through, size_bytes, done)

    def _again(self) -> None:
        self._due = False
        self._serve()

    def _back(self, way: Way) -> None:
        self._turns.append(way)
        self._serve()


class Intake:
    """What a node receives comes in here. ``rate``: bytes per second, None: at once."""

    def __init__(self, clock: Clock, rate: float | None) -> None:
        self._clock = clock
        self._rate = rate
        self._free_at = 0.0

    def ahead_seconds(self) -> float:
        """Return how long what is on its way keeps it busy."""
        return self._free_at - self._clock.now

    def take(self, size_bytes: int) -> float:
        """So many bytes are here; return after how many seconds they are in."""
        if self._rate is None:
            return 0.0
        self._free_at = max(self._free_at, self._clock.now) + size_bytes / self._rate
        return self._free_at - self._clock.now


class Way:
    """One direction of a connection."""

    def __init__(self, clock: Clock, line: Line, intake: Intake | None, latency_seconds: float) -> None:
        self.listed = False
        self.waiting_bytes = 0  # in the kernel, and not in the line's queue
        self._clock = clock
        self._line = line
        self._intake = intake
        self._latency_seconds = latency_seconds
        self._kernel_bytes = 0  # in the kernel, not taken in by the receiver
        self._words: deque[_Then] = deque()
        self._blocks: deque[tuple[int, _Then, _Then]] = deque()
        self._rest_bytes = 0  # of the first block, not written
        self._kernel: deque[tuple[int, _Then | None]] = deque()

    def say(self, happen: Callable[..., None], *arguments: Any) -> None:
        """Send a word; what it says happens when it is there."""
        self._words.append((happen, arguments))
        self._write()

    def send(self, size_bytes: int, left: _Then, arrived: _Then) -> None:
        """Send a block: ``left`` happens when the kernel has taken it, ``arrived`` when it is there."""
        self._blocks.append((size_bytes, left, arrived))
        if len(self._blocks) == 1:
            self._rest_bytes = size_bytes
        self._write()

    def _write(self) -> None:
        while self._kernel_bytes < KERNEL_BYTES:
            size_bytes, whole = self._blocks[0][0] if self._blocks else 0, None
            if self._words and self._rest_bytes == size_bytes:
                whole = self._words.popleft()
                part = WORD_BYTES
            elif self._blocks:
                part = min(self._rest_bytes, KERNEL_BYTES - self._kernel_bytes)
                self._rest_bytes -= part
                if not self._rest_bytes:
                    _, (happen, arguments), whole = self._blocks.popleft()
                    self._rest_bytes = self._blocks[0][0] if self._blocks else 0
                    self._clock.after(0.0, happen, *arguments)
            else:
                return
            self._kernel.append((part, whole))
            self._kernel_bytes += part
            self.waiting_bytes += part
            self._line.wants(self)

    def held_up_seconds(self) -> float:
        """Return how long to wait until the receiver's line takes more."""
        return 0.0 if self._intake is None else self._intake.ahead_seconds() - QUEUE_SECONDS

    def take(self, limit_bytes: int) -> tuple[int, list[_Then]]:
        """Give the line so much of what waits; return the size, and what ends within it."""
        size_bytes = 0
        done: list[_Then] = []
        while self._kernel and size_bytes < limit_bytes:
            part, whole = self._kernel.popleft()
            if size_bytes + part > limit_bytes:
                rest = size_bytes + part - limit_bytes
                self._kernel.appendleft((rest, whole))
                part, whole = part - rest, None
            size_bytes += part
            if whole is not None:
                done.append(whole)
        self.waiting_bytes -= size_bytes
        return size_bytes, done

    def through(self, size_bytes: int, done: list[_Then]) -> None:
        """So much has passed the sender's line."""
        seconds = self._intake.take(size_bytes) if self._intake is not None else 0.0
        if seconds > 0:
            self._clock.after(seconds, self._in, size_bytes, done)
        else:
            self._in(size_bytes, done)

    def _in(self, size_bytes: int, done: list[_Then]) -> None:
        self._kernel_bytes -= size_bytes
        for happen, arguments in done:
            self._clock.after(self._latency_seconds, happen, *arguments)
        if not self._line.gone:
            self._write()
