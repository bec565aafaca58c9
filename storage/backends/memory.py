"""A backend in memory, for tests and simulations of what stands above it. It keeps the whole contract but durability
across a restart of the process: what "the disk" holds is the ``objects`` it is given, which outlives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from protocol.errors import ChunkMissing, StorageFull
from protocol.ids import Tag
from runtime.seam import Runtime
from storage.backends.taking import take_back_by_reading

ROOM_BYTES_DEFAULT = 1 << 30


class MemoryObject:
    """An open object."""

    def __init__(self, data: bytes, tag: Tag) -> None:
        self._data = data
        self._tag = tag

    @property
    def size_bytes(self) -> int:
        return len(self._data)

    async def read_into(self, target: memoryview, offset: int) -> None:
        (target[:],) = await self.read_ranges([(offset, len(target))])

    async def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        for offset, length in ranges:
            if offset < 0 or offset + length > len(self._data):
                raise ChunkMissing(f"object {self._tag} ends within {length} bytes at {offset}")
        return [self._data[offset : offset + length] for offset, length in ranges]

    async def aclose(self) -> None:
        """Nothing is held."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class MemoryBackend:
    """Objects in a dictionary; spool files are read from the runtime's disk and removed."""

    def __init__(
        self, runtime: Runtime, objects: dict[Tag, bytes] | None = None, *, bytes_max: int = ROOM_BYTES_DEFAULT
    ) -> None:
        self.objects = {} if objects is None else objects
        self._runtime = runtime
        self._bytes_max = bytes_max

    parts = None

    async def prepare(self) -> None:
        """Nothing to make ready."""

    async def store(self, tag: Tag, spool: Path, size_bytes: int) -> None:
        def read() -> bytes | None:
            try:
                file = self._runtime.disk.open_read(spool)
            except FileNotFoundError:
                return None
            try:
                data = bytearray(file.status().size_bytes)
                count = file.read_into(memoryview(data), 0)
                return bytes(data[:count])
            finally:
                file.close()

        data = await self._runtime.run_sync(read)
        if data is not None and len(data) == size_bytes:
            if size_bytes > await self.room_bytes() + len(self.objects.get(tag, b"")):
                raise StorageFull(f"{size_bytes} bytes, room for {await self.room_bytes()}")
            self.objects[tag] = data
        elif len(self.objects.get(tag, b"")) != size_bytes or tag not in self.objects:
            raise ChunkMissing(f"neither spool file nor object of {tag} is there with {size_bytes} bytes")
        await self._runtime.run_sync(self._runtime.disk.remove, spool)

    async def take_back(self, tag: Tag, spool: Path, size_bytes: int) -> None:
        await take_back_by_reading(self, self._runtime, tag, spool, size_bytes)

    async def open(self, tag: Tag) -> MemoryObject:
        if tag not in self.objects:
            raise ChunkMissing(f"no object {tag}")
        return MemoryObject(self.objects[tag], tag)

    async def size_of(self, tag: Tag) -> int | None:
        return len(self.objects[tag]) if tag in self.objects else None

    async def delete(self, tag: Tag) -> None:
        self.objects.pop(tag, None)

    async def list(self) -> dict[Tag, int]:
        return {tag: len(data) for tag, data in sorted(self.objects.items())}

    async def room_bytes(self) -> int:
        return max(0, self._bytes_max - sum(len(data) for data in self.objects.values()))
