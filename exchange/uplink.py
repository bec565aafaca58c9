"""Whom to serve next, within which budget: the queue of everything that others have requested from this node. Pure.

Own transfers go before help. Links share by bytes, not by blocks, since a fast receiver asks for larger ones; and each
has at most a few blocks on the way, so that a slow reader holds up nobody. A link's own order is the receiver's choice
and is kept within its class. Every request that was added is given out exactly once: by ``next_grant``, ``cancel``,
``forget`` or ``drop``.

Few receivers at a time are given what leaves for the first time (``Turn.FIRST``), and whoever was begun with goes on
until its chunk is through: a chunk is of use to others only when it is whole. What another receiver has had from us, or
is getting (``Turn.WITHHELD``), waits while something leaves for the first time and fills the line: the others can have
it from that receiver soon. When nothing is leaving at the moment, or the first ones read slowly, it does not wait. A
storage node's line is wide, and its receivers' are not: there what leaves first only goes first, and a few more get the
rest at a time.

Considered: one after the other, a block each. Of two receivers the one that asks for blocks of 1 MiB then gets sixteen
times what the other one gets that asks for single cells, is found to be the faster one, and stays so.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from exchange.breadth import AT_LEAST, AT_LEAST_WIDE, Breadth
from exchange.budget import Budget
from exchange.flow import Flow
from protocol.ids import Tag

# One block travels while the next is read from the disk.
GRANTS_PER_LINK_MAX = 2
# Who was given something and has not taken it for so long is not one of the few that get first copies at a time.
STUCK_SECONDS = 1.0
# The same once it is known what our line carries: so many times as long as that takes for all that is on its way.
SLOW = 1.5
SLOW_SECONDS = 0.03
# What left for the first time is in the kernel's buffers for a while, and the next request for more of it comes only
# when it has arrived: so long it counts as leaving.
FIRST_SECONDS = 1.0
# So many blocks that leave again may be on their way at a time while others leave first: each of hundreds of links
# would have its two otherwise.
REPEATS_AT_ONCE = 4
# How soon to look again whether the line has room for what was sent before.
_LOOK_SECONDS = 0.1


class Purpose(IntEnum):
    """Which budget pays. Lower goes first."""

    OWN = 0  # what our user put or shares
    HELP = 1  # what we push or serve for others


class Turn(IntEnum):
    """How soon a block should leave; seeding.py says."""

    PLAIN = 0  # at once
    FIRST = 1  # it leaves for the first time: at once, but few receivers at a time
    LATER = 2  # another receiver had it, or is getting it: after these
    WITHHELD = 3  # the same: not while the line is full of these

    @classmethod
    def of(cls, *, again: bool, wide: bool) -> Turn:
        """Return the turn of a block. ``again``: another receiver had its chunk from us, or is getting it; ``wide``: we
        have a line for all of them."""
        if wide:
            return cls.LATER if again else cls.PLAIN
        return cls.WITHHELD if again else cls.FIRST


@dataclass(frozen=True, slots=True)
class Wanted:
    """A block that a link has requested."""

    tag: Tag
    chunk: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Grant:
    """Send this now."""

    link: int
    wanted: Wanted


# Where a block is; what a Cancel names.
_Place = tuple[Tag, int, int]
# Who goes first: own before help, and within each by turns, of which the first two are equal.
_Class = tuple[Purpose, Turn]
_CLASSES: tuple[_Class, ...] = tuple((purpose, turn) for purpose in Purpose for turn in Turn)
_EQUALS: tuple[tuple[_Class, ...], ...] = tuple(
    tuple((purpose, turn) for turn in turns)
    for purpose in Purpose
    for turns in ((Turn.PLAIN, Turn.FIRST), (Turn.LATER,), (Turn.WITHHELD,))
)
# Few receivers at a time.
_FEW = (Turn.FIRST, Turn.LATER, Turn.WITHHELD)
_FIRST: tuple[_Class, ...] = tuple((purpose, Turn.FIRST) for purpose in Purpose)


class _Queue:
    """``turn_bytes``: how much the link was given, in the common count: the one with the least is next."""

    __slots__ = ("begun", "granted", "moved_at", "turn_bytes", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[_Class, dict[_Place, Wanted]] = {kind: {} for kind in _CLASSES}
        self.granted: deque[tuple[Turn, int]] = deque()  # for each block on its way, with its length
        self.turn_bytes = 0
        self.begun: tuple[Tag, int] | None = None  # the chunk of which it was given something last
        self.moved_at = -math.inf  # when it last was given something, or had taken it

    @property
    def busy(self) -> bool:
        return bool(self.granted) or any(self.waiting.values())


class Uplink:
    """All queues of a node. Links are numbered by whoever asks."""

    def __init__(self, now: float, up_bytes_per_second: float | None, help_bytes_per_second: float | None) -> None:
        self.paused = False
        self._up = Budget(up_bytes_per_second, now)
        self._help = Budget(help_bytes_per_second, now)
        self._flow = Flow(now)
        self._queues: dict[int, _Queue] = {}
        self._waiting: dict[_Class, set[int]] = {kind: set() for kind in _CLASSES}  # the links of which something waits
        self._repeats = 0  # blocks on their way that were withheld
        self._first_at = -math.inf  # when something last left, or was to leave, for the first time
        self._few: dict[int, int] = {}  # links that something of these turns is leaving to, and how many blocks
        self._way_bytes = 0  # on their way
        self._breadth = Breadth()
        self._turn_bytes = 0  # of whom was served last

    def change(self, now: float, up_bytes_per_second: float | None, help_bytes_per_second: float | None) -> None:
        """Use other caps from now on."""
        self._up.change(up_bytes_per_second, now)
        self._help.change(help_bytes_per_second, now)

    def ease(self, now: float, help_bytes_per_second: float | None) -> None:
        """Change the cap of help a little, as often as one likes: what was overdrawn stays owed."""
        self._help.ease(help_bytes_per_second, now)

    def add(self, link: int, wanted: Wanted, purpose: Purpose, turn: Turn = Turn.PLAIN) -> bool:
        """Queue a request. False: this block waits for this link already, and is not queued again."""
        queue = self._queues.setdefault(link, _Queue())
        place = (wanted.tag, wanted.chunk, wanted.offset)
        if any(place in waiting for waiting in queue.waiting.values()):
            return False
        if not queue.busy:
            # Nobody saves up turns by asking for nothing.
            queue.turn_bytes = max(queue.turn_bytes, self._turn_bytes)
        queue.waiting[purpose, turn][place] = wanted
        self._waiting[purpose, turn].add(link)
        return True

    def waiting(self, link: int) -> int:
        """Return how many requests of ``link`` wait."""
        queue = self._queues.get(link)
        return sum(len(waiting) for waiting in queue.waiting.values()) if queue else 0

    def cancel(self, link: int, tag: Tag, chunk: int, offset: int) -> Wanted | None:
        """Take a waiting request out; None when it is none (any more)."""
        queue = self._queues.get(link)
        if queue is not None:
            for kind, waiting in queue.waiting.items():
                if (wanted := waiting.pop((tag, chunk, offset), None)) is not None:
                    self._note(link, kind, waiting)
                    return wanted
        return None

    def forget(self, link: int, tag: Tag) -> list[Wanted]:
        """Take all waiting requests for ``tag`` out and return them."""
        queue = self._queues.get(link)
        gone: list[Wanted] = []
        if queue is not None:
            for kind, waiting in queue.waiting.items():
                for place in [place for place in waiting if place[0] == tag]:
                    gone.append(waiting.pop(place))
                self._note(link, kind, waiting)
        return gone

    def take_back(self, tag: Tag, chunk: int) -> list[tuple[int, Wanted]]:
        """Take out the withheld requests for a chunk, and return them, each with its link."""
        found: list[tuple[int, Wanted]] = []
        for purpose in Purpose:
            kind = (purpose, Turn.WITHHELD)
            for link in sorted(self._waiting[kind]):
                waiting = self._queues[link].waiting[kind]
                for place in [place for place in waiting if place[:2] == (tag, chunk)]:
                    found.append((link, waiting.pop(place)))
                self._note(link, kind, waiting)
        return found

    def drop(self, link: int, now: float) -> None:
        """The link is gone; nothing of it waits any more."""
        queue = self._queues.pop(link, None)
        if queue is not None:
            self._flow.ended(len(queue.granted))
            self._repeats -= sum(turn is Turn.WITHHELD for turn, _ in queue.granted)
            self._way_bytes -= sum(length for _, length in queue.granted)
            self._few.pop(link, None)
            for links in self._waiting.values():
                links.discard(link)

    def next_grant(self, now: float) -> Grant | None:
        """Return what to send now, or None: nothing waits, or no budget (see ``wait_seconds``)."""
        if self.paused or self._up.wait_seconds(now) > 0:
            return None
        may_help = self._help.wait_seconds(now) <= 0
        for kinds in _EQUALS:
            if kinds[0][0] is Purpose.HELP and not may_help:
                continue
            found = self._next(kinds, now)
            if found is not None:
                return self._grant(*found, now)
        return None

    def _next(self, kinds: tuple[_Class, ...], now: float) -> tuple[int, _Class] | None:
        """Return which link of these classes is next, and the class of what it gets."""
        if kinds[0][1] is Turn.WITHHELD and self._waiting[kinds[0]] and not self._may_repeat(now):
            return None
        # Among equals the one that came first: links are numbered upwards.
        best: tuple[int, int, _Class] | None = None
        beginners: dict[Tag, tuple[int, int, _Class]] = {}
        going_on: set[Tag] = set()
        for kind in kinds:
            for link in self._free(kind):
                queue = self._queues[link]
                turn = queue.turn_bytes, link, kind
                if kind[1] in _FEW:
                    wanted = next(iter(queue.waiting[kind].values()))
                    if queue.begun != (wanted.tag, wanted.chunk):
                        beginners[wanted.tag] = min(beginners.get(wanted.tag, turn), turn)
                        continue
                    going_on.add(wanted.tag)
                best = turn if best is None else min(best, turn)
        for tag, turn in beginners.items():
            if (best is None or turn < best) and tag not in going_on and self._may_begin(tag, turn[2][1], now):
                best = turn
        return None if best is None else best[1:]

    def _grant(self, link: int, kind: _Class, now: float) -> Grant:
        queue = self._queues[link]
        purpose, turn = kind
        wanted = queue.waiting[kind].pop(next(iter(queue.waiting[kind])))
        self._turn_bytes = queue.turn_bytes
        queue.turn_bytes += wanted.length
        queue.granted.append((turn, wanted.length))
        self._way_bytes += wanted.length
        queue.moved_at = now
        if turn in _FEW:
            queue.begun = wanted.tag, wanted.chunk
            self._few[link] = self._few.get(link, 0) + 1
        if turn is Turn.FIRST:
            self._first_at = now
        self._repeats += turn is Turn.WITHHELD
        self._note(link, kind, queue.waiting[kind])
        self._flow.begun()
        self._up.spend(wanted.length, now)
        if purpose is Purpose.HELP:
            self._help.spend(wanted.length, now)
        return Grant(link, wanted)

    def _may_begin(self, tag: Tag, turn: Turn, now: float) -> bool:
        """Whether one more receiver may be begun with."""
        busy = sum(queue.begun is not None and queue.begun[0] == tag for queue in self._moving(now))
        if busy < (AT_LEAST_WIDE if turn is Turn.LATER else AT_LEAST) or not self._flow.is_full(now):
            return True
        return busy < self._breadth.count(now, self._flow.rate(now))

    def _moving(self, now: float) -> Iterator[_Queue]:
        """Yield those who are taking what few get at a time, and no more slowly than our line would
        let them: behind slow ones the next one's turn comes at once."""
        patience_seconds = min(STUCK_SECONDS, max(SLOW_SECONDS, SLOW * self._flow.seconds_for(self._way_bytes, now)))
        queues = (self._queues[link] for link in self._few)
        return (queue for queue in queues if now - queue.moved_at < patience_seconds)

    def _may_repeat(self, now: float) -> bool:
        if not (any(self._waiting[kind] for kind in _FIRST) or now - self._first_at < FIRST_SECONDS):
            return True
        if self._flow.idle:
            return True
        slow = not self._flow.is_full(now) or next(self._moving(now), None) is None
        return slow and self._repeats < REPEATS_AT_ONCE

    def _free(self, kind: _Class) -> Iterator[int]:
        """Yield the links of which something of ``kind`` waits and may leave."""
        return (link for link in self._waiting[kind] if len(self._queues[link].granted) < GRANTS_PER_LINK_MAX)

    def _note(self, link: int, kind: _Class, waiting: dict[_Place, Wanted]) -> None:
        if not waiting:
            self._waiting[kind].discard(link)

    def sent(self, link: int, now: float) -> None:
        """A granted block has left, or could not be sent; the link may have another."""
        queue = self._queues.get(link)
        if queue is not None:
            turn, length = queue.granted.popleft()
            self._way_bytes -= length
            queue.moved_at = now
            self._repeats -= turn is Turn.WITHHELD
            if turn in _FEW:
                self._few[link] -= 1
                if not self._few[link]:
                    del self._few[link]
            self._flow.ended()

    def flowed(self, size_bytes: int, now: float) -> None:
        """So many bytes of blocks have left, over whichever link."""
        self._flow.left(size_bytes, now)

    def room_seconds(self, purpose: Purpose, now: float) -> float:
        """Return how long until something may leave another way than over a link: 0 at once, infinity never."""
        if self.paused:
            return math.inf
        seconds = self._up.wait_seconds(now)
        return max(seconds, self._help.wait_seconds(now)) if purpose is Purpose.HELP else seconds

    def spend(self, purpose: Purpose, size_bytes: int, now: float) -> None:
        """So many bytes leave another way than over a link."""
        self._up.spend(size_bytes, now)
        if purpose is Purpose.HELP:
            self._help.spend(size_bytes, now)
        self._flow.left(size_bytes, now)

    def wait_seconds(self, now: float) -> float:
        """Return when to ask again although nothing happened: until the budgets allow what waits; infinity: never."""
        if self.paused:
            return math.inf
        waits = math.inf
        for kinds in _EQUALS:
            if all(next(self._free(kind), None) is None for kind in kinds):
                continue
            seconds = self._up.wait_seconds(now)
            if kinds[0][0] is Purpose.HELP:
                seconds = max(seconds, self._help.wait_seconds(now))
            if self._next(kinds, now) is None:
                seconds = max(seconds, _LOOK_SECONDS)
            waits = min(waits, seconds)
        return waits
