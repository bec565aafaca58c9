"""A storage node on a small file system of its own that fills up: nothing is lost, nobody fails, all goes on with room.

The file system is a real tmpfs, mounted for the test and no larger than what is put; the kernel says that it is full.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.crew import Crew, acknowledged_bytes, put, wait_connected, wait_stored
from support.files import MIB, same_bytes, tag_by_hand
from support.processes import Swarm, wait_until

ROOM_MIB = 48
FILE_MIB = 24
STORED_SECONDS_MAX = 90.0


@pytest.fixture
def small(swarm: Swarm) -> Iterator[Path]:
    """A folder on a file system of ``ROOM_MIB``."""
    folder = swarm.folder / "small"
    folder.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={ROOM_MIB}m,mode=0700", "upswarm-test", str(folder)], check=True
    )
    try:
        yield folder
    finally:
        for program in swarm.programs:
            program.close()
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def crew(swarm: Swarm, small: Path) -> Crew:
    """Two daemons, and a storage node that has nothing but ``small``, and keeps nothing back of it."""
    tracker = swarm.tracker()
    storage = swarm.add_storage("storage")
    storage.arguments[storage.arguments.index("--data") + 1] = str(small / "data")
    storage.environment = {"UPSWARM_STORAGE_RESERVE_BYTES": "0"}
    daemons = [swarm.add_daemon(f"d{number}", up_bytes_per_second="100mbit") for number in range(2)]
    storage, *daemons = swarm.start_all([storage, *daemons])
    for program in (storage, *daemons):
        wait_connected(program)
    return Crew(swarm, tracker, storage, daemons)


def fill(folder: Path) -> Path:
    """Take all the room that is left, as another program would."""
    path = folder / "somebody-elses"
    with path.open("ab", buffering=0) as file:
        for size in (MIB, 4096, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
    return path


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_upload_into_a_disk_that_fills_up_goes_on_when_there_is_room(crew: Crew, small: Path) -> None:
    file = crew.file("first.bin", FILE_MIB * MIB, 1)
    tag = tag_by_hand(file)
    begun = put(crew.daemons[0], file, wait="no")
    wait_until(lambda: acknowledged_bytes(crew.storage, tag) >= 4 * MIB, "a part is acknowledged")
    before = acknowledged_bytes(crew.storage, tag)
    others = fill(small)
    # In memory nothing is taken in advance: whichever comes first, the next chunk or the next row of the ledger.
    wait_until(
        lambda: crew.storage.logged("job waits for room") or crew.storage.logged("ledger has no room"),
        "the storage node says that it has no room",
        STORED_SECONDS_MAX,
    )
    crew.storage.kill()
    others.unlink()
    assert acknowledged_bytes(crew.storage, tag) >= before, "something that was acknowledged is forgotten"
    crew.storage.start()
    wait_stored(crew.storage, tag, STORED_SECONDS_MAX)
    assert same_bytes(crew.object_of(tag), file)
    wait_until(
        lambda: crew.daemons[0].logged("put stored", id=str(begun["id"])), "the daemon knows", STORED_SECONDS_MAX
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_upload_that_does_not_fit_says_so_and_fits_when_there_is_room(crew: Crew, small: Path) -> None:
    others = small / "somebody-elses"
    others.write_bytes(bytes((ROOM_MIB - FILE_MIB // 2) * MIB))
    file = crew.file("large.bin", FILE_MIB * MIB, 2)
    tag = tag_by_hand(file)
    begun = put(crew.daemons[1], file, wait="no")
    wait_until(
        lambda: any("room" in str(line) for line in crew.daemons[1].logged("put ")), "the daemon says what is missing"
    )
    others.unlink()
    if crew.daemons[1].logged("put failed", id=str(begun["id"])):
        put(crew.daemons[1], file, wait="no")
    wait_stored(crew.storage, tag, STORED_SECONDS_MAX)
    assert same_bytes(crew.object_of(tag), file)
    assert crew.storage.running
