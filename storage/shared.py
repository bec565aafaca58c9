"""An open file that several tasks use: it is closed when the last of them is done, never under their hands.

A descriptor that is closed while a thread reads it may have become another file's by the time the thread gets there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

import trio

from protocol.errors import ChunkMissing

T = TypeVar("T")


class Shared(Generic[T]):
    """``thing``, and who uses it now. ``close`` is called once, when it is retired and nobody uses it any more."""

    def __init__(self, thing: T, close: Callable[[], Awaitable[None]]) -> None:
        self._thing = thing
        self._close = close
        self._users = 0
        self._retired = False
        self._idle = trio.Event()

    @property
    def retired(self) -> bool:
        """Whether nobody may begin to use it any more."""
        return self._retired

    @asynccontextmanager
    async def use(self) -> AsyncIterator[T]:
        """Use it while the block lasts.

        Raises:
            ChunkMissing: it was retired.
        """
        if self._retired:
            raise ChunkMissing("its file was closed")
        self._users += 1
        try:
            yield self._thing
        finally:
            self._users -= 1
            if not self._users:
                self._idle.set()

    async def retire(self) -> None:
        """Let nobody begin to use it, wait for who does, close it. Called a second time it does nothing."""
        if self._retired:
            return
        self._retired = True
        while self._users:
            self._idle = trio.Event()
            await self._idle.wait()
        await self._close()


class Turns(Generic[T]):
    """One at a time for each key; different keys do not wait for each other."""

    def __init__(self) -> None:
        self._locks: dict[T, trio.Lock] = {}

    @asynccontextmanager
    async def of(self, key: T) -> AsyncIterator[None]:
        """Hold the turn of ``key`` while the block lasts."""
        lock = self._locks.setdefault(key, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked() and not lock.statistics().tasks_waiting:
                self._locks.pop(key, None)
