"""All links of a node: listening, dialling, at most one dialled link per node. Who is let in, identity.py judges.

A program hands in ``serve(link)``, which is called in a task of its own for every link, dialled or accepted, and reads
it until it ends. Nothing here knows what is said on a link.

Considered: trying a node's addresses one after the other. A laptop announces every interface it has, most of them lead
nowhere from here, and a packet that is dropped costs ten seconds. They are tried side by side, a little apart; the
first that proves to be the node wins.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from typing import Protocol

import structlog
import trio

from protocol import messages as m
from protocol.connection import Connection
from protocol.errors import LinkLost, NotTrusted, RemoteProtocolError
from protocol.ids import NodeAddress, NodeId, Role, parse_address
from protocol.limits import DIRECT_PARTS, JOB_MAPS, KEEPING, PROTOCOL_VERSION, WORD_BYTES_MAX
from runtime.identity import Credentials, Peer
from runtime.link import Link, running
from runtime.seam import ByteStream, Listener, Runtime, SecureStream
from runtime.strangers import Strangers
from runtime.tls import Expected

log = structlog.get_logger()

# A member that opens link after link is broken or hostile; each may cost us megabytes of queued messages.
LINKS_PER_NODE_MAX = 8
# All addresses together, from the first packet to Hello. One that is reachable answers in a fraction of it.
DIAL_SECONDS_MAX = 20.0
# How long one address may keep the next one waiting (RFC 8305 §5 recommends 250 ms).
DIAL_APART_SECONDS = 0.25
# The join door: a question, an answer, the tracker's disk. It has its own deadlines within this.
DOOR_SECONDS_MAX = 40.0
AGENT = f"upswarm/{metadata.version('upswarm')}"
FEATURES: tuple[str, ...] = (JOB_MAPS, DIRECT_PARTS, KEEPING)


class ServeDoor(Protocol):
    """What a tracker does with a node that has no certificate yet."""

    async def __call__(self, stream: SecureStream) -> None: ...


@dataclass
class _Turn:
    """Who dials a node, one at a time; and what came of it for those who waited."""

    lock: trio.Lock = field(default_factory=trio.Lock)
    takers: int = 0
    failed: int = 0
    trouble: LinkLost | NotTrusted = field(default_factory=LinkLost)


class Links:
    """The links of one node. ``credentials`` may be replaced at any time (``renew``)."""

    def __init__(
        self,
        runtime: Runtime,
        credentials: Credentials,
        *,
        name: str,
        serve: Callable[[Link], Awaitable[None]],
        serve_door: ServeDoor | None = None,
    ) -> None:
        self.credentials = credentials
        self.addresses: tuple[str, ...] = ()  # where we listen
        self._runtime = runtime
        self._name = name
        self._serve = serve
        self._serve_door = serve_door
        self._links: dict[Link, None] = {}
        self._by_node: dict[NodeId, dict[Link, None]] = {}  # the same
        self._dialling: dict[NodeId, _Turn] = {}
        self._strangers = Strangers()
        self._nursery: trio.Nursery | None = None

    def __iter__(self) -> Iterator[Link]:
        return iter(list(self._links))

    def to(self, node: NodeId) -> Link | None:
        """Return a live link to ``node`` (the oldest), or None."""
        return next((link for link in self._by_node.get(node, ()) if link.alive), None)

    async def run(
        self,
        listeners: tuple[Listener, ...],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and serve until cancelled; then all links say goodbye."""
        self.addresses = tuple(listener.address for listener in listeners)
        try:
            async with trio.open_nursery() as links:
                self._nursery = links
                for listener in listeners:
                    links.start_soon(self._accept, listener, name=f"accept {listener.address}")
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            for listener in listeners:
                listener.close()

    async def dial(self, address: NodeAddress) -> Link:
        """Return a link to that node: a live one, or a new one to the first of its addresses that answers.

        Raises:
            LinkLost: none answers.
            NotTrusted: who answers is not that node.
        """
        if address.node == self.credentials.node:
            raise LinkLost("that is ourselves")
        turn = self._dialling.setdefault(address.node, _Turn())
        failed_before = turn.failed
        turn.takers += 1
        try:
            async with turn.lock:
                link = self.to(address.node)
                if link is not None:
                    return link
                if turn.failed > failed_before:
                    # Whoever dialled while we waited tried just that; a queue of tries would take minutes.
                    raise type(turn.trouble)(str(turn.trouble))
                try:
                    return await self._dial_first(address.addresses, Expected(role=address.role, node=address.node))
                except (LinkLost, NotTrusted) as error:
                    turn.failed += 1
                    turn.trouble = error
                    raise
        finally:
            turn.takers -= 1
            if not turn.takers:
                self._dialling.pop(address.node, None)

    async def dial_role(self, addresses: tuple[str, ...], role: Role) -> Link:
        """Return a new link to whichever node of ``role`` answers first at ``addresses``. Raises as ``dial``."""
        return await self._dial_first(addresses, Expected(role=role))

    def drop(self, node: NodeId, code: str, reason: str) -> None:
        """Close every link to ``node``."""
        for link in self:
            if link.peer.node == node:
                link.close(code, reason)

    def renew(self, credentials: Credentials) -> None:
        """Use other credentials from now on; links to nodes they revoke, or trust no longer, are closed."""
        left = set(self.credentials.authorities) - set(credentials.authorities)
        self.credentials = credentials
        for link in self:
            if credentials.is_revoked(link.peer.node):
                link.close("revoked", "your certificate was revoked")
            elif left and not _is_trusted(credentials, link.certificate):
                link.close("not-trusted", "your certificate's authority is in force no longer; come with the new one")

    def hello(self) -> m.Hello:
        """Return what we say first."""
        return m.Hello(
            version=PROTOCOL_VERSION,
            features=FEATURES,
            name=shorten(self._name),
            agent=AGENT,
            addresses=self.addresses,
        )

    async def _dial_first(self, addresses: tuple[str, ...], expected: Expected) -> Link:
        if self._nursery is None:
            raise LinkLost("we are not running")
        try:
            with trio.fail_after(DIAL_SECONDS_MAX):
                stream, peer = await self._race(addresses, expected)
                link = Link(stream, peer, Connection(self.credentials.role, peer.role), dialled=True)
                await self._open(link, stream)
        except trio.TooSlowError as error:
            raise LinkLost(f"no answer from {', '.join(addresses)} in {DIAL_SECONDS_MAX:.0f} s") from error
        except RemoteProtocolError as error:
            raise LinkLost(f"{stream.remote}: {error}") from error
        # No await between Hello and here: who has stopped meanwhile has closed the stream with us.
        self._add(link)
        self._nursery.start_soon(self._live, link, name=f"link to {peer.role} {peer.node[:8]}")
        return link

    async def _race(self, addresses: tuple[str, ...], expected: Expected) -> tuple[SecureStream, Peer]:
        """Return the first stream on which the expected node proves itself."""
        won: list[tuple[SecureStream, Peer]] = []
        failures: list[LinkLost | NotTrusted] = []

        async def attempt(text: str, over: trio.Event) -> None:
            try:
                stream, peer = await self._meet(text, expected)
            except (LinkLost, NotTrusted) as error:
                failures.append(error)
                over.set()
                return
            if won:
                stream.close()
            else:
                won.append((stream, peer))
                racers.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as racers:
                for text in dict.fromkeys(addresses):
                    over = trio.Event()
                    racers.start_soon(attempt, text, over, name=f"dial {text}")
                    with trio.move_on_after(DIAL_APART_SECONDS):
                        await over.wait()
        except BaseException:
            for stream, _ in won:
                stream.close()
            raise
        if won:
            return won[0]
        # A wrong node says more than a silent address.
        failures.sort(key=lambda failure: isinstance(failure, LinkLost))
        raise failures[0] if failures else LinkLost("it has no address")

    async def _meet(self, text: str, expected: Expected) -> tuple[SecureStream, Peer]:
        host, port = parse_address(text)
        raw = await self._runtime.network.dial(host, port)
        stream, peer = await self._runtime.security.dial(raw, self.credentials, expected)
        if peer.node == self.credentials.node:
            stream.close()
            raise LinkLost(f"{text}: that is ourselves")
        return stream, peer

    async def _open(self, link: Link, stream: SecureStream) -> None:
        """Say Hello on both sides. The stream is closed when this raises."""
        try:
            await link.open(self.hello())
            # Meanwhile we may have heard that they were shut out, or have begun to stop.
            if self.credentials.is_revoked(link.peer.node):
                raise LinkLost(f"{link.remote}: node {link.peer.node[:8]} was revoked")
            if self._nursery is None:
                raise LinkLost("we are stopping")
        except BaseException:
            stream.close()
            raise

    async def _accept(self, listener: Listener) -> None:
        async with trio.open_nursery() as strangers:
            while True:
                stream = await listener.accept()
                strangers.start_soon(self._welcome, stream, name=f"stranger {stream.remote}")

    async def _welcome(self, raw: ByteStream) -> None:
        try:
            async with self._strangers.admit(raw.remote) as admitted:
                link = await self._meet_stranger(raw) if admitted else None
        except trio.Cancelled:
            raw.close()
            raise
        if not admitted:
            raw.close()
            log.warning("too many strangers", remote=raw.remote)
        elif link is not None:
            self._add(link)
            await self._live(link)

    async def _meet_stranger(self, raw: ByteStream) -> Link | None:
        """Return the link of a node that has proven itself; None when it has not, or came to the door."""
        try:
            stream, peer = await self._runtime.security.accept(raw, self.credentials, door=self._serve_door is not None)
        except (NotTrusted, LinkLost) as error:
            log.warning("stranger refused", remote=raw.remote, reason=str(error))
            return None
        if peer is None:
            await self._open_door(stream)
            return None
        if len(self._by_node.get(peer.node, ())) >= LINKS_PER_NODE_MAX:
            log.warning("too many links", remote=raw.remote, peer=peer.node)
            stream.close()
            return None
        link = Link(stream, peer, Connection(self.credentials.role, peer.role), dialled=False)
        try:
            await self._open(link, stream)
        except (LinkLost, RemoteProtocolError) as error:
            log.warning("link refused", remote=raw.remote, peer=peer.node, reason=str(error))
            return None
        return link

    async def _open_door(self, stream: SecureStream) -> None:
        assert self._serve_door is not None
        try:
            with trio.fail_after(DOOR_SECONDS_MAX):
                await self._serve_door(stream)
        except (LinkLost, RemoteProtocolError, trio.TooSlowError) as error:
            log.warning("door shut", remote=stream.remote, reason=str(error) or "too slow")
        finally:
            stream.close()

    def _add(self, link: Link) -> None:
        self._links[link] = None
        self._by_node.setdefault(link.peer.node, {})[link] = None

    def _remove(self, link: Link) -> None:
        del self._links[link]
        same = self._by_node[link.peer.node]
        del same[link]
        if not same:
            del self._by_node[link.peer.node]

    async def _live(self, link: Link) -> None:
        log.debug("link up", peer=link.peer.node, role=link.peer.role, remote=link.remote, dialled=link.dialled)
        try:
            async with running(link):
                try:
                    await self._serve(link)
                except RemoteProtocolError as error:
                    log.warning("peer broke a rule", peer=link.peer.node, remote=link.remote, reason=str(error))
                    link.close("protocol-error", str(error))
                except LinkLost as error:
                    log.debug("link lost", peer=link.peer.node, reason=str(error))
        finally:
            self._remove(link)
            log.debug("link down", peer=link.peer.node, reason=link.lost)


def _is_trusted(credentials: Credentials, certificate: bytes | None) -> bool:
    try:
        return certificate is not None and bool(credentials.judge(certificate))
    except NotTrusted:
        return False


def shorten(name: str) -> str:
    """Return ``name`` cut to what fits a message: 64 bytes, whole characters."""
    return name.encode("utf-8", "replace")[:WORD_BYTES_MAX].decode("utf-8", "ignore")
