"""A kill between any two changes of the disk: the next process goes on, and nothing acknowledged is sent again.

Every change of a whole upload is tried, before and after it: each file operation, each transaction and its commit.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from support.failing_disk import Fate, Killed
from support.storage_node import Site, Uploader, some_bytes
from trio.testing import MockClock

from protocol import messages as m
from protocol.errors import ConfigError, LinkLost, StorageBroken, StorageFull
from protocol.ids import Tag
from protocol.limits import MIB
from protocol.manifest import Manifest
from storage.backends.directory import DirectoryBackend

# Two chunks: every step of a job is there, and the number of steps stays small.
DATA = some_bytes(1 * MIB + 5000)
# One chunk: it goes another way, with fewer steps.
SMALL = some_bytes(50_000)
BOTH = pytest.mark.parametrize("data", [DATA, SMALL], ids=["two chunks", "one chunk"])


async def put_until_stored(site: Site, anna: Uploader, data: bytes = DATA) -> m.JobClosed:
    """What a daemon does: dial, propose, prove or offer, until it is stored and granted."""
    manifest: Manifest = anna.has(data)
    while True:
        link = await anna.dial()
        after = len(anna.heard)
        answer = await anna.propose(link, manifest.tag, manifest.size_bytes, "name")
        assert isinstance(answer, m.DeskAnswer), answer
        if answer.state is m.DeskState.STORED:
            said = await anna.prove(link, answer, data)
            assert isinstance(said, m.JobClosed) and said.proven
            return said
        if answer.state is m.DeskState.NEW:
            anna.send_manifest(link, manifest)
        anna.engine.offer(link, manifest.tag)
        closed = await anna.wait_closed(manifest.tag, after=after)
        if closed.proven:
            return closed


async def first_life(site: Site, anna: Uploader, fate: Fate, data: bytes = DATA) -> bool:
    """Run a storage node under ``fate`` while anna puts; return whether the put ended before the kill came."""
    stored = False
    site.wrap = fate.wrap
    try:
        async with site.storage(), trio.open_nursery() as putting:

            async def put() -> None:
                nonlocal stored
                await put_until_stored(site, anna, data)
                stored = True
                putting.cancel_scope.cancel()

            putting.start_soon(put)
    except* Killed:
        pass
    finally:
        site.wrap = lambda runtime: runtime
        for stream in site.hub.open_streams():
            stream.reset()
    return stored


async def test_what_an_upload_changes_on_the_disk_and_in_which_order(autojump_clock: MockClock, tmp_path: Path) -> None:
    site, fate = Site(tmp_path), Fate()
    await site.join()
    async with site.uploader() as anna:
        assert await first_life(site, anna, fate)
    spool = str(anna.has(DATA).tag)[:8]
    steps = [step for step in fate.log if step not in ("write " + spool, "sync folder spool")]
    opened = steps.index("open " + spool)
    assert steps[opened : opened + 2] == ["open " + spool, "resize " + spool]
    assert steps.index("rename") < len(steps) - 1
    # The rename is between the sync of the file and the transaction that says "stored".
    rename = steps.index("rename")
    assert "sync " + spool in steps[:rename]
    assert steps[rename:][-2:] == ["transaction", "committed"]
    # No acknowledgement before its sync, and that of its name.
    assert steps.index("sync " + spool) < [n for n, step in enumerate(steps) if step == "committed"][1]
    committed = [n for n, step in enumerate(fate.log) if step == "committed"]
    assert committed[0] < fate.log.index("sync folder spool") < committed[1]


async def test_one_chunk_is_stored_before_anything_is_said_of_it(autojump_clock: MockClock, tmp_path: Path) -> None:
    site, fate = Site(tmp_path), Fate()
    await site.join()
    async with site.uploader() as anna:
        assert await first_life(site, anna, fate, SMALL)
        tag = anna.has(SMALL).tag
    steps = fate.log[fate.log.index("open " + str(tag)[:8]) :]
    # One transaction opens the job, another one stores it; the file is in its place before.
    rename = steps.index("rename")
    assert steps.count("transaction") == 2 and steps.index("transaction") < rename
    assert "sync " + str(tag)[:8] in steps[:rename]
    assert steps[rename:] == ["rename", "sync folder " + str(tag)[:2], "transaction", "committed"]
    # Nobody was told of its spool file, and nobody would miss it.
    assert "sync folder spool" not in steps
    closed = [said for said in anna.heard if isinstance(said, m.JobClosed)]
    assert [said.state for said in closed] == [m.JobState.STORED] and closed[0].proven
    # Who gave it is said all the same.
    told = [said for said in anna.heard if isinstance(said, m.JobProgress)][-1]
    assert told.bytes_stored == len(SMALL) and sum(one.bytes_pushed for one in told.pushed) == len(SMALL)


class Away(DirectoryBackend):
    """A backend that takes nothing for a while."""

    away = True

    async def store(self, tag: Tag, spool: Path, size_bytes: int) -> None:
        if self.away:
            raise StorageFull("planted")
        await super().store(tag, spool, size_bytes)


async def test_one_chunk_that_cannot_be_placed_is_acknowledged_first(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.backends.choice.DirectoryBackend", Away)
    monkeypatch.setattr(Away, "away", True)
    site, fate = Site(tmp_path), Fate()
    site.wrap = fate.wrap
    await site.join()
    async with site.uploader() as anna, site.storage() as storage, trio.open_nursery() as putting:
        tag = anna.has(SMALL).tag
        putting.start_soon(put_until_stored, site, anna, SMALL)
        while not anna.acknowledged(tag):
            await trio.sleep(0.1)
        assert "sync " + str(tag)[:8] in fate.log and fate.log[-1] == "committed"
        assert "sync folder spool" in fate.log  # now it would be missed
        assert tag not in storage.shelf.stored
        Away.away = False
    assert storage.shelf.stored[tag].names == ("name",)


async def number_of_changes(folder: Path, data: bytes = DATA) -> int:
    site, fate = Site(folder), Fate()
    await site.join()
    async with site.uploader() as anna:
        assert await first_life(site, anna, fate, data)
    return len(fate.log)


@BOTH
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_kill_at_any_change_is_mended_by_the_next_process(
    autojump_clock: MockClock, tmp_path: Path, after: bool, data: bytes
) -> None:
    changes = await number_of_changes(tmp_path / "count", data)
    assert 10 <= changes <= 60
    for at in range(changes):
        site = Site(tmp_path / f"{at}", seed=at)
        await site.join()
        async with site.uploader() as anna:
            manifest = anna.has(data)
            ended = await first_life(site, anna, Fate(at, after=after), data)
            acknowledged = anna.acknowledged(manifest.tag)
            asked_before = len(anna.requests)
            async with site.storage() as storage:
                if not ended:
                    await put_until_stored(site, anna, data)
                again = {chunk for _, chunk, _ in anna.requests[asked_before:]}
                assert not again & acknowledged, f"change {at}: acknowledged chunks {again & acknowledged} came twice"
                assert storage.shelf.stored[manifest.tag].names == ("name",), at
                assert not storage.shelf.live and not storage.shelf.resting
            path = site.data / "objects" / str(manifest.tag)[:2] / str(manifest.tag)
            assert path.read_bytes() == data, at
            assert not list((site.data / "spool").iterdir()), at


@BOTH
@pytest.mark.slow
async def test_every_error_of_the_disk_ends_the_process_or_is_waited_out_and_never_loses_a_word(
    autojump_clock: MockClock, tmp_path: Path, data: bytes
) -> None:
    changes = await number_of_changes(tmp_path / "count", data)
    for at in range(changes):
        for error in (lambda: StorageBroken("planted"), lambda: StorageFull("planted")):
            site = Site(tmp_path / f"{at} {error().exit_code}", seed=at)
            await site.join()
            async with site.uploader() as anna:
                manifest = anna.has(data)
                fate = Fate(at, error=error)
                site.wrap = fate.wrap
                try:
                    with trio.move_on_after(120):
                        async with site.storage():
                            await keep_putting(site, anna, data)
                except* (StorageBroken, StorageFull, ConfigError):
                    pass
                site.wrap = lambda runtime: runtime
                for stream in site.hub.open_streams():
                    stream.reset()
                acknowledged = anna.acknowledged(manifest.tag)
                asked_before = len(anna.requests)
                async with site.storage() as storage:
                    if manifest.tag not in storage.shelf.stored:
                        await put_until_stored(site, anna, data)
                    again = {chunk for _, chunk, _ in anna.requests[asked_before:]}
                    assert not again & acknowledged, (at, fate.log[at])
                    assert await whole(storage, manifest.tag) == data, (at, fate.log[at])


async def keep_putting(site: Site, anna: Uploader, data: bytes) -> None:
    """Like a daemon that is refused for want of room: it tries again a little later."""
    for _ in range(10):
        try:
            await put_until_stored(site, anna, data)
            return
        except (AssertionError, LinkLost):
            await trio.sleep(5)


async def whole(storage, tag: Tag) -> bytes:
    data = bytearray(storage.shelf.stored[tag].size_bytes)
    chunk_bytes = 1 * MIB
    for chunk in range(tag.chunks):
        part = memoryview(data)[chunk * chunk_bytes : (chunk + 1) * chunk_bytes]
        await storage.holdings.read_block(tag, chunk, 0, part)
    return bytes(data)
