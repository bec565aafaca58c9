"""What nobody wants any more is cleared away: jobs that rested long enough, and open ones that nobody feeds.

Looks once a minute; times are the wall clock's, because they must outlast a restart. A clock that jumps forward costs a
resume, never anything stored.
"""

from __future__ import annotations

import structlog
import trio

from protocol.errors import StorageFull
from protocol.ids import Tag
from runtime.seam import Runtime
from storage.ledger.base import LeaseLost, Ledger
from storage.passage import Passage
from storage.shelf import Shelf
from storage.spools import Spools

log = structlog.get_logger()

SWEEP_SECONDS_BETWEEN = 60.0


class Sweeper:
    """``rest_seconds``: how long an ended job waits for a later put; ``idle_seconds``: how long an open one may stand
    still without anybody connected for it."""

    def __init__(
        self,
        runtime: Runtime,
        ledger: Ledger,
        shelf: Shelf,
        passage: Passage,
        spools: Spools,
        *,
        rest_seconds: float,
        idle_seconds: float,
    ) -> None:
        self._runtime = runtime
        self._ledger = ledger
        self._shelf = shelf
        self._passage = passage
        self._spools = spools
        self._rest_seconds = rest_seconds
        self._idle_seconds = idle_seconds

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Sweep until cancelled."""
        task_status.started()
        while True:
            try:
                await self.sweep()
            except StorageFull as error:
                log.warning("sweep waits", reason=str(error))
            await trio.sleep(SWEEP_SECONDS_BETWEEN)

    async def sweep(self) -> None:
        """Clear away what is due now."""
        now = self._runtime.clock.wall()
        for tag, resting in list(self._shelf.resting.items()):
            if now - resting.since >= self._rest_seconds:
                await self._forget(tag)
        for entry in list(self._shelf.live.values()):
            if not entry.audience and now - entry.moved_at >= self._idle_seconds:
                async with self._passage.turns.of(entry.tag):
                    # What was stored once is never given up: somebody may come back who has what is missing of it.
                    idle = self._shelf.live.get(entry.tag) is entry and not entry.audience
                    if idle and entry.tag not in await self._ledger.mending():
                        await self._passage.cancel(entry, "nobody delivered anything for too long")

    async def _forget(self, tag: Tag) -> None:
        async with self._passage.turns.of(tag):
            if tag not in self._shelf.resting:
                return  # put again while we waited
            # The row first: a spool file without a row is removed at the next start, a row without its file only
            # makes somebody upload again.
            try:
                await self._passage.forget_upload(tag)
                await self._ledger.forget_job(tag)
            except LeaseLost as error:
                log.info("an unfinished job went to another storage node", tag=str(tag), reason=str(error))
            del self._shelf.resting[tag]
            await self._spools.remove(tag)
            log.info("unfinished job forgotten", tag=str(tag))
