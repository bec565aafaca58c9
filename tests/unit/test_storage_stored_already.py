"""The storage node and files that it has stored already: who proves to have them, and what if they cannot be read."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest
from support.failing_disk import Fate, FatedFile
from support.intake import DATA, TAG, eventually, object_of
from support.storage_node import Site, manifest_of
from trio.testing import MockClock

from protocol import messages as m
from runtime.real import RealDisk
from runtime.seam import File


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


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
