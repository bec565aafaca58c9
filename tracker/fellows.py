"""The other trackers of this swarm: who they are, whom they let in or shut out, and messages for nodes linked to them.

All of it goes through the Redis that they share, under the swarm's seal (seal.py): who can write there can lose things,
and make nobody a member.

* Each tracker writes down where it may be dialled; nodes are told of all. One that was not seen for a week is left out.
* The registers of members are made equal: what one knows and another does not is taken over, and who was shut out
  anywhere is shut out everywhere. This is done at start, when somebody says that something has changed, and now and
  then, because what was said may have been lost. Invites stay with the tracker that gave them: two trackers could not
  both count the uses of one without asking each other.
* A message for a node whose link another tracker holds is said to all; the one that holds it passes it on. Only orders
  go this way: hints, which nobody misses that come late, twice or never.

Decides nothing about orders (access.py) or about members (registrar.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import msgpack
import structlog
import trio

from protocol import messages as m
from protocol.codec import decode_untrusted, encode
from protocol.errors import RemoteProtocolError, StorageUnavailable
from protocol.fields import AddressField, ListOf
from protocol.ids import NodeAddress, NodeId, Role, node_id_of_key, parse_node_id
from protocol.limits import ADDRESSES_MAX, TRACKERS_MAX
from runtime.seam import Clock
from tracker.membership import Member
from tracker.registrar import Registrar
from tracker.seal import Seal

log = structlog.get_logger()

SYNC_SECONDS = 30.0
# A tracker that is away for a weekend shall be found by nodes that start meanwhile.
LISTED_SECONDS = 7 * 86400.0
# Messages that wait to be said; orders that do not fit come again with the next beat.
WAITING_MAX = 4096
# The registers are kept there for as long as trackers may be off together and still not lose a revocation by it: each
# has them on its own disk as well.
KEPT_SECONDS = 90 * 86400

_PASSED_ON = (m.Order, m.RelayOrder)
_AT = b"tracker"
_MEMBER = b"member"
_NUMBER = b"number"
_POST = b"post"
_NEWS = b"news"


class Board(Protocol):
    """What is needed of the store (runtime/redis.py)."""

    async def publish(self, channel: str, data: bytes) -> None: ...

    async def listen(
        self, channel: str, hear: Callable[[bytes], Awaitable[None]], on_listening: Callable[[], None]
    ) -> None: ...

    async def read_map(self, key: str) -> dict[bytes, bytes]: ...

    async def write_map(self, key: str, values: Mapping[bytes, bytes], seconds: int) -> None: ...


class Fellows:
    """``run()`` it. ``own`` says where we may be dialled; ``deliver`` passes a message on to a node that is linked
    here; ``on_trackers`` is told who all trackers are, ``on_revoked`` of each member that was shut out elsewhere."""

    def __init__(
        self,
        board: Board,
        registrar: Registrar,
        clock: Clock,
        own: Callable[[], NodeAddress],
        *,
        deliver: Callable[[NodeId, m.Message], None],
        on_trackers: Callable[[tuple[NodeAddress, ...]], None],
        on_revoked: Callable[[Member], Awaitable[None]],
    ) -> None:
        self._board = board
        self._registrar = registrar
        self._clock = clock
        self._own = own
        self._deliver = deliver
        self._on_trackers = on_trackers
        self._on_revoked = on_revoked
        self._seal = Seal(registrar.authority)
        prefix = f"upswarm:{{{registrar.authority.swarm}}}:"
        self._channel = f"{prefix}post"
        self._trackers_key, self._members_key = f"{prefix}trackers", f"{prefix}members"
        self._seen: dict[NodeId, tuple[float, tuple[str, ...]]] = {}
        self._told: tuple[NodeAddress, ...] = ()
        self._news = trio.Event()
        self._to_say, self._said = trio.open_memory_channel[bytes](WAITING_MAX)

    def post(self, node: NodeId, message: m.Message) -> None:
        """Have a message passed on to a node that is linked elsewhere. Does not wait; may be lost."""
        assert isinstance(message, _PASSED_ON)
        try:
            self._to_say.send_nowait(self._seal.close(_POST, node.encode("ascii") + encode(message)))
        except trio.WouldBlock:
            log.debug("order dropped", node=node)

    def sync_soon(self) -> None:
        """Something has changed here that others must know."""
        self._news.set()

    async def run(self) -> None:
        """Keep in touch until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._board.listen, self._channel, self._hear, self.sync_soon)
            nursery.start_soon(self._say)
            while True:
                self._news = trio.Event()
                try:
                    await self._sync()
                except StorageUnavailable as error:
                    log.debug("trackers not reached", reason=str(error))
                with trio.move_on_after(SYNC_SECONDS):
                    await self._news.wait()

    # --- messages ---

    async def _say(self) -> None:
        async for sealed in self._said:
            try:
                await self._board.publish(self._channel, sealed)
            except StorageUnavailable as error:
                log.debug("order lost", reason=str(error))

    async def _hear(self, data: bytes) -> None:
        if self._seal.open(_NEWS, data) is not None:
            self._news.set()
            return
        said = self._seal.open(_POST, data)
        if said is None:
            log.warning("not from a tracker of this swarm", bytes=len(data))
            return
        try:
            node, message = parse_node_id(said[:52].decode("ascii")), decode_untrusted(said[52:])
        except (ValueError, RemoteProtocolError) as error:
            # Sealed by a tracker of another version, perhaps.
            log.warning("message of a tracker not understood", reason=str(error))
            return
        if isinstance(message, _PASSED_ON):
            self._deliver(node, message)

    # --- registers ---

    async def _sync(self) -> None:
        await self._sync_trackers()
        if await self._sync_members():
            await self._board.publish(self._channel, self._seal.close(_NEWS, b""))

    async def _sync_trackers(self) -> None:
        wall = self._clock.wall()
        own = self._own()
        self._seen[own.node] = (wall, own.addresses)
        for node, sealed in (await self._board.read_map(self._trackers_key)).items():
            said = self._seal.open(_AT + node, sealed)
            if said is None:
                continue
            seen, addresses = msgpack.unpackb(said)
            name = NodeId(node.decode("ascii"))
            if name != own.node and seen > self._seen.get(name, (0.0,))[0]:
                self._seen[name] = (seen, ListOf(AddressField(), ADDRESSES_MAX).decode_untrusted(addresses))
        self._seen = {node: one for node, one in self._seen.items() if wall - one[0] < LISTED_SECONDS}
        key = own.node.encode("ascii")
        written = self._seal.close(_AT + key, msgpack.packb((wall, own.addresses)))
        await self._board.write_map(self._trackers_key, {key: written}, KEPT_SECONDS)
        newest = sorted(self._seen, key=lambda node: (node != own.node, -self._seen[node][0]))[:TRACKERS_MAX]
        trackers = tuple(NodeAddress(node, Role.TRACKER, self._seen[node][1]) for node in sorted(newest))
        if trackers != self._told:
            self._told = trackers
            log.info("trackers of this swarm", count=len(trackers))
            self._on_trackers(trackers)

    async def _sync_members(self) -> bool:
        """Make both registers equal; return whether there was something that others did not know."""
        there = await self._board.read_map(self._members_key)
        number, known = 0, {}
        for key, sealed in there.items():
            said = self._seal.open(_MEMBER + key, sealed)
            if said is None:
                log.warning("register entry without our seal")
            elif key == _NUMBER:
                number = msgpack.unpackb(said)
            else:
                known[key] = _member_of(msgpack.unpackb(said))
        for member in await self._registrar.merge(known.values(), number):
            log.warning("node revoked elsewhere", node=member.node, role=member.role, name=member.name)
            await self._on_revoked(member)
        missing = {
            member.node.encode("ascii"): _packed(member)
            for member in await self._registrar.members()
            if known.get(member.node.encode("ascii")) != member
        }
        if self._registrar.number != number:
            missing[_NUMBER] = msgpack.packb(self._registrar.number)
        if missing:
            sealed_ones = {key: self._seal.close(_MEMBER + key, said) for key, said in missing.items()}
            await self._board.write_map(self._members_key, sealed_ones, KEPT_SECONDS)
        return bool(missing)


def _packed(member: Member) -> bytes:
    packed: bytes = msgpack.packb(
        (
            member.role.value,
            member.name,
            member.public_key,
            member.joined,
            member.certificate_expires,
            member.revoked,
        )
    )
    return packed


def _member_of(raw: list[object]) -> Member:
    role, name, public_key, joined, expires, revoked = raw[:6]
    assert isinstance(role, str) and isinstance(name, str) and isinstance(public_key, bytes)
    assert isinstance(joined, int) and isinstance(expires, int) and isinstance(revoked, int | None)
    return Member(
        node=node_id_of_key(public_key),
        role=Role(role),
        name=name,
        public_key=public_key,
        joined=joined,
        certificate_expires=expires,
        revoked=revoked,
    )
