"""A node's whole trade in chunks: its sessions, its swarms, its uplink. The one object that programs hold.

``run`` is the sending side and must be running while sessions are open. What the node holds it learns from
``Holdings``, which the program implements; what the program wants it says by ``fetch``.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import structlog
import trio

from exchange.budget import Budget
from exchange.buffers import BufferPool
from exchange.courtesy import LOOK_SECONDS, Courtesy, Look
from exchange.flow import Flow
from exchange.lines import Lines
from exchange.seeding import Seeding, Turn
from exchange.session import Session
from exchange.spool import Spool
from exchange.strikes import Strikes
from exchange.swarm import OnVerified, Swarm
from exchange.uplink import Purpose, Wanted
from protocol.bitmap import Bitmap
from protocol.errors import LinkLost
from protocol.ids import NodeId, Tag
from protocol.limits import MIB
from protocol.manifest import Layout, Manifest
from protocol.messages import Ask
from runtime.link import Link
from runtime.seam import Line, Runtime

log = structlog.get_logger()

# Caps may change while something waits for them.
LEAVE_SECONDS_MAX = 0.5

# Blocks that have arrived and are not written yet, and blocks that are read and not sent yet: both bound memory,
# however many links there are.
RECEIVING_BYTES_MAX = 32 * MIB
SENDING_BYTES_MAX = 16 * MIB
# How often swarms look for stalled sources, and give idle ones another chance in the tail.
TICK_SECONDS = 0.1
# So long after a block a link counts as one that carries such blocks.
HELPING_SECONDS = 1.0
PACE_SHARE = 1.06


@dataclass(frozen=True, slots=True)
class Held:
    """What this node holds of a tag. ``own``: our user put or shares it, else we only help."""

    layout: Layout
    bitmap: Bitmap
    own: bool


class Holdings(Protocol):
    """What this node can serve; implemented by each program."""

    def holding(self, tag: Tag) -> Held | None:
        """Return what is held of ``tag``: only what is verified and, on a storage node, durable."""
        ...

    async def manifest(self, tag: Tag) -> Manifest | None:
        """Return the manifest of a tag that is held."""
        ...

    async def read_block(self, tag: Tag, chunk: int, offset: int, target: memoryview) -> None:
        """Fill ``target``.

        Raises:
            ChunkMissing: it is not held any more.
            StorageUnavailable: it is held, and cannot be read now.
        """
        ...


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """Bytes since the start. ``wasted``: received and of no use."""

    sent_own_bytes: int
    sent_help_bytes: int
    received_bytes: int
    wasted_bytes: int
    sessions: int
    swarms: int
    paused: bool


class Engine:
    """See the module. Budgets are bytes per second; None is no cap, 0 lets nothing pass. ``wide``: our line is wider
    than those of who fetches from us, so that nobody waits for what another one had from us already, unless hardly more
    leaves us than what comes."""

    def __init__(
        self,
        runtime: Runtime,
        holdings: Holdings,
        *,
        up_bytes_per_second: float | None = None,
        help_bytes_per_second: float | None = None,
        wide: bool = False,
    ) -> None:
        self.runtime = runtime
        self.holdings = holdings
        self.paused = False
        self.strikes = Strikes()
        self.uplink = Lines(runtime.clock.monotonic())
        self._help: float | None = None
        self._wide = wide
        self._apart = False
        self._courtesy: Courtesy | None = None
        self._courteous = trio.Event()
        self.seeding = Seeding(runtime.random)
        self.receiving = BufferPool(RECEIVING_BYTES_MAX)
        self.sending = BufferPool(SENDING_BYTES_MAX)
        self.received_bytes = 0
        self._arriving = Flow(runtime.clock.monotonic())
        self.wasted_bytes = 0
        self._down = Budget(None, runtime.clock.monotonic())
        self._own_at: dict[int, float] = {}  # when a link last asked for, or was sent, something of our user's
        self._helped_at: dict[int, float] = {}  # or something else
        self._sent_bytes = {Purpose.OWN: 0, Purpose.HELP: 0}
        self._sessions: dict[int, Session] = {}
        self._swarms: dict[Tag, Swarm] = {}
        self._numbers = 0
        self._wake = trio.Event()
        self._fetching = trio.Event()
        self._nursery: trio.Nursery | None = None
        self.set_budgets(up=up_bytes_per_second, help=help_bytes_per_second)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hand out the uplink until cancelled."""
        async with trio.open_nursery() as sending:
            self._nursery = sending
            sending.start_soon(self._look_at_the_line, name="look at the line")
            sending.start_soon(self._tick, name="tick")
            task_status.started()
            try:
                while True:
                    self._wake = trio.Event()
                    while (grant := self.uplink.next_grant(self.now())) is not None:
                        self._sessions[grant.link].grant(grant.wanted)
                    wait_seconds = self.uplink.wait_seconds(self.now())
                    # A wait of no time at all would not let anybody else run.
                    with trio.move_on_after(max(wait_seconds, 0.001)):
                        await self._wake.wait()
            finally:
                self._nursery = None

    def set_budgets(
        self,
        *,
        up: float | None,
        help: float | None,
        down: float | None = None,
        apart: bool = False,
        idle: bool = False,
    ) -> None:
        """Use other caps from now on. ``down`` caps what we request, and with it what comes. ``apart``: they are for
        the line only, not for the LAN. ``idle``: help only as far as nobody else on it notices (courtesy.py)."""
        self._help = help
        self._apart = apart
        if not idle:
            self._courtesy = None
            for session in self._sessions.values():
                if session.link.line is not None:
                    session.link.line.pace(None)
        elif self._courtesy is None:
            self._courtesy = Courtesy(self.now())
            self._courteous.set()
            self._courteous = trio.Event()
        self.uplink.change(self.now(), up, self._help_cap(), apart=apart)
        self._down.change(down, self.now())
        self._wake.set()

    def _help_cap(self) -> float | None:
        if self._courtesy is None:
            return self._help
        return self._courtesy.rate if self._help is None else min(self._help, self._courtesy.rate)

    async def _look_at_the_line(self) -> None:
        """Keep help out of the way of whoever else is on the line, as long as that is wanted."""
        while True:
            if self._courtesy is None:
                await self._courteous.wait()
            await trio.sleep(LOOK_SECONDS)
            courtesy = self._courtesy
            if courtesy is None:
                continue
            looks: dict[int, Look] = {}
            lines: dict[int, Line] = {}
            for number, session in self._sessions.items():
                line = session.link.line
                if line is None or self.uplink.is_near(number):
                    continue
                state = line.look()
                if state is not None:
                    lines[number] = line
                    looks[number] = Look(
                        state.round_trip_seconds, state.base_seconds, state.acked_bytes, state.lost_segments
                    )
            now = self.now()
            courtesy.look(now, looks)
            helping = [number for number in lines if now - self._helped_at.get(number, -math.inf) < HELPING_SECONDS]
            for number, line in lines.items():
                # The kernel spreads what we give it in whole blocks. Frames and records come on top. Also while nothing
                # leaves: the next block would go in one piece, and be the queue that it should not make.
                own = now - self._own_at.get(number, -math.inf) < HELPING_SECONDS
                line.pace(None if own else courtesy.rate * PACE_SHARE / max(1, len(helping)))
            self.uplink.ease(now, self._help_cap())
            self._wake.set()

    async def _tick(self) -> None:
        """Let all swarms that run look after what they wait for: one task for all, since a thousand small files are a
        thousand swarms."""
        while True:
            if not any(swarm.running for swarm in self._swarms.values()):
                self._fetching = trio.Event()
                await self._fetching.wait()
            await trio.sleep(TICK_SECONDS)
            for swarm in list(self._swarms.values()):
                swarm.tick()

    def set_paused(self, paused: bool) -> None:
        """Serve nothing and request nothing while paused."""
        self.paused = self.uplink.paused = paused
        self._wake.set()

    @asynccontextmanager
    async def session(self, link: Link, *, near: bool = False) -> AsyncIterator[Session]:
        """Open the exchange over ``link`` while the block lasts. ``near``: it leads to a node on the LAN.

        Raises:
            LinkLost: the engine is not running (any more).
        """
        if self._nursery is None:
            raise LinkLost("we are stopping")
        self._numbers += 1
        session = Session(self, link, self._numbers)
        self._sessions[session.number] = session
        self.uplink.place(session.number, near=near)
        self._nursery.start_soon(session.run, name=f"send to {link.peer.node[:8]}")
        try:
            yield session
        finally:
            del self._sessions[session.number]
            session.stop()
            self.uplink.drop(session.number, self.now())
            self._own_at.pop(session.number, None)
            self._helped_at.pop(session.number, None)
            self.seeding.drop(session.number)
            for swarm in list(self._swarms.values()):
                swarm.detach(session.number)
                swarm.end_lending(session.number)

    def sessions_with(self, node: NodeId) -> list[Session]:
        """Return the sessions over links to ``node``."""
        return [session for session in self._sessions.values() if session.link.peer.node == node]

    def session_of(self, link: Link) -> Session:
        """Return the session over ``link``. Raises ``LinkLost`` when it has ended."""
        for session in self._sessions.values():
            if session.link is link:
                return session
        raise LinkLost(f"{link.remote} is gone")

    async def request_manifest(self, link: Link, tag: Tag) -> Manifest:
        """Return the manifest of ``tag`` as the other side of ``link`` knows it.

        Raises:
            NotFound, IntegrityError, LinkLost: they do not; they lie; they are gone.
        """
        return await self.session_of(link).need_manifest(tag)

    def ask(self, link: Link, tag: Tag) -> None:
        """Ask what they have of ``tag``; their offer attaches to our swarm of it."""
        link.post(Ask(tag=tag))

    def lend(self, link: Link, tag: Tag) -> None:
        """``link`` lends its line to our fetch of ``tag``, if there is one: it is told what to fetch for us."""
        swarm = self._swarms.get(tag)
        if swarm is not None:
            swarm.lend(self.session_of(link))

    def offer(self, link: Link, tag: Tag) -> None:
        """Offer what we hold of ``tag``, and tell them of more as it comes."""
        self.session_of(link).offer(tag)

    def is_offered(self, node: NodeId, tag: Tag) -> bool:
        """Whether ``node`` has an offer of ``tag`` from us that it has not declared complete."""
        return any(tag in session.offered and session.link.alive for session in self.sessions_with(node))

    def gained(self, tag: Tag, chunks: Iterable[int]) -> None:
        """We hold more chunks."""
        chunks = tuple(chunks)
        for session in list(self._sessions.values()):
            session.tell_have(tag, chunks)

    def lost(self, tag: Tag) -> None:
        """We hold nothing of ``tag`` any more."""
        for session in list(self._sessions.values()):
            session.tell_lost(tag)

    def fetch(self, manifest: Manifest, spool: Spool, held: Bitmap, on_verified: OnVerified) -> Swarm:
        """Return the swarm that will fetch what ``held`` lacks; one for each tag at a time. Call its ``run``."""
        assert manifest.tag not in self._swarms
        swarm = Swarm(self, manifest, spool, held, on_verified)
        self._swarms[manifest.tag] = swarm
        for session in self._sessions.values():
            offer = session.remembered_offer(manifest.tag)
            if offer is not None:
                swarm.attach(session, *offer)
        return swarm

    def statistics(self) -> EngineStatistics:
        """Return a snapshot."""
        return EngineStatistics(
            sent_own_bytes=self._sent_bytes[Purpose.OWN],
            sent_help_bytes=self._sent_bytes[Purpose.HELP],
            received_bytes=self.received_bytes,
            wasted_bytes=self.wasted_bytes + sum(swarm.wasted_bytes for swarm in self._swarms.values()),
            sessions=len(self._sessions),
            swarms=len(self._swarms),
            paused=self.paused,
        )

    # --- called by sessions and swarms ---

    def swarm_of(self, tag: Tag) -> Swarm | None:
        """Return the swarm that fetches ``tag``."""
        return self._swarms.get(tag)

    def unregister(self, swarm: Swarm) -> None:
        """The swarm was closed."""
        if self._swarms.get(swarm.tag) is swarm:
            del self._swarms[swarm.tag]
            self.wasted_bytes += swarm.wasted_bytes

    def swarm_runs(self) -> None:
        """A swarm has begun to fetch: it needs its ticks."""
        self._fetching.set()

    def may_request(self, link: int) -> bool:
        """Whether blocks may be requested over ``link`` now; swarms look again at their next tick."""
        return not self.paused and (self._is_exempt(link) or self._down.wait_seconds(self.now()) == 0.0)

    def requested(self, link: int, size_bytes: int) -> None:
        """A block was requested over ``link``."""
        if not self._is_exempt(link):
            self._down.spend(size_bytes, self.now())

    def received(self, size_bytes: int) -> None:
        """The bytes of a block have come, of use or not."""
        self.received_bytes += size_bytes
        self._arriving.left(size_bytes, self.now())

    def is_near_and_free(self, link: int) -> bool:
        """Whether ``link`` leads to a node on our LAN, and no cap holds what comes from there."""
        return self.uplink.is_near(link) and (self._apart or self._down.bytes_per_second is None)

    def _is_exempt(self, link: int) -> bool:
        return self._apart and self.uplink.is_near(link)

    def enqueue(self, session: Session, wanted: Wanted, purpose: Purpose) -> Turn | None:
        """They want a block: return its turn; ``ELSEWHERE``: it is not queued. None: they have asked for it already,
        and it is not sent yet."""
        self._wake.set()
        now = self.now()
        apart = self._wide or self.uplink.is_near(session.number)
        rate, idle, full = self.uplink.rate(now), self.uplink.is_idle(now), self.uplink.is_full(now)
        turn = self.seeding.asked(
            session.number, wanted.tag, wanted.chunk, now, rate=rate, idle=idle, full=full, apart=apart
        )
        if turn is Turn.ELSEWHERE:
            return turn
        (self._own_at if purpose is Purpose.OWN else self._helped_at)[session.number] = now
        again = turn is Turn.AGAIN and not (self._wide and self.uplink.outruns(self._arriving.rate(now), now))
        return turn if self.uplink.add(session.number, wanted, purpose, again=again) else None

    def sent(self, session: Session, wanted: Wanted, size_bytes: int) -> None:
        """A granted block has left, or could not be sent (0 bytes)."""
        held = self.holdings.holding(wanted.tag)
        own = held is not None and held.own
        self._sent_bytes[Purpose.OWN if own else Purpose.HELP] += size_bytes
        (self._own_at if own else self._helped_at)[session.number] = self.now()
        self.uplink.sent(session.number, wanted, size_bytes if held is not None else 0, self.now())
        if size_bytes and held is not None:
            now = self.now()
            rate = self.uplink.rate(now)
            self.seeding.sent(session.number, wanted.tag, wanted.chunk, size_bytes, held.layout, now, rate=rate)
        self._wake.set()

    async def leave(self, tag: Tag, size_bytes: int) -> None:
        """Wait until so many bytes of ``tag`` may leave another way than over a link; they count as sent."""
        held = self.holdings.holding(tag)
        purpose = Purpose.OWN if held is not None and held.own else Purpose.HELP
        while True:
            seconds = self.uplink.room_seconds(purpose, self.now())
            if seconds <= 0:
                break
            # The caps may change in the meantime.
            await trio.sleep(min(seconds, LEAVE_SECONDS_MAX))
        self.uplink.spend(purpose, size_bytes, self.now())
        self._sent_bytes[purpose] += size_bytes

    def completed(self, session: Session, tag: Tag) -> None:
        """They need nothing more of ``tag``."""
        self.seeding.leave(session.number, tag)
        log.debug("complete there", tag=str(tag), node=session.link.peer.node)

    def strike(self, node: NodeId) -> None:
        """``node`` alone made a wrong chunk."""
        shut_out = self.strikes.strike(node, self.now())
        log.warning("struck", node=node, shut_out=shut_out)
        if shut_out:
            for swarm in list(self._swarms.values()):
                swarm.shut_out(node)

    def now(self) -> float:
        """Return the clock that everything pure is given."""
        return self.runtime.clock.monotonic()
