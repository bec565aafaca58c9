"""Who may fetch what from us first: so that each chunk leaves us once before any leaves us twice, and is soon where
others can have it. Pure; ``now`` is in seconds.

A chunk is of use to others only when it is whole. Five first copies beside each other share our line, and all of them
are whole after the time of five; until then nobody has anything to pass on. Storage has the widest line to pass it on,
and is whom everybody works for: so while it fetches from us, who had all from the beginning, it has us to itself, and
whoever else asks is told to ask elsewhere for a while. Unless storage alone does not fill our line. How much that
carries nobody tells us: so now and then another one is invited to fetch a chunk beside it, and when clearly more leaves
then, nobody is sent away for long.

Without storage several get first copies. Receivers choose rare chunks, but cannot see what another one is fetching from
us at this moment: five of them who choose at random among the last few chunks choose the same ones. We can see it. So
each receiver is suggested chunks that nobody has taken from us, two ahead; what was sent once spreads among them
without us. While there is one receiver only, nothing is suggested: it knows best.

A suggestion is a hint. Who does not follow it (it has the chunk from elsewhere, or does not know the word) chooses as
ever, and what it was suggested is another's; but what storage was suggested stays storage's. What is asked for again
all the same, uplink.py serves after the rest; but for storage, which chooses by what all others offer.

What storage has had from us is no business of ours any more: whoever asks us for it is told to ask elsewhere, and waits
for our line no longer, which is narrow and would be another one's. Unless nobody there gives it to him: we remember one
chunk that he was sent away for, suggest it after a while, and if he asks for it then, he is served.

Considered: telling each receiver of a part of our chunks only (super-seeding, BEP 16). Then a receiver that cannot use
what it was told of waits for us, and our line idles; libtorrent's takes 1.43 to 3.5 times the bound. And to let the
others wait instead of sending them away: what they have asked us for they do not ask anybody else for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

from protocol.bitmap import Bitmap
from protocol.ids import Tag
from protocol.manifest import Layout
from runtime.seam import Random

# Chunks suggested to a receiver and not asked for yet: one that it asks for now, and one in reserve.
AHEAD = 2
# A receiver that asks for something else after so long does not want what it was suggested.
PATIENCE_SECONDS = 1.0
# So many receivers get first copies at a time: a chunk is of use to others only when it is whole.
RECEIVERS_AT_ONCE = 8
# A storage node that has not got what it asked for, and asks for nothing else for so long, has stopped fetching.
HUNGRY_SECONDS = 4.0
# What storage has had from us it passes on, and whoever asks us for it is told to ask there. Who still lacks a chunk so
# long after he was sent away for it, and so many times what a chunk takes on our line, does not get it there.
LINGER_SECONDS = 4.0
LINGER_CHUNKS = 4
# While storage has us to itself, another one is invited so long after it came, and then so often, but to none of the
# last chunks: a chunk that two lines wait for is late for all others. Who asks for nothing of it, or takes nothing in,
# for so long, has had his chance.
FIRST_INVITED_SECONDS = 2.0
INVITE_SECONDS = 20.0
NONE_OF_LAST = 8
# A file of so few chunks has hardly any but the last ones; there one is invited when storage needs so long for the rest
# at the rate at which it fetches now.
FEW_CHUNKS = 2 * NONE_OF_LAST
SLOW_SECONDS = 15.0
INVITED_SECONDS = 5.0
# So much more has to leave with the one who was invited, or storage fills our line; else others are served so long.
GAIN = 4 / 3
OPEN_SECONDS = 60.0
# When others are served beside storage, or while it is silent, that are RECEIVERS_AT_ONCE, and one more so often while
# our line is not full: what a thousand kernels take at once our line would be busy with for a minute, and storage
# behind it. Who has neither asked for nor got anything for so long makes room.
ADMIT_SECONDS = 0.25
SERVED_SECONDS = 4.0


class Turn(Enum):
    """How soon a block leaves."""

    FIRST = "first"
    AGAIN = "again"  # after what leaves first (uplink.py)
    ELSEWHERE = "elsewhere"  # not now: others are to be asked


@dataclass(slots=True)
class _Receiver:
    storage: bool
    tested: int | None = None  # of what it was sent away for: the chunk that shows whether it gets that elsewhere
    tested_at: float = -math.inf
    served_until: float = -math.inf  # it got nothing elsewhere, and is not sent away
    relay: bool = False  # fetches for storage, and what storage says: it needs no suggestions, and does not wait
    suggested: dict[int, float] = field(default_factory=dict)  # chunk -> when; not asked for yet

    @property
    def urgent(self) -> bool:
        return self.storage or self.relay


@dataclass(slots=True)
class _Spread:
    """One tag. A chunk is nobody's, then its owner's, to whom it was suggested or who asked first, and then it left."""

    left: Bitmap  # sent once, wholly
    origin: bool  # we had it all before anybody fetched it
    stored: set[int] = field(default_factory=set)  # chunks that storage has had from us, and passes on
    receivers: dict[int, _Receiver] = field(default_factory=dict)
    owners: dict[int, int] = field(default_factory=dict)
    sent_bytes: dict[int, int] = field(default_factory=dict)  # of chunks that have not left
    hungry: set[int] = field(default_factory=set)  # chunks that storage has asked for, and that have not left
    hungry_at: float = -math.inf  # when it came, or last asked for one
    invited: int | None = None  # the chunk that may leave beside storage's
    invited_at: float = -math.inf  # when somebody was invited to it, or last asked for it or got some of it
    rate_before: float | None = None  # what left before its first block, bytes per second
    invite_at: float = math.inf  # when to invite the next one
    served: dict[int, float] = field(default_factory=dict)  # who is served beside storage -> when it last was
    admitted_at: float = -math.inf  # when one more was
    chunk_seconds: float = 0.0  # how long what leaves now takes for a chunk
    open_until: float = -math.inf  # nobody is sent away: storage does not fill our line

    def disown(self, chunk: int) -> None:
        """A chunk is nobody's."""
        owner = self.owners.pop(chunk, None)
        self.hungry.discard(chunk)
        if chunk == self.invited:
            self.invited = self.rate_before = None
        if owner is not None:
            self.receivers[owner].suggested.pop(chunk, None)

    def disown_all(self, link: int, but: int | None = None) -> None:
        """What a link was getting, or was suggested, is nobody's, ``but`` one chunk."""
        for chunk in [chunk for chunk, owner in self.owners.items() if owner == link and chunk != but]:
            self.disown(chunk)
            self.sent_bytes.pop(chunk, None)

    def is_for_storage(self, now: float) -> bool:
        """Whether storage is fetching first copies from an origin, or is just about to."""
        hungry_seconds = HUNGRY_SECONDS if self.hungry else PATIENCE_SECONDS
        return self.origin and now - self.hungry_at <= hungry_seconds and now >= self.open_until

    def linger_seconds(self) -> float:
        """Return how long somebody is sent away for what storage has from us."""
        return max(LINGER_SECONDS, LINGER_CHUNKS * self.chunk_seconds)

    def is_elsewhere(self, receiver: _Receiver, chunk: int, now: float) -> bool:
        """Whether a receiver should have a chunk from others: storage has it from us, who had all, and the receiver
        has not shown that nobody there gives it anything."""
        if not self.origin or chunk not in self.stored:
            return False
        seconds = now - receiver.tested_at
        if now < receiver.served_until or (chunk == receiver.tested and seconds > self.linger_seconds()):
            receiver.tested = None
            receiver.served_until = now + self.linger_seconds()
            return False
        if receiver.tested is None or seconds > 2 * self.linger_seconds():
            # It did not come back for the other one, though that was suggested: it has it.
            receiver.tested, receiver.tested_at = chunk, now
        return True

    def is_tested(self, receiver: _Receiver, now: float) -> bool:
        """Whether to find out if a receiver that was sent away got its chunk."""
        return now - receiver.tested_at > self.linger_seconds()

    def is_taken(self, chunk: int) -> bool:
        """Whether a chunk is somebody's who is getting it. What was suggested to another one that has not asked for it
        is not, but for storage: first come, first served."""
        owner = self.owners.get(chunk)
        return owner is not None and (chunk not in self.receivers[owner].suggested or self.receivers[owner].storage)

    def is_crowded(self, link: int) -> bool:
        """Whether enough others than ``link`` are getting first copies."""
        owned = set(self.owners.values())
        return link not in owned and len(owned) >= RECEIVERS_AT_ONCE

    def is_slow(self) -> bool:
        """Whether a file of few chunks takes so long that what one of the last costs is little."""
        rest = self.left.length - len(self.left)
        return self.left.length <= FEW_CHUNKS and rest * self.chunk_seconds > SLOW_SECONDS

    def admits(self, link: int, now: float, *, full: bool) -> bool:
        """Whether a link may be served beside storage now, or after it; if so, it counts as served. ``full``: our
        line is."""
        with_storage = self.hungry_at > -math.inf or self.stored
        if not (self.origin and with_storage):
            return True
        if link not in self.served:
            self.served = {other: at for other, at in self.served.items() if now - at <= SERVED_SECONDS}
            if len(self.served) >= RECEIVERS_AT_ONCE and (full or now - self.admitted_at < ADMIT_SECONDS):
                return False
            self.admitted_at = now
        self.served[link] = now
        return True

    def is_due(self, now: float) -> bool:
        """Whether to invite somebody to fetch a chunk beside storage's."""
        if self.invited is not None and now - self.invited_at > INVITED_SECONDS:
            self.disown(self.invited)
        return self.invited is None and now >= self.invite_at

    def claim(self, link: int, chunk: int, now: float) -> None:
        """Storage, or who fetches for it, takes a chunk that has not left, but for what others of them are getting and
        what somebody was invited to."""
        receiver = self.receivers[link]
        owner = self.owners.get(chunk)
        if owner == link:
            receiver.suggested.pop(chunk, None)
        elif owner is None or not (self.receivers[owner].urgent or chunk == self.invited):
            self.disown(chunk)
            self.sent_bytes.pop(chunk, None)
            self.owners[chunk] = link
        if receiver.storage and self.owners[chunk] == link:
            self.hungry.add(chunk)
            self.hungry_at = now


class Seeding:
    """All tags that somebody fetches from us. Links are numbered by whoever asks."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._tags: dict[Tag, _Spread] = {}

    def join(self, link: int, tag: Tag, now: float, *, storage: bool, origin: bool = False) -> None:
        """A link may fetch ``tag`` from us. ``origin``: we hold all of it."""
        spread = self._tags.setdefault(tag, _Spread(Bitmap(tag.chunks), origin))
        if link not in spread.receivers:
            spread.receivers[link] = _Receiver(storage)
            if storage:
                spread.hungry_at = now
                spread.invite_at = now + FIRST_INVITED_SECONDS

    def relays(self, link: int, tag: Tag, now: float, *, origin: bool = False) -> None:
        """A link says that it fetches ``tag`` for storage. It may be the first of all; ``origin`` as for ``join``."""
        self.join(link, tag, now, storage=False, origin=origin)
        spread = self._tags[tag]
        receiver = spread.receivers[link]
        receiver.relay = True
        for chunk in list(receiver.suggested):
            spread.disown(chunk)

    def asked(
        self,
        link: int,
        tag: Tag,
        chunk: int,
        now: float,
        *,
        rate: float = 0.0,
        idle: bool = False,
        full: bool = False,
        apart: bool = False,
    ) -> Turn:
        """A link asks for a block; return its turn. ``rate``: what leaves us now, bytes per second; ``idle``: nothing
        has left for a while; ``full``: as much leaves as can; ``apart``: what this link gets takes nothing from what
        storage gets."""
        spread = self._tags.get(tag)
        receiver = spread.receivers.get(link) if spread is not None else None
        if spread is None or receiver is None:
            return Turn.FIRST
        if receiver.urgent:
            if chunk not in spread.left:
                spread.claim(link, chunk, now)
            return Turn.FIRST
        owner = spread.owners.get(chunk)
        if idle:
            # What storage asked for it has from others, or does not want any more; until it asks for something else.
            spread.hungry.clear()
        # Who was invited is always let in: it is to show whether others should be.
        if not (apart or (owner == link and chunk == spread.invited)):
            if spread.is_for_storage(now):
                spread.disown_all(link, but=spread.invited)
                return Turn.ELSEWHERE
            if spread.is_elsewhere(receiver, chunk, now) or not spread.admits(link, now, full=full):
                return Turn.ELSEWHERE
        if owner == link:
            receiver.suggested.pop(chunk, None)
            if chunk == spread.invited:
                spread.invited_at = now
                spread.rate_before = rate if spread.rate_before is None else spread.rate_before
            return Turn.FIRST
        for old in [old for old, at in receiver.suggested.items() if now - at > PATIENCE_SECONDS]:
            spread.disown(old)
        if chunk in spread.left or spread.is_taken(chunk) or spread.is_crowded(link):
            return Turn.AGAIN
        spread.disown(chunk)
        spread.owners[chunk] = link
        return Turn.FIRST

    def sent(
        self, link: int, tag: Tag, chunk: int, size_bytes: int, layout: Layout, now: float, *, rate: float = 0.0
    ) -> None:
        """So many bytes of ``chunk`` have left us over ``link``; ``rate``: what leaves us now, bytes per second. What
        others than its owner got of it does not count: a chunk has left when somebody has the whole."""
        spread = self._tags.get(tag)
        if spread is None:
            return
        if link in spread.served:
            spread.served[link] = now
        if spread.owners.get(chunk) != link:
            return
        if chunk == spread.invited:
            spread.invited_at = now
        if rate > 0:
            spread.chunk_seconds = layout.chunk_bytes / rate
        spread.sent_bytes[chunk] = spread.sent_bytes.get(chunk, 0) + size_bytes
        if spread.sent_bytes[chunk] >= layout.bytes_of(chunk):
            spread.left.add(chunk)
            if spread.receivers[link].storage:
                spread.stored.add(chunk)
            if chunk == spread.invited and spread.rate_before is not None and rate > GAIN * spread.rate_before:
                spread.open_until = now + OPEN_SECONDS
            del spread.sent_bytes[chunk]
            # Suggested to one, and asked for by storage twice meanwhile: that one need not any more.
            spread.disown(chunk)

    def suggestions(self, link: int, tag: Tag, held: Bitmap, now: float) -> list[int]:
        """Return what to suggest to ``link`` now; it counts as suggested."""
        spread = self._tags.get(tag)
        receiver = spread.receivers.get(link) if spread is not None else None
        if spread is None or receiver is None or receiver.relay:
            return []
        if receiver.tested is not None and spread.is_tested(receiver, now):
            return [receiver.tested]
        if len(receiver.suggested) >= AHEAD:
            return []
        if sum(not other.relay for other in spread.receivers.values()) < 2:
            return []
        free = held - spread.left - Bitmap.of(tag.chunks, spread.owners)
        found: list[int] = []
        while free and len(receiver.suggested) < self._ahead(spread, link, len(free), now):
            chunk = free.first_from(self._rng.randrange(tag.chunks))
            assert chunk is not None
            free.discard(chunk)
            spread.owners[chunk] = link
            receiver.suggested[chunk] = now
            found.append(chunk)
            if not receiver.storage and spread.is_for_storage(now):
                spread.invited, spread.invited_at, spread.invite_at = chunk, now, now + INVITE_SECONDS
        return found

    def _ahead(self, spread: _Spread, link: int, free: int, now: float) -> int:
        """Return how many chunks may be suggested to a receiver and not asked for yet; ``free`` are nobody's."""
        if spread.receivers[link].storage:
            return AHEAD
        if spread.is_for_storage(now):
            return int((free > NONE_OF_LAST or (free > 0 and spread.is_slow())) and spread.is_due(now))
        return 0 if spread.is_crowded(link) else AHEAD

    def leave(self, link: int, tag: Tag) -> None:
        """A link needs nothing more of ``tag``."""
        spread = self._tags.get(tag)
        if spread is None or link not in spread.receivers:
            return
        # It may have its chunks from us or from others, or gone without them: somebody else should have them.
        spread.disown_all(link)
        spread.served.pop(link, None)
        if spread.receivers.pop(link).storage:
            spread.hungry_at = -math.inf
        if not spread.receivers:
            del self._tags[tag]

    def drop(self, link: int) -> None:
        """A link has ended."""
        for tag, spread in list(self._tags.items()):
            if link in spread.receivers:
                if spread.receivers[link].storage:
                    spread.stored.clear()  # nobody is known to pass it on
                self.leave(link, tag)
