"""A stored file with rotten chunks becomes an open job again, in which only those chunks are missing.

    ledger    state, what is durable still, and that this was stored; its names stay its own
    backend   takes the object back: it is the job's spool file now. What is rotten of it is served to nobody
    job       the tracker hears of it and orders whoever has the file to offer it, as for any upload

Peers that hold the file deliver what is missing; then everything is read back, and it is stored again. A crash between
the steps is brought in order by recovery.py. Until it is whole again the file is not "stored": its good chunks are
served from the job, and it stays so, for as long as it takes, until somebody has what is missing, or removes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import structlog

from protocol.bitmap import Bitmap
from protocol.errors import ChunkMissing
from protocol.ids import NodeId, Tag
from runtime.seam import Runtime
from storage.backends.base import Backend
from storage.holdings import StorageHoldings
from storage.intake import Intake
from storage.jobs import Job
from storage.ledger.base import Ledger
from storage.shelf import Shelf
from storage.spools import spool_path

log = structlog.get_logger()


class Mender:
    """``node``: ourselves, who claim such jobs."""

    def __init__(
        self,
        runtime: Runtime,
        ledger: Ledger,
        backend: Backend,
        shelf: Shelf,
        holdings: StorageHoldings,
        intake: Intake,
        spool_folder: Path,
        node: NodeId,
    ) -> None:
        self._runtime = runtime
        self._ledger = ledger
        self._backend = backend
        self._shelf = shelf
        self._holdings = holdings
        self._intake = intake
        self._spool_folder = spool_folder
        self._node = node

    async def mend(self, tag: Tag, rotten: Sequence[int]) -> bool:
        """Fetch these chunks of a stored file again. False: it is not stored here (any more).

        Raises:
            StorageFull: no room for the row; nothing has changed.
            StorageUnavailable: the store does not answer.
            LeaseLost: another storage node is at it.
        """
        async with self._intake.turns.of(tag):
            manifest = await self._ledger.manifest(tag)
            if tag not in self._shelf.stored or manifest is None:
                return False
            durable = Bitmap.full(tag.chunks) - Bitmap.of(tag.chunks, rotten)
            if not await self._ledger.reopen(tag, durable, self._node, self._runtime.clock.wall()):
                return False
            log.error("a stored file has rotten chunks", tag=str(tag), chunks=list(rotten[:16]), count=len(rotten))
            self._shelf.drop_stored(tag)
            await self._holdings.forget(tag)
            try:
                await self._backend.take_back(tag, spool_path(self._spool_folder, tag), manifest.size_bytes)
            except ChunkMissing:
                # The whole object is gone: all of it is fetched again.
                durable = Bitmap(tag.chunks)
                await self._ledger.set_durable(tag, durable)
            job = Job(manifest, durable=durable, claims=[(self._node, "")])
            await self._intake.go_on(job)
            return True
