"""The line to the outside, and the LAN beside it. Pure.

Caps are about the line: it is narrow, and others use it too. So while there are caps, links to nodes on the LAN have an
uplink of their own that has none, with the same order of who goes first. While there are none, everything is in one
queue: then nothing is gained by two.

Offers what ``Uplink`` offers. Considered: exemptions inside Uplink; each of its decisions would have had two cases.
"""

from __future__ import annotations

from exchange.uplink import Grant, Purpose, Uplink, Wanted
from protocol.ids import Tag


class Lines:
    """See the module. Links are numbered by whoever asks."""

    def __init__(self, now: float) -> None:
        self._line = Uplink(now, None, None)
        self._lan = Uplink(now, None, None)
        self._near: set[int] = set()
        self._apart = False
        self._granted: dict[tuple[int, Wanted], list[Uplink]] = {}

    @property
    def paused(self) -> bool:
        """Whether nothing may leave."""
        return self._line.paused

    @paused.setter
    def paused(self, paused: bool) -> None:
        self._line.paused = self._lan.paused = paused

    def change(self, now: float, up: float | None, help: float | None, *, apart: bool) -> None:
        """Use other caps of the line from now on, bytes per second. ``apart``: the LAN has none of them."""
        self._line.change(now, up, help)
        self._lan.change(now, None, None)
        self._apart = apart and (up is not None or help is not None)

    def ease(self, now: float, help: float | None) -> None:
        """Change the line's cap of help a little, as often as one likes: what was overdrawn stays owed."""
        self._line.ease(now, help)

    def place(self, link: int, *, near: bool) -> None:
        """``link`` leads to a node on the LAN, or it does not."""
        (self._near.add if near else self._near.discard)(link)

    def is_near(self, link: int) -> bool:
        """Whether ``link`` leads to a node on the LAN."""
        return link in self._near

    def in_turn(self, link: int) -> None:
        """See ``Uplink.in_turn``. Only on the LAN: a single link fills its port there."""
        if link in self._near:
            self._line.in_turn(link)
            self._lan.in_turn(link)

    def add(self, link: int, wanted: Wanted, purpose: Purpose, *, again: bool = False) -> bool:
        """See ``Uplink.add``."""
        uplink, other = self._line, self._lan
        if self._apart and link in self._near:
            uplink, other = other, uplink
        # Never in both: one of them knows all that a link waits for.
        if other.waiting(link):
            uplink = other
        return uplink.add(link, wanted, purpose, again=again)

    def waiting(self, link: int) -> int:
        """See ``Uplink.waiting``."""
        return self._line.waiting(link) + self._lan.waiting(link)

    def cancel(self, link: int, tag: Tag, chunk: int, offset: int) -> Wanted | None:
        """See ``Uplink.cancel``."""
        return self._line.cancel(link, tag, chunk, offset) or self._lan.cancel(link, tag, chunk, offset)

    def forget(self, link: int, tag: Tag) -> list[Wanted]:
        """See ``Uplink.forget``."""
        return self._line.forget(link, tag) + self._lan.forget(link, tag)

    def drop(self, link: int, now: float) -> None:
        """See ``Uplink.drop``."""
        self._line.drop(link, now)
        self._lan.drop(link, now)
        self._near.discard(link)
        for key in [key for key in self._granted if key[0] == link]:
            del self._granted[key]

    def next_grant(self, now: float) -> Grant | None:
        """See ``Uplink.next_grant``."""
        for uplink in (self._line, self._lan):
            grant = uplink.next_grant(now)
            if grant is not None:
                self._granted.setdefault((grant.link, grant.wanted), []).append(uplink)
                return grant
        return None

    def sent(self, link: int, wanted: Wanted, size_bytes: int, now: float) -> None:
        """A granted block has left, ``size_bytes`` of it; 0: it could not be sent, or was nothing of ours any more."""
        uplinks = self._granted.get((link, wanted))
        if not uplinks:
            return  # the link is gone already
        uplink = uplinks.pop(0)
        if not uplinks:
            del self._granted[link, wanted]
        uplink.sent(link, now)
        if size_bytes:
            uplink.flowed(size_bytes, now)

    def rate(self, now: float) -> float:
        """See ``Uplink.rate``: of the line to the outside."""
        return self._line.rate(now)

    def is_idle(self, now: float) -> bool:
        """See ``Uplink.is_idle``: of the line to the outside."""
        return self._line.is_idle(now)

    def is_full(self, now: float) -> bool:
        """See ``Uplink.is_full``: of the line to the outside."""
        return self._line.is_full(now)

    def outruns(self, rate: float, now: float) -> bool:
        """See ``Uplink.outruns``: of the line to the outside."""
        return self._line.outruns(rate, now)

    def room_seconds(self, purpose: Purpose, now: float) -> float:
        """See ``Uplink.room_seconds``. What does not go over a link leaves by the line."""
        return self._line.room_seconds(purpose, now)

    def spend(self, purpose: Purpose, size_bytes: int, now: float) -> None:
        """See ``Uplink.spend``."""
        self._line.spend(purpose, size_bytes, now)

    def wait_seconds(self, now: float) -> float:
        """See ``Uplink.wait_seconds``."""
        return min(self._line.wait_seconds(now), self._lan.wait_seconds(now))
