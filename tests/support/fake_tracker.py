"""A node with a link to its tracker, and a tracker that answers as docs/protocol.md says, or with a vice; in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from protocol import messages as m
from protocol.errors import StorageFull
from protocol.ids import NodeAddress, Role, Tag
from runtime.heartbeat import (
    BEAT_SECONDS,
    BeatStatus,
    TrackerLink,
)
from runtime.identity import Credentials
from runtime.inventory import InventoryBook
from runtime.link import Link
from runtime.links import Links
from support.memory_network import MemoryHub
from support.pairs import some_tag
from support.runtimes import TestClock, memory_runtime
from support.swarm import SwarmCa

PORT = 4100

TRACKER_HOST = "10.0.0.1"

DAY = 86400.0


@dataclass
class FakeTracker:
    """Answers as docs/protocol.md says; each vice can be switched on."""

    world: World
    interval_seconds: float = BEAT_SECONDS
    mute: bool = False
    answers: Callable[[m.Message], m.Message | None] = lambda message: None
    beats: list[tuple[float, m.Heartbeat]] = field(default_factory=list)
    inventories: list[tuple[float, m.Inventory]] = field(default_factory=list)
    others: list[m.Message] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    held: dict[Tag, m.Holding] = field(default_factory=dict)
    epoch: int = -1
    sequence: int = -1

    async def serve(self, link: Link) -> None:
        self.links.append(link)
        async for message in link.messages():
            if self.mute:
                continue
            if isinstance(message, m.Heartbeat):
                self.beats.append((trio.current_time(), message))
                wanted = (message.epoch, message.sequence) != (self.epoch, self.sequence)
                link.post(
                    m.HeartbeatAnswer(
                        number=message.number,
                        interval_milliseconds=int(self.interval_seconds * 1000),
                        inventory_wanted=wanted,
                    )
                )
            elif isinstance(message, m.Inventory):
                self.inventories.append((trio.current_time(), message))
                self.receive(message)
            else:
                self.others.append(message)
                answer = self.answers(message)
                if answer is not None:
                    link.post(answer)

    def receive(self, message: m.Inventory) -> None:
        if message.full:
            self.held = {}
        elif (message.epoch, message.sequence) != (self.epoch, self.sequence + 1):
            return
        self.epoch, self.sequence = message.epoch, message.sequence
        self.held.update({item.tag: item for item in message.held})
        for tag in message.dropped:
            self.held.pop(tag, None)

    def forget(self) -> None:
        self.epoch = self.sequence = -1
        self.held = {}

    def live(self) -> list[Link]:
        return [link for link in self.links if link.alive]


class World:
    """A tracker and a node of one swarm on a network in memory."""

    def __init__(self) -> None:
        self.clock = TestClock()
        self.ca = SwarmCa(now=self.clock.wall())
        self.hub = MemoryHub(1)
        self.tracker = FakeTracker(self)
        self.tracker_runtime = memory_runtime(self.hub.host(TRACKER_HOST), clock=self.clock, name="tracker")
        self.tracker_node = NodeAddress(self.ca.node("tracker"), Role.TRACKER, (f"{TRACKER_HOST}:{PORT}",))
        self.runtime = memory_runtime(self.hub.host("10.0.0.2"), clock=self.clock, name="node")
        self.links = Links(self.runtime, self.ca.credentials("node"), name="node", serve=self.serve)
        self.book = InventoryBook(epoch=self.runtime.random.getrandbits(52))
        self.status = BeatStatus(room_bytes=7, lend=True)
        self.heard: list[m.Message] = []
        self.connected_times: list[float] = []
        self.kept: list[Credentials] = []
        self.kept_addresses: list[NodeAddress] = []
        self.disk_full = False
        self.link = TrackerLink(
            self.runtime,
            self.links,
            (self.tracker_node,),
            lambda: self.status,
            self.book,
            self.heard.append,
            on_connected=lambda: self.connected_times.append(trio.current_time()),
            keep_credentials=self.keep,
            keep_trackers=self.keep_trackers,
        )
        self._tracker_scope: trio.CancelScope | None = None
        self.nursery: trio.Nursery

    async def serve(self, link: Link) -> None:
        assert link.peer.role is Role.TRACKER
        await self.link.serve(link)

    async def keep(self, credentials: Credentials) -> None:
        await trio.lowlevel.checkpoint()
        if self.disk_full:
            raise StorageFull("no room")
        self.kept.append(credentials)

    async def keep_trackers(self, trackers: tuple[NodeAddress, ...]) -> None:
        await trio.lowlevel.checkpoint()
        self.kept_addresses.append(trackers[0])

    async def start_tracker(self, port: int = PORT) -> None:
        scope = trio.CancelScope()

        async def run(task_status: trio.TaskStatus[None]) -> None:
            with scope:
                listener = await self.tracker_runtime.network.listen("0.0.0.0", port)
                credentials = self.ca.credentials("tracker", Role.TRACKER)
                links = Links(self.tracker_runtime, credentials, name="tracker", serve=self.tracker.serve)
                await links.run((listener,), task_status)

        await self.nursery.start(run)
        self._tracker_scope = scope

    async def stop_tracker(self, *, crash: bool = False) -> None:
        assert self._tracker_scope is not None
        if crash:
            self.hub.reset_all()
        self._tracker_scope.cancel()
        await trio.testing.wait_all_tasks_blocked()

    def hold(self, number: int, state: int = 0) -> None:
        tag = some_tag(str(number))
        self.book.hold(m.Holding(tag=tag, size_bytes=1, names=(), since=state, bitmap=b""))

    def agrees(self) -> bool:
        return self.tracker.held == {item.tag: item for item in self.book}


@asynccontextmanager
async def world(*, tracker: bool = True) -> AsyncIterator[World]:
    one = World()
    async with trio.open_nursery() as nursery:
        one.nursery = nursery
        if tracker:
            await one.start_tracker()
        await nursery.start(one.links.run, ())
        nursery.start_soon(one.link.run)
        yield one
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], object], seconds: float = 100.0) -> float:
    """Wait until ``condition()``; return how long it took. Virtual time."""
    begun = trio.current_time()
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(max(0.01, seconds / 5000))
    return trio.current_time() - begun
