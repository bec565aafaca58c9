"""The world's time: trio's clock and our own timers on one line, which jumps to the next of them when nobody can run.

A deadline of trio's costs a cancel scope; a simulated network and simulated threads need thousands of moments a second
and no cancelling, so they have cheaper timers here. When nothing is left to wait for, everybody waits for ever: that is
a hang, and it is said (``Stuck``) instead of hung.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

import trio
from trio.lowlevel import Abort, current_task, reschedule, wait_task_rescheduled

LOOK_SECONDS = 1e-9


class Stuck(Exception):
    """Nobody in the whole world will ever run again."""


class Timer:
    """A moment at which something is called; ``cancel`` it when it is not needed any more."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        self.action = None


class Timeline(trio.abc.Clock):
    """Seconds since the world began."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Timer]] = []
        self._count = 0
        self._idle = 0

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        # As with any clock, looking takes time: who waits for the last of a rounding error would wait for ever.
        self.now += LOOK_SECONDS
        return self.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Jump. Trio asks this only when no task can run."""
        due = self._due
        while due and due[0][2].action is None:
            heapq.heappop(due)
        if due and due[0][0] <= deadline:
            at, _, timer = heapq.heappop(due)
            self.now = max(self.now, at)
            action, timer.action = timer.action, None
            assert action is not None
            action()
        elif deadline < math.inf:
            self.now = max(self.now, deadline)
        else:
            # Once more: trio may have written itself a word (its wakeup socket) that it has not read yet.
            self._idle += 1
            if self._idle > 2:
                raise Stuck
            return 0.0
        self._idle = 0
        return 0.0

    def call_at(self, at: float, action: Callable[[], None]) -> Timer:
        """Call ``action``, which may reschedule tasks, at ``at``."""
        timer = Timer(action)
        self._count += 1
        heapq.heappush(self._due, (at, self._count, timer))
        return timer

    async def pause_until(self, at: float) -> None:
        """Sleep; a cancellation waits until it is over, as it does for a thread."""
        task = current_task()
        self.call_at(at, lambda: reschedule(task))
        await wait_task_rescheduled(_not_now)

    async def sleep_until(self, at: float) -> None:
        """Sleep; cancellable."""
        task = current_task()
        timer = self.call_at(at, lambda: reschedule(task))

        def abort(_: object) -> Abort:
            timer.cancel()
            return Abort.SUCCEEDED

        await wait_task_rescheduled(abort)


def _not_now(_: object) -> Abort:
    return Abort.FAILED


class Bell:
    """Wait for a ring or for a moment, whichever comes first; who comes back looks for himself why."""

    __slots__ = ("_timeline", "_waiting")

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._waiting: dict[trio.lowlevel.Task, Timer | None] = {}

    def ring(self) -> None:
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, {}
        for task, timer in waiting.items():
            if timer is not None:
                timer.cancel()
            reschedule(task)

    async def wait(self, until: float = math.inf) -> None:
        task = current_task()
        timer = None
        if until < math.inf:

            def due() -> None:
                self._waiting.pop(task, None)
                reschedule(task)

            timer = self._timeline.call_at(until, due)
        self._waiting[task] = timer

        def abort(_: object) -> Abort:
            self._waiting.pop(task, None)
            if timer is not None:
                timer.cancel()
            return Abort.SUCCEEDED

        await wait_task_rescheduled(abort)
