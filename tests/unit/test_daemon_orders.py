"""An order is carried out when it is right, and costs a stranger next to nothing when it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from support.daemon_node import SECONDS_MAX, ToyStorage, World
from support.storage_node import manifest_of, some_bytes

from daemon.app import Daemon
from daemon.hashing import hash_file
from daemon.orders import PEER_SECONDS, STRANGE_TRIES_MAX
from protocol import messages as m
from protocol.ids import NodeAddress, Role, Tag
from protocol.limits import MIB
from runtime.link import Link


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def share(daemon: Daemon, path: Path) -> Tag:
    manifest, status = await hash_file(daemon.runtime, path)
    await daemon.library.add(manifest, path, status, path.name, "share")
    return manifest.tag


async def quiet(link: Link, message: m.Message) -> None:
    return None


async def test_a_holder_is_ordered_to_help_and_pushes(world: World, autojump_clock: object) -> None:
    data = some_bytes(8 * MIB)
    async with world.tracker.running(), world.site.storage():
        world.tracker.assigned = world.site.address
        async with world.daemon("bert") as helper, world.daemon("anna", up_bytes_per_second=200_000) as daemon:
            tag = await share(helper, world.file("helpers", data))
            await world.tracker.wait(lambda: world.tracker.holds("bert", tag))
            put = await daemon.puts.put(world.file("own", data), "own")
            with trio.fail_after(SECONDS_MAX):
                while not put.state.final:
                    await put.changed.wait()
            assert put.state.value == "stored"
            assert put.pushed[helper.node] > len(data) / 2
            assert helper.orders.carried_out >= 1
            assert "helped" in [event["event"] for event in helper.events.since()]


async def test_nobody_but_the_named_storage_node_gets_a_byte(world: World, autojump_clock: object) -> None:
    stranger = ToyStorage(world, quiet, name="stranger", role=Role.STORAGE, host="10.9.0.1")
    peer = ToyStorage(world, quiet, name="peer", role=Role.PEER, host="10.9.0.2")
    async with world.tracker.running(), stranger.running(), peer.running(), world.daemon() as daemon:
        tag = await share(daemon, world.file("film", b"secret" * 100))
        await world.tracker.wait(lambda: world.tracker.holds("anna", tag))
        targets = [
            NodeAddress(world.node("storage"), Role.STORAGE, stranger.address.addresses),
            NodeAddress(world.node("storage"), Role.STORAGE, peer.address.addresses),
            NodeAddress(world.node("peer"), Role.STORAGE, peer.address.addresses),
            NodeAddress(world.node("storage"), Role.PEER, peer.address.addresses),
            NodeAddress(world.node("tracker"), Role.TRACKER, stranger.address.addresses),
        ]
        for _ in range(20):
            for target in targets:
                world.tracker.order(daemon.node, tag, target)
            await trio.sleep(20)
        assert not stranger.heard and not peer.heard
        assert not stranger.links_seen and not peer.links_seen, "not even our certificate left"
        for address in (*stranger.address.addresses, *peer.address.addresses):
            assert 1 <= world.hub.dials.count(address) <= STRANGE_TRIES_MAX
        assert daemon.orders.carried_out == 0


async def test_a_peer_that_cannot_reach_us_is_dialled_by_order(world: World, autojump_clock: object) -> None:
    peer = ToyStorage(world, quiet, name="peer", role=Role.PEER, host="10.9.0.2")
    async with world.tracker.running(), peer.running(), world.daemon() as daemon:
        tag = await share(daemon, world.file("film", b"secret" * 100))
        await world.tracker.wait(lambda: world.tracker.holds("anna", tag))
        world.tracker.order(daemon.node, tag, peer.address)
        await trio.sleep(PEER_SECONDS / 2)
        assert not peer.links_seen, "it may dial us, and sooner"
        await trio.sleep(PEER_SECONDS + 1)
        assert [type(word) for word in peer.heard] == [m.Offer]


async def test_ten_thousand_orders_to_many_victims_make_few_dials(world: World, autojump_clock: object) -> None:
    async with world.tracker.running(), world.daemon() as daemon:
        tag = await share(daemon, world.file("film", b"secret" * 100))
        await world.tracker.wait(lambda: world.tracker.holds("anna", tag))
        before = len(world.hub.dials)
        for number in range(100):
            for name in range(10):
                target = NodeAddress(
                    world.node(f"victim {name}"), Role.STORAGE, tuple(f"10.8.{number}.{host}:80" for host in range(8))
                )
                world.tracker.order(daemon.node, tag, target)
        await trio.sleep(10)
        assert len(world.hub.dials) - before <= 4 + 4 * 10 + 1


async def test_orders_that_make_no_sense_are_not_carried_out(world: World, autojump_clock: object) -> None:
    storage = ToyStorage(world, quiet)
    async with world.tracker.running(), storage.running(), world.daemon() as daemon:
        tag = await share(daemon, world.file("film", b"x" * 100))
        await world.tracker.wait(lambda: world.tracker.holds("anna", tag))
        world.tracker.order(daemon.node, manifest_of(b"another").tag, storage.address)
        world.tracker.order(daemon.node, tag, storage.address, lifetime_seconds=0)
        world.tracker.order(daemon.node, tag, NodeAddress(daemon.node, Role.STORAGE, storage.address.addresses))
        world.tracker.order(daemon.node, tag, NodeAddress(storage.address.node, Role.STORAGE, ("10.0.0.1:0",)))
        world.tracker.order(daemon.node, tag, NodeAddress(storage.address.node, Role.STORAGE, ()))
        await trio.sleep(5)
        assert daemon.orders.refused == 5 and not storage.heard
        world.tracker.order(daemon.node, tag, storage.address)
        await trio.sleep(5)
        assert [type(word) for word in storage.heard] == [m.Offer]


async def test_an_order_that_is_being_carried_out_changes_nothing(world: World, autojump_clock: object) -> None:
    storage = ToyStorage(world, quiet)
    async with world.tracker.running(), storage.running(), world.daemon() as daemon:
        tag = await share(daemon, world.file("film", b"x" * 100))
        await world.tracker.wait(lambda: world.tracker.holds("anna", tag))
        for _ in range(5):
            world.tracker.order(daemon.node, tag, storage.address)
            await trio.sleep(5)
        assert len(storage.said(m.Offer)) == 1 and storage.links_seen == 1


async def test_a_storage_node_that_restarts_is_reached_again_by_the_next_order(
    world: World, autojump_clock: object
) -> None:
    async with world.tracker.running(), world.daemon() as daemon:
        tag = await share(daemon, world.file("film", b"x" * 100))
        await world.tracker.wait(lambda: world.tracker.holds("anna", tag))
        storage = ToyStorage(world, quiet)
        async with storage.running(port=4200):
            world.tracker.order(daemon.node, tag, storage.address)
            await trio.sleep(2)
        for _ in range(10):
            world.tracker.order(daemon.node, tag, storage.address)
            await trio.sleep(5)
        async with storage.running(port=4200):
            world.tracker.order(daemon.node, tag, storage.address)
            await trio.sleep(31)
            assert len(storage.said(m.Offer)) == 2
