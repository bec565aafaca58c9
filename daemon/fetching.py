"""One fetch: a part file is filled by a swarm until every chunk is right, read back as a whole, and handed on.

Finds further holders while it runs, saves which chunks are durable, serves what is verified, and gives up when nobody
who has the rest has been seen for a while. The part file stays: a later get goes on with it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import structlog
import trio

from daemon.desk import bytes_of
from daemon.getrecord import Get, GetState
from daemon.holders import SOURCES_MAX, Holders
from daemon.library import Library
from daemon.neighbours import Neighbours
from daemon.placing import write_error
from exchange.engine import Engine
from exchange.spool import Spool, Write
from exchange.swarm import Swarm
from protocol.bitmap import Bitmap
from protocol.errors import (
    ChunkMissing,
    CommandError,
    LinkLost,
    NotTrusted,
    SizeRefuted,
    StorageBroken,
    StorageError,
    StorageFull,
)
from protocol.ids import NodeAddress, NodeId, Tag
from protocol.limits import MIB
from protocol.manifest import Manifest
from runtime.seam import Disk, Runtime

log = structlog.get_logger()

Save = Callable[[], Awaitable[None]]

# New holders appear while an upload runs; the tracker answers this from memory.
SEARCH_SECONDS = 3.0
# A holder that did not answer, or had nothing, may have by then.
ASK_AGAIN_SECONDS = 10.0
# What a crash may cost: chunks that are fetched again. Each save is an fsync.
SAVE_SECONDS = 2.0
# The tracker is there, nobody who has the rest is: the get ends unfinished.
ALONE_SECONDS_MAX = 120.0
_COPY_BYTES = 1 * MIB
_TAIL_BYTES = 64


class Fetching:
    """Makes fetches; holds what they all need."""

    def __init__(
        self,
        runtime: Runtime,
        library: Library,
        engine: Engine,
        neighbours: Neighbours,
        holders: Holders,
        make_way: Callable[[Tag], Awaitable[None]],
    ) -> None:
        self.runtime = runtime
        self.library = library
        self.engine = engine
        self.neighbours = neighbours
        self.holders = holders
        self._make_way = make_way

    @asynccontextmanager
    async def whole(self, get: Get, manifest: Manifest, save: Save) -> AsyncIterator[None]:
        """Fill ``get.part``; the block begins when it is complete, durable and verified as a whole.

        Until the block ends, others are served from it. ``save`` writes the get's row.

        Raises:
            CommandError: ``no-space``, ``cannot-write``, or ``unfinished``.
        """
        get.note = ""
        await self._make_way(manifest.tag)
        with _writing(get.part):
            try:
                spool = await Spool.open(self.runtime, get.part, manifest)
            except StorageError:
                await self.runtime.run_sync(_remove_empty, self.runtime.disk, get.part)
                raise
        try:
            fetch = _Fetch(self, get, manifest, spool, save)
            await fetch.begin()
            swarm = self.engine.fetch(manifest, spool, fetch.verified, fetch.on_verified)
            self.library.begin_partial(manifest, spool, fetch.verified, get.name)
            try:
                await fetch.complete(swarm)
                yield
            finally:
                self.library.end_partial(manifest.tag)
                swarm.close()
        finally:
            with trio.CancelScope(shield=True):
                await spool.aclose()


class _Fetch:
    def __init__(self, room: Fetching, get: Get, manifest: Manifest, spool: Spool, save: Save) -> None:
        self.verified = Bitmap(manifest.tag.chunks)
        self._room = room
        self._get = get
        self._manifest = manifest
        self._spool = spool
        self._save = save
        self._trouble: CommandError | None = None
        self._asked_at: dict[NodeId, float] = {}
        self._dialling: set[NodeId] = set()

    async def begin(self) -> None:
        """Read back what an earlier life left, and copy what the library has."""
        get = self._get
        if get.durable:
            get.state = GetState.VERIFYING
            get.touch()
        for chunk in range(get.tag.chunks):
            if (chunk in get.durable or await self._looks_written(chunk)) and await self._spool.verify_chunk(chunk):
                self._take(chunk)
        lost = get.durable - self.verified
        if lost:
            log.warning("part file is not what it was", part=str(get.part), chunks=len(lost))
        get.durable = get.durable & self.verified
        await self._copy_local()
        get.state = GetState.SEARCHING
        get.touch()

    async def _looks_written(self, chunk: int) -> bool:
        """Whether a chunk that was not noted as durable may be there all the same: a kill loses nothing but notes.

        One that ends in zeros is taken for one that never came; it is fetched again.
        """
        size = self._manifest.layout.bytes_of(chunk)
        tail = bytearray(min(_TAIL_BYTES, size))
        try:
            await self._spool.read_block(chunk, size - len(tail), memoryview(tail))
        except ChunkMissing:
            return False
        return any(tail)

    async def complete(self, swarm: Swarm) -> None:
        """Run ``swarm`` until all is there, and again while reading it back finds chunks that are not right."""
        get = self._get
        while True:
            await self._run(swarm)
            get.state = GetState.VERIFYING
            get.touch()
            await self._sync()
            rotten = await self._rotten()
            if not rotten:
                return
            log.error("chunks are not what was written", part=str(get.part), chunks=rotten)
            for chunk in rotten:
                self.verified.discard(chunk)
            get.durable = self.verified.copy()
            self._room.library.end_partial(get.tag)
            self._room.engine.lost(get.tag)
            self._room.library.begin_partial(self._manifest, self._spool, self.verified, get.name)
            swarm.reopen(rotten)
            get.state = GetState.SEARCHING

    def on_verified(self, chunk: int, makers: Mapping[NodeId, int]) -> None:
        """See ``Engine.fetch``."""
        get = self._get
        get.state = GetState.FETCHING
        get.note = ""
        for node, size_bytes in makers.items():
            get.from_nodes[node] = get.from_nodes.get(node, 0) + size_bytes
        self._take(chunk)
        self._room.library.grow_partial(get.tag, chunk)
        self._room.engine.gained(get.tag, (chunk,))

    def _take(self, chunk: int) -> None:
        get = self._get
        self.verified.add(chunk)
        get.bytes_done = bytes_of(self._manifest, self.verified)
        get.meter.note(self._room.runtime.clock.monotonic(), get.bytes_done)
        get.touch()

    async def _run(self, swarm: Swarm) -> None:
        self._trouble = None
        refuted: SizeRefuted | None = None
        async with trio.open_nursery() as helpers:
            helpers.start_soon(self._search, swarm, helpers, name=f"search {self._get.id}")
            helpers.start_soon(self._save_often, helpers.cancel_scope, name=f"save {self._get.id}")
            try:
                await swarm.run()
            except StorageError as error:
                await self._distrust(error)
            except SizeRefuted as error:
                # By hand: the nursery would wrap it into a group.
                refuted = error
            helpers.cancel_scope.cancel()
        if refuted is not None:
            raise refuted
        if self._trouble is not None:
            raise self._trouble

    # --- who has it ---

    async def _search(self, swarm: Swarm, helpers: trio.Nursery) -> None:
        alone_since = trio.current_time()
        done_before = len(self.verified)
        while True:
            sources = await self._room.holders.sources(self._get.tag)
            for source in sources:
                self._meet(swarm, source, helpers)
            now = trio.current_time()
            if swarm.sources or len(self.verified) > done_before or self._room.engine.paused:
                alone_since, done_before = now, len(self.verified)
            elif not self._room.holders.tracker_is_away and now - alone_since > ALONE_SECONDS_MAX:
                self._trouble = CommandError(
                    "unfinished",
                    f"nobody has the rest of {self._get.name or self._get.tag} at present; the same get goes on later",
                    7,
                )
                helpers.cancel_scope.cancel()
                return
            if not swarm.sources:
                self._get.note = "nobody who has it can be reached" if sources else "nobody is known to have it"
                self._get.touch()
            await trio.sleep(SEARCH_SECONDS)

    def _meet(self, swarm: Swarm, source: NodeAddress, helpers: trio.Nursery) -> None:
        now = trio.current_time()
        attached = swarm.sources
        if (
            source.node in attached
            or source.node in self._dialling
            or len(attached) + len(self._dialling) >= SOURCES_MAX
            or now - self._asked_at.get(source.node, float("-inf")) < ASK_AGAIN_SECONDS
        ):
            return
        self._asked_at[source.node] = now
        self._dialling.add(source.node)
        helpers.start_soon(self._ask, source, name=f"ask {source.node[:8]}")

    async def _ask(self, source: NodeAddress) -> None:
        try:
            link = await self._room.neighbours.dial(source)
            self._room.engine.ask(link, self._get.tag)
        except (LinkLost, NotTrusted) as error:
            log.info("holder not reached", node=source.node, reason=str(error))
        finally:
            self._dialling.discard(source.node)

    # --- what is durable ---

    async def _save_often(self, scope: trio.CancelScope) -> None:
        while True:
            await trio.sleep(SAVE_SECONDS)
            if self.verified != self._get.durable:
                try:
                    await self._sync()
                except CommandError as error:
                    self._trouble = error
                    scope.cancel()
                    return

    async def _sync(self) -> None:
        """Make what is verified durable, and write that down."""
        chunks = self.verified.copy()
        try:
            await self._spool.sync()
        except StorageError as error:
            await self._distrust(error)
            assert self._trouble is not None
            raise self._trouble from error
        self._get.durable = chunks
        await self._save()

    async def _distrust(self, error: StorageError) -> None:
        """The part file could not be written: what it holds is unknown, so nothing of it counts any more."""
        if isinstance(error, StorageBroken):
            self._get.durable = Bitmap(self._get.tag.chunks)
            with trio.CancelScope(shield=True):
                await self._save()
        self._trouble = write_error(error, self._get.part)

    async def _rotten(self) -> list[int]:
        """Look at the whole part once more; return the chunks that are not right."""
        try:
            rotten = await self._spool.rotten()
            in_place = await self._spool.in_place()
        except (StorageBroken, OSError) as error:
            raise CommandError("cannot-write", f"cannot read {self._get.part} back: {error}", 1) from error
        if not in_place:
            raise CommandError("cannot-write", f"{self._get.part} was changed by somebody else", 1)
        return rotten

    async def _copy_local(self) -> None:
        """Take chunks that the library holds already, under another name."""
        layout = self._manifest.layout
        for chunk in self.verified.missing():
            size = layout.bytes_of(chunk)
            for offset in range(0, max(1, size), _COPY_BYTES):
                piece = memoryview(bytearray(min(_COPY_BYTES, size - offset)))
                try:
                    await self._room.library.read_block(self._manifest.tag, chunk, offset, piece)
                except ChunkMissing:
                    return
                write = Write(chunk, offset, piece, offset + len(piece) == size)
                with _writing(self._get.part):
                    judged = await self._room.runtime.run_sync(self._spool.write_blocks, [write])
            if (chunk, True) not in judged:
                return
            self._take(chunk)


def _remove_empty(disk: Disk, part: Path) -> None:
    """Leave no file behind that was to be written and has got nothing, because there was no room at all."""
    with suppress(OSError, StorageError):
        if disk.status(part).size_bytes == 0:
            disk.remove(part)


class _writing:
    """Turns the errors of writing a part file into the get's."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, StorageFull | StorageBroken):
            raise write_error(error, self._path) from error
