"""The directory backend: the object of a tag is the file ``objects/<first two hex digits>/<tag>``.

A finished spool file becomes an object by rename within one file system, so storing costs no copy whatever the size:
fsync of the file, rename, fsync of the folder it is in now. The path is made of the tag alone; names never come here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from protocol.errors import ChunkMissing, ConfigError, StorageBroken, StorageError, StorageUnavailable
from protocol.ids import Tag
from runtime.places import folder_trouble
from runtime.seam import File, Runtime

_FOLDER_DIGITS = "0123456789abcdef"


class DirectoryObject:
    """An open object file."""

    def __init__(self, runtime: Runtime, file: File, size_bytes: int, tag: Tag) -> None:
        self._runtime = runtime
        self._file = file
        self._tag = tag
        self.size_bytes = size_bytes

    async def read_into(self, target: memoryview, offset: int) -> None:
        await self._runtime.run_sync(self._read, target, offset)

    async def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        def work() -> list[bytes]:
            pieces = []
            for offset, length in ranges:
                piece = bytearray(length)
                self._read(memoryview(piece), offset)
                pieces.append(bytes(piece))
            return pieces

        # One thread for all of them: they are small, and a hop per range would cost more than the reads.
        return await self._runtime.run_sync(work)

    async def aclose(self) -> None:
        self._file.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _read(self, target: memoryview, offset: int) -> None:
        try:
            count = self._file.read_into(target, offset)
        except OSError as error:
            # A bad sector is the disk's word on these bytes, not on the whole store: others may still be read.
            raise ChunkMissing(f"object {self._tag} at {offset}: {error}") from error
        if count != len(target):
            raise ChunkMissing(f"object {self._tag} ends within {len(target)} bytes at {offset}")


class DirectoryBackend:
    """Objects in ``folder``. Spool files must be on the same file system."""

    def __init__(self, runtime: Runtime, folder: Path, spool_folder: Path) -> None:
        self._runtime = runtime
        self._disk = runtime.disk
        self._folder = folder
        self._spool_folder = spool_folder

    def _path(self, tag: Tag) -> Path:
        text = str(tag)
        return self._folder / text[:2] / text

    parts = None

    async def prepare(self) -> None:
        def work() -> None:
            try:
                self._disk.make_folder(self._folder)
                self._disk.make_folder(self._spool_folder)
                one, other = self._disk.status(self._folder), self._disk.status(self._spool_folder)
            except (OSError, StorageError) as error:
                raise folder_trouble(self._folder, error, "give a folder we may write to") from error
            if one.device != other.device:
                raise ConfigError(
                    f"{self._folder} and {self._spool_folder} are on different file systems; both must be on one,"
                    " because finished files are renamed from one to the other"
                )

        await self._runtime.run_sync(work)

    async def store(self, tag: Tag, spool: Path, size_bytes: int) -> None:
        await self._runtime.run_sync(self._store, tag, spool, size_bytes)

    def _store(self, tag: Tag, spool: Path, size_bytes: int) -> None:
        target = self._path(tag)
        if self._size(spool) == size_bytes:
            file = self._disk.open_write(spool)
            try:
                # The content before the name: an object that is there must be whole.
                file.sync()
            finally:
                file.close()
            self._disk.make_folder(target.parent)
            self._disk.rename(spool, target)
        elif self._size(target) == size_bytes:
            self._disk.remove(spool)
        else:
            raise ChunkMissing(f"neither spool file nor object of {tag} is there with {size_bytes} bytes")
        # Also when an earlier try did the rename: it may have died before this. Whether the old name is gone for good
        # does not matter: the next start removes spool files without a job.
        self._disk.sync_folder(target.parent)

    async def take_back(self, tag: Tag, spool: Path, size_bytes: int) -> None:
        def work() -> None:
            source = self._path(tag)
            if self._size(source) is not None:
                self._disk.rename(source, spool)
                self._disk.sync_folder(spool.parent)
                self._disk.sync_folder(source.parent)
            elif self._size(spool) != size_bytes:
                raise ChunkMissing(f"no object {tag}")

        await self._runtime.run_sync(work)

    async def open(self, tag: Tag) -> DirectoryObject:
        def work() -> DirectoryObject:
            try:
                file = self._disk.open_read(self._path(tag))
            except FileNotFoundError as error:
                raise ChunkMissing(f"no object {tag}") from error
            except OSError as error:
                if self._is_no_file(self._path(tag)):
                    raise ChunkMissing(f"object {tag} is no file: {error}") from error
                # Too many open files, a disk that fails: no word on whether it is there.
                raise StorageUnavailable(f"object {tag} cannot be opened: {error}") from error
            return DirectoryObject(self._runtime, file, file.status().size_bytes, tag)

        return await self._runtime.run_sync(work)

    async def size_of(self, tag: Tag) -> int | None:
        def work() -> int | None:
            size = self._size(self._path(tag))
            if size is None and not self._has_folder():
                # A disk that was unmounted took its files along, and may bring them back.
                raise StorageUnavailable(f"{self._folder} is away")
            return size

        return await self._runtime.run_sync(work)

    def _is_no_file(self, path: Path) -> bool:
        try:
            return self._disk.status(path).kind != "file"
        except OSError:
            return False

    def _has_folder(self) -> bool:
        try:
            return self._disk.status(self._folder).kind == "folder"
        except OSError:
            return False

    def _size(self, path: Path) -> int | None:
        try:
            status = self._disk.status(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageBroken(f"{path.name}: {error}") from error
        return status.size_bytes if status.kind == "file" else None

    async def delete(self, tag: Tag) -> None:
        def work() -> None:
            path = self._path(tag)
            if self._size(path) is not None:
                self._disk.remove(path)
                self._disk.sync_folder(path.parent)

        await self._runtime.run_sync(work)

    async def list(self) -> dict[Tag, int]:
        def work() -> dict[Tag, int]:
            try:
                return self._list()
            except OSError as error:
                raise StorageBroken(f"{self._folder}: {error}") from error

        return await self._runtime.run_sync(work)

    def _list(self) -> dict[Tag, int]:
        found = {}
        for prefix in self._disk.list_folder(self._folder):
            folder = self._folder / prefix
            ours = len(prefix) == 2 and all(digit in _FOLDER_DIGITS for digit in prefix)
            if not ours or self._disk.status(folder).kind != "folder":
                continue
            for name in self._disk.list_folder(folder):
                try:
                    tag = Tag.parse(name)
                except ValueError:
                    continue  # Not ours: another program's file, or an administrator's note.
                size = self._size(folder / name)
                if size is not None and name.startswith(prefix):
                    found[tag] = size
        return dict(sorted(found.items()))

    async def room_bytes(self) -> int:
        def work() -> int:
            try:
                return max(0, self._disk.free_bytes(self._folder))
            except OSError as error:
                raise StorageBroken(f"{self._folder}: {error}") from error

        return await self._runtime.run_sync(work)
