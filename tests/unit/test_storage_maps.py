"""Chunk maps leave the storage node while a job moves, bounded, only to a tracker that likes them, and at its end."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import trio
from support.storage_node import Site, some_bytes
from trio.testing import MockClock

from protocol import messages as m
from protocol.jobmap import ChunkState, decode_runs_untrusted, sender_of, state_of
from protocol.limits import JOB_MAPS, MIB
from storage import reports
from storage.app import StorageNode

DATA = some_bytes(6 * MIB)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


class Eye:
    """Stands where the tracker's link is: sees what it would be sent."""

    def __init__(self, storage: StorageNode, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[float, m.Message]] = []
        self.busy = False
        monkeypatch.setattr(storage.tracker_link, "offer", self.offer)
        monkeypatch.setattr(storage.tracker_link, "post", self.post)

    def offer(self, message: m.Message, feature: str) -> bool:
        assert feature == JOB_MAPS and isinstance(message, m.JobMap)
        if not self.busy:
            self.post(message)
        return not self.busy

    def post(self, message: m.Message) -> None:
        self.seen.append((trio.current_time(), message))

    @property
    def maps(self) -> list[m.JobMap]:
        return [message for _, message in self.seen if isinstance(message, m.JobMap)]


async def test_an_upload_ends_with_a_map_that_names_who_brought_each_chunk(
    autojump_clock: MockClock, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site.storage() as storage, site.uploader("anna") as anna, site.uploader("ben") as ben:
        eye = Eye(storage, monkeypatch)
        manifest = await anna.begin_put(await anna.dial(), DATA, "film", chunks=[0, 1, 2])
        await anna.wait_stored(manifest.tag, 3)
        await ben.begin_put(await ben.dial(), DATA, "film", chunks=[3, 4, 5])
        await ben.wait_closed(manifest.tag)
        last = eye.maps[-1]
        codes = decode_runs_untrusted(last.runs, 6, len(last.senders))
        assert {state_of(code) for code in codes} == {ChunkState.STORED}
        assert [last.senders[sender_of(code) - 1] for code in codes] == [anna.node] * 3 + [ben.node] * 3
        kinds = [type(message) for _, message in eye.seen]
        assert kinds[-2:] == [m.JobMap, m.JobUpdate], "the map comes before the word that closes the job"


async def test_maps_are_told_once_a_second_at_most_and_only_when_they_differ(
    autojump_clock: MockClock, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site.storage() as storage, site.uploader() as anna:
        eye = Eye(storage, monkeypatch)
        await anna.begin_put(await anna.dial(), DATA, "film", chunks=[0])
        await trio.sleep(30)
        times = [time for time, message in eye.seen if isinstance(message, m.JobMap)]
        assert 1 <= len(times) <= 3, "nothing moves any more"
        assert all(later - earlier >= 0.999 for earlier, later in pairwise(times))


async def test_a_link_that_is_busy_gets_the_map_when_it_is_not(
    autojump_clock: MockClock, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site.storage() as storage, site.uploader() as anna:
        eye = Eye(storage, monkeypatch)
        eye.busy = True
        await anna.begin_put(await anna.dial(), DATA, "film", chunks=[0])
        await trio.sleep(5)
        assert eye.maps == []
        eye.busy = False
        await trio.sleep(2)
        assert len(eye.maps) == 1


async def test_with_many_jobs_each_has_its_turn(
    autojump_clock: MockClock, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "MAPS_PER_ROUND_MAX", 2)
    async with site.storage() as storage, site.uploader() as anna:
        eye = Eye(storage, monkeypatch)
        link = await anna.dial()
        tags = [(await anna.begin_put(link, some_bytes(2 * MIB, seed), "", chunks=[0])).tag for seed in range(5)]
        await trio.sleep(4)
        assert {shown.tag for shown in eye.maps} == set(tags)


async def test_a_tracker_that_comes_back_is_shown_everything_again(
    autojump_clock: MockClock, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site.storage() as storage, site.uploader() as anna:
        eye = Eye(storage, monkeypatch)
        await anna.begin_put(await anna.dial(), DATA, "film", chunks=[0])
        await trio.sleep(5)
        before = len(eye.maps)
        storage.reporter.announce_all()
        await trio.sleep(2)
        assert len(eye.maps) == before + 1 and eye.maps[-1] == eye.maps[-2]
