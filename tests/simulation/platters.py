"""What was promised to be kept, against what the platters hold: acknowledged chunks, stored files, objects, downloads.

A crash may happen between any two operations of a disk. So this looks after every operation that could spoil what was
promised (``written``, ``renamed``: cheap, they look at what the operation touched), when the promise is made, when the
power has gone, when a storage node has recovered, and each second at everything.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from simulation.hosts import SimHost, StorageHost
from simulation.promises import Promise, Violation

from protocol.ids import NodeId, Tag
from protocol.manifest import Layout

if TYPE_CHECKING:
    from simulation.disk import Inode


class Platters:
    """The checkers that need nothing but disks. ``broken``: the first violation, also if somebody swallowed it."""

    def __init__(self) -> None:
        self.known: dict[Tag, bytes] = {}  # every file of the world
        self.acknowledged: dict[tuple[NodeId, Tag], set[int]] = {}
        self.stored: dict[Tag, set[NodeId]] = {}  # said to be stored, by which storage node
        self.tampered: set[Tag] = set()  # bits of it were flipped on some platter
        self.broken: Violation | None = None
        self._by_name: dict[str, Tag] = {}
        self._right: dict[Inode, int] = {}  # objects that were looked at -> their version then
        self._looked: dict[str, tuple[int, int, int]] = {}

    def fail(self, promise: Promise, how: str) -> NoReturn:
        """Say that ``promise`` is broken. Production code may swallow what is raised; ``broken`` stays."""
        violation = Violation(promise, how)
        self.broken = self.broken or violation
        raise violation

    # --- promises are made ---

    def acknowledge(self, host: StorageHost, tag: Tag, chunks: tuple[int, ...]) -> None:
        """``host`` says that these are durable."""
        assert host.node is not None
        for chunk in chunks:
            if not self._chunk_is_durable(host, tag, chunk):
                self.fail(
                    Promise.ACKNOWLEDGED_IS_DURABLE, f"{host.name} acknowledged chunk {chunk} of {tag} before it is"
                )
        self.acknowledged.setdefault((host.node, tag), set()).update(chunks)

    def said_stored(self, host: StorageHost, tag: Tag) -> None:
        """``host`` says that all of it is stored."""
        assert host.node is not None
        if not self._object_is_durable(host, tag):
            self.fail(Promise.STORED_IS_READABLE, f"{host.name} says that {tag} is stored, and it is not")
        self.stored.setdefault(tag, set()).add(host.node)

    def got(self, host: SimHost, tag: Tag, path: str) -> None:
        """A get said that it is done: right, and there also after a power cut."""
        inode = host.platter.names.get(Path(path))
        if inode is None or inode.data != self.known[tag]:
            self.fail(Promise.GOT_IS_RIGHT, f"{host.name} got {tag}, and it is not what was put")
        kept = host.platter.durable_names.get(Path(path))
        if kept is not inode or inode.durable != self.known[tag]:
            self.fail(Promise.GOT_IS_RIGHT, f"{host.name} got {tag}, and a power cut would take it")

    # --- operations ---

    def written(self, host: SimHost, path: Path, offset: int, length: int | None) -> None:
        """``length`` bytes at ``offset`` of a storage node's file have changed; None: everything from there on."""
        tag = self._tag_of(path.name)
        if tag is None or host.node is None or tag in self.tampered:
            return
        if "objects" in path.parts and host.node in self.stored.get(tag, ()):
            self.fail(Promise.STORED_IS_READABLE, f"{host.name} writes into the stored file {tag}")
        chunks = self.acknowledged.get((host.node, tag))
        if chunks:
            layout = Layout.of_size(len(self.known[tag]))
            first = offset // layout.chunk_bytes
            last = layout.chunks if length is None else (offset + max(length, 1) - 1) // layout.chunk_bytes
            for chunk in range(first, min(last, layout.chunks - 1) + 1):
                if chunk in chunks and not self._chunk_is_durable(host, tag, chunk):
                    self.fail(Promise.ACKNOWLEDGED_IS_DURABLE, f"{host.name} overwrites chunk {chunk} of {tag}")

    def renamed(self, host: SimHost) -> None:
        """Names of a storage node's disk have changed: what was promised must still have one that no crash takes."""
        for (who, tag), chunks in self.acknowledged.items():
            if who == host.node and chunks and tag not in self.tampered and not _is_kept(host, tag, _any):
                self.fail(Promise.ACKNOWLEDGED_IS_DURABLE, f"{host.name} has no file for what it acknowledged of {tag}")
        for tag, nodes in self.stored.items():
            if host.node in nodes and not _is_kept(host, tag, _any, "objects"):
                self.fail(Promise.STORED_IS_READABLE, f"{host.name} has no object of the stored file {tag}")

    # --- crashes ---

    def power_has_gone(self, host: SimHost) -> None:
        """What was acknowledged must be on the platter as the crash left it."""
        for (who, tag), chunks in self.acknowledged.items():
            if who == host.node and tag not in self.tampered:
                for chunk in sorted(chunks):
                    if not self._chunk_is_durable(host, tag, chunk):
                        self.fail(
                            Promise.ACKNOWLEDGED_IS_DURABLE,
                            f"the crash of {host.name} took the acknowledged chunk {chunk} of {tag}",
                        )
        for tag, nodes in self.stored.items():
            if host.node in nodes and not self._object_is_durable(host, tag):
                self.fail(Promise.STORED_IS_READABLE, f"the crash of {host.name} took the stored file {tag}")

    def storage_opened(self, node: Any) -> None:
        """A storage node has recovered from whatever happened: nothing acknowledged may be missing."""
        for (who, tag), chunks in self.acknowledged.items():
            if who != node.node or tag in node.shelf.stored:
                continue
            job = node.shelf.live.get(tag) or node.shelf.resting.get(tag)
            held = set(job.job.durable) if job is not None else set()
            if chunks - held and tag not in self.tampered:
                self.fail(
                    Promise.ACKNOWLEDGED_IS_DURABLE,
                    f"acknowledged chunks {sorted(chunks - held)} of {tag} are forgotten",
                )
        for tag, nodes in self.stored.items():
            if node.node in nodes and tag not in node.shelf.stored:
                self.fail(Promise.STORED_IS_READABLE, f"{tag} was stored and is not any more")

    # --- looking ---

    def platter_is_right(self, host: SimHost) -> None:
        """Objects are what their names say; what was acknowledged or stored is there."""
        platter = host.platter
        state = (platter.version, sum(map(len, self.acknowledged.values())), sum(map(len, self.stored.values())))
        for path, inode in platter.names.items():
            if inode is None or "objects" not in path.parts or self._right.get(inode) == inode.version:
                continue
            tag = self._tag_of(path.name)
            if tag is None:
                continue
            if inode.data != self.known[tag]:
                self.fail(Promise.VERIFIED_ONLY, f"{host.name} has something else under the name {tag}")
            self._right[inode] = inode.version
        if self._looked.get(host.name) == state:
            return
        self._looked[host.name] = state
        for (who, tag), chunks in self.acknowledged.items():
            if who == host.node and tag not in self.tampered:
                for chunk in chunks:
                    if not self._chunk_is_durable(host, tag, chunk):
                        self.fail(
                            Promise.ACKNOWLEDGED_IS_DURABLE,
                            f"chunk {chunk} of {tag} was acknowledged by {host.name}, and is gone",
                        )
        for tag, nodes in self.stored.items():
            if host.node in nodes and not self._object_is_durable(host, tag):
                self.fail(Promise.STORED_IS_READABLE, f"{tag} was stored by {host.name}, and is gone")

    def _tag_of(self, name: str) -> Tag | None:
        """Return the file whose tag a name is; only those that this world knows are looked after."""
        if len(self._by_name) != len(self.known):
            self._by_name = {str(tag): tag for tag in self.known}
        return self._by_name.get(name)

    def _chunk_is_durable(self, host: SimHost, tag: Tag, chunk: int) -> bool:
        data = self.known[tag]
        layout = Layout.of_size(len(data))
        start, size = layout.offset_of(chunk), layout.bytes_of(chunk)
        expected = data[start : start + size]

        def right(inode: Inode) -> bool:
            return inode.durable[start : start + size] == expected and not any(
                _touches(offset, written, start, size) for offset, written in inode.pending
            )

        return _is_kept(host, tag, right)

    def _object_is_durable(self, host: SimHost, tag: Tag) -> bool:
        data = self.known[tag]
        return _is_kept(host, tag, lambda inode: inode.durable == data, "objects")


def _is_kept(host: SimHost, tag: Tag, right: Callable[[Inode], bool], folder: str = "") -> bool:
    """Whether there is a file called like ``tag``, somewhere under ``folder``, that is right whatever a crash makes of
    the names now: it has that name and keeps it, or is being renamed, or another one that is right replaces it."""
    text = str(tag)
    names = host.platter.names
    seen = {inode for path, inode in names.items() if path.name == text}
    for path, inode in host.platter.durable_names.items():
        if path.name != text or inode is None or (folder and folder not in path.parts):
            continue
        after = names.get(path) or (inode if inode in seen and not folder else None)
        if after is not None and right(inode) and (after is inode or right(after)):
            return True
    return False


def _any(_inode: Inode) -> bool:
    return True


def _touches(offset: int, written: bytes | None, start: int, size: int) -> bool:
    """Whether a write that is not synced could tear this range."""
    if written is None:
        return offset < start + size
    return offset < start + size and start < offset + len(written)
