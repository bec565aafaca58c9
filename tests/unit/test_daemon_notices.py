"""What the caller of a put hears of its progress: of one file each step, of a thousand what he waits for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from daemon.putrecord import Put, PutState
from daemon.transfercommands import NOTICE_JOBS_MANY, NOTICE_SECONDS_MIN, Notices

STEPS = [PutState.ASKING, PutState.SENDING, PutState.COMMITTING, PutState.STORED]


async def watch(put: Put, notices: Notices) -> None:
    """As ``Puts.wait`` does."""
    while not put.state.final:
        changed = put.changed
        await notices(put)
        await changed.wait()
    await notices(put)


@pytest.mark.parametrize(("jobs", "heard_of_each"), [(1, 5), (200, 2)])
async def test_of_few_jobs_every_step_is_told_and_of_many_the_end_at_once(
    autojump_clock: MockClock, jobs: int, heard_of_each: int
) -> None:
    said: list[tuple[float, str, str]] = []

    async def notify(method: str, params: dict[str, Any]) -> None:
        said.append((trio.current_time(), params["id"], params["state"]))

    notices = Notices(notify)
    puts = [Put(number, Path(f"/{number}"), str(number), 0) for number in range(jobs)]
    async with trio.open_nursery() as watching:
        for put in puts:
            watching.start_soon(watch, put, notices)
        await trio.testing.wait_all_tasks_blocked()
        assert [state for *_, state in said] == ["hashing"] * jobs
        for step in STEPS:
            await trio.sleep(NOTICE_SECONDS_MIN / 10)
            for put in puts:
                put.state = step
                put.touch()
            ended_at = trio.current_time()
    # The first ones were said while there were few.
    assert jobs * heard_of_each <= len(said) <= jobs * heard_of_each + NOTICE_JOBS_MANY + 1
    assert {(at, state) for at, _, state in said[-jobs:]} == {(ended_at, "stored")}
    assert {name for _, name, _ in said[-jobs:]} == {put.id for put in puts}


async def test_of_many_jobs_progress_is_told_a_few_times_a_second(autojump_clock: MockClock) -> None:
    said: list[str] = []

    async def notify(method: str, params: dict[str, Any]) -> None:
        said.append(params["state"])

    notices = Notices(notify)
    puts = [Put(number, Path(f"/{number}"), str(number), 0) for number in range(50)]
    async with trio.open_nursery() as watching:
        for put in puts:
            watching.start_soon(watch, put, notices)
        for _ in range(100):
            await trio.sleep(NOTICE_SECONDS_MIN / 20)
            for put in puts:
                put.state = PutState.SENDING
                put.touch()
        for put in puts:
            put.state = PutState.STORED
            put.touch()
    # One second: hashing, five or six times sending (of the first ones once more), stored.
    assert 50 * 6 <= len(said) <= 50 * 8 + NOTICE_JOBS_MANY + 1
