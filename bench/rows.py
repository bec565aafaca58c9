"""The rows of ``python -m bench.run``: what is measured of one link, against whom, and what is aimed at.

Each row makes its own swarm of real processes on loopback (swarms.py) and lets the contestants run in turn
(contest.py). ``mib`` is the size of the file, ``fast`` a folder in memory, ``disk`` one on a disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import rivals
from bench.contest import MIB, Contestant, Row, Sample, cpu_seconds, hold
from bench.engine_transfer import one_run
from bench.swarms import Arena, make_source, renew


@dataclass(frozen=True, slots=True)
class Plan:
    """How large, how often, where."""

    mib: int
    runs: int
    fast: Path
    disk: Path
    with_rivals: bool = True


def _folder(stack: contextlib.ExitStack, parent: Path) -> Path:
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="upswarm-bench-", dir=parent)))


def engine(plan: Plan) -> Row:
    """The exchange alone: two processes, no daemon, no tracker."""
    row = Row("engine", f"Exchange alone, {plan.mib} MiB, tmpfs to tmpfs", "MiB/s")
    with contextlib.ExitStack() as stack:
        folder = _folder(stack, plan.fast)
        source = make_source(folder / "source", plan.mib)
        ours = Contestant("Upswarm, engine to engine", lambda: one_run(source, folder / "target"), warm_mib=plan.mib)
        return hold(row, [ours], plan.runs, folder)


def get(plan: Plan) -> Row:
    """Peer to peer, and everybody else on the same work."""
    row = Row("get", f"Peer to peer, {plan.mib} MiB, tmpfs to tmpfs", "MiB/s")
    row.aims = ["1.3 x libtorrent plain", "2.5 x libtorrent encrypted", "0.9 x nginx → curl by HTTPS"]
    with contextlib.ExitStack() as stack:
        folder = _folder(stack, plan.fast)
        source = make_source(folder / "source.bin", plan.mib)
        # Ours changes between runs, so that nobody has it; the others' torrent and digest must stay right.
        arena = Arena(stack, folder / "data")
        ours = make_source(folder / "ours.bin", plan.mib)
        contestants = [Contestant("Upswarm get", lambda: arena.measured_get(ours, folder / "ours.copy"))]
        if plan.with_rivals:
            found = {
                "libtorrent": rivals.libtorrent(stack, folder, source, encrypted=False),
                "libtorrent, encrypted": rivals.libtorrent(stack, folder, source, encrypted=True),
                "nginx and curl": rivals.curl(stack, folder, source),
                "rclone": rivals.rclone(stack, folder, source),
                "aria2": rivals.aria2(stack, folder, source),
            }
            contestants += [rival for rival in found.values() if rival is not None]
            row.missing = [
                f"{name} is not installed (bench/install-rivals)" for name, one in found.items() if one is None
            ]
        return hold(row, contestants, plan.runs, folder)


def put(plan: Plan) -> Row:
    """Into a storage node whose disk is memory, beside a get."""
    row = Row("put", f"Into storage, {plan.mib} MiB, tmpfs to tmpfs; hashed before", "MiB/s")
    row.aims = ["0.8 x Upswarm get"]
    with contextlib.ExitStack() as stack:
        folder = _folder(stack, plan.fast)
        arena = Arena(stack, folder / "data")
        source = make_source(folder / "source.bin", plan.mib)
        ours = Contestant("Upswarm put", lambda: arena.measured_put(source))
        beside = Contestant("Upswarm get", lambda: arena.measured_get(source, folder / "copy"))
        return hold(row, [ours, beside], plan.runs, folder)


def put_disk(plan: Plan) -> Row:
    """Into a storage node on a disk, beside dd."""
    row = Row("put-disk", f"Into storage, {plan.mib} MiB, tmpfs to disk; hashed before", "MiB/s")
    row.aims = ["0.8 x dd conv=fsync"]
    with contextlib.ExitStack() as stack:
        folder, disk = _folder(stack, plan.fast), _folder(stack, plan.disk)
        arena = Arena(stack, disk / "data")
        source = make_source(folder / "source.bin", plan.mib)
        ours = Contestant("Upswarm put", lambda: arena.measured_put(source))
        return hold(row, [ours, rivals.dd(source, disk / "dd.copy")], plan.runs, folder)


def four(plan: Plan) -> Row:
    """Four senders at once, beside one with as much."""
    row = Row("four", f"Into storage, 4 senders of {plan.mib // 4} MiB at once, tmpfs; hashed before", "MiB/s")
    row.aims = ["not slower than one sender"]
    with contextlib.ExitStack() as stack:
        folder = _folder(stack, plan.fast)
        arena = Arena(stack, folder / "data", senders=4)
        sources = [make_source(folder / f"source{number}.bin", plan.mib // 4) for number in range(4)]
        alone = Arena(stack, folder / "data-alone")
        whole = make_source(folder / "whole.bin", plan.mib)
        contestants = [
            Contestant("four senders", lambda: arena.measured_puts_at_once(sources)),
            Contestant("one sender", lambda: alone.measured_puts_at_once([whole])),
        ]
        return hold(row, contestants, plan.runs, folder)


SMALL_FILES = 1000
SMALL_BYTES = 64 * 1024


def small(plan: Plan) -> Row:
    """Many small files by one command."""
    row = Row("small", f"{SMALL_FILES} files of 64 KiB by one put of their folder", "files/s")
    row.aims = ["300 files/s stored"]
    with contextlib.ExitStack() as stack:
        folder, disk = _folder(stack, plan.fast), _folder(stack, plan.disk)
        files = folder / "files"
        (files / "first").mkdir(parents=True)
        for number in range(SMALL_FILES):
            (files / "first" / f"{number:04}").write_bytes(os.urandom(SMALL_BYTES))
        fast, slow = Arena(stack, folder / "data"), Arena(stack, disk / "data")
        contestants = [
            Contestant("storage in memory", lambda: fast.measured_folder(files), warm_mib=128),
            Contestant("storage on disk", lambda: slow.measured_folder(files), warm_mib=128),
        ]
        return hold(row, contestants, plan.runs, folder)


def hashing(plan: Plan) -> Row:
    """What a put needs before the first byte leaves, beside hashlib in a thread a core."""
    cores = os.cpu_count() or 1
    row = Row("hash", f"Hashing at put, {plan.mib} MiB in the page cache", "MiB/s")
    row.aims = [f"0.85 x hashlib in {cores} threads"]
    with contextlib.ExitStack() as stack:
        folder = _folder(stack, plan.fast)
        arena = Arena(stack, folder / "data")
        (sender,) = arena.senders
        source = make_source(folder / "source.bin", plan.mib)

        def ours() -> Sample:
            renew(source)
            began, used = time.monotonic(), cpu_seconds(sender.pid)
            times = arena.put(sender, [source])
            arena.clear()
            return Sample(times.hashed - began, plan.mib, times.cpu_when_hashed - used, None, plan.mib * MIB)

        contestants = [
            Contestant("Upswarm put, until hashed", ours, warm_mib=plan.mib),
            Contestant(f"hashlib, {cores} threads", lambda: _hashlib(source, cores), verifies="–"),
        ]
        return hold(row, contestants, plan.runs, folder)


def _hashlib(path: Path, threads: int) -> Sample:
    """As fast as this Python can: each thread a part of the file, one digest each, pieces of 1 MiB."""
    size = path.stat().st_size
    part = size // threads

    def work(start: int) -> None:
        digest, buffer = hashlib.sha256(), memoryview(bytearray(MIB))
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            for _ in range(part // MIB):
                file.readinto(buffer)
                digest.update(buffer)

    began, used = time.monotonic(), time.process_time()
    working = [threading.Thread(target=work, args=(number * part,)) for number in range(threads)]
    for thread in working:
        thread.start()
    for thread in working:
        thread.join()
    return Sample(time.monotonic() - began, size / MIB, time.process_time() - used, None, size)


def again(plan: Plan) -> Row:
    """What is known already: a second put of a file, and the first put of one that storage has."""
    row = Row("again", f"Puts of {plan.mib} MiB that storage has", "s")
    row.aims = ["second put: 0.05 s", "instant upload: 0.3 s beyond hashing"]
    with contextlib.ExitStack() as stack:
        folder = _folder(stack, plan.fast)
        arena = Arena(stack, folder / "data", senders=2)
        first, second = arena.senders
        source, copy = make_source(folder / "source.bin", plan.mib), folder / "copy.bin"
        # No hard link: a second name changes what identifies the file.
        shutil.copyfile(source, copy)
        arena.put(first, [source])

        def unchanged() -> Sample:
            times = arena.put(first, [source])
            return Sample(times.ended - times.began, 0)

        def instant() -> Sample:
            # Another node, and a file it does not know (any more): it has to hash, and to prove that it has the bytes.
            os.utime(copy)
            times = arena.put(second, [copy])
            assert times.results[0]["instant"], times.results
            notes = {"hashing s": times.hashed - times.began}
            return Sample(times.ended - times.hashed, 0, notes=notes)

        contestants = [
            Contestant("second put of an unchanged file", unchanged, verifies="–"),
            Contestant("instant upload, beyond hashing", instant, verifies="–"),
        ]
        return hold(row, contestants, plan.runs, folder)


ROWS: dict[str, Callable[[Plan], Row]] = {
    "engine": engine,
    "get": get,
    "put": put,
    "put-disk": put_disk,
    "four": four,
    "small": small,
    "hash": hashing,
    "again": again,
}
