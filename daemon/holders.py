"""Who has a file: asked of the tracker, and of the nodes on the LAN when the tracker is away.

Answers are hints. What a holder really has it says on its link, and only bytes that match their digest count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog
import trio

from daemon.library import Library
from daemon.neighbours import Neighbours
from exchange.engine import Engine
from protocol import messages as m
from protocol.errors import CommandError, IntegrityError, LinkLost, NotFound, NotTrusted
from protocol.ids import NodeAddress, NodeId, Role, Tag
from protocol.manifest import Manifest

log = structlog.get_logger()

# So many are asked at a time; each costs a link.
SOURCES_MAX = 16
MANIFEST_SECONDS_MAX = 30.0
# A tracker that has just come back hears of everything within two heartbeats.
FRESH_SECONDS = 11.0
# News of a file that somebody shared just now is on its way for so long at most.
NEWS_SECONDS = 1.0
# mDNS answers trickle in.
LAN_SECONDS = 5.0
# A holder that we cannot dial is ordered to dial us; it waits a second for our own call (orders.py).
MEETING_SECONDS = 6.0
_PAUSE_SECONDS = 0.25


class Tracker(Protocol):
    """What is needed of runtime.heartbeat.TrackerLink."""

    @property
    def connected(self) -> bool:
        """Whether it can be asked now."""
        ...

    async def ask(self, factory: Callable[[int], m.Message]) -> m.Message:
        """Ask; see there."""
        ...


@dataclass(frozen=True, slots=True)
class Located:
    """A file that somebody knows. ``size_bytes`` is None when only its tag is known."""

    tag: Tag
    name: str
    size_bytes: int | None
    sources: tuple[NodeAddress, ...]


class Holders:
    """See above. ``lan_nodes`` lists the nodes that were found on the LAN."""

    def __init__(
        self,
        node: NodeId,
        tracker: Tracker,
        neighbours: Neighbours,
        library: Library,
        engine: Engine,
        lan_nodes: Callable[[], list[NodeAddress]],
    ) -> None:
        self._node = node
        self._tracker = tracker
        self._neighbours = neighbours
        self._library = library
        self._engine = engine
        self._lan_nodes = lan_nodes
        self._came_back_at: float | None = None

    def tracker_came_back(self) -> None:
        """The tracker was lost, and is there again."""
        self._came_back_at = trio.current_time()

    @property
    def tracker_is_away(self) -> bool:
        """Whether only the LAN can be asked."""
        return not self._tracker.connected

    async def locate(self, what: Tag | str) -> Located:
        """Return what is known of a tag or name.

        Raises:
            NotFound: the tracker knows nothing of it; for a tag also: nobody on the LAN either.
            LinkLost: a name, and the tracker is away.
            CommandError: the tracker refused.
        """
        patient_until = trio.current_time() + NEWS_SECONDS
        if self._came_back_at is not None:
            patient_until = max(patient_until, self._came_back_at + FRESH_SECONDS)
        while True:
            try:
                return await self._ask_tracker(what)
            except NotFound:
                if trio.current_time() > patient_until:
                    raise
            except LinkLost:
                if isinstance(what, str):
                    raise
                return Located(what, "", None, tuple(self._nearby()))
            await trio.sleep(_PAUSE_SECONDS)

    async def sources(self, tag: Tag) -> list[NodeAddress]:
        """Return who may have some of ``tag`` now; empty when nobody is known to."""
        try:
            return list((await self._ask_tracker(tag)).sources)
        except NotFound:
            return []
        except (LinkLost, CommandError) as error:
            log.debug("tracker not asked", reason=str(error))
            return self._nearby()

    async def manifest(self, located: Located) -> Manifest:
        """Return the manifest of a located file: ours, or that of whoever answers first.

        Raises:
            NotFound: nobody has it, or nobody who has it can be reached; the sentence says which.
        """
        tag = located.tag
        known = await self._library.manifest(tag)
        if known is not None:
            return known
        give_up_at = trio.current_time() + LAN_SECONDS
        sources = list(located.sources)
        met = False
        while True:
            reached: list[NodeId] = []
            manifest = await self._first_manifest(tag, sources, reached)
            if manifest is not None:
                return manifest
            if sources and not reached and not met and not self.tracker_is_away:
                met = await self._is_met(sources)
                if met:
                    continue
            if not self.tracker_is_away or trio.current_time() >= give_up_at:
                break
            await trio.sleep(_PAUSE_SECONDS)
            sources = await self.sources(tag)
        where = "the tracker is away, and nobody on the LAN has it" if self.tracker_is_away else "nobody has it"
        if sources and not reached and not self.tracker_is_away:
            # The tracker has ordered them to dial us, too: neither side can reach the other.
            where = (
                f"{len(sources)} should have it, but none of them can be reached from here, and none reached us: both "
                "sides may be behind NAT. It goes once one of them, or a storage node that has it, can be dialled"
            )
        raise NotFound(f"{located.name or tag}: {where}")

    async def _ask_tracker(self, what: Tag | str) -> Located:
        tag, name = (what, None) if isinstance(what, Tag) else (None, what)
        answer = await self._tracker.ask(
            lambda request: m.Where(request=request, tag=tag, name=name, size_bytes=0, to_put=False)
        )
        assert isinstance(answer, m.WhereAnswer)
        sources = {holder.node: holder for holder in answer.holders}
        if answer.storage is not None and answer.state in (m.Whereabouts.STORED, m.Whereabouts.OPEN):
            sources = {answer.storage.node: answer.storage, **sources}
        sources.pop(self._node, None)
        near = {address.node: address for address in self._lan_nodes()}
        # What others know of an address leads over the line to the internet, where it is nobody's LAN address.
        by_lan = tuple(_nearest(source, near.get(source.node)) for source in sources.values())
        return Located(answer.tag, answer.name, answer.size_bytes, by_lan)

    def _nearby(self) -> list[NodeAddress]:
        """Return whom we can ask without a tracker: whoever we are linked to, and the LAN."""
        found: dict[NodeId, NodeAddress] = {}
        for link in self._neighbours:
            if link.alive and link.peer.role is not Role.TRACKER:
                found.setdefault(link.peer.node, NodeAddress(link.peer.node, link.peer.role, ()))
        for address in self._lan_nodes():
            if address.role is not Role.TRACKER and address.node != self._node:
                found.setdefault(address.node, address)
        return list(found.values())[:SOURCES_MAX]

    async def _is_met(self, sources: list[NodeAddress]) -> bool:
        """Wait for one of those whom we cannot dial: the tracker has ordered them to dial us."""
        with trio.move_on_after(MEETING_SECONDS):
            await self._neighbours.wait_for([source.node for source in sources])
            return True
        return False

    async def _first_manifest(self, tag: Tag, sources: list[NodeAddress], reached: list[NodeId]) -> Manifest | None:
        """``reached``: whom we have a link to is added there."""
        found: list[Manifest] = []

        async def request(source: NodeAddress) -> None:
            try:
                link = await self._neighbours.dial(source)
                reached.append(source.node)
                found.append(await self._engine.request_manifest(link, tag))
            except (LinkLost, NotTrusted, NotFound, IntegrityError) as error:
                log.debug("no manifest from there", node=source.node, reason=str(error))
            else:
                requests.cancel_scope.cancel()

        with trio.move_on_after(MANIFEST_SECONDS_MAX):
            async with trio.open_nursery() as requests:
                for source in sources[:SOURCES_MAX]:
                    requests.start_soon(request, source, name=f"manifest from {source.node[:8]}")
        return found[0] if found else None


def _nearest(source: NodeAddress, found: NodeAddress | None) -> NodeAddress:
    """Return a source with the addresses at which it was found on the LAN before all others."""
    if found is None:
        return source
    return NodeAddress(source.node, source.role, tuple(dict.fromkeys((*found.addresses, *source.addresses))))
