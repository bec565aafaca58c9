"""One receiver and its senders in virtual time: the production Picker on lines of given rates and latencies. Pure.

A sender serves what it was asked for in the order in which it was asked, at its own rate; the receiver's line does the
same with everything that comes. What swarm.py does with the picker is done here in the same order, without bytes:
blocks are always right. Same arguments, same result.

The bound is a fluid: what all senders that were there could have delivered if nothing ever waited.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from exchange.assembly import Assembly
from exchange.book import Withdrawal
from exchange.picker import Pick, Picker
from protocol.bitmap import Bitmap
from protocol.ids import NodeId
from protocol.manifest import Layout

MBIT = 1_000_000 / 8
TICK_SECONDS = 0.1  # as engine.py
SECONDS_MAX = 100_000.0


@dataclass(frozen=True)
class Sender:
    """``latency_seconds`` is one way. Rates are bytes per second. ``stalls_at``: sends nothing from then on;
    ``leaves_at`` and ``returns_at``: its link breaks, and another one offers the same. ``jitter``: each block takes
    up to this share of its time more or less."""

    rate: float
    latency_seconds: float = 0.03
    chunks: tuple[int, ...] | None = None
    stalls_at: float | None = None
    leaves_at: float | None = None
    returns_at: float | None = None
    jitter: float = 0.0

    def delivers_until(self, now: float) -> float:
        """Return how many bytes it could have sent by ``now``."""
        seconds = now
        if self.stalls_at is not None:
            seconds = min(now, self.stalls_at)
        if self.leaves_at is not None and now > self.leaves_at:
            seconds = self.leaves_at + max(0.0, now - self.returns_at if self.returns_at is not None else 0.0)
        return seconds * self.rate


@dataclass
class Outcome:
    """``idle_seconds``: how long each sender had nothing to do while it was there, by place in the list of senders."""

    seconds: float
    bound_seconds: float
    useful_bytes: list[int]
    wasted_bytes: int
    idle_seconds: list[float]
    picks: int

    @property
    def ratio(self) -> float:
        """Time over bound."""
        return self.seconds / self.bound_seconds

    @property
    def wasted_share(self) -> float:
        """Wasted bytes over useful ones."""
        return self.wasted_bytes / max(1, sum(self.useful_bytes))


@dataclass
class _Line:
    """A link to a sender: its queue there, and whether it is busy."""

    place: int
    sender: Sender
    queue: deque[Pick] = field(default_factory=deque)
    busy: bool = False
    busy_seconds: float = 0.0
    up: bool = True


class World:
    """See the module. ``run`` returns what happened."""

    def __init__(
        self, size_bytes: int, senders: list[Sender], *, downlink: float = float("inf"), seed: int = 1
    ) -> None:
        self.layout = Layout.of_size(size_bytes)
        self.senders = senders
        self.downlink = downlink
        self.picker = Picker(
            self.layout, Assembly(self.layout), Bitmap.full(self.layout.chunks), random.Random(f"{seed}/picker")
        )
        self._random = random.Random(f"{seed}/senders")
        self.now = 0.0
        self.picks = 0
        self.useful_bytes = [0] * len(senders)
        self.wasted_bytes = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._happened = 0
        self._numbers = 0
        self._lines: dict[int, _Line] = {}
        self._busy_seconds = [0.0] * len(senders)
        self._downlink_free_at = 0.0

    def run(self) -> Outcome:
        """Run until complete. Raises ``AssertionError`` when nothing happens any more before that."""
        for place, sender in enumerate(self.senders):
            self._join(place)
            if sender.leaves_at is not None:
                self._at(sender.leaves_at, lambda place=place: self._leave(place))
            if sender.returns_at is not None:
                self._at(sender.returns_at, lambda place=place: self._join(place))
        self._at(TICK_SECONDS, self._tick)
        while not self.picker.complete:
            self.now, _, happen = heapq.heappop(self._events)
            assert self.now < SECONDS_MAX, f"not complete: {self.picker.wanted}"
            happen()
        for line in self._lines.values():
            self._busy_seconds[line.place] += line.busy_seconds
        present = [sender.delivers_until(self.now) / sender.rate for sender in self.senders]
        idle = [max(0.0, there - busy) for there, busy in zip(present, self._busy_seconds, strict=True)]
        return Outcome(self.now, self.bound_seconds(), self.useful_bytes, self.wasted_bytes, idle, self.picks)

    def bound_seconds(self) -> float:
        """Return the time a fluid would take."""
        low, high = 0.0, SECONDS_MAX
        for _ in range(100):
            middle = (low + high) / 2
            delivered = min(sum(sender.delivers_until(middle) for sender in self.senders), self.downlink * middle)
            low, high = (low, middle) if delivered >= self.layout.size_bytes else (middle, high)
        return high

    # --- the receiver, as swarm.py ---

    def _join(self, place: int) -> None:
        sender = self.senders[place]
        self._numbers += 1
        self._lines[self._numbers] = _Line(place, sender)
        chunks = range(self.layout.chunks) if sender.chunks is None else sender.chunks
        node = NodeId(f"node{place}")
        self.picker.add_source(self._numbers, node, Bitmap.of(self.layout.chunks, chunks), self.now)
        self._request_from(self._numbers)

    def _leave(self, place: int) -> None:
        number = next(number for number, line in self._lines.items() if line.place == place and line.up)
        self._lines[number].up = False
        self._lines[number].queue.clear()
        self.picker.remove_source(number)
        self._pump()

    def _pump(self) -> None:
        for number in self.picker.sources():
            self._request_from(number)

    def _request_from(self, number: int) -> None:
        for pick in self.picker.picks(number, self.now):
            self.picks += 1
            line = self._lines[number]
            self._in(line.sender.latency_seconds, lambda pick=pick, line=line: self._requested(line, pick))

    def _cancel(self, withdrawals: list[Withdrawal]) -> None:
        for one in withdrawals:
            line = self._lines[one.source]
            self._in(line.sender.latency_seconds, lambda one=one, line=line: self._cancelled(line, one))

    def _tick(self) -> None:
        self._cancel(self.picker.stalled(self.now))
        self._pump()
        self._in(TICK_SECONDS, self._tick)

    def _block(self, line: _Line, pick: Pick) -> None:
        if not line.up:
            return
        if not self.picker.accepts(pick.source, pick.chunk, pick.offset, pick.length):
            self.wasted_bytes += pick.length
            self.picker.answered(pick.source, pick.chunk, pick.offset, self.now, gone=False, came=True)
            self._pump()
            return
        whole, superfluous = self.picker.arrived(pick.source, pick.chunk, pick.offset, self.now)
        self.useful_bytes[line.place] += pick.length
        self._cancel(superfluous)
        if whole:
            self.picker.verified(pick.chunk)
        self._request_from(pick.source)

    def _rejected(self, line: _Line, pick: Pick) -> None:
        if line.up:
            self.picker.answered(pick.source, pick.chunk, pick.offset, self.now, gone=False)
            self._pump()

    # --- the senders ---

    def _requested(self, line: _Line, pick: Pick) -> None:
        if line.up:
            line.queue.append(pick)
            self._serve(line)

    def _cancelled(self, line: _Line, withdrawal: Withdrawal) -> None:
        for pick in line.queue:
            if (pick.chunk, pick.offset) == (withdrawal.chunk, withdrawal.offset):
                line.queue.remove(pick)
                self._in(line.sender.latency_seconds, lambda: self._rejected(line, pick))
                return

    def _serve(self, line: _Line) -> None:
        if line.busy or not line.queue or not line.up:
            return
        if line.sender.stalls_at is not None and self.now >= line.sender.stalls_at:
            return
        pick = line.queue.popleft()
        line.busy = True
        seconds = pick.length / line.sender.rate * (1 + line.sender.jitter * self._random.uniform(-1, 1))
        self._in(seconds, lambda: self._served(line, pick, seconds))

    def _served(self, line: _Line, pick: Pick, seconds: float) -> None:
        line.busy = False
        line.busy_seconds += seconds
        if line.up and not (line.sender.stalls_at is not None and self.now >= line.sender.stalls_at):
            self._in(line.sender.latency_seconds, lambda: self._at_downlink(line, pick))
            self._serve(line)

    def _at_downlink(self, line: _Line, pick: Pick) -> None:
        self._downlink_free_at = max(self.now, self._downlink_free_at) + pick.length / self.downlink
        self._at(self._downlink_free_at, lambda: self._block(line, pick))

    # --- time ---

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        self._happened += 1  # what is due at the same time happens in the order in which it was planned
        heapq.heappush(self._events, (when, self._happened, happen))

    def _in(self, seconds: float, happen: Callable[[], None]) -> None:
        self._at(self.now + seconds, happen)
