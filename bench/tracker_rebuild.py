"""How long a tracker that was killed takes to know everything again: real links of a thousand nodes, in one process.

Counts from the moment the new process listens until it has every node fresh and every file. Nodes dial again by
themselves (runtime/heartbeat.py), are asked for everything at their first beat, and tell it. Two beats are the aim.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import time

import structlog
import trio
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from support.processes import Program, Swarm
from support.swarm import SwarmCa

from bench.tracker_load import holding, record
from protocol.ids import NodeAddress, NodeId, Role
from runtime.heartbeat import BeatStatus, TrackerLink
from runtime.inventory import InventoryBook
from runtime.links import Links
from runtime.real import real_runtime

CA = SwarmCa()
FILES_EACH = 20


async def node(number: int, tracker: NodeAddress) -> None:
    """Be a node that holds twenty files, each of which another node holds as well."""
    runtime = real_runtime()
    book = InventoryBook(runtime.random.getrandbits(53))
    for one in range(FILES_EACH):
        book.hold(holding(FILES_EACH * (number // 2) + one))
    name = f"node {number}"
    links = Links(runtime, CA.credentials(name), name=name, serve=lambda link: beating.serve(link))
    beating = TrackerLink(runtime, links, (tracker,), BeatStatus, book, lambda _message: None)
    async with trio.open_nursery() as nursery:
        await nursery.start(links.run, ())
        nursery.start_soon(beating.run)


async def whole(tracker: Program, nodes: int) -> float:
    """Wait until the tracker knows all; return when."""
    while True:
        told = await trio.to_thread.run_sync(tracker.call, "status")
        if told["nodes_by_state"]["fresh"] == nodes and told["holding_count"] == nodes * FILES_EACH:
            return time.monotonic()
        await trio.sleep(0.1)


async def run(tracker: Program, nodes: int, rounds: int) -> list[float]:
    address = NodeAddress(NodeId(tracker.node), Role.TRACKER, (tracker.address,))
    seconds = []
    async with trio.open_nursery() as nursery:
        for number in range(nodes):
            nursery.start_soon(node, number, address)
        with trio.fail_after(300):
            await whole(tracker, nodes)
        for _ in range(rounds):
            tracker.kill()
            await trio.to_thread.run_sync(tracker.start)
            begun = time.monotonic()
            with trio.fail_after(300):
                seconds.append(await whole(tracker, nodes) - begun)
        nursery.cancel_scope.cancel()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with Swarm() as swarm:
        tracker = swarm.add("tracker", "tracker", ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--no-mdns"])
        folder = tracker.state / "authority"
        folder.mkdir(parents=True)
        (folder / "key.pem").touch(0o600)
        key = CA.authority.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / "key.pem").write_bytes(key)
        (folder / "certificate.pem").write_bytes(CA.authority.certificate.public_bytes(Encoding.PEM))
        tracker.start()
        seconds = trio.run(run, tracker, given.nodes, given.rounds)
    figures = {"median": round(statistics.median(seconds), 2), "all": [round(one, 2) for one in seconds]}
    at = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    row = {"row": "rebuild", "at": at, "load": os.getloadavg()[0], "nodes": given.nodes, "files_each": FILES_EACH}
    record({**row, "seconds": figures})


if __name__ == "__main__":
    main()
