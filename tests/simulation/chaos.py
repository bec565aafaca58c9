"""Chaos, then healing: everything that may go wrong, drawn from the seed; afterwards every accepted put must be stored.

What goes wrong is a ``Schedule`` (schedule.py); faults.py and deeds.py do to a world what one says.
"""

from __future__ import annotations

from unittest import mock

import trio
from simulation.deeds import Deeds
from simulation.faults import Faults
from simulation.schedule import CHAOS_SECONDS, Schedule, draw
from simulation.world import Run, World, simulate

import exchange.spool

WORLD_SECONDS = 60.0
SETTLE_SECONDS = 240.0
REST_SECONDS_MAX = 45.0  # the longest pause between two dials of the tracker, and two heartbeats


def run_chaos(seed: int, schedule: Schedule | None = None, *, trace: list[str] | None = None) -> Run:
    """Live through the schedule of ``seed``, or another one."""
    plan = draw(seed) if schedule is None else schedule
    # Here bits flip at any moment, as if years had passed: nothing that was read back counts as seen.
    with mock.patch.object(exchange.spool, "FRESH_SECONDS", 0.0):
        return simulate(seed, lambda world: chaos(world, plan), plan.shape, trace=trace)


async def chaos(world: World, schedule: Schedule) -> None:
    """Let it all happen, heal, and require that every accepted put is stored."""
    await world.boot()
    for number, port in enumerate(world.network.hosts.values()):
        port.up_bytes_per_second = schedule.uplinks[number % len(schedule.uplinks)]
        port.down_bytes_per_second = schedule.downlinks[number % len(schedule.downlinks)]
    if schedule.nat is not None:
        world.daemons()[schedule.nat % len(world.daemons())].port.nat = True
    async with trio.open_nursery() as happening:
        deeds, faults = Deeds(world), Faults(world)
        happening.start_soon(watch, world)
        for host in world.hosts.values():
            happening.start_soon(faults.supervise, host)
        for deed in schedule.deeds:
            happening.start_soon(deeds.do, deed)
        for fault in schedule.faults:
            happening.start_soon(faults.strike, fault)
        await trio.sleep(CHAOS_SECONDS)
        world.chaos = False
        await world.heal()
        with trio.fail_after(SETTLE_SECONDS):
            await deeds.let_go()
            while deeds.unfinished or faults.unfinished or not world.all_up():
                await trio.sleep(0.5)
        await world.settled(SETTLE_SECONDS)
        with trio.move_on_after(REST_SECONDS_MAX):
            while not world.checks.index_is_right():
                await trio.sleep(1)
        await trio.sleep(max(1.0, WORLD_SECONDS - trio.current_time()))
        happening.cancel_scope.cancel()


async def watch(world: World) -> None:
    """Look at everything each second, until cancelled."""
    while True:
        await trio.sleep(1)
        world.checks.every_second()
