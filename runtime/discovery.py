"""Who of our swarm is on this LAN, by mDNS: addresses only. Identity always comes from the handshake.

Every node announces ``<node id>._upswarm._tcp.local.`` with its swarm, node id, role and protocol version, and listens
for others. Decides which announcements count (same swarm, well formed, not our own) and how many are remembered; anyone
on the LAN can announce anything, so that nothing here is more than a hint where to dial.

zeroconf lives in threads of its own; what it finds crosses by ``TrioToken.run_sync_soon`` into the task of ``run``,
which alone calls the program. A machine whose addresses change (another Wi-Fi) is announced anew. Specification:
docs/protocol.md#lan.

Considered: zeroconf's asyncio interface on a guest loop inside trio. Two loops in one thread make every traceback a
riddle, and nothing here is in a hurry.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import structlog
import trio
import zeroconf
from zeroconf.asyncio import AsyncServiceInfo

from protocol.ids import NodeAddress, NodeId, Role, format_address, parse_address, parse_node_id
from protocol.limits import ADDRESSES_MAX, PROTOCOL_VERSION
from runtime.heartbeat import TrackerLink

log = structlog.get_logger()

SERVICE = "_upswarm._tcp.local."
LOOPBACK = "127.0.0.1"
# A LAN of more nodes needs no help to find one.
FOUND_MAX = 1024
# Announcements being looked up at once; what comes on top is announced again by its owner.
_RESOLVING_MAX = 32
_RESOLVE_SECONDS = 3.0
# A node that was killed says no goodbye: its record dies after this. (RFC 6762 §10 has 75 minutes for some of them,
# meant for printers.)
_RECORD_SECONDS = 120
# Addresses of this machine are compared so often; also the pause after a failure.
_LOOK_SECONDS = 15.0
# zeroconf says goodbye three times, 125 ms apart.
_CLOSE_SECONDS_MAX = 3.0
# Where container bridges live by default: they lead nowhere from another machine, and are announced last.
_BRIDGES = ipaddress.ip_network("172.16.0.0/12")


@dataclass(frozen=True, slots=True)
class Announcement:
    """What we say of ourselves. ``addresses``: where we listen; "0.0.0.0:port" stands for every address we have."""

    swarm: str
    node: NodeId
    role: Role
    addresses: tuple[str, ...]
    version: int = PROTOCOL_VERSION


@dataclass(frozen=True, slots=True)
class LanNode:
    """A node of our swarm that is said to be on this LAN."""

    node: NodeId
    role: Role
    addresses: tuple[str, ...]
    version: int = PROTOCOL_VERSION

    @property
    def address(self) -> NodeAddress:
        """Where it may be dialled."""
        return NodeAddress(self.node, self.role, self.addresses)


Found = Callable[[LanNode], None]
Lost = Callable[[NodeId], None]


class Discovery(Protocol):
    """A way to find nodes of one's swarm nearby."""

    async def run(self, own: Announcement, found: Found, lost: Lost) -> None:
        """Announce ``own`` and watch, until cancelled; then take the announcement back.

        ``found`` is called in this task for every other node of the same swarm, again when it changes; ``lost`` when
        it took its announcement back or fell silent. Trouble of the net is logged and outlived, never raised.
        """
        ...


def introduce_tracker(link: TrackerLink, otherwise: Found) -> Found:
    """Return a ``found`` that tells ``link`` where its trackers were seen, and passes on every other node."""

    def found(node: LanNode) -> None:
        if any(node.node == tracker.node for tracker in link.trackers):
            for address in node.addresses:
                link.add_address(address, node.node)
        else:
            otherwise(node)

    return found


class Neighbours:
    """The bounded table of who was found, and when to say so. One for each ``run``."""

    def __init__(self, own: Announcement, found: Found, lost: Lost) -> None:
        self._own = own
        self._found = found
        self._lost = lost
        self._nodes: dict[NodeId, LanNode] = {}

    def see(self, swarm: str, node: LanNode) -> None:
        """Someone announced ``node``."""
        if swarm != self._own.swarm or node.node == self._own.node or self._nodes.get(node.node) == node:
            return
        if node.node not in self._nodes and len(self._nodes) >= FOUND_MAX:
            return
        self._nodes[node.node] = node
        self._found(node)

    def miss(self, node: NodeId) -> None:
        """Its announcement was taken back, or grew old."""
        if self._nodes.pop(node, None) is not None:
            self._lost(node)

    def miss_all(self) -> None:
        """We stopped listening."""
        for node in list(self._nodes):
            self.miss(node)


class ZeroconfDiscovery:
    """``Discovery`` by mDNS. ``interfaces``: our IP addresses to speak on; None chooses: loopback alone when we listen
    on nothing else, all interfaces (loopback among them, for several daemons on one machine) otherwise.
    """

    def __init__(self, interfaces: tuple[str, ...] | None = None) -> None:
        self._interfaces = interfaces

    async def run(self, own: Announcement, found: Found, lost: Lost) -> None:
        """See ``Discovery``."""
        neighbours = Neighbours(own, found, lost)
        troubled = False
        while True:
            hosts = await trio.to_thread.run_sync(self._hosts, own)
            mailbox = _Mailbox(trio.lowlevel.current_trio_token())
            responder: _Responder | None = None
            try:
                responder = await trio.to_thread.run_sync(_Responder, own, hosts, mailbox.post)
                await trio.to_thread.run_sync(responder.announce)
                troubled = False
                await self._watch(own, hosts, mailbox, neighbours)
            # OSError: no network, or none that takes multicast. RuntimeError and TimeoutError: zeroconf's own words.
            except (OSError, RuntimeError, TimeoutError, zeroconf.Error) as error:
                if not troubled:
                    log.warning("no discovery on this LAN", interfaces=hosts, reason=str(error) or type(error).__name__)
                troubled = True
                await trio.sleep(_LOOK_SECONDS)
            finally:
                if responder is not None:
                    with trio.move_on_after(_CLOSE_SECONDS_MAX, shield=True):
                        await trio.to_thread.run_sync(responder.close, abandon_on_cancel=True)
            # What was found on the old interfaces is found again on the new ones, or is not there any more.
            neighbours.miss_all()

    async def _watch(
        self, own: Announcement, hosts: tuple[str, ...], mailbox: _Mailbox, neighbours: Neighbours
    ) -> None:
        """Pass on what comes in, until this machine's addresses are others."""
        look_at = trio.current_time() + _LOOK_SECONDS
        while True:
            with trio.move_on_at(look_at):
                await mailbox.arrived()
            for node, seen in mailbox.take():
                if seen is None:
                    neighbours.miss(node)
                else:
                    neighbours.see(*seen)
            if trio.current_time() >= look_at:
                look_at = trio.current_time() + _LOOK_SECONDS
                if await trio.to_thread.run_sync(self._hosts, own) != hosts:
                    log.info("addresses of this machine changed")
                    return

    def _hosts(self, own: Announcement) -> tuple[str, ...]:
        if self._interfaces is not None:
            return self._interfaces
        listening = [parse_address(address)[0] for address in own.addresses]
        if listening and all(_is_loopback(host) for host in listening):
            return (LOOPBACK,)
        every: list[str] = zeroconf.get_all_addresses()  # type: ignore[attr-defined]  # it is not in their __all__
        return tuple(sorted(set(every))) or (LOOPBACK,)


def announced_addresses(own: Announcement, hosts: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
    """Return the IP addresses and the port to announce for a node with these interfaces; port 0: it does not listen.

    Loopback is announced only by who listens there alone: to others it would mean themselves.
    """
    if not own.addresses:
        return (), 0
    port = parse_address(own.addresses[0])[1]
    chosen: dict[str, None] = {}
    for text in own.addresses:
        host, its_port = parse_address(text)
        # A service has one port; an address with another one is told by Hello.
        if its_port == port:
            chosen.update(dict.fromkeys(hosts if host == "0.0.0.0" else (host,)))
    addresses = [address for address in chosen if _as_ip(address) is not None]
    public = [address for address in addresses if not _is_loopback(address)]
    ordered = sorted(public or addresses, key=_is_bridge)
    return tuple(ordered[:ADDRESSES_MAX]), port


def read_announcement(name: str, info: zeroconf.ServiceInfo) -> tuple[str, LanNode] | None:
    """Return swarm and node of what a stranger announces as ``name``; None when it is no node."""
    told = info.decoded_properties
    try:
        node = parse_node_id(told.get("node") or "")
        role = Role(told.get("role") or "")
        version = int((told.get("version") or "")[:5])
    except ValueError:
        return None
    # The name is what makes a later announcement replace this one: it must be the node's own.
    if name.partition(".")[0].lower() != node or version < 1 or not info.port:
        return None
    addresses = []
    for host in info.parsed_scoped_addresses()[:ADDRESSES_MAX]:
        text = format_address(host, info.port)
        try:
            parse_address(text)
        except ValueError:
            continue
        addresses.append(text)
    if not addresses:
        return None
    return told.get("swarm") or "", LanNode(node, role, tuple(addresses), version)


@dataclass
class _Mailbox:
    """Carries news from zeroconf's threads to a task. Holds the newest news of each node, so it cannot grow."""

    token: trio.lowlevel.TrioToken
    _news: dict[NodeId, tuple[str, LanNode] | None] = field(default_factory=dict)
    _event: trio.Event = field(default_factory=trio.Event)

    def post(self, node: NodeId, seen: tuple[str, LanNode] | None) -> None:
        """Call from any thread."""
        # The program may have ended while the thread was looking something up.
        with contextlib.suppress(trio.RunFinishedError):
            self.token.run_sync_soon(self._put, node, seen)

    def _put(self, node: NodeId, seen: tuple[str, LanNode] | None) -> None:
        if node in self._news or len(self._news) < FOUND_MAX:
            self._news.pop(node, None)
            self._news[node] = seen
            self._event.set()

    async def arrived(self) -> None:
        await self._event.wait()

    def take(self) -> list[tuple[NodeId, tuple[str, LanNode] | None]]:
        self._event = trio.Event()
        news = list(self._news.items())
        self._news.clear()
        return news


class _Responder:
    """One zeroconf instance: made, used and closed in threads. Its own thread runs an asyncio loop."""

    def __init__(
        self,
        own: Announcement,
        hosts: tuple[str, ...],
        post: Callable[[NodeId, tuple[str, LanNode] | None], None],
    ) -> None:
        self._post = post
        self._own = own
        self._hosts = hosts
        self._resolving: dict[str, bool] = {}  # name: has it changed again meanwhile
        self._tasks: set[asyncio.Task[None]] = set()
        self._zeroconf = zeroconf.Zeroconf(interfaces=list(hosts))
        self._browser = zeroconf.ServiceBrowser(self._zeroconf, SERVICE, handlers=[self._changed])

    def announce(self) -> None:
        """Announce ourselves; takes more than a second."""
        addresses, port = announced_addresses(self._own, self._hosts)
        if not port or not addresses:
            return
        info = zeroconf.ServiceInfo(
            SERVICE,
            f"{self._own.node}.{SERVICE}",
            port=port,
            parsed_addresses=list(addresses),
            properties={
                "swarm": self._own.swarm,
                "node": self._own.node,
                "role": self._own.role.value,
                "version": str(self._own.version),
            },
            server=f"{self._own.node}.local.",
            host_ttl=_RECORD_SECONDS,
            other_ttl=_RECORD_SECONDS,
        )
        # Node ids are unique: nobody needs to be asked whether the name is free, and after a kill our own old record
        # must not count as somebody else's.
        self._zeroconf.register_service(info, cooperating_responders=True)

    def close(self) -> None:
        """Take the announcement back and end all threads."""
        try:
            self._browser.cancel()
            self._zeroconf.close()
        # The goodbye is a courtesy; without it our record dies of age.
        except (OSError, RuntimeError, TimeoutError, zeroconf.Error) as error:
            log.debug("discovery did not close cleanly", reason=str(error) or type(error).__name__)

    # --- in the browser's thread ---

    def _changed(
        self,
        zeroconf: zeroconf.Zeroconf,
        service_type: str,
        name: str,
        state_change: zeroconf.ServiceStateChange,
    ) -> None:
        loop = self._zeroconf.loop
        # A loop that has closed means that we are closing.
        with contextlib.suppress(RuntimeError):
            if loop is not None:
                loop.call_soon_threadsafe(self._follow, name, state_change.name)

    # --- in zeroconf's loop ---

    def _follow(self, name: str, change: str) -> None:
        if change == "Removed":
            with contextlib.suppress(ValueError):
                self._post(parse_node_id(name.partition(".")[0].lower()), None)
        elif name in self._resolving:
            self._resolving[name] = True
        elif len(self._resolving) < _RESOLVING_MAX:
            self._resolving[name] = False
            task = asyncio.get_running_loop().create_task(self._resolve(name))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _resolve(self, name: str) -> None:
        try:
            again = True
            while again:
                self._resolving[name] = False
                info = AsyncServiceInfo(SERVICE, name)
                if await info.async_request(self._zeroconf, _RESOLVE_SECONDS * 1000):
                    seen = read_announcement(name, info)
                    if seen is not None:
                        self._post(seen[1].node, seen)
                again = self._resolving[name]
        finally:
            del self._resolving[name]


def _as_ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    address = _as_ip(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _is_bridge(host: str) -> bool:
    address = _as_ip(host)
    return isinstance(address, ipaddress.IPv4Address) and address in _BRIDGES
