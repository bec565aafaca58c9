"""From verified to acknowledged: the one place that may say ``Stored``.

Chunks arrive verified (``note``). One task takes whatever has gathered, of all jobs, and does, in this order: fdatasync
of every spool file concerned, one ledger transaction for all of them, and only then the word to whoever waits for it.
What was acknowledged survives a kill and a power cut at any moment. While one group is under way the next gathers, so a
slow disk makes larger groups, not a longer queue.

A failed fdatasync ends the process (StorageBroken): a second one might succeed without having written anything. A full
disk under the ledger does not: nothing of the transaction happened, and it is tried again when there is room.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog
import trio

from protocol.bitmap import Bitmap
from protocol.errors import ChunkMissing, StorageBroken, StorageFull
from protocol.ids import NodeId
from runtime.seam import Runtime
from storage.ledger.base import Acknowledgement, LeaseLost, Ledger
from storage.room import ROOM_SECONDS_BETWEEN
from storage.shelf import LiveJob

log = structlog.get_logger()

# fdatasync calls at once: enough for a disk to order them, few enough to leave threads for the rest.
SYNCS_MAX = 8


Groups = dict[LiveJob, dict[int, dict[NodeId, int]]]


def given(pending: Mapping[int, Mapping[NodeId, int]]) -> dict[NodeId, int]:
    """Return how many bytes each sender gave for these chunks in all."""
    total: dict[NodeId, int] = {}
    for makers in pending.values():
        for node, count in makers.items():
            total[node] = total.get(node, 0) + count
    return total


def _with(entry: LiveJob, pending: Mapping[int, Mapping[NodeId, int]]) -> Acknowledgement:
    job = entry.job
    durable = job.durable | Bitmap.of(job.durable.length, pending)
    pushed = {node: job.pushed.get(node, 0) + count for node, count in given(pending).items()}
    apart = entry.parts.begun.apart & durable if entry.parts is not None else None
    return Acknowledgement(tag=job.tag, durable=durable, pushed=pushed, apart=apart)


class Durability:
    """``acknowledged(entry, chunks)`` is called once these chunks are durable and the job knows."""

    def __init__(self, runtime: Runtime, ledger: Ledger, acknowledged: Callable[[LiveJob, list[int]], None]) -> None:
        self._runtime = runtime
        self._ledger = ledger
        self._acknowledged = acknowledged
        self._waiting: dict[LiveJob, None] = {}
        self._wake = trio.Event()

    def note(self, entry: LiveJob, chunk: int, makers: Mapping[NodeId, int]) -> None:
        """``chunk`` is verified and written, by these bytes of these senders."""
        entry.pending[chunk] = dict(makers)
        self._waiting[entry] = None
        self._wake.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Acknowledge groups until cancelled.

        Raises:
            StorageBroken: a sync or the ledger failed; the process must end.
        """
        task_status.started()
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            groups = {entry: entry.pending for entry in self._waiting if entry.working}
            self._waiting.clear()
            for entry in groups:
                entry.pending = {}
            if groups:
                await self._acknowledge(groups)

    async def _acknowledge(self, groups: Groups) -> None:
        limit = trio.CapacityLimiter(SYNCS_MAX)
        failures: list[StorageBroken] = []
        async with trio.open_nursery() as syncs:
            for entry, pending in groups.items():
                if entry.parts is not None and all(chunk in entry.parts.begun.words for chunk in pending):
                    continue  # they are in the store; what the spool file has of them is for reading only
                syncs.start_soon(self._sync, entry, limit, failures, name=f"sync {entry.tag.root.hex()[:8]}")
        if failures:
            raise failures[0]
        # Of a job that was ended meanwhile nobody knows whether its file was still open for the sync.
        groups = {entry: pending for entry, pending in groups.items() if entry.working}
        groups = await self._write(groups)
        for entry, pending in groups.items():
            if entry.working:
                entry.job.acknowledge(pending, given(pending))
                entry.moved_at = self._runtime.clock.wall()
                self._acknowledged(entry, sorted(pending))

    async def _sync(self, entry: LiveJob, limit: trio.CapacityLimiter, failures: list[StorageBroken]) -> None:
        async with limit:
            try:
                async with entry.spool.use() as spool:
                    # A backend elsewhere reads it once more.
                    await spool.sync(passing=entry.parts is None)
            except ChunkMissing:
                return  # The job has just ended and closed its file; it is left out afterwards.
            except StorageBroken as error:
                # Handed over by hand: a nursery would wrap it into a group.
                failures.append(error)

    async def _write(self, groups: Groups) -> Groups:
        """Write them down; return those whose jobs are still ours."""
        while groups:
            try:
                batch = [_with(entry, pending) for entry, pending in groups.items()]
                await self._ledger.acknowledge(batch, self._runtime.clock.wall())
                return groups
            except StorageFull as error:
                log.warning("ledger has no room; chunks wait for their acknowledgement", reason=str(error))
                await trio.sleep(ROOM_SECONDS_BETWEEN)
            except LeaseLost as error:
                for entry in groups:
                    if entry.tag == error.tag:
                        entry.disown(str(error))
                groups = {entry: pending for entry, pending in groups.items() if entry.working}
        return groups
