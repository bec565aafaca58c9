"""Heartbeats, questions, orders and revocations, over real links to a whole tracker."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio
from contract.index_contract import beat, holding, said, update
from support.pairs import node, some_tag
from support.strangers import knock, link_to, next_message
from support.tracker_world import World, ask, present, refusal, settled, start_tracker, where

from protocol import messages as m
from protocol.errors import LinkLost, RemoteProtocolError
from protocol.ids import NodeId, Role
from protocol.limits import ALPN
from runtime.real import real_runtime

TAG = some_tag("film", 8)
OTHER = some_tag("other", 8)


@pytest.fixture
async def world(tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> World:
    return await start_tracker(tmp_path, nursery, monkeypatch)


async def test_revoking_ends_links_at_once_tells_everybody_and_shuts_the_door(world: World) -> None:
    villain, other = await world.member("villain"), await world.member("other")
    async with present(world, villain, held=(holding(),)) as link, present(world, other) as witness:
        assert (await world.command("revoke", node=villain.node[:8].upper()))["node"] == villain.node
        with trio.fail_after(5):
            while await link.receive() is not None:
                pass
        assert link.lost is not None and "revoked" in link.lost
        told = await next_message(witness, m.Revocations)
        assert isinstance(told, m.Revocations)
        assert other.with_revocations(told.revocations).is_revoked(villain.node)
        answer = await ask(witness, where(TAG), m.WhereAnswer)
        assert isinstance(answer, m.Failure) and answer.code == "not-found"
        listed = await ask(witness, m.ListNodes(request=1, after=None), m.NodesAnswer)
        assert {record.node: record.state for record in listed.nodes} == {other.node: "fresh", villain.node: "revoked"}
    assert await trio.to_thread.run_sync(knock, world.address, villain, ALPN) == b""
    invite = await world.invite()
    assert "revoked" in await refusal(invite, "villain")


async def test_a_peer_that_speaks_like_storage_breaks_a_rule(world: World) -> None:
    credentials = await world.member("ada")
    async with present(world, credentials) as link:
        link._connection._may_send |= {m.JobUpdate}  # a hostile node asks no table
        link.post(update())
        with pytest.raises((LinkLost, AssertionError, RemoteProtocolError)):
            await next_message(link, m.WhereAnswer)
        assert link.lost is not None
    async with present(world, credentials) as link:
        answer = await ask(link, where(TAG), m.WhereAnswer)
        assert answer.code == "not-found"


async def test_a_certificate_is_renewed_for_the_same_key(world: World) -> None:
    credentials = await world.member("ada")
    async with present(world, credentials) as link:
        renewed = await ask(link, m.Renew(request=5), m.Renewed)
        assert renewed.request == 5
        after = credentials.with_certificate(renewed.certificate)
        assert after.peer == credentials.peer


# --- heartbeats and inventories ---


async def test_a_heartbeat_is_answered_with_the_interval_and_whether_the_inventory_is_wanted(world: World) -> None:
    credentials = await world.member("ada")
    async with link_to(credentials, world.address) as link:
        answer = await ask(link, replace(beat(epoch=3, sequence=2), number=7), m.HeartbeatAnswer)
        assert (answer.number, answer.interval_milliseconds, answer.inventory_wanted) == (7, 5000, True)
        link.post(said(epoch=3, sequence=2))
        answer = await ask(link, replace(beat(epoch=3, sequence=2), number=8), m.HeartbeatAnswer)
        assert (answer.number, answer.inventory_wanted) == (8, False)


async def test_an_inventory_that_cannot_be_ends_the_link(world: World) -> None:
    credentials = await world.member("ada")
    async with present(world, credentials) as link:
        link.post(said(replace(holding(), size_bytes=1), sequence=2, full=False))
        with pytest.raises((LinkLost, AssertionError)):
            await next_message(link, m.WhereAnswer)
        assert link.lost is not None and "protocol-error" in link.lost


async def test_what_is_dated_in_the_future_does_not_win_for_ever(world: World) -> None:
    liar, honest = await world.member("liar"), await world.member("honest")
    wall = int(real_runtime().clock.wall())
    async with (
        present(world, liar, held=(holding(OTHER, names=("f",), since=2**50),)),
        present(world, honest, held=(holding(TAG, names=("f",), since=wall + 30),)) as link,
    ):
        answer = await ask(link, where(None, "f"), m.WhereAnswer)
        assert answer.tag == TAG


# --- questions ---


async def test_a_new_file_is_assigned_to_a_storage_node_with_room(world: World) -> None:
    ada = await world.member("ada")
    small, large = [await world.member(name, Role.STORAGE) for name in ("small", "large")]
    async with present(world, ada) as link:
        answer = await ask(link, where(TAG, to_put=True, size_bytes=1000), m.WhereAnswer)
        assert (answer.state, answer.storage) == (m.Whereabouts.NONE, None)
        async with present(world, small, room_bytes=999), present(world, large, "127.0.0.1:77", room_bytes=1000):
            answer = await ask(link, where(TAG, to_put=True, size_bytes=1000), m.WhereAnswer)
            assert answer.state is m.Whereabouts.ASSIGNED
            assert (answer.storage.node, answer.storage.addresses) == (large.node, ("127.0.0.1:77",))


async def test_holders_are_named_without_the_one_who_asks(world: World) -> None:
    names = ["ada", "bob", "eve"]
    ada, bob, eve = [await world.member(name) for name in names]
    async with (
        present(world, ada, held=(holding(names=("film.mkv",)),)) as link,
        present(world, bob, held=(holding(chunks=(1,)),)),
        present(world, eve, held=(holding(chunks=()),)),
    ):
        answer = await ask(link, where(None, "film.mkv"), m.WhereAnswer)
        assert (answer.tag, answer.name, answer.size_bytes) == (TAG, "film.mkv", 8 * 1024 * 1024)
        assert [holder.node for holder in answer.holders] == [bob.node]
        assert answer.state is m.Whereabouts.NONE


@pytest.mark.parametrize("question", [where(), where(TAG, "film"), where(None, "film", to_put=True)])
async def test_a_question_that_makes_no_sense_gets_a_failure(world: World, question: m.Where) -> None:
    async with present(world, await world.member("ada")) as link:
        answer = await ask(link, question, m.WhereAnswer)
        assert isinstance(answer, m.Failure) and answer.code == "invalid"


async def test_tags_are_listed_page_by_page(world: World) -> None:
    held = tuple(holding(some_tag(f"t{number}", 8)) for number in range(88))
    ada = await world.member("ada")
    async with present(world, ada, held=held) as link:
        more = tuple(holding(some_tag(f"u{number}", 8)) for number in range(30))
        link.post(said(*more, sequence=2, full=False))
        seen: list[m.TagRecord] = []
        after = None
        while True:
            page = await ask(link, m.ListTags(request=1, stored_only=False, after=after), m.TagsAnswer)
            if not page.tags:
                break
            seen += page.tags
            after = page.tags[-1].tag
        assert [record.tag for record in seen] == sorted(one.tag for one in held + more)
        assert {record.state for record in seen} == {"shared"} and {record.holders for record in seen} == {1}


async def test_nodes_know_each_other_by_what_the_tracker_saw_of_them(world: World) -> None:
    ada, disk = await world.member("ada"), await world.member("disk", Role.STORAGE)
    async with present(world, disk, "0.0.0.0:4200"), present(world, ada, "10.1.2.3:4300") as link:
        answer = await ask(link, m.ListNodes(request=1, after=None), m.NodesAnswer)
        records = {record.node: record for record in answer.nodes}
        assert records[disk.node].addresses == ("127.0.0.1:4200",)
        assert records[ada.node].addresses == ("10.1.2.3:4300",)
        rest = await ask(link, m.ListNodes(request=2, after=min(records)), m.NodesAnswer)
        assert [record.node for record in rest.nodes] == [max(records)]
    gone = {row["node"]: row for row in (await world.command("nodes"))["nodes"]}
    assert {gone[ada.node]["role"], gone[disk.node]["role"]} == {"peer", "storage"}


async def test_a_node_whose_link_ended_is_silent_at_once(world: World) -> None:
    ada, bob = await world.member("ada"), await world.member("bob")
    async with present(world, bob) as link:
        async with present(world, ada):
            pass
        with trio.fail_after(5):
            while True:
                answer = await ask(link, m.ListNodes(request=1, after=None), m.NodesAnswer)
                states = {record.node: record.state for record in answer.nodes}
                if states[ada.node] == "silent":
                    break
        assert states[bob.node] == "fresh"


# --- orders ---


async def test_holders_are_ordered_at_once_when_a_job_opens(world: World) -> None:
    ada, bob, disk = await world.member("ada"), await world.member("bob"), await world.member("disk", Role.STORAGE)
    async with (
        present(world, ada, held=(holding(),)) as whole,
        present(world, bob, held=(holding(chunks=(2,)),)) as part,
        present(world, disk, "127.0.0.1:42") as storage,
    ):
        storage.post(update())
        for link in (whole, part):
            order = await next_message(link, m.Order)
            assert isinstance(order, m.Order) and order.tag == TAG
            assert (order.target.node, order.target.role) == (disk.node, Role.STORAGE)
            assert order.target.addresses == ("127.0.0.1:42",) and order.lifetime_seconds > 0


async def test_who_lends_is_ordered_to_relay_when_a_job_opens_and_at_beats(world: World) -> None:
    ada, bob, disk = await world.member("ada"), await world.member("bob"), await world.member("disk", Role.STORAGE)
    async with (
        present(world, ada, held=(holding(),)),
        present(world, bob) as idle,
        present(world, disk, "127.0.0.1:42") as storage,
    ):
        idle.post(replace(beat(sequence=1), lend=True))
        await settled(idle)
        storage.post(replace(update(), uploaders=(ada.node,)))
        for _ in range(2):
            order = await next_message(idle, m.RelayOrder)
            assert isinstance(order, m.RelayOrder) and order.tag == TAG
            assert order.target.node == disk.node and order.sources == (ada.node,)
            idle.post(replace(beat(sequence=1), lend=True))


async def test_holders_are_ordered_to_meet_who_asks_for_their_file(world: World) -> None:
    ada, bob = await world.member("ada"), await world.member("bob")
    async with present(world, ada, held=(holding(),)) as holder, present(world, bob, "127.0.0.1:43") as asker:
        answer = await ask(asker, where(TAG), m.WhereAnswer)
        assert [found.node for found in answer.holders] == [ada.node]
        order = await next_message(holder, m.Order)
        assert isinstance(order, m.Order) and order.target.node == bob.node and order.target.role is Role.PEER
        assert order.target.addresses == ("127.0.0.1:43",)


async def test_an_order_follows_a_heartbeat_a_gain_and_a_question(world: World) -> None:
    ada, disk = await world.member("ada"), await world.member("disk", Role.STORAGE)
    async with present(world, ada) as link, present(world, disk) as storage:
        storage.post(update())
        await settled(storage)
        link.post(said(holding(chunks=(1,)), sequence=2, full=False))
        await next_message(link, m.Order)
        link.post(beat(sequence=2))
        await next_message(link, m.HeartbeatAnswer)
        await next_message(link, m.Order)
        answer = await ask(link, where(TAG), m.WhereAnswer)
        assert answer.state is m.Whereabouts.OPEN and answer.storage.node == disk.node
        await next_message(link, m.Order)


async def test_nobody_is_ordered_who_cannot_help(world: World) -> None:
    names = ("paused", "empty", "elsewhere")
    paused, empty, elsewhere = [await world.member(name) for name in names]
    disk = await world.member("disk", Role.STORAGE)
    async with (
        present(world, paused, held=(holding(),)) as one,
        present(world, empty, held=(holding(chunks=()),)) as two,
        present(world, elsewhere, held=(holding(OTHER),)) as three,
        present(world, disk, held=(holding(chunks=(0,)),)) as storage,
    ):
        one.post(beat(sequence=1, paused=True))
        await settled(one)
        storage.post(update())
        await settled(storage)
        for link in (one, two, three, storage):
            link.post(where(TAG))
            link.post(m.ListNodes(request=999, after=None))
            heard = await next_message(link, m.Order, m.NodesAnswer)
            assert not isinstance(heard, m.Order)
        storage.post(update(state=m.JobState.COMMITTING))
        await settled(storage)
        one.post(beat(sequence=1, paused=False))
        one.post(m.ListNodes(request=999, after=None))
        heard = await next_message(one, m.Order, m.NodesAnswer)
        assert not isinstance(heard, m.Order), "it has all it needs"


async def test_a_storage_node_that_starts_again_gets_its_helpers_back(world: World) -> None:
    ada, disk = await world.member("ada"), await world.member("disk", Role.STORAGE)
    async with present(world, ada, held=(holding(),)) as link:
        for address in ("127.0.0.1:50", "127.0.0.1:51"):
            async with present(world, disk, address) as storage:
                storage.post(update())
                order = await next_message(link, m.Order)
                assert isinstance(order, m.Order) and order.target.addresses == (address,)
            await settled(link)


async def test_status_tells_of_jobs_and_who_contributed(world: World) -> None:
    ada, disk = await world.member("ada"), await world.member("disk", Role.STORAGE)
    async with present(world, ada, held=(holding(),)), present(world, disk) as storage:
        pushed = (m.Pushed(node=NodeId(ada.node), bytes_pushed=3 * 1024 * 1024),)
        storage.post(replace(update(stored=3), pushed=pushed, uploaders=(ada.node, node("away"))))
        await settled(storage)
        status = await world.command("status")
        (job,) = status["jobs"]
        assert (job["name"], job["chunks_stored"], job["bytes_stored"]) == ("film.mkv", 3, 3 * 1024 * 1024)
        (one,) = job["pushed"]
        assert (one["node"], one["bytes_pushed"], one["is_uploader"]) == (ada.node, 3 * 1024 * 1024, True)
        assert status["node_count"] == 2 and status["job_count"] == 1


# --- chunk maps ---


def shown(runs: bytes) -> m.JobMap:
    return m.JobMap(tag=TAG, senders=(), runs=runs)


async def test_a_chunk_map_is_taken_and_one_that_cannot_be_ends_the_link(world: World) -> None:
    storage = await world.member("disk", Role.STORAGE)
    async with present(world, storage) as link:
        link.post(update())
        link.post(shown(b"\0\x08\x80\0"))
        await settled(link)
        link.post(shown(b"\0\x09\x80\0"))
        with pytest.raises((LinkLost, AssertionError, RemoteProtocolError)):
            await next_message(link, m.WhereAnswer)
        assert link.lost is not None


async def test_a_peer_may_not_show_chunk_maps(world: World) -> None:
    async with present(world, await world.member("ada")) as link:
        link._connection._may_send |= {m.JobMap}
        link.post(shown(b"\0\x08\0\0"))
        with pytest.raises((LinkLost, AssertionError, RemoteProtocolError)):
            await next_message(link, m.WhereAnswer)
        assert link.lost is not None
