"""The file being filled: blocks go to their place as they arrive, and a whole chunk is judged by its digest.

Memory does not depend on the chunk size: blocks are written at once, and hashed on the way as far as they come in
order; what came out of order is read back when the chunk is whole. Nothing here decides what is durable: the owner
calls ``sync`` and draws its conclusions afterwards.

Considered: a buffer for each chunk. With chunks of 8 MiB and more it made memory grow with links and file size.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from protocol.errors import ChunkMissing, StorageBroken
from protocol.limits import MIB
from protocol.manifest import Manifest
from runtime.seam import File, Runtime

_READ_BACK_BYTES = 1 * MIB


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
    """A block and its place. ``completes``: with it the chunk is whole."""

    chunk: int
    offset: int
    data: memoryview
    completes: bool


class Spool:
    """A file of ``manifest``'s size. Writing methods are called by one thread at a time (``write_blocks``)."""

    def __init__(self, runtime: Runtime, file: File, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._runtime = runtime
        self._file = file
        self._hashes: dict[int, tuple[Hash, int]] = {}  # chunk -> hash so far, bytes so far

    @classmethod
    async def open(cls, runtime: Runtime, path: Path, manifest: Manifest, *, sparse: bool = False) -> Spool:
        """Open or create ``path`` with room for the whole file; ``sparse``: it grows as it is written.

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

        return cls(runtime, await runtime.run_sync(prepare), path, manifest)

    def write_blocks(self, writes: list[Write]) -> list[tuple[int, bool]]:
        """Write blocks; return for each chunk that became whole whether its digest is right. Runs in a thread.

        Raises:
            StorageFull, StorageBroken: some of them may not be written; a chunk could not be read back.
        """
        judged = []
        for write in writes:
            self._file.write(write.data, self.manifest.layout.offset_of(write.chunk) + write.offset)
            if write.offset == 0:
                self._hashes[write.chunk] = (hashlib.sha256(), 0)
            known = self._hashes.get(write.chunk)
            if known is not None and known[1] == write.offset:
                known[0].update(write.data)
                self._hashes[write.chunk] = (known[0], write.offset + len(write.data))
            if write.completes:
                hasher, done = self._hashes.pop(write.chunk, (hashlib.sha256(), 0))
                digest = self._hash_rest(write.chunk, hasher, done)
                judged.append((write.chunk, digest == self.manifest.digests[write.chunk]))
        return judged

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

    async def sync(self) -> None:
        """Make everything that was written durable.

        Raises:
            StorageBroken: nobody knows what is.
        """
        await self._runtime.run_sync(self._file.sync)

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
