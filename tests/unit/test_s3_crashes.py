"""A kill between any two steps of an upload to S3 is mended by the next process: no object is lost or half there, no
upload in parts stays behind, nothing that was acknowledged is asked for again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio
from support.failing_disk import Fate, FatedDisk, Killed
from support.fake_s3 import FakeS3, settings
from support.runtimes import memory_runtime
from support.s3_site import s3_site
from support.storage_node import Site, Uploader, manifest_of, some_bytes
from trio.testing import MockClock

from protocol import messages as m
from protocol.errors import ConfigError
from protocol.limits import MIB, SMALL_FILE_BYTES_MAX
from runtime.web import open_web
from storage.backends.s3 import S3Backend

SMALL = some_bytes(1 * MIB + 5000)
LARGE = some_bytes(SMALL_FILE_BYTES_MAX + 1)
LARGE_TAG = manifest_of(LARGE).tag


async def put_until_stored(site: Site, anna: Uploader) -> None:
    """What a daemon does: propose, prove or offer, until it is stored and granted."""
    link = await anna.dial()
    manifest = anna.has(SMALL)
    while True:
        after = len(anna.heard)
        answer = await anna.propose(link, manifest.tag, manifest.size_bytes, "name")
        assert isinstance(answer, m.DeskAnswer), answer
        if answer.state is m.DeskState.STORED:
            said = await anna.prove(link, answer, SMALL)
            assert isinstance(said, m.JobClosed) and said.proven
            return
        if answer.state is m.DeskState.NEW:
            anna.send_manifest(link, manifest)
        anna.engine.offer(link, manifest.tag)
        if (await anna.wait_closed(manifest.tag, after=after)).proven:
            return


async def first_life(site: Site, anna: Uploader, fate: Fate, fake: FakeS3) -> bool:
    """Run a storage node under ``fate`` while anna puts; return whether the put ended before the kill came."""
    ended = False
    site.wrap, fake.fate = fate.wrap, fate
    try:
        async with site.storage(), trio.open_nursery() as putting:

            async def put() -> None:
                nonlocal ended
                await put_until_stored(site, anna)
                ended = True
                putting.cancel_scope.cancel()

            putting.start_soon(put)
    except* Killed:
        pass
    finally:
        site.wrap, fake.fate = lambda runtime: runtime, None
        for stream in site.hub.open_streams():
            stream.reset()
    return ended


async def test_files_come_to_s3_through_a_storage_node_and_are_read_from_there(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    fake = FakeS3()
    site = s3_site(tmp_path, fake)
    async with site.uploader() as anna, site.uploader("bert") as bert:
        async with site.storage() as storage:
            assert (await anna.put(await anna.dial(), SMALL, "film")).proven
            tag = manifest_of(SMALL).tag
            assert fake.objects[f"node/objects/{tag}"].data == SMALL
            assert not list((site.data / "spool").iterdir())
            block = bytearray(1000)
            await storage.holdings.read_block(tag, 1, 3000, memoryview(block))
            assert bytes(block) == SMALL[MIB + 3000 : MIB + 4000]
        # Another process: what is stored is proven from the bucket, not sent again.
        async with site.storage():
            answer = await bert.propose(await bert.dial(), tag, len(SMALL), "copy")
            assert isinstance(answer, m.DeskAnswer) and answer.state is m.DeskState.STORED
            said = await bert.prove(await bert.dial(), answer, SMALL)
            assert isinstance(said, m.JobClosed) and said.proven
    assert fake.refused == []


async def test_what_is_gone_from_the_bucket_is_not_called_stored(autojump_clock: MockClock, tmp_path: Path) -> None:
    fake = FakeS3()
    site = s3_site(tmp_path, fake)
    async with site.uploader() as anna:
        async with site.storage():
            assert (await anna.put(await anna.dial(), SMALL, "film")).proven
        del fake.objects[f"node/objects/{manifest_of(SMALL).tag}"]
        async with site.storage() as storage:
            assert not storage.shelf.stored
            assert (await anna.put(await anna.dial(), SMALL, "film")).proven
    assert fake.objects[f"node/objects/{manifest_of(SMALL).tag}"].data == SMALL


async def test_a_data_folder_stays_with_its_backend(autojump_clock: MockClock, tmp_path: Path) -> None:
    fake = FakeS3()
    site = s3_site(tmp_path, fake)
    async with site.storage():
        pass
    on_s3 = dict(site.settings)
    for other in ({"backend": "directory"}, {"s3_bucket": "another"}):
        site.settings = on_s3 | other
        with pytest.raises(ConfigError, match="its files are in 's3 "):
            async with site.storage():
                pass
    site.settings = on_s3
    async with site.storage():
        pass
    plain = Site(tmp_path / "plain")
    async with plain.storage():
        pass
    moved = s3_site(tmp_path / "plain", FakeS3())
    moved.swarm = plain.swarm
    with pytest.raises(ConfigError, match="its files are in 'directory'"):
        async with moved.storage():
            pass


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_kill_at_any_change_is_mended_by_the_next_process(
    autojump_clock: MockClock, tmp_path: Path, after: bool
) -> None:
    fate, fake = Fate(), FakeS3()
    site = s3_site(tmp_path / "count", fake)
    await site.join()
    async with site.uploader() as anna:
        assert await first_life(site, anna, fate, fake)
    assert "PUT object" in fate.log and "transaction" in fate.log
    for at in range(len(fate.log)):
        fake = FakeS3()
        site = s3_site(tmp_path / f"{at}", fake, seed=at)
        await site.join()
        async with site.uploader() as anna:
            tag = anna.has(SMALL).tag
            ended = await first_life(site, anna, Fate(at, after=after), fake)
            acknowledged = anna.acknowledged(tag)
            asked_before = len(anna.requests)
            async with site.storage() as storage:
                if not ended:
                    await put_until_stored(site, anna)
                again = {chunk for _, chunk, _ in anna.requests[asked_before:]}
                assert not again & acknowledged, f"change {at} {fate.log[at]}: {again & acknowledged} came twice"
                assert storage.shelf.stored[tag].names == ("name",), (at, fate.log[at])
            assert fake.objects[f"node/objects/{tag}"].data == SMALL, (at, fate.log[at])
            assert not fake.uploads and not fake.refused
            assert not list((site.data / "spool").iterdir()), (at, fate.log[at])


@pytest.mark.slow
async def test_a_kill_at_any_request_of_an_upload_in_parts_leaves_none_behind(tmp_path: Path) -> None:
    spool = tmp_path / "spool"

    async def life(fake: FakeS3, fate: Fate) -> bool:
        """Store the large file; whether that ended before the kill came."""
        fake.fate, ended = fate, False
        runtime = replace(memory_runtime(), disk=FatedDisk(fate))
        try:
            async with open_web(fake) as web:
                # One part at a time: requests come in one order, so that "the k-th" means something.
                backend = S3Backend(runtime, web, settings(), spool, owner="us", parts_at_once=1)
                await backend.prepare()
                await backend.store(LARGE_TAG, spool / str(LARGE_TAG), len(LARGE))
            ended = True
        except* Killed:
            pass
        return ended

    count = Fate()
    spool.mkdir()
    (spool / str(LARGE_TAG)).write_bytes(LARGE)
    assert await life(FakeS3(), count)
    assert [step for step in count.log if step.startswith("PUT part")] == [f"PUT part {n}" for n in range(1, 10)]
    for at in range(len(count.log)):
        for after in (False, True):
            fake = FakeS3()
            (spool / str(LARGE_TAG)).write_bytes(LARGE)
            assert not await life(fake, Fate(at, after=after))
            step = (at, count.log[at], after)
            found = fake.objects.get(f"node/objects/{LARGE_TAG}")
            assert found is not None or (spool / str(LARGE_TAG)).exists(), step
            assert found is None or found.data == LARGE, step
            assert await life(fake, Fate()), step
            assert fake.objects[f"node/objects/{LARGE_TAG}"].data == LARGE, step
            assert not fake.uploads and not fake.refused and not list(spool.iterdir()), step
