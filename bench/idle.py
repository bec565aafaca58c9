"""How soon a daemon that knows many files is ready, whether it notices one that changed, and what it costs when idle.

    .venv/bin/python -m bench.idle [--files 100000] [--seconds 60] [--starts 5]

Real processes on this machine: a tracker, a storage node, a daemon. The files are small, real and all different; they
are written into the daemon's records as `share` writes them, so that nothing but knowing them is measured. How long
`upswarm status` takes, too. By the clock and by the processor: on a machine that does something else as well only the
latter says anything. Prints one line of JSON: three figures are median, least and most.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class Took:
    """Seconds of the clock, and of the processor (all threads, user and system)."""

    clock: float
    processor: float


def started(daemon: Program, times: int) -> list[Took]:
    """Start a daemon, and stop it again but for the last time; return how long it took to be ready each time."""
    took = []
    for number in range(times):
        begun = time.monotonic()
        daemon.launch()
        daemon.wait_ready()
        clock = time.monotonic() - begun
        took.append(Took(clock, processor_seconds(daemon)))
        if number < times - 1:
            daemon.stop()
    return took


def processor_seconds(daemon: Program) -> float:
    """Return what the process has taken of the processor so far."""
    times = psutil.Process(daemon.pid).cpu_times()
    return float(times.user + times.system)


def figures(name: str, took: list[Took]) -> dict[str, object]:
    """Return medians and spreads of ``took``, in milliseconds."""
    found: dict[str, object] = {}
    for unit in ("clock", "processor"):
        values = [round(1000 * getattr(one, unit)) for one in took]
        found[f"{name}_{unit}_ms"] = [round(statistics.median(values)), min(values), max(values)]
    return found


def measure(files: int, seconds: float, starts: int) -> dict[str, object]:
    """Return what the module says."""
    with Swarm() as swarm:
        swarm.tracker()
        (_, daemon) = swarm.start_all([swarm.add_storage("storage"), swarm.add_daemon("many")])
        daemon.wait_logged("tracker connected")
        answers = status_seconds(daemon)
        idle = cost(daemon, seconds) if seconds else {}
        daemon.stop()
        empty = started(daemon, starts)
        daemon.stop()
        paths = write_files(swarm.folder / "files", files)
        know(daemon.home / "daemon", paths)
        ready = started(daemon, starts)
        daemon.stop()
        paths[files // 2].write_text("another\n")
        started(daemon, 1)
        daemon.wait_logged("file changed while the daemon was away")
        status = daemon.call("status")
        many = {f"many_{key}": value for key, value in (cost(daemon, seconds) if seconds else {}).items()}
        return {
            **figures("status", answers),
            "files": files,
            **figures("empty_ready", empty),
            **figures("ready", ready),
            "known": status["files"],
            "changed_file_noticed": status["files"] == files - 1,
            **idle,
            **many,
        }


def status_seconds(daemon: Program) -> list[Took]:
    """Return how long whole processes of ``upswarm status`` take, one after the other."""
    command = [str(Path(sys.executable).with_name("upswarm")), "--home", str(daemon.home), "status"]
    took = []
    for _ in range(STATUS_RUNS + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        begun = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        clock = time.monotonic() - begun
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(Took(clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))
    return took[1:]  # the first one reads the disk


def cost(daemon: Program, seconds: float) -> dict[str, float]:
    """Return resident memory and the share of a core of a daemon that has nothing to do."""
    process = psutil.Process(daemon.pid)
    wait_until(lambda: process.cpu_percent(1.0) < 5.0, "it has come to rest", 60)
    before = processor_seconds(daemon)
    begun = time.monotonic()
    time.sleep(seconds)
    used = processor_seconds(daemon) - before
    return {
        "resident_mb": round(process.memory_info().rss / 1e6, 1),
        "core_percent": round(100 * used / (time.monotonic() - begun), 3),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--starts", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.files < 1:
        parser.error(f"--files {arguments.files}: one of them is changed while the daemon is away; at least 1")
    print(json.dumps(measure(arguments.files, arguments.seconds, arguments.starts)), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
