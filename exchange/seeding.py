"""Which chunk each of several receivers should take from us first: so that each leaves us once before any leaves us
twice. Pure; every method takes ``now`` in seconds.

Receivers choose rare chunks, but cannot see what another one is fetching from us at this moment: five of them who
choose at random among the last few chunks choose the same ones. We can see it. So each receiver is suggested chunks
that nobody has taken from us, two ahead; what was sent once spreads among them without us. While there is one receiver
only, nothing is suggested: it knows best. The last chunks are left to storage, for nobody waits there for a chunk to
be passed on.

A suggestion is a hint. Who does not follow it (it has the chunk from elsewhere, or does not know the word) chooses as
ever, and what it was suggested is another's; but what storage was suggested stays storage's. What is asked for again
all the same, uplink.py serves after the rest; but for storage, which chooses by what all others offer, and is whom
everybody works for.

Considered: telling each receiver of a part of our chunks only (super-seeding, BEP 16). Then a receiver that cannot use
what it was told of waits for us, and our line idles; libtorrent's takes 1.43 to 3.5 times the bound.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

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
# By so many blocks that left for the first time we judge who gets which share of our line.
_SHARE_BLOCKS = 128
# A receiver has twice the time it should take; shares change.
_LATE = 2


@dataclass(slots=True)
class _Receiver:
    storage: bool
    relay: bool = False  # fetches for storage, and what storage says: it needs no suggestions, and does not wait
    suggested: dict[int, float] = field(default_factory=dict)  # chunk -> when; not asked for yet

    @property
    def urgent(self) -> bool:
        return self.storage or self.relay


@dataclass(slots=True)
class _Spread:
    """One tag. A chunk is nobody's, then its owner's, to whom it was suggested or who asked first, and then it left."""

    left: Bitmap  # sent once, wholly
    receivers: dict[int, _Receiver] = field(default_factory=dict)
    owners: dict[int, int] = field(default_factory=dict)
    sent_bytes: dict[int, int] = field(default_factory=dict)  # of chunks that have not left
    recent: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=_SHARE_BLOCKS))  # whose, bytes

    def disown(self, chunk: int) -> None:
        """A chunk is nobody's."""
        owner = self.owners.pop(chunk, None)
        if owner is not None:
            self.receivers[owner].suggested.pop(chunk, None)

    def is_anothers_turn(self, link: int, free: int) -> bool:
        """Whether one of the ``free`` chunks that nobody has asked for is not for ``link`` to begin: enough others are
        getting first copies, or it is storage's.

        The last chunks are storage's: as many as the others are getting, or have in reserve. Then storage is still
        fetching first ones when the others are done with theirs. And so is what a receiver would, at its share of what
        leaves, still be getting when all others are done.
        """
        owned = Counter(self.owners.values())
        if link not in owned and len(owned) >= RECEIVERS_AT_ONCE:
            return True
        if not any(receiver.storage for receiver in self.receivers.values()):
            return False
        if free <= min(len(self.receivers), RECEIVERS_AT_ONCE) * (AHEAD + 1):
            return True
        total_bytes = sum(size for _, size in self.recent)
        if not total_bytes:
            return False
        share = sum(size for other, size in self.recent if other == link) / total_bytes
        return bool(share) and (free + len(self.owners)) * share < _LATE * owned[link]


class Seeding:
    """All tags that somebody fetches from us. Links are numbered by whoever asks."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._tags: dict[Tag, _Spread] = {}

    def join(self, link: int, tag: Tag, *, storage: bool) -> None:
        """A link may fetch ``tag`` from us."""
        spread = self._tags.setdefault(tag, _Spread(Bitmap(tag.chunks)))
        spread.receivers.setdefault(link, _Receiver(storage))

    def relays(self, link: int, tag: Tag) -> None:
        """A link says that it fetches ``tag`` for storage."""
        self.join(link, tag, storage=False)
        spread = self._tags[tag]
        receiver = spread.receivers[link]
        receiver.relay = True
        for chunk in list(receiver.suggested):
            spread.disown(chunk)

    def asked(self, link: int, tag: Tag, chunk: int, now: float) -> bool:
        """A link asks for a block. Return whether it can wait: its chunk was sent before, or is being sent, to another
        one, and this one neither is storage nor fetches for it."""
        spread = self._tags.get(tag)
        receiver = spread.receivers.get(link) if spread is not None else None
        if spread is None or receiver is None:
            return False
        owner = spread.owners.get(chunk)
        if owner == link:
            receiver.suggested.pop(chunk, None)
            return False
        for old in [old for old, at in receiver.suggested.items() if now - at > PATIENCE_SECONDS]:
            spread.disown(old)
        if chunk in spread.left:
            return not receiver.urgent
        if owner is not None:
            if chunk not in spread.receivers[owner].suggested:
                return not receiver.urgent
            # Suggested to another one that has not asked for it: first come, first served, among those whose turn it
            # is, but for storage. Each chunk in reserve would go to somebody else yet otherwise, and twice as many
            # chunks would be on their way at half the rate.
            if spread.receivers[owner].storage:
                return True
        if not receiver.urgent and spread.is_anothers_turn(link, tag.chunks - len(spread.left) - len(spread.owners)):
            return True
        spread.disown(chunk)
        spread.owners[chunk] = link
        return False

    def sent(self, link: int, tag: Tag, chunk: int, size_bytes: int, layout: Layout) -> None:
        """So many bytes of ``chunk`` have left us over ``link``. What others than its owner got of it does not count: a
        chunk has left when somebody has the whole."""
        spread = self._tags.get(tag)
        if spread is None or spread.owners.get(chunk) != link:
            return
        spread.recent.append((link, size_bytes))
        spread.sent_bytes[chunk] = spread.sent_bytes.get(chunk, 0) + size_bytes
        if spread.sent_bytes[chunk] >= layout.bytes_of(chunk):
            spread.left.add(chunk)
            del spread.sent_bytes[chunk]
            # Suggested to one, and asked for by storage twice meanwhile: that one need not any more.
            spread.disown(chunk)

    def suggestions(self, link: int, tag: Tag, held: Bitmap, now: float) -> list[int]:
        """Return what to suggest to ``link`` now; it counts as suggested."""
        spread = self._tags.get(tag)
        receiver = spread.receivers.get(link) if spread is not None else None
        if spread is None or receiver is None or receiver.relay or len(receiver.suggested) >= AHEAD:
            return []
        if sum(not other.relay for other in spread.receivers.values()) < 2:
            return []
        free = held - spread.left - Bitmap.of(tag.chunks, spread.owners)
        found: list[int] = []
        while free and len(receiver.suggested) < AHEAD:
            if not receiver.storage and spread.is_anothers_turn(link, len(free)):
                break
            chunk = free.first_from(self._rng.randrange(tag.chunks))
            assert chunk is not None
            free.discard(chunk)
            spread.owners[chunk] = link
            receiver.suggested[chunk] = now
            found.append(chunk)
        return found

    def leave(self, link: int, tag: Tag) -> None:
        """A link needs nothing more of ``tag``."""
        spread = self._tags.get(tag)
        if spread is None or link not in spread.receivers:
            return
        for chunk in [chunk for chunk, owner in spread.owners.items() if owner == link]:
            # It may have the chunk from us or from others, or gone without it: somebody else should have it.
            spread.disown(chunk)
            spread.sent_bytes.pop(chunk, None)
        del spread.receivers[link]
        if not spread.receivers:
            del self._tags[tag]

    def drop(self, link: int) -> None:
        """A link has ended."""
        for tag in [tag for tag, spread in self._tags.items() if link in spread.receivers]:
            self.leave(link, tag)
