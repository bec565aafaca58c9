"""How much room there is: looked at seldom, promised and given once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from protocol.errors import StorageBroken
from runtime.real import RealClock, RealDisk
from runtime.seam import Runtime
from storage.backends.memory import MemoryBackend
from storage.room import FRESH_SECONDS, Room


class Clock(RealClock):
    now = 100.0

    def monotonic(self) -> float:
        return self.now


class Disk(RealDisk):
    free = 1000
    looks = 0

    def free_bytes(self, path: Path) -> int:
        self.looks += 1
        if self.free < 0:
            raise OSError("gone")
        return self.free


class Place:
    def __init__(self, runtime: Runtime) -> None:
        self.clock, self.disk = Clock(), Disk()
        self.runtime = replace(runtime, clock=self.clock, disk=self.disk)
        self.room = Room(self.runtime, MemoryBackend(self.runtime), Path("/spool"), reserve_bytes=100)


@pytest.fixture
def place(runtime: Runtime) -> Place:
    return Place(runtime)


async def test_all_who_ask_in_a_moment_share_a_look(place: Place) -> None:
    async with trio.open_nursery() as asking:
        for _ in range(20):
            asking.start_soon(place.room.free_bytes)
    assert place.disk.looks == 1
    place.disk.free = 500
    place.clock.now += FRESH_SECONDS
    assert await place.room.free_bytes() == 400 == place.room.last_free_bytes
    assert place.disk.looks == 2


async def test_what_was_promised_and_taken_since_the_look_is_not_given_again(place: Place) -> None:
    room = place.room
    assert await room.free_bytes() == 900
    room.promise("a", 300)
    assert await room.free_bytes() == 600 and room.promised("a") == 300
    room.release("a")
    assert await room.free_bytes() == 600, "its file may have taken it since we looked"
    place.clock.now += FRESH_SECONDS
    assert await room.free_bytes() == 900
    room.promise("b", 2000)
    assert await room.free_bytes() == 0
    assert place.disk.looks == 2


async def test_a_promise_that_is_void_gives_its_room_back_at_once_and_what_came_of_another_does_not(
    place: Place,
) -> None:
    room = place.room
    assert await room.free_bytes() == 900
    room.promise("a", 300)
    room.release("a", void=True)
    assert await room.free_bytes() == 900
    room.promise("b", 300)
    room.promise("b", 100)  # the rest has come
    assert await room.free_bytes() == 600
    assert place.disk.looks == 1


async def test_a_disk_that_cannot_be_looked_at_is_no_room_for_anybody(place: Place) -> None:
    place.disk.free = -1
    for _ in range(2):
        with pytest.raises(StorageBroken):
            await place.room.free_bytes()
