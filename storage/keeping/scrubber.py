"""Reads everything that is stored again and again, a chunk at a time, and has what is rotten mended.

When which file is due, schedule.py decides; how rot is mended, mending.py. How far a file has been read is remembered,
so that a restart goes on there. Reads at most so many bytes a second, and never more than one chunk at a time: a disk
is there for its users first. A file that is asked for by name (``scrub``) is read at once and without pauses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import structlog
import trio

from protocol.errors import ChunkMissing, NotFound, StorageFull, StorageUnavailable
from protocol.ids import Tag
from protocol.manifest import Manifest
from runtime.seam import Runtime
from storage.backends.base import Backend, StoredObject
from storage.commit import is_right
from storage.keeping.mending import Mender
from storage.keeping.schedule import is_behind, next_file, next_scrub, pause_seconds
from storage.ledger.base import LeaseLost, Ledger, Scrub
from storage.shelf import Shelf

log = structlog.get_logger()

LOOK_SECONDS_BETWEEN = 30.0
# A restart reads so much of a file twice at most.
SECONDS_BETWEEN_NOTES = 60.0
# A file that cannot be opened now is tried again so much later.
AGAIN_SECONDS = 3600.0
# New files get their dates a few at a time: each is a transaction.
DATES_PER_LOOK_MAX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubStatistics:
    """Since the start, but for the last three: files now due; the earliest date (wall clock, None: nothing is stored);
    and whether the pace is too slow for all that is stored."""

    reading: str = ""
    files: int = 0
    chunks: int = 0
    bytes: int = 0
    rotten_chunks: int = 0
    files_mended: int = 0
    due: int = 0
    next_at: int | None = None
    behind: bool = False


class Scrubber:
    """``bytes_per_second`` None: files are read only when asked for."""

    def __init__(
        self,
        runtime: Runtime,
        ledger: Ledger,
        backend: Backend,
        shelf: Shelf,
        mender: Mender,
        bytes_per_second: float | None,
    ) -> None:
        self._runtime = runtime
        self._ledger = ledger
        self._backend = backend
        self._shelf = shelf
        self._mender = mender
        self._bytes_per_second = bytes_per_second
        self._scrubs: dict[Tag, Scrub] = {}
        self._counts = ScrubStatistics()
        self._at_once: dict[Tag, None] = {}
        self._wake = trio.Event()

    def statistics(self) -> ScrubStatistics:
        """Return how things stand."""
        now = self._runtime.clock.wall()
        dates = [scrub.due_at for scrub in self._scrubs.values()]
        stored_bytes = sum(file.size_bytes for file in self._shelf.stored.values())
        rate = self._bytes_per_second
        return replace(
            self._counts,
            due=sum(at <= now for at in dates) + len(self._at_once),
            next_at=min(dates, default=None),
            behind=rate is not None and is_behind(stored_bytes, rate),
        )

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read what is due until cancelled."""
        task_status.started()
        self._scrubs = await self._ledger.scrubs()
        while True:
            try:
                if not await self._next():
                    with trio.move_on_after(LOOK_SECONDS_BETWEEN):
                        await self._wake.wait()
            except (StorageFull, StorageUnavailable) as error:
                log.warning("reading again waits", reason=str(error))
                await trio.sleep(LOOK_SECONDS_BETWEEN)

    def scrub_all(self) -> int:
        """Read everything now, one after the other and without pauses; return how many files that are."""
        self._at_once |= dict.fromkeys(self._shelf.stored)
        self._wake.set()
        return len(self._at_once)

    def scrub_soon(self, tag: Tag) -> None:
        """Read a file before all others, without waiting for that."""
        self._at_once[tag] = None
        self._wake.set()

    async def scrub(self, tag: Tag) -> list[int]:
        """Read a file now; return its rotten chunks, which are being fetched again.

        Raises:
            NotFound: it is not stored here.
            StorageUnavailable: the store does not answer.
        """
        if tag not in self._shelf.stored:
            raise NotFound(f"{tag} is not stored here")
        return await self._read(tag, 0, None)

    async def _next(self) -> bool:
        """Read one file, if one is due. False: none is."""
        self._wake = trio.Event()
        if self._at_once:
            tag = next(iter(self._at_once))
            del self._at_once[tag]
            if tag in self._shelf.stored:
                await self._read(tag, 0, None)
            return True
        if self._bytes_per_second is None:
            return False
        await self._give_dates()
        due_tag = self._due()
        if due_tag is not None and self._ledger.shared:
            # Another node may have read it meanwhile.
            self._scrubs = await self._ledger.scrubs()
            due_tag = self._due()
        if due_tag is None:
            return False
        due = self._scrubs[due_tag]
        try:
            await self._read(due_tag, due.chunk, self._bytes_per_second)
        except StorageUnavailable:
            # The others need not wait for it.
            self._scrubs[due_tag] = replace(due, due_at=int(self._runtime.clock.wall() + AGAIN_SECONDS))
            raise
        return True

    def _due(self) -> Tag | None:
        tag = next_file({tag: scrub for tag, scrub in self._scrubs.items() if tag in self._shelf.stored})
        return None if tag is None or self._scrubs[tag].due_at > self._runtime.clock.wall() else tag

    async def _give_dates(self) -> None:
        stored = self._shelf.stored
        self._scrubs = {tag: scrub for tag, scrub in self._scrubs.items() if tag in stored}
        for tag in [tag for tag in stored if tag not in self._scrubs][:DATES_PER_LOOK_MAX]:
            file = stored.get(tag)
            if file is not None:
                since = min(float(file.since), self._runtime.clock.wall())
                await self._note(tag, next_scrub(since, self._runtime.random.random()))

    async def _note(self, tag: Tag, scrub: Scrub) -> None:
        await self._ledger.set_scrub(tag, scrub)
        self._scrubs[tag] = scrub

    async def _read(self, tag: Tag, first: int, bytes_per_second: float | None) -> list[int]:
        manifest = await self._ledger.manifest(tag)
        if manifest is None:
            self._scrubs.pop(tag, None)
            return []
        before = self._scrubs.get(tag)
        self._counts = replace(self._counts, reading=str(tag))
        try:
            opened = await self._backend.open(tag)
        except ChunkMissing as error:
            if await self._backend.size_of(tag) is not None:
                # Too many open files, say: no word on its bytes.
                raise StorageUnavailable(f"an object is there and cannot be opened: {error}") from error
            rotten = list(range(tag.chunks))
        else:
            async with opened:
                rotten = await self._read_chunks(opened, manifest, first, bytes_per_second)
                # A second look, because much is undone on the strength of it.
                rotten = [chunk for chunk in rotten if not await is_right(self._runtime, opened, manifest, chunk)]
        finally:
            self._counts = replace(self._counts, reading="")
        if rotten and tag in self._shelf.stored:
            self._counts = replace(self._counts, rotten_chunks=self._counts.rotten_chunks + len(rotten))
            try:
                if await self._mender.mend(tag, rotten):
                    self._counts = replace(self._counts, files_mended=self._counts.files_mended + 1)
            except LeaseLost as error:
                log.warning("a rotten file is mended by another node", tag=str(tag), reason=str(error))
            self._scrubs.pop(tag, None)
        elif tag in self._shelf.stored and (bytes_per_second is not None or before is not None):
            await self._note(tag, next_scrub(self._runtime.clock.wall(), self._runtime.random.random()))
        self._counts = replace(self._counts, files=self._counts.files + 1)
        return rotten

    async def _read_chunks(
        self, opened: StoredObject, manifest: Manifest, first: int, bytes_per_second: float | None
    ) -> list[int]:
        """Return the rotten chunks from ``first`` on; once one was found the rest is read without pauses."""
        tag, clock = manifest.tag, self._runtime.clock
        rotten: list[int] = []
        noted_at = clock.monotonic()
        for chunk in range(first if first < tag.chunks else 0, tag.chunks):
            if tag not in self._shelf.stored:
                break
            begin, size = clock.monotonic(), manifest.layout.bytes_of(chunk)
            if not await is_right(self._runtime, opened, manifest, chunk):
                rotten.append(chunk)
            counts = self._counts
            self._counts = replace(counts, chunks=counts.chunks + 1, bytes=counts.bytes + size)
            if rotten or bytes_per_second is None:
                continue
            known = self._scrubs.get(tag)
            if known is not None and clock.monotonic() - noted_at >= SECONDS_BETWEEN_NOTES:
                noted_at = clock.monotonic()
                await self._note(tag, replace(known, chunk=chunk + 1))
            await trio.sleep(pause_seconds(size, bytes_per_second, clock.monotonic() - begin))
        return rotten
