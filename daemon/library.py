"""What this node holds: complete files by path, downloads under way, their manifests. Durable in SQLite.

A file is known by its path and by what identified it when it was hashed (size, times, inode). As long as that is
unchanged its bytes are those of its tag: a second put does not hash again, and a block is served after one ``fstat``.
Once it differs the file is dropped rather than served wrong; nobody hashes here (hashing.py, at the wish of puts.py
and ``check``).

The library is what ``exchange`` asks for blocks (``exchange.engine.Holdings``), and it tells its two listeners what
came and went: ``on_held`` feeds the inventory of the heartbeats, ``on_lost`` the engine and the puts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import structlog

from daemon import filerows
from daemon.filerows import FileRow, KnownFile, Origin, path_of, status_of
from daemon.known import KnownFiles
from daemon.openfiles import OpenFiles
from daemon.tidying import tidy
from exchange.engine import Held
from protocol import messages as m
from protocol.bitmap import Bitmap
from protocol.errors import ChunkMissing, IntegrityError, StorageFull
from protocol.ids import Tag
from protocol.limits import NAMES_PER_TAG_MAX
from protocol.manifest import Layout, Manifest
from runtime.seam import Database, File, FileStatus, Runtime

log = structlog.get_logger()

# A manifest takes up to 600 KiB as Python objects; transfers of more tags at a time read theirs again.
MANIFESTS_CACHED_MAX = 16
# Files looked at in one turn of a thread when we start.
STATUS_BATCH = 512


class BlockSource(Protocol):
    """Where the blocks of an unfinished download can be read (exchange.spool.Spool)."""

    async def read_block(self, chunk: int, offset: int, target: memoryview) -> None:
        """Fill ``target`` from ``offset`` within ``chunk``."""
        ...


@dataclass(slots=True)
class Partial:
    """A download under way: ``bitmap`` says which chunks are verified."""

    manifest: Manifest
    source: BlockSource
    bitmap: Bitmap
    name: str
    since: int


class Library:
    """See above. Made by ``open``."""

    def __init__(self, runtime: Runtime, database: Database, known: KnownFiles) -> None:
        self.on_held: Callable[[m.Holding], None] = lambda holding: None
        self.on_lost: Callable[[Tag], None] = lambda tag: None
        self._runtime = runtime
        self._database = database
        self._open_files = OpenFiles(runtime)
        self._known = known
        self._partials: dict[Tag, Partial] = {}
        self._manifests: OrderedDict[Tag, Manifest] = OrderedDict()
        self._wanted_stored: dict[Tag, int] = {}  # puts under way: their bytes go before help
        self._withheld: dict[Tag, int] = {}

    @classmethod
    async def open(cls, runtime: Runtime, database: Database) -> Library:
        """Read what we hold. Whether it is still so, ``look`` finds out; until then a read does."""
        await tidy(database, filerows.delete_spare_manifests)
        return cls(runtime, database, KnownFiles(await database.read(filerows.read_files)))

    async def look(self) -> None:
        """Look at every file once: those that changed while we were away are dropped, and whoever heard of them is
        told. Beside everything else, because nobody should wait for a hundred thousand looks."""
        rows = self._known.rows()
        for start in range(0, len(rows), STATUS_BATCH):
            batch = rows[start : start + STATUS_BATCH]
            for row in await self._runtime.run_sync(self._changed, batch):
                # Not what was entered under this path in the meantime.
                if self._known.still(row):
                    log.warning("file changed while the daemon was away; not offered", path=str(path_of(row)))
                    await self.drop(path_of(row))

    async def close_idle(self) -> None:
        """Close files that nobody has read from for a while, until cancelled."""
        await self._open_files.close_idle()

    async def aclose(self) -> None:
        """Close open files; the database is its owner's."""
        await self._open_files.aclose()

    # --- what exchange asks (exchange.engine.Holdings) ---

    def holding(self, tag: Tag) -> Held | None:
        """Return what we hold of ``tag`` and offer; None when nothing, or while it is withheld."""
        if tag in self._withheld:
            return None
        size_bytes = self._known.size_bytes(tag)
        if size_bytes is not None:
            own = tag in self._wanted_stored or self._known.is_shared(tag)
            return Held(Layout.of_size(size_bytes), Bitmap.full(tag.chunks), own)
        partial = self._partials.get(tag)
        if partial is not None and partial.bitmap:
            return Held(partial.manifest.layout, partial.bitmap.copy(), False)
        return None

    async def manifest(self, tag: Tag) -> Manifest | None:
        """Return the manifest of a tag that we hold or fetch, or once did."""
        manifest = self._manifests.get(tag)
        if manifest is not None:
            self._manifests.move_to_end(tag)
            return manifest
        row = await self._database.read(lambda cursor: filerows.read_manifest(cursor, tag))
        if row is None:
            return None
        try:
            return self._cache(Manifest.checked(tag, *row))
        except IntegrityError as error:
            log.error("a manifest in the database is damaged; dropped", tag=str(tag), reason=str(error))
            return None

    async def read_block(self, tag: Tag, chunk: int, offset: int, target: memoryview) -> None:
        """Fill ``target`` from ``offset`` within ``chunk``.

        Raises:
            ChunkMissing: we do not hold it (any more). A file found changed is dropped before that.
        """
        while tag not in self._withheld:
            file = self._known.first(tag)
            if file is None:
                break
            if await self._read_file(file, [(target, file.layout.offset_of(chunk) + offset)]):
                return
        partial = self._partials.get(tag)
        if partial is None or tag in self._withheld or chunk not in partial.bitmap:
            raise ChunkMissing(f"chunk {chunk} of {tag} is not here")
        await partial.source.read_block(chunk, offset, target)

    async def read_ranges(self, tag: Tag, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return ranges (offset and length) of a complete file, all in one turn of a thread: they are small, and there
        may be hundreds. Raises as ``read_block``."""
        while tag not in self._withheld:
            file = self._known.first(tag)
            if file is None or any(not 0 <= span[0] <= sum(span) <= file.status.size_bytes for span in ranges):
                break
            pieces = [(memoryview(bytearray(length)), offset) for offset, length in ranges]
            if await self._read_file(file, pieces):
                return [bytes(piece) for piece, _ in pieces]
        raise ChunkMissing(f"what was asked for of {tag} is not here")

    # --- files ---

    def count(self) -> int:
        """Return how many complete files there are."""
        return len(self._known)

    def file(self, path: Path) -> KnownFile | None:
        """Return what is known of ``path``."""
        return self._known.get(path)

    def files(self) -> list[KnownFile]:
        """Return all complete files, by path."""
        return self._known.files()

    def files_of(self, tag: Tag) -> list[KnownFile]:
        """Return the complete files that have this tag."""
        return self._known.of(tag)

    def files_named(self, name: str) -> list[KnownFile]:
        """Return the complete files of this name."""
        return self._known.named(name)

    def newest_named(self, name: str) -> KnownFile | None:
        """Return the complete file of this name that we got last."""
        return max(self._known.named(name), key=lambda file: (file.since, str(file.path)), default=None)

    async def remembered(self, path: Path) -> KnownFile | None:
        """Return what is known of ``path`` if the file there is still the one that was hashed."""
        file = self._known.get(path)
        if file is None:
            return None
        if await self._runtime.run_sync(self._is, path, file.status):
            return file
        await self.drop(path)
        return None

    async def add(
        self,
        manifest: Manifest,
        path: Path,
        status: FileStatus,
        name: str,
        origin: Origin,
        *,
        beside: Callable[[Any], None] = lambda cursor: None,
    ) -> KnownFile:
        """Hold a complete file from now on; durable when this returns. What stood for ``path`` before is forgotten.
        ``beside``: what else is written down with it, in the same transaction."""
        file = KnownFile(
            path, manifest.tag, status, name, origin, origin == "share", int(max(0, self._runtime.clock.wall()))
        )
        before = self._known.get(path)
        if before is not None and before.tag == file.tag:
            # Sharing is undone by unshare alone, and a file that was put stays one.
            file = replace(file, shared=before.shared or file.shared)

        def write(cursor: Any) -> None:
            filerows.write_file(cursor, file, manifest)
            beside(cursor)

        await self._database.transaction(write)
        before = self._known.get(path)
        if before is not None and before.tag != file.tag:
            self._known.leave(before)
            self._tell(before.tag)
        self._cache(manifest)
        self._known.enter(file)
        await self._open_files.forget(path)
        self._tell(file.tag)
        return file

    async def drop(self, path: Path) -> None:
        """Hold the file at ``path`` no longer; on disk nothing changes."""
        file = self._known.get(path)
        if file is None:
            return
        self._known.leave(file)
        self._tell(file.tag)
        await self._open_files.forget(path)
        await self._delete([path])

    async def remember_manifest(self, manifest: Manifest) -> None:
        """Keep a manifest, durably, for a download."""
        await self._database.transaction(lambda cursor: filerows.write_manifest(cursor, manifest))
        self._cache(manifest)

    async def forget_manifest(self, tag: Tag) -> None:
        """Know no manifest of ``tag`` any more: what was known of it is not true. No complete file may have it."""
        assert tag not in self._known
        self._manifests.pop(tag, None)
        await self._database.transaction(lambda cursor: filerows.delete_manifest(cursor, tag))

    # --- downloads ---

    def partials(self) -> list[Partial]:
        """Return the downloads under way."""
        return list(self._partials.values())

    def begin_partial(self, manifest: Manifest, source: BlockSource, bitmap: Bitmap, name: str) -> None:
        """Offer the verified chunks of a download from now on."""
        since = int(max(0, self._runtime.clock.wall()))
        self._partials[manifest.tag] = Partial(manifest, source, bitmap.copy(), name, since)
        if bitmap:
            self._tell(manifest.tag)

    def grow_partial(self, tag: Tag, chunk: int) -> None:
        """A further chunk of a download is verified."""
        partial = self._partials.get(tag)
        if partial is not None:
            partial.bitmap.add(chunk)
            if tag not in self._known:
                self._tell(tag)

    def end_partial(self, tag: Tag) -> None:
        """The download is finished, or given up. What became a complete file stays held as one."""
        partial = self._partials.pop(tag, None)
        if partial is not None and partial.bitmap and tag not in self._known:
            self._tell(tag)

    # --- how it is offered ---

    def want_stored(self, tag: Tag) -> None:
        """A put of ``tag`` is under way: its bytes are the user's own, not help."""
        self._wanted_stored[tag] = self._wanted_stored.get(tag, 0) + 1

    def want_stored_no_more(self, tag: Tag) -> None:
        """Undo one ``want_stored``."""
        _decrease(self._wanted_stored, tag)

    def withhold(self, tag: Tag) -> None:
        """Offer nothing of ``tag`` until ``offer_again``, as if we did not hold it."""
        self._withheld[tag] = self._withheld.get(tag, 0) + 1
        if self._withheld[tag] == 1:
            self.on_lost(tag)

    def offer_again(self, tag: Tag) -> None:
        """Undo one ``withhold``."""
        _decrease(self._withheld, tag)
        if tag not in self._withheld and self.holding(tag) is not None:
            self._tell(tag)

    def holdings(self) -> Iterator[m.Holding]:
        """Yield all that we hold and offer, as inventories say it."""
        for tag in [*self._known.tags(), *(tag for tag in self._partials if tag not in self._known)]:
            holding = self._holding_message(tag)
            if holding is not None:
                yield holding

    # --- inside ---

    def _tell(self, tag: Tag) -> None:
        holding = self._holding_message(tag)
        if holding is not None:
            self.on_held(holding)
        elif tag not in self._withheld:
            self.on_lost(tag)

    def _holding_message(self, tag: Tag) -> m.Holding | None:
        if tag in self._withheld:
            return None
        size_bytes = self._known.size_bytes(tag)
        if size_bytes is not None:
            since, names = self._known.names(tag)
            bitmap = b""
        else:
            partial = self._partials.get(tag)
            if partial is None or not partial.bitmap:
                return None
            size_bytes, since = partial.manifest.size_bytes, partial.since
            names = [partial.name] if partial.name else []
            bitmap = b"" if partial.bitmap.complete else partial.bitmap.to_bytes()
        return m.Holding(
            tag=tag, size_bytes=size_bytes, names=tuple(names[:NAMES_PER_TAG_MAX]), since=since, bitmap=bitmap
        )

    def _cache(self, manifest: Manifest) -> Manifest:
        self._manifests[manifest.tag] = manifest
        self._manifests.move_to_end(manifest.tag)
        while len(self._manifests) > MANIFESTS_CACHED_MAX:
            self._manifests.popitem(last=False)
        return manifest

    def _changed(self, rows: list[FileRow]) -> list[FileRow]:
        return [row for row in rows if not self._is(path_of(row), status_of(row))]

    def _is(self, path: Path, status: FileStatus) -> bool:
        try:
            return self._runtime.disk.status(path) == status
        except OSError:
            return False

    async def _read_file(self, file: KnownFile, targets: Sequence[tuple[memoryview, int]]) -> bool:
        """Fill each target from its position; False when the file is not what it was: it is dropped then."""
        try:
            async with self._open_files.reading(file.path) as opened:
                good = await self._runtime.run_sync(_read_unchanged, opened, file.status, targets)
        except OSError as error:
            log.warning("file cannot be read; not offered any more", path=str(file.path), reason=str(error))
            good = False
        if not good and self._known.get(file.path) == file:
            log.warning("file changed; not offered any more", path=str(file.path))
            await self.drop(file.path)
        return good

    async def _delete(self, paths: list[Path]) -> None:
        try:
            await self._database.transaction(lambda cursor: filerows.delete_files(cursor, paths))
        except StorageFull as error:
            # The rows no longer match their files; the next start drops them.
            log.warning("dropped files not written down", reason=str(error))


def _read_unchanged(file: File, status: FileStatus, targets: Sequence[tuple[memoryview, int]]) -> bool:
    # Looked at after the reads: whatever changed before or during them has left its mark by then.
    whole = all(file.read_into(target, position) == len(target) for target, position in targets)
    return whole and file.status() == status


def _decrease(counts: dict[Tag, int], tag: Tag) -> None:
    counts[tag] -= 1
    if not counts[tag]:
        del counts[tag]
