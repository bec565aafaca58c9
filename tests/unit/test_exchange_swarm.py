"""What a swarm asks one source for, and when: a source in memory that answers at a rate of its own."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from exchange.buffers import BufferPool
from exchange.lane import Lane
from exchange.session import Session
from exchange.swarm import Swarm
from protocol.bitmap import Bitmap
from protocol.ids import Tag
from protocol.limits import KIB, MIB
from protocol.manifest import Layout, Manifest

ROUND_TRIP_SECONDS = 0.0005


class Asked:
    """A session that keeps what it was asked for."""

    number = 1

    def __init__(self) -> None:
        self.link = SimpleNamespace(peer=SimpleNamespace(node="n" * 43))
        self.lane = Lane()
        self.waiting: list[tuple[int, int, int]] = []
        self.sizes: list[int] = []
        self.requests_due = 0

    def request(self, tag: Tag, chunk: int, offset: int, length: int) -> None:
        self.waiting.append((chunk, offset, length))
        self.sizes.append(length)
        self.requests_due += 1

    def remembered_suggestion(self, tag: Tag) -> list[int]:
        return []


def swarm_at(clock: SimpleNamespace, manifest: Manifest, **runtime: Any) -> Swarm:
    engine: Any = SimpleNamespace(
        runtime=SimpleNamespace(clock=clock, random=random.Random(1), **runtime),
        swarm_runs=lambda: None,
        strikes=SimpleNamespace(is_shut_out=lambda node, now: False),
        is_near_and_free=lambda link: False,
        may_request=lambda link: True,
        requested=lambda link, size_bytes: None,
        receiving=BufferPool(32 * MIB),
        paused=False,
    )
    spool: Any = SimpleNamespace(path=Path("nowhere"), write_blocks=None)
    return Swarm(engine, manifest, spool, Bitmap(manifest.layout.chunks), lambda chunk, makers: None)


@pytest.mark.parametrize(
    ("rate", "size_bytes", "largest", "asks_share"),
    [(2e6, 24 * MIB, 64 * KIB, (0.95, 1.0)), (600e6, 256 * MIB, 2 * MIB, (0.2, 0.6))],
    ids=["2 MB/s: after each block", "600 MB/s: several together"],
)
def test_a_fast_source_is_asked_for_several_blocks_at_once_and_never_runs_dry(
    rate: float, size_bytes: int, largest: int, asks_share: tuple[float, float]
) -> None:
    now = 0.0
    clock = SimpleNamespace(monotonic=lambda: now)
    layout = Layout.of_size(size_bytes)
    swarm, session = swarm_at(clock, Manifest.of_digests(size_bytes, [bytes(32)] * layout.chunks)), Asked()
    swarm.running = True
    swarm.attach(cast(Session, session), Bitmap.full(layout.chunks), size_bytes)
    came = blocks = asks = dry = 0
    while session.waiting:
        chunk, offset, length = session.waiting.pop(0)
        now += length / rate + (ROUND_TRIP_SECONDS if not session.waiting else 0)
        session.requests_due -= 1
        before = len(session.sizes)
        assert swarm.take(1, chunk, offset, memoryview(bytearray(length)))
        came += length
        # Once it is known how fast it is, and as long as there is something to ask for.
        if size_bytes / 2 < came < size_bytes * 0.9:
            blocks += 1
            asks += len(session.sizes) > before
            dry += sum(length for _, _, length in session.waiting) < min(rate * 2 * ROUND_TRIP_SECONDS, 8 * MIB)
    assert came == size_bytes == sum(session.sizes), "each byte was asked for, once"
    assert blocks >= 30 and not dry
    assert asks_share[0] <= asks / blocks <= asks_share[1]
    assert max(session.sizes) == largest


async def test_a_block_that_comes_as_the_last_writer_goes_is_forgotten() -> None:
    size_bytes = 64 * MIB
    layout = Layout.of_size(size_bytes)
    manifest = Manifest.of_digests(size_bytes, [bytes(32)] * layout.chunks)

    async def never(work: object, batch: object) -> None:
        await trio.sleep_forever()

    async def run() -> None:
        with scope:
            await swarm.run()

    async def come() -> None:
        chunk, offset, length = session.waiting.pop(0)
        buffer = await swarm._engine.receiving.take(length)
        if not swarm.take(1, chunk, offset, buffer):
            swarm._engine.receiving.give_back(buffer)

    # Which of two tasks trio runs first is a matter of chance.
    for _ in range(30):
        session, scope = Asked(), trio.CancelScope()
        swarm = swarm_at(SimpleNamespace(monotonic=trio.current_time), manifest, run_sync=never, cores=2)
        swarm.attach(cast(Session, session), Bitmap.full(layout.chunks), size_bytes)
        async with trio.open_nursery() as links:
            links.start_soon(run)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            links.start_soon(come)
        assert scope.cancelled_caught and not swarm.running
        assert swarm._engine.receiving.out_bytes == 0
