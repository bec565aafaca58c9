"""The real SQLite on a simulated disk: an apsw VFS whose files are the disk's inodes.

No shared memory (xShm...) is offered, so the connection takes ``locking_mode=EXCLUSIVE`` and keeps the WAL index in
memory; everything else, WAL and synchronous=FULL among it, is SQLite's own code writing, syncing and recovering.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import apsw
from simulation.disk import HostCrashed, SimDisk, SimFile

from protocol.errors import StorageError, StorageFull

_numbers = itertools.count(1)


class DiskVfs(apsw.VFS):
    """One for each life of a host."""

    def __init__(self, disk: SimDisk) -> None:
        self.vfs_name = f"sim{next(_numbers)}"
        self._disk = disk
        super().__init__(self.vfs_name, "")

    def xOpen(self, name, flags: list[int]):
        path = Path(name.filename() if isinstance(name, apsw.URIFilename) else name or f"/tmp/sqlite{next(_numbers)}")
        flags[1] = flags[0]
        return DiskVfsFile(self._disk, path, create=bool(flags[0] & apsw.SQLITE_OPEN_CREATE))

    def xAccess(self, pathname: str, flags: int) -> bool:
        return Path(pathname) in self._disk.platter.names

    def xDelete(self, filename: str, syncdir: bool) -> None:
        path = Path(filename)
        if path not in self._disk.platter.names:
            raise apsw.IOError("not there")
        try:
            self._disk.remove(path)
            if syncdir:
                self._disk.sync_folder(path.parent)
        except (StorageError, HostCrashed) as error:
            raise apsw.IOError(str(error)) from error

    def xFullPathname(self, name: str) -> str:
        return name

    def xRandomness(self, numbytes: int) -> bytes:
        return self._disk.platter.rng.randbytes(numbytes)

    def xSleep(self, microseconds: int) -> int:
        return microseconds

    def xCurrentTimeInt64(self) -> int:
        return 212_000_000_000_000

    def xCurrentTime(self) -> float:
        return 2_453_703.7

    def xGetLastError(self) -> tuple[int, str]:
        return 0, ""

    def xDlOpen(self, filename: str) -> int:
        return 0

    def xGetSystemCall(self, name: str) -> int | None:
        return None

    def xNextSystemCall(self, name: str | None) -> str | None:
        return None

    def xSetSystemCall(self, name: str | None, pointer: int) -> bool:
        return False


class DiskVfsFile:
    def __init__(self, disk: SimDisk, path: Path, *, create: bool) -> None:
        self._disk = disk
        self._path = path
        if path not in disk.platter.names and not create:
            raise apsw.CantOpenError("not there")
        try:
            self._file: SimFile = disk.open_write(path)
            disk.sync_folder(path.parent)
        except (StorageError, HostCrashed) as error:
            raise apsw.IOError(str(error)) from error

    def xRead(self, amount: int, offset: int) -> bytes:
        buffer = bytearray(amount)
        try:
            count = self._file.read_into(memoryview(buffer), offset)
        except (OSError, HostCrashed) as error:
            # Of the dead nobody hears anything; apsw would print it where the connection is collected.
            raise apsw.IOError(str(error)) from error
        return bytes(buffer[:count])

    def xWrite(self, data: bytes, offset: int) -> None:
        try:
            self._file.write(data, offset)
        except StorageFull as error:
            raise apsw.FullError(str(error)) from error
        except (StorageError, HostCrashed) as error:
            raise apsw.IOError(str(error)) from error

    def xTruncate(self, size: int) -> None:
        try:
            self._file.resize(size)
        except (StorageError, HostCrashed) as error:
            raise apsw.IOError(str(error)) from error

    def xSync(self, flags: int) -> None:
        try:
            self._file.sync()
        except (StorageError, HostCrashed) as error:
            raise apsw.IOError(str(error)) from error

    def xFileSize(self) -> int:
        return self._file.status().size_bytes

    def xLock(self, level: int) -> None:
        pass

    def xUnlock(self, level: int) -> None:
        pass

    def xCheckReservedLock(self) -> bool:
        return False

    def xFileControl(self, op: int, pointer: int) -> bool:
        return False

    def xSectorSize(self) -> int:
        return 512

    def xDeviceCharacteristics(self) -> int:
        return 0

    def xClose(self) -> None:
        pass


__all__ = ["DiskVfs", "HostCrashed"]
