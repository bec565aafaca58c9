"""Which block to request next, over which link: the receiver decides. Pure; every method takes ``now`` in seconds.

Aims, in order: every uplink is busy until the end; rarest first; the tail is split among all who can help, doubled only
by a source that would idle, and what became superfluous is cancelled.

A source works through a chunk of its own as long as there are unopened ones; then it joins the open chunks of others;
then, idle, it doubles what a slower source would deliver last. Which cells have arrived, assembly.py knows.

A source that took part in a chunk that turned out wrong is a suspect: it gets chunks for itself alone, until one of
those is right; and a wrong chunk is fetched again from one source alone. So a liar is soon the only possible one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from exchange.assembly import CELL_BYTES, Assembly, run_bytes, run_mask
from exchange.rates import RateMeter
from protocol.bitmap import Bitmap
from protocol.ids import NodeId
from protocol.limits import MIB, REQUESTS_PER_LINK_MAX
from protocol.manifest import Layout
from runtime.seam import Random

# A source should always have this much work, counted at its own rate: long enough to cover a round trip and our own
# slowness, short enough that the tail is short.
PIPELINE_SECONDS = 0.35
PIPELINE_BYTES_MIN = 2 * CELL_BYTES
PIPELINE_BYTES_MAX = 16 * MIB
# Before a source has delivered anything.
PIPELINE_BYTES_FIRST = 8 * CELL_BYTES
# A block should take about this long, between one cell and 1 MiB.
BLOCK_SECONDS = 0.05
BLOCK_CELLS_MAX = 16
BLOCK_CELLS_FIRST = 4
# Nothing for so long beyond what its rate explains: its blocks go to others.
STALL_SECONDS = 4.0


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


@dataclass(slots=True)
class _Outstanding:
    first: int
    count: int
    length: int
    asked_at: float


@dataclass(slots=True)
class _Source:
    node: NodeId
    have: Bitmap
    outstanding: dict[tuple[int, int], _Outstanding] = field(default_factory=dict)
    outstanding_bytes: int = 0
    rate: RateMeter = field(default_factory=RateMeter)
    progress_at: float = 0.0
    stalled: bool = False
    suspect: bool = False
    refused: Bitmap | None = None  # chunks it said are gone, although offered

    def pipeline_bytes(self) -> int:
        if self.stalled:
            return CELL_BYTES
        rate = self.rate.bytes_per_second
        if rate is None:
            return PIPELINE_BYTES_FIRST
        return int(min(max(rate * PIPELINE_SECONDS, PIPELINE_BYTES_MIN), PIPELINE_BYTES_MAX))

    def block_cells(self) -> int:
        rate = self.rate.bytes_per_second
        if rate is None:
            return BLOCK_CELLS_FIRST
        return int(min(max(rate * BLOCK_SECONDS / CELL_BYTES, 1), BLOCK_CELLS_MAX))

    def seconds_for(self, size_bytes: int) -> float:
        """How long this source takes for so many bytes, waiting ones included; unknown sources count as slow."""
        rate = self.rate.bytes_per_second
        if self.stalled or rate is None:
            return STALL_SECONDS
        return (self.outstanding_bytes + size_bytes) / max(rate, 1.0)


class Picker:
    """The requests of one tag. Sources are numbered by whoever asks; every number is used once."""

    def __init__(self, layout: Layout, assembly: Assembly, wanted: Bitmap, rng: Random) -> None:
        self.layout = layout
        self.wanted = wanted.copy()
        self._assembly = assembly
        self._rng = rng
        self._sources: dict[int, _Source] = {}
        self._requested: dict[int, int] = {}  # open chunk -> cells requested from somebody
        self._whole: Bitmap = Bitmap(layout.chunks)  # all arrived, not judged yet
        self._alone: dict[int, int | None] = {}  # chunk that one source must make alone -> which, once it began
        self._levels: list[Bitmap] | None = None  # rarity: chunks that at most 1, 2, 3, 4 sources offer

    # --- sources ---

    def add_source(self, source: int, node: NodeId, have: Bitmap, now: float) -> None:
        """A link offers ``have``."""
        assert source not in self._sources
        self._sources[source] = _Source(node, have.copy(), progress_at=now)
        self._levels = None

    def remove_source(self, source: int) -> None:
        """A link is gone, or voids its offer; what it had to deliver is free again."""
        gone = self._sources.pop(source, None)
        if gone is None:
            return
        self._levels = None
        for chunk in sorted({chunk for chunk, _ in gone.outstanding}):
            self._recount(chunk)
        for chunk, owner in list(self._alone.items()):
            if owner == source:
                self._alone[chunk] = None
                self._start_over(chunk)

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

    def rate_of(self, source: int) -> float | None:
        """Return a source's measured rate in bytes per second, None before its first block."""
        return self._sources[source].rate.bytes_per_second

    @property
    def complete(self) -> bool:
        """Whether nothing is wanted any more."""
        return not self.wanted

    # --- what happened ---

    def accepts(self, source: int, chunk: int, offset: int) -> bool:
        """Whether a block that now arrives is still of use (all of its cells are missing)."""
        known = self._sources.get(source)
        pending = known.outstanding.get((chunk, offset)) if known else None
        if pending is None or chunk not in self._assembly or chunk in self._whole:
            return False
        run = run_mask(pending.first, pending.count)
        return self._assembly.missing(chunk) & run == run and self._alone.get(chunk, source) in (source, None)

    def arrived(self, source: int, chunk: int, offset: int, now: float) -> tuple[bool, list[Withdrawal]]:
        """A block that ``accepts`` said yes to is there. Returns whether its chunk is whole now, and what to cancel."""
        known = self._sources[source]
        pending = self._settle(known, chunk, offset, now)
        whole = self._assembly.arrived(chunk, pending.first, pending.count, known.node)
        if whole:
            self._whole.add(chunk)
        missing = self._assembly.missing(chunk)
        superfluous = []
        for other_id, other in self._sources.items():
            if other_id == source:
                continue
            for (other_chunk, other_offset), run in other.outstanding.items():
                if other_chunk == chunk and not run_mask(run.first, run.count) & missing:
                    superfluous.append(Withdrawal(other_id, chunk, other_offset))
        return whole, superfluous

    def answered(self, source: int, chunk: int, offset: int, now: float, *, gone: bool) -> None:
        """A request ended without use: rejected, or its block came too late. ``gone``: the source lacks the chunk."""
        known = self._sources.get(source)
        if known is None or (chunk, offset) not in known.outstanding:
            return
        self._settle(known, chunk, offset, None if gone else now)
        if gone:
            known.have.discard(chunk)
            self._levels = None
            if self._alone.get(chunk, None) == source:
                self._alone[chunk] = None
                self._start_over(chunk)
                return
        self._recount(chunk)

    def verified(self, chunk: int) -> dict[NodeId, int]:
        """The chunk's digest is right; it is not wanted any more. Returns its makers: bytes by sender."""
        makers = self._assembly.finish(chunk)
        self._forget_chunk(chunk)
        self.wanted.discard(chunk)
        self._alone.pop(chunk, None)
        if len(makers) == 1:
            for source in self._sources.values():
                if source.node in makers:
                    source.suspect = False
        return makers

    def wrong(self, chunk: int) -> list[NodeId]:
        """The chunk's digest is wrong. Returns its makers; the chunk is fetched again, from one source alone."""
        makers = sorted(self._assembly.finish(chunk))
        self._forget_chunk(chunk)
        self._alone[chunk] = None
        for source in self._sources.values():
            if source.node in makers:
                source.suspect = True
        return makers

    def want_again(self, chunks: Iterable[int]) -> None:
        """Chunks that were verified once are wanted after all (rot, a failed write)."""
        for chunk in chunks:
            self._start_over(chunk)
            self.wanted.add(chunk)

    # --- what to do ---

    def picks(self, source: int, now: float) -> list[Pick]:
        """Return what to request from ``source`` now; it counts as requested."""
        known = self._sources.get(source)
        if known is None:
            return []
        picks: list[Pick] = []
        room = known.pipeline_bytes()
        while known.outstanding_bytes < room and len(known.outstanding) < REQUESTS_PER_LINK_MAX // 2:
            found = self._next_run(source, known)
            if found is None:
                break
            chunk, first, count = found
            length = run_bytes(self.layout, chunk, first, count)
            offset = first * CELL_BYTES
            if (chunk, offset) in known.outstanding:
                break  # it stalled with this very block; asking twice would not help
            if not known.outstanding:
                known.progress_at = now
            known.outstanding[(chunk, offset)] = _Outstanding(first, count, length, now)
            known.outstanding_bytes += length
            self._requested[chunk] = self._requested.get(chunk, 0) | run_mask(first, count)
            picks.append(Pick(source, chunk, offset, length))
            if length == 0:
                break  # an empty file's only block
        return picks

    def stalled(self, now: float) -> list[Withdrawal]:
        """Return what to cancel because its source stopped delivering; it is free for others at once."""
        withdrawals = []
        for source_id, source in self._sources.items():
            if not source.outstanding or source.stalled:
                continue
            rate = source.rate.bytes_per_second
            oldest = next(iter(source.outstanding.values()))
            allowed_seconds = STALL_SECONDS + (2 * oldest.length / rate if rate else STALL_SECONDS)
            if now - source.progress_at > allowed_seconds:
                source.stalled = True
                for chunk in sorted({chunk for chunk, _ in source.outstanding}):
                    self._recount(chunk)
                withdrawals += [Withdrawal(source_id, chunk, offset) for chunk, offset in source.outstanding]
                for chunk, owner in list(self._alone.items()):
                    if owner == source_id:
                        self._alone[chunk] = None
                        self._start_over(chunk)
        return withdrawals

    def _next_run(self, source_id: int, source: _Source) -> tuple[int, int, int] | None:
        cells = source.block_cells()
        own = {chunk for chunk, _ in source.outstanding}
        # 1. Go on with a chunk it is already making.
        for chunk in sorted(own):
            if (run := self._free_run(chunk, source_id, cells)) is not None:
                return chunk, *run
        # 2. Open a chunk: the rarest of those nobody has begun.
        chunk_or_none = self._unopened(source)
        if chunk_or_none is not None:
            self._assembly.open(chunk_or_none)
            if source.suspect or chunk_or_none in self._alone:
                self._alone[chunk_or_none] = source_id
            run = self._free_run(chunk_or_none, source_id, cells)
            assert run is not None
            return chunk_or_none, *run
        # 3. Join the open chunk of which most is still to be requested.
        best: tuple[int, int] | None = None
        for chunk in self._assembly.chunks():
            if chunk in source.have and not (source.suspect and self._alone.get(chunk) != source_id):
                free = self._free(chunk, source_id).bit_count()
                if free and (best is None or free > best[0]):
                    best = (free, chunk)
        if best is not None:
            # Half of it at most: its owner goes on with the rest.
            run = self._free_run(best[1], source_id, max(1, min(cells, (best[0] + 1) // 2)), from_end=True)
            assert run is not None
            return best[1], *run
        # 4. Idle: double what would come last, if we are sooner.
        if source.outstanding or source.suspect or source.stalled:
            return None
        return self._doubled(source_id, source)

    def _unopened(self, source: _Source) -> int | None:
        have = source.have & self.wanted
        for chunk in self._assembly.chunks():
            have.discard(chunk)
        if not have:
            return None
        for level in self._rarity():
            rare = have & level
            if rare:
                return self._any_of(rare)
        return self._any_of(have)

    def _rarity(self) -> list[Bitmap]:
        """Return the rarity levels: one pass of wide integer operations per source, kept until offers change."""
        if self._levels is None:
            empty = Bitmap(self.layout.chunks)
            more_than = [empty] * 4  # offered by more than 1, 2, 3, 4
            seen = empty
            for source in self._sources.values():
                carry = seen & source.have
                seen = seen | source.have
                for index in range(4):
                    carry, more_than[index] = more_than[index] & carry, more_than[index] | carry
            self._levels = [mask.missing() for mask in more_than]
        return self._levels

    def _any_of(self, chunks: Bitmap) -> int:
        start = self._rng.randrange(self.layout.chunks)
        return chunks.first_from(start)

    def _free(self, chunk: int, source_id: int) -> int:
        """Cells of an open chunk that this source could be asked for: missing, and requested from nobody."""
        if chunk in self._whole or self._alone.get(chunk, source_id) not in (source_id, None):
            return 0
        return self._assembly.missing(chunk) & ~self._requested.get(chunk, 0)

    def _free_run(self, chunk: int, source_id: int, cells: int, *, from_end: bool = False) -> tuple[int, int] | None:
        if chunk not in self._assembly:
            return None
        free = self._free(chunk, source_id)
        if not free:
            return None
        if chunk in self._alone:
            self._alone[chunk] = source_id
        if from_end:
            last = free.bit_length() - 1
            first = last
            while first > 0 and last - first + 1 < cells and free >> (first - 1) & 1:
                first -= 1
            return first, last - first + 1
        first = (free & -free).bit_length() - 1
        count = 1
        while count < cells and free >> (first + count) & 1:
            count += 1
        return first, count

    def _doubled(self, source_id: int, source: _Source) -> tuple[int, int, int] | None:
        worst: tuple[float, int, int, int] | None = None
        for other_id, other in self._sources.items():
            if other_id == source_id:
                continue
            rate = other.rate.bytes_per_second
            ahead = 0
            for (chunk, offset), run in other.outstanding.items():
                ahead += run.length
                if chunk not in source.have or chunk in self._whole or chunk in self._alone:
                    continue
                if (chunk, offset) in source.outstanding or chunk not in self._assembly:
                    continue
                if run_mask(run.first, run.count) & ~self._assembly.missing(chunk):
                    continue
                if self._times_requested(chunk, run) > 1:
                    continue
                seconds = STALL_SECONDS if rate is None or other.stalled else ahead / max(rate, 1.0)
                if source.seconds_for(run.length) < seconds and (worst is None or seconds > worst[0]):
                    worst = (seconds, chunk, run.first, run.count)
        return worst[1:] if worst else None

    def _times_requested(self, chunk: int, run: _Outstanding) -> int:
        cells = run_mask(run.first, run.count)
        times = 0
        for source in self._sources.values():
            for (other_chunk, _), other in source.outstanding.items():
                if other_chunk == chunk and run_mask(other.first, other.count) & cells:
                    times += 1
        return times

    # --- bookkeeping ---

    def _settle(self, source: _Source, chunk: int, offset: int, delivered_at: float | None) -> _Outstanding:
        pending = source.outstanding.pop((chunk, offset))
        source.outstanding_bytes -= pending.length
        if delivered_at is not None:
            source.rate.delivered(pending.length, pending.asked_at, delivered_at)
            source.progress_at = delivered_at
            if source.stalled:
                source.stalled = False
                for other_chunk in sorted({other_chunk for other_chunk, _ in source.outstanding}):
                    self._recount(other_chunk)
        return pending

    def _recount(self, chunk: int) -> None:
        """Count anew which cells of ``chunk`` are requested from sources that still deliver."""
        requested = 0
        for source in self._sources.values():
            if source.stalled:
                continue
            for (other_chunk, _), run in source.outstanding.items():
                if other_chunk == chunk:
                    requested |= run_mask(run.first, run.count)
        if requested:
            self._requested[chunk] = requested
        else:
            self._requested.pop(chunk, None)
            if chunk in self._assembly and not self._assembly.open(chunk).arrived:
                self._assembly.reset(chunk)

    def _forget_chunk(self, chunk: int) -> None:
        self._requested.pop(chunk, None)
        self._whole.discard(chunk)

    def _start_over(self, chunk: int) -> None:
        """Throw away what has arrived of ``chunk``. Requests under way stay outstanding; their blocks are dropped."""
        self._assembly.reset(chunk)
        self._forget_chunk(chunk)
