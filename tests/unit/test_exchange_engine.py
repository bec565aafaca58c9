"""The engine between real sessions over in-memory links: whole files, from one and from many, with liars and losses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from support.exchange_nodes import Node, fetch, fetch_from, some_bytes, swarm_of

from exchange.seeding import Turn
from exchange.session import LENT_MAX
from exchange.uplink import Purpose, Wanted
from protocol.errors import RemoteProtocolError, StorageFull
from protocol.ids import Tag
from protocol.limits import KIB, MIB
from protocol.messages import Lend, Request


@pytest.mark.parametrize("size", [0, 1, 64 * KIB, 64 * KIB + 1, 1 * MIB, 3 * MIB + 5, 65 * MIB])
async def test_a_file_of_any_size_arrives_whole(size: int, tmp_path: Path) -> None:
    data = some_bytes(size)
    holder, getter = Node(1), Node(2)
    manifest = holder.shelf.put(data)
    async with swarm_of(holder, getter) as connect:
        link, _ = await connect(getter, holder)
        assert await getter.engine.request_manifest(link, manifest.tag) == manifest
        swarm, spool, verified = await fetch(getter, manifest, tmp_path / "f")
        getter.engine.ask(link, manifest.tag)
        await swarm.run()
        swarm.close()
        await spool.aclose()
    assert (tmp_path / "f").read_bytes() == data
    assert sorted(verified) == list(range(manifest.layout.chunks))
    assert swarm.contributions == ({holder.id: size} if size else {holder.id: 0})
    assert getter.engine.statistics().wasted_bytes == 0
    assert getter.heard == [] and holder.heard == []
    assert getter.engine.receiving.out_bytes == 0 and holder.engine.sending.out_bytes == 0


@pytest.mark.parametrize("near", [True, False])
async def test_caps_of_the_line_hold_up_nobody_on_the_lan(tmp_path: Path, near: bool) -> None:
    data = some_bytes(3 * MIB)
    holder, getter = Node(1), Node(2)
    holder.near = getter.near = near
    manifest = holder.shelf.put(data)
    async with swarm_of(holder, getter) as connect:
        link, _ = await connect(getter, holder)
        for one in (holder, getter):
            one.engine.set_budgets(up=1.0, help=1.0, down=1.0, apart=True)
        swarm, spool, _ = await fetch(getter, manifest, tmp_path / "f")
        getter.engine.ask(link, manifest.tag)
        with trio.move_on_after(20.0 if near else 1.0) as waiting:
            await swarm.run()
        swarm.close()
        await spool.aclose()
    assert waiting.cancelled_caught is not near
    assert ((tmp_path / "f").read_bytes() == data) is near


@pytest.mark.parametrize("wide", [True, False])
async def test_nobody_waits_at_a_wide_line_for_what_another_one_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wide: bool
) -> None:
    data = some_bytes(1 * MIB)
    holder, *getters = Node(1, wide=wide), Node(2), Node(3)
    manifest = holder.shelf.put(data)
    add = holder.engine.uplink.add
    waits: list[bool] = []

    def note(link: int, wanted: Wanted, purpose: Purpose, *, again: bool) -> bool:
        waits.append(again)
        return add(link, wanted, purpose, again=again)

    monkeypatch.setattr(holder.engine.uplink, "add", note)
    async with swarm_of(holder, *getters) as connect:
        spools = []
        async with trio.open_nursery() as fetching:
            for getter in getters:
                link, _ = await connect(getter, holder)
                swarm, spool, _ = await fetch(getter, manifest, tmp_path / str(getter.id))
                spools.append(spool)
                fetching.start_soon(swarm.run)
                getter.engine.ask(link, manifest.tag)
        for spool in spools:
            await spool.aclose()
    assert [(tmp_path / str(getter.id)).read_bytes() for getter in getters] == [data, data]
    assert any(waits) is not wide


async def test_an_offer_before_the_fetch_is_remembered(tmp_path: Path) -> None:
    data = some_bytes(2 * MIB)
    holder, storage = Node(1), Node(2)
    manifest = holder.shelf.put(data)
    async with swarm_of(holder, storage) as connect:
        link, _ = await connect(holder, storage)
        holder.engine.offer(link, manifest.tag)
        await trio.testing.wait_all_tasks_blocked()
        swarm, spool, _ = await fetch(storage, manifest, tmp_path / "f")
        assert swarm.everyone_has(without=set()) and not swarm.everyone_has(without={holder.id})
        await swarm.run()
        assert holder.engine.is_offered(storage.id, manifest.tag)
        swarm.close()
        await trio.testing.wait_all_tasks_blocked()
        assert not holder.engine.is_offered(storage.id, manifest.tag)
        await spool.aclose()
    assert (tmp_path / "f").read_bytes() == data


async def test_who_is_sent_elsewhere_asks_again_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = some_bytes(1 * MIB)
    holder, getter = Node(1), Node(2)
    manifest = holder.shelf.put(data)
    asked = holder.engine.seeding.asked
    turns = [Turn.ELSEWHERE] * 8

    def ask(link: int, tag: Tag, chunk: int, now: float, **line: Any) -> Turn:
        return turns.pop() if turns else asked(link, tag, chunk, now, **line)

    monkeypatch.setattr(holder.engine.seeding, "asked", ask)
    await fetch_from(getter, holder, manifest, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == data
    assert not turns and holder.shelf.read_bytes == len(data), "nothing was sent to who was sent away"
    assert getter.engine.statistics().wasted_bytes == 0


async def test_a_holder_whose_store_is_away_for_a_moment_is_asked_again(tmp_path: Path) -> None:
    data = some_bytes(2 * MIB)
    holder, getter = Node(1), Node(2)
    manifest = holder.shelf.put(data)
    holder.shelf.away = 3
    await fetch_from(getter, holder, manifest, tmp_path / "f")
    assert holder.shelf.away == 0
    assert (tmp_path / "f").read_bytes() == data


async def test_many_holders_share_the_work_and_nothing_comes_twice(tmp_path: Path) -> None:
    data = some_bytes(24 * MIB)
    rate = 40 * MIB
    holders = [Node(n, up_bytes_per_second=rate) for n in range(1, 5)]
    getter = Node(9)
    async with swarm_of(*holders, getter) as connect:
        for holder in holders:
            manifest = holder.shelf.put(data)
            await connect(getter, holder)
        swarm, spool, _ = await fetch(getter, manifest, tmp_path / "f")
        for holder in holders:
            (session,) = getter.engine.sessions_with(holder.id)
            getter.engine.ask(session.link, manifest.tag)
        await swarm.run()
        swarm.close()
        await spool.aclose()
    assert (tmp_path / "f").read_bytes() == data
    assert sum(swarm.contributions.values()) == len(data)
    for holder in holders:
        assert swarm.contributions[holder.id] > len(data) * 0.1
    assert getter.engine.statistics().wasted_bytes <= 2 * MIB


async def test_partial_holders_complete_each_other(tmp_path: Path) -> None:
    data = some_bytes(8 * MIB)
    even, odd, getter = Node(1), Node(2), Node(3)
    manifest = even.shelf.put(data, [0, 2, 4, 6])
    odd.shelf.put(data, [1, 3, 5])
    async with swarm_of(even, odd, getter) as connect:
        link_even, _ = await connect(getter, even)
        link_odd, _ = await connect(getter, odd)
        swarm, spool, verified = await fetch(getter, manifest, tmp_path / "f")
        getter.engine.ask(link_even, manifest.tag)
        getter.engine.ask(link_odd, manifest.tag)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(swarm.run)
            while len(verified) < 7:
                await trio.sleep(0.01)
            assert not swarm.complete
            odd.shelf.files[manifest.tag][2].add(7)
            odd.engine.gained(manifest.tag, [7])
        swarm.close()
        await spool.aclose()
    assert (tmp_path / "f").read_bytes() == data


async def test_a_liar_is_found_struck_and_shut_out_and_the_file_completes(tmp_path: Path) -> None:
    data = some_bytes(24 * MIB)
    honest, liar, getter = Node(1, up_bytes_per_second=40 * MIB), Node(2), Node(3)
    liar.shelf.lies = True
    manifest = honest.shelf.put(data)
    liar.shelf.put(data)
    async with swarm_of(honest, liar, getter) as connect:
        for holder in (honest, liar):
            link, _ = await connect(getter, holder)
            getter.engine.ask(link, manifest.tag)
        swarm, spool, _ = await fetch(getter, manifest, tmp_path / "f")
        await swarm.run()
        assert getter.engine.strikes.is_shut_out(liar.id, getter.engine.runtime.clock.monotonic())
        assert not getter.engine.strikes.is_shut_out(honest.id, getter.engine.runtime.clock.monotonic())
        swarm.close()
        await spool.aclose()
    assert (tmp_path / "f").read_bytes() == data
    assert swarm.contributions.get(liar.id, 0) == 0


async def test_a_holder_that_vanishes_is_replaced_by_the_others(tmp_path: Path) -> None:
    data = some_bytes(16 * MIB)
    stays, goes, getter = Node(1, up_bytes_per_second=60 * MIB), Node(2, up_bytes_per_second=60 * MIB), Node(3)
    manifest = stays.shelf.put(data)
    goes.shelf.put(data)
    async with swarm_of(stays, goes, getter) as connect:
        links = []
        for holder in (stays, goes):
            link, _ = await connect(getter, holder)
            getter.engine.ask(link, manifest.tag)
            links.append(link)
        swarm, spool, verified = await fetch(getter, manifest, tmp_path / "f")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(swarm.run)
            while len(verified) < 4:
                await trio.sleep(0.005)
            links[1].close()
        swarm.close()
        await spool.aclose()
    assert (tmp_path / "f").read_bytes() == data
    assert goes.engine.sending.out_bytes == 0


async def test_a_capped_uplink_keeps_its_cap(tmp_path: Path) -> None:
    data = some_bytes(4 * MIB)
    holder, getter = Node(1, up_bytes_per_second=8 * MIB), Node(2)
    manifest = holder.shelf.put(data)
    async with swarm_of(holder, getter) as connect:
        link, _ = await connect(getter, holder)
        swarm, spool, _ = await fetch(getter, manifest, tmp_path / "f")
        began = trio.current_time()
        getter.engine.ask(link, manifest.tag)
        await swarm.run()
        seconds = trio.current_time() - began
        swarm.close()
        await spool.aclose()
    # A burst of 20 ms may leave at once, and a last block of 1 MiB on credit; nothing else may.
    assert seconds >= (len(data) - MIB) / (8 * MIB) - 0.02


async def test_a_fetch_cancelled_before_its_blocks_are_written_fetches_them_again(tmp_path: Path) -> None:
    data = some_bytes(4 * MIB)
    holder, getter = Node(1), Node(2)
    manifest = holder.shelf.put(data)
    scope = trio.CancelScope()
    writes = 0

    async def run_sync(work, *args):
        nonlocal writes
        if work.__name__ == "write_blocks":
            writes += 1
            if writes == 1:
                scope.cancel()
        return await trio.to_thread.run_sync(work, *args)

    getter.engine.runtime = replace(getter.engine.runtime, run_sync=run_sync)
    async with swarm_of(holder, getter) as connect:
        link, _ = await connect(getter, holder)
        swarm, spool, _ = await fetch(getter, manifest, tmp_path / "f")
        getter.engine.ask(link, manifest.tag)
        with scope:
            await swarm.run()
        assert scope.cancelled_caught and not swarm.complete
        await swarm.run()
        swarm.close()
        await spool.aclose()
    assert (tmp_path / "f").read_bytes() == data
    assert getter.engine.strikes.given(holder.id, getter.engine.runtime.clock.monotonic()) == 0
    assert getter.engine.receiving.out_bytes == 0


async def test_two_writers_work_at_once_each_at_chunks_of_its_own(tmp_path: Path) -> None:
    data = some_bytes(16 * MIB)
    holder, getter = Node(1), Node(2)
    manifest = holder.shelf.put(data)
    at_work: list[set[int]] = []
    together = trio.Event()

    async def run_sync(work, *args):
        if work.__name__ != "write_blocks":
            return await trio.to_thread.run_sync(work, *args)
        chunks = {write.chunk for write in args[0]}
        assert not any(chunks & others for others in at_work)
        at_work.append(chunks)
        assert len(at_work) <= 2
        if len(at_work) == 2:
            together.set()
        try:
            # The first one ends when the second one has begun.
            with trio.fail_after(30):
                await together.wait()
            return await trio.to_thread.run_sync(work, *args)
        finally:
            at_work.remove(chunks)

    getter.engine.runtime = replace(getter.engine.runtime, run_sync=run_sync, cores=4)
    async with swarm_of(holder, getter) as connect:
        link, _ = await connect(getter, holder)
        swarm, spool, verified = await fetch(getter, manifest, tmp_path / "f")
        getter.engine.ask(link, manifest.tag)
        await swarm.run()
        swarm.close()
        await spool.aclose()
    assert sorted(verified) == list(range(manifest.layout.chunks))
    assert (tmp_path / "f").read_bytes() == data
    assert getter.engine.receiving.out_bytes == 0


async def test_what_one_writer_got_right_counts_though_the_other_failed(tmp_path: Path) -> None:
    data = some_bytes(16 * MIB)
    holder, getter = Node(1), Node(2)
    manifest = holder.shelf.put(data)
    together, failed = trio.Event(), trio.Event()
    writes = 0

    async def run_sync(work, *args):
        nonlocal writes
        if work.__name__ != "write_blocks":
            return await trio.to_thread.run_sync(work, *args)
        writes += 1
        if writes == 1:
            # Shielded as a thread is, which nobody can stop.
            with trio.CancelScope(shield=True), trio.fail_after(30):
                await together.wait()
                failed.set()
            raise StorageFull("no room")
        if any(write.completes for write in args[0]):
            together.set()
            with trio.CancelScope(shield=True), trio.fail_after(30):
                await failed.wait()
        with trio.CancelScope(shield=True):
            return await trio.to_thread.run_sync(work, *args)

    getter.engine.runtime = replace(getter.engine.runtime, run_sync=run_sync, cores=2)
    async with swarm_of(holder, getter) as connect:
        link, _ = await connect(getter, holder)
        swarm, spool, verified = await fetch(getter, manifest, tmp_path / "f")
        getter.engine.ask(link, manifest.tag)
        with pytest.raises(StorageFull):
            await swarm.run()
        kept = list(verified)
        assert not swarm.complete and all(chunk in swarm.verified for chunk in kept)
        await swarm.run()
        swarm.close()
        await spool.aclose()
    assert kept and sorted(verified) == list(range(manifest.layout.chunks))
    assert (tmp_path / "f").read_bytes() == data
    assert getter.engine.receiving.out_bytes == 0


async def test_a_tag_is_fetched_again_at_once_over_a_link_that_still_owes_blocks_of_it(tmp_path: Path) -> None:
    data = some_bytes(4 * MIB)
    holder, getter = Node(1, up_bytes_per_second=16 * MIB), Node(2)
    manifest = holder.shelf.put(data)
    async with swarm_of(holder, getter) as connect:
        link, _ = await connect(getter, holder)
        for attempt in range(3):
            swarm, spool, verified = await fetch(getter, manifest, tmp_path / f"f{attempt}")
            getter.engine.ask(link, manifest.tag)
            if attempt == 2:
                await swarm.run()
            else:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(swarm.run)
                    while not verified:
                        await trio.sleep(0.001)
                    nursery.cancel_scope.cancel()
            swarm.close()
            await spool.aclose()
        assert getter.heard == [] and holder.heard == []
    assert (tmp_path / "f2").read_bytes() == data


async def test_who_is_shut_out_is_no_source_when_it_offers_again(tmp_path: Path) -> None:
    data = some_bytes(2 * MIB)
    liar, getter = Node(1), Node(2)
    manifest = liar.shelf.put(data)
    for _ in range(3):
        getter.engine.strike(liar.id)
    async with swarm_of(liar, getter) as connect:
        link, _ = await connect(getter, liar)
        swarm, spool, _ = await fetch(getter, manifest, tmp_path / "f")
        getter.engine.ask(link, manifest.tag)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert swarm.sources == [] and not swarm.everyone_has(without=set())
        swarm.close()
        await spool.aclose()


async def test_who_asks_for_a_block_twice_is_dropped(tmp_path: Path) -> None:
    holder, getter = Node(1, up_bytes_per_second=0), Node(2)
    manifest = holder.shelf.put(some_bytes(2 * MIB))
    async with swarm_of(holder, getter) as connect:
        link, _ = await connect(getter, holder)
        for _ in range(2):
            link.post(Request(tag=manifest.tag, chunk=1, offset=0, length=64 * KIB))
        while not holder.heard:
            await trio.sleep(0.001)
        assert isinstance(holder.heard[0], RemoteProtocolError)


async def test_who_would_fetch_endless_tags_for_storage_costs_little_memory(tmp_path: Path) -> None:
    data = some_bytes(1 * MIB)
    holder, relay = Node(1), Node(2)
    manifest = holder.shelf.put(data)
    async with swarm_of(holder, relay) as connect:
        link, _ = await connect(relay, holder)
        swarm, spool, _ = await fetch(relay, manifest, tmp_path / "f")
        relay.engine.ask(link, manifest.tag)
        link.post(Lend(tag=manifest.tag))
        for number in range(10 * LENT_MAX):
            link.post(Lend(tag=Tag(number.to_bytes(32, "big"), 1)))
            if number % LENT_MAX == 0:
                await trio.testing.wait_all_tasks_blocked()
        await trio.testing.wait_all_tasks_blocked()
        assert len(holder.engine.seeding._tags) == LENT_MAX + 1, "and the one that was offered to it"
        await swarm.run()
        swarm.close()
        await spool.aclose()
    assert (tmp_path / "f").read_bytes() == data
