"""One tag as its receiver: all links that offer it, the picker that decides, the spool that is filled.

``run`` is called by whoever wants the file, and returns when every chunk is verified. What is durable, acknowledged or
committed is the owner's business: it hears of each verified chunk by ``on_verified``.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from typing import TYPE_CHECKING

import structlog
import trio

from exchange.assembly import Assembly
from exchange.backlog import Backlog
from exchange.book import Withdrawal
from exchange.picker import Picker
from exchange.sizes import Sizes
from exchange.spool import Spool, Write
from protocol.bitmap import Bitmap
from protocol.errors import SizeRefuted, StorageError
from protocol.ids import NodeId, Tag
from protocol.limits import MIB
from protocol.manifest import Manifest

if TYPE_CHECKING:
    from exchange.engine import Engine
    from exchange.session import Session

log = structlog.get_logger()

# Blocks this large come so fast that what is asked for next is asked for in one go, when so much of what was asked for
# has come: each message wakes both sides.
_TOGETHER_BYTES = 1 * MIB
_TOGETHER_SHARE = 0.25
# A thread that writes, reads back, compares and hashes is slower than an event loop that receives; two are faster.
WRITERS_MAX = 2
OnVerified = Callable[[int, Mapping[NodeId, int]], None]


class Swarm:
    """Made by ``Engine.fetch``. ``contributions``: verified bytes by sender."""

    def __init__(self, engine: Engine, manifest: Manifest, spool: Spool, held: Bitmap, on_verified: OnVerified) -> None:
        self.manifest = manifest
        self.verified = held.copy()
        self.contributions: dict[NodeId, int] = {}
        self.wasted_bytes = 0
        self.running = False
        self._engine = engine
        self._spool = spool
        self._on_verified = on_verified
        self._sessions: dict[int, Session] = {}
        self._lenders: dict[int, Session] = {}
        self._assembly = Assembly(manifest.layout)
        self._picker = Picker(manifest.layout, self._assembly, held.missing(), engine.runtime.random)
        self._backlog = Backlog()
        self._idle_writers = trio.lowlevel.ParkingLot()
        self._writers = 0
        self._working: trio.Nursery | None = None  # while it runs
        self._failures: list[StorageError] = []  # of the last run's writers
        self._resting: set[int] = set()  # links that are not asked for blocks
        self._due_at_once: dict[int, int] = {}  # link -> requests it had to answer after it was last asked
        self._rest_if: Callable[[Session], bool] = lambda _: False
        self._sizes = Sizes(manifest, self.verified)
        self._refuted: SizeRefuted | None = None

    @property
    def tag(self) -> Tag:
        """What is fetched."""
        return self.manifest.tag

    @property
    def complete(self) -> bool:
        """Whether every chunk is verified."""
        return self._picker.complete

    @property
    def sources(self) -> list[NodeId]:
        """The nodes that offer some of it now."""
        return [session.link.peer.node for session in self._sessions.values()]

    def under_way(self) -> dict[int, NodeId]:
        """Return the chunks that are on their way, and for each the node that gives most of it."""
        return self._picker.under_way()

    def everyone_has(self, without: Container[NodeId]) -> bool:
        """Whether each chunk that is still missing is offered by somebody who is not in ``without``."""
        left_out = [node for node in self.sources if node in without]
        return not self._picker.wanted - self._picker.offered(left_out)

    def offered(self, without: Container[NodeId] = ()) -> Bitmap:
        """Return what all sources that are not in ``without`` offer together."""
        return self._picker.offered([node for node in self.sources if node in without])

    async def run(self) -> None:
        """Fetch until complete. May be called again after an error, or after ``reopen``.

        Raises:
            StorageFull, StorageBroken: the spool could not take it; unverified blocks are forgotten.
            SizeRefuted: the manifest's size is not the file's.
        """
        assert not self.running
        self.running = True
        self._failures.clear()
        try:
            self._engine.swarm_runs()
            self._pump()
            self._writers = 1
            if self.tag.chunks == 1:
                # Of one chunk one writer writes at a time, and a thousand small files are as many nurseries less.
                await self._write_on()
            else:
                async with trio.open_nursery() as working:
                    self._working = working
                    await self._write_on()
                    # Who writes at this moment is waited for: what is right counts.
                    working.cancel_scope.cancel()
            if self._failures:
                raise self._failures[0]
            if self._refuted is not None and not self._picker.complete:
                raise self._refuted
        finally:
            self.running = False
            if self._failures:
                # What of its batch is on the disk nobody knows; all open chunks begin anew.
                self._picker.want_again(self._assembly.chunks())
            self._forget_backlog()

    def close(self) -> None:
        """Nothing more is wanted: every source is told so."""
        for source in list(self._sessions):
            session = self._sessions[source]
            self.detach(source)
            session.finished(self.tag)
        self._engine.unregister(self)

    def reopen(self, chunks: Iterable[int]) -> None:
        """These chunks are wanted (again): they turned out rotten after all, or were not wanted before. Fetched by this
        ``run``, or the next one."""
        chunks = list(chunks)
        for chunk in chunks:
            self.verified.discard(chunk)
        self._picker.want_again(chunks)
        self._pump()

    # --- called by the sessions ---

    def attach(self, session: Session, have: Bitmap, size_bytes: int) -> None:
        """A link offers ``have`` of a file of ``size_bytes``, which is added to its earlier offer. Nothing is taken
        from who is shut out, or speaks of another size."""
        if size_bytes != self.manifest.size_bytes:
            self.dispute(session.link.peer.node, size_bytes)
            return
        if self._engine.strikes.is_shut_out(session.link.peer.node, self._now()):
            return
        if session.number in self._lenders:
            self._picker.lending.offered(session.number, have, self._now())
        if session.number in self._sessions:
            self._picker.add_have(session.number, have)
        else:
            self._sessions[session.number] = session
            if self._rest_if(session):
                self._resting.add(session.number)
            node, near = session.link.peer.node, self._engine.is_near_and_free(session.number)
            self._picker.add_source(session.number, node, have, self._now(), session.lane, near=near)
            self._picker.suggest(session.number, session.remembered_suggestion(self.tag))
        self._request_from(session.number)

    def dispute(self, node: NodeId, size_bytes: int) -> None:
        """``node`` says that the file has another size than the manifest says; see sizes.py."""
        if self._sizes.dispute(node, size_bytes, self._now()):
            log.warning(
                "size disputed", tag=str(self.tag), node=node, claims=size_bytes, manifest=self.manifest.size_bytes
            )
            self._picker.hurry(self.tag.chunks - 1)

    def detach(self, source: int) -> None:
        """The link is gone, or voids its offer."""
        self._resting.discard(source)
        self._due_at_once.pop(source, None)
        if self._sessions.pop(source, None) is not None:
            self._picker.remove_source(source)
            self._pump()

    def have(self, source: int, chunks: Iterable[int]) -> None:
        """A source got more."""
        self._picker.add_have(source, chunks)
        if source in self._lenders:
            self._picker.lending.offered(source, chunks, self._now())
            self._assign()
        self._request_from(source)

    def lend(self, session: Session) -> None:
        """A link lends its line: from now on it is told what to fetch for us."""
        if self.running:
            self._lenders[session.number] = session
            self._picker.lending.join(session.number)
            self._assign()

    def end_lending(self, source: int) -> None:
        """A link lends no longer."""
        if self._lenders.pop(source, None) is not None:
            self._picker.lending.leave(source)

    def _assign(self) -> None:
        if self._lenders and not self._engine.paused:
            for source, chunks in self._picker.assignments(self._now()):
                self._lenders[source].assign(self.tag, chunks)

    # --- what comes another way than by blocks ---

    def offers(self) -> dict[int, tuple[Session, Bitmap]]:
        """Return the links that offer it, by number, each with what it offers."""
        return {number: (session, self._picker.have_of(number)) for number, session in self._sessions.items()}

    def rest_if(self, condition: Callable[[Session], bool]) -> None:
        """Request no blocks from links of which ``condition`` is true when they come, until ``rest`` says otherwise."""
        self._rest_if = condition
        self._resting |= {number for number, session in self._sessions.items() if condition(session)}

    def rest(self, source: int, resting: bool) -> None:
        """Request no blocks from a link, or do so again."""
        if resting:
            self._resting.add(source)
        elif source in self._resting:
            self._resting.discard(source)
            self._request_from(source)

    def fresh(self, chunks: Bitmap) -> Bitmap:
        """Return those of ``chunks`` that are wanted and nobody has begun or holds back."""
        return self._picker.fresh(chunks)

    def hold_back(self, chunk: int) -> None:
        """Somebody brings a fresh chunk another way."""
        self._picker.hold_back(chunk)

    def give_back(self, chunk: int) -> None:
        """It is not brought after all."""
        self._picker.give_back(chunk)
        self._pump()

    def came_otherwise(self, chunk: int) -> None:
        """A chunk has come to where it should be; it is not in the spool file."""
        self._picker.came_otherwise(chunk)
        self.verified.add(chunk)
        self._idle_writers.unpark_all()

    def tick(self) -> None:
        """Look for stalled sources, and give idle ones another chance in the tail. Several times a second."""
        if not self.running:
            return
        self._cancel(self._picker.stalled(self._now()))
        last = self.tag.chunks - 1
        if self._sizes.disputed and self._sizes.is_late(
            self._picker.came_bytes(last), self._offers_chunk(last), self._now()
        ):
            self._refute("nobody showed its last chunk in time")
        self._assign()
        self._pump()

    def is_source(self, source: int) -> bool:
        """Whether a link offers it."""
        return source in self._sessions

    def suggested(self, source: int, chunks: Iterable[int]) -> None:
        """A source would rather be asked for these."""
        self._picker.suggest(source, chunks)

    def accepts(self, source: int, chunk: int, offset: int) -> bool:
        """Whether the bytes of this block are of use."""
        return self.running and self._picker.accepts(source, chunk, offset)

    def take(self, source: int, chunk: int, offset: int, buffer: memoryview) -> bool:
        """A block that was accepted is in ``buffer``, which is ours now if True is returned."""
        # Between accepting and receiving others may have been quicker.
        if not self.running or not self._picker.accepts(source, chunk, offset, len(buffer)):
            self.unused(source, chunk, offset, gone=False, size_bytes=len(buffer))
            return False
        whole, superfluous = self._picker.arrived(source, chunk, offset, self._now())
        self._cancel(superfluous)
        if self._backlog.add(Write(chunk, offset, buffer, whole, self._now())):
            self._wake_writer()
        if len(buffer) < _TOGETHER_BYTES or self._has_answered_enough(source):
            self._request_from(source)
        return True

    def unused(self, source: int, chunk: int, offset: int, *, gone: bool, size_bytes: int = 0) -> None:
        """A request ended without use."""
        self.wasted_bytes += size_bytes
        self._picker.answered(source, chunk, offset, self._now(), gone=gone, came=size_bytes > 0)
        self._pump()

    # --- ours ---

    def _now(self) -> float:
        return self._engine.runtime.clock.monotonic()

    def _pump(self) -> None:
        for source in self._picker.sources():
            self._request_from(source)

    def _request_from(self, source: int) -> None:
        if not self.running or not self._engine.may_request(source):
            return
        session = self._sessions.get(source)
        if (
            session is None
            or source in self._resting
            or self._engine.strikes.is_shut_out(session.link.peer.node, self._now())
        ):
            return
        for pick in self._picker.picks(source, self._now()):
            session.request(self.tag, pick.chunk, pick.offset, pick.length)
            self._engine.requested(source, pick.length)
        self._due_at_once[source] = session.requests_due

    def _has_answered_enough(self, source: int) -> bool:
        session = self._sessions.get(source)
        due = self._due_at_once.get(source, 0)
        return session is None or session.requests_due <= due * (1 - _TOGETHER_SHARE)

    def _cancel(self, withdrawals: list[Withdrawal]) -> None:
        for withdrawal in withdrawals:
            session = self._sessions.get(withdrawal.source)
            if session is not None:
                session.cancel(self.tag, withdrawal.chunk, withdrawal.offset)

    def _wake_writer(self) -> None:
        if self._idle_writers:
            self._idle_writers.unpark()
        elif self._working is not None and self._writers < min(WRITERS_MAX, self._engine.runtime.cores):
            self._writers += 1
            self._working.start_soon(self._write_on, name=f"write {self.tag.root.hex()[:8]} {self._writers}")

    async def _write_on(self) -> None:
        """Write until all is there, or nothing more can come of it."""
        try:
            while not (self._picker.complete or self._failures or self._refuted):
                batch = self._backlog.take()
                if not batch:
                    await self._idle_writers.park()
                    continue
                try:
                    await self._write(batch)
                except StorageError as error:
                    # Carried out of the nursery by hand: it would wrap it into a group.
                    self._failures.append(error)
            self._idle_writers.unpark_all()
        finally:
            self._writers -= 1
            if not self._writers:
                # The nursery closes with the last one, and blocks may come before ``run`` goes on.
                self._working = None

    async def _write(self, batch: list[Write]) -> None:
        try:
            judged = await self._engine.runtime.run_sync(self._spool.write_blocks, batch)
        except trio.Cancelled:
            # Before the thread began: these blocks have arrived, but will never be written.
            self._picker.want_again(sorted({write.chunk for write in batch}))
            raise
        finally:
            self._backlog.done(batch)
            for write in batch:
                self._engine.receiving.give_back(write.data)
        for chunk, right in judged:
            if right:
                self._right(chunk)
            else:
                self._wrong(chunk)

    def _right(self, chunk: int) -> None:
        makers = self._picker.verified(chunk)
        self.verified.add(chunk)
        for node, size_bytes in makers.items():
            self.contributions[node] = self.contributions.get(node, 0) + size_bytes
        self._on_verified(chunk, makers)

    def _wrong(self, chunk: int) -> None:
        makers = self._picker.wrong(chunk)
        self.wasted_bytes += self.manifest.layout.bytes_of(chunk)
        log.warning("wrong chunk", tag=str(self.tag), chunk=chunk, makers=[node[:8] for node in makers])
        if len(makers) == 1:
            self._engine.strike(makers[0])
        if chunk == self.tag.chunks - 1 and not self._offers_chunk(chunk):
            self._refute("who claims it has another last chunk")
        self._pump()

    def _offers_chunk(self, chunk: int) -> bool:
        return any(chunk in self._picker.have_of(source) for source in self._picker.sources())

    def _refute(self, why: str) -> None:
        if self._sizes.disputed and self._refuted is None:
            reason = f"{self.tag}: a size of {self.manifest.size_bytes} bytes is refuted: {why}"
            log.warning("size refuted", tag=str(self.tag), size_bytes=self.manifest.size_bytes, reason=why)
            self._refuted = SizeRefuted(reason, self._sizes.claims)
            self._idle_writers.unpark_all()

    def shut_out(self, node: NodeId) -> None:
        """Nothing is taken from ``node`` any more."""
        for source, session in list(self._sessions.items()):
            if session.link.peer.node == node:
                self.detach(source)

    def _forget_backlog(self) -> None:
        batch = self._backlog.forget()
        for write in batch:
            self._engine.receiving.give_back(write.data)
        if batch:
            self._picker.want_again(sorted({write.chunk for write in batch}))
