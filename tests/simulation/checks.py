"""What must never be seen, checked from beside the system: production code knows nothing of it.

Every message that any node posts passes ``_posted``, every block ``_block_leaves``; every life of a storage node is
looked at when it has recovered, every platter when its power has gone, and everything each second.

* acknowledged => durable and correct: at the moment of ``Stored``, at every second, and after every crash
* stored => readable and identical, on the platter, at the moment anybody says so and from then on; also when it is the
  tracker who says so
* nothing unverified reaches a backend: whatever lies under objects/ is what its name says
* no byte of a chunk to a host that is not the node it was meant for
* no request and no order outstanding beyond its deadline
* who was revoked has no link to anybody who knows
* memory per link is bounded
* at rest: what storage nodes hold is what was put, no more and no less, and the tracker's index is that exactly
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulation.hosts import SimHost, StorageHost
from simulation.network import SimStream

from exchange.engine import RECEIVING_BYTES_MAX, SENDING_BYTES_MAX
from exchange.strikes import STRIKE_SECONDS, STRIKES_MAX
from exchange.swarm import Swarm
from protocol import messages as m
from protocol.ids import NodeId, Tag
from protocol.limits import ORDER_SECONDS_MAX, REQUESTS_PER_LINK_MAX
from protocol.manifest import Layout, Manifest
from runtime.link import CONTROL_BYTES_MAX, Link
from tracker.index.summary import keepers_of

if TYPE_CHECKING:
    from simulation.disk import Inode
    from simulation.world import World

ORDER_SLACK_SECONDS = 1.0  # void orders are looked for twice a second


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
        self.given_up: set[tuple[str, Tag]] = set()  # puts that somebody cancelled
        self.gone: set[str] = set()
        self.revoked: set[NodeId] = set()
        self.tampered: set[Tag] = set()  # bits of it were flipped on some platter
        self.false_hosts: dict[str, int] = {}  # addresses where no node of ours answers -> bytes of data it was sent
        self._world = world
        self._right: dict[Inode, int] = {}  # objects that were looked at -> their version then
        self._looked: dict[str, tuple[int, int]] = {}
        self._lone_wrong: dict[tuple[int, NodeId], list[float]] = {}  # by engine: wrong chunks that one node alone made
        self._requests: dict[tuple[str, int], dict[tuple[Tag, int, int], float]] = {}

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """See every message and every block that is sent while the block lasts."""
        post, send_block, wrong = Link.post, Link.send_block, Swarm._wrong
        checks = self

        def watched(link: Link, message: m.Message) -> None:
            if link.alive:
                checks._posted(link, message)
            post(link, message)

        async def watched_block(link: Link, block: m.Block, data: memoryview) -> None:
            checks._block_leaves(link)
            await send_block(link, block, data)

        def watched_wrong(swarm: Swarm, chunk: int) -> None:
            makers = list(swarm._assembly.senders(chunk))
            if len(makers) == 1:
                times = checks._lone_wrong.setdefault((id(swarm._engine), makers[0]), [])
                times.append(checks._world.timeline.now)
            wrong(swarm, chunk)

        Link.post, Link.send_block = watched, watched_block  # type: ignore[method-assign]
        Swarm._wrong = watched_wrong  # type: ignore[method-assign]
        try:
            yield
        finally:
            Link.post, Link.send_block = post, send_block  # type: ignore[method-assign]
            Swarm._wrong = wrong  # type: ignore[method-assign]

    # --- what is said ---

    def _posted(self, link: Link, message: m.Message) -> None:
        world = self._world
        world.steps += 1
        if not isinstance(message, m.Ping | m.Pong):
            world.note("to", link.peer.node[:6], type(message).__name__)
        if link._control_bytes > CONTROL_BYTES_MAX:
            raise Violation(f"{link._control_bytes} bytes of messages wait on one link")
        if isinstance(message, m.Request):
            self._requested(link)
        elif isinstance(message, m.JobClosed) and message.proven:
            self._proven(link)
        if isinstance(message, m.Stored):
            self._acknowledged(link, message)
        elif isinstance(message, m.JobClosed | m.JobUpdate) and message.state is m.JobState.STORED:
            self._said_stored(link, message.tag)
        elif isinstance(message, m.Inventory):
            for holding in message.held:
                if not holding.bitmap and isinstance(self._host_of(link), StorageHost):
                    self._said_stored(link, holding.tag)  # b"" is not a full bitmap: "all of it, for good"

    def _requested(self, link: Link) -> None:
        """Nobody asks one whose wrong chunks were enough."""
        program = self._host_of(link).program
        times = self._lone_wrong.get((id(getattr(program, "engine", None)), link.peer.node), [])
        now = self._world.timeline.now
        if sum(now - at < STRIKE_SECONDS for at in times) >= STRIKES_MAX and times[-1] < now:
            raise Violation(f"{link.peer.node[:6]} made {len(times)} wrong chunks alone, and is still asked")

    def _proven(self, link: Link) -> None:
        """Who has nothing but lies has proven nothing."""
        if getattr(self._world.host_at(_stream_of(link).other), "lies", False):
            raise Violation(f"{self._host_of(link).name} believes a liar that it has the file")

    def _block_leaves(self, link: Link) -> None:
        """Who gets it is whom the link's certificate names."""
        stream = _stream_of(link)
        there = self._world.host_at(stream.other)
        if there.node != link.peer.node:
            raise Violation(f"a block for {link.peer.node[:6]} goes to {there.name}")
        if link.peer.node in self.revoked and self._knows_revocations(stream.own.address):
            raise Violation(f"a block for {there.name}, which was revoked")

    def _host_of(self, link: Link) -> SimHost:
        return self._world.host_at(_stream_of(link).own)

    def _storage_of(self, link: Link) -> StorageHost:
        host = self._host_of(link)
        if not isinstance(host, StorageHost) or host.node is None:
            raise Violation(f"{host.name}, no storage node, says Stored")
        return host

    def _acknowledged(self, link: Link, message: m.Stored) -> None:
        host = self._storage_of(link)
        node: NodeId = host.node
        for chunk in message.chunks:
            if not self._chunk_is_durable(host, message.tag, chunk):
                raise Violation(f"{host.name} acknowledged chunk {chunk} of {message.tag}, and it is not durable")
        self.acknowledged.setdefault((node, message.tag), set()).update(message.chunks)

    def _said_stored(self, link: Link, tag: Tag) -> None:
        host = self._storage_of(link)
        if not self._object_is_durable(host, tag):
            raise Violation(f"{host.name} says that {tag} is stored, and it is not")
        self.stored.setdefault(tag, set()).add(host.node)

    # --- what was done to the world ---

    def put_was_accepted(self, host: SimHost, manifest: Manifest) -> None:
        """A daemon took a put upon itself: it ends stored."""
        self.accepted.setdefault(manifest.tag, []).append(host.name)
        if host.name in self.gone:
            self.given_up.add((host.name, manifest.tag))
        else:
            self.given_up.discard((host.name, manifest.tag))

    def put_was_given_up(self, host: SimHost, tag: Tag) -> None:
        """Its user cancels it: it may end either way."""
        self.given_up.add((host.name, tag))

    def host_is_gone(self, host: SimHost) -> None:
        """Nothing is expected of this one any more."""
        self.gone.add(host.name)
        for tag, names in self.accepted.items():
            if host.name in names:
                self.given_up.add((host.name, tag))

    def power_has_gone(self, host: SimHost) -> None:
        """What was acknowledged must be on the platter as the crash left it."""
        if host.node is None:
            return
        for (who, tag), chunks in self.acknowledged.items():
            if who == host.node and tag not in self.tampered:
                for chunk in sorted(chunks):
                    if not self._chunk_is_durable(host, tag, chunk):
                        raise Violation(f"the crash of {host.name} took the acknowledged chunk {chunk} of {tag}")
        for tag, nodes in self.stored.items():
            if host.node in nodes and not self._object_is_durable(host, tag):
                raise Violation(f"the crash of {host.name} took the stored file {tag}")

    def storage_opened(self, node: Any) -> None:
        """A storage node has recovered from whatever happened: nothing acknowledged may be missing."""
        for (who, tag), chunks in self.acknowledged.items():
            if who != node.node or tag in node.shelf.stored:
                continue
            job = node.shelf.live.get(tag) or node.shelf.resting.get(tag)
            held = set(job.job.durable) if job is not None else set()
            if chunks - held and tag not in self.tampered:
                raise Violation(f"acknowledged chunks {sorted(chunks - held)} of {tag} are forgotten")
        for tag, nodes in self.stored.items():
            if node.node in nodes and tag not in node.shelf.stored:
                raise Violation(f"{tag} was stored and is not any more")

    def got(self, host: SimHost, tag: Tag, path: str) -> None:
        """A get said that it is done: right, and there also after a power cut."""
        inode = host.platter.names.get(Path(path))
        if inode is None or inode.data != self.known[tag]:
            raise Violation(f"{host.name} got {tag}, and it is not what was put")
        kept = host.platter.durable_names.get(Path(path))
        if kept is not inode or inode.durable != self.known[tag]:
            raise Violation(f"{host.name} got {tag}, and a power cut would take it")

    # --- what is still to come ---

    def unsettled(self) -> list[str]:
        """What is not settled, in words."""
        rest = []
        for tag, names in self.accepted.items():
            wanting = [name for name in sorted(set(names)) if (name, tag) not in self.given_up]
            if wanting and tag not in self.stored:
                rest.append(f"{tag.root.hex()[:8]} is not stored")
            for name in wanting:
                program = self._world.hosts[name].program
                states = [put.state.value for put in program.puts.all() if put.tag == tag] if program else ["down"]
                if any(state not in ("stored", "cancelled") for state in states) or "stored" not in states:
                    rest.append(f"{name} has {tag.root.hex()[:8]} {states}")
        for host in self._world.daemons():
            if host.node in self.revoked or not host.joined:
                continue
            if host.program is None:
                rest.append(f"{host.name} is down")
                continue
            rest += [f"{host.name} {put.id} is {put.state.value}" for put in host.program.puts.active()]
            gets = [get for get in host.program.gets.active() if self._expected(get.tag)]
            rest += [f"{host.name} {get.id} is {get.state.value}" for get in gets]
        return rest

    # --- what holds at any time ---

    def every_second(self) -> None:
        """What holds at any time."""
        world = self._world
        for host in world.storages():
            self._platter_is_right(host)
        for host in world.hosts.values():
            if host.program is None:
                continue
            engine = getattr(host.program, "engine", None)
            if engine is not None:
                self._memory_is_bounded(host, engine)
                self._requests_end(host, engine)
            orders = getattr(host.program, "orders", None)
            if orders is not None and not host.port.frozen:
                for (tag, _), waiting in orders._waiting.items():
                    if world.timeline.now > waiting.expires_at + ORDER_SLACK_SECONDS:
                        raise Violation(f"{host.name} keeps an order for {tag} that has expired")
            if self.revoked and self._knows_revocations(host.port.address):
                for link in host.program.links:
                    if link.alive and link.peer.node in self.revoked:
                        raise Violation(f"{host.name} keeps a link to a revoked node")
        self._tracker_is_right()

    def _memory_is_bounded(self, host: SimHost, engine: Any) -> None:
        if engine.receiving.out_bytes > RECEIVING_BYTES_MAX or engine.sending.out_bytes > SENDING_BYTES_MAX:
            raise Violation(f"{host.name} holds more buffers than it may")
        for session in engine._sessions.values():
            if len(session._due) > 2 * REQUESTS_PER_LINK_MAX:
                raise Violation(f"{host.name} has {len(session._due)} requests outstanding on one link")
            if engine.uplink.waiting(session.number) > REQUESTS_PER_LINK_MAX:
                raise Violation(f"{host.name} queues more than it may for one link")

    def _requests_end(self, host: SimHost, engine: Any) -> None:
        now = self._world.timeline.now
        if host.port.frozen:
            return
        for session in engine._sessions.values():
            key = (f"{host.name}/{host.lives}", session.number)
            before = self._requests.get(key)
            if not session._due:
                if before is not None:
                    del self._requests[key]
                continue
            before = before or {}
            self._requests[key] = {request: before.get(request, now) for request in session._due}
            for request, since in self._requests[key].items():
                if now - since > ORDER_SECONDS_MAX and session.link.alive:
                    raise Violation(f"{host.name} waits for {request} since {now - since:.0f} s")

    def _knows_revocations(self, address: str) -> bool:
        """Whether the node at ``address`` has heard of everybody who was revoked."""
        for host in self._world.hosts.values():
            if host.port.address == address and host.program is not None:
                credentials = host.program.links.credentials
                return all(credentials.is_revoked(node) for node in self.revoked)
        return False

    def _tracker_is_right(self) -> None:
        """Everything the tracker calls stored is."""
        tracker = self._world.tracker.program
        if tracker is None:
            return
        index, now = tracker.index, self._world.timeline.now
        for tag in list(index._holders):
            for keeper in keepers_of(index._holders_of(tag, now), index._open_jobs_of(tag, now)):
                if keeper.node.node not in self.stored.get(tag, ()):
                    raise Violation(f"the tracker says that {tag} is stored, and nobody said so")
        for (tag, _), job in tracker.index._jobs.items():
            if job.update.state is m.JobState.STORED and tag not in self.stored:
                raise Violation(f"the tracker says that the job of {tag} is stored, and nobody said so")

    # --- the end ---

    def at_rest(self) -> None:
        """The model and the system agree."""
        self.every_second()
        world = self._world
        held: set[Tag] = set()
        for host in world.storages():
            if host.node in self.revoked or not host.joined:
                continue
            if host.program is None:
                raise Violation(f"{host.name} is not up at the end")
            held |= set(host.program.shelf.stored)
            for tag in host.program.shelf.stored:
                if not self._object_is_durable(host, tag):
                    raise Violation(f"{host.name} lists {tag}, and cannot read it back")
        wanted = {tag for tag in self.accepted if self._expected(tag)}
        if not wanted <= held <= self.attempted:
            raise Violation(f"stored {len(held)} files, accepted {len(wanted)}, put {len(self.attempted)}")
        self._index_is_right()
        for address, count in self.false_hosts.items():
            if count:
                raise Violation(f"{count} bytes of data went to {address}, where no node of ours is")

    def _expected(self, tag: Tag) -> bool:
        return any((name, tag) not in self.given_up for name in self.accepted.get(tag, ()))

    def index_is_right(self) -> bool:
        """Whether the tracker has heard everything."""
        try:
            self._index_is_right()
        except Violation:
            return False
        return True

    def _index_is_right(self) -> None:
        """The tracker lists exactly what everybody holds, and knows all who were revoked."""
        tracker = self._world.tracker.program
        for host in self._world.hosts.values():
            if host.program is None or host.program is tracker or host.node is None or host.node in self.revoked:
                continue
            book = host.program.shelf.book if hasattr(host.program, "shelf") else host.program.book
            there = tracker.index._nodes.get(host.node)
            told = {} if there is None else there.held
            if set(told) != {holding.tag for holding in book}:
                raise Violation(f"the tracker lists {len(told)} tags of {host.name}, which holds {len(book)}")
            for holding in book:
                bitmap = told[holding.tag].bitmap
                if (b"" if bitmap is None else bitmap.to_bytes()) != holding.bitmap:
                    raise Violation(f"the tracker's picture of {holding.tag} at {host.name} is not what it holds")
            for node in self.revoked:
                if not host.program.links.credentials.is_revoked(node):
                    raise Violation(f"{host.name} has not heard that {node[:6]} was revoked")
        for node in self.revoked:
            if node in tracker.index._nodes:
                raise Violation(f"the tracker lists {node[:6]}, which was revoked")

    # --- looking at platters ---

    def _files_of(self, host: SimHost, tag: Tag) -> list[tuple[Path, Inode]]:
        """Return the files called like ``tag`` that no crash can take the name of: one that is being renamed has either
        name afterwards."""
        text = str(tag)
        seen = {inode for path, inode in host.platter.names.items() if path.name == text and inode is not None}
        durable = host.platter.durable_names.items()
        return [(path, inode) for path, inode in durable if path.name == text and inode is not None and inode in seen]

    def _chunk_is_durable(self, host: SimHost, tag: Tag, chunk: int) -> bool:
        data = self.known[tag]
        layout = Layout.of_size(len(data))
        start, size = layout.offset_of(chunk), layout.bytes_of(chunk)
        return any(
            inode.durable[start : start + size] == data[start : start + size]
            and not any(self._touches(offset, written, start, size) for offset, written in inode.pending)
            for _, inode in self._files_of(host, tag)
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
            "objects" in path.parts and inode.durable == data and host.platter.names.get(path) is inode
            for path, inode in self._files_of(host, tag)
        )

    def _platter_is_right(self, host: SimHost) -> None:
        """Objects are what their names say; what was acknowledged is there."""
        platter = host.platter
        state = (platter.version, sum(len(chunks) for chunks in self.acknowledged.values()))
        for path, inode in platter.names.items():
            if inode is None or "objects" not in path.parts or self._right.get(inode) == inode.version:
                continue
            try:
                tag = Tag.parse(path.name)
            except ValueError:
                continue
            if inode.data != self.known[tag]:
                raise Violation(f"{host.name} has something else under the name {tag}")
            self._right[inode] = inode.version
        if self._looked.get(host.name) == state:
            return
        self._looked[host.name] = state
        for (who, tag), chunks in self.acknowledged.items():
            if who == host.node and tag not in self.tampered and tag not in self.stored:
                for chunk in chunks:
                    if not self._chunk_is_durable(host, tag, chunk):
                        raise Violation(f"chunk {chunk} of {tag} was acknowledged by {host.name}, and is gone")


def _stream_of(link: Link) -> SimStream:
    """Return the simulated stream under a link, whatever security is between."""
    stream: Any = link._stream
    while not isinstance(stream, SimStream):
        stream = stream._stream
    return stream
