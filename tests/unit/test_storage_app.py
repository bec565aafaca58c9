"""The storage node as a whole: what it tells its tracker, what it refuses to start on, what it shows of itself."""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
import structlog
import trio
from support.runtimes import memory_runtime
from support.storage_node import Site, manifest_of, some_bytes
from trio.testing import MockClock

from protocol import messages as m
from protocol.errors import ConfigError
from protocol.ids import Role
from protocol.limits import MIB
from runtime.link import Link
from runtime.links import Links
from runtime.real import RealDisk, real_runtime
from storage.app import main, opened
from storage.commands import methods_of
from storage.config import StorageConfig
from storage.statistics import status_to_json

DATA = some_bytes(3 * MIB + 5)
TAG = manifest_of(DATA).tag
M = TypeVar("M", bound=m.Message)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


class FakeTracker:
    """Answers heartbeats and remembers everything else."""

    def __init__(self) -> None:
        self.heard: list[m.Message] = []
        self.beats: list[m.Heartbeat] = []
        self._news = trio.Event()

    async def serve(self, link: Link) -> None:
        first = True
        async for message in link.messages():
            if isinstance(message, m.Heartbeat):
                self.beats.append(message)
                link.post(m.HeartbeatAnswer(number=message.number, interval_milliseconds=1000, inventory_wanted=first))
                first = False
            else:
                self.heard.append(message)
            self._news.set()
            self._news = trio.Event()

    def updates(self) -> list[m.JobUpdate]:
        return [message for message in self.heard if isinstance(message, m.JobUpdate)]

    def holdings(self) -> list[m.Holding]:
        return [held for message in self.heard if isinstance(message, m.Inventory) for held in message.held]

    async def wait(self, condition) -> None:
        with trio.fail_after(120):
            while True:
                if condition():
                    return
                await self._news.wait()


@asynccontextmanager
async def tracker_of(site: Site) -> AsyncIterator[FakeTracker]:
    tracker = FakeTracker()
    runtime = memory_runtime(site.hub.host("10.0.0.99"), name="tracker")
    credentials = site.swarm.credentials("tracker", Role.TRACKER)
    links = Links(runtime, credentials, name="tracker", serve=tracker.serve)
    listener = await runtime.network.listen("10.0.0.99", 4100)
    async with trio.open_nursery() as nursery:
        await nursery.start(links.run, (listener,))
        yield tracker
        nursery.cancel_scope.cancel()


# --- the tracker hears ---


async def test_the_tracker_hears_of_a_job_from_its_opening_to_its_end(autojump_clock: MockClock, site: Site) -> None:
    async with tracker_of(site) as tracker, site.storage(), site.uploader() as anna:
        await tracker.wait(lambda: tracker.beats)
        await anna.begin_put(await anna.dial(), DATA, "film", chunks=[0, 1])
        await tracker.wait(lambda: any(update.chunks_stored == 2 for update in tracker.updates()))
        first = tracker.updates()[0]
        assert (first.state, first.chunks_stored, first.name, first.safe) == (m.JobState.OPEN, 0, "film", False)
        assert first.uploaders == (anna.node,)
        await tracker.wait(lambda: tracker.holdings())
        held = tracker.holdings()[-1]
        assert (held.tag, held.bitmap, held.names) == (TAG, b"\x03", ("film",))
        anna.has(DATA)
        anna.engine.gained(TAG, [2, 3])
        await tracker.wait(lambda: tracker.updates()[-1].state is m.JobState.STORED)
        last = tracker.updates()[-1]
        assert (last.chunks_stored, last.safe) == (4, True)
        assert {pushed.node: pushed.bytes_pushed for pushed in last.pushed} == {anna.node: len(DATA)}
        await tracker.wait(lambda: tracker.holdings()[-1].bitmap == b"")
        assert tracker.holdings()[-1].names == ("film",)


async def test_a_tracker_that_comes_back_hears_of_all_open_jobs(autojump_clock: MockClock, site: Site) -> None:
    async with site.storage(), site.uploader() as anna:
        link = await anna.dial()
        tags = {(await anna.begin_put(link, some_bytes(1000, seed), chunks=[])).tag for seed in range(3)}
        await anna.put(link, DATA, "stored")
        for _ in range(2):
            async with tracker_of(site) as tracker:
                await tracker.wait(lambda: len(tracker.updates()) >= 3)
                assert {update.tag for update in tracker.updates()} == tags
                assert all(update.state is m.JobState.OPEN for update in tracker.updates())
                await tracker.wait(lambda: tracker.holdings())
                assert [held.tag for held in tracker.holdings()] == [TAG]


async def test_the_tracker_hears_twice_a_second_at_most_while_a_job_moves(
    autojump_clock: MockClock, site: Site
) -> None:
    async with tracker_of(site) as tracker, site.storage(), site.uploader() as anna:
        await tracker.wait(lambda: tracker.beats)
        anna.engine.set_budgets(up=300_000.0, help=None)
        begin = trio.current_time()
        assert (await anna.put(await anna.dial(), DATA, "film")).proven
        seconds = trio.current_time() - begin
        assert seconds > 5
        await tracker.wait(lambda: tracker.updates()[-1].state is m.JobState.STORED)
        # And at once: opening, committing, stored.
        assert 3 <= len(tracker.updates()) <= 2 * seconds + 4


async def test_a_heartbeat_says_how_much_room_there_is(autojump_clock: MockClock, site: Site) -> None:
    async with tracker_of(site) as tracker, site.storage() as storage:
        await tracker.wait(lambda: tracker.beats)
        assert tracker.beats[0].room_bytes == storage.room.last_free_bytes > 0


# --- starting ---


async def test_two_processes_never_work_on_one_data_folder(autojump_clock: MockClock, site: Site) -> None:
    async with site.storage():
        with pytest.raises(ConfigError, match="another storage node is running on it"):
            async with opened(site.config(), site.runtime()):
                pass
    async with site.storage():
        pass  # The lock was given back.


async def test_who_has_not_joined_is_told_how(autojump_clock: MockClock, site: Site) -> None:
    with pytest.raises(ConfigError, match="upswarm join INVITE"):
        async with opened(site.config(), site.runtime()):
            pass


async def test_who_joined_as_a_peer_is_no_storage_node(autojump_clock: MockClock, site: Site) -> None:
    await site.join(Role.PEER)
    with pytest.raises(ConfigError, match="--role storage"):
        async with opened(site.config(), site.runtime()):
            pass


@pytest.mark.parametrize(
    "settings",
    [
        {"listen": "nowhere"},
        {"listen": "::1:4200"},
        {"advertise": ("host",)},
        {"node_jobs_max": 0},
        {"reserve_bytes": -1},
        {"name": "n" * 65},
    ],
)
def test_settings_that_cannot_be_are_refused(site: Site, settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        StorageConfig(places=site.config().places, **settings)


@pytest.fixture
def _logs_as_before() -> Iterator[None]:
    """``main`` sends the log lines of this process where they belong; put that back."""
    handlers, level = logging.getLogger().handlers, logging.getLogger().level
    yield
    structlog.reset_defaults()
    logging.getLogger().handlers = handlers
    logging.getLogger().setLevel(level)


@pytest.mark.usefixtures("_logs_as_before")
def test_main_says_what_is_wrong_with_a_setting_and_ends_with_2(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(site.config()) == 2
    assert "upswarm join INVITE" in capsys.readouterr().err


@pytest.mark.usefixtures("_logs_as_before")
def test_main_ends_with_1_when_the_disk_fails(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(RealDisk):
        def list_folder(self, path: Path) -> list[str]:
            raise OSError(errno.EIO, "input/output error", str(path))

    trio.run(site.join)
    monkeypatch.setattr("storage.app.real_runtime", lambda: replace(real_runtime(), disk=Broken()))
    assert main(site.config()) == 1
    assert "what was acknowledged is safe" in capsys.readouterr().err


# --- looking ---


async def test_status_shows_jobs_and_files_as_json(autojump_clock: MockClock, site: Site) -> None:
    async with site.storage() as storage, site.uploader() as anna:
        link = await anna.dial()
        await anna.put(link, some_bytes(100, 2), "done")
        await anna.begin_put(link, DATA, "open", chunks=[0])
        await anna.wait_stored(TAG, 1)
        status = json.loads(json.dumps(status_to_json(storage.statistics())))
        assert (status["stored_files"], status["stored_bytes"]) == (1, 100)
        (job,) = status["jobs"]
        assert (job["tag"], job["state"], job["bytes_stored"]) == (str(TAG), "open", MIB)
        assert job["pushed"] == {anna.node: MIB}
        assert status["received_bytes"] == MIB + 100
        methods = methods_of(storage)

        async def notify(_method: str, _params: dict[str, object]) -> None:
            raise AssertionError

        listed = await methods["ls"]({}, notify)
        assert [(row["name"], row["state"]) for row in listed["files"]] == [("done", "stored"), ("open", "open")]
        assert (await methods["version"]({}, notify))["program"] == "storage"
        assert (await methods["status"]({}, notify))["node"] == storage.node
