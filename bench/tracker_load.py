"""What one tracker process carries on one core, beside a bare TLS echo of the same frames and beside opentracker.

    make bench-tracker                     every row, one line of JSON each; about ten minutes
    python -m bench.tracker_load idle      only some: idle changes queries busy udp memory entries redis
    python -m bench.tracker_load memory --seconds 600 --rounds 1       2,000 links for ten minutes

The server has core 0, the driver core 1. Servers of a row are measured in turns (A B C, A B C, ...), and the median and
the spread of their rounds are printed, and added to bench/results/tracker.jsonl. docs/benchmarks.md says what came of
it, and how to read it.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import resource
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from support.commands import die_with_parent
from support.redis_server import PASSWORD, RedisProcess, running_redis
from support.swarm import SwarmCa

from bench.tracker_driver import Client, Result, connect, drive, framed, settle
from protocol import messages as m
from protocol.bitmap import Bitmap
from protocol.ids import Role, Tag

SERVER_CORE, DRIVER_CORE = 0, 1
HEARTBEAT_ANSWER, WHERE_ANSWER = m.HeartbeatAnswer.TYPE, m.WhereAnswer.TYPE
MIB = 1024 * 1024
CA = SwarmCa()
RESULTS = Path(__file__).parent / "results" / "tracker.jsonl"


# --- what is said ---


def beat(number: int, epoch: int, sequence: int) -> bytes:
    return framed(m.Heartbeat(number=number, epoch=epoch, sequence=sequence, room_bytes=0, lend=False, paused=False))


def tag_of(number: int, chunks: int = 64) -> Tag:
    return Tag(hashlib.sha256(f"bench {number}".encode()).digest(), chunks)


def holding(number: int, have: int | None = None) -> m.Holding:
    """A file of 64 chunks, of which so many are held; None: all."""
    tag = tag_of(number)
    bitmap = b"" if have is None else Bitmap.of(tag.chunks, range(have)).to_bytes()
    return m.Holding(
        tag=tag, size_bytes=tag.chunks * MIB, names=(f"footage/day-{number:06}.mov",), since=number, bitmap=bitmap
    )


def inventory(epoch: int, sequence: int, held: Sequence[m.Holding], *, full: bool) -> bytes:
    return framed(m.Inventory(epoch=epoch, sequence=sequence, full=full, held=tuple(held), dropped=()))


def idle_beats(epoch: int, sequence: int) -> Iterator[Sequence[bytes]]:
    # The number stays small: a frame of always the same size.
    said = (beat(7, epoch, sequence),)
    while True:
        yield said


def changing_beats(epoch: int, rounds: int) -> Iterator[Sequence[bytes]]:
    """A beat, and ten files of which another chunk has come, each in a record of its own."""
    for sequence in range(1, rounds + 1):
        held = [holding(100 * (epoch % 50) + number, 1 + sequence % 63) for number in range(10)]
        yield beat(7, epoch, sequence), inventory(epoch, sequence + 1, held, full=False)


# --- servers ---


@contextlib.contextmanager
def tracker(*, redis: str = "") -> Iterator[tuple[str, psutil.Process]]:
    """A real one, with the authority of our throwaway swarm."""
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        folder = Path(home, "tracker", "authority")
        folder.mkdir(parents=True)
        key = CA.authority.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / "key.pem").touch(0o600)
        (folder / "key.pem").write_bytes(key)
        (folder / "certificate.pem").write_bytes(CA.authority.certificate.public_bytes(Encoding.PEM))
        flags = ["--listen", "127.0.0.1:0", "--http", "off", "--no-mdns", "--log-level", "error"]
        command = [sys.executable, "-m", "upswarm", "--home", home, "tracker", *flags]
        environment = dict(os.environ)
        if redis:
            environment |= {"UPSWARM_TRACKER_REDIS": redis, "UPSWARM_TRACKER_REDIS_PASSWORD": PASSWORD}
        with _running(command, environment) as process:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["listen"], psutil.Process(process.pid)


@contextlib.contextmanager
def echo(kind: str) -> Iterator[tuple[str, psutil.Process]]:
    answer = framed(m.HeartbeatAnswer(number=7, interval_milliseconds=5000, inventory_wanted=False))
    command = [sys.executable, "-m", "bench.tracker_servers", kind, "--answer-bytes", str(len(answer))]
    with _running(command, dict(os.environ)) as process:
        assert process.stdout is not None
        yield process.stdout.readline().decode().strip(), psutil.Process(process.pid)


@contextlib.contextmanager
def _running(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    pinned = ["taskset", "-c", str(SERVER_CORE), *command]
    with subprocess.Popen(pinned, stdout=subprocess.PIPE, env=environment, preexec_fn=die_with_parent) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def opentracker() -> Iterator[int]:
    """Debian's, with one whitelisted torrent; yields its UDP port."""
    with tempfile.TemporaryDirectory(prefix="opentracker-") as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        Path(folder).chmod(0o755)
        Path(folder, "white").write_text(f"{'aa' * 20}\n")
        at = ["-i", "127.0.0.1", "-p", str(port), "-P", str(port)]
        with _running(["opentracker", *at, "-d", folder, "-w", "/white", "-u", "nobody"], dict(os.environ)):
            time.sleep(1)
            yield port


def joined(
    address: str, count: int, answer_type: int, *, hello: bool, role: Role = Role.PEER, first: int = 0
) -> list[Client]:
    """Return connections of as many nodes."""
    names = [f"{role} {number}" for number in range(first, first + count)]
    return [connect(address, CA.credentials(name, role), hello=hello, answer_type=answer_type) for name in names]


def tell(clients: list[Client], held: Callable[[int], Sequence[m.Holding]]) -> None:
    """Let each node beat and say in full what it holds."""
    settle(clients, lambda number: (beat(7, 1000 + number, 1), inventory(1000 + number, 1, held(number), full=True)))
    settle(clients, lambda number: (beat(7, 1000 + number, 1),))


# --- rows ---


def row_idle(seconds: float, nodes: int = 200) -> dict[str, float]:
    """Beats that change nothing, of nodes that hold 20 files each; and microseconds of processor for each, which other
    work on the machine changes little."""
    figures: dict[str, float] = {}

    def measure(name: str, clients: list[Client], process: psutil.Process) -> None:
        for number, client in enumerate(clients):
            client.requests = idle_beats(1000 + number, 1)
        before = sum(process.cpu_times()[:2])
        result = drive(clients, seconds)
        figures[name] = result.rate
        figures[f"{name} us"] = 1e6 * (sum(process.cpu_times()[:2]) - before) / result.answers

    with tracker() as (address, process):
        clients = joined(address, nodes, HEARTBEAT_ANSWER, hello=True)
        tell(clients, lambda number: [holding(1000 * number + one) for one in range(20)])
        measure("tracker", clients, process)
    for kind in ("trio", "own"):
        with echo(kind) as (address, process):
            measure(f"echo {kind}", joined(address, nodes, HEARTBEAT_ANSWER, hello=False), process)
    return figures


def row_changes(seconds: float, nodes: int = 100) -> dict[str, float]:
    """Beats with ten changes each."""
    rounds = int(40 * seconds)
    said = [list(changing_beats(1000 + number, rounds)) for number in range(nodes)]
    rates = {}
    with tracker() as (address, _):
        clients = joined(address, nodes, HEARTBEAT_ANSWER, hello=True)
        tell(clients, lambda number: [holding(100 * ((1000 + number) % 50) + one, 1) for one in range(10)])
        rates["tracker"] = _said(clients, said, seconds)
    for kind in ("trio", "own"):
        with echo(kind) as (address, _):
            clients = joined(address, nodes, HEARTBEAT_ANSWER, hello=False)
            rates[f"echo {kind}"] = _said(clients, said, seconds)
    return rates


def _said(clients: list[Client], said: list[list[Sequence[bytes]]], seconds: float) -> float:
    for client, parts in zip(clients, said, strict=True):
        client.requests = iter(parts)
    return drive(clients, seconds).rate


def row_queries(seconds: float, nodes: int = 100, files: int = 10_000) -> dict[str, float]:
    """Where is this file? 100 nodes hold 10,000 files, each file three times."""
    with tracker() as (address, _):
        clients = joined(address, nodes, HEARTBEAT_ANSWER, hello=True)
        for sequence in range(1, 5):
            for number, client in enumerate(clients):
                held = [holding((100 * number + 75 * sequence + one) % files) for one in range(75)]
                said = beat(7, 1000 + number, sequence), inventory(1000 + number, sequence, held, full=sequence == 1)
                client.requests = iter([said])
            drive(clients, 60)
        draw = random.Random(1)
        for client in clients:
            client.answer_type = WHERE_ANSWER
            client.requests = iter([(_where(draw.randrange(files)),) for _ in range(int(400 * seconds))])
        return {"tracker": drive(clients, seconds).rate}


def _where(number: int) -> bytes:
    return framed(m.Where(request=7, tag=tag_of(number), name=None, size_bytes=0, to_put=False))


def row_busy(seconds: float, nodes: int = 200, jobs: int = 20, per_second: float = 2000) -> dict[str, float]:
    """Latency of beats (milliseconds) while 20 jobs are open and every node holds two of their files; 2,000 beats a
    second, each with the orders that follow."""
    with tracker() as (address, _):
        clients = joined(address, nodes, HEARTBEAT_ANSWER, hello=True)
        tell(clients, lambda number: [holding(number % jobs), holding((number + 7) % jobs)])
        storage = joined(address, 1, HEARTBEAT_ANSWER, hello=True, role=Role.STORAGE)
        tell(storage, lambda number: [])
        settle(storage, lambda number: (*(_job(one) for one in range(jobs)), beat(7, 1000, 1)))
        for number, client in enumerate(clients):
            client.requests = idle_beats(1000 + number, 1)
        result: Result = drive(clients, seconds, per_second)
    return {
        "beats/s": result.rate,
        "p50 ms": result.percentile(0.5),
        "p99 ms": result.percentile(0.99),
        "max ms": 1000 * result.latencies[-1],
    }


def _job(number: int) -> bytes:
    return framed(
        m.JobUpdate(
            tag=tag_of(number),
            size_bytes=64 * MIB,
            name=f"job {number}",
            state=m.JobState.OPEN,
            reason="",
            chunks_stored=0,
            safe=False,
            uploaders=(),
            pushed=(),
        )
    )


def row_udp(seconds: float) -> dict[str, float]:
    """opentracker's announces by UDP, which are neither encrypted nor about what a node holds."""
    with opentracker() as port, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.connect(("127.0.0.1", port))
        line.settimeout(5)
        line.send(struct.pack(">QII", 0x41727101980, 0, 1))
        connection = struct.unpack(">IIQ", line.recv(64))[2]
        announce = struct.pack(
            ">QII20s20sQQQIIIiH", connection, 1, 7, b"\xaa" * 20, b"p" * 20, 0, 0, 0, 0, 0, 1, 50, 4101
        )
        window, answered, begun = 64, 0, time.perf_counter()
        for _ in range(window):
            line.send(announce)
        while (now := time.perf_counter()) - begun < seconds:
            answer = line.recv(2048)
            assert struct.unpack_from(">I", answer)[0] == 1, answer
            answered += 1
            line.send(announce)
        return {"opentracker announces/s": answered / (now - begun)}


def row_memory(seconds: float, nodes: int = 2000) -> dict[str, float]:
    """KiB for each connected node, links held and beaten for ``seconds``; and how much it is after each minute."""
    with tracker() as (address, process):
        first = joined(address, 1, HEARTBEAT_ANSWER, hello=True, role=Role.STORAGE)
        tell(first, lambda number: [])
        before = process.memory_info().rss
        clients: list[Client] = []
        while len(clients) < nodes:
            # On a slow machine it takes a minute until all are there, and who is silent for one is cut off.
            settle(clients, lambda number: (beat(7, 1000 + number, 1),))
            more = joined(address, min(100, nodes - len(clients)), HEARTBEAT_ANSWER, hello=True, first=len(clients))
            tell(more, lambda number: [holding(number)])
            clients += more
        # Those who were told apart have epochs of their own group; the picture of each is known by what it says now.
        tell(clients, lambda number: [holding(number)])
        after = process.memory_info().rss
        result = {"nodes": nodes, "KiB/node": (after - before) / nodes / 1024, "held s": seconds}
        curve = _held(clients, process, seconds)
        # Nobody was cut off meanwhile: each of them is answered once more, or the connection is found closed.
        settle(clients, lambda number: (beat(7, 1000 + number, 1),))
    result |= {f"MiB after {minute} min": used / MIB for minute, used in enumerate(curve)}
    return result | {"MiB most": max(curve) / MIB}


def _held(clients: list[Client], process: psutil.Process, seconds: float) -> list[int]:
    """Let each connection beat every five seconds; return bytes of memory after the first of them and each minute."""
    for number, client in enumerate(clients):
        client.requests = idle_beats(1000 + number, 1)
    turn = list(clients)
    curve: list[int] = []
    begun = time.monotonic()
    while (held := time.monotonic() - begun) < seconds:
        result = drive(turn, min(5.0, seconds - held), len(clients) / 5)
        # Whoever had no turn, because the machine was slow, is the next one.
        done = result.answers % len(turn)
        turn = turn[done:] + turn[:done]
        held = time.monotonic() - begun
        if held >= 60 * len(curve):
            curve.append(process.memory_info().rss)
            print(f"{held:4.0f} s  {curve[-1] / MIB:.1f} MiB  {result.rate:.0f} beats/s", file=sys.stderr, flush=True)
    return curve


def row_entries(_seconds: float, nodes: int = 20, each: int = 5000) -> dict[str, float]:
    """KiB of the tracker for each pair of node and file in its index, every file held by two nodes."""
    with tracker() as (address, process):
        clients = joined(address, nodes, HEARTBEAT_ANSWER, hello=True)
        tell(clients, lambda number: [])
        before = process.memory_info().rss
        step = 80
        for sequence in range(2, 2 + each // step):
            for number, client in enumerate(clients):
                first = (number // 2) * each + (sequence - 2) * step
                held = [holding(first + one) for one in range(step)]
                said = beat(7, 1000 + number, sequence - 1), inventory(1000 + number, sequence, held, full=False)
                client.requests = iter([said])
            drive(clients, 60)
        settle(clients, lambda number: (beat(7, 1000 + number, 1 + each // step),))
        after = process.memory_info().rss
    entries = nodes * (each // step) * step
    return {"entries": entries, "KiB/entry": (after - before) / entries / 1024}


def row_redis(seconds: float, nodes: int = 200, each: int = 20) -> dict[str, float]:
    """Idle beats of a tracker whose index is in a Redis (which shares the driver's core), microseconds of the tracker's
    processor for each, and what Redis keeps."""
    with running_redis() as redis, tracker(redis=redis.address) as (address, process):
        before = _used(redis)
        clients = joined(address, nodes, HEARTBEAT_ANSWER, hello=True)
        tell(clients, lambda number: [holding(each * (number // 2) + one) for one in range(each)])
        kept = (_used(redis) - before) / 1024
        for number, client in enumerate(clients):
            client.requests = idle_beats(1000 + number, 1)
        spent = sum(process.cpu_times()[:2])
        result = drive(clients, seconds)
        spent = sum(process.cpu_times()[:2]) - spent
    return {"beats/s": result.rate, "us": 1e6 * spent / result.answers, "KiB/entry": kept / (nodes * each)}


def _used(redis: RedisProcess) -> int:
    (line,) = [line for line in redis.say("INFO", "memory").split() if line.startswith(b"used_memory:")]
    return int(line.partition(b":")[2])


ROWS: dict[str, Callable[[float], dict[str, float]]] = {
    "idle": row_idle,
    "changes": row_changes,
    "queries": row_queries,
    "busy": row_busy,
    "udp": row_udp,
    "memory": row_memory,
    "entries": row_entries,
    "redis": row_redis,
}
# Memory does not depend on what else runs, and setting up so many links takes the time of several rounds of rates.
ROUNDS = {"idle": 5, "memory": 1, "entries": 1}
ROUNDS_OTHERWISE = 3
SECONDS = {"memory": 60.0}
SECONDS_OTHERWISE = 5.0


def summary(rounds: list[dict[str, float]]) -> dict[str, Any]:
    """Return median and spread of each figure."""
    figures = {}
    for key in rounds[0]:
        values = sorted(one[key] for one in rounds)
        figures[key] = {"median": round(statistics.median(values), 3), "all": [round(one, 3) for one in values]}
    return figures


def record(figures: dict[str, Any]) -> None:
    """Print what was measured, and keep it."""
    line = json.dumps(figures)
    print(line, flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as file:
        file.write(line + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--rounds", type=int, help=f"{ROUNDS_OTHERWISE}; of some rows: {ROUNDS}")
    parser.add_argument("--seconds", type=float, help=f"of each measurement: {SECONDS_OTHERWISE}; of some: {SECONDS}")
    given = parser.parse_args()
    unknown = set(given.rows) - set(ROWS)
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    os.sched_setaffinity(0, {DRIVER_CORE})
    # 2,000 links are as many descriptors, here and in the tracker, which inherits the limit.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    for name in given.rows or ROWS:
        rounds = given.rounds or ROUNDS.get(name, ROUNDS_OTHERWISE)
        seconds = given.seconds or SECONDS.get(name, SECONDS_OTHERWISE)
        measured = [ROWS[name](seconds) for _ in range(rounds)]
        at = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        row = {"row": name, "at": at, "load": os.getloadavg()[0], "rounds": rounds, "seconds": seconds}
        record({**row, **summary(measured)})


if __name__ == "__main__":
    main()
