"""Daemons in memory: real daemons, a real storage node, real files and databases; a network of pipes, a toy tracker.

``World`` is the folder, the swarm and the wire. ``ToyTracker`` knows who holds what from inventories and tells holders
of open jobs, as the real one does, in the plainest way; tests bend its answers. ``ToyStorage`` says what a test tells
it to say.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import trio

from daemon.app import Daemon, opened
from daemon.commands import methods_of
from daemon.config import DaemonConfig
from protocol import messages as m
from protocol.ids import NodeAddress, NodeId, Role, Tag
from runtime.keyring import Keyring, save_keyring
from runtime.link import Link
from runtime.links import Links
from runtime.places import Places
from support.memory_discovery import MemoryLan
from support.runtimes import memory_runtime
from support.storage_node import STORAGE_HOST, Site
from support.swarm import SwarmCa

TRACKER_HOST = "10.0.0.99"
TRACKER_PORT = 4100
SECONDS_MAX = 120.0  # of the test's clock


async def call(daemon: Daemon, method: str, **params: Any) -> Any:
    """Return what a command of ``daemon`` answers; what it tells meanwhile is not heard."""

    async def notify(_method: str, _params: dict[str, Any]) -> None:
        return None

    return await methods_of(daemon)[method](params, notify)


class World:
    """See the module."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder = folder
        self.site = Site(folder / "s", seed)
        self.hub = self.site.hub
        self.swarm: SwarmCa = self.site.swarm
        self.tracker = ToyTracker(self)
        self.lan: MemoryLan | None = None
        self._starts = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the tracker and the storage node, which takes every put, while the block lasts."""
        async with self.tracker.running(), self.site.storage() as storage:
            self.tracker.assigned = self.site.address
            with trio.fail_after(SECONDS_MAX):
                await storage.tracker_link.wait_connected()
            yield

    @asynccontextmanager
    async def daemon(self, name: str = "anna", **settings: Any) -> AsyncIterator[Daemon]:
        """Run the daemon called ``name`` while the block lasts; then it is stopped. Its state stays."""
        self._starts += 1
        number = sum(name.encode()) % 250 + 1
        host = f"10.2.0.{number}"
        runtime = memory_runtime(self.hub.host(host), seed=self._starts, name=name)
        places = Places.of(self.folder / name, "daemon")
        if not places.identity.exists():
            tracker = NodeAddress(self.swarm.node("tracker"), Role.TRACKER, (f"{TRACKER_HOST}:{TRACKER_PORT}",))
            await save_keyring(runtime, Keyring(places.identity, self.swarm.credentials(name), tracker))
        config = DaemonConfig(places=places, listen=f"{host}:0", name=name, mdns=False, **settings)
        discovery = self.lan.discovery() if self.lan is not None else None
        networks = (ip_network("10.2.0.0/24"),)
        async with opened(config, runtime, discovery, lambda: networks) as daemon, trio.open_nursery() as nursery:
            await nursery.start(daemon.run)
            yield daemon
            nursery.cancel_scope.cancel()

    def node(self, name: str) -> NodeId:
        return self.swarm.node(name)

    def file(self, name: str, data: bytes) -> Path:
        path = self.folder / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path


class ToyTracker:
    """Knows what it was told; ``assigned`` takes what nobody has."""

    def __init__(self, world: World) -> None:
        self.held: dict[NodeId, dict[Tag, m.Holding]] = {}
        self.jobs: dict[Tag, m.JobUpdate] = {}
        self.beats: dict[NodeId, m.Heartbeat] = {}
        self.assigned: NodeAddress | None = None
        self.asked: list[m.Where] = []
        self.answer_where: Callable[[m.Where], m.Message | None] = lambda where: None
        self.silent_about_orders = False
        self._world = world
        self._links: Links | None = None
        self._news = trio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ToyTracker]:
        """Run while the block lasts. It begins with an empty mind."""
        self.held, self.jobs, self.beats = {}, {}, {}
        runtime = memory_runtime(self._world.hub.host(TRACKER_HOST), name="tracker")
        credentials = self._world.swarm.credentials("tracker", Role.TRACKER)
        self._links = Links(runtime, credentials, name="tracker", serve=self._serve)
        listener = await runtime.network.listen(TRACKER_HOST, TRACKER_PORT)
        async with trio.open_nursery() as nursery:
            await nursery.start(self._links.run, (listener,))
            yield self
            nursery.cancel_scope.cancel()

    def order_relay(self, node: NodeId, tag: Tag, target: NodeAddress, *sources: NodeId) -> None:
        assert self._links is not None
        link = self._links.to(node)
        assert link is not None
        link.post(m.RelayOrder(tag=tag, target=target, sources=sources, lifetime_seconds=90))

    def order(self, node: NodeId, tag: Tag, target: NodeAddress, lifetime_seconds: int = 90) -> None:
        assert self._links is not None
        link = self._links.to(node)
        assert link is not None
        link.post(m.Order(tag=tag, target=target, lifetime_seconds=lifetime_seconds))

    async def wait(self, what: Callable[[], bool]) -> None:
        """Wait until ``what`` holds; looked at whenever something was said."""
        with trio.fail_after(SECONDS_MAX):
            while not what():
                await self._news.wait()

    def holds(self, name: str, tag: Tag) -> bool:
        return tag in self.held.get(self._world.node(name), {})

    async def _serve(self, link: Link) -> None:
        node = link.peer.node
        self.held[node] = {}
        first = True
        try:
            async for message in link.messages():
                match message:
                    case m.Heartbeat():
                        self.beats[node] = message
                        link.post(
                            m.HeartbeatAnswer(number=message.number, interval_milliseconds=5000, inventory_wanted=first)
                        )
                        first = False
                    case m.Inventory():
                        if message.full:
                            self.held[node] = {}
                        self.held[node].update({holding.tag: holding for holding in message.held})
                        for tag in message.dropped:
                            self.held[node].pop(tag, None)
                        self._order_holders()
                    case m.JobUpdate():
                        if message.state in (m.JobState.OPEN, m.JobState.COMMITTING):
                            self.jobs[message.tag] = message
                        else:
                            self.jobs.pop(message.tag, None)
                        self._order_holders()
                    case m.Where():
                        self.asked.append(message)
                        link.post(self.answer_where(message) or self._where(message))
                    case m.ListNodes():
                        link.post(m.NodesAnswer(request=message.request, nodes=()))
                    case m.ListTags():
                        link.post(m.TagsAnswer(request=message.request, tags=()))
                    case _:
                        pass
                self._news.set()
                self._news = trio.Event()
        finally:
            self.held.pop(node, None)

    def _order_holders(self) -> None:
        if self.silent_about_orders or self._links is None:
            return
        for tag in self.jobs:
            for node, held in self.held.items():
                link = self._links.to(node)
                if tag in held and link is not None and link.peer.role is Role.PEER:
                    link.post(m.Order(tag=tag, target=self._world.site.address, lifetime_seconds=90))

    def _where(self, where: m.Where) -> m.Message:
        assert self._links is not None
        found = [
            (node, holding)
            for node, held in self.held.items()
            for holding in held.values()
            if holding.tag == where.tag or (where.name is not None and where.name in holding.names)
        ]
        tag = where.tag or max(found, key=lambda pair: pair[1].since, default=(None, None))[1]
        tag = tag.tag if isinstance(tag, m.Holding) else tag
        if tag is None or (not found and not where.to_put):
            return m.Failure(request=where.request, code="not-found", reason="nobody has it")
        storage = self._world.node("storage")
        state = m.Whereabouts.NONE
        if tag in self.jobs:
            state = m.Whereabouts.OPEN
        elif any(node == storage for node, holding in found if holding.tag == tag):
            state = m.Whereabouts.STORED
        elif self.assigned is not None:
            state = m.Whereabouts.ASSIGNED
        holders = []
        for node, holding in found:
            link = self._links.to(node)
            if link is not None and node != storage and holding.tag == tag:
                holders.append(NodeAddress(node, link.peer.role, link.hello.addresses))
        names = [name for _, holding in found for name in holding.names]
        size = next((holding.size_bytes for _, holding in found if holding.tag == tag), where.size_bytes)
        address = self.assigned if state is m.Whereabouts.ASSIGNED else self._world.site.address
        return m.WhereAnswer(
            request=where.request,
            tag=tag,
            size_bytes=size,
            name=where.name or (names[0] if names else ""),
            state=state,
            storage=None if state is m.Whereabouts.NONE else address,
            holders=tuple(holders),
        )


class ToyStorage:
    """A node that is let in as ``role`` and answers each message by ``script``; it remembers what it heard."""

    def __init__(
        self,
        world: World,
        script: Callable[[Link, m.Message], Awaitable[None]],
        *,
        name: str = "storage",
        role: Role = Role.STORAGE,
        host: str = STORAGE_HOST,
    ) -> None:
        self.heard: list[m.Message] = []
        self.links_seen = 0
        self._world = world
        self._script = script
        self._name = name
        self._role = role
        self._host = host
        self.address = NodeAddress(world.node(name), role, ())

    @asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator[ToyStorage]:
        runtime = memory_runtime(self._world.hub.host(self._host), name=self._name)
        links = Links(
            runtime, self._world.swarm.credentials(self._name, self._role), name=self._name, serve=self._serve
        )
        listener = await runtime.network.listen(self._host, port)
        self.address = NodeAddress(self._world.node(self._name), self._role, (listener.address,))
        async with trio.open_nursery() as nursery:
            await nursery.start(links.run, (listener,))
            yield self
            nursery.cancel_scope.cancel()

    async def _serve(self, link: Link) -> None:
        self.links_seen += 1
        async for message in link.messages():
            self.heard.append(message)
            await self._script(link, message)
            if isinstance(message, m.Block):
                await link.receive_raw(memoryview(bytearray(message.length)))

    def said(self, kind: type[m.Message]) -> list[Any]:
        return [message for message in self.heard if isinstance(message, kind)]
