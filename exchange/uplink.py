"""Whom to serve next, within which budget: the queue of everything that others have requested from this node. Pure.

Own transfers go before help. Links share by bytes, not by blocks, since a fast receiver asks for larger ones; and each
has at most a few blocks on the way, so that a slow reader holds up nobody. A link's own order is the receiver's choice
and is kept. Every request that was added is given out exactly once: by ``next_grant``, ``cancel``, ``forget`` or
``drop``.

Considered: one after the other, a block each. Of two receivers the one that asks for blocks of 1 MiB then gets sixteen
times what the other one gets that asks for single cells, is found to be the faster one, and stays so.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from exchange.budget import Budget
from protocol.ids import Tag

# One block travels while the next is read from the disk.
GRANTS_PER_LINK_MAX = 2


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


class _Queue:
    """``turn_bytes``: how much the link was given, in the common count: the one with the least is next."""

    __slots__ = ("granted", "turn_bytes", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[Purpose, dict[_Place, Wanted]] = {purpose: {} for purpose in Purpose}
        self.granted = 0
        self.turn_bytes = 0

    @property
    def busy(self) -> bool:
        return self.granted > 0 or any(self.waiting.values())


class Uplink:
    """All queues of a node. Links are numbered by whoever asks."""

    def __init__(self, now: float, up_bytes_per_second: float | None, help_bytes_per_second: float | None) -> None:
        self.paused = False
        self._up = Budget(up_bytes_per_second, now)
        self._help = Budget(help_bytes_per_second, now)
        self._queues: dict[int, _Queue] = {}
        self._turn_bytes = 0  # of whom was served last

    def change(self, now: float, up_bytes_per_second: float | None, help_bytes_per_second: float | None) -> None:
        """Use other caps from now on."""
        self._up.change(up_bytes_per_second, now)
        self._help.change(help_bytes_per_second, now)

    def add(self, link: int, wanted: Wanted, purpose: Purpose) -> bool:
        """Queue a request. False: this block waits for this link already, and is not queued again."""
        queue = self._queues.setdefault(link, _Queue())
        place = (wanted.tag, wanted.chunk, wanted.offset)
        if any(place in waiting for waiting in queue.waiting.values()):
            return False
        if not queue.busy:
            # Nobody saves up turns by asking for nothing.
            queue.turn_bytes = max(queue.turn_bytes, self._turn_bytes)
        queue.waiting[purpose][place] = wanted
        return True

    def waiting(self, link: int) -> int:
        """Return how many requests of ``link`` wait."""
        queue = self._queues.get(link)
        return sum(len(waiting) for waiting in queue.waiting.values()) if queue else 0

    def cancel(self, link: int, tag: Tag, chunk: int, offset: int) -> Wanted | None:
        """Take a waiting request out; None when it is none (any more)."""
        queue = self._queues.get(link)
        if queue is not None:
            for waiting in queue.waiting.values():
                if (wanted := waiting.pop((tag, chunk, offset), None)) is not None:
                    return wanted
        return None

    def forget(self, link: int, tag: Tag) -> list[Wanted]:
        """Take all waiting requests for ``tag`` out and return them."""
        queue = self._queues.get(link)
        gone: list[Wanted] = []
        if queue is not None:
            for waiting in queue.waiting.values():
                for place in [place for place in waiting if place[0] == tag]:
                    gone.append(waiting.pop(place))
        return gone

    def drop(self, link: int) -> None:
        """The link is gone; nothing of it waits any more."""
        self._queues.pop(link, None)

    def next_grant(self, now: float) -> Grant | None:
        """Return what to send now, or None: nothing waits, or no budget (see ``wait_seconds``)."""
        if self.paused or self._up.wait_seconds(now) > 0:
            return None
        purposes = (Purpose.OWN,) if self._help.wait_seconds(now) > 0 else (Purpose.OWN, Purpose.HELP)
        for purpose in purposes:
            candidates = [
                (queue.turn_bytes, link)
                for link, queue in self._queues.items()
                if queue.waiting[purpose] and queue.granted < GRANTS_PER_LINK_MAX
            ]
            if candidates:
                # Among equals the one that came first: links are numbered upwards.
                return self._grant(min(candidates)[1], purpose, now)
        return None

    def _grant(self, link: int, purpose: Purpose, now: float) -> Grant:
        queue = self._queues[link]
        wanted = queue.waiting[purpose].pop(next(iter(queue.waiting[purpose])))
        self._turn_bytes = queue.turn_bytes
        queue.turn_bytes += wanted.length
        queue.granted += 1
        self._up.spend(wanted.length, now)
        if purpose is Purpose.HELP:
            self._help.spend(wanted.length, now)
        return Grant(link, wanted)

    def sent(self, link: int) -> None:
        """A granted block has left, or could not be sent; the link may have another."""
        queue = self._queues.get(link)
        if queue is not None:
            queue.granted -= 1

    def wait_seconds(self, now: float) -> float:
        """Return when to ask again although nothing happened: until the budgets allow what waits; infinity: never."""
        if self.paused:
            return float("inf")
        up_seconds = self._up.wait_seconds(now)
        waits = float("inf")
        for queue in self._queues.values():
            if queue.granted >= GRANTS_PER_LINK_MAX:
                continue
            if queue.waiting[Purpose.OWN]:
                waits = min(waits, up_seconds)
            elif queue.waiting[Purpose.HELP]:
                waits = min(waits, max(up_seconds, self._help.wait_seconds(now)))
        return waits
