"""The k-th disk operation of a put fails, for every k: a clear error or recovery, nothing acknowledged lost, no hang.

Operations of the database count as well: its pages, its log and its syncs are files of the same disk.
"""

from __future__ import annotations

import itertools

import pytest
from simulation.faults import Faults
from simulation.stories import has_ended, put_until_accepted, set_uplinks, tell, until, watched
from simulation.world import MIB, Shape, World

SECONDS_MAX = 120.0
BATCHES = 4


def put_with_failure(name: str, number: int | None, how: str) -> int:
    """Let a put of two chunks happen while disk operation ``number`` of host ``name`` fails; return their number.

    Raises whatever was violated, and ``AssertionError`` when the put ends neither stored nor with a reason.
    """
    count = 0

    async def story(world: World) -> None:
        nonlocal count
        async with watched(world) as beside:
            set_uplinks(world, 2e6)
            (uploader,) = world.daemons()
            faults = Faults(world)
            for host in world.hosts.values():
                beside.start_soon(faults.supervise, host)
            victim = world.hosts[name]
            before = victim.platter.operations
            if number is not None:
                victim.platter.fail_operation = lambda n, *_: how if n == before + number else None
            path = world.write_file(uploader, "file.bin", 1 * MIB + 5, 1)
            manifest = world.files[str(path)][1]
            await put_until_accepted(world, uploader, path)
            await until(lambda: has_ended(uploader), SECONDS_MAX)
            count = victim.platter.operations - before
            (put,) = uploader.program.puts.all()
            if put.state.value == "failed":
                # Its own file cannot be read: that is for the user to know.
                assert put.error is not None and str(path) in put.error.sentence
                world.checks.put_was_given_up(uploader, manifest.tag)

    tell(story, Shape(1, 1), seed=0)
    return count


@pytest.mark.parametrize("batch", range(BATCHES))
@pytest.mark.parametrize("how", ["broken", "full"])
@pytest.mark.parametrize("name", ["storage1", "peer1"])
def test_put_outlives_any_one_failed_disk_operation(name: str, how: str, batch: int) -> None:
    total = put_with_failure(name, None, how)
    assert total > 40, "nothing was counted"
    failed = {}
    # A few more than without a failure: what is done again may fail as well.
    for number in itertools.islice(range(1, total + 10), batch, None, BATCHES):
        try:
            put_with_failure(name, number, how)
        except Exception as error:
            failed[number] = error
    assert not failed
