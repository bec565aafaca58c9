"""What the storage node can serve: stored files, and the durable chunks of live jobs, so that nobody has to wait for
the whole upload. Reads through a small number of open files. Never serves a chunk that is not durable.
"""

from __future__ import annotations

from collections import OrderedDict

from exchange.engine import Held
from protocol.bitmap import Bitmap
from protocol.errors import ChunkMissing
from protocol.ids import Tag
from protocol.manifest import Layout, Manifest
from storage.backends.base import Backend, StoredObject
from storage.ledger.base import Ledger
from storage.shared import Shared
from storage.shelf import Shelf

# Open objects: as many as are likely to be read at one time by one crowd; a descriptor each.
OPEN_OBJECTS_MAX = 64


class StorageHoldings:
    """The exchange's view of the shelf (exchange/engine.py: Holdings)."""

    def __init__(self, shelf: Shelf, ledger: Ledger, backend: Backend, *, open_max: int = OPEN_OBJECTS_MAX) -> None:
        self._shelf = shelf
        self._ledger = ledger
        self._backend = backend
        self._open_max = open_max
        self._open: OrderedDict[Tag, Shared[StoredObject]] = OrderedDict()

    def holding(self, tag: Tag) -> Held | None:
        """Return what is held of ``tag``: all of a stored file, the durable chunks of a live job.

        Everything counts as our own: serving is what a storage node is for, so no budget for favours applies.
        """
        file = self._shelf.stored.get(tag)
        if file is not None:
            return Held(Layout.of_size(file.size_bytes), Bitmap.full(tag.chunks), own=True)
        entry = self._shelf.live.get(tag)
        if entry is not None:
            return Held(entry.job.manifest.layout, entry.readable, own=True)
        return None

    async def manifest(self, tag: Tag) -> Manifest | None:
        """Return the manifest of a live job or a stored file."""
        entry = self._shelf.live.get(tag)
        if entry is not None:
            return entry.job.manifest
        return await self._ledger.manifest(tag) if tag in self._shelf.stored else None

    async def read_block(self, tag: Tag, chunk: int, offset: int, target: memoryview) -> None:
        """Fill ``target`` from ``offset`` of ``chunk``.

        Raises:
            ChunkMissing: it is not held (any more), or cannot be read.
            StorageUnavailable: the store does not answer now.
        """
        entry = self._shelf.live.get(tag)
        if entry is not None:
            if chunk not in entry.readable:
                raise ChunkMissing(f"chunk {chunk} of {tag} is not durable yet, or is in the store alone")
            try:
                async with entry.spool.use() as spool:
                    await spool.read_block(chunk, offset, target)
                return
            except ChunkMissing:
                # The job may have been stored in this moment, and its spool file closed.
                if tag not in self._shelf.stored:
                    raise
        file = self._shelf.stored.get(tag)
        if file is None:
            raise ChunkMissing(f"{tag} is not held")
        position = Layout.of_size(file.size_bytes).offset_of(chunk) + offset
        await self._read_stored(tag, position, target)

    async def _read_stored(self, tag: Tag, position: int, target: memoryview) -> None:
        while True:
            opened = await self._object(tag)
            try:
                async with opened.use() as found:
                    await found.read_into(target, position)
                return
            except ChunkMissing:
                # Others may have needed its place among the open files before we came to use it.
                if not opened.retired or tag not in self._shelf.stored:
                    raise

    async def forget(self, tag: Tag) -> None:
        """Close the object of ``tag``: it is about to be removed."""
        opened = self._open.pop(tag, None)
        if opened is not None:
            await opened.retire()

    async def aclose(self) -> None:
        """Close all."""
        for tag in list(self._open):
            await self.forget(tag)

    async def _object(self, tag: Tag) -> Shared[StoredObject]:
        known = self._open.get(tag)
        if known is None:
            found = await self._backend.open(tag)
            known = self._open.get(tag)
            if known is not None:
                await found.aclose()  # somebody else was quicker
            else:
                known = self._open[tag] = Shared(found, found.aclose)
        self._open.move_to_end(tag)
        while len(self._open) > self._open_max:
            _, oldest = self._open.popitem(last=False)
            await oldest.retire()
        return known
