"""What the caller of a put hears of its progress: of one file each step, of a thousand what he waits for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from daemon.manyputs import PROGRESS_SECONDS, ManyPuts
from daemon.putrecord import Put, PutState
from daemon.transfercommands import NOTICE_SECONDS_MIN, Notices

STEPS = [PutState.ASKING, PutState.SENDING, PutState.COMMITTING, PutState.STORED]


class Heard:
    """What a caller was told: when, of whom, in which state."""

    def __init__(self) -> None:
        self.said: list[tuple[float, str, str]] = []

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        assert method == "progress"
        self.said.append((trio.current_time(), params["id"], params["state"]))


def some_puts(count: int) -> list[Put]:
    return [Put(number, Path(f"/{number}"), str(number), 0) for number in range(count)]


def move(puts: list[Put], state: PutState) -> None:
    for put in puts:
        put.state = state
        put.touch()


async def watch(put: Put, notices: Notices) -> None:
    """As ``Puts.wait`` does."""
    while not put.state.final:
        changed = put.changed
        await notices(put)
        await changed.wait()
    await notices(put)


async def test_of_few_jobs_every_step_is_told_at_once(autojump_clock: MockClock) -> None:
    heard, puts = Heard(), some_puts(3)
    notices = Notices(heard.notify)
    at = []
    async with trio.open_nursery() as watching:
        for put in puts:
            watching.start_soon(watch, put, notices)
        for step in STEPS:
            await trio.sleep(NOTICE_SECONDS_MIN / 10)
            move(puts, step)
            at.append(trio.current_time())
    assert [state for *_, state in heard.said] == ["hashing"] * 3 + [step.value for step in STEPS for _ in puts]
    assert sorted({when for when, *_ in heard.said})[1:] == at


async def test_of_few_jobs_progress_is_told_a_few_times_a_second(autojump_clock: MockClock) -> None:
    heard, puts = Heard(), some_puts(20)
    notices = Notices(heard.notify)
    async with trio.open_nursery() as watching:
        for put in puts:
            watching.start_soon(watch, put, notices)
        for _ in range(100):
            await trio.sleep(NOTICE_SECONDS_MIN / 20)
            move(puts, PutState.SENDING)
        move(puts, PutState.STORED)
    # One second: hashing, five or six times sending, stored.
    assert 20 * 6 <= len(heard.said) <= 20 * 9


async def test_of_many_jobs_that_are_quick_only_the_end_is_told_and_that_at_once(autojump_clock: MockClock) -> None:
    heard, puts = Heard(), some_puts(200)
    async with trio.open_nursery() as watching:
        watching.start_soon(ManyPuts(puts, "stored", heard.notify).watch)
        await trio.testing.wait_all_tasks_blocked()
        for step in STEPS:
            await trio.sleep(PROGRESS_SECONDS / 10)
            move(puts, step)
        ended_at = trio.current_time()
    assert heard.said == [(ended_at, put.id, "stored") for put in puts]
    assert not any(put.listeners for put in puts)


async def test_of_many_jobs_that_take_long_progress_is_told_once_a_second(autojump_clock: MockClock) -> None:
    heard, puts = Heard(), some_puts(50)
    async with trio.open_nursery() as watching:
        watching.start_soon(ManyPuts(puts, "stored", heard.notify).watch)
        for _ in range(100):
            await trio.sleep(PROGRESS_SECONDS / 20)
            move(puts[:30], PutState.SENDING)
        move(puts, PutState.STORED)
    # Five seconds: that all wait, then of those that move; and all ends.
    assert [state for *_, state in heard.said].count("stored") == 50
    assert 20 + 30 * 4 <= len(heard.said) - 50 <= 20 + 30 * 5


@pytest.mark.parametrize("until", ["stored", "safe"])
async def test_of_many_jobs_it_is_told_at_once_when_one_is_safe(autojump_clock: MockClock, until: Any) -> None:
    heard, puts = Heard(), some_puts(40)
    async with trio.open_nursery() as watching:
        watching.start_soon(ManyPuts(puts, until, heard.notify).watch)
        await trio.sleep(PROGRESS_SECONDS / 10)
        for put in puts:
            put.safe = True
        move(puts, PutState.SENDING)
        await trio.testing.wait_all_tasks_blocked()
        assert [state for *_, state in heard.said] == ["sending"] * 40
        assert len(watching.child_tasks) == (1 if until == "stored" else 0)
        move(puts, PutState.STORED)
    assert len(heard.said) == (80 if until == "stored" else 40)


async def test_a_caller_who_leaves_is_told_no_more(autojump_clock: MockClock) -> None:
    heard, puts = Heard(), some_puts(40)
    async with trio.open_nursery() as watching:
        watching.start_soon(ManyPuts(puts, "stored", heard.notify).watch)
        await trio.testing.wait_all_tasks_blocked()
        watching.cancel_scope.cancel()
    move(puts, PutState.STORED)
    assert not heard.said and not any(put.listeners for put in puts)


async def test_a_put_that_moves_while_others_are_told_of_is_told_of_once(autojump_clock: MockClock) -> None:
    heard, puts = Heard(), some_puts(40)

    async def notify(method: str, params: dict[str, Any]) -> None:
        await heard.notify(method, params)
        if params["id"] == puts[0].id:
            # The last one's move was noticed already, and is looked at after this.
            move(puts[-1:], PutState.STORED)

    async with trio.open_nursery() as watching:
        watching.start_soon(ManyPuts(puts, "stored", notify).watch)
        await trio.testing.wait_all_tasks_blocked()
        move(puts[:-1], PutState.STORED)
        move(puts[-1:], PutState.SENDING)
    assert sorted(name for _, name, _ in heard.said) == sorted(put.id for put in puts)
