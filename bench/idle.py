"""How soon a daemon that knows many files is ready, whether it notices one that changed, and what it costs when idle.

    .venv/bin/python -m bench.idle [--files 100000] [--seconds 60]

Real processes on this machine: a tracker, a storage node, a daemon. The files are small, real and all different; they
are written into the daemon's records as `share` writes them, so that nothing but knowing them is measured. How long
`upswarm status` takes, too. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import psutil
import trio
from support.processes import Program, Swarm, wait_until

from daemon.filerows import KnownFile, write_file
from daemon.records import open_records
from protocol.manifest import Manifest
from runtime.real import real_runtime

STATUS_RUNS = 31


def write_files(folder: Path, count: int) -> list[Path]:
    """Make ``count`` files, each with its own number in it."""
    paths = []
    for number in range(count):
        path = folder / f"{number // 1000:03d}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}\n")
        paths.append(path)
    return paths


def know(state: Path, paths: list[Path]) -> None:
    """Write the files into the records of a daemon that does not run, as shared."""

    async def write() -> None:
        runtime = real_runtime()
        database = await open_records(runtime, state)

        def rows(cursor: object) -> None:
            for path in paths:
                data = path.read_bytes()
                manifest = Manifest.of_digests(len(data), [hashlib.sha256(data).digest()])
                status = runtime.disk.status(path)
                file = KnownFile(path, manifest.tag, status, path.name, "share", True, int(time.time()))
                write_file(cursor, file, manifest)

        await database.transaction(rows)
        await database.aclose()

    trio.run(write)


def started(daemon: Program) -> float:
    """Start a daemon; return in how many seconds it is ready."""
    begun = time.monotonic()
    daemon.launch()
    daemon.wait_ready()
    return time.monotonic() - begun


def measure(files: int, seconds: float) -> dict[str, object]:
    """Return what the module says."""
    with Swarm() as swarm:
        swarm.tracker()
        (_, daemon) = swarm.start_all([swarm.add_storage("storage"), swarm.add_daemon("many")])
        daemon.wait_logged("tracker connected")
        answers = status_seconds(daemon)
        idle = cost(daemon, seconds) if seconds else {}
        daemon.stop()
        empty_seconds = started(daemon)
        daemon.stop()
        paths = write_files(swarm.folder / "files", files)
        know(daemon.home / "daemon", paths)
        paths[files // 2].write_text("another\n")
        ready_seconds = started(daemon)
        daemon.wait_logged("file changed while the daemon was away")
        status = daemon.call("status")
        many = {f"many_{key}": value for key, value in (cost(daemon, seconds) if seconds else {}).items()}
        return {
            "status_milliseconds": round(1000 * statistics.median(answers)),
            "status_spread": [round(1000 * min(answers)), round(1000 * max(answers))],
            "files": files,
            "empty_ready_seconds": round(empty_seconds, 2),
            "ready_seconds": round(ready_seconds, 2),
            "known": status["files"],
            "changed_file_noticed": status["files"] == files - 1,
            **idle,
            **many,
        }


def status_seconds(daemon: Program) -> list[float]:
    """Return how long whole processes of ``upswarm status`` take, one after the other."""
    command = [str(Path(sys.executable).with_name("upswarm")), "--home", str(daemon.home), "status"]
    took = []
    for _ in range(STATUS_RUNS + 1):
        begun = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        took.append(time.monotonic() - begun)
    return took[1:]  # the first one reads the disk


def cost(daemon: Program, seconds: float) -> dict[str, float]:
    """Return resident memory and the share of a core of a daemon that has nothing to do."""
    assert daemon.process is not None
    process = psutil.Process(daemon.process.pid)
    wait_until(lambda: process.cpu_percent(1.0) < 5.0, "it has come to rest", 60)
    before = process.cpu_times()
    begun = time.monotonic()
    time.sleep(seconds)
    after = process.cpu_times()
    used = after.user + after.system - before.user - before.system
    return {
        "resident_mib": round(process.memory_info().rss / 2**20, 1),
        "core_percent": round(100 * used / (time.monotonic() - begun), 3),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.files, arguments.seconds)), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
