"""The tracker put together: the one file that knows all its rooms.

At start: the control socket first (its lock says that no second tracker uses this state), then authority and register,
then listening, then the page; then the ready line. A signal cancels everything: links say goodbye, the register is
closed last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import structlog
import trio

from protocol.errors import CommandError, ConfigError, UpswarmError
from protocol.ids import NodeAddress, NodeId, Role, parse_address
from protocol.invite import Invite
from runtime.discovery import Announcement, Discovery, ZeroconfDiscovery
from runtime.hosts import own_hosts
from runtime.http import HttpServer
from runtime.identity import Credentials
from runtime.links import Links
from runtime.logs import setup_logs
from runtime.places import Places
from runtime.real import real_runtime
from runtime.seam import Clock, Listener, Runtime
from runtime.serving import Life, changed_settings, serve_until_signal
from tracker.access import Access
from tracker.addresses import own_addresses
from tracker.authority import open_identity
from tracker.commands import Commands, version
from tracker.config import TrackerConfig
from tracker.door import Door
from tracker.index.base import Index, Patience
from tracker.index.memory import MemoryIndex
from tracker.membership import Member, Membership
from tracker.page.guard import HostList
from tracker.page.routes import Page
from tracker.registrar import Registrar
from tracker.rotation import Rotation, begin, open_authorities, waiting
from tracker.rotation import finish as promote
from tracker.sight import Sight
from tracker.statistics import About, TrackerStatistics, Traffic

if TYPE_CHECKING:
    from tracker.sharing import Sharing

log = structlog.get_logger()

AUTHORITY_FOLDER = "authority"
# Our own certificate is good for weeks when it is due: an hour is soon enough to notice.
RENEWAL_CHECK_SECONDS = 3600.0


class Tracker:
    """A tracker that listens. Made by ``run``; tests and commands use it."""

    def __init__(
        self,
        config: TrackerConfig,
        runtime: Runtime,
        places: Places,
        registrar: Registrar,
        credentials: Credentials,
        listener: Listener,
        *,
        http: str | None,
        find_own_hosts: Callable[[], Sequence[str]],
    ) -> None:
        patience = Patience.of_interval(config.heartbeat_seconds)
        self._sharing = _share(config, registrar, runtime.clock, credentials.node, patience)
        self.index: Index = MemoryIndex(patience) if self._sharing is None else self._sharing.index
        self._config = config
        self._runtime = runtime
        self._places = places
        self._registrar = registrar
        self._listener = listener
        self._http = http
        self._own_hosts = find_own_hosts
        self._rotating = trio.Lock()
        self._access = Access(
            runtime,
            self.index,
            registrar,
            interval_seconds=config.heartbeat_seconds,
            own_hosts=find_own_hosts,
        )
        self._door = Door(runtime, registrar, lambda: self.address)
        self.sight = Sight(runtime.clock, self.index, self._access, self._about, self._traffic)
        self._name = config.name or runtime.machine_name
        self.links = Links(runtime, credentials, name=self._name, serve=self._access.serve, serve_door=self._door.serve)
        if self._sharing is not None:
            fellows = self._sharing.meet(
                lambda: self.address,
                deliver=self._access.deliver,
                on_trackers=self._access.tell_trackers,
                on_revoked=self._shut_out,
            )
            self._access.post_elsewhere = fellows.post

    @property
    def ready(self) -> dict[str, str | None]:
        """The line that says so."""
        return {
            "ready": "tracker",
            "listen": self._listener.address,
            "http": self._http,
            "node": self.links.credentials.node,
        }

    @property
    def host_names(self) -> HostList:
        """By which names the page may be asked for."""
        return HostList.of(self._config.http_hosts, self._runtime.machine_name, self._config.http or "")

    @property
    def announcement(self) -> Announcement:
        """What the LAN may know of us."""
        credentials = self.links.credentials
        return Announcement(credentials.swarm, credentials.node, Role.TRACKER, self.links.addresses)

    @property
    def address(self) -> NodeAddress:
        """Who we are, and where nodes reach us now."""
        addresses = own_addresses(self._config.advertise, self._listener.address, self._own_hosts())
        return NodeAddress(self.links.credentials.node, Role.TRACKER, addresses)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve nodes until cancelled."""
        async with trio.open_nursery() as services:
            if self._sharing is not None:
                await services.start(self._sharing.run)
            await services.start(self.links.run, (self._listener,))
            services.start_soon(self._access.run, name="index upkeep")
            services.start_soon(self._renew_own, name="own certificate")
            task_status.started()

    # --- what commands ask ---

    @property
    def clock(self) -> Clock:
        """Return the clocks that everything here goes by."""
        return self._runtime.clock

    def now(self) -> float:
        """Return the time that the index goes by."""
        return self._runtime.clock.monotonic()

    async def members(self) -> tuple[Member, ...]:
        """Return all nodes that were ever let in."""
        return await self._registrar.members()

    async def invite(self, role: Role, uses: int, expires_seconds: float) -> Invite:
        """Return a new invite. Raises ``CommandError``."""
        invite = await self._registrar.invite(role, uses, expires_seconds, self.address.addresses)
        log.info("invited", role=role, uses=uses, expires=invite.expires)
        return invite

    async def revoke(self, prefix: str) -> Member:
        """Shut a node out: its links end now, and everybody is told. Raises ``CommandError``."""
        member = await self._registrar.revoke(prefix)
        await self._shut_out(member)
        log.warning("node revoked", node=member.node, role=member.role, name=member.name)
        return member

    async def _shut_out(self, member: Member) -> None:
        # Its links end first, so that nothing it still says comes behind what is forgotten.
        self.links.renew(self.links.credentials.with_revocations(self._registrar.revocations))
        await self._access.shut_out(member.node)

    async def rotate(self, finish: bool, force: bool) -> Rotation:
        """Begin to rotate the authority, or finish it; see rotation.py.

        Raises:
            CommandError: there is nothing to finish, or members have no certificate of the next authority yet and
                ``force`` was not said.
        """
        async with self._rotating:
            registrar, folder = self._registrar, self._places.state / AUTHORITY_FOLDER
            if self._sharing is not None:
                raise CommandError(
                    "refused", "several trackers share this swarm; let one run alone, and rotate there", 6
                )
            if registrar.next is None:
                if finish:
                    raise CommandError("not-rotating", "no rotation is under way; upswarm rotate begins one", 1)
                registrar.next = await begin(self._runtime, registrar.authority, folder)
                await self._use_authorities()
                log.warning("authority is being rotated", next=registrar.next.fingerprint.hex())
            late = waiting(await registrar.members(), registrar.next)
            if finish:
                if late and not force:
                    names = ", ".join(node[:8] for node in late[:8])
                    raise CommandError(
                        "unfinished",
                        f"{len(late)} members have no certificate of the next authority yet ({names}); wait until they "
                        "were here, or shut them out with --force",
                        7,
                    )
                await promote(self._runtime, folder, registrar.next)
                await registrar.rotated()
                await self._use_authorities()
                log.warning("authority rotated", authority=registrar.authority.fingerprint.hex(), shut_out=len(late))
            following = registrar.next
            return Rotation(registrar.authority.fingerprint, following.fingerprint if following else None, late)

    async def _use_authorities(self) -> None:
        registrar = self._registrar
        credentials = await open_identity(
            self._runtime, registrar.authority, self._places.identity, registrar.revocations, registrar.next
        )
        # Told first: whoever is hung up on because of an old certificate has heard why.
        self._access.tell_authorities()
        self.links.renew(credentials.with_revocations(registrar.revocations))

    async def statistics(self) -> TrackerStatistics:
        """Return how it stands; a second old at most."""
        return await self.sight.overview()

    def _about(self) -> About:
        address = self.address
        return About(
            swarm=self._registrar.authority.swarm,
            node=address.node,
            name=self._name,
            version=version(),
            listen=self._listener.address,
            http=self._http,
            addresses=address.addresses,
            heartbeat_seconds=self._config.heartbeat_seconds,
        )

    def _traffic(self) -> Traffic:
        access, door = self._access.counts, self._door.counts
        return Traffic(
            links=self._access.links,
            heartbeats=access.heartbeats,
            inventories=access.inventories,
            questions=access.questions,
            orders=access.orders,
            joined=door.joined,
            joins_refused=door.refused,
            trackers=max(1, len(self._access.trackers)),
            alone=self._sharing.index.away if self._sharing is not None else None,
        )

    async def _renew_own(self) -> None:
        while True:
            await trio.sleep(RENEWAL_CHECK_SECONDS)
            credentials = await open_identity(
                self._runtime,
                self._registrar.authority,
                self._places.identity,
                self._registrar.revocations,
                self._registrar.next,
            )
            if credentials.certificate != self.links.credentials.certificate:
                log.info("own certificate renewed")
                # Somebody may have been revoked while we were at the disk.
                self.links.renew(credentials.with_revocations(self._registrar.revocations))


async def run(
    config: TrackerConfig,
    runtime: Runtime,
    *,
    discovery: Discovery | None = None,
    find_own_hosts: Callable[[], Sequence[str]] = own_hosts,
    task_status: trio.TaskStatus[dict[str, str | None]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a tracker until cancelled; the started value is its ready line. ``discovery`` None: the LAN is told nothing.

    Raises:
        ConfigError: something about state or addresses is wrong; the sentence says what would be right.
    """
    places = Places.of(config.home, "tracker")
    commands = Commands()
    async with trio.open_nursery() as services:
        await services.start(runtime.control_server(places.control_socket, commands.methods()).run)
        authority, next_authority = await open_authorities(runtime, places.state / AUTHORITY_FOLDER)
        membership = await Membership.open(runtime, places.state / "members.sqlite")
        try:
            registrar = await Registrar.open(runtime, authority, membership)
            registrar.next = next_authority
            credentials = await open_identity(
                runtime, authority, places.identity, registrar.revocations, next_authority
            )
            listener = await runtime.network.listen(*parse_address(config.listen))
            http: HttpServer | None = None
            try:
                http = HttpServer(config.http) if config.http is not None else None
                tracker = Tracker(
                    config,
                    runtime,
                    places,
                    registrar,
                    credentials,
                    listener,
                    http=http.address if http is not None else None,
                    find_own_hosts=find_own_hosts,
                )
                commands.serve(tracker)
                await _serve(tracker, http, discovery, task_status)
            finally:
                listener.close()
                if http is not None:
                    http.close()
        finally:
            with trio.CancelScope(shield=True):
                await membership.aclose()


def _share(
    config: TrackerConfig, registrar: Registrar, clock: Clock, node: NodeId, patience: Patience
) -> Sharing | None:
    if not config.redis:
        return None
    from runtime.redis import RedisAddress
    from tracker.sharing import Sharing

    address = RedisAddress.parse(config.redis)
    return Sharing(address, config.redis_password.reveal(), registrar, clock, node, patience)


async def _serve(
    tracker: Tracker,
    http: HttpServer | None,
    discovery: Discovery | None,
    task_status: trio.TaskStatus[dict[str, str | None]],
) -> None:
    async with trio.open_nursery() as serving:
        await serving.start(tracker.run)
        if http is not None:
            page = Page(tracker.sight, tracker.host_names, tracker.clock)
            await serving.start(page.run)
            await serving.start(http.run, page.app)
        if discovery is not None:
            # Nodes look for us; we look for nobody.
            serving.start_soon(discovery.run, tracker.announcement, _ignore, _ignore)
        ready = tracker.ready
        log.info("tracker ready", listen=ready["listen"], http=ready["http"])
        task_status.started(ready)


def main(config: TrackerConfig, read: Callable[[], TrackerConfig] | None = None) -> int:
    """Run the tracker until SIGTERM or SIGINT; return the exit code. ``read`` reads the settings again (SIGHUP)."""
    setup_logs(config.log_level)
    try:
        trio.run(serve_until_signal, partial(_run_real, config), read)
    except* UpswarmError as group:
        error = _first(group)
        log.error("tracker stopped", reason=str(error), exc_info=not isinstance(error, ConfigError))
        return_code = error.exit_code
    else:
        return_code = 0
    return return_code


async def _run_real(config: TrackerConfig, life: Life[TrackerConfig]) -> None:
    async def reconfigure(read: TrackerConfig) -> Sequence[str]:
        # Everything else was built upon.
        setup_logs(read.log_level)
        return changed_settings(config, read, ("log_level",))

    discovery = ZeroconfDiscovery() if config.mdns else None
    async with trio.open_nursery() as program:
        life.ready(await program.start(partial(run, config, real_runtime(), discovery=discovery)), reconfigure)


def _ignore(_found: object) -> None:
    pass


def _first(group: BaseExceptionGroup[UpswarmError]) -> UpswarmError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, UpswarmError)
    return error
