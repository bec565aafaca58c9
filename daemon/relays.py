"""Lending our line: fetch chunks nearby that a storage node wants, and pass them on. Only with ``lend = true``.

The tracker says for which job (RelayOrder), the storage node which chunks (Assign), the uploader or another holder has
them. We take part only if one of them is on our LAN, as mDNS says: what we would fetch over the uploader's own line it
could send to storage itself. Those named first are asked first; fellow relays and others whom the tracker names later,
only when what we wait for does not come soon. The tracker's word makes us dial nobody but the storage node, within the
budget for knocks (orders.py).

What is fetched lies in a file of its own below our state, with holes where nothing was assigned; it goes when the job
does, and when we start. It counts as held meanwhile: others may have it from us. A get of the same file on this
machine goes first: the relay makes way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog
import trio

from daemon.library import Library
from daemon.neighbours import Neighbours
from exchange.engine import Engine
from exchange.spool import Spool
from exchange.swarm import Swarm
from protocol import messages as m
from protocol.bitmap import Bitmap
from protocol.errors import IntegrityError, LinkLost, NotFound, NotTrusted, SizeRefuted, StorageError
from protocol.ids import NodeAddress, NodeId, Tag
from protocol.manifest import Manifest
from runtime.link import Link
from runtime.seam import Runtime

log = structlog.get_logger()

# Jobs at a time; each is a file, and a share of our line.
RELAYS_MAX = 8
# A storage node that assigns nothing for so long has enough others.
IDLE_SECONDS_MAX = 60.0
# Left free on our disk whatever comes: it is not even our upload.
RESERVE_BYTES = 1 << 30
# When nothing of what was assigned came for so long, more sources are asked. Mostly it comes sooner, and relays that
# all dial each other in the middle of an upload have dozens of handshakes for nothing.
HUNGRY_SECONDS = 1.0
# Sources on the LAN that are asked at once.
SOURCES_MAX = 8


@dataclass(eq=False, slots=True)
class _Relay:
    tag: Tag
    storage: Link
    sources: tuple[NodeId, ...]
    assigned: list[int] = field(default_factory=list)
    asked: set[NodeId] = field(default_factory=set)
    fed_at: float = 0.0  # when something came, or was assigned when nothing was waited for
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)
    news: trio.Event = field(default_factory=trio.Event)

    def wake(self) -> None:
        self.news.set()
        self.news = trio.Event()


class Relays:
    """``nearby`` lists the nodes that were found on the LAN; ``may_lend`` says whether the user still allows it."""

    def __init__(
        self,
        runtime: Runtime,
        library: Library,
        engine: Engine,
        neighbours: Neighbours,
        folder: Path,
        nearby: Callable[[], list[NodeAddress]],
        may_lend: Callable[[], bool],
    ) -> None:
        self._runtime = runtime
        self._library = library
        self._engine = engine
        self._neighbours = neighbours
        self._folder = folder
        self._nearby = nearby
        self._may_lend = may_lend
        self._relays: dict[Tag, _Relay] = {}
        self._nursery: trio.Nursery | None = None

    def __len__(self) -> int:
        return len(self._relays)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Relay until cancelled.

        Raises:
            StorageError: the folder cannot be made or emptied.
        """
        await self._runtime.run_sync(self._empty)
        try:
            async with trio.open_nursery() as relays:
                self._nursery = relays
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    def flaw(self, order: m.RelayOrder) -> str | None:
        """Return why an order to relay is not carried out; None when it is."""
        if not self._may_lend():
            return "we do not lend"
        if order.tag in self._relays:
            self._relays[order.tag].sources = order.sources
            self._relays[order.tag].wake()
            return "we relay it already"
        if len(self._relays) >= RELAYS_MAX:
            return "we relay for enough others"
        if self._engine.swarm_of(order.tag) is not None or self._library.holding(order.tag) is not None:
            return "we have some of it ourselves"
        if not self._near(order.sources):
            return "nobody who has it is on our LAN"
        return None

    def begin(self, link: Link, order: m.RelayOrder) -> None:
        """Relay to the storage node at the other end of ``link``."""
        if self._nursery is not None and self.flaw(order) is None:
            relay = self._relays[order.tag] = _Relay(order.tag, link, order.sources)
            self._nursery.start_soon(self._live, relay, name=f"relay {order.tag.root.hex()[:8]}")

    def assigned(self, link: Link, message: m.Assign) -> None:
        """A storage node says what to fetch."""
        relay = self._relays.get(message.tag)
        if relay is not None and relay.storage is link:
            relay.assigned.extend(chunk for chunk in message.chunks if chunk < message.tag.chunks)
            relay.wake()

    def closed(self, link: Link, tag: Tag) -> None:
        """The job of ``tag`` has ended there."""
        relay = self._relays.get(tag)
        if relay is not None and relay.storage is link:
            relay.scope.cancel()

    def link_ended(self, link: Link) -> None:
        """``link`` has ended."""
        for relay in self._relays.values():
            if relay.storage is link:
                relay.scope.cancel()

    async def make_way(self, tag: Tag) -> None:
        """Stop relaying ``tag`` and return when nothing of it is left."""
        relay = self._relays.get(tag)
        if relay is not None:
            relay.scope.cancel()
            await relay.ended.wait()

    # --- one relay ---

    async def _live(self, relay: _Relay) -> None:
        try:
            with relay.scope:
                await self._relay(relay)
        except StorageError as error:
            log.warning("relay given up", tag=str(relay.tag), reason=str(error))
        finally:
            del self._relays[relay.tag]
            relay.ended.set()

    async def _relay(self, relay: _Relay) -> None:
        manifest: Manifest | None = None
        # Beside each other: what the first chunk waits for is what our line waits for.
        async with trio.open_nursery() as asking:
            asking.start_soon(self._ask_sources, relay, name="sources of a relay")
            try:
                manifest = await self._engine.request_manifest(relay.storage, relay.tag)
            except (LinkLost, NotFound, IntegrityError) as error:
                log.info("relay without a manifest", tag=str(relay.tag), reason=str(error))
                asking.cancel_scope.cancel()
        if manifest is None or self._engine.swarm_of(relay.tag) is not None:
            return
        path = self._folder / str(relay.tag)
        spool = await Spool.open(self._runtime, path, manifest, sparse=True)
        try:
            await self._pass_on(relay, manifest, spool)
        finally:
            with trio.CancelScope(shield=True):
                await spool.aclose()
                await self._runtime.run_sync(self._runtime.disk.remove, path)

    async def _pass_on(self, relay: _Relay, manifest: Manifest, spool: Spool) -> None:
        tag = relay.tag

        def on_verified(chunk: int, makers: Mapping[NodeId, int]) -> None:
            self._library.grow_partial(tag, chunk)
            relay.fed_at = self._runtime.clock.monotonic()
            if self._engine.is_offered(relay.storage.peer.node, tag):
                self._engine.gained(tag, (chunk,))
            elif relay.storage.alive:
                self._engine.offer(relay.storage, tag)

        # Nothing is wanted until it is assigned.
        swarm = self._engine.fetch(manifest, spool, Bitmap.full(tag.chunks), on_verified)
        self._library.begin_partial(manifest, spool, Bitmap(tag.chunks), "")
        relay.storage.post(m.Lend(tag=tag))
        log.info("relaying", tag=str(tag), storage=relay.storage.peer.node)
        taken = Bitmap(tag.chunks)
        try:
            async with trio.open_nursery() as running:
                running.start_soon(self._keep_asking, relay, swarm, name="sources of a relay")
                running.start_soon(self._fetch, relay, swarm, name="fetch of a relay")
                while True:
                    fresh = [chunk for chunk in relay.assigned if chunk not in taken]
                    relay.assigned.clear()
                    if fresh and await self._has_room(manifest):
                        for chunk in fresh:
                            taken.add(chunk)
                        if swarm.complete:
                            relay.fed_at = self._runtime.clock.monotonic()
                        swarm.reopen(fresh)
                        relay.wake()
                    news = relay.news
                    if relay.assigned:
                        continue
                    with trio.move_on_after(IDLE_SECONDS_MAX) as patience:
                        await news.wait()
                    if patience.cancelled_caught and swarm.complete:
                        running.cancel_scope.cancel()
                        break
        finally:
            self._library.end_partial(tag)
            swarm.close()

    async def _fetch(self, relay: _Relay, swarm: Swarm) -> None:
        while True:
            news = relay.news
            if swarm.complete:
                await news.wait()
                continue
            try:
                await swarm.run()
            except (StorageError, SizeRefuted) as error:
                log.warning("relay given up", tag=str(relay.tag), reason=str(error))
                relay.scope.cancel()

    async def _keep_asking(self, relay: _Relay, swarm: Swarm) -> None:
        """Ask more sources when those that were asked do not bring what is assigned."""
        while True:
            news = relay.news
            patience_seconds = math.inf
            if not swarm.complete:
                patience_seconds = relay.fed_at + HUNGRY_SECONDS - self._runtime.clock.monotonic()
                if patience_seconds <= 0 or not swarm.sources:
                    await self._ask_sources(relay)
                    patience_seconds = HUNGRY_SECONDS
            with trio.move_on_after(patience_seconds):
                await news.wait()

    async def _ask_sources(self, relay: _Relay) -> None:
        async with trio.open_nursery() as dials:
            for source in self._near(relay.sources)[:SOURCES_MAX]:
                if source.node not in relay.asked:
                    relay.asked.add(source.node)
                    dials.start_soon(self._ask, relay, source, name=f"ask {source.node[:8]}")

    async def _ask(self, relay: _Relay, source: NodeAddress) -> None:
        try:
            link = await self._neighbours.dial(source)
            # What we fetch is for storage: it is not to wait behind who wants it for himself.
            link.post(m.Lend(tag=relay.tag))
            self._engine.ask(link, relay.tag)
        except (LinkLost, NotTrusted) as error:
            relay.asked.discard(source.node)
            log.debug("source of a relay not reached", node=source.node, reason=str(error))

    def _near(self, sources: tuple[NodeId, ...]) -> list[NodeAddress]:
        wanted = set(sources)
        return [address for address in self._nearby() if address.node in wanted]

    async def _has_room(self, manifest: Manifest) -> bool:
        free_bytes = await self._runtime.run_sync(self._runtime.disk.free_bytes, self._folder)
        return free_bytes > RESERVE_BYTES + manifest.layout.chunk_bytes

    def _empty(self) -> None:
        self._runtime.disk.make_folder(self._folder)
        for name in self._runtime.disk.list_folder(self._folder):
            self._runtime.disk.remove(self._folder / name)
