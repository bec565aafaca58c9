"""What every backend keeps (storage/backends/base.py). A subclass says how to make one: three lines."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
import trio

from protocol.errors import ChunkMissing
from protocol.ids import Tag
from runtime.seam import Runtime
from storage.backends.base import Backend, StoredObject

SIZES = [0, 1, 4096, 3 * 1024 * 1024 + 7]


def some(size: int, seed: int = 1) -> bytes:
    return random.Random(f"{seed} {size}").randbytes(size)


def tag_of(data: bytes, chunks: int = 1) -> Tag:
    return Tag(hashlib.sha256(data).digest(), chunks)


class BackendContract:
    """Inherited by the tests of each backend."""

    def make(self, runtime: Runtime, folder: Path, spool: Path) -> Backend:
        """Return a backend; called again with the same arguments it must see the same objects."""
        raise NotImplementedError

    @pytest.fixture
    def spool(self, tmp_path: Path) -> Path:
        folder = tmp_path / "spool"
        folder.mkdir()
        return folder

    @pytest.fixture
    async def backend(self, runtime: Runtime, tmp_path: Path, spool: Path) -> Backend:
        backend = self.make(runtime, tmp_path / "objects", spool)
        await backend.prepare()
        return backend

    async def put(self, backend: Backend, spool: Path, data: bytes) -> Tag:
        tag = tag_of(data)
        path = spool / str(tag)
        path.write_bytes(data)
        await backend.store(tag, path, len(data))
        return tag

    async def content(self, backend: Backend, tag: Tag) -> bytes:
        async with await backend.open(tag) as opened:
            data = bytearray(opened.size_bytes)
            await opened.read_into(memoryview(data), 0)
        return bytes(data)

    @pytest.mark.parametrize("size", SIZES)
    async def test_what_was_stored_reads_back(self, backend: Backend, spool: Path, size: int) -> None:
        tag = await self.put(backend, spool, some(size))
        assert await self.content(backend, tag) == some(size)
        assert await backend.size_of(tag) == size

    async def test_the_spool_file_is_gone_afterwards(self, backend: Backend, spool: Path) -> None:
        await self.put(backend, spool, some(100))
        assert list(spool.iterdir()) == []

    async def test_storing_again_after_it_was_done_is_done(self, backend: Backend, spool: Path) -> None:
        tag = await self.put(backend, spool, some(100))
        await backend.store(tag, spool / str(tag), 100)
        assert await self.content(backend, tag) == some(100)

    async def test_storing_over_an_older_object_replaces_it(self, backend: Backend, spool: Path) -> None:
        tag = await self.put(backend, spool, some(100))
        (spool / "again").write_bytes(some(50, seed=2))
        await backend.store(tag, spool / "again", 50)
        assert await self.content(backend, tag) == some(50, seed=2)

    async def test_a_spool_file_of_another_size_is_not_stored(self, backend: Backend, spool: Path) -> None:
        tag = tag_of(b"x")
        (spool / str(tag)).write_bytes(some(99))
        with pytest.raises(ChunkMissing):
            await backend.store(tag, spool / str(tag), 100)
        assert await backend.size_of(tag) is None

    async def test_storing_nothing_is_refused(self, backend: Backend, spool: Path) -> None:
        with pytest.raises(ChunkMissing):
            await backend.store(tag_of(b"x"), spool / "absent", 0)

    async def test_ranges_come_in_the_order_they_were_asked_for(self, backend: Backend, spool: Path) -> None:
        data = some(100_000)
        tag = await self.put(backend, spool, data)
        ranges = [(99_000, 1000), (0, 1), (5, 0), (40_000, 1024), (40_000, 1024)]
        async with await backend.open(tag) as opened:
            assert await opened.read_ranges(ranges) == [data[start : start + length] for start, length in ranges]

    @pytest.mark.parametrize(("offset", "length"), [(99, 2), (100, 1), (0, 101), (10**9, 1)])
    async def test_what_is_not_all_there_is_missing(
        self, backend: Backend, spool: Path, offset: int, length: int
    ) -> None:
        tag = await self.put(backend, spool, some(100))
        async with await backend.open(tag) as opened:
            with pytest.raises(ChunkMissing):
                await opened.read_into(memoryview(bytearray(length)), offset)
            with pytest.raises(ChunkMissing):
                await opened.read_ranges([(0, 1), (offset, length)])

    async def test_several_read_at_once(self, backend: Backend, spool: Path) -> None:
        data = some(200_000)
        tag = await self.put(backend, spool, data)
        found: dict[int, bytes] = {}

        async def read(opened: StoredObject, start: int) -> None:
            piece = bytearray(20_000)
            await opened.read_into(memoryview(piece), start)
            found[start] = bytes(piece)

        async with await backend.open(tag) as opened, trio.open_nursery() as reading:
            for start in range(0, 200_000, 20_000):
                reading.start_soon(read, opened, start)
        assert b"".join(found[start] for start in sorted(found)) == data

    async def test_what_was_never_stored_is_missing(self, backend: Backend) -> None:
        assert await backend.size_of(tag_of(b"no")) is None
        with pytest.raises(ChunkMissing):
            await backend.open(tag_of(b"no"))

    async def test_a_deleted_object_is_gone_and_deleting_again_is_fine(self, backend: Backend, spool: Path) -> None:
        tag = await self.put(backend, spool, some(10))
        await backend.delete(tag)
        await backend.delete(tag)
        assert await backend.size_of(tag) is None
        assert await backend.list() == {}
        with pytest.raises(ChunkMissing):
            await backend.open(tag)

    async def test_deleting_never_changes_what_an_open_object_reads(self, backend: Backend, spool: Path) -> None:
        tag = await self.put(backend, spool, some(1000))
        async with await backend.open(tag) as opened:
            await backend.delete(tag)
            await self.put(backend, spool, some(2000))
            data = bytearray(1000)
            try:
                await opened.read_into(memoryview(data), 0)
            except ChunkMissing:
                return
            assert bytes(data) == some(1000)

    @pytest.mark.parametrize("size", SIZES)
    async def test_an_object_that_is_taken_back_is_a_spool_file_again(
        self, backend: Backend, spool: Path, size: int
    ) -> None:
        tag = await self.put(backend, spool, some(size))
        target = spool / "again"
        target.write_bytes(b"something older")
        await backend.take_back(tag, target, size)
        assert target.read_bytes() == some(size)
        assert await backend.size_of(tag) is None and await backend.list() == {}
        # Called again after a crash it has nothing to do; and it can be stored again.
        await backend.take_back(tag, target, size)
        await backend.store(tag, target, size)
        assert await self.content(backend, tag) == some(size)

    async def test_what_is_not_there_cannot_be_taken_back(self, backend: Backend, spool: Path) -> None:
        with pytest.raises(ChunkMissing):
            await backend.take_back(tag_of(b"none"), spool / "x", 3)

    async def test_the_list_has_all_with_their_sizes_in_order(self, backend: Backend, spool: Path) -> None:
        tags = {await self.put(backend, spool, some(size)): size for size in range(20)}
        assert await backend.list() == tags
        assert list(await backend.list()) == sorted(tags)

    async def test_another_process_sees_what_was_stored(
        self, backend: Backend, runtime: Runtime, tmp_path: Path, spool: Path
    ) -> None:
        tag = await self.put(backend, spool, some(10))
        other = self.make(runtime, tmp_path / "objects", spool)
        await other.prepare()
        assert await other.list() == {tag: 10}
        assert await self.content(other, tag) == some(10)

    async def test_room_is_a_number_of_bytes(self, backend: Backend) -> None:
        assert await backend.room_bytes() >= 0
