"""The storage node from the desk to the object, over in-memory links: whole uploads and what may befall them."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from support.failing_disk import Fate, FatedDisk, FatedFile
from support.storage_node import Site, Uploader, manifest_of, some_bytes
from trio.testing import MockClock

from exchange.spool import FRESH_SECONDS
from protocol import messages as m
from protocol.bitmap import Bitmap
from protocol.errors import StorageBroken, StorageFull
from protocol.ids import Tag
from protocol.limits import MIB
from runtime.real import RealDisk
from runtime.seam import Buffer, File, Runtime

DATA = some_bytes(5 * MIB + 77)
TAG = manifest_of(DATA).tag


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def object_of(site: Site, tag: Tag = TAG) -> Path:
    return site.data / "objects" / str(tag)[:2] / str(tag)


def spool_of(site: Site, tag: Tag = TAG) -> Path:
    return site.data / "spool" / str(tag)


def asked(uploader: Uploader) -> set[int]:
    return {chunk for _, chunk, _ in uploader.requests}


async def eventually(condition) -> None:
    with trio.fail_after(120):
        while True:
            if condition():
                return
            await trio.sleep(0.05)


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


# --- stored already ---


async def test_what_is_stored_is_not_sent_again_by_who_proves_to_have_it(autojump_clock: MockClock, site: Site) -> None:
    async with site.storage() as storage, site.uploader("anna") as anna, site.uploader("ben") as ben:
        await anna.put(await anna.dial(), DATA, "a")
        link = await ben.dial()
        answer = await ben.propose(link, TAG, len(DATA), "b")
        assert isinstance(answer, m.DeskAnswer) and answer.state is m.DeskState.STORED
        closed = await ben.prove(link, answer, DATA)
        assert isinstance(closed, m.JobClosed) and closed.proven
        assert ben.requests == []
        assert storage.shelf.stored[TAG].names == ("b", "a")


async def test_who_cannot_prove_it_gets_nothing(autojump_clock: MockClock, site: Site) -> None:
    async with site.storage() as storage, site.uploader("anna") as anna, site.uploader("eve") as eve:
        await anna.put(await anna.dial(), DATA, "a")
        link = await eve.dial()

        async def challenge() -> m.DeskAnswer:
            answer = await eve.propose(link, TAG, len(DATA), "mine")
            assert isinstance(answer, m.DeskAnswer) and answer.state is m.DeskState.STORED
            return answer

        first = await challenge()
        for said in (
            await eve.prove(link, first, bytes(len(DATA))),  # only digests: no bytes
            await eve.prove(link, first, DATA),  # a second answer to the same challenge
            await eve.prove(link, await challenge(), DATA, node=anna.node),  # anna's answer
            await eve.prove(link, replace(await challenge(), nonce=first.nonce), DATA),  # an older answer
            await eve.send_proof(link, manifest_of(b"unknown").tag, bytes(32)),
        ):
            assert isinstance(said, m.Failure) and said.code == "refused"
        assert storage.shelf.stored[TAG].names == ("a",)


async def test_an_uploader_that_delivered_nothing_is_challenged_when_others_finished(
    autojump_clock: MockClock, site: Site
) -> None:
    async with site.storage() as storage, site.uploader("anna") as anna, site.uploader("ben") as ben:
        await anna.begin_put(await anna.dial(), DATA, "a", chunks=[0])
        await anna.wait_stored(TAG, 1)
        ben_link = await ben.dial()
        assert isinstance(await ben.propose(ben_link, TAG, len(DATA), "b"), m.DeskAnswer)
        anna.has(DATA)
        anna.engine.gained(TAG, range(1, 6))
        closed = await ben.wait_closed(TAG)
        assert (closed.state, closed.proven) == (m.JobState.STORED, False)
        assert storage.shelf.stored[TAG].names == ("a",)
        answer = await ben.propose(ben_link, TAG, len(DATA), "b")
        assert isinstance(answer, m.DeskAnswer) and answer.state is m.DeskState.STORED


async def test_who_offers_what_is_stored_hears_so(autojump_clock: MockClock, site: Site) -> None:
    async with site.storage(), site.uploader("anna") as anna, site.uploader("hugo") as hugo:
        await anna.put(await anna.dial(), DATA)
        hugo.has(DATA)
        hugo.engine.offer(await hugo.dial(), TAG)
        closed = await hugo.wait_closed(TAG)
        assert (closed.state, closed.proven) == (m.JobState.STORED, False)


async def test_a_stored_object_that_cannot_be_read_is_lost_and_may_be_put_again(
    autojump_clock: MockClock, site: Site
) -> None:
    async with site.storage() as storage, site.uploader() as anna:
        link = await anna.dial()
        await anna.put(link, DATA, "a")
        object_of(site).write_bytes(b"")
        answer = await anna.propose(link, TAG, len(DATA), "a")
        assert isinstance(answer, m.DeskAnswer)
        said = await anna.prove(link, answer, DATA)
        assert isinstance(said, m.Failure) and said.code == "busy"
        assert TAG not in storage.shelf.stored
        closed = await anna.put(link, DATA, "a")
        assert closed.proven and object_of(site).read_bytes() == DATA


async def test_a_stored_object_whose_store_is_away_for_a_moment_stays_stored(
    autojump_clock: MockClock, site: Site
) -> None:
    class Away(RealDisk):
        errors = 0

        def open_read(self, path: Path) -> File:
            if self.errors and path.parent.parent.name == "objects":
                self.errors -= 1
                raise OSError(errno.EIO, "the disk is away")
            return super().open_read(path)

    site.disk = away = Away()
    async with site.storage() as storage, site.uploader() as anna:
        link = await anna.dial()
        await anna.put(link, DATA, "a")
        for trouble in ("open", "folder"):
            answer = await anna.propose(link, TAG, len(DATA), "b")
            assert isinstance(answer, m.DeskAnswer) and answer.state is m.DeskState.STORED
            objects, elsewhere = site.data / "objects", site.data / "elsewhere"
            if trouble == "open":
                away.errors = 1
            else:
                objects.rename(elsewhere)
            said = await anna.prove(link, answer, DATA)
            assert isinstance(said, m.Failure) and said.code == "busy"
            assert TAG in storage.shelf.stored and away.errors == 0
            if trouble == "folder":
                elsewhere.rename(objects)
        answer = await anna.propose(link, TAG, len(DATA), "b")
        assert isinstance(answer, m.DeskAnswer)
        closed = await anna.prove(link, answer, DATA)
        assert isinstance(closed, m.JobClosed) and closed.proven
        assert set(storage.shelf.stored[TAG].names) == {"a", "b"}


async def test_a_stored_object_that_is_there_and_cannot_be_read_is_mended_from_who_has_it(
    autojump_clock: MockClock, site: Site
) -> None:
    class BadFile(FatedFile):
        def read_into(self, target: memoryview, offset: int) -> int:
            raise OSError(errno.EIO, "a bad sector")

    class BadSector(RealDisk):
        bad = False

        def open_read(self, path: Path) -> File:
            file = super().open_read(path)
            return BadFile(file, Fate(), path.name) if self.bad and path.parent.parent.name == "objects" else file

    site.disk = disk = BadSector()
    async with site.storage() as storage, site.uploader() as anna:
        link = await anna.dial()
        await anna.put(link, DATA, "a")
        answer = await anna.propose(link, TAG, len(DATA), "a")
        assert isinstance(answer, m.DeskAnswer)
        disk.bad = True
        said = await anna.prove(link, answer, DATA)
        assert isinstance(said, m.Failure) and said.code == "busy"
        await eventually(lambda: TAG in storage.shelf.live)
        assert not storage.shelf.live[TAG].job.durable, "each of its chunks was read twice, and is fetched again"
        disk.bad = False
        closed = await anna.put(link, DATA, "a")
        assert closed.state is m.JobState.STORED and object_of(site).read_bytes() == DATA


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


# --- disks ---


class FullDisk(FatedDisk):
    """Refuses to write blocks while ``full``."""

    full = False

    def open_write(self, path: Path):
        opened = super().open_write(path)
        disk = self

        class Full(FatedFile):
            def write(self, data: Buffer, offset: int) -> None:
                if disk.full:
                    raise StorageFull("write: no space left on device")
                super().write(data, offset)

        return Full(opened._file, self._fate, path.name[:8]) if isinstance(opened, FatedFile) else opened


async def test_a_full_disk_pauses_the_job_with_a_reason_and_it_goes_on_when_there_is_room(
    autojump_clock: MockClock, site: Site
) -> None:
    site.disk = disk = FullDisk(Fate())
    async with site.storage() as storage, site.uploader() as anna:
        disk.full = True
        await anna.begin_put(await anna.dial(), DATA, "a")
        await eventually(lambda: TAG in storage.shelf.live and storage.shelf.live[TAG].job.reason)
        assert "no space left" in storage.shelf.live[TAG].job.reason
        await trio.sleep(60)
        assert storage.shelf.live[TAG].job.state is m.JobState.OPEN
        assert not anna.acknowledged(TAG)
        disk.full = False
        assert (await anna.wait_closed(TAG)).proven
        assert object_of(site).read_bytes() == DATA


async def test_a_sync_that_fails_ends_the_process_and_is_never_tried_again(
    autojump_clock: MockClock, site: Site
) -> None:
    synced: list[str] = []

    class Broken(FatedDisk):
        def open_write(self, path: Path):
            opened = super().open_write(path)

            class File(FatedFile):
                def sync(self) -> None:
                    synced.append(self._name)
                    raise StorageBroken("fdatasync: input/output error")

            return File(opened._file, self._fate, path.name[:8]) if isinstance(opened, FatedFile) else opened

    site.disk = Broken(Fate())
    with pytest.raises(BaseExceptionGroup) as caught:
        async with site.uploader() as anna, site.storage():
            await anna.put(await anna.dial(), DATA, "a")
    assert caught.group_contains(StorageBroken)
    assert len(synced) == 1
    assert not anna.acknowledged(TAG)


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
