"""What the storage node serves: only what is durable, through few open files, none closed under a reader's hands."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from support.storage_node import Site, manifest_of, some_bytes
from trio.testing import MockClock

from protocol.errors import ChunkMissing, StorageUnavailable
from protocol.limits import MIB
from storage.backends.base import StoredObject
from storage.holdings import StorageHoldings
from storage.shared import Shared, Turns

DATA = some_bytes(3 * MIB + 5)
TAG = manifest_of(DATA).tag


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


async def test_a_live_job_is_held_by_its_durable_chunks(autojump_clock: MockClock, site: Site) -> None:
    async with site.storage() as storage, site.uploader() as anna:
        assert storage.holdings.holding(TAG) is None
        assert await storage.holdings.manifest(TAG) is None
        await anna.begin_put(await anna.dial(), DATA, chunks=[1])
        await anna.wait_stored(TAG, 1)
        held = storage.holdings.holding(TAG)
        assert held is not None and list(held.bitmap) == [1]
        assert await storage.holdings.manifest(TAG) == manifest_of(DATA)
        block = memoryview(bytearray(1000))
        await storage.holdings.read_block(TAG, 1, 500, block)
        assert bytes(block) == DATA[MIB + 500 : MIB + 1500]
        with pytest.raises(ChunkMissing):
            await storage.holdings.read_block(TAG, 0, 0, block)


async def test_a_stored_file_is_held_whole(autojump_clock: MockClock, site: Site) -> None:
    async with site.storage() as storage, site.uploader() as anna:
        await anna.put(await anna.dial(), DATA)
        held = storage.holdings.holding(TAG)
        assert held is not None and held.bitmap.complete and held.layout.size_bytes == len(DATA)
        assert await storage.holdings.manifest(TAG) == manifest_of(DATA)
        block = memoryview(bytearray(5))
        await storage.holdings.read_block(TAG, 3, 0, block)
        assert bytes(block) == DATA[-5:]
        with pytest.raises(ChunkMissing):
            await storage.holdings.read_block(manifest_of(b"other").tag, 0, 0, block)


async def test_only_so_many_files_stay_open(autojump_clock: MockClock, site: Site) -> None:
    async with site.storage() as storage, site.uploader() as anna:
        link = await anna.dial()
        files = [some_bytes(100, seed) for seed in range(6)]
        tags = [(await anna.put(link, data)).tag for data in files]
        few = StorageHoldings(storage.shelf, storage.desk._ledger, storage.desk._backend, open_max=2)
        for _ in range(2):
            for tag, data in zip(tags, files, strict=True):
                block = memoryview(bytearray(100))
                await few.read_block(tag, 0, 0, block)
                assert bytes(block) == data
                assert len(few._open) <= 2

        async def read(tag, data) -> None:
            block = memoryview(bytearray(100))
            await few.read_block(tag, 0, 0, block)
            assert bytes(block) == data

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                for tag, data in zip(tags, files, strict=True):
                    nursery.start_soon(read, tag, data)
        assert len(few._open) <= 2
        await few.aclose()
        assert not few._open


async def test_a_shared_file_is_closed_once_by_who_retires_it_and_after_its_last_user() -> None:
    closed: list[bool] = []

    async def close() -> None:
        closed.append(True)

    shared = Shared("file", close)
    async with trio.open_nursery() as nursery, shared.use() as thing, shared.use():
        assert thing == "file"
        nursery.start_soon(shared.retire)
        await trio.testing.wait_all_tasks_blocked()
        assert not closed
        with pytest.raises(ChunkMissing):
            async with shared.use():
                pass
    assert closed == [True]
    await shared.retire()
    assert closed == [True]


async def test_turns_of_one_key_come_one_after_the_other_and_leave_nothing_behind() -> None:
    turns: Turns[str] = Turns()
    order: list[str] = []

    async def take(key: str, name: str) -> None:
        async with turns.of(key):
            order.append(f"{name} begins")
            await trio.testing.wait_all_tasks_blocked()
            order.append(f"{name} ends")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take, "a", "one")
        nursery.start_soon(take, "a", "two")
    assert [step.split()[1] for step in order] == ["begins", "ends", "begins", "ends"]
    assert not turns._locks


async def test_a_store_that_does_not_answer_is_away_and_its_file_is_not_gone(
    autojump_clock: MockClock, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site.storage() as storage, site.uploader() as anna:
        await anna.put(await anna.dial(), DATA)

        async def away(_tag: object) -> StoredObject:
            raise StorageUnavailable("not now", 1.0)

        monkeypatch.setattr(storage.desk._backend, "open", away)
        with pytest.raises(StorageUnavailable):
            await storage.holdings.read_block(TAG, 0, 0, memoryview(bytearray(10)))
        held = storage.holdings.holding(TAG)
        assert held is not None and held.bitmap.complete
        monkeypatch.undo()
        block = memoryview(bytearray(10))
        await storage.holdings.read_block(TAG, 0, 0, block)
        assert bytes(block) == DATA[:10]
