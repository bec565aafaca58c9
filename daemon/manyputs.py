"""Many puts watched by one task, for the one caller who began them: a folder may hold a hundred thousand files.

Of each he hears at once that it has ended, or is safe; how far it is, once a second, and nothing of those that take
less. Of few puts he hears more (transfercommands.py), by a task for each.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from daemon.putrecord import Put
from daemon.puts import Until
from runtime.control import Notify

PROGRESS_SECONDS = 1.0


class ManyPuts:
    """``puts`` as they are watched. ``watch`` them, once."""

    def __init__(self, puts: Sequence[Put], until: Until, notify: Notify) -> None:
        self._notify = notify
        self._until = until
        self._waiting = dict.fromkeys(puts)
        self._moved = dict.fromkeys(puts)  # to be looked at
        self._safe: set[Put] = set()  # of which it was told
        self._later: dict[Put, None] = {}  # whose progress is to be told
        self._woken = trio.Event()

    async def watch(self) -> None:
        """Wait until all are stored or safe, or have failed."""
        for put in self._waiting:
            put.listeners.append(self._heard)
        due = trio.current_time() + PROGRESS_SECONDS
        try:
            while True:
                await self._look()
                if not self._waiting:
                    return
                if trio.current_time() >= due:
                    await self._tell_progress()
                    due = trio.current_time() + PROGRESS_SECONDS
                with trio.move_on_at(due if self._later else float("inf")):
                    await self._woken.wait()
                self._woken = trio.Event()
        finally:
            for put in self._waiting:
                put.listeners.remove(self._heard)

    def _heard(self, put: Put) -> None:
        self._moved[put] = None
        self._woken.set()

    async def _look(self) -> None:
        while self._moved:
            moved, self._moved = self._moved, {}
            for put in moved:
                if put not in self._waiting:
                    continue  # it moved again while others were told of, and its end was seen then
                ended = put.state.final or (self._until == "safe" and put.safe)
                if ended:
                    del self._waiting[put]
                    put.listeners.remove(self._heard)
                if ended or (put.safe and put not in self._safe):
                    self._later.pop(put, None)
                    self._safe.add(put)
                    await self._tell(put)
                else:
                    self._later[put] = None

    async def _tell_progress(self) -> None:
        later, self._later = self._later, {}
        for put in later:
            # It may have ended while others were told of.
            if put in self._waiting and put not in self._moved:
                await self._tell(put)

    async def _tell(self, put: Put) -> None:
        await self._notify("progress", put.progress(trio.current_time()))
