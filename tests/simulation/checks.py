"""What must never be seen, checked from beside the system: production code knows nothing of it.

Every message that any node posts passes ``_posted``; every life of a storage node is looked at when it has recovered.

* acknowledged => durable and correct: at the moment of ``Stored``, and after every crash
* stored => readable and identical, on the platter, at the moment anybody says so and from then on
* nothing unverified reaches a backend: whatever lies under objects/ is what its name says
* memory per link is bounded
* at rest: what storage nodes hold is what was put, no more and no less
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exchange.engine import RECEIVING_BYTES_MAX, SENDING_BYTES_MAX
from protocol import messages as m
from protocol.ids import NodeId, Tag
from protocol.limits import REQUESTS_PER_LINK_MAX
from protocol.manifest import Layout, Manifest
from runtime.link import CONTROL_BYTES_MAX, Link

if TYPE_CHECKING:
    from simulation.hosts import SimHost, StorageHost
    from simulation.world import World


class Violation(AssertionError):
    """A promise was broken."""


class Checks:
    """The checkers of one world."""

    def __init__(self, world: World) -> None:
        self.known: dict[Tag, bytes] = {}  # every file of the world
        self.acknowledged: dict[tuple[NodeId, Tag], set[int]] = {}
        self.stored: dict[Tag, set[NodeId]] = {}  # said to be stored, by which storage node
        self.accepted: dict[Tag, list[str]] = {}  # put, and by whom
        self.attempted: set[Tag] = set()  # put, perhaps without an answer
        self._world = world

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """See every message that is posted while the block lasts."""
        post = Link.post
        checks = self

        def watched(link: Link, message: m.Message) -> None:
            if link.alive:
                checks._posted(link, message)
            post(link, message)

        Link.post = watched  # type: ignore[method-assign]
        try:
            yield
        finally:
            Link.post = post  # type: ignore[method-assign]

    def _posted(self, link: Link, message: m.Message) -> None:
        world = self._world
        world.steps += 1
        if not isinstance(message, m.Ping | m.Pong):
            world.note("to", link.peer.node[:6], type(message).__name__)
        if link._control_bytes > CONTROL_BYTES_MAX:
            raise Violation(f"{link._control_bytes} bytes of messages wait on one link")
        if isinstance(message, m.Stored):
            self._acknowledged(link, message)
        elif isinstance(message, m.JobClosed | m.JobUpdate) and message.state is m.JobState.STORED:
            self._said_stored(link, message.tag)

    def _storage_of(self, link: Link) -> StorageHost:
        for host in self._world.storages():
            if host.program is not None and link in list(host.program.links):
                return host
        raise Violation("somebody who is no storage node says Stored")

    def _acknowledged(self, link: Link, message: m.Stored) -> None:
        host = self._storage_of(link)
        node: NodeId = host.program.node
        for chunk in message.chunks:
            if not self._chunk_is_durable(host, message.tag, chunk):
                raise Violation(f"{host.name} acknowledged chunk {chunk} of {message.tag}, and it is not durable")
        self.acknowledged.setdefault((node, message.tag), set()).update(message.chunks)

    def _said_stored(self, link: Link, tag: Tag) -> None:
        host = self._storage_of(link)
        if not self._object_is_durable(host, tag):
            raise Violation(f"{host.name} says that {tag} is stored, and it is not")
        self.stored.setdefault(tag, set()).add(host.program.node)

    def storage_opened(self, node: Any) -> None:
        """A storage node has recovered from whatever happened: nothing acknowledged may be missing."""
        for (who, tag), chunks in self.acknowledged.items():
            if who != node.node or tag in node.shelf.stored:
                continue
            job = node.shelf.live.get(tag) or node.shelf.resting.get(tag)
            held = set(job.job.durable) if job is not None else set()
            if chunks - held:
                raise Violation(f"acknowledged chunks {sorted(chunks - held)} of {tag} are forgotten")
        for tag, nodes in self.stored.items():
            if node.node in nodes and tag not in node.shelf.stored:
                raise Violation(f"{tag} was stored and is not any more")

    def put_was_accepted(self, host: SimHost, manifest: Manifest) -> None:
        """A daemon took a put upon itself: it ends stored."""
        self.accepted.setdefault(manifest.tag, []).append(host.name)

    def all_stored(self) -> bool:
        """Whether every accepted put is stored, and every daemon that put it knows."""
        return not self.unsettled()

    def unsettled(self) -> list[str]:
        """What is not settled, in words."""
        rest = []
        for tag, names in self.accepted.items():
            if tag not in self.stored:
                rest.append(f"{tag.root.hex()[:8]} is not stored")
            for name in sorted(set(names)):
                program = self._world.hosts[name].program
                states = [put.state.value for put in program.puts.all() if put.tag == tag] if program else ["down"]
                if any(state != "stored" for state in states) or not states:
                    rest.append(f"{name} has {tag.root.hex()[:8]} {states}")
        return rest

    def every_second(self) -> None:
        """What holds at any time."""
        for host in self._world.storages():
            self._objects_are_right(host)
        for host in self._world.hosts.values():
            engine = getattr(host.program, "engine", None)
            if engine is None:
                continue
            if engine.receiving.out_bytes > RECEIVING_BYTES_MAX or engine.sending.out_bytes > SENDING_BYTES_MAX:
                raise Violation(f"{host.name} holds more buffers than it may")
            for session in engine._sessions.values():
                if len(session._due) > 2 * REQUESTS_PER_LINK_MAX:
                    raise Violation(f"{host.name} has {len(session._due)} requests outstanding on one link")
                if engine.uplink.waiting(session.number) > REQUESTS_PER_LINK_MAX:
                    raise Violation(f"{host.name} queues more than it may for one link")

    def at_rest(self) -> None:
        """The model and the system agree."""
        self.every_second()
        held: set[Tag] = set()
        for host in self._world.storages():
            if host.program is None:
                raise Violation(f"{host.name} is not up at the end")
            held |= set(host.program.shelf.stored)
            for tag in host.program.shelf.stored:
                if not self._object_is_durable(host, tag):
                    raise Violation(f"{host.name} lists {tag}, and cannot read it back")
        if not set(self.accepted) <= held <= self.attempted:
            raise Violation(f"stored {len(held)} files, accepted {len(self.accepted)}, put {len(self.attempted)}")

    # --- looking at platters ---

    def _paths_of(self, host: SimHost, tag: Tag) -> list[Path]:
        return [
            path
            for path, inode in host.platter.durable_names.items()
            if inode is not None and path.name == str(tag) and path in host.platter.names
        ]

    def _chunk_is_durable(self, host: SimHost, tag: Tag, chunk: int) -> bool:
        data = self.known[tag]
        layout = Layout.of_size(len(data))
        start, size = layout.offset_of(chunk), layout.bytes_of(chunk)
        return any(
            bytes(inode.durable[start : start + size]) == data[start : start + size]
            and not any(self._touches(offset, written, start, size) for offset, written in inode.pending)
            for inode in (host.platter.durable_names[path] for path in self._paths_of(host, tag))
            if inode is not None
        )

    @staticmethod
    def _touches(offset: int, written: bytes | None, start: int, size: int) -> bool:
        """Whether a write that is not synced could tear this range."""
        if written is None:
            return offset < start + size
        return offset < start + size and start < offset + len(written)

    def _object_is_durable(self, host: SimHost, tag: Tag) -> bool:
        data = self.known[tag]
        return any(
            "objects" in path.parts and inode is not None and inode.durable == data
            for path in self._paths_of(host, tag)
            for inode in (host.platter.durable_names[path],)
        )

    def _objects_are_right(self, host: SimHost) -> None:
        for path, inode in host.platter.names.items():
            if inode is None or "objects" not in path.parts:
                continue
            try:
                tag = Tag.parse(path.name)
            except ValueError:
                continue
            if hashlib.sha256(inode.data).digest() != hashlib.sha256(self.known[tag]).digest():
                raise Violation(f"{host.name} has something else under the name {tag}")
