"""A whole swarm in one process, from one seed: the production programs on simulated clock, network, threads and disks.

``simulate(seed, story)`` builds the world, lets the nodes join without faults, calls the story, and checks on the way
and at the end (checks.py). The same seed makes the same trace in every process.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
import trio
import trio.testing
from simulation.checks import Checks
from simulation.hosts import HOME, USER, DaemonHost, Down, SimHost, StorageHost, TrackerHost
from simulation.network import SimNetwork

from protocol.errors import CommandError
from protocol.ids import Role
from protocol.invite import Invite
from protocol.manifest import Layout, Manifest
from runtime.join import join_swarm
from runtime.link import Link
from runtime.places import Places

MIB = 1 << 20


class World:
    """Hosts, network, checks and the trace of one run."""

    def __init__(self, seed: int, nursery: trio.Nursery) -> None:
        self.seed = seed
        self.rng = random.Random(f"{seed}/world")
        self.network = SimNetwork(random.Random(f"{seed}/network"))
        self.hosts: dict[str, SimHost] = {}
        self.files: dict[str, tuple[bytes, Manifest]] = {}  # by path
        self.checks = Checks(self)
        self.trace = hashlib.sha256()
        self.trace_lines: list[str] | None = None
        self.steps = 0
        self.chaos = True
        self._nursery = nursery

    # --- building ---

    async def build(self, daemons: int, storages: int = 1, *, capacity_bytes: int = 1 << 34) -> None:
        """Start a tracker, storage nodes and daemons, joined as people would join them."""
        await self._add(TrackerHost, "tracker", 1, capacity_bytes)
        for number in range(storages):
            await self._add(StorageHost, f"storage{number + 1}", 10 + number, capacity_bytes)
        for number in range(daemons):
            await self._add(DaemonHost, f"peer{number + 1}", 100 + number, capacity_bytes)

    async def _add(self, kind: type[SimHost], name: str, number: int, capacity_bytes: int) -> SimHost:
        port = self.network.add_host(f"10.0.{number // 256}.{number % 256}")
        port.latency_seconds = self.rng.uniform(0.001, 0.02)
        host = self.hosts[name] = kind(name, self.network, port, str(self.seed), capacity_bytes)
        if not isinstance(host, TrackerHost):
            role, program = (Role.STORAGE, "storage") if isinstance(host, StorageHost) else (Role.PEER, "daemon")
            answer = await self.hosts["tracker"].call("invite", role=role.value, uses=1, expires_seconds=3600)
            folder = Places.of(HOME, program).identity
            await join_swarm(host.runtime(), Invite.parse(answer["invite"]), folder, name)
        if isinstance(host, StorageHost):
            host.on_open = self.checks.storage_opened
        assert await self.start(host)
        return host

    async def start(self, host: SimHost) -> bool:
        """Begin a life of ``host``; False: its program ended at once, by a broken disk."""
        self.note("start", host.name)
        return await self._nursery.start(host.live)

    def daemons(self) -> list[DaemonHost]:
        return [host for host in self.hosts.values() if isinstance(host, DaemonHost)]

    def storages(self) -> list[StorageHost]:
        return [host for host in self.hosts.values() if isinstance(host, StorageHost)]

    # --- doing ---

    def write_file(self, host: SimHost, name: str, size: int, content_seed: int) -> Path:
        """Put a user's file on a host's disk, durable; the same content seed and size make the same bytes."""
        data = random.Random(f"content/{content_seed}/{size}").randbytes(size)
        path = USER / name
        if path not in host.platter.names:
            inode = host.platter.new_inode()
            inode.data = bytearray(data)
            inode.sync()
            for folder in (USER, path.parent):
                host.platter.change(lambda names, folder=folder: names.setdefault(folder, None))
            host.platter.change(lambda names: names.__setitem__(path, inode))
            host.platter.sync_names()
        layout = Layout.of_size(size)
        digests = [
            hashlib.sha256(data[layout.offset_of(i) : layout.offset_of(i) + layout.bytes_of(i)]).digest()
            for i in range(layout.chunks)
        ]
        manifest = Manifest.of_digests(size, digests)
        self.checks.known[manifest.tag] = data
        self.files[str(path)] = (data, manifest)
        return path

    async def put(self, host: SimHost, path: Path) -> None:
        """Give the command; what becomes of it, ``checks`` and ``settled`` see."""
        self.note("put", host.name, str(path))
        self.checks.attempted.add(self.files[str(path)][1].tag)
        result = await host.call("put", paths=[str(path)], wait="no")
        self.checks.put_was_accepted(host, self.files[str(path)][1])
        self.note("put accepted", host.name, str(len(result["results"])))

    async def settled(self, seconds: float) -> None:
        """Wait until every accepted put is stored. Raises ``AssertionError`` when that takes longer."""
        with trio.move_on_after(seconds):
            while not self.checks.all_stored():
                await trio.sleep(0.5)
            return
        raise AssertionError(f"not settled after {seconds:.0f} s: {self.checks.unsettled()}")

    async def heal(self) -> None:
        """No more faults: everything runs, everything is connected."""
        self.note("heal")
        self.network.heal()
        self.network.refuse_dial = lambda source, target: False
        for host in self.hosts.values():
            host.platter.fail_operation = lambda number, what: None
            host.platter.fsync_fails = lambda: False
            host.platter.capacity_bytes = 1 << 40
            host.clock.skew_seconds = 0.0
        for host in self.hosts.values():
            if not host.running:
                await host.wait_ended()
                assert await self.start(host), f"{host.name} does not start: {host.ended_by}"

    def note(self, *what: object) -> None:
        """Write one line of the trace."""
        line = f"{trio.current_time():.6f} {' '.join(str(word) for word in what)}"
        self.trace.update(line.encode() + b"\n")
        if self.trace_lines is not None:
            self.trace_lines.append(line)


Story = Callable[[World], Awaitable[None]]


def simulate(seed: int, story: Story, *, trace: bool = False) -> tuple[str, list[str] | None, float]:
    """Run ``story`` in the world of ``seed``; return the trace's hash, its lines if asked for, and how long it was.

    The scheduling of trio is random on purpose; these private names are the ones trio's own hypothesis hook and its
    determinism test set, and nothing else makes a seed mean anything.
    """
    import trio._core._run as run

    run._ALLOW_DETERMINISTIC_SCHEDULING = True
    run._r.seed(seed)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50), cache_logger_on_first_use=False)
    result: list[World] = []
    ended_at: list[float] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            world = World(seed, nursery)
            if trace:
                world.trace_lines = []
            result.append(world)
            with world.checks.watching():
                await story(world)
                world.checks.at_rest()
            ended_at.append(trio.current_time())
            for host in world.hosts.values():
                host.crash(power=False)
            nursery.cancel_scope.cancel()

    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(main, clock=clock)
    world = result[0]
    return world.trace.hexdigest(), world.trace_lines, ended_at[0]


__all__ = ["CommandError", "Down", "Link", "World", "simulate"]
