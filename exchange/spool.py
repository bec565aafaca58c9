"""The file being filled: blocks go to their place as they arrive, and a whole chunk is judged by its digest.

Memory does not depend on the chunk size: blocks are written at once, and hashed on the way as far as they come in
order; what came out of order is read back when the chunk is whole. What was hashed from memory is read back at once
and compared, so that what is right has been seen in the file, too; ``rotten``, the last look at the whole, reads again
only what was seen longer ago than a moment. Nothing here decides what is durable: the owner calls ``sync`` and draws
its conclusions afterwards.

Considered: a buffer for each chunk. With chunks of 8 MiB and more it made memory grow with links and file size.
Considered: hashing the whole file again in the end. Hashing is most of what a receiver does, and comparing costs a
fifth of it. Considered: hashing only what is read back. A disk's error then looks like a sender's lie.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio

from protocol.errors import ChunkMissing, StorageBroken
from protocol.limits import KIB, MIB
from protocol.manifest import Manifest
from runtime.seam import File, Runtime

_READ_BACK_BYTES = 1 * MIB
# Small enough to stay in the processor's cache while it is written, read back, compared and hashed; large enough that
# threads which do so seldom meet at the interpreter's lock.
_PIECE_BYTES = 512 * KIB
# So long what was seen in the file counts as being there. Longer ago, somebody may have written into it, or the disk
# may be what it is: it is read again before the whole file counts.
FRESH_SECONDS = 30.0
# What comes faster than over any usual line does not stay in the system's memory once it is durable: it would drive out
# everything else there, and the next pages are those just freed, which costs less than to find others.
RUSH_BYTES_PER_SECOND = 200 * MIB


class Hash(Protocol):
    """What hashlib returns."""

    def update(self, data: memoryview, /) -> None:
        """Take more bytes."""
        ...

    def digest(self) -> bytes:
        """Return the digest of all so far."""
        ...


@dataclass(frozen=True, slots=True)
class Write:
    """A block and its place. ``completes``: with it the chunk is whole. ``at``: monotonic seconds of now."""

    chunk: int
    offset: int
    data: memoryview
    completes: bool
    at: float = -math.inf  # not known: long ago


@dataclass(slots=True)
class _Filling:
    """A chunk as far as it came in order. ``since``: all of that was seen in the file after then; or -inf."""

    hasher: Hash
    done: int
    since: float


def is_rush(size_bytes: int, came_bytes: int, seconds: float) -> bool:
    """Whether a file of which ``came_bytes`` came in ``seconds`` comes so fast that it passes through memory: faster
    than usual lines, and whole before any of it would be read again (``FRESH_SECONDS``)."""
    return came_bytes >= RUSH_BYTES_PER_SECOND * seconds and came_bytes * FRESH_SECONDS >= size_bytes * seconds


class Spool:
    """A file of ``manifest``'s size. ``write_blocks`` may be called by several threads, each with chunks of its own."""

    def __init__(
        self, runtime: Runtime, file: File, path: Path, manifest: Manifest, *, durable_name: bool = False
    ) -> None:
        self.path = path
        self.manifest = manifest
        self._runtime = runtime
        self._file = file
        self._filling: dict[int, _Filling] = {}
        self._seen_since: dict[int, float] = {}  # whole and right chunk -> since when
        self._began_at = math.inf
        self._unsynced: list[int] = []  # right chunks since the last sync
        self._name_due = durable_name  # the next sync makes its name durable as well

    @classmethod
    async def open(
        cls, runtime: Runtime, path: Path, manifest: Manifest, *, sparse: bool = False, durable: bool = False
    ) -> Spool:
        """Open or create ``path`` with room for the whole file; ``sparse``: it grows as it is written; ``durable``: its
        name survives a power cut from the first ``sync`` on. Whoever needs no sync needs no name.

        Raises:
            StorageFull, StorageBroken: no room; a broken disk.
        """

        def prepare() -> File:
            file = runtime.disk.open_write(path)
            try:
                if not sparse and file.status().size_bytes != manifest.size_bytes:
                    file.resize(manifest.size_bytes)
            except BaseException:
                file.close()
                raise
            return file

        return cls(runtime, await runtime.run_sync(prepare), path, manifest, durable_name=durable)

    def write_blocks(self, writes: list[Write]) -> list[tuple[int, bool]]:
        """Write blocks; return for each chunk that became whole whether its digest is right. Runs in a thread.

        Raises:
            StorageFull, StorageBroken: some of them may not be written; a chunk could not be read back.
        """
        judged = []
        for write in writes:
            position = self.manifest.layout.offset_of(write.chunk) + write.offset
            self._began_at = min(self._began_at, write.at)
            self._seen_since.pop(write.chunk, None)
            filling = self._filling.get(write.chunk)
            if write.offset == 0:
                filling = _Filling(hashlib.sha256(), 0, write.at)
            if filling is None or filling.done != write.offset:
                self._file.write(write.data, position)
            else:
                # Forgotten if that fails: it may have hashed a part then.
                self._filling.pop(write.chunk, None)
                self._write_and_hash(write.data, position, filling)
                self._filling[write.chunk] = filling
            if write.completes:
                filling = self._filling.pop(write.chunk, None) or _Filling(hashlib.sha256(), 0, write.at)
                right = self._hash_rest(write.chunk, filling.hasher, filling.done) == self.manifest.digests[write.chunk]
                if right:
                    self._seen_since[write.chunk] = filling.since
                    self._unsynced.append(write.chunk)
                judged.append((write.chunk, right))
        return judged

    def _write_and_hash(self, data: memoryview, position: int, filling: _Filling) -> None:
        """Write what comes next of a chunk, look whether the file says it, and hash it."""
        piece = bytearray(min(_PIECE_BYTES, len(data)))
        for start in range(0, len(data), _PIECE_BYTES):
            part = data[start : start + _PIECE_BYTES]
            self._file.write(part, position + start)
            del piece[len(part) :]
            if not self._is_there(part, position + start, piece):
                filling.since = -math.inf
            filling.hasher.update(part)
        filling.done += len(data)

    def _is_there(self, part: memoryview, position: int, piece: bytearray) -> bool:
        """Whether the file says what was just written; ``piece`` is a buffer of its length."""
        try:
            # A bytearray and any buffer are compared by memcmp; two memoryviews byte by byte.
            return self._file.read_into(memoryview(piece), position) == len(part) and piece == part
        except OSError:
            return False  # ``rotten`` will meet it too, or it was a moment's

    def check_chunk(self, chunk: int) -> bool:
        """Read a chunk back and return whether its digest is right. Runs in a thread.

        Raises:
            StorageBroken: it cannot be read.
        """
        return self._hash_rest(chunk, hashlib.sha256(), 0) == self.manifest.digests[chunk]

    async def verify_chunk(self, chunk: int) -> bool:
        """Read a chunk back and return whether its digest is right.

        Raises:
            StorageBroken: it cannot be read.
        """
        return await self._runtime.run_sync(self.check_chunk, chunk)

    async def rotten(self) -> list[int]:
        """Return the chunks of a complete file that are not what their digests say, in order: the last look before the
        file counts. What was seen less than ``FRESH_SECONDS`` ago is not read again.

        Raises:
            StorageBroken: one cannot be read.
        """
        fresh_since = self._runtime.clock.monotonic() - FRESH_SECONDS
        old = [c for c in range(self.manifest.layout.chunks) if self._seen_since.get(c, -math.inf) <= fresh_since]
        if not old:
            return []
        chunks = iter(old)
        found: list[int] = []
        failures: list[StorageBroken] = []

        async def work() -> None:
            try:
                for chunk in chunks:
                    if not await self.verify_chunk(chunk):
                        found.append(chunk)
            except StorageBroken as error:
                # Handed over by hand: a nursery would wrap it into a group.
                failures.append(error)

        async with trio.open_nursery() as reading:
            for number in range(min(self._runtime.cores, len(old))):
                reading.start_soon(work, name=f"verify {self.manifest.tag.root.hex()[:8]} {number}")
        if failures:
            raise failures[0]
        return sorted(found)

    async def in_place(self) -> bool:
        """Whether the file at ``path`` is still this one, in its full length.

        Raises:
            OSError: there is none, or it cannot be looked at.
        """

        def look() -> bool:
            here, there = self._file.status(), self._runtime.disk.status(self.path)
            same = (here.device, here.inode) == (there.device, there.inode)
            return same and there.size_bytes == self.manifest.size_bytes

        return await self._runtime.run_sync(look)

    async def read_block(self, chunk: int, offset: int, target: memoryview) -> None:
        """Fill ``target`` from ``offset`` of ``chunk``; whether these bytes are verified is for the caller to know.

        Raises:
            ChunkMissing: the file is shorter, or cannot be read.
        """
        position = self.manifest.layout.offset_of(chunk) + offset
        try:
            count = await self._runtime.run_sync(self._file.read_into, target, position)
        except OSError as error:
            raise ChunkMissing(f"{self.path.name}: {error}") from error
        if count != len(target):
            raise ChunkMissing(f"{self.path.name} is shorter than its manifest")

    async def sync(self, *, passing: bool = False) -> None:
        """Make everything that was written durable. ``passing``: nobody here reads it soon, so that what comes in a
        rush (``is_rush``) need not stay in the system's memory.

        Raises:
            StorageBroken: nobody knows what is.
        """
        layout = self.manifest.layout
        seconds = max(0.0, self._runtime.clock.monotonic() - self._began_at)
        rush = passing and is_rush(layout.size_bytes, len(self._seen_since) * layout.chunk_bytes, seconds)

        def work() -> None:
            chunks, self._unsynced = self._unsynced, []
            self._file.sync()
            if self._name_due:
                self._runtime.disk.sync_folder(self.path.parent)
                self._name_due = False
            if rush:
                for chunk in chunks:
                    self._file.uncache(layout.offset_of(chunk), layout.bytes_of(chunk))

        await self._runtime.run_sync(work)

    async def aclose(self) -> None:
        """Close the file; it stays where it is."""
        await self._runtime.run_sync(self._file.close)

    def _hash_rest(self, chunk: int, hasher: Hash, done: int) -> bytes:
        size = self.manifest.layout.bytes_of(chunk)
        start = self.manifest.layout.offset_of(chunk)
        if done < size:
            buffer = memoryview(bytearray(min(_READ_BACK_BYTES, size - done)))
            while done < size:
                try:
                    count = self._file.read_into(buffer[: size - done], start + done)
                except OSError as error:
                    raise StorageBroken(f"read back {self.path.name}: {error}") from error
                if count == 0:
                    break
                hasher.update(buffer[:count])
                done += count
        return hasher.digest()
