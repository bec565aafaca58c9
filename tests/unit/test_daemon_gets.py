"""A get ends with the very file in its place, or says why not: from storage and peers, through restarts, on a LAN."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
from support.daemon_node import SECONDS_MAX, World
from support.storage_node import manifest_of, some_bytes

import daemon.app
import exchange.spool
from daemon.app import Daemon
from daemon.getrecord import Get, GetState
from daemon.hashing import hash_file
from protocol.errors import CommandError, LinkLost, NotFound, StorageFull
from protocol.ids import NodeAddress, Role, Tag
from protocol.limits import MIB
from runtime.discovery import LanNode
from runtime.real import RealFile


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def ended(daemon: Daemon, get: Get) -> Get:
    async def nothing(_: Get) -> None:
        return None

    with trio.fail_after(SECONDS_MAX * 3):
        await daemon.gets.wait(get, nothing)
    return get


async def fetched(get: Get, size_bytes: int) -> None:
    with trio.fail_after(SECONDS_MAX):
        while get.bytes_done < size_bytes:
            await get.changed.wait()


async def share(world: World, daemon: Daemon, path: Path) -> Tag:
    manifest, status = await hash_file(daemon.runtime, path)
    await daemon.library.add(manifest, path, status, path.name, "share")
    if daemon.tracker_link.connected:
        await world.tracker.wait(lambda: world.tracker.holds(daemon.name, manifest.tag))
    return manifest.tag


def spoil(part: Path, chunks: int, word: bytes) -> None:
    """Write ``word`` into each of the first ``chunks`` chunks of what was fetched so far."""
    with part.open("r+b") as file:
        for chunk in range(chunks):
            file.seek(chunk * MIB + 1000)
            file.write(word)


async def connected(daemon: Daemon) -> Daemon:
    with trio.fail_after(SECONDS_MAX):
        await daemon.tracker_link.wait_connected()
    return daemon


async def test_a_stored_file_comes_back_by_tag_name_and_link(world: World, autojump_clock: object) -> None:
    data = some_bytes(3 * MIB + 5)
    async with world.running():
        async with world.daemon("anna") as anna:
            put = await anna.puts.put(world.file("film", data), "films/film")
            with trio.fail_after(SECONDS_MAX):
                while not put.state.final:
                    await put.changed.wait()
        tag = manifest_of(data).tag
        await world.tracker.wait(lambda: world.tracker.holds("storage", tag))
        async with world.daemon("bert", download_folder=world.folder / "in") as bert:
            await connected(bert)
            for number, (what, name) in enumerate([(tag, ""), ("films/film", ""), (tag, "other")]):
                target = world.folder / f"copy{number}"
                get = await ended(bert, await bert.gets.get(what, name, target))
                assert get.state is GetState.DONE and target.read_bytes() == data
            assert get.name == "other"
            get = await ended(bert, await bert.gets.get("films/film", "", None))
            assert get.target == world.folder / "in" / "films" / "film" and get.target.read_bytes() == data
            assert not [name for name in os.listdir(world.folder) if name.endswith(".upswarm-part")]
            # The second and later copies come from this machine.
            assert bert.engine.statistics().received_bytes < 2 * len(data)
            await world.tracker.wait(lambda: world.tracker.holds("bert", tag))


async def test_several_holders_share_the_work(world: World, autojump_clock: object) -> None:
    data = some_bytes(20 * MIB)
    async with world.tracker.running():
        cap = {"up_bytes_per_second": 1e6}
        async with (
            world.daemon("anna", **cap) as anna,
            world.daemon("bert", **cap) as bert,
            world.daemon("carl") as carl,
        ):
            for holder in (anna, bert):
                await connected(holder)
                tag = await share(world, holder, world.file(f"film of {holder.name}", data))
            await connected(carl)
            get = await ended(carl, await carl.gets.get(tag, "", world.folder / "copy"))
            assert get.state is GetState.DONE and get.target.read_bytes() == data
            assert set(get.from_nodes) == {anna.node, bert.node}
            assert min(get.from_nodes.values()) > len(data) / 4


async def test_a_download_goes_on_where_it_was(world: World, autojump_clock: object) -> None:
    data = some_bytes(20 * MIB)
    async with world.tracker.running(), world.daemon("anna", up_bytes_per_second=1e6) as anna:
        await connected(anna)
        tag = await share(world, anna, world.file("film", data))
        async with world.daemon("bert") as bert:
            await connected(bert)
            get = await bert.gets.get(tag, "", world.folder / "copy")
            await fetched(get, 10 * MIB)
            assert not get.target.exists() and get.part.exists()
            first = bert.engine.statistics().received_bytes
        async with world.daemon("bert") as bert:
            (again,) = bert.gets.all()
            assert again.id == get.id
            await ended(bert, again)
            assert again.state is GetState.DONE and again.target.read_bytes() == data
            assert bert.engine.statistics().received_bytes + first < len(data) + 4 * MIB
            assert not get.part.exists()


async def test_what_was_spoiled_on_disk_meanwhile_is_fetched_again(world: World, autojump_clock: object) -> None:
    data = some_bytes(10 * MIB)
    async with world.tracker.running(), world.daemon("anna", up_bytes_per_second=1e6) as anna:
        await connected(anna)
        tag = await share(world, anna, world.file("film", data))
        async with world.daemon("bert") as bert:
            await connected(bert)
            get = await bert.gets.get(tag, "", world.folder / "copy")
            await fetched(get, 6 * MIB)
        spoil(get.part, 10, b"spoiled")
        async with world.daemon("bert") as bert:
            (again,) = bert.gets.all()
            await ended(bert, again)
            assert again.state is GetState.DONE and again.target.read_bytes() == data


async def test_a_chunk_that_rots_before_the_end_is_fetched_again(
    world: World, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = some_bytes(10 * MIB)
    monkeypatch.setattr(exchange.spool, "FRESH_SECONDS", 0.0)  # as if it had taken long
    async with world.tracker.running(), world.daemon("anna", up_bytes_per_second=1e6) as anna:
        await connected(anna)
        tag = await share(world, anna, world.file("film", data))
        async with world.daemon("bert") as bert:
            await connected(bert)
            get = await bert.gets.get(tag, "", world.folder / "copy")
            await fetched(get, 5 * MIB)
            spoil(get.part, 10, b"rotten")
            await ended(bert, get)
            assert get.state is GetState.DONE and get.target.read_bytes() == data


async def test_a_different_file_in_the_way_is_never_overwritten(world: World, autojump_clock: object) -> None:
    data = some_bytes(2 * MIB)
    async with world.tracker.running(), world.daemon("anna") as anna, world.daemon("bert") as bert:
        await connected(anna)
        await connected(bert)
        tag = await share(world, anna, world.file("film", data))
        mine = world.file("mine", b"precious")
        with pytest.raises(CommandError, match="another file") as caught:
            await bert.gets.get(tag, "", mine)
        assert caught.value.code == "exists" and mine.read_bytes() == b"precious"
        same = world.file("same", data)
        get = await ended(bert, await bert.gets.get(tag, "", same))
        assert get.state is GetState.DONE and bert.engine.statistics().received_bytes == 0
        # It may also appear while we fetch.
        anna.engine.set_budgets(up=200_000, help=None)
        get = await bert.gets.get(tag, "", world.folder / "late")
        assert get.target == world.folder / "late"


async def test_a_file_that_appears_in_the_way_meanwhile_is_not_overwritten(
    world: World, autojump_clock: object
) -> None:
    data = some_bytes(4 * MIB)
    async with (
        world.tracker.running(),
        world.daemon("anna", up_bytes_per_second=500_000) as anna,
        world.daemon("bert") as bert,
    ):
        await connected(anna)
        await connected(bert)
        tag = await share(world, anna, world.file("film", data))
        get = await bert.gets.get(tag, "", world.folder / "copy")
        await fetched(get, 2 * MIB)
        (world.folder / "copy").write_bytes(b"precious")
        await ended(bert, get)
        assert get.state is GetState.FAILED and get.error is not None and get.error.code == "exists"
        assert (world.folder / "copy").read_bytes() == b"precious"


async def test_a_name_that_leads_out_is_refused(world: World, autojump_clock: object) -> None:
    async with world.tracker.running(), world.daemon("anna") as anna, world.daemon("bert") as bert:
        await connected(anna)
        await connected(bert)
        path = world.file("film", b"x" * 100)
        manifest, status = await hash_file(anna.runtime, path)
        await anna.library.add(manifest, path, status, "../../evil", "share")
        await world.tracker.wait(lambda: world.tracker.holds("anna", manifest.tag))
        with pytest.raises(CommandError, match="-o PATH") as caught:
            await bert.gets.get(manifest.tag, "", None)
        assert caught.value.exit_code == 6
        get = await ended(bert, await bert.gets.get(manifest.tag, "", world.folder / "copy"))
        assert get.target.read_bytes() == b"x" * 100


async def test_a_link_in_the_way_of_a_name_is_not_followed(world: World, autojump_clock: object) -> None:
    inside = world.folder / "in"
    inside.mkdir()
    (inside / "films").symlink_to(world.folder)
    async with world.tracker.running(), world.daemon("anna") as anna:
        await connected(anna)
        path = world.file("film", b"x" * 100)
        manifest, status = await hash_file(anna.runtime, path)
        await anna.library.add(manifest, path, status, "films/film", "share")
        await world.tracker.wait(lambda: world.tracker.holds("anna", manifest.tag))
        async with world.daemon("bert", download_folder=inside) as bert:
            await connected(bert)
            with pytest.raises(CommandError, match="in the way"):
                await bert.gets.get(manifest.tag, "", None)


async def test_what_nobody_knows_is_not_found(world: World, autojump_clock: object) -> None:
    async with world.tracker.running(), world.daemon() as daemon:
        await connected(daemon)
        for what in (manifest_of(b"nothing").tag, "no such name"):
            with pytest.raises(NotFound) as caught:
                await daemon.gets.get(what, "", world.folder / "copy")
            assert caught.value.exit_code == 4
        assert not daemon.gets.all()


async def test_a_holder_that_cannot_be_dialled_may_dial_us_and_if_it_cannot_we_say_so(
    world: World, autojump_clock: object
) -> None:
    data = some_bytes(3 * MIB)
    async with world.tracker.running(), world.daemon("anna") as anna, world.daemon("bert") as bert:
        for daemon in (anna, bert):
            await connected(daemon)
        tag = await share(world, anna, world.file("film", data))
        world.hub.refused.add(anna.listen)
        with pytest.raises(NotFound, match="both sides may be behind NAT"):
            await bert.gets.get(tag, "", world.folder / "copy")
        assert not bert.gets.all()

        target = NodeAddress(bert.node, Role.PEER, (bert.listen,))
        async with trio.open_nursery() as asking:
            asking.start_soon(bert.gets.get, tag, "", world.folder / "copy")
            await trio.sleep(0.5)
            world.tracker.order(anna.node, tag, target)
        (get,) = bert.gets.all()
        await ended(bert, get)
        assert get.state is GetState.DONE and get.target.read_bytes() == data


async def test_two_daemons_exchange_a_file_by_tag_without_a_tracker(world: World, autojump_clock: object) -> None:
    data = some_bytes(3 * MIB)
    async with world.daemon("anna") as anna, world.daemon("bert") as bert:
        tag = await share(world, anna, world.file("film", data))
        bert.lan.found(LanNode(anna.node, anna.links.credentials.role, (anna.listen,)))
        get = await ended(bert, await bert.gets.get(tag, "", world.folder / "copy"))
        assert get.state is GetState.DONE and get.target.read_bytes() == data
        with pytest.raises(NotFound, match="LAN"):
            await bert.gets.get(manifest_of(b"nothing").tag, "", world.folder / "other")
        with pytest.raises(LinkLost):
            await bert.gets.get("a name", "", world.folder / "other")


async def test_a_download_helps_the_upload_it_feeds_on(world: World, autojump_clock: object) -> None:
    data = some_bytes(16 * MIB)
    async with world.running(), world.daemon("anna", up_bytes_per_second=1e6) as anna, world.daemon("bert") as bert:
        await connected(anna)
        await connected(bert)
        put = await anna.puts.put(world.file("film", data), "film")
        with trio.fail_after(SECONDS_MAX):
            while put.bytes_stored < 2 * MIB:
                await put.changed.wait()
        get = await bert.gets.get("film", "", world.folder / "copy")
        with trio.fail_after(SECONDS_MAX):
            while not put.state.final:
                await put.changed.wait()
        assert put.state.value == "stored"
        await ended(bert, get)
        assert get.state is GetState.DONE and get.target.read_bytes() == data
        assert bert.orders.carried_out >= 1


async def test_a_get_that_nobody_can_finish_ends_unfinished_and_the_next_one_goes_on(
    world: World, autojump_clock: object
) -> None:
    data = some_bytes(10 * MIB)
    path = world.file("film", data)
    async with world.tracker.running(), world.daemon("bert") as bert:
        await connected(bert)
        async with world.daemon("anna", up_bytes_per_second=1e6) as anna:
            await connected(anna)
            tag = await share(world, anna, path)
            get = await bert.gets.get(tag, "", world.folder / "copy")
            await fetched(get, 5 * MIB)
        await ended(bert, get)
        assert get.state is GetState.FAILED and get.error is not None and get.error.exit_code == 7
        received = bert.engine.statistics().received_bytes
        async with world.daemon("anna") as anna:
            await connected(anna)
            await world.tracker.wait(lambda: world.tracker.holds("anna", tag))
            again = await ended(bert, await bert.gets.get(tag, "", world.folder / "copy"))
            assert again.state is GetState.DONE and again.target.read_bytes() == data
            assert bert.engine.statistics().received_bytes - received < 6 * MIB


async def test_a_cancelled_get_leaves_nothing_behind(world: World, autojump_clock: object) -> None:
    data = some_bytes(10 * MIB)
    async with (
        world.tracker.running(),
        world.daemon("anna", up_bytes_per_second=1e6) as anna,
        world.daemon("bert") as bert,
    ):
        await connected(anna)
        await connected(bert)
        tag = await share(world, anna, world.file("film", data))
        get = await bert.gets.get(tag, "", world.folder / "in" / "copy")
        await fetched(get, 2 * MIB)
        await bert.gets.pause(get)
        await trio.sleep(30)
        done = get.bytes_done
        await trio.sleep(30)
        assert get.bytes_done == done < len(data)
        await bert.gets.resume(get)
        await fetched(get, done + MIB)
        await bert.gets.cancel(get)
        assert get.state is GetState.CANCELLED
        await trio.sleep(5)
        assert not list((world.folder / "in").iterdir())
        assert bert.library.holding(tag) is None


async def test_a_get_for_which_there_is_no_room_at_all_leaves_nothing_behind(
    world: World, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = some_bytes(2 * MIB)
    async with world.tracker.running(), world.daemon("anna") as anna, world.daemon("bert") as bert:
        await connected(anna)
        await connected(bert)
        tag = await share(world, anna, world.file("film", data))
        target = world.folder / "in" / "copy"

        def refuse(self: RealFile, size_bytes: int) -> None:
            raise StorageFull("resize: No space left on device")

        with monkeypatch.context() as full:
            full.setattr(RealFile, "resize", refuse)
            get = await ended(bert, await bert.gets.get(tag, "", target))
        assert get.state is GetState.FAILED and get.error is not None and get.error.exit_code == 9
        assert not list(target.parent.iterdir())
        again = await ended(bert, await bert.gets.get(tag, "", target))
        assert again.state is GetState.DONE and target.read_bytes() == data


async def test_the_tracker_may_come_back_with_an_empty_mind(world: World, autojump_clock: object) -> None:
    async with world.daemon("anna") as anna, world.daemon("bert") as bert:
        tag = await share(world, anna, world.file("film", b"x" * 1000))
        async with world.tracker.running():
            await connected(anna)
            await connected(bert)
        async with world.tracker.running():
            world.tracker.answer_where = lambda where: None
            await connected(bert)
            get = await ended(bert, await bert.gets.get(tag, "", world.folder / "copy"))
            assert get.state is GetState.DONE


async def test_a_cap_on_downloads_holds(world: World, autojump_clock: object) -> None:
    data = some_bytes(8 * MIB)
    # They are in one network, which has no caps unless that is wanted.
    running = world.tracker.running()
    async with running, world.daemon("anna") as anna, world.daemon("bert", lan_exempt=False) as bert:
        await connected(anna)
        await connected(bert)
        await bert.settings.change(down=1e6)
        bert.apply_settings()
        tag = await share(world, anna, world.file("film", data))
        begin = trio.current_time()
        get = await ended(bert, await bert.gets.get(tag, "", world.folder / "copy"))
        assert get.target.read_bytes() == data
        assert 0.75 * len(data) / 1e6 < trio.current_time() - begin < 1.5 * len(data) / 1e6


async def test_a_daemon_that_starts_tells_of_all_its_files_some_at_a_time(
    world: World, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon.app, "HOLDINGS_BATCH", 2)
    async with world.daemon("anna") as anna:
        tags = [await share(world, anna, world.file(str(number), bytes([number]))) for number in range(7)]
    async with world.daemon("anna") as anna:
        # Dropped before anybody was told of it.
        await anna.library.drop(world.folder / "files" / "5")
        async with world.tracker.running():
            held = world.tracker.held
            await world.tracker.wait(lambda: set(held.get(anna.node, ())) == {*tags[:5], tags[6]})
