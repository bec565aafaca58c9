"""The storage node from the desk to the object, over in-memory links: whole uploads, refusals, and what others see."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from support.intake import DATA, TAG, asked, eventually, object_of
from support.storage_node import Site, manifest_of, some_bytes
from trio.testing import MockClock

from protocol import messages as m
from protocol.bitmap import Bitmap
from protocol.ids import Tag
from protocol.limits import MIB


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


# --- whole uploads ---


async def test_a_file_that_is_put_becomes_an_object_with_these_bytes(autojump_clock: MockClock, site: Site) -> None:
    async with site.storage() as storage, site.uploader() as anna:
        closed = await anna.put(await anna.dial(), DATA, "film.mov")
        assert (closed.state, closed.proven) == (m.JobState.STORED, True)
        assert object_of(site).read_bytes() == DATA
        assert storage.shelf.stored[TAG].names == ("film.mov",)
        assert not list((site.data / "spool").iterdir())
        assert anna.acknowledged(TAG) == set(range(6))
        assert storage.engine.statistics().wasted_bytes == 0


@pytest.mark.parametrize("size", [0, 1, 1 * MIB, 1 * MIB + 1])
async def test_files_of_odd_sizes_are_stored(autojump_clock: MockClock, site: Site, size: int) -> None:
    data = some_bytes(size)
    async with site.storage(), site.uploader() as anna:
        closed = await anna.put(await anna.dial(), data, "odd")
        assert (closed.state, closed.proven) == (m.JobState.STORED, True)
        assert object_of(site, closed.tag).read_bytes() == data


async def test_two_who_put_the_same_file_share_one_job(autojump_clock: MockClock, site: Site) -> None:
    async with site.storage() as storage, site.uploader("anna") as anna, site.uploader("ben") as ben:
        await anna.begin_put(await anna.dial(), DATA, "a", chunks=[0, 1, 2])
        await anna.wait_stored(TAG, 3)
        link = await ben.dial()
        ben.has(DATA)
        answer = await ben.propose(link, TAG, len(DATA), "b")
        assert isinstance(answer, m.DeskAnswer)
        assert answer.state is m.DeskState.PARTLY
        assert Bitmap.from_bytes(6, answer.bitmap) == Bitmap.of(6, [0, 1, 2])
        ben.engine.offer(link, TAG)
        assert (await ben.wait_closed(TAG)).proven
        assert (await anna.wait_closed(TAG)).proven
        assert asked(anna) == {0, 1, 2} and asked(ben) == {3, 4, 5}
        assert set(storage.shelf.stored[TAG].names) == {"a", "b"}


async def test_one_file_under_two_names_is_sent_once_and_has_both(autojump_clock: MockClock, site: Site) -> None:
    async with site.storage() as storage, site.uploader() as anna:
        link = await anna.dial()
        manifest = anna.has(DATA)
        for name in ("one", "two"):  # two puts at once: both hear "new"
            answer = await anna.propose(link, TAG, len(DATA), name)
            assert isinstance(answer, m.DeskAnswer) and answer.state is m.DeskState.NEW
        anna.send_manifest(link, manifest)
        anna.send_manifest(link, manifest)
        await eventually(lambda: TAG in storage.shelf.live)
        answer = await anna.propose(link, TAG, len(DATA), "three")
        assert isinstance(answer, m.DeskAnswer) and answer.state is m.DeskState.PARTLY
        anna.engine.offer(link, TAG)
        assert (await anna.wait_closed(TAG)).proven
        assert sorted(storage.shelf.stored[TAG].names) == ["one", "three", "two"]
        challenges = [await anna.propose(link, TAG, len(DATA), name) for name in ("four", "five")]
        for challenge in challenges:
            assert isinstance(challenge, m.DeskAnswer)
            said = await anna.prove(link, challenge, DATA)
            assert isinstance(said, m.JobClosed) and said.proven
        assert {"four", "five"} <= set(storage.shelf.stored[TAG].names)
        assert len(anna.requests) == len(set(anna.requests))


async def test_a_job_that_is_cancelled_and_put_again_in_the_same_moment_acknowledges_nothing_unsynced(
    autojump_clock: MockClock, site: Site
) -> None:
    async with site.storage() as storage, site.uploader() as anna:
        link = await anna.dial()
        anna.has(DATA)
        for _ in range(20):
            answer = await anna.propose(link, TAG, len(DATA), "a")
            assert isinstance(answer, m.DeskAnswer)
            if answer.state is m.DeskState.STORED:
                break
            if answer.state is m.DeskState.NEW:
                anna.send_manifest(link, manifest_of(DATA))
            anna.engine.offer(link, TAG)
            await trio.sleep(0.001)
            link.post(m.Withdraw(tag=TAG))
        else:
            anna.engine.offer(link, TAG)
            await anna.propose(link, TAG, len(DATA), "a")
        await eventually(lambda: TAG in storage.shelf.stored)
        assert object_of(site).read_bytes() == DATA


async def test_a_helper_delivers_too_and_hears_the_end_but_gets_no_name(autojump_clock: MockClock, site: Site) -> None:
    async with site.storage() as storage, site.uploader("anna") as anna, site.uploader("hugo") as hugo:
        await anna.begin_put(await anna.dial(), DATA, "a", chunks=[0, 1])
        await anna.wait_stored(TAG, 2)
        hugo.has(DATA)
        hugo.engine.offer(await hugo.dial(), TAG)
        closed = await hugo.wait_closed(TAG)
        assert (closed.state, closed.proven) == (m.JobState.STORED, False)
        assert asked(hugo) == {2, 3, 4, 5}
        progress = [message for message in anna.heard if isinstance(message, m.JobProgress)]
        assert {pushed.node for pushed in progress[-1].pushed} <= {anna.node, hugo.node}
        assert storage.shelf.stored[TAG].names == ("a",)


async def test_a_liar_is_found_and_the_file_completes_from_the_other(autojump_clock: MockClock, site: Site) -> None:
    async with site.storage(), site.uploader("anna") as anna, site.uploader("liam") as liam:
        liam.lies = True
        await liam.begin_put(await liam.dial(), DATA, "bad")
        await eventually(lambda: len(liam.requests) > 3)
        closed = await anna.put(await anna.dial(), DATA, "good")
        assert closed.proven
        assert object_of(site).read_bytes() == DATA
        assert not (await liam.wait_closed(TAG)).proven


async def test_any_name_is_only_data(autojump_clock: MockClock, site: Site) -> None:
    names = ["../../../../tmp/evil", "/etc/passwd", "a\0b", "\x1b[2J", "..", "x" * 1024]
    async with site.storage() as storage, site.uploader() as anna:
        link = await anna.dial()
        before = {path.name for path in site.folder.rglob("*")}
        for number, name in enumerate(names):
            closed = await anna.put(link, some_bytes(100, number), name)
            assert storage.shelf.stored[closed.tag].names == (name,)
        made = {path.name for path in site.folder.rglob("*")} - before
        tags = {str(tag) for tag in storage.shelf.stored}
        assert made - {"ledger.db-wal", "ledger.db-shm"} == tags | {tag[:2] for tag in tags}


# --- refused ---


async def test_no_room_is_said_in_words(autojump_clock: MockClock, site: Site) -> None:
    site.settings["reserve_bytes"] = 1 << 60
    async with site.storage(), site.uploader() as anna:
        answer = await anna.propose(await anna.dial(), TAG, len(DATA))
        assert isinstance(answer, m.Failure) and answer.code == "no-space"
        assert "do not fit" in answer.reason
        assert not list((site.data / "spool").iterdir())


async def test_room_that_was_promised_is_not_promised_again(autojump_clock: MockClock, site: Site) -> None:
    async with site.storage() as storage, site.uploader("anna") as anna, site.uploader("ben") as ben:
        storage.room.reserve_bytes = await storage.room.free_bytes() - 300 * MIB
        big = Tag(bytes(32), 25)  # 200 MB in chunks of 8 MiB
        link = await anna.dial()
        answer = await anna.propose(link, big, 25 * 8 * MIB)
        assert isinstance(answer, m.DeskAnswer)
        other = Tag(b"1" * 32, 25)
        refused = await ben.propose(await ben.dial(), other, 25 * 8 * MIB)
        assert isinstance(refused, m.Failure) and refused.code == "no-space"
        same = await ben.propose(await ben.dial(), big, 25 * 8 * MIB)
        assert isinstance(same, m.DeskAnswer), "the same file takes its room once"
        link.close()
        await eventually(lambda: storage.room.promised(big) and len(storage.desk._expected) == 1)
        ben.links.drop(site.address.node, "bye", "")
        await eventually(lambda: not storage.room.promised(big))


async def test_a_manifest_of_another_tag_opens_no_job(autojump_clock: MockClock, site: Site) -> None:
    async with site.storage() as storage, site.uploader() as anna:
        link = await anna.dial()
        await anna.propose(link, TAG, len(DATA))
        wrong = manifest_of(some_bytes(len(DATA), 9))
        link.post(m.ManifestIs(tag=TAG, size_bytes=wrong.size_bytes, digests=wrong.joined_digests()))
        closed = await anna.wait_closed(TAG)
        assert closed.state is m.JobState.FAILED and "do not make this tag" in closed.reason
        assert not storage.shelf.live and not list((site.data / "spool").iterdir())


async def test_a_manifest_that_nobody_expects_opens_no_job(autojump_clock: MockClock, site: Site) -> None:
    async with site.storage() as storage, site.uploader() as anna:
        link = await anna.dial()
        anna.send_manifest(link, manifest_of(DATA))
        assert isinstance(await anna.propose(link, TAG, len(DATA) + 2 * MIB), m.Failure)
        assert not storage.shelf.live


async def test_a_node_may_have_so_many_uploads_open_and_no_more(autojump_clock: MockClock, site: Site) -> None:
    site.settings["node_jobs_max"] = 2
    async with site.storage(), site.uploader("anna") as anna, site.uploader("ben") as ben:
        link = await anna.dial()
        tags = [(await anna.begin_put(link, some_bytes(10, seed), chunks=[])).tag for seed in range(2)]
        third = manifest_of(some_bytes(10, 3))
        refused = await anna.propose(link, third.tag, 10)
        assert isinstance(refused, m.Failure) and refused.code == "busy"
        again = await anna.propose(link, tags[0], 10)
        assert isinstance(again, m.DeskAnswer), "an upload that is open already may be proposed again"
        assert isinstance(await ben.propose(await ben.dial(), third.tag, 10), m.DeskAnswer)


# --- what others see ---


async def test_others_download_during_the_upload_and_only_what_is_durable(
    autojump_clock: MockClock, site: Site
) -> None:
    async with site.storage() as storage, site.uploader("anna") as anna, site.uploader("dora") as dora:
        await anna.begin_put(await anna.dial(), DATA, "a", chunks=[0, 1])
        await anna.wait_stored(TAG, 2)
        link = await dora.dial()
        manifest = await dora.engine.request_manifest(link, TAG)
        assert manifest == manifest_of(DATA)
        from exchange.spool import Spool

        spool = await Spool.open(storage._runtime, site.folder / "download", manifest)
        swarm = dora.engine.fetch(manifest, spool, Bitmap(6), lambda chunk, makers: None)
        dora.engine.ask(link, TAG)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(swarm.run)
            await eventually(lambda: set(swarm.verified) == {0, 1})
            anna.has(DATA)
            anna.engine.gained(TAG, range(2, 6))
        assert (site.folder / "download").read_bytes() == DATA
        swarm.close()
        await spool.aclose()


async def test_uploaders_may_leave_once_a_helper_holds_the_rest(autojump_clock: MockClock, site: Site) -> None:
    async with site.storage(), site.uploader("anna") as anna, site.uploader("hugo") as hugo:
        link = await anna.dial()
        await anna.begin_put(link, DATA, "a", chunks=[0, 1])
        await anna.wait_stored(TAG, 2)
        assert not any(isinstance(message, m.JobProgress) and message.safe for message in anna.heard)
        hugo.has(DATA)
        hugo.engine.set_budgets(up=200_000.0, help=200_000.0)
        hugo.engine.offer(await hugo.dial(), TAG)
        progress = await anna.wait_heard(m.JobProgress, lambda message: message.safe)
        assert progress.chunks_stored < 6
        link.close()
        assert (await hugo.wait_closed(TAG)).state is m.JobState.STORED
        assert object_of(site).read_bytes() == DATA


async def test_progress_is_told_four_times_a_second_at_most_and_now_and_then_when_nothing_moves(
    autojump_clock: MockClock, site: Site
) -> None:
    async with site.storage(), site.uploader() as anna:
        anna.engine.set_budgets(up=1_000_000.0, help=None)
        begin = trio.current_time()
        assert (await anna.put(await anna.dial(), DATA, "a")).proven
        seconds = trio.current_time() - begin
        assert seconds > 4
        told = [message for message in anna.heard if isinstance(message, m.JobProgress)]
        assert 5 <= len(told) <= 4 * seconds + 5
        other = some_bytes(100, 2)
        await anna.begin_put(await anna.dial(), other, chunks=[])
        before = len(anna.heard)
        await trio.sleep(60)
        quiet = [message for message in anna.heard[before:] if isinstance(message, m.JobProgress)]
        assert 4 <= len(quiet) <= 8
