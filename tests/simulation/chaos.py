"""Chaos, then healing: everything that may go wrong, drawn from the seed; afterwards every accepted put must be stored.

A schedule is plain data (``Schedule``), so that it can be printed, replayed, and shrunk by hypothesis. Deeds are what
users do; faults are what happens to them. Numbers of hosts and contents are taken modulo how many there are.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import trio
from simulation.disk import HostCrashed
from simulation.hosts import DaemonHost, Down, SimHost
from simulation.world import MIB, Run, Shape, World, simulate

from protocol.errors import UpswarmError
from protocol.ids import Tag

CHAOS_SECONDS = 45.0
WORLD_SECONDS = 60.0
SETTLE_SECONDS = 240.0
REST_SECONDS_MAX = 45.0  # the longest pause between two dials of the tracker, and two heartbeats
FAULTS = (
    *("kill", "kill", "stop", "power", "power", "power-at", "power-at"),
    *("partition", "isolate", "reset", "reset", "refuse", "suspend"),
    *("skew", "fsync", "eio", "full", "slow", "rot", "join", "revoke"),
)
DEEDS = ("put", "put", "put", "put", "get", "get", "share", "share", "pause", "limit", "cancel")
SIZES = (3 * MIB + 1, 0, 1, 700_000, 1 * MIB, 2 * MIB + 5, 5 * MIB + 77)
# An operation that may fail for good without being the user's file that cannot be read.
WRITING = ("write", "sync", "resize", "rename", "link", "sync_folder", "write_small", "open_write", "make_folder")


@dataclass(frozen=True)
class Fault:
    """At ``at`` seconds ``kind`` happens to host number ``host``, for ``seconds``."""

    at: float
    kind: str
    host: int
    seconds: float


@dataclass(frozen=True)
class Deed:
    """At ``at`` seconds the user of daemon number ``daemon`` does ``kind`` with content number ``content``."""

    at: float
    kind: str
    daemon: int
    content: int


@dataclass(frozen=True)
class Schedule:
    """What happens in a world. ``uplinks``: bytes per second, by host in turn; ``nat``: that daemon only dials out."""

    shape: Shape = field(default_factory=Shape)
    faults: tuple[Fault, ...] = ()
    deeds: tuple[Deed, ...] = ()
    uplinks: tuple[float, ...] = (2e6,)
    nat: int | None = None


def draw(seed: int) -> Schedule:
    """Return the schedule of ``seed``."""
    rng = random.Random(f"{seed}/schedule")
    daemons, storages = rng.choice(((2, 1), (3, 1), (3, 2), (6, 2)))
    return Schedule(
        shape=Shape(daemons, storages, tls=rng.random() < 0.1, lend=rng.random() < 0.3),
        faults=tuple(
            Fault(
                round(rng.uniform(0, CHAOS_SECONDS), 3),
                rng.choice(FAULTS),
                rng.randrange(100),
                round(rng.uniform(0.1, 12), 3),
            )
            for _ in range(rng.randint(0, 12))
        ),
        deeds=tuple(
            Deed(
                round(rng.uniform(0, CHAOS_SECONDS * 0.8), 3),
                "put" if number == 0 else rng.choice(DEEDS),
                rng.randrange(100),
                rng.randrange(4),
            )
            for number in range(rng.randint(1, 9))
        ),
        uplinks=tuple(rng.choice((1e5, 5e5, 2e6, 2e7)) for _ in range(5)),
        nat=rng.randrange(daemons) if rng.random() < 0.25 else None,
    )


def run_chaos(seed: int, schedule: Schedule | None = None, *, trace: list[str] | None = None) -> Run:
    """Live through the schedule of ``seed``, or another one."""
    plan = draw(seed) if schedule is None else schedule
    return simulate(seed, lambda world: chaos(world, plan), plan.shape, trace=trace)


async def chaos(world: World, schedule: Schedule) -> None:
    """Let it all happen, heal, and require that every accepted put is stored."""
    await world.boot()
    for number, port in enumerate(world.network.hosts.values()):
        port.up_bytes_per_second = schedule.uplinks[number % len(schedule.uplinks)]
    if schedule.nat is not None:
        world.daemons()[schedule.nat % len(world.daemons())].port.nat = True
    async with trio.open_nursery() as happening:
        events = Events(world, happening)
        happening.start_soon(_watch, world)
        for host in world.hosts.values():
            happening.start_soon(events.supervise, host)
        for deed in schedule.deeds:
            happening.start_soon(events.do, deed)
        for fault in schedule.faults:
            happening.start_soon(events.strike, fault)
        await trio.sleep(CHAOS_SECONDS)
        world.chaos = False
        await world.heal()
        await events.let_go()
        with trio.fail_after(SETTLE_SECONDS):
            while events.unfinished:
                await trio.sleep(0.5)
        await world.settled(SETTLE_SECONDS)
        with trio.move_on_after(REST_SECONDS_MAX):
            while not world.checks.index_is_right():
                await trio.sleep(1)
        await trio.sleep(max(1.0, WORLD_SECONDS - trio.current_time()))
        happening.cancel_scope.cancel()


async def _watch(world: World) -> None:
    while True:
        await trio.sleep(1)
        world.checks.every_second()


class Events:
    """What a schedule says, done to a world."""

    def __init__(self, world: World, nursery: trio.Nursery) -> None:
        self.unfinished = 0  # that must be finished before the world may be judged
        self._world = world
        self._nursery = nursery
        self._late = 0

    async def supervise(self, host: SimHost) -> None:
        """What systemd does: a program that ended by itself is started again a moment later."""
        while True:
            await host.wait_ended()
            await trio.sleep(2)
            if host.joined:
                await self._world.start(host)

    async def let_go(self) -> None:
        """Users take back whatever holds their transfers up."""
        for host in self._world.daemons():
            with trio.fail_after(SETTLE_SECONDS):
                while host.joined:
                    try:
                        await host.call("resume")
                        await host.call("limit", up="off", down="off", help="off")
                        break
                    except Down:
                        await trio.sleep(0.5)  # it is just starting

    # --- deeds ---

    async def do(self, deed: Deed) -> None:
        await trio.sleep_until(deed.at)
        daemons = self._world.daemons()
        host = daemons[deed.daemon % len(daemons)]
        size = SIZES[deed.content % len(SIZES)]
        self._world.note("deed", deed.kind, host.name, deed.content)
        try:
            match deed.kind:
                case "put":
                    await self._put(host, size, deed.content)
                case "get":
                    await self._get(host, size, deed.content)
                case "share":
                    path = self._world.write_file(host, f"file{deed.content}.bin", size, deed.content)
                    await host.call("share", paths=[str(path)])
                case "pause":
                    await host.call("pause")
                    await trio.sleep(6)
                    if self._world.chaos:
                        await host.call("resume")
                case "limit":
                    await host.call("limit", up=50_000, down=200_000)
                case "cancel":
                    await self._cancel(host)
                case _:
                    raise AssertionError(deed.kind)
        except (Down, UpswarmError) as error:
            self._world.note("deed refused", deed.kind, host.name, type(error).__name__)

    async def _put(self, host: DaemonHost, size: int, content: int) -> None:
        path = self._world.write_file(host, f"file{content}.bin", size, content)
        self.unfinished += 1
        for _ in range(20):
            try:
                await self._world.put(host, path)
                break
            except (Down, UpswarmError) as error:
                self._world.note("put refused", host.name, type(error).__name__)
                await trio.sleep(1.5)
        self.unfinished -= 1

    async def _get(self, host: DaemonHost, size: int, content: int) -> None:
        world = self._world
        path = world.write_file(host, f"own/{content}.bin", size, content) if content == 3 else None
        known = [tag for tag, data in world.checks.known.items() if len(data) == size]
        if not known or path is not None:
            return
        result = await host.call("get", what=str(known[0]), output=None)
        world.checks.got(host, Tag.parse(result["tag"]), result["path"])

    async def _cancel(self, host: DaemonHost) -> None:
        if host.program is None:
            raise Down(host.name)
        put = next(iter(host.program.puts.active()), None)
        if put is None:
            return
        if put.tag is not None:
            self._world.checks.put_was_given_up(host, put.tag)
        else:
            for data, manifest in self._world.files.values():
                if data is self._world.files[str(put.path)][0]:
                    self._world.checks.put_was_given_up(host, manifest.tag)
        await host.call("cancel", id=put.id)

    # --- faults ---

    async def strike(self, fault: Fault) -> None:
        await trio.sleep_until(fault.at)
        world = self._world
        names = sorted(world.hosts)
        host = world.hosts[names[fault.host % len(names)]]
        world.note("fault", fault.kind, host.name, fault.seconds)
        network, address, platter = world.network, host.port.address, host.platter
        others = [other.port.address for other in world.hosts.values() if other is not host]
        match fault.kind:
            case "kill":
                host.crash(power=False)
            case "power":
                self._cut_power(host)
            case "power-at":
                self._cut_power_within(host, int(fault.seconds * 10) + 1)
            case "stop":
                await host.stop()
            case "partition":
                other = world.rng.choice(others)
                network.partition(address, other)
                await trio.sleep(fault.seconds)
                network.join(address, other)
            case "isolate":
                for other in others:
                    network.partition(address, other)
                await trio.sleep(fault.seconds * 3)
                for other in others:
                    network.join(address, other)
            case "reset":
                network.reset_one()
            case "refuse":
                network.refusing[address] = 1
                await trio.sleep(fault.seconds)
                network.refusing.pop(address, None)
            case "suspend":
                await host.suspend(fault.seconds * 3)
            case "skew":
                host.clock.skew_seconds = world.rng.choice((-86400.0, -5.0, 400.0, 3600.0))
            case "fsync":
                left = [True]
                platter.fsync_fails = lambda: bool(left) and left.pop()
            case "eio":
                platter.fail_operation = fail_once(int(fault.seconds * 10) + 1, "broken")
            case "full":
                platter.capacity_bytes = platter.used_bytes() + world.rng.randrange(3 * MIB)
                await trio.sleep(fault.seconds)
                platter.capacity_bytes = 1 << 40
            case "slow":
                before = host.port.up_bytes_per_second
                host.port.up_bytes_per_second = 20_000
                await trio.sleep(fault.seconds)
                host.port.up_bytes_per_second = before
            case "rot":
                self._rot(host)
            case "join":
                await self._join(host)
            case "revoke":
                await self._revoke(host)
            case _:
                raise AssertionError(fault.kind)

    def _cut_power(self, host: SimHost) -> None:
        host.crash(power=True)
        self._world.checks.power_has_gone(host)

    def _cut_power_within(self, host: SimHost, operations: int) -> None:
        """The power goes in the middle of the disk operation that comes so many later."""
        left = [operations]

        def fail(_number: int, _what: str) -> str | None:
            left[0] -= 1
            if left[0]:
                return None
            host.platter.fail_operation = lambda number, what: None
            self._world.note("power gone", host.name)
            self._cut_power(host)
            raise HostCrashed

        host.platter.fail_operation = fail

    def _rot(self, host: SimHost) -> None:
        platter = host.platter
        spools = sorted(p for p, i in platter.names.items() if i is not None and "spool" in p.parts and len(i.data))
        if spools:
            path = self._world.rng.choice(spools)
            inode = platter.names[path]
            assert inode is not None
            inode.flip(self._world.rng.randrange(len(inode.data)))
            self._world.checks.tampered.add(Tag.parse(path.name))

    async def _join(self, near: SimHost) -> None:
        """A new node joins while all this happens; whoever invites it tries until it works."""
        world = self._world
        self._late += 1
        self.unfinished += 1
        name = f"late{self._late}"
        host = world.place(DaemonHost, name, f"10.9.0.{self._late}")
        host.joined = False
        while True:
            try:
                await world.join(DaemonHost, name, host.port.address)
                break
            except (Down, UpswarmError) as error:
                world.note("not joined", name, type(error).__name__)
                await trio.sleep(1.5)
        self.unfinished -= 1
        await self.supervise(host)

    async def _revoke(self, host: SimHost) -> None:
        """The last daemon is shut out, if there are others; whoever runs the tracker tries until it has worked."""
        world = self._world
        there = [other for other in world.daemons() if other.joined and other.node not in world.checks.revoked]
        if len(there) < 2:
            return
        victim = there[-1]
        assert victim.node is not None
        world.checks.host_is_gone(victim)
        self.unfinished += 1
        while True:
            try:
                await world.tracker.call("revoke", node=victim.node)
                break
            except (Down, UpswarmError) as error:
                world.note("not revoked", victim.name, type(error).__name__)
                await trio.sleep(1.5)
        world.checks.revoked.add(victim.node)
        world.checks.host_is_gone(victim)
        self.unfinished -= 1


def fail_once(operations: int, how: str):
    """Return a ``fail_operation`` that lets the first writing operation from the n-th on fail."""
    left = [operations]

    def fail(_number: int, what: str) -> str | None:
        if what not in WRITING:
            return None
        left[0] -= 1
        return how if left[0] == 0 else None

    return fail
