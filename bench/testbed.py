"""A small internet on this machine: hosts in network namespaces, with lines of real width between them.

    internet    a namespace that routes, and does nothing else. Not a bridge: mDNS must not cross it.
    line        one veth from a host (or its router) to the internet. tbf on the host's own egress is its uplink, on the
                internet's end its downlink.
    LAN         a bridge without an address in the internet's namespace; a host may be on it beside its own line.
    router      a namespace that masquerades (nftables): a host, or a whole LAN, that can only dial out.

Everything is made by exact names that begin with ``upswarm-<our pid>-``, and removed by them, however the block ends;
what a killed run of ours has left is removed by the next one. No traffic leaves the namespaces, and nothing of the
machine's own network is touched. Root is needed. What runs on the hosts is crowd.py's business.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PREFIX = "upswarm-"
# tbf counts whole Ethernet frames; of 1514 bytes 1448 are TCP's payload.
PAYLOAD_SHARE = 1448 / 1514
TOOLS = ("ip", "tc", "nft")
_BURST = "32k"
# tbf takes apart what is larger than its burst: a segment of 64 KiB into 45 packets, with each of which all hops have
# the work that a network card has otherwise. Nine lines of 100 Mbit/s cost two cores 40 % of their time that way. tbf
# counts a header for each packet of a segment that stays whole, too.
_SEGMENT_BYTES_MAX = 30_000
_SAMPLE_SECONDS = 0.05


class CannotBuild(Exception):
    """This machine, or this user, cannot make network namespaces; the sentence says what is missing."""


@dataclass(frozen=True, slots=True)
class Host:
    """``up`` and ``down`` in Mbit/s, None: not shaped. ``lan``: it is on that LAN as well, or, ``behind_lan``, there
    alone, and its line is that of the LAN's router. ``nat``: it has a router of its own. ``queue_milliseconds``: of
    its uplink.
    """

    name: str
    up: float | None = None
    down: float | None = None
    lan: str = ""
    behind_lan: bool = False
    nat: bool = False
    queue_milliseconds: int = 100


@dataclass(frozen=True, slots=True)
class Router:
    """The one line of a whole LAN."""

    lan: str
    up: float | None = None
    down: float | None = None
    queue_milliseconds: int = 100


@dataclass(slots=True)
class Sample:
    """What each line's owner had sent and received, in bytes, at ``at`` (monotonic seconds). Of the packets of a large
    segment one header is counted: on a full line about what it carries of payload."""

    at: float
    sent: dict[str, int] = field(default_factory=dict)
    received: dict[str, int] = field(default_factory=dict)


class Testbed:
    """Use as a context manager."""

    def __init__(self, hosts: Sequence[Host], routers: Sequence[Router] = ()) -> None:
        self.hosts = {host.name: host for host in hosts}
        self.routers = {router.lan: router for router in routers}
        self.addresses: dict[str, str] = {}  # on the internet; of a host behind a router its router's
        self.lan_addresses: dict[str, str] = {}
        self.samples: list[Sample] = []
        self._prefix = f"{PREFIX}{os.getpid()}-"
        self._made: list[str] = []
        self._lines: dict[str, str] = {}  # line's owner -> interface at the internet's end
        self._lans: dict[str, int] = {}
        self._anchor: subprocess.Popen[bytes] | None = None
        self._sampling = threading.Event()
        self._sampler: threading.Thread | None = None

    def __enter__(self) -> Testbed:
        _check_machine()
        remove_leftovers()
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def prefix(self, host: str) -> tuple[str, ...]:
        """Return what goes before a command that is to run on ``host``."""
        return ("ip", "netns", "exec", self._namespace(host))

    def close(self) -> None:
        """Remove everything. Processes on the hosts must have ended."""
        self._sampling.set()
        if self._sampler is not None:
            self._sampler.join()
            self._sampler = None
        if self._anchor is not None:
            self._anchor.kill()
            self._anchor.wait()
            self._anchor = None
        while self._made:
            _run("ip", "netns", "del", self._made.pop(), check=False)

    # --- building ---

    def _build(self) -> None:
        net = self._make_namespace("internet")
        _run("ip", "netns", "exec", net, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        lans = dict.fromkeys(
            [host.lan for host in self.hosts.values() if host.lan] + [router.lan for router in self.routers.values()]
        )
        for number, lan in enumerate(lans):
            self._lans[lan] = number
            _ip(net, "link", "add", _short(f"lan-{lan}"), "type", "bridge", "mcast_snooping", "0")
            _ip(net, "link", "set", _short(f"lan-{lan}"), "up")
        for number, router in enumerate(self.routers.values()):
            name = f"{router.lan}-router"
            namespace = self._make_namespace(name)
            self._add_line(name, 200 + number, router.up, router.down, router.queue_milliseconds)
            self._join_lan(namespace, name, router.lan, 1)
            _masquerade(namespace)
        for number, host in enumerate(self.hosts.values()):
            self._add_host(host, number)
        self._anchor = subprocess.Popen(["ip", "netns", "exec", net, "sleep", "infinity"], stdin=subprocess.DEVNULL)

    def _add_host(self, host: Host, number: int) -> None:
        namespace = self._make_namespace(host.name)
        if host.nat:
            router = self._make_namespace(f"{host.name}-router")
            self._add_line(f"{host.name}-router", number, host.up, host.down, host.queue_milliseconds)
            _ip(router, "link", "add", "in0", "type", "veth", "peer", "name", "wan0", "netns", namespace)
            _up(router, "in0", f"192.168.{number}.1/24")
            _up(namespace, "wan0", f"192.168.{number}.2/24")
            _ip(namespace, "route", "add", "default", "via", f"192.168.{number}.1")
            _masquerade(router)
            self._lines[host.name] = self._lines.pop(f"{host.name}-router")
            self.addresses[host.name] = self.addresses.pop(f"{host.name}-router")
        elif not host.behind_lan:
            self._add_line(host.name, number, host.up, host.down, host.queue_milliseconds)
        if host.lan:
            self._join_lan(namespace, host.name, host.lan, number + 10)
            if host.behind_lan:
                _ip(namespace, "route", "add", "default", "via", f"10.80.{self._lans[host.lan]}.1")
                self.addresses[host.name] = self.addresses[f"{host.lan}-router"]

    def _add_line(self, owner: str, number: int, up: float | None, down: float | None, queue_milliseconds: int) -> None:
        net, namespace, outer = self._namespace("internet"), self._namespace(owner), f"line{number}"
        _ip(net, "link", "add", outer, "type", "veth", "peer", "name", "wan0", "netns", namespace)
        _up(net, outer, f"10.64.{number}.1/24")
        _up(namespace, "wan0", f"10.64.{number}.2/24")
        _ip(namespace, "route", "add", "default", "via", f"10.64.{number}.1")
        _shape(namespace, "wan0", up, queue_milliseconds)
        _shape(net, outer, down, queue_milliseconds)
        self._lines[owner] = outer
        self.addresses[owner] = f"10.64.{number}.2"

    def _join_lan(self, namespace: str, owner: str, lan: str, number: int) -> None:
        net, port = self._namespace("internet"), f"port{self._lans[lan]}-{number}"
        _ip(net, "link", "add", port, "type", "veth", "peer", "name", "lan0", "netns", namespace)
        _ip(net, "link", "set", port, "master", _short(f"lan-{lan}"), "up")
        address = f"10.80.{self._lans[lan]}.{number}"
        _up(namespace, "lan0", f"{address}/24")
        self.lan_addresses[owner] = address

    def _namespace(self, name: str) -> str:
        return self._prefix + name

    def _make_namespace(self, name: str) -> str:
        namespace = self._namespace(name)
        _run("ip", "netns", "add", namespace)
        self._made.append(namespace)
        _ip(namespace, "link", "set", "lo", "up")
        return namespace

    # --- watching ---

    def watch(self) -> None:
        """Begin to sample all lines."""
        self.samples.clear()
        self.samples.append(self.sample())
        if self._sampler is None:
            self._sampler = threading.Thread(target=self._sample_often, name="lines", daemon=True)
            self._sampler.start()

    def sample(self) -> Sample:
        """Return the counters now."""
        assert self._anchor is not None
        sample = Sample(time.monotonic())
        owners = {interface: owner for owner, interface in self._lines.items()}
        for line in Path(f"/proc/{self._anchor.pid}/net/dev").read_text().splitlines()[2:]:
            name, _, numbers = line.partition(":")
            owner = owners.get(name.strip())
            if owner is not None:
                columns = numbers.split()
                # What the internet's end receives its owner has sent. veth does not count the 14 bytes of Ethernet.
                sample.sent[owner] = int(columns[0])
                sample.received[owner] = int(columns[8])
        return sample

    def _sample_often(self) -> None:
        while not self._sampling.wait(_SAMPLE_SECONDS):
            self.samples.append(self.sample())


def usable(mbit: float) -> float:
    """Return how many bytes per second of TCP payload a line of ``mbit`` Mbit/s carries."""
    return mbit * 1e6 / 8 * PAYLOAD_SHARE


def remove_leftovers() -> None:
    """Remove the namespaces of runs of this program that were killed."""
    folder = Path("/run/netns")
    for path in folder.iterdir() if folder.is_dir() else ():
        pid = path.name.removeprefix(PREFIX).partition("-")[0]
        if path.name.startswith(PREFIX) and pid.isdigit() and not Path(f"/proc/{pid}").exists():
            _run("ip", "netns", "del", path.name, check=False)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Freeze a process while the block lasts: a host that stalls with its links open."""
    os.kill(pid, 19)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 18)


def _check_machine() -> None:
    if os.geteuid() != 0:
        raise CannotBuild("network namespaces need root: run this as root, or with sudo")
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise CannotBuild(f"{', '.join(missing)} not found: apt-get install iproute2 nftables")


def _run(*command: str, check: bool = True) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if check and done.returncode:
        raise CannotBuild(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")


def _ip(namespace: str, *words: str) -> None:
    _run("ip", "-n", namespace, *words)


def _up(namespace: str, interface: str, address: str) -> None:
    _ip(namespace, "address", "add", address, "dev", interface)
    _ip(namespace, "link", "set", interface, "up")


def _short(name: str) -> str:
    return name[:15]  # what an interface may be called


def _shape(namespace: str, interface: str, mbit: float | None, queue_milliseconds: int) -> None:
    if mbit is not None:
        _ip(namespace, "link", "set", interface, "gso_max_size", str(_SEGMENT_BYTES_MAX))
        words = ("rate", f"{round(mbit * 1000)}kbit", "burst", _BURST, "latency", f"{queue_milliseconds}ms")
        _run("tc", "-n", namespace, "qdisc", "add", "dev", interface, "root", "tbf", *words)


def _masquerade(namespace: str) -> None:
    _run("ip", "netns", "exec", namespace, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    rules = (
        "add table ip nat; add chain ip nat post { type nat hook postrouting priority 100; };"
        ' add rule ip nat post oifname "wan0" masquerade'
    )
    _run("ip", "netns", "exec", namespace, "nft", rules)
