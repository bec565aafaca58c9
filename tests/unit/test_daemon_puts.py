"""A put ends stored, or says why not: with a real storage node, with a strange one, and through restarts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from support.daemon_node import SECONDS_MAX, ToyStorage, World
from support.storage_node import manifest_of, some_bytes

from daemon.app import Daemon
from daemon.putrecord import Put, PutState
from daemon.records import DATABASE_NAME
from protocol import messages as m
from protocol.errors import StorageFull
from protocol.ids import NodeAddress, Role
from protocol.limits import MIB
from runtime.database import SqliteDatabase
from runtime.link import Link


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def ended(daemon: Daemon, put: Put) -> Put:
    async def nothing(_: Put) -> None:
        return None

    with trio.fail_after(SECONDS_MAX):
        await daemon.puts.wait(put, "stored", nothing)
    return put


async def arrived(put: Put, size_bytes: int) -> None:
    with trio.fail_after(SECONDS_MAX):
        while put.bytes_stored < size_bytes:
            await put.changed.wait()


async def test_a_file_is_stored_and_stays_in_the_library(world: World, autojump_clock: object) -> None:
    data = some_bytes(3 * MIB + 17)
    async with world.running(), world.daemon() as daemon:
        put = await ended(daemon, await daemon.puts.put(world.file("film", data), "film"))
        assert put.state is PutState.STORED and not put.instant and put.error is None
        assert put.tag == manifest_of(data).tag
        assert put.pushed == {daemon.node: len(data)}
        assert daemon.library.holding(put.tag) is not None
        await world.tracker.wait(lambda: world.tracker.holds("anna", manifest_of(data).tag))
        assert [event["event"] for event in daemon.events.since()][-1] == "put stored"


async def test_an_empty_file_is_stored(world: World, autojump_clock: object) -> None:
    async with world.running(), world.daemon() as daemon:
        put = await ended(daemon, await daemon.puts.put(world.file("nothing", b""), "nothing"))
        assert put.state is PutState.STORED


async def test_what_storage_has_already_is_proven_and_not_sent(world: World, autojump_clock: object) -> None:
    data = some_bytes(2 * MIB)
    async with world.running(), world.daemon() as anna, world.daemon("bert") as bert:
        await ended(anna, await anna.puts.put(world.file("one", data), "one"))
        put = await ended(bert, await bert.puts.put(world.file("two", data), "two"))
        assert put.state is PutState.STORED and put.instant
        assert bert.engine.statistics().sent_own_bytes == 0
        assert bert.engine.statistics().sent_help_bytes == 0


async def test_two_daemons_that_put_the_same_file_share_the_job(world: World, autojump_clock: object) -> None:
    data = some_bytes(8 * MIB)
    async with world.running(), world.daemon() as anna, world.daemon("bert") as bert:
        one = await anna.puts.put(world.file("one", data), "one")
        two = await bert.puts.put(world.file("two", data), "two")
        assert (await ended(anna, one)).state is PutState.STORED
        assert (await ended(bert, two)).state is PutState.STORED
        sent = anna.engine.statistics().sent_own_bytes + bert.engine.statistics().sent_own_bytes
        assert sent < 1.5 * len(data)


async def test_a_put_goes_on_after_the_daemon_was_stopped(world: World, autojump_clock: object) -> None:
    data = some_bytes(2 * MIB)
    path = world.file("film", data)
    async with world.daemon() as daemon:
        put = await daemon.puts.put(path, "film")
        with trio.fail_after(SECONDS_MAX):
            while put.tag is None:
                await put.changed.wait()
    async with world.running(), world.daemon() as daemon:
        (again,) = daemon.puts.all()
        assert again.id == put.id and again.tag == put.tag
        assert (await ended(daemon, again)).state is PutState.STORED
    async with world.daemon() as daemon:
        assert [(one.state, one.bytes_stored) for one in daemon.puts.all()] == [(PutState.STORED, len(data))]


async def test_a_put_goes_on_when_storage_comes_back(world: World, autojump_clock: object) -> None:
    data = some_bytes(20 * MIB)
    async with world.tracker.running(), world.daemon(up_bytes_per_second=1e6) as daemon:
        async with world.site.storage():
            world.tracker.assigned = world.site.address
            put = await daemon.puts.put(world.file("film", data), "film")
            await arrived(put, 5 * MIB)
        async with world.site.storage():
            world.tracker.assigned = world.site.address
            await daemon.settings.change(up=None)
            daemon.apply_settings()
            assert (await ended(daemon, put)).state is PutState.STORED
        # What was acknowledged before is not sent again; at most what was on its way is.
        assert daemon.engine.statistics().sent_own_bytes < len(data) + 8 * MIB


async def test_a_file_that_changes_while_it_is_sent_fails_the_put(world: World, autojump_clock: object) -> None:
    data = some_bytes(20 * MIB)
    async with world.running(), world.daemon(up_bytes_per_second=1e6) as daemon:
        path = world.file("film", data)
        put = await daemon.puts.put(path, "film")
        await arrived(put, 2 * MIB)
        path.write_bytes(some_bytes(20 * MIB, seed=2))
        await ended(daemon, put)
        assert put.state is PutState.FAILED
        assert put.error is not None and put.error.code == "changed" and put.error.exit_code == 5


async def test_a_file_that_was_only_touched_is_sent_on(world: World, autojump_clock: object) -> None:
    data = some_bytes(10 * MIB)
    async with world.running(), world.daemon(up_bytes_per_second=1e6) as daemon:
        path = world.file("film", data)
        put = await daemon.puts.put(path, "film")
        await arrived(put, 2 * MIB)
        path.chmod(0o600)
        path.touch()
        assert (await ended(daemon, put)).state is PutState.STORED


async def test_a_file_that_is_not_there_fails_the_put(world: World, autojump_clock: object) -> None:
    async with world.daemon() as daemon:
        put = await ended(daemon, await daemon.puts.put(world.folder / "absent", "absent"))
        assert put.state is PutState.FAILED and put.error is not None and put.error.exit_code == 4


async def test_a_paused_put_offers_nothing_until_it_is_resumed(world: World, autojump_clock: object) -> None:
    data = some_bytes(10 * MIB)
    async with world.running(), world.daemon(up_bytes_per_second=1e6) as daemon:
        put = await daemon.puts.put(world.file("film", data), "film")
        await arrived(put, 2 * MIB)
        await daemon.puts.pause(put)
        assert put.tag is not None and daemon.library.holding(put.tag) is None
        await trio.sleep(60)
        stored = put.bytes_stored
        await trio.sleep(60)
        assert put.bytes_stored == stored < len(data)
        await daemon.puts.resume(put)
        assert (await ended(daemon, put)).state is PutState.STORED


async def test_a_cancelled_put_is_withdrawn(world: World, autojump_clock: object) -> None:
    data = some_bytes(10 * MIB)
    async with world.running(), world.daemon(up_bytes_per_second=1e6) as daemon:
        put = await daemon.puts.put(world.file("film", data), "film")
        await arrived(put, 2 * MIB)
        await daemon.puts.cancel(put)
        assert put.state is PutState.CANCELLED
        await world.tracker.wait(lambda: not world.tracker.jobs)


# --- storage nodes that are hard to talk to ---


async def test_no_room_anywhere_fails_with_no_space_after_a_few_tries(world: World, autojump_clock: object) -> None:
    async def script(link: Link, message: m.Message) -> None:
        if isinstance(message, m.Propose):
            link.post(m.Failure(request=message.request, code="no-space", reason="full"))

    async with world.tracker.running(), ToyStorage(world, script).running() as storage, world.daemon() as daemon:
        world.tracker.assigned = storage.address
        put = await ended(daemon, await daemon.puts.put(world.file("film", b"x"), "film"))
        assert put.error is not None and put.error.exit_code == 9
        assert 2 <= len(storage.said(m.Propose)) <= 8


async def test_a_refusal_is_final(world: World, autojump_clock: object) -> None:
    async def script(link: Link, message: m.Message) -> None:
        if isinstance(message, m.Propose):
            link.post(m.Failure(request=message.request, code="refused", reason="not you"))

    async with world.tracker.running(), ToyStorage(world, script).running() as storage, world.daemon() as daemon:
        world.tracker.assigned = storage.address
        put = await ended(daemon, await daemon.puts.put(world.file("film", b"x"), "film"))
        assert put.error is not None and put.error.exit_code == 6 and "not you" in put.error.sentence
        assert len(storage.said(m.Propose)) == 1


async def test_stored_without_proven_is_proposed_again(world: World, autojump_clock: object) -> None:
    data = some_bytes(1000)
    tag = manifest_of(data).tag
    proposals = 0

    async def script(link: Link, message: m.Message) -> None:
        nonlocal proposals
        if isinstance(message, m.Propose):
            proposals += 1
            state = m.DeskState.PARTLY if proposals == 1 else m.DeskState.STORED
            ranges = (m.Range(offset=10, length=20),) if state is m.DeskState.STORED else ()
            link.post(
                m.DeskAnswer(
                    request=message.request, tag=tag, state=state, bitmap=b"\0", nonce=b"n" * 32, ranges=ranges
                )
            )
        elif isinstance(message, m.Offer):
            link.post(m.JobClosed(tag=tag, state=m.JobState.STORED, proven=False, reason=""))
        elif isinstance(message, m.Proof):
            link.post(m.JobClosed(tag=tag, state=m.JobState.STORED, proven=True, reason=""))

    async with world.tracker.running(), ToyStorage(world, script).running() as storage, world.daemon() as daemon:
        world.tracker.assigned = storage.address
        put = await ended(daemon, await daemon.puts.put(world.file("film", data), "film"))
        assert put.state is PutState.STORED and not put.instant
        assert [type(word) for word in storage.heard] == [m.Propose, m.Offer, m.Propose, m.Proof]


async def test_a_job_that_falls_silent_is_proposed_again(world: World, autojump_clock: object) -> None:
    data = some_bytes(1000)
    tag = manifest_of(data).tag

    async def script(link: Link, message: m.Message) -> None:
        if isinstance(message, m.Propose):
            link.post(
                m.DeskAnswer(
                    request=message.request, tag=tag, state=m.DeskState.PARTLY, bitmap=b"\0", nonce=b"", ranges=()
                )
            )
            if len(storage.said(m.Propose)) == 3:
                link.post(m.JobClosed(tag=tag, state=m.JobState.STORED, proven=True, reason=""))

    async with world.tracker.running(), ToyStorage(world, script).running() as storage, world.daemon() as daemon:
        world.tracker.assigned = storage.address
        put = await ended(daemon, await daemon.puts.put(world.file("film", data), "film"))
        assert put.state is PutState.STORED and len(storage.said(m.Propose)) == 3


async def test_who_claims_to_be_the_storage_node_and_is_a_peer_hears_nothing(
    world: World, autojump_clock: object
) -> None:
    async def script(link: Link, message: m.Message) -> None:
        return None

    impostor = ToyStorage(world, script, name="mallory", role=Role.PEER, host="10.9.9.9")
    async with world.tracker.running(), impostor.running(), world.daemon() as daemon:
        for node in (world.node("mallory"), world.node("storage")):
            world.tracker.assigned = NodeAddress(node, Role.STORAGE, impostor.address.addresses)
            put = await daemon.puts.put(world.file("film", b"x" * 100), f"film {node[:3]}")
            with trio.fail_after(SECONDS_MAX):
                while not put.note:
                    await put.changed.wait()
            assert not put.state.final
            await daemon.puts.cancel(put)
        assert not impostor.heard and not impostor.links_seen


async def test_without_a_storage_node_a_put_waits_and_says_why(world: World, autojump_clock: object) -> None:
    async with world.tracker.running(), world.daemon() as daemon:
        put = await daemon.puts.put(world.file("film", b"x" * 100), "film")
        with trio.fail_after(SECONDS_MAX):
            while "no storage node" not in put.note:
                await put.changed.wait()
        async with world.site.storage():
            world.tracker.assigned = world.site.address
            assert (await ended(daemon, put)).state is PutState.STORED


async def test_a_daemon_starts_though_its_disk_is_full_and_says_what_is_safe(
    world: World, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.running():
        async with world.daemon() as daemon:
            await ended(daemon, await daemon.puts.put(world.file("film", some_bytes(1000)), "film"))
        transaction = SqliteDatabase.transaction
        refused: list[str] = []

        async def refuse(self: SqliteDatabase, work: Callable[[Any], Any]) -> Any:
            if self._path.name == DATABASE_NAME and work.__name__.startswith(("forget_", "delete_")):
                refused.append(work.__name__)
                raise StorageFull("daemon.db: database or disk is full")
            return await transaction(self, work)

        monkeypatch.setattr(SqliteDatabase, "transaction", refuse)
        async with world.daemon() as daemon:
            (put,) = daemon.puts.all()
            assert put.state is PutState.STORED and put.progress(0.0)["safe"]
        monkeypatch.undo()
        assert set(refused) >= {"forget_puts", "forget_gets", "delete_spare_manifests"}
