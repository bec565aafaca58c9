"""All links of a node: listening, dialling, at most one dialled link per node. Who is let in, identity.py judges.

A program hands in ``serve(link)``, which is called in a task of its own for every link, dialled or accepted, and reads
it until it ends. Nothing here knows what is said on a link.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Protocol

import structlog
import trio

from protocol import messages as m
from protocol.connection import Connection
from protocol.errors import LinkLost, NotTrusted, RemoteProtocolError
from protocol.ids import NodeAddress, NodeId, Role, parse_address
from protocol.limits import PROTOCOL_VERSION
from runtime.identity import Credentials
from runtime.link import Link, running
from runtime.seam import ByteStream, Listener, Runtime, SecureStream
from runtime.tls import Expected

log = structlog.get_logger()

# Sockets that have not proven who they are: per address, and in all. 51 KiB each at most.
STRANGERS_PER_HOST_MAX = 32
STRANGERS_MAX = 1024
AGENT = f"upswarm/{metadata.version('upswarm')}"
FEATURES: tuple[str, ...] = ()


class ServeDoor(Protocol):
    """What a tracker does with a node that has no certificate yet."""

    async def __call__(self, stream: SecureStream) -> None: ...


@dataclass
class Strangers:
    """How many connections have not proven anything yet, by host."""

    total: int = 0
    hosts: dict[str, int] | None = None

    @contextlib.contextmanager
    def admit(self, remote: str) -> Iterator[bool]:
        """Count one while the block lasts; yields False when there are too many."""
        if self.hosts is None:
            self.hosts = {}
        host = parse_address(remote)[0]
        if self.total >= STRANGERS_MAX or self.hosts.get(host, 0) >= STRANGERS_PER_HOST_MAX:
            yield False
            return
        self.total += 1
        self.hosts[host] = self.hosts.get(host, 0) + 1
        try:
            yield True
        finally:
            self.total -= 1
            self.hosts[host] -= 1
            if not self.hosts[host]:
                del self.hosts[host]


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
        self._dialling: dict[NodeId, trio.Lock] = {}
        self._strangers = Strangers()
        self._nursery: trio.Nursery | None = None

    def __iter__(self) -> Iterator[Link]:
        return iter(list(self._links))

    def to(self, node: NodeId) -> Link | None:
        """Return a live link to ``node`` (the oldest), or None."""
        return next((link for link in self._links if link.peer.node == node and link.alive), None)

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
        turn = self._dialling.setdefault(address.node, trio.Lock())
        try:
            async with turn:
                link = self.to(address.node)
                if link is not None:
                    return link
                return await self._dial_first(address.addresses, Expected(role=address.role, node=address.node))
        finally:
            if not turn.statistics().tasks_waiting and not turn.locked():
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
        """Use other credentials from now on; links to nodes they revoke are closed."""
        self.credentials = credentials
        for link in self:
            if credentials.is_revoked(link.peer.node):
                link.close("revoked", "your certificate was revoked")

    def hello(self) -> m.Hello:
        """Return what we say first."""
        return m.Hello(
            version=PROTOCOL_VERSION,
            features=FEATURES,
            name=self._name,
            agent=AGENT,
            addresses=self.addresses,
        )

    async def _dial_first(self, addresses: tuple[str, ...], expected: Expected) -> Link:
        failure: LinkLost | NotTrusted = LinkLost("it has no address")
        for text in addresses:
            try:
                return await self._dial_one(text, expected)
            except (LinkLost, NotTrusted) as error:
                failure = error
        raise failure

    async def _dial_one(self, text: str, expected: Expected) -> Link:
        host, port = parse_address(text)
        raw = await self._runtime.network.dial(host, port)
        stream, peer = await self._runtime.security.dial(raw, self.credentials, expected)
        link = Link(stream, peer, Connection(self.credentials.role, peer.role), dialled=True)
        try:
            await link.open(self.hello())
            if self._nursery is None:
                raise LinkLost("we are stopping")
        except RemoteProtocolError as error:
            stream.close()
            raise LinkLost(f"{text}: {error}") from error
        except BaseException:
            stream.close()
            raise
        self._links[link] = None
        self._nursery.start_soon(self._live, link, name=f"link to {peer.role} {peer.node[:8]}")
        return link

    async def _accept(self, listener: Listener) -> None:
        async with trio.open_nursery() as strangers:
            while True:
                stream = await listener.accept()
                strangers.start_soon(self._welcome, stream, name=f"stranger {stream.remote}")

    async def _welcome(self, raw: ByteStream) -> None:
        with self._strangers.admit(raw.remote) as admitted:
            if not admitted:
                raw.close()
                log.warning("too many strangers", remote=raw.remote)
                return
            try:
                stream, peer = await self._runtime.security.accept(
                    raw, self.credentials, door=self._serve_door is not None
                )
            except (NotTrusted, LinkLost) as error:
                log.warning("stranger refused", remote=raw.remote, reason=str(error))
                return
            if peer is None:
                assert self._serve_door is not None
                try:
                    await self._serve_door(stream)
                finally:
                    stream.close()
                return
            link = Link(stream, peer, Connection(self.credentials.role, peer.role), dialled=False)
            try:
                await link.open(self.hello())
            except (LinkLost, RemoteProtocolError) as error:
                log.warning("link refused", remote=raw.remote, peer=peer.node, reason=str(error))
                stream.close()
                return
            except BaseException:
                stream.close()
                raise
        self._links[link] = None
        await self._live(link)

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
            self._links.pop(link, None)
            log.debug("link down", peer=link.peer.node, reason=link.lost)
