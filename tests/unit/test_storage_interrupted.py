"""Uploads into a storage node that are interrupted or withdrawn, and what of them is there later."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio
from support.intake import DATA, TAG, asked, eventually, object_of, spool_of
from support.storage_node import Site, manifest_of, some_bytes
from trio.testing import MockClock

from exchange.spool import FRESH_SECONDS
from protocol import messages as m
from protocol.limits import MIB
from runtime.seam import Runtime


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


# --- interrupted ---


async def test_after_the_link_was_lost_only_the_rest_is_sent(autojump_clock: MockClock, site: Site) -> None:
    async with site.storage(), site.uploader() as anna:
        await anna.begin_put(await anna.dial(), DATA, "a", chunks=[0, 1, 2])
        before = await anna.wait_stored(TAG, 3)
        site.hub.reset_all()
        await eventually(lambda: not list(anna.links))
        anna.requests.clear()
        assert (await anna.put(await anna.dial(), DATA, "a")).proven
        assert asked(anna) == set(range(6)) - before


async def test_after_a_restart_the_job_goes_on_without_a_word_from_its_uploader(
    autojump_clock: MockClock, site: Site
) -> None:
    async with site.uploader("anna") as anna, site.uploader("hugo") as hugo:
        async with site.storage():
            await anna.begin_put(await anna.dial(), DATA, "a", chunks=[0, 1, 2])
            before = await anna.wait_stored(TAG, 3)
        async with site.storage() as storage:
            assert set(storage.shelf.live[TAG].job.durable) == before
            hugo.has(DATA)
            hugo.engine.offer(await hugo.dial(), TAG)
            await hugo.wait_closed(TAG)
            assert asked(hugo) == {3, 4, 5}
            assert storage.shelf.stored[TAG].names == ("a",), "she delivered a chunk in the life before"


async def test_a_spool_file_that_disappeared_is_fetched_anew(autojump_clock: MockClock, site: Site) -> None:
    async with site.uploader() as anna:
        async with site.storage():
            await anna.begin_put(await anna.dial(), DATA, "a", chunks=[0, 1, 2])
            await anna.wait_stored(TAG, 3)
        spool_of(site).unlink()
        async with site.storage():
            anna.requests.clear()
            assert (await anna.put(await anna.dial(), DATA, "a")).proven
            assert asked(anna) == set(range(6))


async def test_chunks_that_rotted_before_the_commit_are_fetched_again(autojump_clock: MockClock, site: Site) -> None:
    async with site.storage(), site.uploader() as anna:
        link = await anna.dial()
        await anna.begin_put(link, DATA, "a", chunks=[0, 1, 2, 3, 4])
        await anna.wait_stored(TAG, 5)
        await trio.sleep(FRESH_SECONDS)  # what was read back a moment ago is not read again
        with spool_of(site).open("r+b") as file:
            file.seek(2 * MIB + 5)
            file.write(b"rot")
        anna.requests.clear()
        anna.has(DATA)
        anna.engine.gained(TAG, [5])
        assert (await anna.wait_closed(TAG)).state is m.JobState.STORED
        assert asked(anna) == {2, 5}
        assert object_of(site).read_bytes() == DATA


async def test_what_was_stored_and_is_gone_at_the_next_start_may_be_put_again(
    autojump_clock: MockClock, site: Site
) -> None:
    async with site.uploader() as anna:
        async with site.storage():
            await anna.put(await anna.dial(), DATA, "a")
        object_of(site).unlink()
        async with site.storage() as storage:
            assert not storage.shelf.stored
            assert (await anna.put(await anna.dial(), DATA, "a")).proven
            assert object_of(site).read_bytes() == DATA


async def test_files_that_are_no_jobs_are_removed_from_the_spool_folder_and_objects_are_not(
    autojump_clock: MockClock, site: Site
) -> None:
    async with site.storage():
        pass
    spool_of(site).write_bytes(b"half made")
    object_of(site).parent.mkdir()
    object_of(site).write_bytes(b"from a ledger that was lost")
    async with site.storage() as storage:
        assert not spool_of(site).exists()
        assert object_of(site).exists()
        assert not storage.shelf.stored


# --- withdrawn ---


async def test_the_last_uploaders_word_cancels_and_a_later_put_goes_on(autojump_clock: MockClock, site: Site) -> None:
    async with site.storage() as storage, site.uploader("anna") as anna, site.uploader("ben") as ben:
        anna_link, ben_link = await anna.dial(), await ben.dial()
        await anna.begin_put(anna_link, DATA, "a", chunks=[0, 1])
        await anna.wait_stored(TAG, 2)
        await ben.begin_put(ben_link, DATA, "b", chunks=[])
        anna_link.post(m.Withdraw(tag=TAG))
        await eventually(lambda: list(storage.shelf.live[TAG].job.uploaders) == [ben.node])
        ben_link.post(m.Withdraw(tag=TAG))
        closed = await ben.wait_closed(TAG)
        assert (closed.state, closed.proven) == (m.JobState.CANCELLED, False)
        assert not storage.shelf.live and spool_of(site).exists()
        anna.requests.clear()
        answer = await anna.propose(anna_link, TAG, len(DATA), "again")
        assert isinstance(answer, m.DeskAnswer) and answer.state is m.DeskState.PARTLY
        anna.has(DATA)
        anna.engine.offer(anna_link, TAG)
        await eventually(lambda: TAG in storage.shelf.stored)
        assert asked(anna) == {2, 3, 4, 5}
        assert storage.shelf.stored[TAG].names == ("again",)


async def test_a_stranger_to_the_job_cannot_withdraw_it(autojump_clock: MockClock, site: Site) -> None:
    async with site.storage() as storage, site.uploader("anna") as anna, site.uploader("eve") as eve:
        await anna.begin_put(await anna.dial(), DATA, "a", chunks=[0])
        await anna.wait_stored(TAG, 1)
        link = await eve.dial()
        link.post(m.Withdraw(tag=TAG))
        await eve.propose(link, manifest_of(b"x").tag, 1)
        assert list(storage.shelf.live[TAG].job.uploaders) == [anna.node]


async def test_a_cancelled_job_is_forgotten_after_its_rest_also_across_a_restart(
    autojump_clock: MockClock, site: Site
) -> None:
    site.settings["rest_seconds"] = 3600.0
    async with site.uploader() as anna:
        async with site.storage() as storage:
            link = await anna.dial()
            await anna.begin_put(link, DATA, "a", chunks=[0, 1])
            await anna.wait_stored(TAG, 2)
            link.post(m.Withdraw(tag=TAG))
            await anna.wait_closed(TAG)
        async with site.storage() as storage:
            await trio.sleep(3000)
            assert TAG in storage.shelf.resting and spool_of(site).exists()
            await trio.sleep(900)
            assert not storage.shelf.resting and not spool_of(site).exists()
            link = await anna.dial()
            answer = await anna.propose(link, TAG, len(DATA))
            assert isinstance(answer, m.DeskAnswer) and answer.state is m.DeskState.NEW


async def test_an_open_job_that_nobody_feeds_is_cancelled_at_last(autojump_clock: MockClock, site: Site) -> None:
    site.settings["idle_seconds"] = 300.0
    async with site.storage() as storage, site.uploader() as anna:
        link = await anna.dial()
        await anna.begin_put(link, DATA, "a", chunks=[0])
        await anna.wait_stored(TAG, 1)
        await trio.sleep(400)
        assert TAG in storage.shelf.live, "its uploader is still connected"
        link.close()
        await trio.sleep(120)
        assert not storage.shelf.live and TAG in storage.shelf.resting


async def test_jobs_of_one_link_are_opened_beside_each_other_and_each_keeps_its_order(
    autojump_clock: MockClock, site: Site
) -> None:
    waiting, gate = [], trio.Event()

    def slow_to_open(runtime: Runtime) -> Runtime:
        async def run_sync(work, *args):
            if work.__qualname__ == "Spool.open.<locals>.prepare":
                waiting.append(work)
                await gate.wait()
            return await runtime.run_sync(work, *args)

        return replace(runtime, run_sync=run_sync)

    site.wrap = slow_to_open
    async with site.storage(), site.uploader() as anna:
        link = await anna.dial()
        given_up = await anna.begin_put(link, some_bytes(3000, seed=9), "given up", chunks=[])
        tags = [(await anna.begin_put(link, some_bytes(3000, seed=n), str(n))).tag for n in range(4)]
        await eventually(lambda: len(waiting) == 5)
        # Said before its job is there, and meant for it.
        link.post(m.Withdraw(tag=given_up.tag))
        gate.set()
        assert (await anna.wait_closed(given_up.tag)).state is m.JobState.CANCELLED
        for tag in tags:
            assert (await anna.wait_closed(tag)).state is m.JobState.STORED
