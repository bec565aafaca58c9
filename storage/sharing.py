"""Life beside other storage nodes with the same ledger and bucket.

    beat        we live; otherwise the others take our open jobs
    look        what they stored and lost is stored and lost here, too
    take over   open jobs of large files whose owner fell silent: what is durable of them is in the store
    tidy        uploads in the bucket that no job knows

A small file's chunks are in its owner's spool file alone until it is stored. Its job is not taken over unless somebody
proposes it here, who then has it whole; so its owner, when it comes back, goes on with what it acknowledged.
"""

from __future__ import annotations

import structlog
import trio

from protocol.bitmap import Bitmap
from protocol.errors import StorageFull, StorageUnavailable
from protocol.ids import Tag
from protocol.messages import JobState
from storage.backends.base import Parts
from storage.holdings import StorageHoldings
from storage.intake import Intake
from storage.ledger.base import Ledger
from storage.shelf import Shelf
from storage.spools import Spools

log = structlog.get_logger()

LOOK_SECONDS_BETWEEN = 1.0


class Sharing:
    """``lease_seconds``: as all nodes of this ledger have it."""

    def __init__(
        self,
        ledger: Ledger,
        parts: Parts,
        shelf: Shelf,
        holdings: StorageHoldings,
        intake: Intake,
        spools: Spools,
        *,
        lease_seconds: float,
    ) -> None:
        self._ledger = ledger
        self._parts = parts
        self._shelf = shelf
        self._holdings = holdings
        self._intake = intake
        self._spools = spools
        self._lease_seconds = lease_seconds
        self._strays: set[tuple[Tag, str]] = set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Share until cancelled."""
        async with trio.open_nursery() as sharing:
            sharing.start_soon(self._beat, name="beat")
            sharing.start_soon(self._look, name="changes")
            sharing.start_soon(self._take_over, name="orphans")
            sharing.start_soon(self._tidy, name="stray uploads")
            task_status.started()

    async def _beat(self) -> None:
        while True:
            await self._ledger.beat()
            await trio.sleep(self._lease_seconds / 4)

    async def _look(self) -> None:
        mark = ""
        while True:
            news = await self._ledger.changes(mark)
            mark = news.mark
            self._shelf.put_stored([file for file in news.stored if self._shelf.stored.get(file.tag) != file])
            for file in news.stored:
                if self._shelf.resting.pop(file.tag, None) is not None:
                    await self._spools.remove(file.tag)  # what we had of it is worth nothing now
            for tag in news.gone:
                if tag in self._shelf.stored:
                    self._shelf.drop_stored(tag)
                    await self._holdings.forget(tag)
            await trio.sleep(LOOK_SECONDS_BETWEEN)

    async def _take_over(self) -> None:
        while True:
            await trio.sleep(self._lease_seconds / 4)
            for tag in await self._ledger.orphans():
                manifest = await self._ledger.manifest(tag)
                if manifest is None or not self._parts.takes(manifest.size_bytes):
                    continue
                async with self._intake.turns.of(tag):
                    await self._take(tag)

    async def _take(self, tag: Tag) -> bool:
        """Whether its job is ours now, live or resting. The caller has the tag's turn."""
        if tag in self._shelf.live:
            return False  # ours since we last looked
        kept = await self._ledger.take(tag)
        if kept is None:
            return False
        log.warning("job taken over from a silent storage node", tag=str(tag), state=kept.job.state.value)
        if kept.job.state is JobState.OPEN:
            if not self._parts.takes(kept.job.manifest.size_bytes):
                # What its owner acknowledged is not here.
                kept.job.durable = Bitmap(tag.chunks)
                await self._ledger.set_durable(tag, kept.job.durable)
            await self._intake.resume(kept.job, ours=False)
        else:
            kept.job.durable = Bitmap(tag.chunks)
            self._shelf.put_resting(kept.job, kept.moved_at)
        return True

    async def know(self, tag: Tag) -> bool:
        """Bring the shelf up to date about ``tag``, which somebody proposes; take its job if it may be had. False: it
        is another live node's. The caller has the tag's turn."""
        if tag in self._shelf.live or tag in self._shelf.stored:
            return True
        manifest = await self._ledger.manifest(tag)
        if manifest is None or await self._take(tag):
            return True
        file = await self._ledger.file(tag)
        self._shelf.put_stored([] if file is None else [file])
        return file is not None

    async def _tidy(self) -> None:
        """Abort what was begun and never written down: seen twice, a lease apart. Who writes one down after so long all
        the same finds it gone, and begins another."""
        while True:
            await trio.sleep(self._lease_seconds)
            try:
                found = set(await self._parts.unfinished())
                known = await self._ledger.uploads()
                strays = {(tag, upload) for tag, upload in found if known.get(tag) != upload}
                for tag, upload in strays & self._strays:
                    await self._parts.abort(tag, upload)
                    log.info("aborted an upload that nobody knows", tag=str(tag))
                self._strays = strays
            except (StorageUnavailable, StorageFull) as error:
                log.warning("stray uploads wait", reason=str(error))
