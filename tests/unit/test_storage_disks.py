"""What a full or failing disk does to uploads into a storage node."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from support.failing_disk import Fate, FatedDisk, FatedFile
from support.intake import DATA, TAG, eventually, object_of
from support.storage_node import Site
from trio.testing import MockClock

from protocol import messages as m
from protocol.errors import StorageBroken, StorageFull
from runtime.seam import Buffer


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


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
