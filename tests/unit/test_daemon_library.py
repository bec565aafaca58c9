"""What the node holds: served as long as it is unchanged, and known again after a restart."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from daemon.hashing import hash_file
from daemon.library import Library
from daemon.records import open_records
from protocol import messages as m
from protocol.bitmap import Bitmap
from protocol.errors import ChunkMissing, StorageFull
from protocol.ids import Tag
from protocol.limits import MIB
from protocol.manifest import Manifest
from runtime.real import real_runtime

RUNTIME = real_runtime()


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Library]:
    database = await open_records(RUNTIME, folder / "state")
    library = await Library.open(RUNTIME, database)
    try:
        yield library
    finally:
        await library.aclose()
        await database.aclose()


async def put(library: Library, path: Path, data: bytes, name: str = "name") -> Manifest:
    path.write_bytes(data)
    manifest, status = await hash_file(RUNTIME, path)
    await library.add(manifest, path, status, name, "put")
    return manifest


async def read(library: Library, tag: Tag, chunk: int = 0, offset: int = 0, length: int = 10) -> bytes:
    data = bytearray(length)
    await library.read_block(tag, chunk, offset, memoryview(data))
    return bytes(data)


async def test_blocks_are_those_of_the_file(tmp_path: Path) -> None:
    data = os.urandom(2 * MIB + 100)
    async with opened(tmp_path) as library:
        manifest = await put(library, tmp_path / "file", data)
        assert await read(library, manifest.tag, 1, 500, 3000) == data[MIB + 500 : MIB + 3500]
        found = await library.read_ranges(manifest.tag, [(MIB - 10, 300), (0, 5), (2 * MIB + 90, 10)])
        assert found == [data[MIB - 10 : MIB + 290], data[:5], data[2 * MIB + 90 :]]
        held = library.holding(manifest.tag)
        assert held is not None and held.bitmap.complete and held.layout == manifest.layout
        assert await library.manifest(manifest.tag) == manifest
        with pytest.raises(ChunkMissing):
            await library.read_ranges(manifest.tag, [(0, 5), (2 * MIB + 90, 11)])


async def test_a_restart_knows_every_file_without_hashing_it_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as library:
        manifest = await put(library, tmp_path / "file", b"x" * 1000, "a/b")
        before = library.files()
    async with opened(tmp_path) as library:
        assert library.files() == before
        assert await read(library, manifest.tag) == b"x" * 10
        assert await library.manifest(manifest.tag) == manifest
        remembered = await library.remembered(tmp_path / "file")
        assert remembered is not None and remembered.tag == manifest.tag
        (holding,) = library.holdings()
        assert holding.tag == manifest.tag and holding.names == ("a/b",) and holding.bitmap == b""


async def test_what_is_written_down_beside_a_file_is_written_with_it_or_neither_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"bytes")
    manifest, status = await hash_file(RUNTIME, tmp_path / "file")

    def full(cursor: Any) -> None:
        raise StorageFull("planted")

    def other_name(cursor: Any) -> None:
        cursor.execute("UPDATE files SET name = 'beside'")

    async with opened(tmp_path) as library:
        with pytest.raises(StorageFull, match="planted"):
            await library.add(manifest, tmp_path / "file", status, "name", "put", beside=full)
        assert library.holding(manifest.tag) is None
    async with opened(tmp_path) as library:
        assert not library.files(), "the transaction was undone"
        await library.add(manifest, tmp_path / "file", status, "name", "put", beside=other_name)
    async with opened(tmp_path) as library:
        assert [file.name for file in library.files()] == ["beside"]


async def test_a_file_that_changed_while_we_were_away_is_dropped(tmp_path: Path) -> None:
    async with opened(tmp_path) as library:
        kept = await put(library, tmp_path / "kept", b"kept")
        changed = await put(library, tmp_path / "changed", b"one")
        gone = await put(library, tmp_path / "gone", b"two")
    (tmp_path / "changed").write_bytes(b"ONE")
    (tmp_path / "gone").unlink()
    async with opened(tmp_path) as library:
        lost: list[Tag] = []
        library.on_lost = lost.append
        await library.look()
        assert lost == [changed.tag, gone.tag]
        assert [file.path.name for file in library.files()] == ["kept"]
        assert library.holding(kept.tag) is not None
        assert library.holding(changed.tag) is None and library.holding(gone.tag) is None
        assert await library.remembered(tmp_path / "changed") is None
    async with opened(tmp_path) as library:
        assert await library.manifest(changed.tag) is None, "its manifest is of no use any more"


async def test_a_file_that_is_put_while_we_look_is_left_alone(tmp_path: Path) -> None:
    async with opened(tmp_path) as library:
        old = await put(library, tmp_path / "file", b"one")
    (tmp_path / "file").write_bytes(b"another")
    async with opened(tmp_path) as library:
        async with trio.open_nursery() as looking:
            looking.start_soon(library.look)
            new = await put(library, tmp_path / "file", b"and another")
        assert library.holding(new.tag) is not None and library.holding(old.tag) is None


async def test_before_we_have_looked_a_changed_file_is_not_served(tmp_path: Path) -> None:
    async with opened(tmp_path) as library:
        changed = await put(library, tmp_path / "changed", b"one")
    (tmp_path / "changed").write_bytes(b"ONE")
    async with opened(tmp_path) as library:
        with pytest.raises(ChunkMissing):
            await read(library, changed.tag, length=3)
        assert library.holding(changed.tag) is None


async def test_a_changed_file_is_dropped_rather_than_served_wrong(tmp_path: Path) -> None:
    async with opened(tmp_path) as library:
        lost: list[Tag] = []
        library.on_lost = lost.append
        manifest = await put(library, tmp_path / "file", b"a" * 100)
        assert await read(library, manifest.tag) == b"a" * 10
        # Same size, and the time of change set back: only ctime tells.
        status = (tmp_path / "file").stat()
        (tmp_path / "file").write_bytes(b"b" * 100)
        os.utime(tmp_path / "file", ns=(status.st_atime_ns, status.st_mtime_ns))
        with pytest.raises(ChunkMissing):
            await read(library, manifest.tag)
        assert lost == [manifest.tag]
        assert library.holding(manifest.tag) is None
        assert library.files() == []


async def test_another_file_of_the_same_tag_takes_over(tmp_path: Path) -> None:
    async with opened(tmp_path) as library:
        lost: list[Tag] = []
        library.on_lost = lost.append
        manifest = await put(library, tmp_path / "one", b"same")
        await put(library, tmp_path / "two", b"same")
        (tmp_path / "one").unlink()
        assert await read(library, manifest.tag, length=4) == b"same"
        assert not lost
        (tmp_path / "two").unlink()
        with pytest.raises(ChunkMissing):
            await read(library, manifest.tag, length=4)
        assert lost == [manifest.tag]


async def test_a_replaced_file_is_served_as_what_it_is_now(tmp_path: Path) -> None:
    async with opened(tmp_path) as library:
        lost: list[Tag] = []
        library.on_lost = lost.append
        old = await put(library, tmp_path / "file", b"old bytes")
        assert await read(library, old.tag, length=9) == b"old bytes"
        (tmp_path / "file").unlink()
        new = await put(library, tmp_path / "file", b"new bytes")
        assert await read(library, new.tag, length=9) == b"new bytes"
        assert library.holding(old.tag) is None
        assert lost == [old.tag]


class MemorySource:
    def __init__(self, data: bytes) -> None:
        self.data = data

    async def read_block(self, chunk: int, offset: int, target: memoryview) -> None:
        start = chunk * MIB + offset
        target[:] = self.data[start : start + len(target)]


async def test_a_download_offers_what_is_verified_and_nothing_else(tmp_path: Path) -> None:
    data = os.urandom(3 * MIB)
    (tmp_path / "else").write_bytes(data)
    manifest, _ = await hash_file(RUNTIME, tmp_path / "else")
    async with opened(tmp_path) as library:
        told: list[m.Holding] = []
        library.on_held = told.append
        library.begin_partial(manifest, MemorySource(data), Bitmap(3), "film")
        assert library.holding(manifest.tag) is None and not told
        library.grow_partial(manifest.tag, 1)
        assert told[-1].bitmap == b"\x02" and told[-1].names == ("film",)
        assert await read(library, manifest.tag, 1, 7, 20) == data[MIB + 7 : MIB + 27]
        with pytest.raises(ChunkMissing):
            await read(library, manifest.tag, 0)
        lost: list[Tag] = []
        library.on_lost = lost.append
        library.end_partial(manifest.tag)
        assert lost == [manifest.tag]


async def test_what_is_withheld_is_not_there_for_others(tmp_path: Path) -> None:
    async with opened(tmp_path) as library:
        manifest = await put(library, tmp_path / "file", b"x" * 20)
        lost: list[Tag] = []
        told: list[m.Holding] = []
        library.on_lost, library.on_held = lost.append, told.append
        library.withhold(manifest.tag)
        assert lost == [manifest.tag] and library.holding(manifest.tag) is None and not list(library.holdings())
        with pytest.raises(ChunkMissing):
            await read(library, manifest.tag)
        library.offer_again(manifest.tag)
        assert told[-1].tag == manifest.tag
        assert await read(library, manifest.tag) == b"x" * 10


async def test_a_put_under_way_is_own_and_help_otherwise(tmp_path: Path) -> None:
    async with opened(tmp_path) as library:
        manifest = await put(library, tmp_path / "file", b"x")

        def own() -> bool:
            held = library.holding(manifest.tag)
            assert held is not None
            return held.own

        assert not own()
        library.want_stored(manifest.tag)
        assert own()
        library.want_stored_no_more(manifest.tag)
        assert not own()
        file = library.file(tmp_path / "file")
        assert file is not None
        await library.add(manifest, file.path, file.status, "name", "share")
        assert own()
