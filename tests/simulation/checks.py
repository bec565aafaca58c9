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
from typing import TYPE_CHECKING, Any

from simulation.hosts import SimHost, StorageHost
from simulation.network import SimStream
from simulation.platters import Platters
from simulation.promises import Promise, Violation
from support.patches import patched

from exchange.buffers import BufferPool
from exchange.engine import RECEIVING_BYTES_MAX, SENDING_BYTES_MAX
from exchange.strikes import STRIKE_SECONDS, STRIKES_MAX
from exchange.swarm import Swarm
from protocol import messages as m
from protocol.ids import NodeId, Tag
from protocol.limits import ORDER_SECONDS_MAX, REQUESTS_PER_LINK_MAX
from protocol.manifest import Manifest
from runtime.link import CONTROL_BYTES_MAX, Link
from tracker.index.summary import keepers_of

if TYPE_CHECKING:
    from simulation.impostor import Impostor
    from simulation.world import World

ORDER_SLACK_SECONDS = 1.0  # void orders are looked for twice a second


class Checks(Platters):
    """The checkers of one world."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.accepted: dict[Tag, list[str]] = {}  # put, and by whom
        self.attempted: set[Tag] = set()  # put, perhaps without an answer
        self.given_up: set[tuple[str, Tag]] = set()  # puts that somebody cancelled
        self.gone: set[str] = set()
        self.revoked: set[NodeId] = set()
        self.disk_was_full = False  # puts may have ended with the clear error that there is no room
        self.impostors: list[Impostor] = []
        self._world = world
        self._lone_wrong: dict[tuple[int, NodeId], list[float]] = {}  # by engine: wrong chunks that one node alone made
        self._requests: dict[tuple[str, int], dict[tuple[Tag, int, int], float]] = {}

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """See every message and every block that is sent while the block lasts."""
        post, send_block, wrong, take = Link.post, Link.send_block, Swarm._wrong, BufferPool.take
        checks = self

        def watched(link: Link, message: m.Message) -> None:
            if link.alive:
                checks._posted(link, message)
            post(link, message)

        async def watched_block(link: Link, block: m.Block, data: memoryview) -> None:
            if link.alive:
                checks._block_leaves(link)
            await send_block(link, block, data)

        def watched_wrong(swarm: Swarm, chunk: int) -> None:
            makers = list(swarm._assembly.senders(chunk))
            if len(makers) == 1:
                times = checks._lone_wrong.setdefault((id(swarm._engine), makers[0]), [])
                times.append(checks._world.timeline.now)
            wrong(swarm, chunk)

        async def watched_take(pool: BufferPool, size_bytes: int) -> memoryview:
            buffer = await take(pool, size_bytes)
            # A single buffer may be larger than all of a small pool.
            if pool.out_bytes > max(pool._bytes_max, len(buffer.obj)):
                checks.fail(Promise.MEMORY_IS_BOUNDED, f"{pool.out_bytes} bytes of buffers are out")
            return buffer

        with (
            patched(BufferPool, "take", watched_take),
            patched(Link, "post", watched),
            patched(Link, "send_block", watched_block),
            patched(Swarm, "_wrong", watched_wrong),
        ):
            yield

    # --- what is said ---

    def _posted(self, link: Link, message: m.Message) -> None:
        world = self._world
        world.steps += 1
        if not isinstance(message, m.Ping | m.Pong):
            world.note("to", link.peer.node[:6], type(message).__name__)
        if link._control_bytes > CONTROL_BYTES_MAX:
            self.fail(Promise.MEMORY_IS_BOUNDED, f"{link._control_bytes} bytes of messages wait on one link")
        if isinstance(message, m.Request):
            self._requested(link)
        elif isinstance(message, m.JobClosed) and message.proven:
            self._proven(link)
        if isinstance(message, m.Stored):
            self.acknowledge(self._storage_of(link), message.tag, message.chunks)
        elif isinstance(message, m.JobClosed | m.JobUpdate) and message.state is m.JobState.STORED:
            self.said_stored(self._storage_of(link), message.tag)
        elif isinstance(message, m.Inventory):
            for holding in message.held:
                if not holding.bitmap and isinstance(self._host_of(link), StorageHost):
                    self.said_stored(
                        self._storage_of(link), holding.tag
                    )  # b"" is not a full bitmap: "all of it, for good"

    def _requested(self, link: Link) -> None:
        """Nobody asks one whose wrong chunks were enough."""
        program = self._host_of(link).program
        times = self._lone_wrong.get((id(getattr(program, "engine", None)), link.peer.node), [])
        now = self._world.timeline.now
        if sum(now - at < STRIKE_SECONDS for at in times) >= STRIKES_MAX and times[-1] < now:
            self.fail(
                Promise.STRUCK_IS_NOT_ASKED, f"{link.peer.node[:6]} made {len(times)} wrong chunks, and is still asked"
            )

    def _proven(self, link: Link) -> None:
        """Who has nothing but lies has proven nothing."""
        if getattr(self._world.host_at(_stream_of(link).other), "lies", False):
            self.fail(Promise.HAVING_IS_PROVEN, f"{self._host_of(link).name} believes a liar that it has the file")

    def _block_leaves(self, link: Link) -> None:
        """Who gets it is whom the link's certificate names."""
        stream = _stream_of(link)
        there = self._world.host_at(stream.other)
        if there.node != link.peer.node:
            self.fail(Promise.RIGHT_NODE_ONLY, f"a block for {link.peer.node[:6]} goes to {there.name}")
        if link.peer.node in self.revoked and self._knows_revocations(stream.own.address):
            self.fail(Promise.REVOKED_IS_SHUT_OUT, f"a block for {there.name}, which was revoked")

    def _host_of(self, link: Link) -> SimHost:
        return self._world.host_at(_stream_of(link).own)

    def _storage_of(self, link: Link) -> StorageHost:
        host = self._host_of(link)
        if not isinstance(host, StorageHost) or host.node is None:
            self.fail(Promise.STORED_IS_READABLE, f"{host.name}, no storage node, says Stored")
        return host

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

    # --- what is still to come ---

    def unsettled(self) -> list[str]:
        """What is not settled, in words."""
        rest = []
        if self.disk_was_full:
            self._accept_refusals()
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

    def _accept_refusals(self) -> None:
        """A put that met a full disk again and again has ended, with a reason, and may be given again."""
        for host in self._world.daemons():
            for put in host.program.puts.all() if host.program is not None else ():
                if put.tag is not None and put.error is not None and put.error.code == "no-space":
                    self.put_was_given_up(host, put.tag)

    # --- what holds at any time ---

    def every_second(self) -> None:
        """What holds at any time."""
        if self.broken is not None:
            raise self.broken
        world = self._world
        for host in world.storages():
            self.platter_is_right(host)
        for impostor in self.impostors:
            if impostor.heard:
                count = sum(map(len, impostor.heard))
                self.fail(Promise.STRANGERS_HEAR_NOTHING, f"the {impostor.name} was told {count} bytes")
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
                        self.fail(Promise.ORDERS_END, f"{host.name} keeps an order for {tag} that has expired")
            if self.revoked and self._knows_revocations(host.port.address):
                for link in host.program.links:
                    if link.alive and link.peer.node in self.revoked:
                        self.fail(Promise.REVOKED_IS_SHUT_OUT, f"{host.name} keeps a link to a revoked node")
        self._tracker_is_right()

    def _memory_is_bounded(self, host: SimHost, engine: Any) -> None:
        if engine.receiving.out_bytes > RECEIVING_BYTES_MAX or engine.sending.out_bytes > SENDING_BYTES_MAX:
            self.fail(Promise.MEMORY_IS_BOUNDED, f"{host.name} holds more buffers than it may")
        for session in engine._sessions.values():
            if len(session._due) > 2 * REQUESTS_PER_LINK_MAX:
                self.fail(
                    Promise.MEMORY_IS_BOUNDED, f"{host.name} has {len(session._due)} requests outstanding on one link"
                )
            if engine.uplink.waiting(session.number) > REQUESTS_PER_LINK_MAX:
                self.fail(Promise.MEMORY_IS_BOUNDED, f"{host.name} queues more than it may for one link")

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
                    self.fail(Promise.REQUESTS_END, f"{host.name} waits for {request} since {now - since:.0f} s")

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
                    self.fail(Promise.TRACKER_IS_RIGHT, f"the tracker says that {tag} is stored, and nobody said so")
        for _, job in tracker.index._ended:
            tag = job.update.tag
            if job.update.state is m.JobState.STORED and tag not in self.stored:
                self.fail(
                    Promise.TRACKER_IS_RIGHT, f"the tracker says that the job of {tag} is stored, and nobody said so"
                )

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
                self.fail(Promise.ALL_ENDS, f"{host.name} is not up at the end")
            held |= set(host.program.shelf.stored)
            for tag in host.program.shelf.stored:
                if not self._object_is_durable(host, tag):
                    self.fail(Promise.STORED_IS_READABLE, f"{host.name} lists {tag}, and cannot read it back")
        wanted = {tag for tag in self.accepted if self._expected(tag)}
        if not wanted <= held <= self.attempted:
            self.fail(
                Promise.REST_IS_THE_MODEL,
                f"stored {len(held)} files, accepted {len(wanted)}, put {len(self.attempted)}",
            )
        self._index_is_right()

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
        if tracker is None:
            raise Violation(Promise.REST_IS_THE_MODEL, "the tracker is down")
        for host in self._world.hosts.values():
            if host.program is None or host.program is tracker or host.node is None or host.node in self.revoked:
                continue
            book = host.program.shelf.book if hasattr(host.program, "shelf") else host.program.book
            there = tracker.index._nodes.get(host.node)
            told = {} if there is None else there.held
            if set(told) != {holding.tag for holding in book}:
                raise Violation(
                    Promise.REST_IS_THE_MODEL,
                    f"the tracker lists {len(told)} tags of {host.name}, which holds {len(book)}",
                )
            for holding in book:
                bitmap = told[holding.tag].bitmap
                if (b"" if bitmap is None else bitmap.to_bytes()) != holding.bitmap:
                    raise Violation(
                        Promise.REST_IS_THE_MODEL,
                        f"the tracker's picture of {holding.tag} at {host.name} is not what it holds",
                    )
            for node in self.revoked:
                if not host.program.links.credentials.is_revoked(node):
                    raise Violation(Promise.REST_IS_THE_MODEL, f"{host.name} has not heard that {node[:6]} was revoked")
        for node in self.revoked:
            if node in tracker.index._nodes:
                raise Violation(Promise.REST_IS_THE_MODEL, f"the tracker lists {node[:6]}, which was revoked")


def _stream_of(link: Link) -> SimStream:
    """Return the simulated stream under a link, whatever security is between."""
    stream: Any = link._stream
    while not isinstance(stream, SimStream):
        stream = stream._stream
    return stream
