"""The peer daemon: builds everything from its settings, runs it, stops it. The only file that knows all the others.

``opened`` takes the state folder for this process and reads what earlier lives left; ``run`` serves until cancelled.
``main`` is what ``upswarm daemon`` calls: exit 0 after SIGTERM or SIGINT, 1 when the disk failed, 2 when a setting is
wrong.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import structlog
import trio

from daemon.commands import methods_of
from daemon.config import DaemonConfig
from daemon.desk import Desk
from daemon.direct import DirectParts, OpenWeb
from daemon.events import Events
from daemon.fetching import Fetching
from daemon.gets import Gets
from daemon.holders import Holders
from daemon.lan import Lan
from daemon.library import Library
from daemon.neighbours import Neighbours
from daemon.orders import Orders
from daemon.puts import Puts
from daemon.reading import Reading
from daemon.records import open_records
from daemon.relays import Relays
from daemon.settings import SettingsKeeper
from daemon.statistics import DaemonStatistics, PeerStatistics, recent
from daemon.telling import Tell, tell_hooks
from daemon.timetable import Caps
from daemon.watching import Observe, Watching
from exchange.engine import Engine
from protocol import messages as m
from protocol.errors import ConfigError
from protocol.ids import Role, Tag, parse_address
from runtime.discovery import Announcement, Discovery, ZeroconfDiscovery
from runtime.heartbeat import BeatStatus, TrackerLink
from runtime.hooks import Hooks
from runtime.hosts import Network, own_networks
from runtime.inventory import InventoryBook
from runtime.keyring import Keyring, KeyringKeeper, load_keyring
from runtime.link import Link
from runtime.links import Links, shorten
from runtime.logs import setup_logs
from runtime.memory import nothing_is_garbage
from runtime.observing import observe
from runtime.places import lock_folder
from runtime.real import real_runtime
from runtime.seam import Database, Runtime, Web
from runtime.serving import Life, changed_settings, run_until_signal
from runtime.threads import with_threads

log = structlog.get_logger()

# The one who told us to leave gets an answer before the control socket goes.
LAST_ANSWER_SECONDS = 0.5
# Holdings written into the inventory in one go, a few milliseconds.
HOLDINGS_BATCH = 512
# What changes while we run (SIGHUP); everything else was built upon.
RELOADED = (
    "up_bytes_per_second",
    "down_bytes_per_second",
    "help_bytes_per_second",
    "lan_exempt",
    "help_when_idle",
    "timetable",
    "lend",
    "log_level",
)


class Daemon:
    """One peer daemon. Made by ``opened``."""

    def __init__(
        self,
        config: DaemonConfig,
        runtime: Runtime,
        keyring: Keyring,
        database: Database,
        library: Library,
        settings: SettingsKeeper,
        discovery: Discovery | None,
        find_own_networks: Callable[[], Sequence[Network]] = own_networks,
        observe: Observe | None = None,
        tell: Tell | None = None,
        open_web: OpenWeb | None = None,
    ) -> None:
        self.config = config
        self.runtime = runtime
        self.library = library
        self.settings = settings
        self.events = Events(runtime.clock)
        self.book = InventoryBook(runtime.random.getrandbits(53))
        self.name = config.name or keyring.name or shorten(runtime.machine_name)
        self.node = keyring.credentials.node
        self.swarm = keyring.credentials.swarm
        self.listen = ""
        self.engine = Engine(runtime, library)
        self.links = Links(runtime, keyring.credentials, name=self.name, serve=self.serve)
        keeper = KeyringKeeper(runtime, keyring)
        self.tracker_link = TrackerLink(
            runtime,
            self.links,
            keyring.trackers,
            lambda: BeatStatus(lend=self.config.lend, paused=self.paused),
            self.book,
            self._told_by_tracker,
            on_connected=self._tracker_connected,
            keep_credentials=keeper.keep_credentials,
            keep_trackers=keeper.keep_trackers,
        )
        self.neighbours = Neighbours(self.links)
        self.desk = Desk(runtime.clock, library, self.engine, self.node)
        self.puts = Puts(
            runtime,
            database,
            library,
            self.neighbours,
            self.tracker_link,
            self.desk,
            self.events,
            config.places.state / "sealed",
        )
        self.lan = Lan(find_own_networks)
        holders = Holders(self.node, self.tracker_link, self.neighbours, library, self.engine, self.lan.nodes)
        self.holders = holders
        self.direct = DirectParts(self.engine, library, open_web if config.direct else None)
        self.relays = Relays(
            runtime,
            library,
            self.engine,
            self.neighbours,
            config.places.state / "relay",
            self.lan.near_nodes,
            lambda: self.config.lend and not self.paused,
        )
        fetching = Fetching(runtime, library, self.engine, self.neighbours, holders, self.relays.make_way)
        self.gets = Gets(runtime, database, library, holders, fetching, self.events, config.downloads)
        self.reading = Reading(runtime, library, self.engine, self.neighbours, holders, self.gets)
        self.orders = Orders(runtime.clock, library, self.engine, self.neighbours, self.relays, self.node)
        self.watching = Watching(runtime, database, self.puts, self.events, config.watch, observe)
        self._discovery = discovery
        self._tell_hooks = tell
        self._started_at = runtime.clock.monotonic()
        self._stop = trio.Event()
        library.on_held = self._held
        library.on_lost = self._lost

    async def run(self, task_status: trio.TaskStatus[Daemon] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled, or until this node has left its swarm.

        Raises:
            ConfigError: an address or a socket cannot be used.
            StorageBroken: the disk failed; the process must end.
        """
        await self.puts.load()
        await self.gets.load()
        await self.watching.load()
        listener = await self.runtime.network.listen(*parse_address(self.config.listen))
        self.listen = listener.address
        self.links.addresses = tuple(dict.fromkeys((*self.config.advertise, self.listen)))
        self.apply_settings()
        try:
            async with trio.open_nursery() as parts:
                await parts.start(self.runtime.control_server(self.config.places.control_socket, methods_of(self)).run)
                await parts.start(self.engine.run)
                await parts.start(self.links.run, (listener,))
                parts.start_soon(self._tell_tracker, name="tracker link")
                await parts.start(self.relays.run)
                await parts.start(self.orders.run)
                await parts.start(self.neighbours.run)
                await parts.start(self.puts.run)
                await parts.start(self.gets.run)
                parts.start_soon(self.reading.run, name="reading")
                parts.start_soon(self.library.look, name="look at files")
                parts.start_soon(self.library.close_idle, name="close idle files")
                parts.start_soon(self.direct.run, name="direct parts")
                parts.start_soon(self.watching.run, name="watched folders")
                if self._tell_hooks is not None:
                    parts.start_soon(tell_hooks, self.events, self._tell_hooks, name="hooks")
                parts.start_soon(self.settings.follow_timetable, self.runtime.clock, self._apply_caps, name="timetable")
                if self._discovery is not None:
                    own = Announcement(self.swarm, self.node, Role.PEER, self.links.addresses)
                    parts.start_soon(self.lan.run, self._discovery, own, self.tracker_link, name="discovery")
                task_status.started(self)
                await self._stop.wait()
                await trio.sleep(LAST_ANSWER_SECONDS)
                parts.cancel_scope.cancel()
        finally:
            listener.close()
            with trio.CancelScope(shield=True):
                await self.library.aclose()

    async def serve(self, link: Link) -> None:
        """Deal with one link until it ends."""
        if link.peer.role is Role.TRACKER:
            await self.tracker_link.serve(link)
            return
        async with self.engine.session(link, near=self.lan.is_near(link.remote)) as session:
            with self.neighbours.opened(link):
                try:
                    async for message in link.messages():
                        if not await session.handle(message):
                            self._told_by_peer(link, message)
                finally:
                    self.desk.ended(link)
                    self.relays.link_ended(link)
                    self.direct.link_ended(link)

    # --- for commands ---

    @property
    def paused(self) -> bool:
        """Whether the user paused everything."""
        return self.settings.settings.paused

    @property
    def caps(self) -> Caps:
        """What holds at this hour."""
        return self.settings.caps_at(self.runtime.clock.wall())

    def now(self) -> float:
        """Return the clock that durations are measured by."""
        return self.runtime.clock.monotonic()

    def apply_settings(self) -> None:
        """Bring caps and pause into force."""
        settings = self.settings.settings
        self._apply_caps(self.caps)
        self.engine.set_paused(settings.paused)
        self.puts.set_paused(settings.paused)
        self.tracker_link.beat_soon()

    def _apply_caps(self, caps: Caps) -> None:
        self.engine.set_budgets(
            up=caps.up,
            help=caps.help,
            down=caps.down,
            apart=self.config.lan_exempt,
            idle=self.settings.settings.idle,
        )

    async def reconfigure(self, config: DaemonConfig) -> Sequence[str]:
        """Bring new settings into force: caps, lending, how much is logged; return the names of the others that differ.

        What ``limit`` changed goes on to go before the caps.
        """
        restart = changed_settings(self.config, config, RELOADED)
        setup_logs(config.log_level)
        self.config = replace(self.config, **{name: getattr(config, name) for name in RELOADED})
        self.settings.configure(self.config)
        self.apply_settings()
        return restart

    def stop_soon(self) -> None:
        """End ``run``, after the answer that is being given."""
        self._stop.set()

    def peers(self) -> list[PeerStatistics]:
        """Return all links."""
        return [PeerStatistics.of(link) for link in self.links if link.alive]

    def statistics(self) -> DaemonStatistics:
        """Return how things stand."""
        settings, now = self.settings.settings, self.now()
        return DaemonStatistics(
            node=self.node,
            swarm=self.swarm,
            name=self.name,
            listen=self.listen,
            uptime_seconds=now - self._started_at,
            paused=settings.paused,
            lend=self.config.lend,
            caps=self.caps,
            timetable=settings.timetable,
            tracker=self.tracker_link.statistics(),
            engine=self.engine.statistics(),
            links=sum(1 for _ in self.links),
            lan_nodes=len(self.lan.nodes()),
            files=self.library.count(),
            partial_files=len(self.library.partials()),
            orders_carried_out=self.orders.carried_out,
            orders_refused=self.orders.refused,
            puts=tuple(put.progress(now) for put in recent(self.puts.all())),
            gets=tuple(get.progress(now) for get in recent(self.gets.all())),
        )

    # --- what comes ---

    async def _tell_tracker(self) -> None:
        # Not before we are ready: of a hundred thousand files it takes a second, and nobody waits for it.
        for number, holding in enumerate(self.library.holdings(), start=1):
            self.book.hold(holding)
            if number % HOLDINGS_BATCH == 0:
                await trio.lowlevel.checkpoint()
        await self.tracker_link.run()

    def _told_by_tracker(self, message: m.Message) -> None:
        if isinstance(message, m.Order | m.RelayOrder):
            self.orders.receive(message)

    def _told_by_peer(self, link: Link, message: m.Message) -> None:
        if isinstance(message, m.JobClosed):
            self.relays.closed(link, message.tag)
        elif isinstance(message, m.Assign):
            self.relays.assigned(link, message)
            return
        elif isinstance(message, m.PartGrant):
            self.direct.granted(link, message)
            return
        elif isinstance(message, m.PartRecall):
            self.direct.recalled(link, message)
            return
        taken = link.peer.role is Role.STORAGE and self.desk.receive(link, message)
        if taken:
            return
        if isinstance(message, m.JobClosed):
            self.events.add(
                "helped", tag=str(message.tag), storage=link.peer.node, state=message.state.value, reason=message.reason
            )
        else:
            # Progress of a job that we only help with, or an answer that nobody waits for any more.
            log.debug("message of no use here", type=type(message).__name__, node=link.peer.node)

    def _tracker_connected(self) -> None:
        if self.tracker_link.statistics().connects > 1:
            self.holders.tracker_came_back()
            self.puts.look_again()

    def _held(self, holding: m.Holding) -> None:
        self.book.hold(holding)

    def _lost(self, tag: Tag) -> None:
        self.book.drop(tag)
        self.engine.lost(tag)
        self.puts.file_lost(tag)


@asynccontextmanager
async def opened(
    config: DaemonConfig,
    runtime: Runtime,
    discovery: Discovery | None = None,
    find_own_networks: Callable[[], Sequence[Network]] = own_networks,
    *,
    observe: Observe | None = None,
    tell: Tell | None = None,
    open_web: OpenWeb | None = None,
) -> AsyncIterator[Daemon]:
    """Take the state folder for this process, read what it holds, and give it back when the block ends.

    ``discovery`` None: nobody is looked for on the LAN. ``observe`` None: watched folders are looked at once in a
    while. ``tell``: what is told of transfers that have ended. ``open_web``: how to reach HTTP servers, for what a
    storage node lets us put straight into its store.

    Raises:
        ConfigError: not joined, joined as something else, running already, or the folder cannot be used.
    """
    keyring = await load_keyring(runtime, config.places.identity)
    if keyring.credentials.role is not Role.PEER:
        raise ConfigError(
            f"{config.places.identity}: this node joined as {keyring.credentials.role};"
            " run upswarm join with an invite for --role peer"
        )
    taken = "already running: a daemon works on it; stop that one, or give another --home"
    advice = "give --home a folder we may write to"
    lock = await runtime.run_sync(lock_folder, runtime.disk, config.places.state, taken, advice)
    try:
        database = await open_records(runtime, config.places.state)
        try:
            settings = await SettingsKeeper.load(database, config)
            with nothing_is_garbage():
                library = await Library.open(runtime, database)
                daemon = Daemon(
                    config,
                    runtime,
                    keyring,
                    database,
                    library,
                    settings,
                    discovery,
                    find_own_networks,
                    observe=observe,
                    tell=tell,
                    open_web=open_web,
                )
            yield daemon
        finally:
            with trio.CancelScope(shield=True):
                await database.aclose()
    finally:
        lock.close()


async def serve(config: DaemonConfig, runtime: Runtime, life: Life[DaemonConfig]) -> None:
    """Run a daemon until cancelled, or until it left."""
    discovery = ZeroconfDiscovery() if config.mdns else None
    tell = Hooks(config.hook_command, config.hook_url).tell if config.hook_command or config.hook_url else None
    async with (
        opened(config, runtime, discovery, observe=observe, tell=tell, open_web=_open_web) as daemon,
        trio.open_nursery() as parts,
    ):
        await parts.start(daemon.run)
        life.ready(
            {
                "ready": "daemon",
                "listen": daemon.listen,
                "node": daemon.node,
                "control": str(config.places.control_socket),
            },
            daemon.reconfigure,
        )


@asynccontextmanager
async def _open_web() -> AsyncIterator[Web]:
    from runtime.web import open_web  # here, because it takes a fifth of a second, and most daemons never need it

    async with open_web() as web:
        yield web


def main(config: DaemonConfig, read: Callable[[], DaemonConfig] | None = None) -> int:
    """Run the peer daemon in the foreground; return the exit code. ``read`` reads the settings again (SIGHUP)."""
    setup_logs(config.log_level)
    return run_until_signal(
        partial(serve, config, with_threads(real_runtime())),
        read,
        broken="disk failed; ending, what was promised is safe",
    )
