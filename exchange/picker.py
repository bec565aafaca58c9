"""Which block to request next, over which link: the receiver decides. Pure; every method takes ``now`` in seconds.

Aims, in order: every uplink is busy until the end; rarest first; the tail is split among all who can help, doubled only
by a source that would idle (tail.py), and what became superfluous is cancelled.

A source works through a chunk of its own as long as there are unopened ones; then it joins the open chunks of others;
then, idle, it doubles what would come last. Which cells have arrived, assembly.py knows; how much a source is asked
for, source.py.

Trust. A node that took part in a chunk that turned out wrong makes chunks alone from then on, until it is cleared
(doubts.py). A wrong chunk is fetched again from one source alone, which is not asked for it again if it is wrong once
more. So a liar is soon the only possible one, and spoils nothing that others make.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from exchange.assembly import CELL_BYTES, Assembly, cells_of, first_run, last_run, run_bytes, run_mask
from exchange.doubts import Doubts
from exchange.lending import Lending
from exchange.rarity import rarity_levels
from exchange.source import STALL_SECONDS, Request, Source
from exchange.tail import Tail, takes_over
from protocol.bitmap import Bitmap
from protocol.ids import NodeId
from protocol.limits import REQUESTS_PER_LINK_MAX
from protocol.manifest import Layout
from runtime.seam import Random

# A source that rejected what we had not cancelled, or stalled, is left alone for so long.
REST_SECONDS = 1.0
# Half of what a sender may refuse: cancelled requests count there until they are answered.
_REQUESTS_MAX = REQUESTS_PER_LINK_MAX // 2


@dataclass(frozen=True, slots=True)
class Pick:
    """Request this run of cells from this source."""

    source: int
    chunk: int
    offset: int  # within the chunk, bytes
    length: int


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """Cancel this request."""

    source: int
    chunk: int
    offset: int


class Picker:
    """The requests of one tag. Sources are numbered by whoever asks; every number is used once."""

    def __init__(self, layout: Layout, assembly: Assembly, wanted: Bitmap, rng: Random) -> None:
        self.layout = layout
        self.wanted = wanted.copy()
        self._assembly = assembly
        self._rng = rng
        self._sources: dict[int, Source] = {}
        self._fresh = wanted.copy()  # wanted, not open
        self.lending = Lending(layout, rng)
        self._left_bytes = sum(map(layout.bytes_of, wanted))  # of what is wanted, not arrived
        self._whole: set[int] = set()  # open, all arrived, not judged yet
        self._free: dict[int, int] = {}  # open chunk -> its missing cells that nobody was asked for, never 0
        self._asked: dict[int, dict[tuple[int, int], Request]] = {}  # chunk -> (source, offset) -> what is outstanding
        self._maker: dict[int, int] = {}  # open chunk that one source makes alone -> which
        self._once_wrong: set[int] = set()  # to be made by one source alone
        self._doubts = Doubts()
        self._moved_at: dict[int, float] = {}  # open chunk -> when it last got a cell
        self._taken_over: dict[int, int] = {}  # chunk -> how often it changed hands
        self._tail = Tail(layout.size_bytes)
        self._urgent: int | None = None
        self._withdrawn: list[tuple[int, Request]] = []  # source and what it is to be told to cancel
        self._levels: list[Bitmap] | None = None  # rarity: chunks that at most 1, 2, 3, 4 sources offer

    # --- sources ---

    def add_source(self, source: int, node: NodeId, have: Bitmap, now: float) -> None:
        """A link offers ``have``."""
        assert source not in self._sources
        self._sources[source] = Source(source, node, have.copy(), now)
        self._levels = None

    def remove_source(self, source: int) -> None:
        """A link is gone, or voids its offer; what it had to deliver is free again."""
        gone = self._sources.pop(source, None)
        if gone is None:
            return
        self._levels = None
        for request in gone.outstanding.values():
            request.void = True
            self._unlist(source, request)
        for chunk in gone.cells:
            self._recount(chunk)
        self._release_chunks_of(source)

    def add_have(self, source: int, chunks: Iterable[int]) -> None:
        """A source got more chunks; silently ignores a source that is gone."""
        known = self._sources.get(source)
        if known is not None:
            for chunk in chunks:
                known.have.add(chunk)
            self._levels = None

    def suggest(self, source: int, chunks: Iterable[int]) -> None:
        """A source says which of its chunks it would rather be asked for next (seeding.py); a hint."""
        if source in self._sources:
            self._sources[source].suggest(chunks)

    def hurry(self, chunk: int) -> None:
        """Whoever begins a chunk begins with this one, if it has it."""
        self._urgent = chunk

    def came_bytes(self, chunk: int) -> int:
        """Return how much of a chunk that is not verified is here."""
        return self._assembly.arrived_bytes(chunk) if chunk in self._assembly else 0

    def assignments(self, now: float) -> list[tuple[int, list[int]]]:
        """Return what lenders are to fetch for us now, by link."""
        rests = {chunk: bits.bit_count() * CELL_BYTES for chunk, bits in self._free.items()}
        return self.lending.assign(now, self.wanted, self._fresh, rests, self._sources)

    def have_of(self, source: int) -> Bitmap:
        """Return what a source offers."""
        return self._sources[source].have

    def sources(self) -> list[int]:
        """Return all sources in the order in which they came."""
        return list(self._sources)

    def offered(self, without: Iterable[NodeId] = ()) -> Bitmap:
        """Return the union of what all sources offer, but for the nodes ``without``."""
        left_out = set(without)
        union = Bitmap(self.layout.chunks)
        for source in self._sources.values():
            if source.node not in left_out:
                union = union | source.have
        return union

    def under_way(self) -> dict[int, NodeId]:
        """Return the chunks of which something was asked for or has arrived, and for each the node that gives most."""
        found: dict[int, NodeId] = {}
        for chunk in self._assembly.chunks():
            shares = dict(self._assembly.senders(chunk))
            for (source, _), request in self._asked.get(chunk, {}).items():
                node = self._sources[source].node
                shares[node] = shares.get(node, 0) + (0 if request.void else request.length)
            if shares:
                found[chunk] = max(shares, key=lambda node: (shares[node], node))
        return found

    def rate_of(self, source: int) -> float | None:
        """Return a source's measured rate in bytes per second, None before its first block."""
        return self._sources[source].rate.bytes_per_second

    @property
    def complete(self) -> bool:
        """Whether nothing is wanted any more."""
        return not self.wanted

    # --- what happened ---

    def accepts(self, source: int, chunk: int, offset: int, length: int | None = None) -> bool:
        """Whether a block that now arrives is of use (all of its cells are missing). ``length``: its size, if known."""
        known = self._sources.get(source)
        request = known.outstanding.get((chunk, offset)) if known else None
        if known is None or request is None or chunk not in self._assembly or chunk in self._whole:
            return False
        if length is not None and length != request.length:
            return False
        return not request.cells & ~self._assembly.missing(chunk) and self._may_make(known, chunk)

    def arrived(self, source: int, chunk: int, offset: int, now: float) -> tuple[bool, list[Withdrawal]]:
        """A block that ``accepts`` said yes to is there. Returns whether its chunk is whole now, and what to cancel."""
        known = self._sources[source]
        request = self._settle(known, chunk, offset)
        known.delivered(request, now)
        self._moved_at[chunk] = now
        self._left_bytes -= request.length
        whole = self._assembly.arrived(chunk, request.first, request.count, known.node)
        self._set_free(chunk, self._free.get(chunk, 0) & ~request.cells)
        if whole:
            self._whole.add(chunk)
        superfluous = []
        freed = False
        for (other, other_offset), another in self._asked.get(chunk, {}).items():
            # Whoever was asked for some of these cells too would deliver a block of which we cannot use all.
            if another.cells & request.cells and not another.void:
                another.void = True
                freed = freed or another.cells != request.cells
                superfluous.append(Withdrawal(other, chunk, other_offset))
        if freed:
            self._recount(chunk)
        return whole, superfluous

    def answered(self, source: int, chunk: int, offset: int, now: float, *, gone: bool, came: bool = False) -> None:
        """A request ended without use. ``gone``: the source lacks the chunk; ``came``: its block came all the same."""
        known = self._sources.get(source)
        if known is None or (chunk, offset) not in known.outstanding:
            return
        request = self._settle(known, chunk, offset)
        if came:
            known.delivered(request, now)
        elif gone:
            known.have.discard(chunk)
            self._levels = None
            if self._maker.get(chunk) == source and chunk not in self._whole:
                self._start_over(chunk)
        elif request.void:
            self._tail.spared(request.length)
        else:
            # Asking it again at once would be answered in the same way.
            known.rests_until = now + REST_SECONDS
        self._recount(chunk)

    def verified(self, chunk: int) -> dict[NodeId, int]:
        """The chunk's digest is right; it is not wanted any more. Returns its makers: bytes by sender."""
        makers = self._assembly.finish(chunk)
        self._close(chunk)
        self.wanted.discard(chunk)
        self._once_wrong.discard(chunk)
        self._taken_over.pop(chunk, None)
        if len(makers) == 1:
            self._doubts.made_right(*makers)
        return makers

    def wrong(self, chunk: int) -> list[NodeId]:
        """The chunk's digest is wrong. Returns its makers; the chunk is fetched again, from one source alone."""
        makers = sorted(self._assembly.finish(chunk))
        self._close(chunk)
        self._fresh.add(chunk)
        self._left_bytes += self.layout.bytes_of(chunk)
        self._once_wrong.add(chunk)
        for node in makers:
            self._doubt(node)
        if len(makers) == 1:
            # Its copy is bad. If it has a better one it may say so by a new offer.
            for source in self._sources.values():
                if source.node == makers[0]:
                    source.have.discard(chunk)
            self._levels = None
        return makers

    def want_again(self, chunks: Iterable[int]) -> None:
        """Chunks that were verified once, or are open, are wanted from the beginning (rot, a failed write)."""
        for chunk in chunks:
            if chunk not in self.wanted:
                self.wanted.add(chunk)
                self._left_bytes += self.layout.bytes_of(chunk)
            self._start_over(chunk)

    def fresh(self, chunks: Bitmap) -> Bitmap:
        """Return those of ``chunks`` that are wanted and nobody has begun or holds back."""
        return chunks & self._fresh

    def hold_back(self, chunk: int) -> None:
        """Somebody brings this fresh chunk another way: nobody is asked for it until it is wanted again."""
        assert chunk in self._fresh
        self._fresh.discard(chunk)

    def give_back(self, chunk: int) -> None:
        """A chunk that was held back is not brought after all."""
        if chunk in self.wanted and chunk not in self._assembly:
            self._fresh.add(chunk)

    def came_otherwise(self, chunk: int) -> None:
        """A chunk is where it should be, by another way; it is not wanted any more."""
        if chunk not in self.wanted:
            return
        self._start_over(chunk)
        self._fresh.discard(chunk)
        self.wanted.discard(chunk)
        self._left_bytes -= self.layout.bytes_of(chunk)
        self.lending.begun(chunk)

    def stalled(self, now: float) -> list[Withdrawal]:
        """Return what to cancel now: its source stopped delivering, or is not to make it any more. Others may at once.

        To be called several times a second.
        """
        for source in self._sources.values():
            if source.overdue(now):
                self._stall(source, now)
        withdrawn, self._withdrawn = self._withdrawn, []
        return [
            Withdrawal(source, request.chunk, request.offset)
            for source, request in withdrawn
            # It may have been answered meanwhile, and asked for again.
            if source in self._sources
            and self._sources[source].outstanding.get((request.chunk, request.offset)) is request
        ]

    # --- what to do ---

    def picks(self, source: int, now: float) -> list[Pick]:
        """Return what to request from ``source`` now; it counts as requested."""
        known = self._sources.get(source)
        if known is None or now < known.rests_until:
            return []
        picks: list[Pick] = []
        room_bytes = known.pipeline_bytes(self._tail.seconds_left(self._left_bytes, self._sources.values(), now))
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
        if source.node not in self._doubts:
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

    def _free_for(self, source: Source, chunk: int) -> int:
        """Return the cells of an open chunk that this source could be asked for, as bits."""
        free = self._free.get(chunk, 0)
        if not free or chunk not in source.have or not self._may_make(source, chunk):
            return 0
        return free & ~source.cells.get(chunk, 0)

    def _may_make(self, source: Source, chunk: int) -> bool:
        """Whether cells of an open chunk may come from ``source``."""
        maker = self._maker.get(chunk)
        if maker is not None:
            return maker == source.number
        return source.node not in self._doubts

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

    # --- bookkeeping ---

    def _ask(self, source: Source, chunk: int, first: int, count: int, now: float) -> Pick:
        length = run_bytes(self.layout, chunk, first, count)
        request = Request(chunk, first, count, run_mask(first, count), length, now)
        source.ask(request)
        self._asked.setdefault(chunk, {})[(source.number, request.offset)] = request
        self._set_free(chunk, self._free.get(chunk, 0) & ~request.cells)
        return Pick(source.number, chunk, request.offset, length)

    def _settle(self, source: Source, chunk: int, offset: int) -> Request:
        request = source.outstanding[(chunk, offset)]
        source.settle(request)
        self._unlist(source.number, request)
        return request

    def _unlist(self, source: int, request: Request) -> None:
        asked = self._asked[request.chunk]
        del asked[(source, request.offset)]
        if not asked:
            del self._asked[request.chunk]

    def _void(self, source: int, request: Request) -> None:
        """Count on this request no more; whoever calls recounts its chunk."""
        if not request.void:
            request.void = True
            self._withdrawn.append((source, request))

    def _stall(self, source: Source, now: float) -> None:
        source.stalled = True
        source.rests_until = now + REST_SECONDS
        for request in source.outstanding.values():
            self._void(source.number, request)
        for chunk in source.cells:
            self._recount(chunk)
        self._release_chunks_of(source.number)

    def _release_chunks_of(self, source: int) -> None:
        """What this source was to make alone, another may begin anew."""
        for chunk in [chunk for chunk, maker in self._maker.items() if maker == source]:
            if chunk not in self._whole:
                self._start_over(chunk)

    def _doubt(self, node: NodeId) -> None:
        self._doubts.add(node)
        for source in self._sources.values():
            if source.node != node:
                continue
            for chunk in list(source.cells):
                asked = self._asked[chunk]
                if chunk not in self._assembly or chunk in self._maker or chunk in self._whole:
                    continue
                if self._assembly.senders(chunk).keys() <= {node} and all(
                    request.void or asker == source.number for (asker, _), request in asked.items()
                ):
                    self._maker[chunk] = source.number  # nobody else has touched it
                    continue
                for (asker, _), request in asked.items():
                    if asker == source.number:
                        self._void(asker, request)
                self._recount(chunk)

    def _set_free(self, chunk: int, free: int) -> None:
        if free:
            self._free[chunk] = free
        else:
            self._free.pop(chunk, None)

    def _recount(self, chunk: int) -> None:
        """Count anew which cells of ``chunk`` nobody was asked for."""
        if chunk not in self._assembly or chunk in self._whole:
            return
        requested = 0
        for request in self._asked.get(chunk, {}).values():
            if not request.void:
                requested |= request.cells
        self._set_free(chunk, self._assembly.missing(chunk) & ~requested)
        if not requested and not self._assembly.arrived_bytes(chunk):
            self._start_over(chunk)

    def _start_over(self, chunk: int) -> None:
        """Throw away what has arrived of ``chunk``, and who makes it. Requests under way stay outstanding, void."""
        for (source, _), request in self._asked.get(chunk, {}).items():
            self._void(source, request)
        if chunk in self._assembly:
            self._left_bytes += self._assembly.arrived_bytes(chunk)
            self._assembly.reset(chunk)
        self._close(chunk)
        if chunk in self.wanted:
            self._fresh.add(chunk)

    def _close(self, chunk: int) -> None:
        self._set_free(chunk, 0)
        self._whole.discard(chunk)
        self._maker.pop(chunk, None)
        self._moved_at.pop(chunk, None)
