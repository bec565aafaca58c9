"""A whole crowd in virtual time: storage, an uploader, downloaders and relays, each with the production Picker, Uplink
and Seeding, on lines of given rates and latencies. Pure: no bytes, no programs; same arguments, same result.

What engine.py, session.py and swarm.py do with these is done here in the same order. Blocks are always right. Every
node has a line to the internet, and a port of its LAN if it is on one; what is between two, crowd_lines.py says.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from exchange.assembly import Assembly
from exchange.book import Withdrawal
from exchange.flow import Flow
from exchange.picker import Pick, Picker
from exchange.seeding import Seeding, Turn
from exchange.uplink import Purpose, Uplink, Wanted
from protocol.bitmap import Bitmap
from protocol.ids import NodeId, Tag
from protocol.manifest import Layout
from support.crowd_lines import Intake, Line, Way

TICK_SECONDS = 0.1  # as engine.py
SECONDS_MAX = 10_000.0
# A downloader has so many others to fetch from, beside uploader and storage (the tracker names no more at once).
NEIGHBOURS = 8


@dataclass(frozen=True)
class Member:
    """``up``, ``down``: bytes per second, None: as many as come. ``lan``: the same of its port there, None: it is on
    none. ``wants``: it downloads; ``lends``: it relays; ``has``: it holds the file from the beginning."""

    up: float
    latency_seconds: float = 0.03
    down: float | None = None
    lan: float | None = None
    wants: bool = False
    lends: bool = False
    has: bool = False


@dataclass
class CrowdOutcome:
    """Seconds from the beginning; bytes of blocks. ``free_seconds``: when every chunk was somewhere else too."""

    stored_seconds: float
    all_seconds: float
    free_seconds: float
    uploader_to_storage_bytes: int
    uploader_to_peers_bytes: int
    wasted_bytes: int  # at storage
    wasted_elsewhere_bytes: int


@dataclass
class _Link:
    """One direction: ``sender`` may be asked by ``receiver``."""

    number: int
    sender: _Node
    receiver: _Node
    local: bool
    forth: Way  # from the sender
    back: Way


class _Node:
    """Both halves of a node: who asks, and who is asked."""

    def __init__(self, world: CrowdWorld, name: str, member: Member, *, storage: bool = False) -> None:
        self.world = world
        self.name = name
        self.member = member
        self.storage = storage
        self.gone = False
        chunks = world.layout.chunks
        self.held = Bitmap.full(chunks) if member.has else Bitmap(chunks)
        wanted = Bitmap.full(chunks) if storage or member.wants else Bitmap(chunks)
        rng = random.Random(f"{world.seed}/{name}")
        self.assembly = Assembly(world.layout)
        self.picker = Picker(world.layout, self.assembly, wanted, rng)
        self.uplink = Uplink(0.0, None, None)
        self.arriving = Flow(0.0)
        self.seeding = Seeding(rng)
        self.line = Line(world, member.up, world.sparse_bytes)
        self.port = Line(world, member.lan) if member.lan is not None else None
        self.intake = Intake(world, member.down)
        self.incoming: dict[int, _Link] = {}  # we may ask these
        self.outgoing: dict[int, _Link] = {}  # these may ask us
        self.sent_to_storage_bytes = 0
        self.sent_to_peers_bytes = 0
        self.wasted_bytes = 0
        self.complete_at: float | None = 0.0 if member.has else None
        self._early: dict[int, Sequence[int]] = {}
        self._wake_at = float("inf")

    @property
    def receives(self) -> bool:
        return self.storage or self.member.wants or self.member.lends

    # --- who is asked ---

    def offer(self, link: _Link) -> None:
        self.outgoing[link.number] = link
        origin = self.held.complete
        if link.receiver.member.lends:
            self.seeding.relays(link.number, self.world.tag, self.world.now, origin=origin)
            if link.local:
                self.uplink.in_turn(link.number)
        self.seeding.join(link.number, self.world.tag, self.world.now, storage=link.receiver.storage, origin=origin)
        self._suggest(link)
        link.forth.say(link.receiver.offered, link, self.held.copy())

    def _suggest(self, link: _Link) -> None:
        chunks = self.seeding.suggestions(link.number, self.world.tag, self.held, self.world.now)
        if chunks:
            link.forth.say(link.receiver.suggested, link, chunks)

    def requested(self, link: _Link, pick: Pick) -> None:
        if self.gone:
            return
        if pick.chunk not in self.held:
            link.forth.say(link.receiver.rejected, link, pick.chunk, pick.offset, True)
            return
        now, rate = self.world.now, self.uplink.rate(self.world.now)
        idle, full, apart = self.uplink.is_idle(now), self.uplink.is_full(now), self.storage or link.local
        turn = self.seeding.asked(
            link.number, self.world.tag, pick.chunk, now, rate=rate, idle=idle, full=full, apart=apart
        )
        again = turn is Turn.AGAIN and not (self.storage and self.uplink.outruns(self.arriving.rate(now), now))
        wanted = Wanted(self.world.tag, pick.chunk, pick.offset, pick.length)
        if turn is Turn.ELSEWHERE:
            link.forth.say(link.receiver.rejected, link, wanted.chunk, wanted.offset, False)
        else:
            assert self.uplink.add(link.number, wanted, Purpose.OWN, again=again)
        self._suggest(link)
        self.pump_uplink()

    def cancelled(self, link: _Link, withdrawal: Withdrawal) -> None:
        wanted = self.uplink.cancel(link.number, self.world.tag, withdrawal.chunk, withdrawal.offset)
        if wanted is not None:
            link.forth.say(link.receiver.rejected, link, wanted.chunk, wanted.offset, False)

    def completed(self, link: _Link) -> None:
        for wanted in self.uplink.forget(link.number, self.world.tag):
            link.forth.say(link.receiver.rejected, link, wanted.chunk, wanted.offset, False)
        self.seeding.leave(link.number, self.world.tag)
        self.outgoing.pop(link.number, None)
        self.pump_uplink()

    def pump_uplink(self) -> None:
        if self.gone:
            return
        now = self.world.now
        while (grant := self.uplink.next_grant(now)) is not None:
            link = self.world.links[grant.link]
            there = link.receiver.block, (link, grant.wanted)
            link.forth.send(grant.wanted.length, (self.sent, (grant.link, grant.wanted)), there)
        seconds = self.uplink.wait_seconds(now)
        if seconds < float("inf") and not now < self._wake_at <= now + seconds:
            self._wake_at = now + max(seconds, 0.001)
            self.world.after(max(seconds, 0.001), self.pump_uplink)

    def sent(self, number: int, wanted: Wanted) -> None:
        if self.gone:
            return
        link = self.world.links[number]
        if link.receiver.storage:
            self.sent_to_storage_bytes += wanted.length
        else:
            self.sent_to_peers_bytes += wanted.length
        self.uplink.sent(number, self.world.now)
        self.uplink.flowed(wanted.length, self.world.now)
        now, rate = self.world.now, self.uplink.rate(self.world.now)
        self.seeding.sent(number, self.world.tag, wanted.chunk, wanted.length, self.world.layout, now, rate=rate)
        self.pump_uplink()

    # --- who asks ---

    def offered(self, link: _Link, have: Bitmap) -> None:
        if self.gone or link.sender.gone or self.complete_at is not None:
            return
        self.incoming[link.number] = link
        self.picker.add_source(link.number, NodeId(link.sender.name), have, self.world.now)
        self.picker.suggest(link.number, self._early.pop(link.number, ()))
        if self.storage and link.sender.member.lends:
            self.picker.lending.join(link.number)
            self._assign()
        self._request_from(link.number)

    def suggested(self, link: _Link, chunks: Sequence[int]) -> None:
        if link.number in self.incoming:
            self.picker.suggest(link.number, chunks)
        else:
            self._early[link.number] = chunks  # it comes before the offer it is about

    def told(self, link: _Link, chunk: int) -> None:
        if link.number in self.incoming:
            self.picker.add_have(link.number, (chunk,))
            if self.storage and link.sender.member.lends:
                self.picker.lending.offered(link.number, (chunk,), self.world.now)
                self._assign()
            self._request_from(link.number)

    def assigned(self, chunks: Sequence[int]) -> None:
        self.picker.want_again([chunk for chunk in chunks if chunk not in self.held])
        self._pump()

    def link_lost(self, link: _Link) -> None:
        if self.incoming.pop(link.number, None) is not None:
            self.picker.remove_source(link.number)
            self._pump()

    def block(self, link: _Link, wanted: Wanted) -> None:
        if self.gone or link.number not in self.incoming:
            self.wasted_bytes += wanted.length
            return
        now = self.world.now
        if not self.picker.accepts(link.number, wanted.chunk, wanted.offset, wanted.length):
            self.wasted_bytes += wanted.length
            self.picker.answered(link.number, wanted.chunk, wanted.offset, now, gone=False, came=True)
            self._pump()
            return
        self.arriving.left(wanted.length, now)
        whole, superfluous = self.picker.arrived(link.number, wanted.chunk, wanted.offset, now)
        self._cancel(superfluous)
        if whole:
            self._whole(wanted.chunk)
        if self.complete_at is None:
            self._request_from(link.number)

    def _whole(self, chunk: int) -> None:
        self.picker.verified(chunk)
        self.held.add(chunk)
        self.world.held_elsewhere(chunk)
        for link in self.outgoing.values():
            link.forth.say(link.receiver.told, link, chunk)
        if self.held.complete and self.complete_at is None:
            self.complete_at = self.world.now
            for link in self.incoming.values():
                link.back.say(link.sender.completed, link)
            self.incoming.clear()
            self.world.complete(self)

    def rejected(self, link: _Link, chunk: int, offset: int, gone: bool) -> None:
        if link.number in self.incoming:
            self.picker.answered(link.number, chunk, offset, self.world.now, gone=gone)
            self._pump()

    def tick(self) -> None:
        if self.complete_at is None and not self.gone:
            self._cancel(self.picker.stalled(self.world.now))
            self._assign()
            self._pump()
            self.world.after(TICK_SECONDS, self.tick)

    def _pump(self) -> None:
        for number in self.picker.sources():
            self._request_from(number)

    def _request_from(self, number: int) -> None:
        if self.gone:
            return
        link = self.incoming.get(number)
        if link is not None:
            for pick in self.picker.picks(number, self.world.now):
                link.back.say(link.sender.requested, link, pick)

    def _cancel(self, withdrawals: Iterable[Withdrawal]) -> None:
        for one in withdrawals:
            link = self.incoming.get(one.source)
            if link is not None:
                link.back.say(link.sender.cancelled, link, one)

    def _assign(self) -> None:
        if self.storage:
            for number, chunks in self.picker.assignments(self.world.now):
                link = self.incoming[number]
                link.back.say(link.sender.assigned, chunks)


class CrowdWorld:
    """``members[0]`` is the uploader. ``leave_when_free``: it vanishes once every chunk is elsewhere too;
    ``sparse_bytes``: see ``crowd_lines.Line``."""

    def __init__(
        self,
        size_bytes: int,
        members: Sequence[Member],
        *,
        storage_up: float = 125e6,
        storage_down: float | None = None,
        neighbours: int = NEIGHBOURS,
        leave_when_free: bool = False,
        sparse_bytes: int = 0,
        seed: int = 1,
    ) -> None:
        self.layout = Layout.of_size(size_bytes)
        self.tag = Tag(b"t" * 32, self.layout.chunks)
        self.seed = seed
        self.sparse_bytes = sparse_bytes
        self.now = 0.0
        self.links: dict[int, _Link] = {}
        self._ways: dict[tuple[str, str], Way] = {}
        self.storage = _Node(self, "storage", Member(storage_up, down=storage_down), storage=True)
        self.nodes = [_Node(self, f"node{place}", member) for place, member in enumerate(members)]
        self.uploader = self.nodes[0]
        self.free_at: float | None = None
        self._leave_when_free = leave_when_free
        self._missing_elsewhere = Bitmap.full(self.layout.chunks)
        self._rng = random.Random(f"{seed}/links")
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._happened = 0
        self._neighbours = neighbours
        self._incomplete = {node.name for node in (self.storage, *self.nodes) if node.storage or node.member.wants}
        for node in self.nodes[1:]:
            for chunk in node.held:
                self._missing_elsewhere.discard(chunk)

    def run(self) -> CrowdOutcome:
        """Run until storage and everybody who wants it is complete."""
        self._connect()
        for node in (self.storage, *self.nodes):
            if node.receives:
                self.after(TICK_SECONDS * self._rng.random(), node.tick)
        self._note_free()
        while self._incomplete:
            self.now, _, happen, arguments = heapq.heappop(self._events)
            assert self.now < SECONDS_MAX, f"not complete: {sorted(self._incomplete)[:10]}"
            happen(*arguments)
        whole = [node.complete_at for node in (self.storage, *self.nodes) if node.storage or node.member.wants]
        assert self.storage.complete_at is not None
        return CrowdOutcome(
            stored_seconds=self.storage.complete_at,
            all_seconds=max(at for at in whole if at is not None),
            free_seconds=self.free_at if self.free_at is not None else float("inf"),
            uploader_to_storage_bytes=self.uploader.sent_to_storage_bytes,
            uploader_to_peers_bytes=self.uploader.sent_to_peers_bytes,
            wasted_bytes=self.storage.wasted_bytes,
            wasted_elsewhere_bytes=sum(node.wasted_bytes for node in self.nodes),
        )

    def after(self, seconds: float, happen: Callable[..., None], *arguments: Any) -> None:
        """Let something happen; what is due at the same time happens in the order in which it was planned."""
        self._happened += 1
        heapq.heappush(self._events, (self.now + seconds, self._happened, happen, arguments))

    def held_elsewhere(self, chunk: int) -> None:
        """Somebody but the uploader has a chunk."""
        self._missing_elsewhere.discard(chunk)
        self._note_free()

    def complete(self, node: _Node) -> None:
        """A node has all."""
        self._incomplete.discard(node.name)

    def _note_free(self) -> None:
        if self.free_at is None and not self._missing_elsewhere:
            self.free_at = self.now
            if self._leave_when_free:
                self.uploader.gone = self.uploader.line.gone = True
                if self.uploader.port is not None:
                    self.uploader.port.gone = True
                for link in self.links.values():
                    if link.sender is self.uploader:
                        self.after(0.0, link.receiver.link_lost, link)

    def _connect(self) -> None:
        for node in self.nodes:
            self._link(node, self.storage)
        for place, node in enumerate(self.nodes):
            if not (node.member.wants or node.member.lends):
                continue
            self._link(self.uploader, node)
            if node.member.wants:
                self._link(self.storage, node)
            others = [other for other in self.nodes[1:] if other is not node and other.receives]
            for other in self._rng.sample(others, min(self._neighbours, len(others))):
                self._link(other, node)

    def _link(self, sender: _Node, receiver: _Node) -> None:
        number = len(self.links) + 1
        local = sender.port is not None and receiver.port is not None
        forth, back = self._way(sender, receiver), self._way(receiver, sender)
        link = self.links[number] = _Link(number, sender, receiver, local, forth, back)
        self.after(0.0, sender.offer, link)

    def _way(self, sender: _Node, receiver: _Node) -> Way:
        """Return the connection that all words and blocks from one to the other use."""
        known = self._ways.get((sender.name, receiver.name))
        if known is not None:
            return known
        latency = (sender.member.latency_seconds + receiver.member.latency_seconds) / 2
        way = Way(self, sender.line, receiver.intake, latency)
        if sender.port is not None and receiver.port is not None:
            way = Way(self, sender.port, None, 0.0005)
        self._ways[sender.name, receiver.name] = way
        return way
