"""How much this node may still take: what the disk and the backend have free, less the reserve, less what was promised.

A promise is made when the desk answers "new" and kept until the job's spool file has taken its room on the disk, or the
uploader thought better of it. Without it a hundred proposals at once would all be told that there is room for one.

Of a folder of small files a thousand proposals come in a few seconds: they share looks at the disk.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from pathlib import Path

import trio

from protocol.errors import StorageBroken
from runtime.seam import Runtime
from storage.backends.base import Backend

# So long one look at disk and backend serves all who ask, less what was promised and taken since.
FRESH_SECONDS = 0.05
# How often a job that stopped for lack of room looks whether there is some again.
ROOM_SECONDS_BETWEEN = 5.0


class Room:
    """``reserve_bytes`` stay free whatever comes: a full disk would stop the ledger, and the machine around us."""

    def __init__(self, runtime: Runtime, backend: Backend, spool_folder: Path, reserve_bytes: int) -> None:
        self.reserve_bytes = reserve_bytes
        self.last_free_bytes = 0  # as last looked; for heartbeats and pages
        self._runtime = runtime
        self._backend = backend
        self._spool_folder = spool_folder
        self._promised: dict[Hashable, int] = {}
        self._looking = trio.Lock()
        self._looked_at = -math.inf
        self._seen_bytes = 0  # when we looked
        self._taken_bytes = 0  # at most, since then

    async def free_bytes(self) -> int:
        """Return how many bytes new jobs may take; never negative."""
        if not self._is_fresh():
            async with self._looking:
                if not self._is_fresh():  # nobody looked while we waited
                    await self._look()
        free = self._seen_bytes - self._taken_bytes - self.reserve_bytes - sum(self._promised.values())
        self.last_free_bytes = max(0, free)
        return self.last_free_bytes

    def _is_fresh(self) -> bool:
        return self._runtime.clock.monotonic() < self._looked_at + FRESH_SECONDS

    async def _look(self) -> None:
        def on_disk() -> int:
            try:
                return self._runtime.disk.free_bytes(self._spool_folder)
            except OSError as error:
                raise StorageBroken(f"{self._spool_folder}: {error}") from error

        # What is taken while we look may be seen or not.
        self._taken_bytes, looked_at = 0, self._runtime.clock.monotonic()
        self._seen_bytes = min(await self._runtime.run_sync(on_disk), await self._backend.room_bytes())
        self._looked_at = looked_at

    def promise(self, key: Hashable, size_bytes: int) -> None:
        """Keep room for ``key``; replaces an earlier promise to it, of which what is less now has been taken."""
        self._taken_bytes += max(0, self.promised(key) - size_bytes)
        self._promised[key] = size_bytes

    def promised(self, key: Hashable) -> int:
        """Return what is kept for ``key``."""
        return self._promised.get(key, 0)

    def release(self, key: Hashable, *, void: bool = False) -> None:
        """The promise to ``key`` was kept; with ``void`` it certainly was not, and the room is there again."""
        promised = self._promised.pop(key, 0)
        if not void:
            # Not seen before the next look.
            self._taken_bytes += promised

    async def wait_free(self, size_bytes: int) -> None:
        """Wait until ``size_bytes`` are free."""
        while True:
            if await self.free_bytes() >= size_bytes:
                return
            await trio.sleep(ROOM_SECONDS_BETWEEN)
