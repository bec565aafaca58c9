"""Which block to request next, over which link: the receiver decides. Pure; every method takes ``now`` in seconds.

Aims, in order: every uplink is busy until the end; rarest first; the tail is split among all who can help, doubled only
by a source that would idle (tail.py), and what became superfluous is cancelled.

A source works through a chunk of its own as long as there are unopened ones; then it joins the open chunks of others;
then, idle, it doubles what would come last. What is wanted, open and asked for, and who may make what, is written in
book.py; how much a source is asked for, source.py says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from exchange.assembly import CELL_BYTES, Assembly, cells_of, first_run, last_run, run_bytes, run_mask
from exchange.book import Book
from exchange.lane import Request
from exchange.rarity import rarity_levels
from exchange.source import STALL_SECONDS, Source
from exchange.tail import takes_over
from protocol.bitmap import Bitmap
from protocol.limits import REQUESTS_PER_LINK_MAX
from protocol.manifest import Layout
from runtime.seam import Random

# Half of what a sender may refuse: cancelled requests count there until they are answered.
_REQUESTS_MAX = REQUESTS_PER_LINK_MAX // 2


@dataclass(frozen=True, slots=True)
class Pick:
    """Request this run of cells from this source."""

    source: int
    chunk: int
    offset: int  # within the chunk, bytes
    length: int


class Picker(Book):
    """The book of one tag's requests, and what to add to it next."""

    def __init__(self, layout: Layout, assembly: Assembly, wanted: Bitmap, rng: Random) -> None:
        super().__init__(layout, assembly, wanted, rng)
        self._rng = rng
        self._urgent: int | None = None

    # --- hints ---

    def suggest(self, source: int, chunks: Iterable[int]) -> None:
        """A source says which of its chunks it would rather be asked for next (seeding.py); a hint."""
        if source in self._sources:
            self._sources[source].suggest(chunks)

    def hurry(self, chunk: int) -> None:
        """Whoever begins a chunk begins with this one, if it has it."""
        self._urgent = chunk

    def assignments(self, now: float) -> list[tuple[int, list[int]]]:
        """Return what lenders are to fetch for us now, by link."""
        rests = {chunk: bits.bit_count() * CELL_BYTES for chunk, bits in self._free.items()}
        return self.lending.assign(now, self.wanted, self._fresh, rests, self._sources)

    # --- what to do ---

    def picks(self, source: int, now: float) -> list[Pick]:
        """Return what to request from ``source`` now; it counts as requested."""
        known = self._sources.get(source)
        if known is None or now < known.rests_until:
            return []
        picks: list[Pick] = []
        # Only those count that have something we lack: others give nothing at the end, however fast they were.
        givers = (other for other in self._sources.values() if other.have & self.wanted)
        room_bytes = known.pipeline_bytes(self._tail.seconds_left(self._left_bytes, givers, now))
        # A pipeline of few blocks runs dry between two of them.
        cells = min(known.block_cells(), max(1, room_bytes // (4 * CELL_BYTES)))
        while known.outstanding_bytes < room_bytes and len(known.outstanding) < _REQUESTS_MAX:
            found = self._next_run(known, cells, now)
            if found is None:
                break
            picks.append(self._ask(known, *found, now))
        return picks

    def _next_run(self, source: Source, cells: int, now: float) -> tuple[int, int, int] | None:
        # 1. Go on with the chunk of its own.
        if source.making is not None:
            free = self._free_for(source, source.making)
            if free:
                return source.making, *first_run(free, cells)
            source.making = None
        # 2. Open a chunk: the rarest of those nobody has begun.
        chunk = self._unopened(source)
        if chunk is not None:
            return chunk, *first_run(self._open_for(source, chunk, now), cells)
        # 3. Join the open chunk of which most is still to be requested: half of it at most, from the end, since its
        # owner goes on with the rest.
        most, chunk = 0, -1
        for open_chunk in self._free:
            free = self._free_for(source, open_chunk)
            if free.bit_count() > most:
                most, chunk = free.bit_count(), open_chunk
        if most:
            return chunk, *last_run(self._free_for(source, chunk), max(1, min(cells, (most + 1) // 2)))
        chunk = self.lending.longest_queue(source.have & self._fresh)
        if chunk is not None and not source.cells.get(chunk):
            return chunk, *first_run(self._open_for(source, chunk, now), cells)
        # 4. Idle: double what would come last, or take a chunk over, if we are sooner.
        if source.stalled:
            return None
        if len(self._sources) > 1 and source.node not in self._doubts:
            late = self._tail.later_than(source, self._sources.values(), self._is_single, self._may_double, now)
            if late is not None:
                return late.chunk, late.first, late.count
        return self._take_over(source, cells, now) if not source.outstanding else None

    def _unopened(self, source: Source) -> int | None:
        have = source.have & self._fresh
        for chunk, cells in source.cells.items():
            # All of it asked for already, and started over since: first the answers.
            if cells.bit_count() == cells_of(self.layout, chunk):
                have.discard(chunk)
        if not have:
            return None
        if self._urgent is not None and self._urgent in have:
            return self._urgent
        # What a lender was given is for that lender to begin.
        have = have - self.lending.reserved_from(source.number)
        if not have:
            return None
        if (suggested := source.next_suggested(have)) is not None:
            return suggested
        if self._levels is None:
            self._levels = rarity_levels(self.layout.chunks, (other.have for other in self._sources.values()))
        for level in self._levels:
            rare = have & level
            if rare:
                return self._any_of(rare)
        return self._any_of(have)

    def _open_for(self, source: Source, chunk: int, now: float) -> int:
        """Open a chunk for ``source`` to begin with; return the cells it can be asked for."""
        self._assembly.open(chunk)
        self._fresh.discard(chunk)
        self.lending.begun(chunk)
        self._moved_at[chunk] = now
        if chunk in self._once_wrong or source.node in self._doubts:
            self._maker[chunk] = source.number
        source.making = chunk
        self._set_free(chunk, self._assembly.missing(chunk))
        return self._free_for(source, chunk)

    def _any_of(self, chunks: Bitmap) -> int:
        return chunks.first_from(self._rng.randrange(self.layout.chunks))

    def _may_double(self, source: Source, request: Request) -> bool:
        chunk = request.chunk
        if (
            chunk not in source.have
            or chunk in self._maker
            or request.cells & source.cells.get(chunk, 0)
            or request.cells & ~self._assembly.missing(chunk)
        ):
            return False
        return self._is_single(request)

    def _is_single(self, request: Request) -> bool:
        """Whether nobody else was asked for any of it."""
        asked = self._asked[request.chunk].values()
        return sum(1 for other in asked if not other.void and other.cells & request.cells) == 1

    def _take_over(self, source: Source, cells: int, now: float) -> tuple[int, int, int] | None:
        """Begin anew, for ``source`` alone, a chunk that whoever makes it is too slow with. The way out when a chunk
        cannot be shared: one that was wrong once, or one that only doubted nodes could finish."""
        doubted = source.node in self._doubts
        for chunk, moved_at in self._moved_at.items():
            maker = self._sources.get(self._maker.get(chunk, -1))
            if chunk in self._whole or chunk not in source.have or maker is source or not (maker or doubted):
                continue
            if source.cells.get(chunk):
                continue
            # The more often it changed hands, the longer we wait: or two slow sources would take it from each other
            # for ever.
            patience_seconds = STALL_SECONDS * 2 ** min(self._taken_over.get(chunk, 0), 16)
            chunk_bytes = self.layout.bytes_of(chunk)
            rest_bytes = chunk_bytes - self._assembly.arrived_bytes(chunk)
            if now - moved_at > patience_seconds or (
                maker is not None
                and not self._taken_over.get(chunk)
                and takes_over(source, maker, chunk_bytes, rest_bytes, now)
            ):
                self._taken_over[chunk] = self._taken_over.get(chunk, 0) + 1
                self._start_over(chunk)
                self._maker[chunk] = source.number
                return chunk, *first_run(self._open_for(source, chunk, now), cells)
        return None

    def _ask(self, source: Source, chunk: int, first: int, count: int, now: float) -> Pick:
        length = run_bytes(self.layout, chunk, first, count)
        request = Request(chunk, first, count, run_mask(first, count), length, now)
        source.ask(request)
        self._asked.setdefault(chunk, {})[(source.number, request.offset)] = request
        self._set_free(chunk, self._free.get(chunk, 0) & ~request.cells)
        return Pick(source.number, chunk, request.offset, length)
