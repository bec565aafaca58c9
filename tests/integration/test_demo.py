"""The demo: a whole swarm for a stranger to see, and nothing left of it."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
from support.files import MIB, make_file, tag_by_hand
from support.processes import Swarm, wait_until

pytestmark = pytest.mark.timing


def processes_of(marker: str) -> list[int]:
    """Processes whose environment has the marker: whatever a command started, however it is called."""
    found = []
    for process in psutil.process_iter(["pid"]):
        try:
            if process.environ().get("UPSWARM_TEST_MARKER") == marker and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def run_demo(swarm: Swarm, *arguments: str | Path, interrupted: bool = False):
    """Run a demo with a folder for temporary files of its own; return what it left there and what still runs."""
    marker = f"{os.getpid()}-{swarm.folder.name}"
    temporary = swarm.folder / "tmp"
    temporary.mkdir()
    swarm.environment |= {"UPSWARM_TEST_MARKER": marker, "TMPDIR": str(temporary)}
    command = swarm.begin("demo", *arguments, "--json")
    if interrupted:
        wait_until(lambda: len(processes_of(marker)) >= 5, "the swarm of the demo runs")
        command.interrupt()
    done = command.wait(100)
    wait_until(lambda: not processes_of(marker), f"no process is left: {done}", 10)
    return done, sorted(path.name for path in temporary.iterdir())


def test_the_demo_succeeds_and_leaves_nothing_behind(swarm: Swarm) -> None:
    done, left = run_demo(swarm, "--peers", "3")
    assert done.exit_code == 0, done
    told = done.json
    assert told["get"]["verified"] is True or told["get"]
    assert told["speedup"] > 2 and told["ratio_to_bound"] < 1.6, told
    assert len(told["crowd"]["pushed"]) == 3
    assert left == []


def test_the_demo_takes_a_file_of_ones_own_and_leaves_it_alone(swarm: Swarm) -> None:
    file = make_file(swarm.folder / "mine.bin", 5 * MIB)
    tag = tag_by_hand(file)
    done, left = run_demo(swarm, file, "--peers", "2", "--uplink", "30mbit")
    assert done.exit_code == 0 and left == [], done
    assert tag_by_hand(file) == tag and tag in done.stdout


def test_an_interrupted_demo_leaves_nothing_behind(swarm: Swarm) -> None:
    done, left = run_demo(swarm, "--peers", "2", "--uplink", "5mbit", interrupted=True)
    assert done.exit_code == 130 and left == [], done
