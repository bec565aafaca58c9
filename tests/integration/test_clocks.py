"""Clocks that jump, on real processes: libfaketime tells each program another time, and changes its mind while a file
travels. Durations come from the monotonic clock, which nobody sets, so nothing may be lost, doubled or stuck.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.crew import Crew, put, wait_connected, wait_stored
from support.files import MIB, same_bytes, tag_by_hand
from support.processes import Swarm, wait_until

HOUR = 3600
DAY = 24 * HOUR
STORED_SECONDS_MAX = 60.0
LOOKED_SECONDS = 1


def library() -> Path:
    """Return where Debian's package faketime has it."""
    (found,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    return found


class Clock:
    """What a program takes for the time: this machine's, and an offset that a file holds."""

    def __init__(self, folder: Path, name: str) -> None:
        self._file = folder / f"{name}.time"
        self.set(0)
        self.environment = {
            "LD_PRELOAD": str(library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": str(LOOKED_SECONDS),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, offset_seconds: int) -> None:
        """Jump."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{offset_seconds:+d}\n")
        new.rename(self._file)

    def seen(self) -> float:
        """Return the offset that a Python of its own sees with this clock."""
        code = "import time; a = time.monotonic(); print(time.time())"
        done = subprocess.run(
            [sys.executable, "-c", code], env=self.environment, capture_output=True, text=True, check=True
        )
        return float(done.stdout) - time.time()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_uploads_do_not_mind_clocks_that_jump(swarm: Swarm) -> None:
    clocks = {name: Clock(swarm.folder, name) for name in ("tracker", "storage", "d0", "d1")}
    tracker = swarm.add("tracker", "tracker", ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--no-mdns"])
    tracker.environment = dict(clocks["tracker"].environment)
    tracker.start()
    others = [
        swarm.add_storage("storage"),
        *(swarm.add_daemon(f"d{n}", up_bytes_per_second="40mbit") for n in range(2)),
    ]
    for program in others:
        program.environment |= clocks[program.name].environment
    storage, *daemons = swarm.start_all(others)
    for program in (storage, *daemons):
        wait_connected(program)
    for program in (tracker, storage, *daemons):
        assert library().name in Path(f"/proc/{program.pid}/maps").read_text(), "it has the clock of this machine"
    crew = Crew(swarm, tracker, storage, daemons)

    jumps = (
        (-DAY, ("tracker",)),
        (+HOUR, ("storage",)),
        (-5, ("d0",)),
        (+400, ("d0", "storage")),
        (+DAY, ("tracker",)),
    )
    for number, (offset, names) in enumerate(jumps):
        file = crew.file(f"file-{number}.bin", 16 * MIB, number)
        tag = tag_by_hand(file)
        begun = put(daemons[0], file, wait="no")
        wait_until(lambda: storage.counter("received_bytes") > number * 16 * MIB + MIB, "it travels")
        for name in names:
            clocks[name].set(offset)
            assert clocks[name].seen() == pytest.approx(offset, abs=5)
        wait_stored(storage, tag, STORED_SECONDS_MAX)
        wait_until(lambda begun=begun: daemons[0].logged("put stored", id=begun["id"]), "the daemon knows")
        assert same_bytes(crew.object_of(tag), file)
        # Heartbeats go on, and a command is answered: nobody waits for a moment that has moved away.
        assert len(daemons[1].call("nodes")["nodes"]) == 3
    assert storage.counter("received_bytes") <= len(jumps) * 16 * MIB * 1.02
    # An invite lasts by the clock of whoever made it; the tracker's has just gone a day ahead.
    swarm.join(swarm.add_daemon("late"))
