"""Crowds: one upload with 10, 100, 500 peers who have the file, and what the tracker has to bear: ``make sim-crowd``.

Everybody has the same slow uplink; the storage node's line is fast. The bound is the file's size over all uplinks
together: nobody can do better. Figures are of the simulated network, not of this machine; the last column is how long
this machine took to simulate it.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import trio
from simulation.chaos import SETTLE_SECONDS
from simulation.stories import begin_put, share, stored, until, watched
from simulation.world import MIB, Shape, World, simulate

UPLINK_BYTES_PER_SECOND = 50_000.0
FILE_BYTES = 64 * MIB
IDLE_SECONDS = 30.0
SHARING_AT_ONCE = 10


@dataclass
class Figures:
    """What one crowd measured. Seconds are simulated ones."""

    peers: int
    bound_seconds: float = 0.0
    upload_seconds: float = 0.0
    heartbeats_per_second: float = 0.0
    idle_bytes_per_second: float = 0.0
    upload_tracker_bytes: int = 0
    orders: int = 0
    helpers_that_sent: int = 0
    machine_seconds: float = 0.0

    def line(self) -> str:
        """Return a row of the table in docs/testing.md."""
        return (
            f"| {self.peers} | {self.bound_seconds:.1f} | {self.upload_seconds:.1f}"
            f" | {self.upload_seconds / self.bound_seconds:.2f} | {self.helpers_that_sent}"
            f" | {self.heartbeats_per_second:.1f} | {self.idle_bytes_per_second / 1000:.1f}"
            f" | {self.upload_tracker_bytes / 1000:.0f} | {self.orders} | {self.machine_seconds:.0f} |"
        )


HEADER = (
    "| peers | bound, s | upload, s | of bound | nodes that sent | heartbeats/s | tracker kB/s, idle"
    " | tracker kB for the upload | orders | machine, s |\n|" + " --- |" * 10
)


def measure(peers: int, size: int = FILE_BYTES) -> Figures:
    """Let a crowd of ``peers`` upload one file of ``size`` bytes, and return what it took."""
    found = Figures(peers, bound_seconds=size / (peers * UPLINK_BYTES_PER_SECOND))
    began = time.process_time()

    def tracker_bytes(world: World) -> int:
        port = world.tracker.port
        return port.sent_bytes + port.received_bytes

    async def story(world: World) -> None:
        async with watched(world, settle_seconds=SETTLE_SECONDS):
            uploader, *helpers = world.daemons()
            limiter = trio.CapacityLimiter(SHARING_AT_ONCE)

            async def share_one(host) -> None:
                async with limiter:
                    await share(world, host, "same.bin", size, 1)

            async with trio.open_nursery() as sharing:
                for helper in helpers:
                    sharing.start_soon(share_one, helper)
            await until(world.checks.index_is_right, 60, between_seconds=1)
            access = world.tracker.program._access
            beats, sent = access.counts.heartbeats, tracker_bytes(world)
            await trio.sleep(IDLE_SECONDS)
            found.heartbeats_per_second = (access.counts.heartbeats - beats) / IDLE_SECONDS
            found.idle_bytes_per_second = (tracker_bytes(world) - sent) / IDLE_SECONDS

            for host in world.daemons():
                host.port.up_bytes_per_second = UPLINK_BYTES_PER_SECOND
            sent, orders, asked = tracker_bytes(world), access.counts.orders, trio.current_time()
            given = {host.name: host.port.sent_bytes for host in world.daemons()}
            manifest = await begin_put(world, uploader, size, 1)
            # Hashing is not what is measured.
            await until(lambda: any(host.program.shelf.live for host in world.storages()), 60)
            asked = trio.current_time()
            await until(stored(world, manifest.tag), 3600)
            found.upload_seconds = trio.current_time() - asked
            found.upload_tracker_bytes = tracker_bytes(world) - sent
            found.orders = access.counts.orders - orders
            found.helpers_that_sent = sum(
                host.port.sent_bytes - given[host.name] > size / peers / 4 for host in world.daemons()
            )

    simulate("crowd", story, Shape(peers, 1))
    found.machine_seconds = time.process_time() - began
    return found


def main(words: list[str]) -> int:
    """Measure crowds of the given sizes."""
    sys.stdout.write(HEADER + "\n")
    for word in words or ["10", "100", "500"]:
        sys.stdout.write(measure(int(word)).line() + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
