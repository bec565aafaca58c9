"""Parts of files, for programs that read by range: from this machine, else from whoever has the chunks.

Only whole chunks are fetched, and only verified bytes are given. What was fetched is kept in memory for a little while:
who reads a file from its beginning to its end comes back for the rest of the chunk. Nothing is written to the disk, and
nothing fetched here is offered to others.

One fetch for each tag at a time, a get's included; while one runs we wait for it, because it brings our chunks as well.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path

import structlog
import trio

from daemon.gets import Gets
from daemon.holders import SOURCES_MAX, Holders, Located
from daemon.library import Library
from daemon.neighbours import Neighbours
from exchange.engine import Engine
from exchange.spool import Spool
from exchange.swarm import Swarm
from protocol.bitmap import Bitmap
from protocol.errors import ChunkMissing, CommandError, LinkLost, NotFound, NotTrusted, SizeRefuted
from protocol.ids import NodeAddress, NodeId, Tag
from protocol.limits import MIB
from protocol.manifest import Manifest
from runtime.seam import Buffer, FileStatus, Runtime

log = structlog.get_logger()

# One answer is one line of the control socket.
READ_BYTES_MAX = 4 * MIB
# Enough for a few readers of files with chunks of 8 MiB; the newest chunk stays, however large.
KEPT_BYTES_MAX = 48 * MIB
KEPT_SECONDS_MAX = 60.0
READ_SECONDS_MAX = 120.0
SEARCH_SECONDS = 2.0
# What was stored a moment ago the tracker hears of with the next word of its storage node.
PATIENCE_SECONDS = 6.0
_TURN_SECONDS = 0.05


class Reading:
    """See the module. ``run`` forgets what nobody came back for."""

    def __init__(
        self, runtime: Runtime, library: Library, engine: Engine, neighbours: Neighbours, holders: Holders, gets: Gets
    ) -> None:
        self._runtime = runtime
        self._library = library
        self._engine = engine
        self._neighbours = neighbours
        self._holders = holders
        self._gets = gets
        self._kept: OrderedDict[tuple[Tag, int], bytes] = OrderedDict()
        self._read_at = 0.0

    async def run(self) -> None:
        """Give memory back when nobody reads, until cancelled."""
        while True:
            await trio.sleep(KEPT_SECONDS_MAX / 2)
            if trio.current_time() - self._read_at > KEPT_SECONDS_MAX:
                self._kept.clear()

    async def manifest(self, what: Tag | str) -> tuple[Manifest, str]:
        """Return the manifest of a tag or name, and a name.

        Raises:
            NotFound: nobody has it.
            LinkLost: it is a name, and the tracker is away.
        """
        mine = self._library.newest_named(what) if isinstance(what, str) else None
        tag = what if isinstance(what, Tag) else None
        if tag is not None:
            known = await self._library.manifest(tag)
            if known is not None:
                files = self._library.files_of(tag)
                return known, files[0].name if files else ""
        try:
            located = await self._holders.locate(what)
        except LinkLost:
            if mine is None:
                raise
            located = Located(mine.tag, mine.name, None, ())
        manifest = await self._holders.manifest(located)
        await self._library.remember_manifest(manifest)
        return manifest, located.name

    async def read(self, manifest: Manifest, offset: int, length: int) -> bytes:
        """Return bytes from ``offset`` on, fewer than ``length`` only at the end of the file.

        Raises:
            NotFound: nobody has the chunks.
            CommandError: ``timeout``: nobody gave them in time.
        """
        length = max(0, min(length, READ_BYTES_MAX, manifest.size_bytes - offset))
        data = bytearray(length)
        self._read_at = trio.current_time()
        with trio.move_on_after(READ_SECONDS_MAX):
            while True:
                missing = await self._fill(manifest, offset, memoryview(data))
                if not missing:
                    return bytes(data)
                await self._bring(manifest, missing)
        raise CommandError("timeout", f"nobody gave {manifest.tag} in {READ_SECONDS_MAX:.0f} s", 10)

    async def _fill(self, manifest: Manifest, offset: int, target: memoryview) -> list[int]:
        """Fill ``target`` with what is here; return the chunks that are not."""
        missing = []
        for chunk, inside, part in _pieces(manifest, offset, target):
            kept = self._kept.get((manifest.tag, chunk))
            if kept is not None:
                self._kept.move_to_end((manifest.tag, chunk))
                part[:] = kept[inside : inside + len(part)]
                continue
            try:
                await self._library.read_block(manifest.tag, chunk, inside, part)
            except ChunkMissing:
                missing.append(chunk)
        return missing

    async def _bring(self, manifest: Manifest, chunks: list[int]) -> None:
        turn = self._gets.turn(manifest.tag)
        try:
            turn.acquire_nowait()
        except trio.WouldBlock:
            await trio.sleep(_TURN_SECONDS)
            return
        try:
            await self._fetch(manifest, chunks)
        finally:
            turn.release()
            self._gets.forget_turn(manifest.tag)

    async def _fetch(self, manifest: Manifest, chunks: list[int]) -> None:
        """Fetch ``chunks`` into memory. Raises ``NotFound``."""
        file = _ChunkFile(manifest, chunks)
        spool = Spool(self._runtime, file, Path(str(manifest.tag)), manifest)
        held = Bitmap.full(manifest.tag.chunks) - Bitmap.of(manifest.tag.chunks, chunks)
        swarm = self._engine.fetch(manifest, spool, held, lambda chunk, makers: None)
        found = True

        async def search() -> None:
            nonlocal found
            found = await self._search(swarm)
            fetch.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as fetch:
                fetch.start_soon(search, name="search")
                try:
                    await swarm.run()
                except SizeRefuted as error:
                    # A get of the whole finds the right one, and remembers it.
                    log.warning("file cannot be read", reason=str(error))
                    found = False
                fetch.cancel_scope.cancel()
        finally:
            swarm.close()
        if not found:
            raise NotFound(f"{manifest.tag}: nobody has it")
        for chunk in chunks:
            self._keep(manifest.tag, chunk, bytes(file.parts[chunk]))

    async def _search(self, swarm: Swarm) -> bool:
        """Introduce ``swarm`` to whoever may have the file, while it runs; False when nobody is left to ask."""
        refused: set[NodeId] = set()
        patient_until = self._runtime.clock.monotonic() + PATIENCE_SECONDS
        while True:
            sources = await self._holders.sources(swarm.tag)
            fresh = [one for one in sources if one.node not in swarm.sources][:SOURCES_MAX]
            async with trio.open_nursery() as asks:
                for source in fresh:
                    asks.start_soon(self._ask, swarm, source, refused)
            if sources or swarm.sources or self._holders.tracker_is_away:
                patient_until = self._runtime.clock.monotonic() + PATIENCE_SECONDS
            elif self._runtime.clock.monotonic() >= patient_until:
                return False
            await trio.sleep(SEARCH_SECONDS)

    async def _ask(self, swarm: Swarm, source: NodeAddress, refused: set[NodeId]) -> None:
        try:
            link = await self._neighbours.dial(source)
            self._engine.ask(link, swarm.tag)
        except (LinkLost, NotTrusted) as error:
            if source.node not in refused:
                log.info("holder not reached", node=source.node, reason=str(error))
            refused.add(source.node)

    def _keep(self, tag: Tag, chunk: int, data: bytes) -> None:
        self._kept[tag, chunk] = data
        while sum(map(len, self._kept.values())) > KEPT_BYTES_MAX and len(self._kept) > 1:
            self._kept.popitem(last=False)


def _pieces(manifest: Manifest, offset: int, target: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Yield chunk, offset within it, and the part of ``target`` that it fills."""
    done = 0
    while done < len(target):
        chunk, inside = divmod(offset + done, manifest.layout.chunk_bytes)
        count = min(len(target) - done, manifest.layout.bytes_of(chunk) - inside)
        yield chunk, inside, target[done : done + count]
        done += count


class _ChunkFile:
    """A file in memory that has room for some chunks only (runtime.seam.File)."""

    def __init__(self, manifest: Manifest, chunks: Iterable[int]) -> None:
        self.parts = {chunk: bytearray(manifest.layout.bytes_of(chunk)) for chunk in chunks}
        self._chunk_bytes = manifest.layout.chunk_bytes
        self._size_bytes = manifest.size_bytes

    def read_into(self, target: memoryview, offset: int) -> int:
        chunk, inside = divmod(offset, self._chunk_bytes)
        data = self.parts[chunk][inside : inside + len(target)]
        target[: len(data)] = data
        return len(data)

    def write(self, data: Buffer, offset: int) -> None:
        chunk, inside = divmod(offset, self._chunk_bytes)
        self.parts[chunk][inside : inside + len(data)] = data

    def sync(self) -> None:
        """Memory is not durable, and nobody thinks so."""

    def uncache(self, offset: int, size_bytes: int) -> None:
        """It is all there is."""

    def resize(self, size_bytes: int) -> None:
        assert size_bytes == self._size_bytes

    def status(self) -> FileStatus:
        return FileStatus("file", self._size_bytes, 0, 0, 0, 0)

    def close(self) -> None:
        """Nothing is open."""
