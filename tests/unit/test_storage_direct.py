"""Direct mode at the storage node: nobody is believed, and whoever does not deliver is replaced."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from support.fake_s3 import FakeS3
from support.s3_site import s3_site
from support.storage_node import Site, Uploader, some_bytes
from trio.testing import MockClock

from protocol import messages as m
from protocol.ids import Tag
from protocol.limits import SMALL_FILE_BYTES_MAX
from runtime.link import Link
from storage.grants import FAILURES_MAX

LARGE = some_bytes(SMALL_FILE_BYTES_MAX + 1)


@pytest.fixture
def fake() -> FakeS3:
    return FakeS3()


@pytest.fixture
def site(tmp_path: Path, fake: FakeS3) -> Site:
    site = s3_site(tmp_path, fake)
    site.settings["direct"] = True
    return site


async def next_grant(anna: Uploader, after: int) -> m.PartGrant:
    return await anna.wait_heard(m.PartGrant, after=after)


async def answer_grants(anna: Uploader, link: Link, tag: Tag, code: str | None) -> None:
    """Say of the first grants that they are put (``code`` None), or why not; nothing is ever put."""
    after = 0
    for _ in range(FAILURES_MAX):
        grant = await next_grant(anna, after)
        after = anna.heard.index(grant) + 1
        if code is None:
            link.post(m.PartPut(tag=tag, chunk=grant.chunk))
        else:
            link.post(m.PartFailed(tag=tag, chunk=grant.chunk, code=code, reason="no"))


@pytest.mark.slow
@pytest.mark.parametrize("code", [None, "store", "gone"])
async def test_who_does_not_put_what_it_was_granted_is_asked_for_blocks(
    autojump_clock: MockClock, site: Site, fake: FakeS3, code: str | None
) -> None:
    async with site.storage() as storage, site.uploader() as anna:
        link = await anna.dial()
        manifest = await anna.begin_put(link, LARGE, "film")
        grant = await next_grant(anna, 0)
        assert not anna.requests, "nobody who may put parts is asked for blocks"
        assert grant.url.startswith("http://s3.test:9000/bucket/node/objects/")
        assert "X-Amz-Signature" in grant.url and "x-amz-checksum-sha256" in grant.url
        async with trio.open_nursery() as answering:
            answering.start_soon(answer_grants, anna, link, manifest.tag, code)
            closed = await anna.wait_closed(manifest.tag)
        assert closed.state is m.JobState.STORED and closed.proven
        assert {chunk for _, chunk, _ in anna.requests} == set(range(manifest.tag.chunks))
        assert storage.engine.strikes.is_shut_out(anna.node, storage.engine.now()) is False
    assert fake.objects[f"node/objects/{manifest.tag}"].data == LARGE
    assert not fake.uploads and not fake.refused


@pytest.mark.slow
async def test_who_says_nothing_loses_its_grants_in_time(autojump_clock: MockClock, site: Site, fake: FakeS3) -> None:
    async with site.storage(), site.uploader() as anna:
        manifest = await anna.begin_put(await anna.dial(), LARGE, "film")
        closed = await anna.wait_closed(manifest.tag)
        assert closed.state is m.JobState.STORED
        recalled = [message.chunk for message in anna.heard if isinstance(message, m.PartRecall)]
        assert len(recalled) >= FAILURES_MAX
    assert fake.objects[f"node/objects/{manifest.tag}"].data == LARGE


@pytest.mark.slow
async def test_what_a_helper_put_is_acknowledged_once_the_store_shows_it(
    autojump_clock: MockClock, site: Site, fake: FakeS3
) -> None:
    async with site.storage() as storage, site.uploader() as anna:
        link = await anna.dial()
        manifest = await anna.begin_put(link, LARGE, "film")
        after = 0
        layout = manifest.layout
        for _ in range(layout.chunks):
            grant = await next_grant(anna, after)
            after = anna.heard.index(grant) + 1
            assert grant.chunk not in anna.acknowledged(manifest.tag)
            start = layout.offset_of(grant.chunk)
            (upload,) = fake.uploads.values()
            upload.parts[grant.chunk + 1] = LARGE[start : start + layout.bytes_of(grant.chunk)]
            link.post(m.PartPut(tag=manifest.tag, chunk=grant.chunk))
        closed = await anna.wait_closed(manifest.tag)
        assert closed.state is m.JobState.STORED and closed.proven
        assert not anna.requests and storage.engine.received_bytes == 0
        assert anna.acknowledged(manifest.tag) == set(range(layout.chunks))
    assert fake.objects[f"node/objects/{manifest.tag}"].data == LARGE
    assert not fake.uploads and not fake.refused
