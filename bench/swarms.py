"""A whole swarm on loopback for the link benches: tracker, storage node and daemons as real processes, told what to do
over their control sockets, and their processor time read off them.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.processes import Program, Refused, Swarm, wait_until

from bench.contest import MIB, Sample, cpu_seconds, warm

TRANSFER_SECONDS_MAX = 200.0


def make_source(path: Path, mib: int) -> Path:
    """Write a file of random bytes."""
    with open(path, "wb") as file:
        for _ in range(mib // 16):
            file.write(os.urandom(16 * MIB))
    return path


def renew(path: Path) -> None:
    """Give a file other content, by its first bytes: nobody has it now, and its memory stays warm."""
    with open(path, "r+b") as file:
        file.write(os.urandom(16))


@dataclass(slots=True)
class PutTimes:
    """When one put command was begun, had hashed, and was through; monotonic seconds."""

    began: float
    hashed: float
    ended: float
    cpu_when_hashed: float
    results: list[dict[str, Any]]


class Arena:
    """A swarm whose storage node keeps its data in ``data``; ``senders`` daemons, and one that fetches."""

    def __init__(self, stack: contextlib.ExitStack, data: Path, senders: int = 1) -> None:
        swarm = stack.enter_context(Swarm())
        swarm.tracker()
        flags = ["--listen", "127.0.0.1:0", "--data", str(data), "--no-mdns"]
        self.data = data
        self.storage = swarm.add("storage", "storage", flags)
        self.senders = [swarm.add_daemon(f"sender{number}") for number in range(senders)]
        self.fetcher = swarm.add_daemon("fetcher")
        swarm.start_all([self.storage, *self.senders, self.fetcher])
        for program in (self.storage, *self.senders, self.fetcher):
            program.wait_logged("tracker connected")

    def put(self, sender: Program, paths: Sequence[Path]) -> PutTimes:
        """Put files or folders, and wait until they are stored."""
        began = time.monotonic()
        hashed = cpu = 0.0
        params = {"paths": [str(path) for path in paths], "wait": "stored"}
        answer: dict[str, Any] = {}
        for answer in sender.conversation("put", params, TRANSFER_SECONDS_MAX):
            if not hashed and answer.get("params", {}).get("state", "") not in ("", "hashing"):
                hashed, cpu = time.monotonic(), cpu_seconds(sender.pid)
        ended = time.monotonic()
        results = answer["result"]["results"]
        bad = [result for result in results if result["state"] != "stored"]
        if bad:
            raise RuntimeError(f"not stored: {bad[:3]}")
        return PutTimes(began, hashed or ended, ended, cpu, results)

    def measured_put(self, source: Path) -> Sample:
        """Put a file that nobody else has; it was hashed before, by sharing. From the command to "stored"."""
        renew(source)
        (sender,) = self.senders
        sender.call("share", TRANSFER_SECONDS_MAX, paths=[str(source)])
        self.warm(source)
        used = cpu_seconds(self.storage.pid)
        times = self.put(sender, [source])
        spent = cpu_seconds(sender.pid) - times.cpu_when_hashed, cpu_seconds(self.storage.pid) - used
        self.clear()
        size = source.stat().st_size
        return Sample(
            times.ended - times.began, size / MIB, *spent, size, {"MiB resident": self.resident(self.storage)}
        )

    def measured_folder(self, folder: Path) -> Sample:
        """Put a folder of files that nobody has or has heard of; the amount is their number."""
        fresh = folder / os.urandom(4).hex()
        next(folder.iterdir()).rename(fresh)
        files = sorted(fresh.iterdir())
        for file in files:
            renew(file)
        (sender,) = self.senders
        used = cpu_seconds(sender.pid), cpu_seconds(self.storage.pid)
        times = self.put(sender, [fresh])
        spent = cpu_seconds(sender.pid) - used[0], cpu_seconds(self.storage.pid) - used[1]
        assert len(times.results) == len(files)
        self.clear()
        notes = {"cpu send s": spent[0], "cpu receive s": spent[1]}
        return Sample(times.ended - times.began, len(files), notes=notes)

    def measured_puts_at_once(self, sources: Sequence[Path]) -> Sample:
        """Each sender puts a file of its own. From the moment when all have hashed to the last "stored"; so the
        senders hash before, by sharing."""
        for sender, source in zip(self.senders, sources, strict=True):
            renew(source)
            sender.call("share", TRANSFER_SECONDS_MAX, paths=[str(source)])
        self.warm(*sources)
        used = sum(cpu_seconds(sender.pid) for sender in self.senders), cpu_seconds(self.storage.pid)
        threads = [
            threading.Thread(target=self.put, args=(sender, [source]))
            for sender, source in zip(self.senders, sources, strict=True)
        ]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - began
        spent = (
            sum(cpu_seconds(sender.pid) for sender in self.senders) - used[0],
            cpu_seconds(self.storage.pid) - used[1],
        )
        size = sum(source.stat().st_size for source in sources)
        self.clear()
        return Sample(seconds, size / MIB, *spent, size)

    def measured_get(self, source: Path, target: Path) -> Sample:
        """Fetch a file that one daemon shares."""
        renew(source)
        (sender,) = self.senders
        (row,) = sender.call("share", TRANSFER_SECONDS_MAX, paths=[str(source)])["results"]
        tag = row["tag"]
        wait_until(lambda: _known(self.fetcher, tag), "the tracker knows who has it")
        self.warm(source)
        used = cpu_seconds(sender.pid), cpu_seconds(self.fetcher.pid)
        began = time.monotonic()
        self.fetcher.call("get", TRANSFER_SECONDS_MAX, what=tag, output=str(target))
        seconds = time.monotonic() - began
        spent = cpu_seconds(sender.pid) - used[0], cpu_seconds(self.fetcher.pid) - used[1]
        target.unlink()
        size = source.stat().st_size
        return Sample(seconds, size / MIB, *spent, size, {"MiB resident": self.resident(self.fetcher)})

    def warm(self, *sources: Path) -> None:
        """Touch as much memory as a run will write, at the last moment: it is cold again soon. What goes to a disk is
        written to memory first."""
        warm(sources[0].parent, sum(source.stat().st_size for source in sources) // MIB)

    def resident(self, program: Program) -> float:
        """Return what a program keeps in memory, in MiB."""
        return program.resident_bytes() / MIB

    def clear(self) -> None:
        """Take the stored objects away, so that the next run has the memory."""
        for path in (self.data / "objects").rglob("*"):
            if path.is_file():
                path.unlink()


def _known(program: Program, tag: str) -> bool:
    try:
        return bool(program.call("show", tag=tag)["holders"])
    except (Refused, KeyError):
        return False
