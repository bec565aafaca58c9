"""Threads for what blocks: ``trio.to_thread.run_sync`` for programs that make thousands of short calls a second.

Trio wakes a thread for each call, and its own loop for each result. Here calls wait in one queue: a thread that is
awake takes the next one as soon as it is done with the last, it alone wakes another one while more wait, and all
results that have gathered reach the loop together. Of sixteen tasks that call something short at a time each call costs
a tenth of what it did; a call that nobody else is beside costs the same.

Decides how many threads there are: one more whenever a call has none, up to ``THREADS_MAX``; who had nothing to do for
``IDLE_SECONDS`` ends. There is no lock: what both sides touch is changed by single operations of lists and deques.

Considered: ``queue.SimpleQueue``. Its ``get`` with a timeout waits for ever when the time is up before it began
(Python 3.11), and without one threads never end.
"""

from __future__ import annotations

import _thread
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

import trio

from runtime.database import SqliteDatabase
from runtime.seam import Database, Runtime

# As many as trio has: more than any disk wants at a time.
THREADS_MAX = 40
IDLE_SECONDS = 10.0

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class _Call:
    __slots__ = ("args", "error", "result", "task", "work")

    def __init__(self, task: trio.lowlevel.Task, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.task = task
        self.work = work
        self.args = args
        self.result: Any = None
        self.error: BaseException | None = None


class Threads:
    """The threads of one ``trio.run``. Made inside it."""

    def __init__(self, threads_max: int = THREADS_MAX, idle_seconds: float = IDLE_SECONDS) -> None:
        self.count = 0
        self._max = threads_max
        self._idle_seconds = idle_seconds
        self._token = trio.lowlevel.current_trio_token()
        self._spare = 0  # threads, less the calls that are not done: below zero while calls wait for a thread
        self._calls: deque[_Call] = deque()
        self._done: deque[_Call] = deque()
        # Each is the lock that a sleeping thread waits for; the last sleeps least.
        self._idle: list[_thread.LockType] = []
        self._waking = False  # a thread was woken that has not looked at the calls yet
        self._told = False  # the loop will look at what is done

    async def run_sync(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call ``work`` in a thread. Whoever is cancelled meanwhile waits for its end all the same."""
        await trio.lowlevel.checkpoint_if_cancelled()
        call = _Call(trio.lowlevel.current_task(), work, args)
        self._calls.append(call)
        self._spare -= 1
        self._have_enough()
        if not self._waking:
            self._wake()
        await trio.lowlevel.wait_task_rescheduled(_never_mind)
        if call.error is not None:
            try:
                raise call.error
            finally:
                # It knows this frame by its traceback; else the two would keep each other.
                del call
        result: T = call.result
        return result

    # --- in the loop's thread ---

    def _have_enough(self) -> None:
        if self._spare < 0 and self.count < self._max:
            self.count += 1
            self._spare += 1
            threading.Thread(target=self._live, name=f"thread {self.count}", daemon=True).start()

    def _deliver(self) -> None:
        self._told = False  # before looking: whoever is done from now on tells again
        while self._done:
            self._spare += 1
            trio.lowlevel.reschedule(self._done.popleft().task)

    def _left(self) -> None:
        self.count -= 1
        self._spare -= 1
        # A call may have counted on it.
        self._have_enough()

    # --- in any thread ---

    def _wake(self) -> None:
        while True:
            self._waking = True
            try:
                self._idle.pop().release()
                return
            except IndexError:
                # All are busy, and look for calls before they sleep.
                self._waking = False
            # Whoever called up to here saw somebody being woken, and whoever went to sleep before that saw no call.
            if not (self._calls and self._idle):
                return

    # --- in the threads ---

    def _live(self) -> None:
        sleep = _thread.allocate_lock()
        sleep.acquire()
        try:
            while True:
                try:
                    call = self._calls.popleft()
                except IndexError:
                    if self._wait(sleep):
                        continue
                    self._token.run_sync_soon(self._left)
                    return
                if self._calls and not self._waking:
                    self._wake()
                try:
                    call.result = call.work(*call.args)
                except BaseException as error:  # noqa: BLE001, ASYNC103  # raised where it was called
                    call.error = error
                self._done.append(call)
                del call
                if not self._told:
                    self._told = True
                    self._token.run_sync_soon(self._deliver)
        except trio.RunFinishedError:
            return  # nobody is there any more

    def _wait(self, sleep: _thread.LockType) -> bool:
        """Wait until there may be a call; False: there was none for long, and nobody counts on this thread."""
        self._idle.append(sleep)
        # Whoever called before that has not seen us.
        seconds = 0.0 if self._calls else self._idle_seconds
        if not sleep.acquire(timeout=seconds):
            try:
                self._idle.remove(sleep)
            except ValueError:
                # We are being woken at this moment.
                sleep.acquire()
            else:
                return seconds == 0.0
        self._waking = False
        return True


def _never_mind(_raise_cancel: Any) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED


_threads: trio.lowlevel.RunVar[Threads] = trio.lowlevel.RunVar("threads")


@trio.lowlevel.enable_ki_protection
async def run_sync(work: Callable[[*Ts], T], *args: *Ts) -> T:
    """Call ``work`` in a thread of this ``trio.run``."""
    try:
        threads = _threads.get()
    except LookupError:
        threads = Threads()
        _threads.set(threads)
    return await threads.run_sync(work, *args)


def with_threads(runtime: Runtime) -> Runtime:
    """Return ``runtime`` with these threads: for programs that serve many."""

    async def open_database(path: Path, schema: str) -> Database:
        return await SqliteDatabase.open(path, schema, run_sync)

    return replace(runtime, run_sync=run_sync, open_database=open_database)
