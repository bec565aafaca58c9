"""A node is killed, or loses its power, at the k-th await of a whole put, for k all the way through: nothing is lost,
nothing hangs.

Every third step; each run of the tests begins at the same one, and ``make soak`` goes through all of them.
"""

from __future__ import annotations

import pytest
import trio
from simulation.faults import CrashAtAwait, Faults
from simulation.stories import has_ended, put_until_accepted, set_uplinks, tell, until, watched
from simulation.world import MIB, Shape, World

SECONDS_MAX = 120.0
STRIDE = 3


def put_with_crash(name: str, step: int | None, *, power: bool) -> int:
    """Let a put of two chunks happen while host ``name`` ends just before its ``step``-th step; return how many it has.

    Raises whatever was violated.
    """
    steps = 0

    async def story(world: World) -> None:
        nonlocal steps
        async with watched(world) as beside:
            set_uplinks(world, 2e6)
            (uploader,) = world.daemons()
            faults = Faults(world)
            for host in world.hosts.values():
                beside.start_soon(faults.supervise, host)
            victim = world.hosts[name]

            def crash() -> None:
                victim.crash(power=power)
                if power:
                    world.checks.power_has_gone(victim)

            fuse = CrashAtAwait(victim, step or 0, crash)
            trio.lowlevel.add_instrument(fuse)
            await put_until_accepted(world, uploader, world.write_file(uploader, "file.bin", 1 * MIB + 5, 1))
            await until(lambda: has_ended(uploader), SECONDS_MAX)
            trio.lowlevel.remove_instrument(fuse)
            steps = fuse.steps
            assert [put.state.value for put in uploader.program.puts.all()] == ["stored"]

    tell(story, Shape(1, 1), seed=0)
    return steps


def crash_all_the_way(name: str, stride: int, *, power: bool) -> None:
    total = put_with_crash(name, None, power=power)
    assert total > 40, "nothing was counted"
    failed = {}
    for step in range(1, total + 1, stride):
        try:
            put_with_crash(name, step, power=power)
        except Exception as error:
            failed[step] = error
    assert not failed


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power cut"])
@pytest.mark.parametrize("name", ["storage1", "peer1", "tracker"])
def test_put_outlives_a_crash_at_any_await(name: str, power: bool) -> None:
    crash_all_the_way(name, STRIDE, power=power)


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("power", [False, True], ids=["kill", "power cut"])
@pytest.mark.parametrize("name", ["storage1", "peer1", "tracker"])
def test_put_outlives_a_crash_at_every_await(name: str, power: bool) -> None:
    crash_all_the_way(name, 1, power=power)
