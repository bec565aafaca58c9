"""Whom to serve next, within which budget: the queue of everything that others have requested from this node. Pure.

Own transfers go before help. Links share by bytes, not by blocks, since a fast receiver asks for larger ones; and each
has at most a few blocks on the way, so that a slow reader holds up nobody. A link's own order is the receiver's choice
and is kept within its class. Every request that was added is given out exactly once: by ``next_grant``, ``cancel``,
``forget`` or ``drop``.

What another receiver has had from us, or is getting (``again``, seeding.py), waits while something leaves for the first
time and fills the line: the others can have it from that receiver soon. When the line is not full (the first one reads
slowly), it does not wait.

Links that fetch whole chunks for storage are served one after the other (sequence.py).

Considered: one after the other, a block each. Of two receivers the one that asks for blocks of 1 MiB then gets sixteen
times what the other one gets that asks for single cells, is found to be the faster one, and stays so.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from exchange.budget import Budget
from exchange.flow import Flow
from exchange.sequence import Sequence
from protocol.ids import Tag

# One block travels while the next is read from the disk.
GRANTS_PER_LINK_MAX = 2
# What left for the first time is in the kernel's buffers for a while, and the next request for more of it comes only
# when it has arrived: so long it counts as leaving.
FIRST_SECONDS = 1.0
# What waits to leave for the first time, and has not been let out for so long, waits for somebody who does not read:
# that holds up nobody else.
STUCK_SECONDS = 4.0
# So many blocks that leave again may be on their way at a time while others leave first: each of hundreds of links
# would have its two otherwise.
REPEATS_AT_ONCE = 4
# How soon to look again whether the line has room for what was sent before.
_LOOK_SECONDS = 0.1


class Purpose(IntEnum):
    """Which budget pays. Lower goes first."""

    OWN = 0  # what our user put or shares
    HELP = 1  # what we push or serve for others


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
# Who goes first: own before help, and within each what leaves for the first time before what leaves again.
_Class = tuple[Purpose, bool]
_CLASSES: tuple[_Class, ...] = tuple((purpose, again) for purpose in Purpose for again in (False, True))
_FIRST: tuple[_Class, ...] = tuple(kind for kind in _CLASSES if not kind[1])


class _Queue:
    """``turn_bytes``: how much the link was given, in the common count: the one with the least is next."""

    __slots__ = ("granted", "turn_bytes", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[_Class, dict[_Place, Wanted]] = {kind: {} for kind in _CLASSES}
        self.granted: deque[bool] = deque()  # for each block on its way: whether it leaves again
        self.turn_bytes = 0

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
        self._repeats = 0  # blocks on their way that leave again
        self._first_at = -math.inf  # when something last left, or was to leave, for the first time
        self._turn_bytes = 0  # of whom was served last
        self._sequence = Sequence()

    def change(self, now: float, up_bytes_per_second: float | None, help_bytes_per_second: float | None) -> None:
        """Use other caps from now on."""
        self._up.change(up_bytes_per_second, now)
        self._help.change(help_bytes_per_second, now)

    def ease(self, now: float, help_bytes_per_second: float | None) -> None:
        """Change the cap of help a little, as often as one likes: what was overdrawn stays owed."""
        self._help.ease(help_bytes_per_second, now)

    def in_turn(self, link: int) -> None:
        """Serve this link and others of which that was said one after the other, a chunk each."""
        self._sequence.join(link)

    def add(self, link: int, wanted: Wanted, purpose: Purpose, *, again: bool = False) -> bool:
        """Queue a request. False: this block waits for this link already, and is not queued again."""
        queue = self._queues.setdefault(link, _Queue())
        place = (wanted.tag, wanted.chunk, wanted.offset)
        if any(place in waiting for waiting in queue.waiting.values()):
            return False
        if not queue.busy:
            # Nobody saves up turns by asking for nothing.
            queue.turn_bytes = max(queue.turn_bytes, self._turn_bytes)
        queue.waiting[purpose, again][place] = wanted
        if link in self._sequence:
            self._sequence.asked(link, (wanted.tag, wanted.chunk))
        self._waiting[purpose, again].add(link)
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

    def drop(self, link: int, now: float) -> None:
        """The link is gone; nothing of it waits any more."""
        queue = self._queues.pop(link, None)
        self._sequence.drop(link)
        if queue is not None:
            self._flow.ended(now, len(queue.granted))
            self._repeats -= sum(queue.granted)
            for links in self._waiting.values():
                links.discard(link)

    def next_grant(self, now: float) -> Grant | None:
        """Return what to send now, or None: nothing waits, or no budget (see ``wait_seconds``)."""
        if self.paused or self._up.wait_seconds(now) > 0:
            return None
        may_help = self._help.wait_seconds(now) <= 0
        may_repeat = self._may_repeat(now)
        for kind in _CLASSES:
            purpose, again = kind
            if (purpose is Purpose.HELP and not may_help) or (again and not may_repeat):
                continue
            # Among equals the one that came first: links are numbered upwards.
            turn = min(((self._queues[link].turn_bytes, link) for link in self._free(kind, now)), default=None)
            if turn is not None:
                return self._grant(turn[1], kind, now)
        return None

    def _grant(self, link: int, kind: _Class, now: float) -> Grant:
        queue = self._queues[link]
        purpose, again = kind
        wanted = queue.waiting[kind].pop(next(iter(queue.waiting[kind])))
        self._turn_bytes = queue.turn_bytes
        queue.turn_bytes += wanted.length
        queue.granted.append(again)
        self._repeats += again
        self._note(link, kind, queue.waiting[kind])
        self._flow.begun(now)
        if link in self._sequence:
            self._sequence.granted(link, (wanted.tag, wanted.chunk), now)
        if not again:
            self._first_at = now
        self._up.spend(wanted.length, now)
        if purpose is Purpose.HELP:
            self._help.spend(wanted.length, now)
        return Grant(link, wanted)

    def _may_repeat(self, now: float) -> bool:
        first_waits = any(self._waiting[kind] for kind in _FIRST)
        if now - self._first_at >= (STUCK_SECONDS if first_waits else FIRST_SECONDS):
            return True
        return self._repeats < REPEATS_AT_ONCE and not self._flow.is_full(now)

    def _free(self, kind: _Class, now: float) -> Iterator[int]:
        """Yield the links of which something of ``kind`` waits and may leave."""
        for link in self._waiting[kind]:
            if link not in self._sequence and len(self._queues[link].granted) < GRANTS_PER_LINK_MAX:
                yield link
        turn = self._sequence.next(self._in_turn(kind), now) if self._sequence else None
        if turn is not None:
            yield turn

    def _in_turn(self, kind: _Class) -> list[tuple[int, tuple[Tag, int]]]:
        """Return those of the links that are served one after the other that wait for a block of ``kind`` and could
        have one, each with the chunk that it is of."""
        found = []
        for link in self._waiting[kind]:
            queue = self._queues[link]
            if link in self._sequence and len(queue.granted) < GRANTS_PER_LINK_MAX:
                wanted = next(iter(queue.waiting[kind].values()))
                found.append((link, (wanted.tag, wanted.chunk)))
        return found

    def _note(self, link: int, kind: _Class, waiting: dict[_Place, Wanted]) -> None:
        if not waiting:
            self._waiting[kind].discard(link)

    def sent(self, link: int, now: float) -> None:
        """A granted block has left, or could not be sent; the link may have another."""
        queue = self._queues.get(link)
        if queue is not None:
            self._repeats -= queue.granted.popleft()
            self._flow.ended(now)
            if not queue.granted:
                self._sequence.idle(link)

    def flowed(self, size_bytes: int, now: float) -> None:
        """So many bytes of blocks have left, over whichever link."""
        self._flow.left(size_bytes, now)

    def rate(self, now: float) -> float:
        """Return how many bytes per second leave now."""
        return self._flow.rate(now)

    def is_idle(self, now: float) -> bool:
        """Return whether nothing has left for a while, and nothing is about to."""
        return self._flow.is_idle(now)

    def is_full(self, now: float) -> bool:
        """Return whether as much leaves as the line is known to carry."""
        return self._flow.is_full(now)

    def outruns(self, rate: float, now: float) -> bool:
        """Whether clearly more than ``rate`` bytes per second can leave."""
        return self._flow.outruns(rate, now)

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
        for kind in _CLASSES:
            if not self._waiting[kind]:
                continue
            purpose, again = kind
            seconds = self._up.wait_seconds(now)
            if next(self._free(kind, now), None) is None:
                seconds = max(seconds, self._sequence.wait_seconds(self._in_turn(kind), now))
            if purpose is Purpose.HELP:
                seconds = max(seconds, self._help.wait_seconds(now))
            if again and not self._may_repeat(now):
                seconds = max(seconds, _LOOK_SECONDS)
            waits = min(waits, seconds)
        return waits
