"""A disk that forgets as disks do: the seam's ``Disk`` with a page cache, a metadata journal, and a crash.

What was written and not synced may be kept, lost, or torn at 512 bytes. Renames, links and removals go to one journal;
``sync_folder`` makes all of it up to now durable, a crash keeps any prefix beyond that. A file's sync makes its bytes
durable, not its name. Faults on demand: no room, an fsync that fails, bits that rot, the k-th operation that fails.

Everything is synchronous and draws from one generator, so that the same seed does the same. A dead disk (after
``crash``) refuses every call: a host that is being torn down cannot write its last words.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from protocol.errors import StorageBroken, StorageFull
from runtime.seam import Buffer, FileStatus

SECTOR_BYTES = 512


class HostCrashed(BaseException):
    """The host is gone; nothing of its code matters any more. Never caught by production code."""


@dataclass
class Inode:
    """A file: what is seen now, what is on the platter, and the writes between."""

    number: int
    data: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)  # (offset, bytes) or (size, None) = resize
    mtime: int = 0
    ctime: int = 0

    def write(self, offset: int, data: bytes, now: int) -> None:
        if len(self.data) < offset + len(data):
            self.data.extend(bytes(offset + len(data) - len(self.data)))
        self.data[offset : offset + len(data)] = data
        self.pending.append((offset, data))
        self.mtime = self.ctime = now

    def resize(self, size: int, now: int) -> None:
        if size < len(self.data):
            del self.data[size:]
        else:
            self.data.extend(bytes(size - len(self.data)))
        self.pending.append((size, None))
        self.mtime = self.ctime = now

    def sync(self) -> None:
        self.durable = bytes(self.data)
        self.pending.clear()

    def crash(self, rng: random.Random) -> None:
        """What the platter has after the power went."""
        after = bytearray(self.durable)
        for offset, data in self.pending:
            fate = rng.random()
            if data is None:
                if fate < 0.5:
                    after[offset:] = b""
                    after.extend(bytes(offset - len(after)))
                continue
            if fate < 0.35:
                continue
            if len(after) < offset + len(data):
                after.extend(bytes(offset + len(data) - len(after)))
            if fate < 0.75:
                after[offset : offset + len(data)] = data
                continue
            for start in range(0, len(data), SECTOR_BYTES):
                if rng.random() < 0.5:
                    piece = data[start : start + SECTOR_BYTES]
                    after[offset + start : offset + start + len(piece)] = piece
        self.data = after
        self.durable = bytes(after)
        self.pending.clear()


Names = dict[Path, "Inode | None"]  # None: a folder
Change = Callable[[Names], None]


class Platter:
    """What outlives a crash: inodes and names. ``SimDisk`` is one life of a host on it."""

    def __init__(self, rng: random.Random, capacity_bytes: int = 1 << 40) -> None:
        self.rng = rng
        self.capacity_bytes = capacity_bytes
        self.names: Names = {Path("/"): None}
        self.journal: list[Change] = []
        self.durable_names: Names = dict(self.names)
        self.inodes = 0
        self.operations = 0  # counted over all lives
        self.fail_operation: Callable[[int, str], str | None] = lambda number, what: None
        self.fsync_fails: Callable[[], bool] = lambda: False
        self.lives = 0

    def change(self, change: Change) -> None:
        change(self.names)
        self.journal.append(change)

    def sync_names(self) -> None:
        for change in self.journal:
            change(self.durable_names)
        self.journal.clear()

    def crash(self) -> None:
        """Power off: a prefix of the journal survives, and of each file what the cache happened to write."""
        kept = self.rng.randint(0, len(self.journal))
        for change in self.journal[:kept]:
            change(self.durable_names)
        self.journal.clear()
        self.names = dict(self.durable_names)
        for inode in sorted({id(i): i for i in self.names.values() if i is not None}.values(), key=lambda i: i.number):
            inode.crash(self.rng)
        self.lives += 1

    def kill(self) -> None:
        """The process died, the kernel lives: everything written is still there."""
        self.lives += 1

    def used_bytes(self) -> int:
        return sum(len(i.data) for i in {id(i): i for i in self.names.values() if i is not None}.values())

    def rot(self, path: Path, position: int) -> None:
        """Flip one bit, on the platter and in the cache."""
        inode = self.names[path]
        assert inode is not None
        durable = bytearray(inode.durable)
        for data in (inode.data, durable):
            if position < len(data):
                data[position] ^= 1
        inode.durable = bytes(durable)

    def new_inode(self) -> Inode:
        self.inodes += 1
        return Inode(self.inodes)


class SimFile:
    def __init__(self, disk: SimDisk, inode: Inode, path: Path) -> None:
        self._disk = disk
        self.inode = inode
        self._path = path

    def read_into(self, target: memoryview, offset: int) -> int:
        self._disk.step("read", self._path)
        data = memoryview(self.inode.data)[offset : offset + len(target)]
        target[: len(data)] = data
        count = len(data)
        data.release()
        return count

    def write(self, data: Buffer, offset: int) -> None:
        self._disk.step("write", self._path)
        data = bytes(data)
        self._disk.reserve(max(0, offset + len(data) - len(self.inode.data)))
        self.inode.write(offset, data, self._disk.tick())

    def sync(self) -> None:
        self._disk.step("sync", self._path)
        self._disk.maybe_fail_sync(self._path)
        self.inode.sync()

    def resize(self, size_bytes: int) -> None:
        self._disk.step("resize", self._path)
        self._disk.reserve(max(0, size_bytes - len(self.inode.data)))
        self.inode.resize(size_bytes, self._disk.tick())

    def status(self) -> FileStatus:
        return self._disk.file_status(self.inode)

    def close(self) -> None:
        pass


class SimDisk:
    """One life of a host on its platter."""

    def __init__(self, platter: Platter) -> None:
        self.platter = platter
        self._life = platter.lives
        self._clock = 0
        self._locks: set[Path] = set()

    # --- the model's own ---

    def step(self, what: str, path: Path) -> None:
        platter = self.platter
        if platter.lives != self._life:
            raise HostCrashed
        platter.operations += 1
        fault = platter.fail_operation(platter.operations, what)
        if fault is None:
            return
        if what in ("read", "open_read", "status", "list"):
            raise OSError(errno.EIO, "simulated", str(path))
        if fault == "full":
            raise StorageFull(f"{what} {path.name}: no space left (simulated)")
        raise StorageBroken(f"{what} {path.name}: input/output error (simulated)")

    def maybe_fail_sync(self, path: Path) -> None:
        if self.platter.fsync_fails():
            raise StorageBroken(f"fdatasync {path.name}: input/output error (simulated)")

    def reserve(self, more: int) -> None:
        if more and self.platter.used_bytes() + more > self.platter.capacity_bytes:
            raise StorageFull("no space left (simulated)")

    def tick(self) -> int:
        self._clock += 1
        return self._clock

    def file_status(self, inode: Inode) -> FileStatus:
        return FileStatus("file", len(inode.data), inode.mtime, inode.ctime, inode.number, 1)

    def inode_at(self, path: Path) -> Inode:
        if path not in self.platter.names:
            raise FileNotFoundError(errno.ENOENT, "not there", str(path))
        inode = self.platter.names[path]
        if inode is None:
            raise IsADirectoryError(errno.EISDIR, "a folder", str(path))
        return inode

    # --- seam.Disk ---

    def open_read(self, path: Path, *, follow: bool = False) -> SimFile:
        self.step("open_read", path)
        return SimFile(self, self.inode_at(path), path)

    def open_write(self, path: Path) -> SimFile:
        self.step("open_write", path)
        if path not in self.platter.names:
            if path.parent not in self.platter.names:
                raise StorageBroken(f"open {path.name}: no such folder")
            inode = self.platter.new_inode()
            inode.mtime = inode.ctime = self.tick()
            self.platter.change(lambda names: names.__setitem__(path, inode))
        return SimFile(self, self.inode_at(path), path)

    def status(self, path: Path) -> FileStatus:
        self.step("status", path)
        if path in self.platter.names and self.platter.names[path] is None:
            return FileStatus("folder", 0, 0, 0, 0, 1)
        return self.file_status(self.inode_at(path))

    def list_folder(self, path: Path) -> list[str]:
        self.step("list", path)
        if path not in self.platter.names:
            raise FileNotFoundError(errno.ENOENT, "not there", str(path))
        return sorted(name.name for name in self.platter.names if name.parent == path and name != path)

    def make_folder(self, path: Path) -> None:
        self.step("make_folder", path)
        for folder in [*reversed(path.parents), path]:
            if folder not in self.platter.names:
                self.platter.change(lambda names, folder=folder: names.__setitem__(folder, None))
        self.platter.sync_names()

    def rename(self, source: Path, target: Path) -> None:
        self.step("rename", source)
        if source not in self.platter.names:
            raise StorageBroken(f"rename {source.name}: not there")

        def change(names: Names) -> None:
            if source in names:
                names[target] = names.pop(source)

        self.platter.change(change)

    def link_new(self, source: Path, target: Path) -> bool:
        self.step("link", source)
        if target in self.platter.names:
            return False
        inode = self.inode_at(source)
        self.platter.change(lambda names: names.__setitem__(target, inode))
        return True

    def publish(self, path: Path) -> None:
        self.step("publish", path)
        inode = self.platter.names.get(path)
        if inode is None:
            raise StorageBroken(f"publish {path.name}: not there")
        inode.ctime = self.tick()

    def remove(self, path: Path) -> None:
        self.step("remove", path)
        if path in self.platter.names:
            self.platter.change(lambda names: names.pop(path, None))

    def sync_folder(self, path: Path) -> None:
        self.step("sync_folder", path)
        self.maybe_fail_sync(path)
        self.platter.sync_names()

    def lock(self, path: Path) -> SimFile | None:
        self.step("lock", path)
        file = self.open_write(path)
        return file

    def read_secret(self, path: Path) -> bytes:
        return self.read_small(path)

    def free_bytes(self, path: Path) -> int:
        return max(0, self.platter.capacity_bytes - self.platter.used_bytes())

    def read_small(self, path: Path, bytes_max: int = 1 << 20) -> bytes:
        self.step("open_read", path)
        data = bytes(self.inode_at(path).data)
        if len(data) > bytes_max:
            raise OSError(errno.EFBIG, "too large", str(path))
        return data

    def write_small(self, path: Path, data: bytes, *, mode: int = 0o600) -> None:
        self.step("write_small", path)
        self.reserve(len(data))
        inode = self.platter.new_inode()
        inode.write(0, data, self.tick())
        inode.sync()
        self.platter.change(lambda names: names.__setitem__(path, inode))
        self.platter.sync_names()
