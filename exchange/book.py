"""What of one tag is wanted, open, asked for, and of whom: the book that the picker decides by. Pure; every method
takes ``now`` in seconds.

Kept here: which sources there are and what they offer, which cells of open chunks nobody was asked for, and what every
event changes in that: a block, a refusal, a stall, a chunk that was right or wrong. What to ask for next is decided in
picker.py; which cells have arrived, assembly.py knows; how much a source is asked for, source.py.

Trust. A node that took part in a chunk that turned out wrong makes chunks alone from then on, until it is cleared
(doubts.py). A wrong chunk is fetched again from one source alone, which is not asked for it again if it is wrong once
more. So a liar is soon the only possible one, and spoils nothing that others make.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from exchange.assembly import Assembly
from exchange.doubts import Doubts
from exchange.lane import Lane, Request
from exchange.lending import Lending
from exchange.source import Source
from exchange.tail import Tail
from protocol.bitmap import Bitmap
from protocol.ids import NodeId
from protocol.manifest import Layout
from runtime.seam import Random

# A source that rejected what we had not cancelled, or stalled, is left alone for so long; if it did so again when asked
# once more, for longer: of a crowd of hundreds all ask the same one.
REST_SECONDS = 1.0
REST_SECONDS_AGAIN = 2.0


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """Cancel this request."""

    source: int
    chunk: int
    offset: int


class Book:
    """The requests of one tag. Sources are numbered by whoever asks; every number is used once."""

    def __init__(self, layout: Layout, assembly: Assembly, wanted: Bitmap, rng: Random) -> None:
        self.layout = layout
        self.wanted = wanted.copy()
        self.lending = Lending(layout, rng)
        self._assembly = assembly
        self._sources: dict[int, Source] = {}
        self._fresh = wanted.copy()  # wanted, not open
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
        self._withdrawn: list[tuple[int, Request]] = []  # source and what it is to be told to cancel
        self._levels: list[Bitmap] | None = None  # rarity: chunks that at most 1, 2, 3, 4 sources offer

    # --- sources ---

    def add_source(
        self, source: int, node: NodeId, have: Bitmap, now: float, lane: Lane | None = None, *, near: bool = False
    ) -> None:
        """A link offers ``have``. ``lane``: what it owes over all tags, if it is asked for others too; ``near``: it
        leads to a node on our LAN."""
        assert source not in self._sources
        self._sources[source] = Source(source, node, have.copy(), now, lane or Lane(), near)
        self._levels = None

    def remove_source(self, source: int) -> None:
        """A link is gone, or voids its offer; what it had to deliver is free again."""
        gone = self._sources.pop(source, None)
        if gone is None:
            return
        self._levels = None
        for request in gone.outstanding.values():
            request.void = True
            gone.lane.settle(request)
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

    def came_bytes(self, chunk: int) -> int:
        """Return how much of a chunk that is not verified is here."""
        return self._assembly.arrived_bytes(chunk) if chunk in self._assembly else 0

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
            # Asking it again at once would be answered in the same way; later, too, unless for what it suggests.
            known.rests_until = now + (REST_SECONDS_AGAIN if known.refused else REST_SECONDS)
            if known.making == chunk:
                known.making = None
            known.refused = not known.outstanding
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

    # --- bookkeeping ---

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
