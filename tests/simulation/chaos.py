"""Chaos, then healing: everything that may go wrong, drawn from the seed; afterwards every accepted put must be stored.

A schedule is plain data (``Fault``), so that it can be printed, replayed, and shrunk by hypothesis.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import trio
from simulation.hosts import Down, SimHost
from simulation.world import MIB, World

from protocol.errors import UpswarmError

CHAOS_SECONDS = 45.0
SETTLE_SECONDS = 240.0
KINDS = (
    "kill",
    "kill",
    "power",
    "power",
    "partition",
    "isolate",
    "heal",
    "reset",
    "reset",
    "refuse",
    "skew",
    "fsync",
    "full",
    "slow",
    "rot",
)
SIZES = (0, 1, 700_000, 1 * MIB, 2 * MIB + 5, 5 * MIB + 77)


@dataclass(frozen=True)
class Fault:
    """At ``at`` seconds ``kind`` happens to host number ``host``, for ``seconds``."""

    at: float
    kind: str
    host: int
    seconds: float


@dataclass(frozen=True)
class Put:
    """At ``at`` seconds daemon number ``daemon`` puts content number ``content``."""

    at: float
    daemon: int
    content: int


def draw(rng: random.Random) -> tuple[list[Fault], list[Put]]:
    """Return a schedule."""
    faults = [
        Fault(
            round(rng.uniform(0, CHAOS_SECONDS), 3),
            rng.choice(KINDS),
            rng.randrange(100),
            round(rng.uniform(0.1, 12), 3),
        )
        for _ in range(rng.randint(2, 12))
    ]
    puts = [
        Put(round(rng.uniform(0, CHAOS_SECONDS * 0.8), 3), rng.randrange(100), rng.randrange(4))
        for _ in range(rng.randint(1, 5))
    ]
    return faults, puts


async def chaos(world: World, faults: list[Fault], puts: list[Put], *, daemons: int = 3, storages: int = 1) -> None:
    """Build a swarm, let it all happen, heal, and require that every accepted put is stored."""
    await world.build(daemons, storages)
    for port in world.network.hosts.values():
        port.up_bytes_per_second = world.rng.choice((3e5, 2e6, 2e7))
    async with trio.open_nursery() as happening:
        happening.start_soon(_watch, world)
        with trio.move_on_after(CHAOS_SECONDS):
            async with trio.open_nursery() as events:
                for host in world.hosts.values():
                    happening.start_soon(_supervise, world, host)
                began = trio.current_time()
                for put in puts:
                    events.start_soon(_put, world, put, began)
                for fault in faults:
                    events.start_soon(_fault, world, fault, began)
                await trio.sleep_forever()
        world.chaos = False
        await world.heal()
        await world.settled(SETTLE_SECONDS)
        happening.cancel_scope.cancel()


async def _watch(world: World) -> None:
    while True:
        await trio.sleep(1)
        world.checks.every_second()


async def _supervise(world: World, host: SimHost) -> None:
    """What systemd does: a program that ended by itself is started again a moment later."""
    while world.chaos:
        await host.wait_ended()
        await trio.sleep(2)
        if world.chaos and not host.running:
            await world.start(host)


async def _put(world: World, put: Put, began: float) -> None:
    daemons = world.daemons()
    host = daemons[put.daemon % len(daemons)]
    size = SIZES[put.content % len(SIZES)] if put.content else 3 * MIB + 1
    path = world.write_file(host, f"file{put.content}.bin", size, put.content)
    await trio.sleep_until(began + put.at)
    for _ in range(20):
        try:
            await world.put(host, path)
            return
        except (Down, UpswarmError) as error:
            world.note("put refused", host.name, type(error).__name__)
            await trio.sleep(1.5)


async def _fault(world: World, fault: Fault, began: float) -> None:
    await trio.sleep_until(began + fault.at)
    names = sorted(world.hosts)
    host = world.hosts[names[fault.host % len(names)]]
    world.note("fault", fault.kind, host.name, fault.seconds)
    network, address = world.network, host.port.address
    others = [other.port.address for other in world.hosts.values() if other is not host]
    match fault.kind:
        case "kill":
            host.crash(power=False)
        case "power":
            host.crash(power=True)
        case "partition":
            network.partition(address, world.rng.choice(others))
            await trio.sleep(fault.seconds)
            network.heal()
        case "isolate":
            for other in others:
                network.partition(address, other)
            await trio.sleep(fault.seconds * 3)
            network.heal()
        case "heal":
            network.heal()
        case "reset":
            network.reset_one()
        case "refuse":
            network.refuse_dial = lambda source, target: address in (source, target)
            await trio.sleep(fault.seconds)
            network.refuse_dial = lambda source, target: False
        case "skew":
            host.clock.skew_seconds = world.rng.choice((-86400.0, -5.0, 400.0, 3600.0))
        case "fsync":
            left = [1]
            host.platter.fsync_fails = lambda: bool(left) and not left.pop() == 0
        case "full":
            host.platter.capacity_bytes = host.platter.used_bytes() + world.rng.randrange(3 * MIB)
            await trio.sleep(fault.seconds)
            host.platter.capacity_bytes = 1 << 40
        case "slow":
            before = host.port.up_bytes_per_second
            host.port.up_bytes_per_second = 20_000
            await trio.sleep(fault.seconds)
            host.port.up_bytes_per_second = before
        case "rot":
            spools = [p for p, i in host.platter.names.items() if i is not None and "spool" in p.parts and len(i.data)]
            if spools:
                path = world.rng.choice(sorted(spools))
                inode = host.platter.names[path]
                assert inode is not None
                host.platter.rot(path, world.rng.randrange(len(inode.data)))
        case _:
            raise AssertionError(fault.kind)
