"""The storage node: builds everything from its settings, runs it, stops it. The only file that knows all the others.

``opened`` takes the data folder for this process and brings it in order; ``StorageNode.run`` serves until cancelled.
``main`` is what ``upswarm storage`` calls: exit 0 after SIGTERM or SIGINT, 1 when the disk failed, 2 when a setting is
wrong. A disk that failed a write or an fsync is not worked on any further: what it holds is unknown.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import trio

from exchange.engine import Engine
from protocol import messages as m
from protocol.errors import ConfigError, NotFound
from protocol.ids import NodeId, Role, Tag, parse_address
from protocol.limits import JOB_MAPS
from runtime.discovery import Announcement, Discovery, LanNode, ZeroconfDiscovery, introduce_tracker
from runtime.heartbeat import BeatStatus, TrackerLink
from runtime.inventory import InventoryBook
from runtime.keyring import Keyring, KeyringKeeper, load_keyring
from runtime.link import Link
from runtime.links import Links, shorten
from runtime.logs import setup_logs
from runtime.places import lock_folder
from runtime.real import real_runtime
from runtime.seam import Database, Runtime
from runtime.serving import Life, changed_settings, run_until_signal
from runtime.threads import with_threads
from storage.adopting import Adopter
from storage.backends.base import Backend
from storage.backends.choice import OpenWeb, chosen_backend, keep_to_backend
from storage.commands import methods_of
from storage.config import StorageConfig
from storage.desk import Desk
from storage.direct import Direct
from storage.door import Door, door_token
from storage.holdings import StorageHoldings
from storage.intake import Intake
from storage.keeping.keeper import Keeper
from storage.keeping.mending import Mender
from storage.keeping.scrubber import Scrubber
from storage.keeping.terms import Terms
from storage.keeping.usage import Usage
from storage.ledger.base import Ledger
from storage.ledger.choice import chosen_ledger
from storage.ledger.postgres import OpenShared
from storage.parts import PartPolicy
from storage.passage import Means, Passage
from storage.recovery import Recovered, recover
from storage.reports import Reporter
from storage.room import Room
from storage.sharing import Sharing
from storage.shelf import Shelf
from storage.spools import Spools
from storage.statistics import (
    LiveJobStatistics,
    StorageStatistics,
)
from storage.sweeper import Sweeper
from storage.tus.arrivals import Arrivals
from storage.tus.handler import TusHandler

if TYPE_CHECKING:
    from runtime.http import HttpServer

log = structlog.get_logger()

ROOM_SECONDS_BETWEEN_LOOKS = 5.0
# Of all jobs together, against those of one.
PARTS_AT_ONCE_TIMES = 4
# A player that was paused may take nothing for a while; but a program must end within ten seconds (its unit).
HTTP_STALL_MILLISECONDS_MAX = 8_000
# What changes while we run (SIGHUP); everything else was built upon.
RELOADED = ("up_bytes_per_second", "log_level")


class StorageNode:
    """One storage node. Made by ``opened``."""

    def __init__(
        self,
        config: StorageConfig,
        runtime: Runtime,
        keyring: Keyring,
        ledger: Ledger,
        backend: Backend,
        spool: Path,
        discovery: Discovery | None,
    ) -> None:
        self.config = config
        self._ledger = ledger
        self._backend = backend
        self.shelf = Shelf(InventoryBook(runtime.random.getrandbits(53)))
        self.room = Room(runtime, backend, spool, config.reserve_bytes)
        self.holdings = StorageHoldings(self.shelf, ledger, backend)
        self.engine = Engine(runtime, self.holdings, up_bytes_per_second=config.up_bytes_per_second, wide=True)
        self.reporter = Reporter(
            self.shelf,
            lambda update: self.tracker_link.post(update),
            lambda shown: self.tracker_link.offer(shown, JOB_MAPS),
        )
        policy = None
        self.direct = Direct(runtime, self.engine.strike) if config.direct else None
        if backend.parts is not None:
            at_once = config.s3_parts_at_once
            limit = trio.CapacityLimiter(PARTS_AT_ONCE_TIMES * at_once)
            policy = PartPolicy(backend.parts, remote=ledger.shared, at_once=at_once, limit=limit)
        spools = Spools(runtime, spool)
        means = Means(
            runtime=runtime,
            engine=self.engine,
            ledger=ledger,
            backend=backend,
            shelf=self.shelf,
            reporter=self.reporter,
            room=self.room,
            spools=spools,
            parts=policy,
            direct=self.direct,
        )
        self.passage = Passage(means)
        self.intake = Intake(means, self.passage)
        self.sharing: Sharing | None = None
        if ledger.shared and backend.parts is not None:
            self.sharing = Sharing(
                ledger,
                backend.parts,
                self.shelf,
                self.holdings,
                self.intake,
                spools,
                lease_seconds=config.lease_seconds,
            )
        terms = Terms(config.expires_seconds, config.unnamed_seconds)
        self.keeper = Keeper(runtime, ledger, backend, self.shelf, self.holdings, self.passage, spools, terms)
        self.usage = Usage(ledger, config.quotas)
        mender = Mender(
            runtime,
            ledger,
            backend,
            self.shelf,
            self.holdings,
            self.intake,
            spool,
            keyring.credentials.node,
        )
        self.scrubber = Scrubber(runtime, ledger, backend, self.shelf, mender, config.scrub_bytes_per_second)
        self.desk = Desk(
            runtime,
            ledger,
            backend,
            self.shelf,
            self.intake,
            self.holdings,
            self.room,
            node_jobs_max=config.node_jobs_max,
            reread=self.scrubber.scrub_soon,
            know=self.sharing.know if self.sharing is not None else None,
            usage=self.usage,
            keeper=self.keeper,
        )
        self.sweeper = Sweeper(
            runtime,
            ledger,
            self.shelf,
            self.passage,
            spools,
            rest_seconds=config.rest_seconds,
            idle_seconds=config.idle_seconds,
        )
        self.arrivals: Arrivals | None = None
        if config.http is not None and config.http_uploads:
            adopter = Adopter(runtime, ledger, self.shelf, self.intake, self.passage, spool, keyring.credentials.node)
            self.arrivals = Arrivals(
                runtime,
                self.room,
                config.data_folder / "arrivals",
                adopter.adopt,
                expire_seconds=config.http_upload_seconds,
                excess=partial(self._excess_by_http, keyring.credentials.node),
            )
        self.name = config.name or keyring.name or shorten(runtime.machine_name)
        self.node = keyring.credentials.node
        self.links = Links(runtime, keyring.credentials, name=self.name, serve=self.serve)
        keeper = KeyringKeeper(runtime, keyring)
        self.tracker_link = TrackerLink(
            runtime,
            self.links,
            keyring.trackers,
            lambda: BeatStatus(room_bytes=self.room.last_free_bytes),
            self.shelf.book,
            self._told_by_tracker,
            on_connected=self.reporter.announce_all,
            keep_credentials=keeper.keep_credentials,
            keep_trackers=keeper.keep_trackers,
        )
        self.listen = ""
        self._discovery = discovery
        self._runtime = runtime
        self._started_at = runtime.clock.monotonic()

    async def run(
        self, recovered: Recovered, task_status: trio.TaskStatus[StorageNode] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until cancelled; started once connections are accepted and the control socket answers.

        Raises:
            ConfigError: an address or a socket cannot be used.
            StorageBroken: the disk failed; the process must end.
        """
        listener = await self._runtime.network.listen(*parse_address(self.config.listen))
        self.listen = listener.address
        self.links.addresses = tuple(dict.fromkeys((*self.config.advertise, self.listen)))
        await self.room.free_bytes()
        try:
            async with trio.open_nursery() as parts:
                await parts.start(self.engine.run)
                await parts.start(self.reporter.run)
                await parts.start(self.passage.run)
                if self.sharing is not None:
                    await parts.start(self.sharing.run)
                for job in recovered.open_jobs:
                    await self.intake.resume(job)
                await parts.start(self.sweeper.run)
                await parts.start(self.keeper.run)
                await parts.start(self.scrubber.run)
                if self.arrivals is not None:
                    await parts.start(self.arrivals.run)
                parts.start_soon(self._watch_room, name="room")
                await parts.start(self._runtime.control_server(self.config.places.control_socket, methods_of(self)).run)
                await parts.start(self.links.run, (listener,))
                parts.start_soon(self.tracker_link.run, name="tracker link")
                if self._discovery is not None:
                    parts.start_soon(self._discover, self._discovery, name="discovery")
                task_status.started(self)
        finally:
            listener.close()
            with trio.CancelScope(shield=True):
                await self.holdings.aclose()

    async def _excess_by_http(self, node: NodeId, name: str, size_bytes: int) -> str | None:
        return await self.usage.excess(node, name, None, size_bytes)

    def door(self, token: str) -> Door:
        """Return what reads stored files by HTTP, and takes new ones, for whoever has ``token``."""
        tus = TusHandler(self.arrivals) if self.arrivals is not None else None
        from storage.metrics import metrics_text  # here: it takes a while, and most storage nodes have no door

        return Door(
            self.shelf, self._ledger, self._backend, token, tus, metrics=lambda: metrics_text(self.statistics())
        )

    async def serve(self, link: Link) -> None:
        """Deal with one link until it ends."""
        if link.peer.role is Role.TRACKER:
            await self.tracker_link.serve(link)
            return
        async with self.engine.session(link) as session:
            try:
                async for message in link.messages():
                    taken = await session.handle(message)
                    match message:
                        case m.Offer():
                            self.desk.offered(link, message.tag)
                        case m.Lend():
                            self.engine.lend(link, message.tag)
                        case m.PartPut() | m.PartFailed():
                            if self.direct is not None:
                                self.direct.told(session.number, message)
                        case m.Have() | m.NotHeld():
                            self.intake.offers_changed(message.tag)
                        case _ if not taken:
                            await self.desk.handle(link, message)
            finally:
                self.desk.gone(link)

    async def tag_of(self, what: Tag | str) -> Tag:
        """Return the tag that a tag, or the newest file of a name, has here.

        Raises:
            NotFound: nothing of that name is stored.
        """
        if isinstance(what, Tag):
            return what
        for version in (await self._ledger.versions(what))[:1]:
            return version.tag
        raise NotFound(f"nothing is stored here as {what!r}")

    def statistics(self) -> StorageStatistics:
        """Return how things stand."""
        jobs = tuple(
            LiveJobStatistics(
                job=entry.job.snapshot(),
                safe=entry.safe,
                sources=tuple(dict.fromkeys(entry.swarm.sources)),
                links=len(entry.audience),
            )
            for entry in self.shelf.live.values()
        )
        return StorageStatistics(
            node=self.node,
            name=self.name,
            listen=self.listen,
            data=str(self.config.data_folder),
            uptime_seconds=self._runtime.clock.monotonic() - self._started_at,
            free_bytes=self.room.last_free_bytes,
            reserve_bytes=self.room.reserve_bytes,
            stored_files=len(self.shelf.stored),
            stored_bytes=sum(file.size_bytes for file in self.shelf.stored.values()),
            resting_jobs=len(self.shelf.resting),
            links=sum(1 for _ in self.links),
            jobs=jobs,
            engine=self.engine.statistics(),
            tracker=self.tracker_link.statistics(),
            scrub=self.scrubber.statistics(),
            keeping=replace(self.keeper.counts),
            uploads_by_http=len(self.arrivals) if self.arrivals is not None else 0,
        )

    def _told_by_tracker(self, message: m.Message) -> None:
        # Orders are for those who hold what a storage node wants; they are hints, and a storage node waits to be asked.
        log.debug("message of the tracker of no use here", type=type(message).__name__)

    async def _discover(self, discovery: Discovery) -> None:
        """Be found on the LAN, and find our tracker there. Other nodes come to us by themselves."""
        credentials = self.links.credentials
        own = Announcement(credentials.swarm, credentials.node, credentials.role, self.links.addresses)

        def other(_node: LanNode) -> None:
            """Nobody we would dial."""

        def lost(_node: NodeId) -> None:
            """A tracker that is not seen any more may still answer."""

        await discovery.run(own, introduce_tracker(self.tracker_link, other), lost)

    async def reconfigure(self, config: StorageConfig) -> Sequence[str]:
        """Bring the cap and the level of the log into force; return the names of the other settings that differ."""
        restart = changed_settings(self.config, config, RELOADED)
        setup_logs(config.log_level)
        self.config = replace(self.config, **{name: getattr(config, name) for name in RELOADED})
        self.engine.set_budgets(up=config.up_bytes_per_second, help=None)
        return restart

    async def _watch_room(self) -> None:
        while True:
            await self.room.free_bytes()
            await trio.sleep(ROOM_SECONDS_BETWEEN_LOOKS)


@asynccontextmanager
async def opened(
    config: StorageConfig,
    runtime: Runtime,
    discovery: Discovery | None = None,
    open_web: OpenWeb | None = None,
    open_shared: OpenShared | None = None,
) -> AsyncIterator[tuple[StorageNode, Recovered]]:
    """Take the data folder for this process, bring it in order, and give it back when the block ends.

    ``discovery`` None: the LAN is told nothing. ``open_web``: how to reach HTTP servers; S3 needs it. ``open_shared``:
    how to reach a database that others use, too.

    Raises:
        ConfigError: not joined, joined as something else, or the folder cannot be used; the sentence says which.
        StorageError: the disk failed, or has not even room for that.
    """
    keyring = await load_keyring(runtime, config.places.identity)
    if keyring.credentials.role is not Role.STORAGE:
        raise ConfigError(
            f"{config.places.identity}: this node joined as {keyring.credentials.role};"
            " run upswarm join with an invite for --role storage"
        )
    folder = config.data_folder
    spool = folder / "spool"
    taken = "another storage node is running on it; stop that one, or give another --data"
    advice = "give --data a folder we may write to"
    lock = await runtime.run_sync(lock_folder, runtime.disk, folder, taken, advice)
    try:
        await keep_to_backend(config, runtime)
        ledger, owner = await chosen_ledger(config, runtime, keyring.credentials.node, open_shared)
        try:
            # What others have begun and not yet written down is theirs.
            keep = None if ledger.shared else await ledger.uploads()
            shelves: list[Shelf] = []

            def name_of(tag: Tag) -> str | None:
                return shelves[0].name_of(tag) if shelves else None

            async with chosen_backend(config, runtime, owner, spool, open_web, keep, name_of) as backend:
                node = StorageNode(config, runtime, keyring, ledger, backend, spool, discovery)
                shelves.append(node.shelf)
                yield node, await recover(runtime, ledger, backend, node.shelf, spool)
        finally:
            with trio.CancelScope(shield=True):
                await ledger.aclose()
    finally:
        lock.close()


async def serve(config: StorageConfig, runtime: Runtime, life: Life[StorageConfig]) -> None:
    """Run a storage node until cancelled."""
    discovery = ZeroconfDiscovery() if config.mdns else None
    server = _http_server(config)
    try:
        async with (
            opened(config, runtime, discovery, _open_web(config), _open_shared(config, runtime)) as (node, recovered),
            trio.open_nursery() as parts,
        ):
            await parts.start(node.run, recovered)
            line = {
                "ready": "storage",
                "listen": node.listen,
                "node": node.node,
                "data": str(config.data_folder),
            }
            if server is not None:
                await parts.start(server.run, node.door(await door_token(runtime, config.http_token_file)))
                line["http"] = server.address
            life.ready(line, node.reconfigure)
    finally:
        if server is not None:
            server.close()


def _http_server(config: StorageConfig) -> HttpServer | None:
    if config.http is None:
        return None
    # Here, because it takes a fifth of a second, and most storage nodes never need it.
    from runtime.http import HttpServer

    return HttpServer(config.http, stall_milliseconds=HTTP_STALL_MILLISECONDS_MAX)


def _open_web(config: StorageConfig) -> OpenWeb | None:
    if config.backend != "s3":
        return None
    from runtime.web import open_web  # here, for the same reason

    return open_web


def _open_shared(config: StorageConfig, runtime: Runtime) -> OpenShared | None:
    if not config.shared:
        return None

    async def open_shared(address: str, password: str, schema: str) -> Database:
        from runtime.postgres import PostgresDatabase  # here, because it is optional

        return await PostgresDatabase.open(address, password, schema, runtime.run_sync)

    return open_shared


def main(config: StorageConfig, read: Callable[[], StorageConfig] | None = None) -> int:
    """Run the storage node in the foreground; return the exit code. ``read`` reads the settings again (SIGHUP)."""
    setup_logs(config.log_level)
    return run_until_signal(
        partial(serve, config, with_threads(real_runtime())),
        read,
        broken="storage failed; ending, what was acknowledged is safe",
    )
