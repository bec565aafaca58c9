"""The storage node from the desk to the object, over in-memory links: whole uploads and what may befall them."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.storage_node import Site, some_bytes
from trio.testing import MockClock

from protocol import messages as m
from protocol.limits import MIB


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def object_of(site: Site, tag) -> Path:
    return site.data / "objects" / str(tag)[:2] / str(tag)


async def test_a_file_that_is_put_becomes_an_object_with_these_bytes(autojump_clock: MockClock, site: Site) -> None:
    data = some_bytes(5 * MIB + 77)
    async with site.storage() as storage, site.uploader() as anna:
        link = await anna.dial()
        closed = await anna.put(link, data, "film.mov")
        assert (closed.state, closed.proven) == (m.JobState.STORED, True)
        assert object_of(site, closed.tag).read_bytes() == data
        assert storage.shelf.stored[closed.tag].names == ("film.mov",)
        assert not list((site.data / "spool").iterdir())
        assert anna.acknowledged(closed.tag) == set(range(6))
