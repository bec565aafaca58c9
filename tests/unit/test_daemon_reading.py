"""A range of a file is the same bytes wherever they lie: here, in storage, at a peer, or on their way."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
import trio
from support.daemon_node import SECONDS_MAX, World, call
from support.storage_node import some_bytes

from daemon.app import Daemon
from daemon.hashing import hash_file
from daemon.reading import READ_BYTES_MAX
from protocol.errors import CommandError, NotFound
from protocol.ids import Tag
from protocol.limits import MIB

SIZE = 20 * MIB + 12345


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def share(world: World, daemon: Daemon, path: Path) -> Tag:
    manifest, status = await hash_file(daemon.runtime, path)
    await daemon.library.add(manifest, path, status, path.name, "share")
    with trio.fail_after(SECONDS_MAX):
        await daemon.tracker_link.wait_connected()
        await world.tracker.wait(lambda: world.tracker.holds(daemon.name, manifest.tag))
    return manifest.tag


async def read(daemon: Daemon, what: str, offset: int, length: int) -> bytes:
    answer = await call(daemon, "read", what=what, offset=offset, length=length)
    assert answer["offset"] == offset and answer["size"] == SIZE
    return base64.b64decode(answer["data"])


RANGES = [(0, 10), (0, 0), (SIZE - 5, 100), (SIZE, 10), (SIZE + 99, 1), (8 * MIB - 3, 6), (5 * MIB, READ_BYTES_MAX)]


async def test_ranges_of_a_file_that_is_here(world: World, autojump_clock: object) -> None:
    data = some_bytes(SIZE)
    async with world.tracker.running(), world.daemon() as daemon:
        tag = await share(world, daemon, world.file("film", data))
        for offset, length in RANGES:
            assert await read(daemon, str(tag), offset, length) == data[offset : offset + length]
            assert await read(daemon, "film", offset, length) == data[offset : offset + length]
        with pytest.raises(CommandError, match="at most"):
            await read(daemon, str(tag), 0, READ_BYTES_MAX + 1)
        for wrong in (-1, 1.5, True, "1", None):
            with pytest.raises(CommandError, match="whole number"):
                await call(daemon, "read", what=str(tag), offset=wrong, length=1)


async def test_ranges_of_a_file_that_a_peer_has_bring_its_chunks_only(world: World, autojump_clock: object) -> None:
    data = some_bytes(SIZE)
    async with world.running(), world.daemon("anna") as anna, world.daemon("berta") as berta:
        await berta.tracker_link.wait_connected()
        tag = await share(world, anna, world.file("film", data))
        assert await read(berta, str(tag), SIZE - 5, 100) == data[-5:]
        manifest = await berta.library.manifest(tag)
        assert manifest is not None
        last = manifest.layout.bytes_of(tag.chunks - 1)
        received = berta.engine.statistics().received_bytes
        assert last <= received <= last + MIB, "one chunk, not the file"
        for offset, length in RANGES:
            assert await read(berta, str(tag), offset, length) == data[offset : offset + length]
        assert berta.library.holding(tag) is None, "nothing is kept that others could ask for"
        assert berta.engine.swarm_of(tag) is None


async def test_readers_and_a_get_of_one_file_do_not_disturb_each_other(world: World, autojump_clock: object) -> None:
    data = some_bytes(SIZE)
    async with world.running(), world.daemon("anna") as anna, world.daemon("berta") as berta:
        await berta.tracker_link.wait_connected()
        tag = await share(world, anna, world.file("film", data))
        output = world.folder / "out"

        async def compare(offset: int) -> None:
            assert await read(berta, str(tag), offset, 1000) == data[offset : offset + 1000]

        async with trio.open_nursery() as nursery:
            for offset in range(0, SIZE, 3 * MIB):
                nursery.start_soon(compare, offset)
            nursery.start_soon(lambda: call(berta, "get", what=str(tag), output=str(output)))
        assert output.read_bytes() == data


async def test_what_nobody_has_is_not_found(world: World, autojump_clock: object) -> None:
    async with world.running(), world.daemon() as daemon:
        await daemon.tracker_link.wait_connected()
        for what in ("no such name", str(Tag(bytes(32), 3))):
            with pytest.raises(NotFound):
                await read(daemon, what, 0, 10)


async def test_memory_is_given_back_when_nobody_reads(world: World, autojump_clock: object) -> None:
    async with world.running(), world.daemon("anna") as anna, world.daemon("berta") as berta:
        await berta.tracker_link.wait_connected()
        tag = await share(world, anna, world.file("film", some_bytes(SIZE)))
        await read(berta, str(tag), 0, 10)
        assert berta.reading._kept
        await trio.sleep(120)
        assert not berta.reading._kept


async def test_somebody_else_may_wait_for_a_job(world: World, autojump_clock: object) -> None:
    async with world.running(), world.daemon() as daemon:
        await daemon.tracker_link.wait_connected()
        begun = await call(daemon, "put", paths=[str(world.file("film", some_bytes(5 * MIB)))], wait="no")
        result = await call(daemon, "wait", id=begun["results"][0]["id"])
        assert result["state"] == "stored"
        got = await call(daemon, "get", what=result["tag"], output=str(world.folder / "again"))
        assert (await call(daemon, "wait", id=got["id"]))["state"] == "done"
        with pytest.raises(NotFound):
            await call(daemon, "wait", id="p99")
