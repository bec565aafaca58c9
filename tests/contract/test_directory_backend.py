"""The directory backend keeps the contract; and what only it promises."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest
from contract.backend_contract import BackendContract, some, tag_of

from protocol.errors import ChunkMissing, ConfigError, StorageUnavailable
from runtime.real import RealDisk
from runtime.seam import File, FileStatus, Runtime
from storage.backends.base import Backend
from storage.backends.directory import DirectoryBackend


class TestDirectoryBackend(BackendContract):
    def make(self, runtime: Runtime, folder: Path, spool: Path) -> Backend:
        return DirectoryBackend(runtime, folder, spool)

    async def test_the_path_is_made_of_the_tag_alone(self, backend: Backend, spool: Path, tmp_path: Path) -> None:
        tag = await self.put(backend, spool, some(10))
        assert (tmp_path / "objects" / str(tag)[:2] / str(tag)).read_bytes() == some(10)

    async def test_what_is_not_ours_is_left_out_and_left_alone(
        self, backend: Backend, spool: Path, tmp_path: Path
    ) -> None:
        tag = await self.put(backend, spool, some(10))
        note = tmp_path / "objects" / str(tag)[:2] / "note.txt"
        note.write_text("from the administrator")
        (tmp_path / "objects" / "lost+found").mkdir()
        (tmp_path / "objects" / "ff").write_text("a file where a folder could be")
        (tmp_path / "objects" / str(tag)[:2] / str(tag_of(b"a folder"))).mkdir()
        assert await backend.list() == {tag: 10}
        assert note.exists()

    async def test_an_object_that_is_a_link_is_not_followed(
        self, backend: Backend, spool: Path, tmp_path: Path
    ) -> None:
        tag = tag_of(b"link")
        folder = tmp_path / "objects" / str(tag)[:2]
        folder.mkdir()
        (tmp_path / "secret").write_bytes(b"secret")
        (folder / str(tag)).symlink_to(tmp_path / "secret")
        assert await backend.size_of(tag) is None
        with pytest.raises(ChunkMissing):
            await backend.open(tag)

    async def test_an_object_that_cannot_be_opened_now_is_not_called_missing(
        self, backend: Backend, spool: Path, runtime: Runtime, tmp_path: Path
    ) -> None:
        class FullTable(RealDisk):
            def open_read(self, path: Path) -> File:
                raise OSError(errno.EMFILE, "too many open files")

        tag = await self.put(backend, spool, some(10))
        full = self.make(replace(runtime, disk=FullTable()), tmp_path / "objects", spool)
        with pytest.raises(StorageUnavailable, match="too many open files"):
            await full.open(tag)
        assert await full.size_of(tag) == 10

    async def test_nothing_is_said_of_objects_while_their_disk_is_away(
        self, backend: Backend, spool: Path, tmp_path: Path
    ) -> None:
        tag = await self.put(backend, spool, some(10))
        (tmp_path / "objects").rename(tmp_path / "unmounted")
        with pytest.raises(StorageUnavailable, match="is away"):
            await backend.size_of(tag)
        (tmp_path / "unmounted").rename(tmp_path / "objects")
        assert await backend.size_of(tag) == 10

    async def test_a_folder_that_cannot_be_made_is_the_operators_to_mend(
        self, runtime: Runtime, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(ConfigError, match="a folder we may write to"):
            await DirectoryBackend(runtime, tmp_path / "file" / "objects", tmp_path / "spool").prepare()

    async def test_two_file_systems_are_refused_at_start(self, runtime: Runtime, tmp_path: Path) -> None:
        class TwoFileSystems(RealDisk):
            def status(self, path: Path) -> FileStatus:
                status = super().status(path)
                return replace(status, device=status.device + 1) if path.name == "spool" else status

        with pytest.raises(ConfigError, match="both must be on one"):
            await self.make(replace(runtime, disk=TwoFileSystems()), tmp_path / "objects", tmp_path / "spool").prepare()
