"""What befalls a simulated crowd: nodes freeze with their links open, are killed and come back, lie about what they
have, or ask without end. And a watchman beside it, who says when the origin's line was idle although somebody waited.

The crowd itself, crowd_world.py, knows nothing of it. Everything is in virtual time; the same arguments give the same
story.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from exchange.assembly import CELL_BYTES, Assembly
from exchange.picker import Pick, Picker
from protocol.bitmap import Bitmap
from protocol.limits import SILENCE_SECONDS_MAX
from support.crowd_lines import QUEUE_SECONDS, Intake, Way
from support.crowd_world import TICK_SECONDS, CrowdWorld, Member, _Link, _Node

WATCH_SECONDS = 0.1
# How often somebody asks who asks without end.
ENDLESS_SECONDS = 0.02

_Happening = tuple[Callable[..., None], tuple[Any, ...]]


class _Door(Intake):
    """A node's line as others see it: while the node is frozen it takes nothing in."""

    def __init__(self, world: CrowdWorld, rate: float | None) -> None:
        super().__init__(world, rate)
        self.shut = False

    def ahead_seconds(self) -> float:
        """While it is shut: others look again after half a second."""
        return QUEUE_SECONDS + 0.5 if self.shut else super().ahead_seconds()


class TroubledCrowd(CrowdWorld):
    """``idle_seconds``: the longest time in which no block came from the origin to anybody although somebody waited for
    what only the origin could give. ``starved_seconds``: the longest time without a block, for each who lacked
    something that the origin has."""

    def __init__(self, size_bytes: int, members: Sequence[Member], **more: Any) -> None:
        super().__init__(size_bytes, members, **more)
        self.idle_seconds = 0.0
        self.starved_seconds: dict[str, float] = {}
        self._got_at: dict[str, float] = {}
        self._busy_at = 0.0
        self._frozen: dict[str, list[_Happening]] = {}
        self._liars: set[str] = set()
        self._stories = 0
        for node in (self.storage, *self.nodes):
            self._prepare(node)

    def live(self, seconds_max: float) -> dict[str, float]:
        """Run until everybody who is there and honest has all, and everything that was to befall them has; return who
        had all after how many seconds."""
        self._connect()
        for node in (self.storage, *self.nodes):
            if node.receives:
                self.after(TICK_SECONDS * self._rng.random(), node.tick)
        self.after(0.0, self._watch)
        while self._incomplete:
            self.now, _, happen, arguments = heapq.heappop(self._events)
            assert self.now < seconds_max, f"not complete after {seconds_max} s: {sorted(self._incomplete)}"
            happen(*arguments)
        everybody = (self.storage, *self.nodes)
        return {node.name: node.complete_at for node in everybody if node.receives and node.complete_at is not None}

    # --- what befalls them ---

    def at(self, seconds: float, deed: Callable[..., None], *arguments: Any) -> None:
        """Let something befall them so long after the beginning; the world does not end before."""
        self._stories += 1
        name = f"story {self._stories}"
        self._incomplete.add(name)

        def befall() -> None:
            self._incomplete.discard(name)
            deed(*arguments)

        self.after(seconds - self.now, befall)

    def node(self, name: str) -> _Node:
        """Return the node of this name, in its present life."""
        return next(node for node in (self.storage, *self.nodes) if node.name == name)

    def freeze(self, name: str) -> None:
        """A node neither hears nor says anything any more; its links stay until they have been silent for too long."""
        node = self.node(name)
        self._frozen[name] = []
        _door(node).shut = node.line.gone = True
        self._incomplete.discard(name)
        self.after(SILENCE_SECONDS_MAX, self._give_up, node, self._frozen[name])

    def thaw(self, name: str) -> None:
        """It goes on where it was, if its links are still there."""
        node = self.node(name)
        _door(node).shut = node.line.gone = False
        for happen, arguments in self._frozen.pop(name):
            self.after(0.0, happen, *arguments)
        self._wait_for(node)

    def kill(self, name: str) -> None:
        """A node's program ends, and everybody notices at once. What it has verified is on its disk."""
        node = self.node(name)
        node.gone = node.line.gone = True
        self._incomplete.discard(name)
        self._cut_all(node)

    def start(self, name: str) -> None:
        """Somebody who was killed is there again."""
        old = self.node(name)
        node = _Node(self, name, old.member, storage=old.storage)
        node.held = old.held.copy()
        missing = node.held.missing() if node.storage or node.member.wants else Bitmap(self.layout.chunks)
        node.assembly = Assembly(self.layout)
        node.picker = Picker(self.layout, node.assembly, missing, self._rng)
        node.complete_at = old.complete_at
        self._prepare(node)
        if node.storage:
            self.storage = node
        else:
            self.nodes[self.nodes.index(old)] = node
            self.uploader = self.nodes[0]
        for names in [names for names in self._ways if name in names]:
            del self._ways[names]
        self._join(node)
        self._wait_for(node)
        if node.receives:
            self.after(TICK_SECONDS * self._rng.random(), node.tick)

    def fill_up(self) -> None:
        """Storage has no room: it asks for nothing more, gives what it has, and keeps its links."""
        for link in self.storage.incoming.values():
            for request in self.storage.picker._sources[link.number].outstanding.values():
                link.back.say(link.sender.cancelled, link, _Place(request.chunk, request.offset))
        self.storage._request_from = lambda number: None  # type: ignore[method-assign]  # of this one node
        self._incomplete.discard("storage")

    def make_room(self) -> None:
        """Storage goes on."""
        del self.storage._request_from
        self._wait_for(self.storage)

    def lie(self, name: str) -> None:
        """Before it begins: a downloader says that it has all, and answers no request. Nobody waits for it."""
        node = self.node(name)
        self._liars.add(name)
        self._incomplete.discard(name)

        def offer(link: _Link) -> None:
            node.outgoing[link.number] = link
            link.forth.say(link.receiver.offered, link, Bitmap.full(self.layout.chunks))

        node.offer = offer  # type: ignore[method-assign]  # of this one node
        node.requested = lambda link, pick: None  # type: ignore[method-assign]  # of this one node

    def ask_without_end(self, name: str) -> None:
        """Before it begins: a downloader asks the origin for the same block again and again, whatever it is told."""
        node = self.node(name)
        self._incomplete.discard(name)
        asked: list[_Link] = []

        def ask() -> None:
            asked[0].back.say(asked[0].sender.requested, asked[0], Pick(asked[0].number, 0, 0, CELL_BYTES))

        def answered(*anything: object) -> None:
            self.after(ENDLESS_SECONDS, ask)

        def offered(link: _Link, have: Bitmap) -> None:
            if link.sender is self.uploader and not asked:
                asked.append(link)
                ask()

        node.offered = offered  # type: ignore[method-assign]  # of this one node

    # --- how it is done ---

    def after(self, seconds: float, happen: Callable[..., None], *arguments: Any) -> None:
        """Let something happen; to who is frozen it happens when he thaws."""
        super().after(seconds, self._happen, happen, arguments)

    def _happen(self, happen: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        node = getattr(happen, "__self__", None)
        if isinstance(node, _Node) and not node.gone and node.name in self._frozen:
            self._frozen[node.name].append((happen, arguments))
        else:
            happen(*arguments)

    def _prepare(self, node: _Node) -> None:
        node.intake = _Door(self, node.member.down)
        honest = node.block

        def block(link: _Link, wanted: Any) -> None:
            self._got_at[node.name] = self.now
            if link.sender is self.uploader:
                self._busy_at = self.now
            honest(link, wanted)

        node.block = block  # type: ignore[method-assign]  # of this one node

    def _wait_for(self, node: _Node) -> None:
        if (node.storage or node.member.wants) and node.complete_at is None:
            self._incomplete.add(node.name)

    def _give_up(self, node: _Node, since: list[_Happening]) -> None:
        if self._frozen.get(node.name) is since and not node.gone:
            self._cut_all(node)

    def _cut_all(self, node: _Node) -> None:
        for link in self.links.values():
            if node in (link.sender, link.receiver):
                for way in (link.forth, link.back):
                    _empty(way)
                link.sender.uplink.drop(link.number, self.now)
                link.sender.seeding.drop(link.number)
                link.sender.outgoing.pop(link.number, None)
                self.after(0.0, link.sender.pump_uplink)
                link.receiver.link_lost(link)

    def _join(self, node: _Node) -> None:
        others = [other for other in self.nodes if other is not node and not other.gone]
        if not node.storage and not self.storage.gone:
            self._link(node, self.storage)
            if node.member.wants:
                self._link(self.storage, node)
        for other in others:
            if node.receives:
                self._link(other, node)
            if other.receives:
                self._link(node, other)

    # --- the watchman ---

    def _watch(self) -> None:
        self.after(WATCH_SECONDS, self._watch)
        waiting = list(self._waiting())
        for name in [name for name in self._got_at if name not in waiting]:
            del self._got_at[name]
        for name in waiting:
            seconds = self.now - self._got_at.setdefault(name, self.now)
            self.starved_seconds[name] = max(self.starved_seconds.get(name, 0.0), seconds)
        if not any(self._waits_for_origin(self.node(name)) for name in waiting):
            self._busy_at = self.now
        self.idle_seconds = max(self.idle_seconds, self.now - self._busy_at)

    def _is_there(self, node: _Node) -> bool:
        return not node.gone and node.name not in self._frozen

    def _waiting(self) -> Iterator[str]:
        """Yield who could be served by the origin, and lacks something."""
        if self._is_there(self.uploader):
            for node in (self.storage, *self.nodes[1:]):
                if node.name in self._incomplete and any(
                    link.sender is self.uploader for link in node.incoming.values()
                ):
                    yield node.name

    def _waits_for_origin(self, node: _Node) -> bool:
        """Whether it lacks what nobody else could give."""
        elsewhere = node.held.copy()
        for link in node.incoming.values():
            if link.sender is not self.uploader and self._is_there(link.sender) and link.sender.name not in self._liars:
                elsewhere = elsewhere | link.sender.held
        return not elsewhere.complete


class _Place:
    """What a Cancel names."""

    def __init__(self, chunk: int, offset: int) -> None:
        self.chunk = chunk
        self.offset = offset


def _door(node: _Node) -> _Door:
    assert isinstance(node.intake, _Door)
    return node.intake


def _empty(way: Way) -> None:
    """What a connection had not carried is lost with it."""
    way._words.clear()
    way._blocks.clear()
    way._kernel.clear()
    way._rest_bytes = way.waiting_bytes = 0
