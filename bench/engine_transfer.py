"""One sender, one receiver, two processes, TLS 1.3 over loopback: MiB/s of the exchange alone, every chunk verified.

    python -m bench.engine_transfer [--mib 1024] [--folder /dev/shm] [--runs 3] [--profile FILE]

No tracker, no storage node: what the data plane could give to both. Prints one JSON line a run and the median last.
"""

from __future__ import annotations

import argparse
import cProfile
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import trio
from support.swarm import SwarmCa

from bench.contest import Sample, warm
from exchange.engine import Engine, Held
from exchange.spool import Spool
from protocol.bitmap import Bitmap
from protocol.ids import NodeAddress, Role, Tag
from protocol.limits import MIB
from protocol.manifest import Layout, Manifest
from runtime.links import Links
from runtime.logs import setup_logs
from runtime.real import real_runtime


class OneFile:
    """Holdings of a single file, or of nothing."""

    def __init__(self, runtime, path: Path | None, manifest: Manifest | None) -> None:
        self._runtime = runtime
        self._manifest = manifest
        self._file = runtime.disk.open_read(path) if path else None

    def holding(self, tag: Tag) -> Held | None:
        if self._manifest is None or tag != self._manifest.tag:
            return None
        return Held(self._manifest.layout, Bitmap.full(tag.chunks), True)

    async def manifest(self, tag: Tag) -> Manifest | None:
        return self._manifest

    async def read_block(self, tag: Tag, chunk: int, offset: int, target: memoryview) -> None:
        position = self._manifest.layout.offset_of(chunk) + offset
        await self._runtime.run_sync(self._file.read_into, target, position)


def manifest_of(path: Path) -> Manifest:
    """Return the manifest of a file; it is kept beside it, for the other process and the next run."""
    layout = Layout.of_size(path.stat().st_size)
    kept = path.with_name(path.name + ".digests")
    if not kept.exists():
        with open(path, "rb") as file:
            kept.write_bytes(
                b"".join(hashlib.sha256(file.read(layout.chunk_bytes)).digest() for _ in range(layout.chunks))
            )
    joined = kept.read_bytes()
    return Manifest.of_digests(layout.size_bytes, [joined[at : at + 32] for at in range(0, len(joined), 32)])


async def node(name: str, holdings, *, listening: bool):
    runtime = real_runtime()
    engine = Engine(runtime, holdings(runtime))

    async def serve(link) -> None:
        async with engine.session(link) as session:
            async for message in link.messages():
                assert await session.handle(message)

    links = Links(runtime, SwarmCa("bench").credentials(name), name=name, serve=serve)
    listeners = (await runtime.network.listen("127.0.0.1", 0),) if listening else ()
    return runtime, engine, links, listeners


def cpu() -> float:
    """Return what this process has used so far, in seconds."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def send(path: Path) -> None:
    manifest = manifest_of(path)
    _, engine, links, listeners = await node("sender", lambda rt: OneFile(rt, path, manifest), listening=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        await nursery.start(links.run, listeners)
        before = cpu()
        print(json.dumps({"address": listeners[0].address}), flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        print(json.dumps({"cpu": cpu() - before}), flush=True)
        nursery.cancel_scope.cancel()


async def receive(path: Path, address: str, source: Path) -> dict:
    manifest = manifest_of(source)
    runtime, engine, links, listeners = await node("receiver", lambda rt: OneFile(rt, None, None), listening=False)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        await nursery.start(links.run, listeners)
        link = await links.dial(NodeAddress(SwarmCa("bench").node("sender"), Role.PEER, (address,)))
        spool = await Spool.open(runtime, path, manifest)
        swarm = engine.fetch(manifest, spool, Bitmap(manifest.layout.chunks), lambda chunk, makers: None)
        before = cpu()
        began = time.monotonic()
        engine.ask(link, manifest.tag)
        await swarm.run()
        seconds = time.monotonic() - began
        used = cpu() - before
        swarm.close()
        await spool.aclose()
        nursery.cancel_scope.cancel()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "cpu": used, "rss_mib": resident}


def one_run(source: Path, target: Path, profile: str | None = None) -> Sample:
    """Send ``source`` from a process of its own to this one."""
    manifest_of(source)
    sender = subprocess.Popen(
        [sys.executable, "-m", "bench.engine_transfer", "--role", "send", "--paths", str(source)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert sender.stdin is not None and sender.stdout is not None
    address = json.loads(sender.stdout.readline())["address"]
    if profile:
        profiling = cProfile.Profile()
        result = profiling.runcall(trio.run, receive, target, address, source)
        profiling.dump_stats(profile)
    else:
        result = trio.run(receive, target, address, source)
    sender.stdin.write("end\n")
    sender.stdin.flush()
    sender_cpu = json.loads(sender.stdout.readline())["cpu"]
    sender.stdin.close()
    sender.stdout.close()
    sender.wait()
    target.unlink()
    size = source.stat().st_size
    return Sample(result["seconds"], size / MIB, sender_cpu, result["cpu"], size, {"MiB resident": result["rss_mib"]})


def main() -> None:
    setup_logs("warning")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--role", choices=["send"])
    parser.add_argument("--paths", nargs="*")
    parser.add_argument("--profile")
    arguments = parser.parse_args()
    if arguments.role == "send":
        trio.run(send, Path(arguments.paths[0]))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        source, target = Path(name) / "source", Path(name) / "target"
        with open(source, "wb") as file:
            for _ in range(arguments.mib // 16):
                file.write(os.urandom(16 * MIB))
        rates = []
        for _ in range(arguments.runs):
            warm(Path(name), arguments.mib)
            sample = one_run(source, target, arguments.profile)
            rates.append(sample.amount / sample.seconds)
            print(json.dumps({"mib_per_second": round(rates[-1], 1), **asdict(sample)}))
        print(json.dumps({"median_mib_per_second": round(statistics.median(rates), 1)}))


if __name__ == "__main__":
    main()
