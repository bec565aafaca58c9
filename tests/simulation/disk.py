"""A disk that forgets as disks do: the seam's ``Disk`` with a page cache, a metadata journal, and a crash.

What was written and not synced may be kept, lost, or torn at 512 bytes. A file's sync makes its bytes durable, not its
name. Names come in two kinds of file system. With a journal, as ext4 has it: ``sync_folder`` makes all changes of names
up to now durable, a crash keeps any prefix beyond that. Without order: ``sync_folder`` makes durable what concerns that
folder, a crash keeps any part of the rest. Faults on demand: no room, an fsync that fails, bits that rot, the k-th
operation that fails.

Everything is synchronous and draws from one generator, so that the same seed does the same. A dead disk (after
``crash``) refuses every call: a host that is being torn down cannot write its last words.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from protocol.errors import StorageBroken, StorageFull
from runtime.seam import Buffer, FileStatus

SECTOR_BYTES = 512
ENDLESS_BYTES = 1 << 40


# Called with the number of an operation, what it is, and of which path; returns "full", "broken" or None.
FailOperation = Callable[[int, str, Path], "str | None"]


def nothing_fails(_number: int, _what: str, _path: Path) -> None:
    """A disk without faults."""


class HostCrashed(BaseException):
    """The host is gone; nothing of its code matters any more. Never caught by production code."""


@dataclass(eq=False)
class Inode:
    """A file: what is seen now, what is on the platter, and the writes between. ``version`` moves with every change."""

    number: int
    data: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)  # (offset, bytes) or (size, None) = resize
    mtime: int = 0
    ctime: int = 0
    version: int = 0
    rotten: bool = False  # a bit of it was flipped by the world

    @classmethod
    def of(cls, number: int, content: bytes) -> Inode:
        """Return a file that has been there for long. ``content`` is shared until somebody writes."""
        inode = cls(number)
        inode.data = inode.durable = cast(bytearray, content)
        return inode

    def _own(self) -> None:
        if not isinstance(self.data, bytearray):
            self.data, self.durable = bytearray(self.data), bytearray(self.durable)

    def write(self, offset: int, data: bytes, now: int) -> None:
        self.version += 1
        self._own()
        if len(self.data) < offset + len(data):
            self.data.extend(bytes(offset + len(data) - len(self.data)))
        self.data[offset : offset + len(data)] = data
        self.pending.append((offset, data))
        self.mtime = self.ctime = now

    def resize(self, size: int, now: int) -> None:
        self.version += 1
        self._own()
        if size < len(self.data):
            del self.data[size:]
        else:
            self.data.extend(bytes(size - len(self.data)))
        self.pending.append((size, None))
        self.mtime = self.ctime = now

    def sync(self) -> None:
        self.version += 1
        for offset, data in self.pending:
            _apply(self.durable, offset, data)
        self.pending.clear()

    def flip(self, position: int) -> None:
        """Flip one bit, on the platter and in the cache."""
        self.version += 1
        self._own()
        self.rotten = True
        for data in (self.data, self.durable):
            if position < len(data):
                data[position] ^= 1

    def crash(self, rng: random.Random) -> None:
        """What the platter has after the power went."""
        if not self.pending:
            return
        self.version += 1
        after = self.durable
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
        self.data = bytearray(after)
        self.pending.clear()


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        content.extend(bytes(offset - len(content)))
        return
    if len(content) < offset + len(data):
        content.extend(bytes(offset + len(data) - len(content)))
    content[offset : offset + len(data)] = data


Names = dict[Path, "Inode | None"]  # None: a folder
Change = Callable[[Names], None]
Pending = tuple[frozenset[Path], Change]  # which folders it concerns


class Platter:
    """What outlives a crash: inodes and names. ``SimDisk`` is one life of a host on it."""

    def __init__(self, rng: random.Random, capacity_bytes: int = ENDLESS_BYTES) -> None:
        self.rng = rng
        self.capacity_bytes = capacity_bytes
        self.names: Names = {Path("/"): None}
        self.journal: list[Pending] = []
        self.ordered = True  # names are kept by a journal
        self.durable_names: Names = dict(self.names)
        self.version = 0  # moves with every change of names
        self.inodes = 0
        self.operations = 0  # counted over all lives
        self.fail_operation: FailOperation = nothing_fails
        self.fsync_fails: Callable[[], bool] = lambda: False
        self.lives = 0
        self.on_write: Callable[[Path, int, int | None], None] | None = None  # (path, offset, length); None: to the end
        self.on_rename: Callable[[], None] | None = None

    def change(self, change: Change, *folders: Path) -> None:
        """Change names in ``folders``; durable when these are synced."""
        self.version += 1
        change(self.names)
        self.journal.append((frozenset(folders), change))
        if self.on_rename is not None:
            self.on_rename()

    def sync_names(self, folder: Path | None = None) -> None:
        """Make durable what concerns ``folder``; with a journal, or for None, everything."""
        self.version += 1
        rest: list[Pending] = []
        for folders, change in self.journal:
            if folder is None or self.ordered or folder in folders:
                change(self.durable_names)
            else:
                rest.append((folders, change))
        self.journal = rest

    def crash(self) -> None:
        """Power off: a prefix of the journal survives, and of each file what the cache happened to write."""
        kept = self.rng.randint(0, len(self.journal))
        for number, (_, change) in enumerate(self.journal):
            if number < kept if self.ordered else self.rng.random() < 0.5:
                change(self.durable_names)
        self.journal.clear()
        self.version += 1
        self.names = dict(self.durable_names)
        for inode in sorted({i for i in self.names.values() if i is not None}, key=lambda i: i.number):
            inode.crash(self.rng)
        self.lives += 1

    def kill(self) -> None:
        """The process died, the kernel lives: everything written is still there."""
        self.lives += 1

    def used_bytes(self) -> int:
        return sum(len(inode.data) for inode in set(self.names.values()) if inode is not None)

    def image(self) -> dict[Path, bytes | None]:
        """Return what is on the platter, to begin other worlds with."""
        self.sync_names()
        return {path: None if inode is None else bytes(inode.data) for path, inode in self.names.items()}

    def load(self, image: dict[Path, bytes | None]) -> None:
        """Be what ``image`` says."""
        for path, content in image.items():
            self.names[path] = None if content is None else self.add_file(content)
        self.durable_names = dict(self.names)

    def add_file(self, content: bytes) -> Inode:
        self.inodes += 1
        return Inode.of(self.inodes, content)

    def rot(self, path: Path, position: int) -> None:
        """Flip one bit, on the platter and in the cache."""
        inode = self.names[path]
        assert inode is not None
        inode.flip(position)

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
        if self._disk.platter.on_write is not None:
            self._disk.platter.on_write(self._path, offset, len(data))

    def sync(self) -> None:
        self._disk.step("sync", self._path)
        self._disk.maybe_fail_sync(self._path)
        self.inode.sync()

    def uncache(self, offset: int, size_bytes: int) -> None:
        """What is read is the same."""

    def resize(self, size_bytes: int) -> None:
        self._disk.step("resize", self._path)
        self._disk.reserve(max(0, size_bytes - len(self.inode.data)))
        before = len(self.inode.data)
        self.inode.resize(size_bytes, self._disk.tick())
        if self._disk.platter.on_write is not None:
            self._disk.platter.on_write(self._path, min(before, size_bytes), None)

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
        fault = platter.fail_operation(platter.operations, what, path)
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
        capacity = self.platter.capacity_bytes
        if more and capacity < ENDLESS_BYTES and self.platter.used_bytes() + more > capacity:
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

    def open_below(self, folder: Path, path: Path) -> SimFile:
        return self.open_read(path)  # there are no links

    def open_write(self, path: Path) -> SimFile:
        self.step("open_write", path)
        if path not in self.platter.names:
            if path.parent not in self.platter.names:
                raise StorageBroken(f"open {path.name}: no such folder")
            inode = self.platter.new_inode()
            inode.mtime = inode.ctime = self.tick()
            self.platter.change(lambda names: names.__setitem__(path, inode), path.parent)
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
        depth, head = len(path.parts), path.parts
        return sorted(
            name.name for name in self.platter.names if len(name.parts) == depth + 1 and name.parts[:depth] == head
        )

    def make_folder(self, path: Path, *, public: bool = False) -> None:
        if path in self.platter.names:
            return
        self.step("make_folder", path)
        for folder in [*reversed(path.parents), path]:
            if folder not in self.platter.names:
                self.platter.change(lambda names, folder=folder: names.__setitem__(folder, None), folder.parent)
                self.platter.sync_names(folder.parent)

    def rename(self, source: Path, target: Path) -> None:
        self.step("rename", source)
        if source not in self.platter.names:
            raise StorageBroken(f"rename {source.name}: not there")

        inode = self.platter.names[source]

        def change(names: Names) -> None:
            # The new name leads to the file whether the old one was ever durable or not.
            names.pop(source, None)
            names[target] = inode

        self.platter.change(change, source.parent, target.parent)

    def link_new(self, source: Path, target: Path) -> bool:
        self.step("link", source)
        if target in self.platter.names:
            return False
        inode = self.inode_at(source)
        self.platter.change(lambda names: names.__setitem__(target, inode), target.parent)
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
            self.platter.change(lambda names: names.pop(path, None), path.parent)

    def sync_folder(self, path: Path) -> None:
        self.step("sync_folder", path)
        self.maybe_fail_sync(path)
        self.platter.sync_names(path)

    def lock(self, path: Path) -> SimFile | None:
        self.step("lock", path)
        file = self.open_write(path)
        return file

    def read_secret(self, path: Path) -> bytes:
        return self.read_small(path)

    def free_bytes(self, path: Path) -> int:
        capacity = self.platter.capacity_bytes
        return capacity if capacity >= ENDLESS_BYTES else max(0, capacity - self.platter.used_bytes())

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
        self.platter.change(lambda names: names.__setitem__(path, inode), path.parent)
        self.platter.sync_names(path.parent)
