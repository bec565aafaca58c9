"""Floods beside an upload: it keeps nine tenths of its rate, the flooders are cut off, and nobody grows without end.

The uploader's line is capped far below what the processor could do, so that the figure is about places and turns, and
not about who shares the machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from support.commands import die_with_parent
from support.crew import Crew, put
from support.files import MIB
from support.processes import Program, Swarm, wait_until
from support.strangers import hello, keyring_of, link_to, next_message, tls_socket

from protocol import messages as m
from protocol.codec import encode
from protocol.frames import frame
from protocol.ids import Tag
from protocol.limits import HANDSHAKE_SECONDS_MAX
from protocol.manifest import Manifest
from runtime.identity import Credentials

pytestmark = [pytest.mark.timing, pytest.mark.slow, pytest.mark.timeout(240)]

UPLINK_BYTES_PER_SECOND = 2_000_000
SIZE_BYTES = 12_000_000
RATE_KEPT_MIN = 0.9
# A stranger waits in line for half of this at most, and then has all of it; the rest is for a machine that is busy.
CUT_SECONDS_MAX = 1.5 * HANDSHAKE_SECONDS_MAX + 10
# 256 strangers of each program, 96 KiB each, and as much again that allocators keep.
GROWTH_BYTES_MAX = 48 * MIB
HOSTS = 8
SILENT_PER_HOST = 40
DIALS_PER_SECOND = 100
# Silent connections from several hosts to each address, dialled anew when they are cut; and connections that are made
# and closed at once. Says how many were cut, and the longest that one lived.
FLOOD = """
import select, socket, sys, time
hosts, silent, per_second = map(int, sys.argv[1:4])
targets = [(host, int(port)) for host, _, port in (one.rpartition(":") for one in sys.argv[4:])]
born = {}
cut, longest = 0, 0.0
def dial(target, number):
    connection = socket.socket()
    connection.bind((f"127.2.0.{1 + number}", 0))
    connection.setblocking(False)
    connection.connect_ex(target)
    return connection
slots = [(target, number) for target in targets for number in range(hosts) for _ in range(silent)]
poll = select.poll()
def hold(slot):
    connection = dial(*slot)
    born[connection.fileno()] = (connection, slot, time.monotonic())
    poll.register(connection, select.POLLIN)
for slot in slots:
    hold(slot)
said = time.monotonic()
while True:
    for target in targets:
        dial(target, int(time.monotonic() * 1000) % hosts).close()
    until = time.monotonic() + 1 / per_second
    while (left := until - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(1000 * left):
            connection, slot, since = born.pop(descriptor)
            poll.unregister(descriptor)
            connection.close()
            cut += 1
            longest = max(longest, time.monotonic() - since)
            hold(slot)
    now = time.monotonic()
    if now - said > 0.5:
        said = now
        oldest = now - min(since for _, _, since in born.values())
        print(cut, round(max(longest, oldest), 1), flush=True)
"""


@contextlib.contextmanager
def flood(told: Path, *addresses: str) -> Iterator[None]:
    """Flood these addresses while the block lasts; ``told`` gets what the flooder says."""
    with told.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", FLOOD, str(HOSTS), str(SILENT_PER_HOST), str(DIALS_PER_SECOND), *addresses],
            stdout=output,
            preexec_fn=die_with_parent,
        )
    try:
        yield
        assert process.poll() is None, "it floods to the end"
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def deaf(credentials: Credentials, *programs: Program) -> Iterator[None]:
    """Have members ask each program without end and read no answer, while the block lasts."""
    stop = threading.Event()
    asked = frame(encode(m.Ask(tag=Tag(bytes(32), 1))))
    question = frame(encode(m.ListNodes(request=1, after=None)))

    def ask(program: Program) -> None:
        data = (question if program.kind == "tracker" else asked) * 500
        while not stop.is_set():
            with contextlib.suppress(OSError), tls_socket(program.address, credentials) as tls:
                tls.sendall(frame(encode(hello("deaf"))))
                tls.settimeout(0.5)
                while not stop.is_set():
                    with contextlib.suppress(TimeoutError):
                        tls.sendall(data)
                    stop.wait(0.1)

    threads = [threading.Thread(target=ask, args=(program,)) for program in programs]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def rate_of_put(crew: Crew, number: int) -> float:
    """Put a file of its own and return its bytes per second."""
    file = crew.file(f"file-{number}.bin", SIZE_BYTES, number)
    began = time.monotonic()
    assert put(crew.daemons[0], file)["state"] == "stored"
    return SIZE_BYTES / (time.monotonic() - began)


def last_line(told: Path) -> tuple[int, float]:
    lines = told.read_text().splitlines()
    cut, longest = lines[-1].split() if lines else ("0", "0")
    return int(cut), float(longest)


def test_floods_of_strangers_and_deaf_members_cost_no_more_than_a_tenth(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=1, up_bytes_per_second=str(UPLINK_BYTES_PER_SECOND))
    member = keyring_of(swarm.join(swarm.add("daemon", "deaf", [])).identity).credentials
    programs = (crew.tracker, crew.storage)
    alone = rate_of_put(crew, 1)
    before = {program: program.resident_bytes() for program in programs}
    told = crew.folder / "flood.txt"
    with flood(told, *(program.address for program in programs)), deaf(member, *programs):
        wait_until(lambda: last_line(told)[1] > 0, "the flood has begun")
        beside = [rate_of_put(crew, 2), rate_of_put(crew, 3)]
        grown = {program: program.resident_bytes() - before[program] for program in programs}
        slots = len(programs) * HOSTS * SILENT_PER_HOST
        wait_until(lambda: last_line(told)[0] >= slots, "as many were cut off as there are", CUT_SECONDS_MAX)
    cut, longest = last_line(told)
    print(f"alone {alone / 1e6:.3f} MB/s, beside {max(beside) / 1e6:.3f}, {cut} cut, the longest after {longest} s,",
          {program.name: f"{size / MIB:.1f} MiB more" for program, size in grown.items()})  # fmt: skip
    assert max(beside) >= RATE_KEPT_MIN * alone, (alone, beside)
    assert longest <= CUT_SECONDS_MAX
    assert all(size <= GROWTH_BYTES_MAX for size in grown.values()), grown


# --- one node that opens all the jobs that there are ---

JOBS = 10_000
JOB_BYTES = 1000
NODE_JOBS_MAX = 256  # storage/config.py
JOBS_GROWTH_BYTES_MAX = 24 * MIB


def tiny(number: int) -> Manifest:
    """Return the manifest of a file that nobody has."""
    return Manifest.of_digests(JOB_BYTES, [hashlib.sha256(number.to_bytes(8, "big")).digest()])


async def open_all(credentials: Credentials, address: str) -> tuple[int, dict[str, int]]:
    """Propose ``JOBS`` files and open those that are let in; return how many, and what was said to the others."""
    opened, refused = 0, dict[str, int]()
    async with link_to(credentials, address) as link:
        for number in range(JOBS):
            manifest = tiny(number)
            link.post(m.Propose(request=number, tag=manifest.tag, size_bytes=JOB_BYTES, name=f"{number}.tiny"))
            said = await next_message(link, m.DeskAnswer, m.Failure)
            if isinstance(said, m.Failure):
                key = f"{said.code}: {said.reason}"
                refused[key] = refused.get(key, 0) + 1
            else:
                assert isinstance(said, m.DeskAnswer) and said.state is m.DeskState.NEW
                link.post(m.ManifestIs(tag=manifest.tag, size_bytes=JOB_BYTES, digests=manifest.joined_digests()))
                opened += 1
    return opened, refused


def test_ten_thousand_jobs_of_one_node_are_refused_in_words_and_others_go_on(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=1, up_bytes_per_second=str(UPLINK_BYTES_PER_SECOND))
    greedy = keyring_of(swarm.join(swarm.add("daemon", "greedy", [])).identity).credentials
    alone = rate_of_put(crew, 1)
    before = crew.storage.resident_bytes()
    answers: list[tuple[int, dict[str, int]]] = []
    opening = threading.Thread(
        target=lambda: answers.append(trio.run(open_all, greedy, crew.storage.address)), name="greedy"
    )
    opening.start()
    wait_until(lambda: len(crew.storage.call("status")["jobs"]) > 10, "its jobs are open")
    beside = rate_of_put(crew, 2)
    opening.join()
    grown = crew.storage.resident_bytes() - before
    ((opened, refused),) = answers
    print(f"alone {alone / 1e6:.3f} MB/s, beside {beside / 1e6:.3f}, {opened} opened, {refused}, {grown / MIB:.1f} MiB")
    assert beside >= RATE_KEPT_MIN * alone
    assert opened == NODE_JOBS_MAX and sum(refused.values()) == JOBS - opened
    assert list(refused) == [f"busy: you have {NODE_JOBS_MAX} uploads open here; let some of them end first"]
    assert grown <= JOBS_GROWTH_BYTES_MAX
    spooled = [path.stat().st_size for path in (crew.storage.data / "spool").rglob("*") if path.is_file()]
    assert len(spooled) <= NODE_JOBS_MAX and sum(spooled) <= NODE_JOBS_MAX * JOB_BYTES, "no more on the disk than that"
    # Who has nothing to do with it may still open some.
    assert put(crew.daemons[0], crew.file("after.bin", 1000, 3))["state"] == "stored"
