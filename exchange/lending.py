"""Which missing chunks idle nodes should fetch from nearby and pass on to us: disjoint, a few ahead of each. Pure;
every method takes ``now`` in seconds.

A lender's line is kept busy by giving it, ahead of time, as much as it will push while it fetches the next chunk. What
one was given nobody else is asked to begin with, so that the uploader's own line carries only what no lender carries;
when nothing else is left to begin, whoever is idle may take it all the same (picker.py).

Lending never makes an upload slower than the uploader alone, also where the "LAN" is the uploader's own line: a byte
that goes through a lender leaves the uploader once, as one that comes directly does. What could be lost is a chunk that
its lender does not bring: so a lender begins with one chunk, and rests when it fetches more slowly than it pushes (it
adds nothing then), or lets us wait.

At the end, when there is nothing left to give, some lenders get a chunk although others make it, so that its blocks can
be shared out and all lines end together; which ones, levelling.py says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median

from exchange.lane import RATE_GUESS
from exchange.levelling import Load, copies
from exchange.source import Source
from protocol.bitmap import Bitmap
from protocol.manifest import Layout
from runtime.seam import Random

# A lender has so much to push, in seconds at its rate, beyond what it takes to fetch the next chunk twice.
AHEAD_SECONDS = 1.0
FETCH_GUESS_SECONDS = 0.2
# A chunk that a lender has not offered after so long, beyond what fetching at its own push rate would take.
PATIENCE_SECONDS = 4.0
REST_SECONDS_FIRST = 15.0
REST_SECONDS_MAX = 300.0
# One slow fetch may be the machine's, several are the line's.
SLOW_MAX = 2
# Less than this part of a chunk is not worth fetching it for.
COPY_SHARE_MIN = 1 / 16
LENDERS_MAX = 64


@dataclass(slots=True)
class _Lender:
    given: dict[int, float] = field(default_factory=dict)  # chunk not verified here yet -> when it was given
    awaited: set[int] = field(default_factory=set)  # of these, not offered yet
    fetch_seconds: float | None = None  # for a whole chunk, as seen from here
    push_rate: float | None = None  # bytes per second, once it has delivered something
    slow: int = 0  # how often in a row it fetched more slowly than it pushes
    rests: int = 0
    rests_until: float = 0.0


class Lending:
    """The lenders of one tag, by link."""

    def __init__(self, layout: Layout, rng: Random) -> None:
        self._layout = layout
        self._rng = rng
        self._lenders: dict[int, _Lender] = {}
        self.reserved: dict[int, int] = {}  # chunk -> whose; given to one lender, not begun here

    def __contains__(self, link: int) -> bool:
        return link in self._lenders

    def join(self, link: int) -> None:
        """A link lends its line. Beyond ``LENDERS_MAX`` it is not needed."""
        if len(self._lenders) < LENDERS_MAX:
            self._lenders.setdefault(link, _Lender())

    def leave(self, link: int) -> None:
        """A link has ended; what it was given is anybody's."""
        if self._lenders.pop(link, None) is not None:
            self._release(link)

    def offered(self, link: int, chunks: Iterable[int], now: float) -> None:
        """A link offers more chunks."""
        lender = self._lenders.get(link)
        if lender is None:
            return
        for chunk in chunks:
            if chunk in lender.awaited:
                lender.awaited.discard(chunk)
                seconds = max(0.001, now - lender.given[chunk]) / (1 + len(lender.awaited))
                before = lender.fetch_seconds
                lender.fetch_seconds = seconds if before is None else (before + seconds) / 2
                rate = lender.push_rate
                lender.slow = lender.slow + 1 if rate and self._layout.bytes_of(chunk) / seconds < rate else 0
                if not lender.slow:
                    lender.rests = 0

    def reserved_from(self, link: int) -> Bitmap:
        """Return the chunks that ``link`` is not to begin, because another one was given them."""
        others = (chunk for chunk, owner in self.reserved.items() if owner != link)
        return Bitmap.of(self._layout.chunks, others) if self.reserved else Bitmap(self._layout.chunks)

    def longest_queue(self, among: Bitmap) -> int | None:
        """Return the chunk that whoever is idle should take from the lender that has most to begin with."""
        queues: dict[int, int] = {}
        for owner in self.reserved.values():
            queues[owner] = queues.get(owner, 0) + 1
        # Of its chunks the one it was given last.
        found = [(queues[owner], place, chunk) for place, (chunk, owner) in enumerate(self.reserved.items())]
        return max(((count, place, chunk) for count, place, chunk in found if chunk in among), default=(0, 0, None))[2]

    def begun(self, chunk: int) -> None:
        """Somebody is asked for a chunk."""
        self.reserved.pop(chunk, None)

    def assign(
        self,
        now: float,
        wanted: Bitmap,
        unopened: Bitmap,
        open_rest: Mapping[int, int],
        sources: Mapping[int, Source],
    ) -> list[tuple[int, list[int]]]:
        """Return who is to fetch what, now; it counts as given.

        ``unopened``: wanted chunks that nobody was asked for; ``open_rest``: chunks that somebody makes, with the bytes
        that nobody was asked for; ``sources``: the links that offer something.
        """
        found: dict[int, list[int]] = {}
        self.reserved = {chunk: link for chunk, link in self.reserved.items() if chunk in unopened}
        rooms: dict[int, float] = {}
        for link, lender in self._lenders.items():
            for chunk in [chunk for chunk in lender.given if chunk not in wanted]:
                del lender.given[chunk]
                lender.awaited.discard(chunk)
            source = sources.get(link)
            lender.push_rate = source.rate.bytes_per_second if source is not None else None
            self._judge(link, lender, now)
            # The first one shows what it can do.
            if now >= lender.rests_until and not (lender.fetch_seconds is None and lender.awaited):
                rooms[link] = self._room_seconds(lender, unopened, open_rest)
        free = unopened - Bitmap.of(unopened.length, self.reserved)
        while free and rooms:
            # Who has least to push, so that the last ones are not all given to the same.
            link = max(rooms, key=lambda link: rooms[link])
            if rooms[link] <= 0:
                break
            lender = self._lenders[link]
            chunk = free.first_from(self._rng.randrange(free.length))
            assert chunk is not None
            free.discard(chunk)
            self.reserved[chunk] = link
            self._give(link, chunk, now, found)
            rooms[link] -= self._layout.bytes_of(chunk) / (lender.push_rate or RATE_GUESS)
            if lender.fetch_seconds is None:
                del rooms[link]
        if not free:
            self._give_copies(now, open_rest, sources, found)
        return list(found.items())

    def _give(self, link: int, chunk: int, now: float, found: dict[int, list[int]]) -> None:
        lender = self._lenders[link]
        lender.given[chunk] = now
        lender.awaited.add(chunk)
        found.setdefault(link, []).append(chunk)

    def _give_copies(
        self, now: float, open_rest: Mapping[int, int], sources: Mapping[int, Source], found: dict[int, list[int]]
    ) -> None:
        """Let lenders fetch what others make, since everything is given already."""
        rests = {**open_rest, **{chunk: self._layout.bytes_of(chunk) for chunk in self.reserved}}
        known = [rate for source in sources.values() if (rate := source.rate.bytes_per_second) is not None]
        guess = median(known) if known else RATE_GUESS
        loads = {}
        for link in dict.fromkeys((*sources, *self._lenders)):
            load = self._load(link, sources.get(link), rests, guess, now)
            if load is not None:
                loads[link] = load
        for link, chunk in copies(rests, loads, COPY_SHARE_MIN * self._layout.chunk_bytes):
            self._give(link, chunk, now, found)

    def _load(
        self, link: int, source: Source | None, rests: Mapping[int, int], rate_guess: float, now: float
    ) -> Load | None:
        """Return what a link has to do; None: it is not to be counted on."""
        if source is not None and (source.stalled or source.refused):
            return None
        rate = source.rate.bytes_per_second if source is not None else None
        has = {chunk for chunk in rests if chunk in source.have} if source is not None else set()
        copy_seconds = None
        lender = self._lenders.get(link)
        if lender is not None and now >= lender.rests_until:
            has |= lender.given.keys() & rests.keys()
            # Only a lender that is known to be near, and how fast, may fetch what others make as well.
            if rate is not None and lender.fetch_seconds is not None:
                copy_seconds = lender.fetch_seconds * (1 + len(lender.awaited))
        owed_bytes = source.outstanding_bytes if source is not None else 0
        return Load(rate or rate_guess, owed_bytes, has, copy_seconds) if has or copy_seconds is not None else None

    def _judge(self, link: int, lender: _Lender, now: float) -> None:
        chunk_bytes = self._layout.chunk_bytes
        patience_seconds = PATIENCE_SECONDS + 2 * chunk_bytes / (lender.push_rate or RATE_GUESS)
        late = any(now - lender.given[chunk] > patience_seconds for chunk in lender.awaited)
        if late or lender.slow >= SLOW_MAX:
            lender.rests_until = now + min(REST_SECONDS_MAX, REST_SECONDS_FIRST * 2**lender.rests)
            lender.rests += 1
            lender.slow = 0
            lender.fetch_seconds = None
            for chunk in lender.awaited:
                lender.given.pop(chunk, None)
            lender.awaited.clear()
            self._release(link)

    def _room_seconds(self, lender: _Lender, unopened: Bitmap, open_rest: Mapping[int, int]) -> float:
        """Return how much more it should have to push, in seconds at its rate."""
        # What others were asked for of an open chunk is not this one's to push.
        given_bytes = sum(
            self._layout.bytes_of(chunk) if chunk in unopened else open_rest.get(chunk, 0) for chunk in lender.given
        )
        wanted_seconds = AHEAD_SECONDS + 2 * (lender.fetch_seconds or FETCH_GUESS_SECONDS)
        return wanted_seconds - given_bytes / (lender.push_rate or RATE_GUESS)

    def _release(self, link: int) -> None:
        for chunk in [chunk for chunk, owner in self.reserved.items() if owner == link]:
            del self.reserved[chunk]
