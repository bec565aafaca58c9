"""A whole swarm in one process, from one seed: the production programs on simulated clock, network, threads and disks.

``simulate(seed, story)`` builds the world, calls the story, and checks on the way and at the end (checks.py). The same
seed makes the same trace in every process.

Nodes do not join anew in every world: joining is done once for each ``Shape``, in a world of its own, and what is on
the platters then is what all worlds of that shape begin with. Nodes that join later, by ``join``, do it in earnest.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import random
import ssl
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import trio
from simulation.checks import Checks
from simulation.disk import nothing_fails
from simulation.hosts import HOME, USER, DaemonHost, Down, SimHost, StorageHost, TrackerHost
from simulation.network import HostPort, SimNetwork
from simulation.promises import Promise
from simulation.timeline import Timeline
from support.plain_security import PlainSecurity

import runtime.identity
import runtime.renewal
import runtime.tls
from protocol.errors import CommandError
from protocol.ids import Role
from protocol.invite import Invite
from protocol.manifest import Layout, Manifest
from runtime.join import join_swarm
from runtime.link import Link
from runtime.places import Places
from runtime.tls import TlsSecurity

MIB = 1 << 20


@dataclass(frozen=True)
class Shape:
    """Who is there. ``tls``: real TLS between them. ``lend``: daemons also relay what nobody there wants."""

    daemons: int = 3
    storages: int = 1
    tls: bool = False
    lend: bool = False

    def places(self) -> Iterator[tuple[type[SimHost], str, str]]:
        """Yield kind, name and address of every host."""
        yield TrackerHost, "tracker", "10.0.0.1"
        for number in range(self.storages):
            yield StorageHost, f"storage{number + 1}", f"10.0.0.{10 + number}"
        for number in range(self.daemons):
            yield DaemonHost, f"peer{number + 1}", _peer_address(number)


def _peer_address(number: int) -> str:
    return f"10.{1 + number // 250}.0.{1 + number % 250}"


class World:
    """Hosts, network, checks and the trace of one run."""

    def __init__(self, seed: int | str, nursery: trio.Nursery, timeline: Timeline, shape: Shape) -> None:
        self.seed = seed
        self.shape = shape
        self.timeline = timeline
        self.rng = random.Random(f"{seed}/world")
        self.network = SimNetwork(random.Random(f"{seed}/network"), timeline)
        self.hosts: dict[str, SimHost] = {}
        self.files: dict[str, tuple[bytes, Manifest]] = {}  # by path
        self.checks = Checks(self)
        self.trace = hashlib.sha256()
        self.trace_lines: list[str] | None = None
        self.steps = 0
        self.chaos = True
        self.image: Image = {}
        self.security: Any = TlsSecurity() if shape.tls else PlainSecurity()
        self._nursery = nursery
        self._places: dict[str, SimHost] = {}

    # --- building ---

    def place(self, kind: type[SimHost], name: str, address: str) -> SimHost:
        """Put a host into the network, not running, with nothing on its platter."""
        port = self.network.add_host(address)
        port.latency_seconds = self.rng.uniform(0.001, 0.02)
        host = self.hosts[name] = kind(name, self.network, port, str(self.seed), self.security)
        host.platter.ordered = self.rng.random() < 0.5
        if isinstance(host, StorageHost):
            host.on_open = self.checks.storage_opened
            host.platter.on_write = functools.partial(self.checks.written, host)
            host.platter.on_rename = functools.partial(self.checks.renamed, host)
        if isinstance(host, DaemonHost):
            host.lend = self.shape.lend
        return host

    async def boot(self) -> None:
        """Start everybody whom the shape names, from where the image left them."""
        for kind, name, address in self.shape.places():
            host = self.place(kind, name, address)
            host.platter.load(self.image[name])
            assert await self.start(host)

    async def join(self, kind: type[SimHost], name: str, address: str) -> SimHost:
        """Let a new node join as people do, and start it. Raises what stands in its way."""
        host = self.hosts.get(name) or self.place(kind, name, address)
        role, program = (Role.STORAGE, "storage") if isinstance(host, StorageHost) else (Role.PEER, "daemon")
        answer = await self.tracker.call("invite", role=role.value, uses=1, expires_seconds=3600)
        folder = Places.of(HOME, program).identity
        await join_swarm(host.runtime(), Invite.parse(answer["invite"]), folder, name)
        host.joined = True
        await self.start(host)
        return host

    async def start(self, host: SimHost) -> bool:
        """Begin a life of ``host``, if it has none; False: its program ended at once, by a broken disk."""
        if host.running or host.starting:
            return True
        self.note("start", host.name)
        host.starting = True
        return await self._nursery.start(host.live)

    def host_at(self, port: HostPort) -> SimHost:
        """Return whose place in the network ``port`` is now."""
        host = self._places.get(port.address)
        if host is None or host.port is not port:
            self._places = {host.port.address: host for host in self.hosts.values()}
            host = self._places[port.address]
        return host

    async def make_liar(self, host: SimHost) -> None:
        """From now on ``host`` knows the right digests and sends wrong bytes."""
        assert isinstance(host, DaemonHost)
        host.lies = True
        if host.program is not None:
            host.garble(host.program)

    @property
    def tracker(self) -> TrackerHost:
        host = self.hosts["tracker"]
        assert isinstance(host, TrackerHost)
        return host

    def daemons(self) -> list[DaemonHost]:
        return [host for host in self.hosts.values() if isinstance(host, DaemonHost)]

    def storages(self) -> list[StorageHost]:
        return [host for host in self.hosts.values() if isinstance(host, StorageHost)]

    # --- doing ---

    def start_soon(self, work: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Let something happen beside the story."""
        self._nursery.start_soon(work, *args)

    def write_file(self, host: SimHost, name: str, size: int, content_seed: int) -> Path:
        """Put a user's file on a host's disk, durable; the same content seed and size make the same bytes."""
        data, manifest = content_of(content_seed, size)
        path = USER / name
        platter = host.platter
        if path not in platter.names:
            inode = platter.add_file(data)
            for names in (platter.names, platter.durable_names):
                names.setdefault(USER, None)
                names[path] = inode
            platter.version += 1
        self.checks.known[manifest.tag] = data
        self.files[str(path)] = (data, manifest)
        return path

    async def put(self, host: SimHost, path: Path) -> Manifest:
        """Give the command; what becomes of it, ``checks`` and ``settled`` see."""
        self.note("put", host.name, str(path))
        manifest = self.files[str(path)][1]
        self.checks.attempted.add(manifest.tag)
        result = await host.call("put", paths=[str(path)], wait="no")
        self.checks.put_was_accepted(host, manifest)
        self.note("put accepted", host.name, str(len(result["results"])))
        return manifest

    async def settled(self, seconds: float) -> None:
        """Wait until every accepted put is stored and every get has ended. Raises ``Violation`` when that takes
        longer."""
        with trio.move_on_after(seconds):
            while self.checks.unsettled():
                await trio.sleep(0.5)
            return
        self.checks.fail(Promise.ALL_ENDS, f"not settled after {seconds:.0f} s: {self.checks.unsettled()}")

    def all_up(self) -> bool:
        """Whether everybody who belongs to the swarm runs. One that was just ending needs a moment."""
        return all(host.program is not None for host in self.hosts.values() if host.joined)

    async def heal(self) -> None:
        """No more faults: everything runs, everything is connected."""
        self.note("heal")
        self.network.heal()
        for host in self.hosts.values():
            host.platter.fail_operation = nothing_fails
            host.platter.fsync_fails = lambda: False
            host.platter.capacity_bytes = 1 << 40
            host.clock.skew_seconds = 0.0
            if host.port.frozen:
                self.network.freeze(host.port.address, False)
        for host in self.hosts.values():
            while host.usurper is not None:
                host.usurper.cancel()
                await trio.sleep(0.01)
            if host.joined and (not host.running or host.ending):
                await host.wait_ended()
                assert await self.start(host), f"{host.name} does not start: {host.ended_by}"

    def note(self, *what: object) -> None:
        """Write one line of the trace."""
        line = f"{self.timeline.now:.6f} {' '.join(str(word) for word in what)}"
        self.trace.update(line.encode() + b"\n")
        if self.trace_lines is not None:
            self.trace_lines.append(line)


Story = Callable[[World], Awaitable[None]]
Image = dict[str, dict[Path, bytes | None]]


@functools.lru_cache(maxsize=64)
def content_of(content_seed: int, size: int) -> tuple[bytes, Manifest]:
    """Return a file's bytes and its manifest."""
    data = random.Random(f"content/{content_seed}/{size}").randbytes(size)
    layout = Layout.of_size(size)
    digests = [
        hashlib.sha256(data[layout.offset_of(i) : layout.offset_of(i) + layout.bytes_of(i)]).digest()
        for i in range(layout.chunks)
    ]
    return data, Manifest.of_digests(size, digests)


@dataclass
class Run:
    """What came of a simulation. ``trace`` is a hash; ``seconds`` are the world's."""

    trace: str = ""
    seconds: float = 0.0
    steps: int = 0


@functools.lru_cache(maxsize=16)
def image_of(shape: Shape) -> Image:
    """Return the platters of a swarm of which everybody has just joined."""
    image: Image = {}

    async def join_all(world: World) -> None:
        for kind, name, address in shape.places():
            if kind is TrackerHost:
                host = world.place(kind, name, address)
                assert await world.start(host)
            else:
                host = await world.join(kind, name, address)
            # Cleanly, so that what a crash leaves is not in every world's beginning.
        for host in reversed(world.hosts.values()):
            await host.stop()
            image[host.name] = host.platter.image()

    _run(f"image/{shape.daemons}/{shape.storages}", join_all, shape, None, checked=False)
    return image


def simulate(seed: int | str, story: Story, shape: Shape | None = None, *, trace: list[str] | None = None) -> Run:
    """Run ``story`` in the world of ``seed``; ``trace`` is filled with what happens, also when it fails."""
    shape = shape or Shape()
    plain = Shape(shape.daemons, shape.storages)
    return _run(seed, story, shape, image_of(plain), trace=trace)


def _run(
    seed: int | str,
    story: Story,
    shape: Shape,
    image: Image | None,
    *,
    trace: list[str] | None = None,
    checked: bool = True,
) -> Run:
    timeline = Timeline()
    done = Run()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            world = World(seed, nursery, timeline, shape)
            world.image = image or {}
            world.trace_lines = trace
            try:
                with world.checks.watching() if checked else contextlib.nullcontext():
                    await story(world)
                    if checked:
                        world.checks.at_rest()
                done.seconds = timeline.now
            finally:
                done.trace, done.steps = world.trace.hexdigest(), world.steps
                for host in world.hosts.values():
                    host.crash(power=False)
                nursery.cancel_scope.cancel()

    with _deterministic(seed), _quick():
        trio.run(main, clock=timeline)
    return done


@contextlib.contextmanager
def _deterministic(seed: int | str) -> Iterator[None]:
    """The scheduling of trio is random on purpose; these private names are the ones trio's own hypothesis hook and its
    determinism test set, and nothing else makes a seed mean anything."""
    import trio._core._run as run

    before, state = run._ALLOW_DETERMINISTIC_SCHEDULING, run._r.getstate()
    run._ALLOW_DETERMINISTIC_SCHEDULING = True
    run._r.seed(str(seed))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50), cache_logger_on_first_use=False)
    try:
        yield
    finally:
        run._ALLOW_DETERMINISTIC_SCHEDULING = before
        run._r.setstate(state)
        structlog.reset_defaults()


_judge = functools.lru_cache(maxsize=4096)(runtime.identity.judge)
_read_revocations = functools.lru_cache(maxsize=1024)(runtime.identity.read_revocations)
_renewal_due = functools.lru_cache(maxsize=4096)(runtime.renewal.renewal_due)


@contextlib.contextmanager
def _quick() -> Iterator[None]:
    """Remember what pure functions of certificates returned, in all worlds of this process. OpenSSL is told to leave
    dates alone: it would look at this machine's clock, and the world's is another one."""
    make_context = runtime.tls._make_context

    def make_timeless_context(*args: Any, **settings: Any) -> ssl.SSLContext:
        context = make_context(*args, **settings)
        context.verify_flags |= ssl.VerifyFlags(0x200000)  # X509_V_FLAG_NO_CHECK_TIME
        return context

    places: list[tuple[Any, str, Any]] = [
        (runtime.identity, "judge", _judge),
        (runtime.identity, "read_revocations", _read_revocations),
        (runtime.renewal, "renewal_due", _renewal_due),
        (runtime.tls, "_make_context", make_timeless_context),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in places]
    for module, name, quick in places:
        setattr(module, name, quick)
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        for module, name, slow in before:
            setattr(module, name, slow)
        if collecting:
            gc.enable()


__all__ = ["CommandError", "Down", "Link", "Run", "Shape", "World", "simulate"]
