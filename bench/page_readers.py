"""What open pages cost those for whom the tracker is there: round trips of heartbeats, without pages and with many.

    .venv/bin/python -m bench.page_readers [--pages 200] [--nodes 20] [--seconds 15]

A real tracker process, real TLS links from this process, and from another one HTTP readers that follow /live/overview
as browsers do. While it measures, an upload moves, so that every page has something new to hear each second. Prints
JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics as numbers
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import trio
from contract.index_contract import MIB, beat, holding, said
from support.processes import Program, Swarm, die_with_parent
from support.strangers import link_to, next_message
from support.tracker_world import greeting, join

from protocol import messages as m
from protocol.ids import NodeId, Role, Tag
from protocol.invite import Invite
from protocol.jobmap import ChunkState, code_of, encode_runs
from runtime.link import Link

SETTLE_SECONDS = 2.0
BEATS_PER_SECOND = 5.0  # of each node: far more than any tracker asks for
FILM = Tag(bytes(range(32)), 64)


class Beats:
    """Round trips of heartbeats, in milliseconds."""

    def __init__(self) -> None:
        self.taken: list[float] = []
        self.counting = False

    async def keep(self, link: Link, number: int) -> None:
        """Beat over one link, for ever."""
        await trio.sleep(number / 100)
        while True:
            begun = trio.current_time()
            link.post(beat(sequence=1))
            await next_message(link, m.HeartbeatAnswer)
            if self.counting:
                self.taken.append(1000 * (trio.current_time() - begun))
            await trio.sleep(1 / BEATS_PER_SECOND)

    async def measured(self, seconds: float) -> dict[str, Any]:
        """Return what the next seconds show."""
        self.taken.clear()
        self.counting = True
        await trio.sleep(seconds)
        self.counting = False
        taken = sorted(self.taken)
        return {
            "heartbeats": len(taken),
            "median_ms": round(numbers.median(taken), 2),
            "p99_ms": round(taken[math.ceil(0.99 * len(taken)) - 1], 2),
            "most_ms": round(taken[-1], 2),
        }


async def move_upload(link: Link, uploader: NodeId) -> None:
    """Tell of an upload that gains two chunks a second, again and again."""
    while True:
        for stored in range(0, FILM.chunks, 1):
            codes = [code_of(ChunkState.STORED, 1)] * stored + [0] * (FILM.chunks - stored)
            link.post(m.JobMap(tag=FILM, senders=(uploader,), runs=encode_runs(codes)))
            link.post(
                m.JobUpdate(
                    tag=FILM,
                    size_bytes=FILM.chunks * MIB,
                    name="film.mkv",
                    state=m.JobState.OPEN,
                    reason="",
                    chunks_stored=stored,
                    safe=False,
                    uploaders=(uploader,),
                    pushed=(m.Pushed(node=uploader, bytes_pushed=stored * MIB),),
                )
            )
            await trio.sleep(0.5)


class Readers:
    """Pages that follow the overview, in a process of their own: reading is not what is measured."""

    def __init__(self) -> None:
        self.events = 0

    async def follow(self, address: str, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be one page, for ever."""
        host, port = address.rsplit(":", 1)
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(f"GET /live/overview HTTP/1.0\r\nhost: {address}\r\n\r\n".encode())
            data = await stream.receive_some(65536)
            assert data.startswith(b"HTTP/1.1 200"), data[:200]
            task_status.started()
            while data:
                self.events += data.count(b"event: ")
                data = await stream.receive_some(65536)
        raise AssertionError("the tracker hung up")

    async def run(self, address: str, pages: int, seconds: float) -> None:
        """Open pages, say so, read for ``seconds``, and tell how many events came to each in each second."""
        async with trio.open_nursery() as nursery:
            for _ in range(pages):
                await nursery.start(self.follow, address)
            print("ready", flush=True)
            before = self.events
            await trio.sleep(seconds)
            print((self.events - before) / pages / seconds, flush=True)
            nursery.cancel_scope.cancel()


async def run(tracker: Program, invites: list[Invite], pages: int, seconds: float) -> dict[str, Any]:
    """Measure without and with pages."""
    beats, process = Beats(), psutil.Process(tracker.pid)
    result: dict[str, Any] = {"pages": pages, "nodes": len(invites)}
    async with trio.open_nursery() as nursery:
        for number, invite in enumerate(invites):
            credentials = await join(invite, f"node-{number}")
            link = await nursery.start(_linked, credentials, tracker.address, f"node-{number}")
            link.post(beat(sequence=1))
            link.post(said(holding(FILM, [0]), sequence=1))
            await next_message(link, m.HeartbeatAnswer)
            if invite.role is Role.STORAGE:
                nursery.start_soon(move_upload, link, credentials.node)
            else:
                nursery.start_soon(beats.keep, link, number)
        result["without"] = await measured(beats, process, seconds)
        flags = [
            "--readers-of",
            tracker.ready["http"],
            "--pages",
            str(pages),
            "--seconds",
            str(seconds + SETTLE_SECONDS),
        ]
        with subprocess.Popen(  # noqa: ASYNC220  # nobody waits for it
            [sys.executable, "-m", "bench.page_readers", *flags],
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=die_with_parent,
        ) as readers:
            assert readers.stdout is not None
            assert await trio.to_thread.run_sync(readers.stdout.readline) == "ready\n"
            result["with"] = await measured(beats, process, seconds)
            result["with"]["rss_mib"] = round(process.memory_info().rss / MIB, 1)
            told = await trio.to_thread.run_sync(readers.stdout.readline)
            result["with"]["events_per_page_and_second"] = round(float(told), 2)
        nursery.cancel_scope.cancel()
    return result


async def measured(beats: Beats, process: psutil.Process, seconds: float) -> dict[str, Any]:
    """Return round trips and what they cost the tracker, once things have settled."""
    await trio.sleep(SETTLE_SECONDS)
    cpu = sum(process.cpu_times()[:2])
    result = await beats.measured(seconds)
    return {**result, "cpu_percent": round(100 * (sum(process.cpu_times()[:2]) - cpu) / seconds, 1)}


async def _linked(
    credentials: Any, address: str, name: str, task_status: trio.TaskStatus[Link] = trio.TASK_STATUS_IGNORED
) -> None:
    async with link_to(credentials, address, role=Role.TRACKER, greeting=greeting("127.0.0.1:9", name=name)) as link:
        task_status.started(link)
        await trio.sleep_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=200)
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--readers-of", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.readers_of:
        trio.run(Readers().run, given.readers_of, given.pages, given.seconds)
        return
    with Swarm() as swarm:
        tracker = swarm.tracker()
        roles = ["storage", *["peer"] * given.nodes]
        invites = [Invite.parse(swarm.invite(role)) for role in roles]
        result = trio.run(run, tracker, invites, given.pages, given.seconds)
        print(json.dumps({"cores": os.cpu_count(), "load": os.getloadavg()[0], **result}, indent=2))


if __name__ == "__main__":
    main()
