"""Short calls in threads: what comes back, who waits for whom, and when a thread ends."""

from __future__ import annotations

import _thread
import threading
from typing import SupportsIndex

import pytest
import trio
import trio.testing

from runtime.threads import Threads, run_sync

SECONDS_MAX = 20.0


async def test_what_a_call_returns_or_raises_comes_back() -> None:
    assert await run_sync(lambda one, other: one + other, 3, 4) == 7
    with pytest.raises(ZeroDivisionError):
        await run_sync(lambda: 1 // 0)
    assert await run_sync(threading.get_ident) != threading.get_ident()


async def test_calls_go_on_beside_each_other() -> None:
    # None of them ends unless all are under way.
    meeting = threading.Barrier(5, timeout=SECONDS_MAX)
    async with trio.open_nursery() as calls:
        for _ in range(5):
            calls.start_soon(run_sync, meeting.wait)


async def test_more_calls_than_threads_wait_for_their_turn() -> None:
    threads = Threads(threads_max=2)
    done: list[int] = []
    async with trio.open_nursery() as calls:
        for number in range(50):
            calls.start_soon(threads.run_sync, done.append, number)
    assert sorted(done) == list(range(50))
    assert threads.count == 2


async def test_a_thread_that_is_free_is_used_again() -> None:
    threads = Threads()
    seen = {await threads.run_sync(threading.get_ident) for _ in range(50)}
    assert len(seen) == threads.count == 1


async def test_whoever_is_cancelled_waits_for_its_call() -> None:
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        may_end.wait(SECONDS_MAX)
        ended.set()

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as calls:
            calls.start_soon(run_sync, work)
            await run_sync(begun.wait, SECONDS_MAX)
            scope.cancel()
            may_end.set()
    assert ended.is_set()
    with trio.CancelScope() as scope:
        scope.cancel()
        await run_sync(ended.clear)
    assert ended.is_set(), "a call was begun by somebody who was cancelled before"


async def test_threads_with_nothing_to_do_end() -> None:
    threads = Threads(idle_seconds=0.01)
    meeting = threading.Barrier(3, timeout=SECONDS_MAX)
    seen: set[threading.Thread] = set()

    def meet() -> None:
        seen.add(threading.current_thread())
        meeting.wait()

    async with trio.open_nursery() as calls:
        for _ in range(3):
            calls.start_soon(threads.run_sync, meet)
    assert len(seen) == 3
    for thread in seen:
        await run_sync(thread.join, SECONDS_MAX)
        assert not thread.is_alive()
    await trio.testing.wait_all_tasks_blocked()
    assert threads.count == 0
    assert await threads.run_sync(lambda: "again") == "again"


async def test_calls_and_threads_that_leave_never_miss_each_other() -> None:
    threads = Threads(threads_max=3, idle_seconds=0.0001)
    answers: list[int] = []

    async def call_often(number: int) -> None:
        for _ in range(200):
            answers.append(await threads.run_sync(lambda: number))

    with trio.fail_after(SECONDS_MAX):
        async with trio.open_nursery() as callers:
            for number in range(5):
                callers.start_soon(call_often, number)
    assert sorted(answers) == sorted(list(range(5)) * 200)


async def test_a_call_that_comes_while_nobody_is_found_to_wake_is_not_left_lying() -> None:
    threads = Threads()
    sleep = _thread.allocate_lock()
    sleep.acquire()

    class Idle(list[_thread.LockType]):
        def pop(self, index: SupportsIndex = -1) -> _thread.LockType:
            try:
                return super().pop(index)
            except IndexError:
                # Right after this look a thread falls asleep, and a call comes that sees somebody being woken.
                self.append(sleep)
                assert threads._waking
                threads._calls.append(object())  # type: ignore[arg-type]  # it is looked at, not called
                raise

    threads._idle = Idle()
    threads._wake()
    assert sleep.acquire(blocking=False), "woken all the same"


def test_threads_outlive_no_loop() -> None:
    before = set(threading.enumerate())

    async def main() -> None:
        await Threads(idle_seconds=0.01).run_sync(lambda: None)

    trio.run(main)
    for thread in set(threading.enumerate()) - before:
        thread.join(SECONDS_MAX)
        assert not thread.is_alive()
