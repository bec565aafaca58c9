"""Whom to serve next, within which budget: the queue of everything that others have requested from this node. Pure.

Links take turns, own transfers before help, and each link has at most a few blocks on the way, so that one slow reader
holds up nobody. Every request that was added is given out exactly once: by ``next_grant``, ``cancel``, ``forget`` or
``drop``.
"""

from __future__ import annotations

from collections import OrderedDict
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


class _Queue:
    __slots__ = ("granted", "waiting")

    def __init__(self) -> None:
        self.waiting: OrderedDict[Wanted, Purpose] = OrderedDict()
        self.granted = 0


class Uplink:
    """All queues of a node. Links are numbered by whoever asks."""

    def __init__(self, now: float, up_bytes_per_second: float | None, help_bytes_per_second: float | None) -> None:
        self.paused = False
        self._up = Budget(up_bytes_per_second, now)
        self._help = Budget(help_bytes_per_second, now)
        # In the order in which their turn comes: who was served goes to the end.
        self._queues: OrderedDict[int, _Queue] = OrderedDict()

    def change(self, now: float, up_bytes_per_second: float | None, help_bytes_per_second: float | None) -> None:
        """Use other caps from now on."""
        self._up.change(up_bytes_per_second, now)
        self._help.change(help_bytes_per_second, now)

    def add(self, link: int, wanted: Wanted, purpose: Purpose) -> None:
        """Queue a request."""
        self._queues.setdefault(link, _Queue()).waiting[wanted] = purpose

    def waiting(self, link: int) -> int:
        """Return how many requests of ``link`` wait."""
        queue = self._queues.get(link)
        return len(queue.waiting) if queue else 0

    def cancel(self, link: int, tag: Tag, chunk: int, offset: int) -> Wanted | None:
        """Take a waiting request out; None when it is none (any more)."""
        queue = self._queues.get(link)
        if queue is not None:
            for wanted in queue.waiting:
                if wanted.chunk == chunk and wanted.offset == offset and wanted.tag == tag:
                    del queue.waiting[wanted]
                    return wanted
        return None

    def forget(self, link: int, tag: Tag) -> list[Wanted]:
        """Take all waiting requests for ``tag`` out and return them."""
        queue = self._queues.get(link)
        if queue is None:
            return []
        gone = [wanted for wanted in queue.waiting if wanted.tag == tag]
        for wanted in gone:
            del queue.waiting[wanted]
        return gone

    def drop(self, link: int) -> None:
        """The link has ended; nothing of it waits any more."""
        self._queues.pop(link, None)

    def next_grant(self, now: float) -> Grant | None:
        """Return what to send now, or None: nothing waits, or no budget (see ``wait_seconds``)."""
        if self.paused or self._up.wait_seconds(now) > 0:
            return None
        purposes = (Purpose.OWN,) if self._help.wait_seconds(now) > 0 else (Purpose.OWN, Purpose.HELP)
        for purpose in purposes:
            for link, queue in self._queues.items():
                if queue.granted >= GRANTS_PER_LINK_MAX:
                    continue
                # A link's requests are mostly of one purpose; its order is the receiver's choice and is kept.
                wanted = next((w for w, p in queue.waiting.items() if p is purpose), None)
                if wanted is None:
                    continue
                del queue.waiting[wanted]
                queue.granted += 1
                self._queues.move_to_end(link)
                self._up.spend(wanted.length, now)
                if purpose is Purpose.HELP:
                    self._help.spend(wanted.length, now)
                return Grant(link, wanted)
        return None

    def sent(self, link: int) -> None:
        """A granted block has left, or could not be sent; the link may have another."""
        queue = self._queues.get(link)
        if queue is not None:
            queue.granted -= 1

    def wait_seconds(self, now: float) -> float:
        """Return when to ask again although nothing happened: until the budgets allow what waits; infinity: never."""
        if self.paused:
            return float("inf")
        waits = float("inf")
        for queue in self._queues.values():
            if queue.granted >= GRANTS_PER_LINK_MAX or not queue.waiting:
                continue
            up = self._up.wait_seconds(now)
            if any(purpose is Purpose.OWN for purpose in queue.waiting.values()):
                waits = min(waits, up)
            else:
                waits = min(waits, max(up, self._help.wait_seconds(now)))
        return waits
