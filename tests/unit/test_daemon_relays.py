"""A node that lends its line passes on what the storage node assigns, and nothing of it remains."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from support.daemon_node import SECONDS_MAX, World
from support.memory_discovery import MemoryLan
from support.storage_node import some_bytes

from daemon.app import Daemon
from daemon.hashing import hash_file
from daemon.putrecord import Put
from protocol.ids import Tag
from protocol.limits import MIB
from runtime.hosts import on_networks, own_networks

SIZE_BYTES = 12 * MIB
SLOW = 1_000_000.0


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.lan = MemoryLan()
    return world


async def begin_put(world: World, daemon: Daemon, data: bytes) -> tuple[Put, Tag]:
    """Begin a put and return when its job is open."""
    path = world.file("film", data)
    manifest, _ = await hash_file(daemon.runtime, path)
    put = await daemon.puts.put(path, "film")
    with trio.fail_after(SECONDS_MAX):
        while put.state.value != "sending":
            await put.changed.wait()
    return put, manifest.tag


async def until(condition) -> None:
    with trio.fail_after(SECONDS_MAX):
        while not condition():
            await trio.sleep(0.05)


async def test_a_relay_pushes_what_it_fetched_and_keeps_nothing(world: World, autojump_clock: object) -> None:
    data = some_bytes(SIZE_BYTES)
    async with world.tracker.running(), world.site.storage():
        world.tracker.assigned = world.site.address
        async with world.daemon("bert", lend=True) as relay, world.daemon(up_bytes_per_second=SLOW) as daemon:
            await until(lambda: relay.lan.near_nodes())
            put, tag = await begin_put(world, daemon, data)
            world.tracker.order_relay(relay.node, tag, world.site.address, daemon.node)
            await until(lambda: put.state.final)
            assert put.state.value == "stored"
            assert put.pushed[relay.node] >= MIB
            assert sum(put.pushed.values()) == SIZE_BYTES
            await until(lambda: not len(relay.relays))
            assert relay.library.holding(tag) is None
            assert not list((relay.config.places.state / "relay").iterdir())


async def test_who_does_not_lend_relays_nothing(world: World, autojump_clock: object) -> None:
    async with world.tracker.running(), world.site.storage():
        world.tracker.assigned = world.site.address
        async with world.daemon("bert") as idle, world.daemon(up_bytes_per_second=SLOW) as daemon:
            await until(lambda: idle.lan.near_nodes())
            put, tag = await begin_put(world, daemon, some_bytes(SIZE_BYTES))
            world.tracker.order_relay(idle.node, tag, world.site.address, daemon.node)
            await until(lambda: put.state.final)
            assert set(put.pushed) == {daemon.node} and not idle.neighbours.to(world.site.address.node)


async def test_who_is_near_nobody_that_has_it_dials_nobody(world: World, autojump_clock: object) -> None:
    world.lan = None
    async with world.tracker.running(), world.site.storage():
        world.tracker.assigned = world.site.address
        async with world.daemon("bert", lend=True) as relay, world.daemon(up_bytes_per_second=SLOW) as daemon:
            put, tag = await begin_put(world, daemon, some_bytes(SIZE_BYTES))
            world.tracker.order_relay(relay.node, tag, world.site.address, daemon.node)
            await until(lambda: put.state.final)
            assert set(put.pushed) == {daemon.node} and relay.orders.refused == 1


async def test_a_get_of_the_same_file_goes_first(world: World, autojump_clock: object) -> None:
    data = some_bytes(SIZE_BYTES)
    async with world.tracker.running(), world.site.storage():
        world.tracker.assigned = world.site.address
        async with world.daemon("bert", lend=True) as relay, world.daemon(up_bytes_per_second=SLOW) as daemon:
            await until(lambda: relay.lan.near_nodes())
            put, tag = await begin_put(world, daemon, data)
            world.tracker.order_relay(relay.node, tag, world.site.address, daemon.node)
            await until(lambda: relay.library.holding(tag) is not None)
            get = await relay.gets.get(tag, "film", world.folder / "got")
            await until(lambda: get.state.final and put.state.final)
            assert (world.folder / "got").read_bytes() == data and not len(relay.relays)


async def test_a_relay_that_gets_what_it_waits_for_dials_nobody_else(world: World, autojump_clock: object) -> None:
    async with world.tracker.running(), world.site.storage():
        world.tracker.assigned = world.site.address
        async with (
            world.daemon("bert", lend=True, up_bytes_per_second=SLOW) as relay,
            world.daemon("carl", lend=True, up_bytes_per_second=SLOW) as fellow,
            world.daemon(up_bytes_per_second=SLOW) as daemon,
        ):
            await until(lambda: len(relay.lan.near_nodes()) == 2 and fellow.lan.near_nodes())
            put, tag = await begin_put(world, daemon, some_bytes(SIZE_BYTES))
            for node in (relay.node, fellow.node):
                world.tracker.order_relay(node, tag, world.site.address, daemon.node)
            await until(lambda: all(one.library.holding(tag) is not None for one in (relay, fellow)))
            world.tracker.order_relay(relay.node, tag, world.site.address, daemon.node, fellow.node)
            await until(lambda: put.state.final)
            assert put.pushed[relay.node] >= MIB and relay.neighbours.to(daemon.node)
            assert relay.neighbours.to(fellow.node) is None


async def test_a_relay_that_waits_too_long_asks_others_too(world: World, autojump_clock: object) -> None:
    data = some_bytes(SIZE_BYTES)
    async with world.tracker.running(), world.site.storage():
        world.tracker.assigned = world.site.address
        async with (
            world.daemon("bert", lend=True) as relay,
            world.daemon("carl", up_bytes_per_second=SLOW) as holder,
            world.daemon(up_bytes_per_second=SLOW / 10, lan_exempt=False) as daemon,
        ):
            await until(lambda: len(relay.lan.near_nodes()) == 2)
            put, tag = await begin_put(world, daemon, data)
            copy = world.file("copy", data)
            manifest, status = await hash_file(holder.runtime, copy)
            await holder.library.add(manifest, copy, status, copy.name, "share")
            world.tracker.order_relay(relay.node, tag, world.site.address, daemon.node)
            await until(lambda: relay.neighbours.to(daemon.node))
            world.tracker.order_relay(relay.node, tag, world.site.address, daemon.node, holder.node)
            await until(lambda: put.state.final)
            assert relay.neighbours.to(holder.node) and put.pushed[relay.node] >= MIB


async def test_a_relay_ends_with_its_link_to_storage(world: World, autojump_clock: object) -> None:
    async with (
        world.tracker.running(),
        world.daemon("bert", lend=True) as relay,
        world.daemon(up_bytes_per_second=SLOW) as daemon,
    ):
        async with world.site.storage():
            world.tracker.assigned = world.site.address
            await until(lambda: relay.lan.near_nodes())
            _, tag = await begin_put(world, daemon, some_bytes(SIZE_BYTES))
            world.tracker.order_relay(relay.node, tag, world.site.address, daemon.node)
            await until(lambda: relay.library.holding(tag) is not None)
        await until(lambda: not len(relay.relays))
        assert relay.library.holding(tag) is None


def test_only_addresses_on_networks_of_ours_are_near() -> None:
    own = own_networks()
    assert on_networks(["127.0.0.1:1", "203.0.113.9:1", "storage.example.org:1"], own) == ("127.0.0.1:1",)
