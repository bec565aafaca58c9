"""A page over a real index and journal, told what a test says; no socket, no tracker process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2
import trio
from contract.index_contract import MIB, beat, holding, profile, said, update

from protocol.ids import NodeId, Role, Tag
from protocol.jobmap import ChunkState, code_of, encode_runs
from protocol.messages import JobMap, JobState, Pushed
from support.pairs import node, some_tag
from tracker.index.base import Patience
from tracker.index.memory import MemoryIndex
from tracker.journal import Journal
from tracker.page.guard import HostList
from tracker.page.routes import Page
from tracker.sight import Sight
from tracker.statistics import About, Traffic

FILM = some_tag("film", 8)
ADA, BERT, DISK = node("ada"), node("bert"), node("disk")
EVIL = "<script>alert(1)</script>\"'\u202egpj.exe\x1b[31m"
WALL = 1_800_000_000.0
STORED, COMING = ChunkState.STORED, ChunkState.ON_ITS_WAY


@dataclass
class StillClock:
    """Moves when it is told to."""

    seconds: float = 1000.0

    def monotonic(self) -> float:
        return self.seconds

    def wall(self) -> float:
        return WALL + self.seconds


@dataclass
class Nobody:
    """Access without links: what it adds for the page."""

    journal: Journal
    orders: dict[NodeId, tuple[tuple[Tag, NodeId], ...]] = field(default_factory=dict)

    def links_of(self, _node: NodeId) -> tuple[Any, ...]:
        return ()

    def orders_of(self, node: NodeId) -> tuple[tuple[Tag, NodeId], ...]:
        return self.orders.get(node, ())


@dataclass
class PageWorld:
    """Say things to it and look at its page."""

    name: str = "office"
    clock: StillClock = field(default_factory=StillClock)
    index: MemoryIndex = field(default_factory=lambda: MemoryIndex(Patience.of_interval(5.0)))

    def __post_init__(self) -> None:
        self.access = Nobody(Journal(self.clock.monotonic(), self.clock.wall()))
        self.journal = self.access.journal
        self.sight = Sight(self.clock, self.index, self.access, self.about, self.traffic)
        self.page = Page(self.sight, HostList.of(["tracker.example"], "office-pc", "127.0.0.1:4180"), self.clock)

    def about(self) -> About:
        return About(
            swarm="s" * 52,
            node="t" * 52,
            name=self.name,
            version="9.9",
            listen="0.0.0.0:4100",
            http="127.0.0.1:4180",
            addresses=("10.0.0.1:4100",),
            heartbeat_seconds=5.0,
        )

    def traffic(self) -> Traffic:
        return Traffic(links=3, heartbeats=7, inventories=2, questions=5, orders=4, joined=3, joins_refused=1)

    @property
    def now(self) -> float:
        return self.clock.seconds

    def passes(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.seconds += seconds

    async def arrives(self, who: NodeId, name: str, role: Role = Role.PEER, room_bytes: int = 0) -> None:
        """A node connects and beats."""
        entry = profile(who, role, name)
        await self.index.arrived(entry, self.now)
        await self.index.beat(entry, beat(room_bytes=room_bytes), self.now)
        self.journal.node("connected", who, self.clock.wall())

    async def holds(
        self, who: NodeId, tag: Tag = FILM, chunks: list[int] | None = None, name: str = "film.mkv"
    ) -> None:
        """A node says that it holds something."""
        await self.index.take(who, said(holding(tag, chunks, names=(name,), since=int(WALL))), self.now)

    async def told(
        self, *pushed: tuple[NodeId, int], tag: Tag = FILM, state: JobState = JobState.OPEN, **fields: Any
    ) -> None:
        """The storage node tells how the upload of ``tag`` stands: chunks by who pushed them."""
        shares = tuple(Pushed(node=who, bytes_pushed=count * MIB) for who, count in pushed)
        stored = sum(count for _, count in pushed)
        message = replace(
            update(tag, state, stored=stored), **{"pushed": shares, "uploaders": (ADA,), "name": "film.mkv", **fields}
        )
        await self.index.job(DISK, message, self.now)
        self.journal.job(DISK, message, self.now, self.clock.wall())

    def shows(self, *codes: int, senders: tuple[NodeId, ...] = (ADA, BERT), tag: Tag = FILM) -> None:
        """The storage node shows its chunk map."""
        self.journal.map(DISK, JobMap(tag=tag, senders=senders, runs=encode_runs(codes)))

    async def is_busy(self) -> None:
        """Two nodes push the film: three chunks and one, of eight; two are on their way."""
        await self.arrives(DISK, "cellar", Role.STORAGE, room_bytes=5 * 2**30)
        await self.arrives(ADA, "ada")
        await self.arrives(BERT, "bert")
        await self.holds(ADA)
        await self.holds(BERT, chunks=[0, 1, 2, 3])
        await self.holds(DISK, chunks=[0, 1, 2, 3])
        await self.told()
        self.passes(2)
        await self.told((ADA, 3), (BERT, 1))
        stored, coming = code_of(STORED, 1), code_of(COMING, 1)
        self.shows(stored, stored, stored, code_of(STORED, 2), coming, code_of(COMING, 2), 0, 0)
        self.access.orders[BERT] = ((FILM, DISK),)

    async def is_evil(self) -> None:
        """Everything that a node can write is an attack."""
        self.name = EVIL
        for who, role in ((DISK, Role.STORAGE), (ADA, Role.PEER), (BERT, Role.PEER)):
            await self.arrives(who, EVIL, role)
            await self.holds(who, name=EVIL)
            self.journal.node("disconnected", who, self.clock.wall(), EVIL)
        await self.told((ADA, 3), (BERT, 1), name=EVIL, reason=EVIL)
        await self.told((ADA, 3), tag=some_tag("other", 8), name=EVIL, reason=EVIL, state=JobState.FAILED)
        self.journal.ordered(BERT, FILM, DISK, self.clock.wall())
        self.access.orders[BERT] = ((FILM, DISK),)
        self.shows(*[code_of(STORED, 2)] * 8)

    @asynccontextmanager
    async def client(self, host: str = "127.0.0.1:4180") -> AsyncIterator[httpx2.AsyncClient]:
        """Look at it."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.page.run)
            async with httpx2.AsyncClient(
                transport=httpx2.ASGITransport(app=self.page.app), base_url=f"http://{host}"
            ) as client:
                yield client
            nursery.cancel_scope.cancel()


PATHS = ("/", f"/jobs/{FILM}", f"/nodes/{ADA}", f"/files/{FILM}", "/nodes", "/files")
