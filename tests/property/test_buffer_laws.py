"""The buffer pool: bounded, first come first served, and no wakeup is lost whoever is cancelled meanwhile."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from exchange.buffers import BufferPool
from protocol.limits import KIB, MIB


async def test_a_buffer_has_exactly_the_size_and_is_used_again() -> None:
    pool = BufferPool(1 * MIB)
    for size_bytes in (0, 1, 64 * KIB, 64 * KIB + 1, MIB):
        buffer = await pool.take(size_bytes)
        assert len(buffer) == size_bytes and size_bytes <= pool.out_bytes <= MIB
        pool.give_back(buffer)
        assert pool.out_bytes == 0
    first = await pool.take(100 * KIB)
    whole = first.obj
    pool.give_back(first)
    assert (await pool.take(120 * KIB)).obj is whole


async def test_a_buffer_larger_than_the_pool_is_given_when_nothing_else_is_out() -> None:
    pool = BufferPool(128 * KIB)
    small = await pool.take(1)
    got: list[memoryview] = []

    async def take_large() -> None:
        got.append(await pool.take(MIB))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_large)
        await trio.testing.wait_all_tasks_blocked()
        assert not got
        pool.give_back(small)
    assert len(got[0]) == MIB


async def test_one_large_buffer_that_comes_back_lets_in_all_that_fit() -> None:
    pool = BufferPool(256 * KIB)
    large = await pool.take(256 * KIB)
    got: list[memoryview] = []

    async def take_small() -> None:
        got.append(await pool.take(64 * KIB))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(take_small)
        await trio.testing.wait_all_tasks_blocked()
        pool.give_back(large)
        await trio.testing.wait_all_tasks_blocked()
        assert len(got) == 4 and pool.out_bytes == 256 * KIB
        pool.give_back(got[0])


async def test_nobody_overtakes_who_waits_for_a_large_one() -> None:
    pool = BufferPool(256 * KIB)
    out = [await pool.take(64 * KIB) for _ in range(3)]
    order: list[int] = []

    async def take(size_bytes: int) -> None:
        out.append(await pool.take(size_bytes))
        order.append(size_bytes)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take, 256 * KIB)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(take, 64 * KIB)  # there is room for it, but it is not its turn
        await trio.testing.wait_all_tasks_blocked()
        assert not order
        for _ in range(3):
            pool.give_back(out.pop(0))
        await trio.testing.wait_all_tasks_blocked()
        assert order == [256 * KIB]
        pool.give_back(out.pop(0))
    assert order == [256 * KIB, 64 * KIB]


@pytest.mark.parametrize("cancelled_first", [False, True])
async def test_who_is_cancelled_passes_the_turn_on(cancelled_first: bool) -> None:
    pool = BufferPool(64 * KIB)
    out = await pool.take(1)
    served: list[trio.CancelScope] = []
    scopes = [trio.CancelScope() for _ in range(3)]

    async def take(scope: trio.CancelScope) -> None:
        with scope:
            buffer = await pool.take(1)
            served.append(scope)
            pool.give_back(buffer)

    async with trio.open_nursery() as nursery:
        for scope in scopes:
            nursery.start_soon(take, scope)
            await trio.testing.wait_all_tasks_blocked()
        scopes[0].cancel()  # while it waits
        await trio.testing.wait_all_tasks_blocked()
        # Its turn comes in the very moment in which it is cancelled.
        if cancelled_first:
            scopes[1].cancel()
        pool.give_back(out)
        scopes[1].cancel()
        await trio.testing.wait_all_tasks_blocked()
    # Whether the second one was served although it was cancelled is trio's choice; the third one was in any case.
    assert pool.out_bytes == 0 and scopes[2] in served and scopes[0] not in served


@given(
    tasks=st.lists(
        st.tuples(st.integers(0, 300 * KIB), st.integers(0, 5), st.integers(1, 5), st.none() | st.integers(0, 12)),
        min_size=1,
        max_size=12,
    )
)
def test_whoever_comes_and_goes_the_bound_holds_and_everybody_is_served(
    tasks: list[tuple[int, int, int, int | None]],
) -> None:
    """Each task comes, holds its buffer for a while, and is cancelled at some moment or never; in virtual seconds."""

    async def swarm() -> None:
        pool = BufferPool(256 * KIB)
        served = 0

        async def one(size_bytes: int, comes: int, holds: int, cancelled: int | None) -> None:
            nonlocal served
            with trio.move_on_after(float("inf") if cancelled is None else cancelled):
                await trio.sleep(comes)
                buffer = await pool.take(size_bytes)
                try:
                    assert pool.out_bytes <= 512 * KIB
                    assert pool.out_bytes <= 256 * KIB or len(buffer) > 256 * KIB
                    await trio.sleep(holds)
                finally:
                    pool.give_back(buffer)
                served += 1
                return
            assert cancelled is not None

        async with trio.open_nursery() as nursery:
            for size_bytes, comes, holds, cancelled in tasks:
                nursery.start_soon(one, size_bytes, comes, holds, cancelled)
        assert pool.out_bytes == 0
        assert served >= sum(1 for *_, cancelled in tasks if cancelled is None)

    trio.run(swarm, clock=trio.testing.MockClock(autojump_threshold=0))
