"""The way of an open job to its end: each has a task that sees it through.

    fill:    the swarm requests, verifies and writes; durability.py acknowledges
    commit:  everything is looked at once more (commit.py); rotten chunks go back to the swarm
    store:   the backend takes the file (fsync, rename, fsync of its folder)
    ledger:  job state and names in one transaction; only then anybody hears "stored"

A file of one chunk goes from "fill" to "store" at once where the backend is on this machine: being stored is how its
chunk is acknowledged, and a thousand of them cost half the syncs, transactions and words. If it cannot be placed in
that moment it is acknowledged as any other.

A large file goes into a store of parts while it is still being filled (parts.py): there the store judges each part by
its digest, so that nothing is read back, and "store" is only the word that makes an object of all parts.

A full disk pauses a job, with a reason, until there is room; a failed fsync ends the process. How jobs come to be open,
and who takes part, is intake.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVarTuple

import structlog
import trio

from exchange.engine import Engine
from protocol.errors import ChunkMissing, SizeRefuted, StorageFull, StorageUnavailable
from protocol.ids import Tag
from protocol.messages import JobState
from runtime.seam import Runtime
from storage.backends.base import Backend
from storage.commit import rotten_in_spool
from storage.direct import Direct
from storage.durability import Durability, given
from storage.jobs import NOTHING, Job
from storage.ledger.base import LeaseLost, Ledger
from storage.parts import PartPolicy, PartUpload
from storage.reports import Reporter
from storage.room import ROOM_SECONDS_BETWEEN, Room
from storage.shared import Turns
from storage.shelf import LiveJob, Shelf
from storage.spools import Spools

log = structlog.get_logger()

Ts = TypeVarTuple("Ts")


@dataclass(frozen=True, slots=True)
class Means:
    """What jobs are worked on with, by intake.py and here. ``parts`` and ``direct``: how large files go into a store of
    parts, and how others put them there; None: not at all."""

    runtime: Runtime
    engine: Engine
    ledger: Ledger
    backend: Backend
    shelf: Shelf
    reporter: Reporter
    room: Room
    spools: Spools
    parts: PartPolicy | None = None
    direct: Direct | None = None


class Passage:
    """``turns``: opening, claiming, withdrawing and storing of one tag happen one after the other."""

    def __init__(self, means: Means) -> None:
        self.turns: Turns[Tag] = Turns()
        self.durability = Durability(means.runtime, means.ledger, self._acknowledged)
        self._means = means
        self._jobs: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See all jobs through until cancelled.

        Raises:
            StorageBroken: what the disk holds is unknown; the process must end.
        """
        async with trio.open_nursery() as jobs:
            self._jobs = jobs
            await jobs.start(self.durability.run)
            task_status.started()

    def beside(self, work: Callable[[*Ts], Awaitable[object]], *args: *Ts) -> None:
        """Do ``work`` beside all jobs: whoever asked for it may go, and it is done all the same."""
        assert self._jobs is not None
        self._jobs.start_soon(work, *args, name="opening")

    def begin(self, entry: LiveJob) -> None:
        """See ``entry`` through from now on."""
        assert self._jobs is not None
        self._jobs.start_soon(self._live, entry, name=f"job {entry.tag.root.hex()[:8]}")

    async def set_aside(self, entry: LiveJob) -> Job:
        """Stop the work on an open job, without its end: nobody is told, and the caller begins it again before it gives
        back the tag's turn."""
        entry.scope.cancel()
        await entry.ended.wait()
        if entry.job.state is JobState.COMMITTING:
            entry.job.reopen(())
        del self._means.shelf.live[entry.tag]
        entry.swarm.close()
        await entry.spool.retire()
        return entry.job

    async def cancel(self, entry: LiveJob, reason: str) -> None:
        """End an open job unfinished; what is durable rests. The caller has the tag's turn."""
        if entry.job.state is JobState.OPEN:
            entry.job.cancel(reason)
            await self.stop(entry)

    async def stop(self, entry: LiveJob) -> None:
        """End a job that was cancelled, in the ledger and for everybody. The caller has the tag's turn."""
        entry.scope.cancel()
        await entry.ended.wait()
        while not entry.disowned:
            if await self._close(entry):
                return
            await trio.sleep(ROOM_SECONDS_BETWEEN)

    async def forget_upload(self, tag: Tag) -> None:
        """Abort what the store has of a job that nobody is to go on with. The caller has its turn."""
        upload = (await self._means.ledger.uploads()).get(tag)
        if upload is None or self._means.parts is None:
            return
        await self._means.ledger.drop_upload(tag)
        try:
            await self._means.parts.store.abort(tag, upload)
        except StorageUnavailable as error:
            log.warning("an upload could not be aborted; it is later", tag=str(tag), reason=str(error))

    async def _live(self, entry: LiveJob) -> None:
        try:
            with entry.scope:
                try:
                    if entry.parts is None:
                        await self._see_through(entry)
                    else:
                        await self._see_through_parts(entry, entry.parts)
                except* LeaseLost as group:
                    entry.disown(str(group.exceptions[0]))
            if entry.disowned:
                await self._abandon(entry)
        finally:
            entry.ended.set()

    async def _abandon(self, entry: LiveJob) -> None:
        """The job is another storage node's. Whoever uploads it comes again, and is told by the tracker where to."""
        log.warning("job abandoned", tag=str(entry.tag), reason=entry.disowned)
        links = list(entry.audience)
        self._means.shelf.drop_live(entry, resting_since=None)
        entry.swarm.close()
        for link in links:
            link.close("busy", "another storage node has this job now")
        await entry.spool.retire()
        await self._means.spools.remove(entry.tag)

    async def _see_through_parts(self, entry: LiveJob, parts: PartUpload) -> None:
        async with trio.open_nursery() as sending:
            sending.start_soon(parts.run, name=f"parts {entry.tag.root.hex()[:8]}")
            sending.start_soon(self._mend, entry, parts, name=f"mend {entry.tag.root.hex()[:8]}")
            if self._means.direct is not None:
                sending.start_soon(self._means.direct.run, entry, parts, self.durability, name="direct")
            await self._fill_parts(entry, parts)
            sending.cancel_scope.cancel()
        while True:
            async with self.turns.of(entry.tag):
                if await self._store(entry):
                    break
            await trio.sleep(ROOM_SECONDS_BETWEEN)
        await self._means.spools.remove(entry.tag)

    async def _mend(self, entry: LiveJob, parts: PartUpload) -> None:
        """Fetch again what turned out lost or rotten, until cancelled."""
        while True:
            if entry.gone:
                await self._fetch_again(entry, sorted(set(entry.gone)))
                entry.gone.clear()
                parts.poke()
            else:
                await parts.changed.wait()

    async def _fill_parts(self, entry: LiveJob, parts: PartUpload) -> None:
        """Until the object of all parts is there."""
        while True:
            if not entry.swarm.complete:
                await self._fill(entry)
                continue
            if entry.gone or not entry.job.durable.complete or not parts.complete:
                await parts.changed.wait()
                continue
            if entry.job.state is JobState.OPEN:
                entry.job.begin_commit()
                self._means.reporter.turned(entry)
            try:
                await parts.finish()
                return
            except ChunkMissing:
                continue
            except (StorageFull, StorageUnavailable) as error:
                seconds = error.retry_after_seconds if isinstance(error, StorageUnavailable) else ROOM_SECONDS_BETWEEN
                log.warning("commit waits", tag=str(entry.tag), reason=str(error))
            await trio.sleep(seconds)

    async def _see_through(self, entry: LiveJob) -> None:
        if entry.at_once and await self._store_at_once(entry):
            return
        while True:
            await self._fill(entry)
            await entry.all_durable.wait()
            entry.job.begin_commit()
            self._means.reporter.turned(entry)
            async with entry.spool.use() as spool:
                rotten = await rotten_in_spool(self._means.runtime, spool)
            if not rotten:
                break
            log.error("chunks rotted before commit", tag=str(entry.tag), chunks=rotten[:16], count=len(rotten))
            await self._fetch_again(entry, rotten)
        try:
            await self._hand_over(entry)
            finish = self._store
        except ChunkMissing as error:
            # Somebody took the spool file away under our hands.
            log.error("spool file is gone", tag=str(entry.tag), reason=str(error))
            entry.job.fail("its spool file disappeared from the storage node")
            finish = self._close
        await self._until(finish, entry)

    async def _until(self, finish: Callable[[LiveJob], Awaitable[bool]], entry: LiveJob) -> None:
        while True:
            async with self.turns.of(entry.tag):
                if await finish(entry):
                    return
            await trio.sleep(ROOM_SECONDS_BETWEEN)

    async def _store_at_once(self, entry: LiveJob) -> bool:
        """Fill and store a file of which nothing is acknowledged before. False: it cannot be placed now."""
        while True:
            await self._fill(entry)
            async with entry.spool.use() as spool:
                rotten = await rotten_in_spool(self._means.runtime, spool)
            if not rotten:
                break
            log.error("chunks rotted before commit", tag=str(entry.tag), chunks=rotten, count=len(rotten))
            entry.pending.clear()
            await self._fetch_again(entry, rotten)
        entry.job.begin_commit(arrived=entry.pending)
        try:
            await self._place(entry)
        except (StorageFull, StorageUnavailable) as error:
            log.warning("commit waits", tag=str(entry.tag), reason=str(error))
            entry.at_once = False
            entry.job.reopen(())
            for chunk, makers in entry.pending.items():
                self.durability.note(entry, chunk, makers)
            return False
        except ChunkMissing as error:
            log.error("spool file is gone", tag=str(entry.tag), reason=str(error))
            entry.job.fail("its spool file disappeared from the storage node")
            await self._until(self._close, entry)
            return True
        await self._until(self._store, entry)
        return True

    async def _fill(self, entry: LiveJob) -> None:
        while not entry.swarm.complete:
            try:
                await entry.swarm.run()
            except SizeRefuted as error:
                # Whoever knows better proposes it again, and goes on with what is durable.
                assert self._jobs is not None
                self._jobs.start_soon(self._refuted, entry, str(error), name="refuted job")
                await trio.sleep_forever()
            except StorageFull as error:
                log.warning("job waits for room", tag=str(entry.tag), reason=str(error))
                entry.job.pause(f"no room: {error}")
                self._means.reporter.turned(entry)
                await trio.sleep(ROOM_SECONDS_BETWEEN)
                await self._means.room.wait_free(1)
                entry.job.pause("")
                self._means.reporter.turned(entry)

    async def _refuted(self, entry: LiveJob, reason: str) -> None:
        async with self.turns.of(entry.tag):
            if self._means.shelf.live.get(entry.tag) is entry:
                await self.cancel(entry, reason)

    def _acknowledged(self, entry: LiveJob, chunks: list[int]) -> None:
        self._means.shelf.note_progress(entry)
        self._means.reporter.stored(entry, chunks)
        self._means.engine.gained(entry.tag, [chunk for chunk in chunks if chunk in entry.readable])
        if entry.job.durable.complete:
            entry.all_durable.set()
        if entry.parts is not None:
            entry.parts.poke()

    async def _fetch_again(self, entry: LiveJob, rotten: list[int]) -> None:
        durable = entry.job.durable.copy()
        for chunk in rotten:
            durable.discard(chunk)
        await self._means.ledger.set_durable(entry.tag, durable)
        entry.job.lose(rotten)
        entry.all_durable = trio.Event()
        entry.swarm.reopen(rotten)
        self._means.shelf.note_progress(entry)
        self._means.reporter.turned(entry)
        # While it was complete, new offers were answered "complete" and forgotten.
        for link in list(entry.audience):
            self._means.engine.ask(link, entry.tag)

    async def _place(self, entry: LiveJob) -> None:
        path = self._means.spools.path(entry.tag)
        await self._means.backend.store(entry.tag, path, entry.job.manifest.size_bytes)

    async def _hand_over(self, entry: LiveJob) -> None:
        """Let the backend take the file, again and again while it has no room or does not answer."""
        while True:
            try:
                await self._place(entry)
                return
            except StorageFull as error:
                reason, seconds = f"no room: {error}", ROOM_SECONDS_BETWEEN
            except StorageUnavailable as error:
                reason, seconds = str(error), error.retry_after_seconds
            log.warning("commit waits", tag=str(entry.tag), reason=reason)
            await trio.sleep(seconds)

    async def _store(self, entry: LiveJob) -> bool:
        """The backend has it: now the ledger, and then everybody. False: the ledger has no room."""
        job = entry.job
        arrived = given(entry.pending) if entry.at_once else NOTHING
        grants = job.grants(arrived)
        try:
            files = await self._means.ledger.store(entry.tag, grants, self._means.runtime.clock.wall())
        except StorageFull as error:
            log.warning("commit waits", tag=str(entry.tag), reason=str(error))
            return False
        if entry.at_once:
            job.acknowledge(entry.pending, arrived)
        job.finish()
        self._means.shelf.put_stored(files)
        self._means.shelf.drop_live(entry, resting_since=None)
        entry.swarm.close()
        self._means.reporter.closed(entry, frozenset(node for node, _ in grants))
        await entry.spool.retire()
        log.info("stored", tag=str(entry.tag), size_bytes=job.manifest.size_bytes, names=[name for _, name in grants])
        return True

    async def _close(self, entry: LiveJob) -> bool:
        """It was cancelled or has failed: ledger, and then everybody. False: the ledger has no room."""
        job, wall = entry.job, self._means.runtime.clock.wall()
        try:
            await self._means.ledger.end_job(entry.tag, job.state, job.reason, wall)
        except StorageFull as error:
            log.warning("end of a job waits", tag=str(entry.tag), reason=str(error))
            return False
        self._means.shelf.drop_live(entry, resting_since=wall)
        entry.swarm.close()
        self._means.engine.lost(entry.tag)
        if entry.parts is not None and not entry.parts.begun.apart:
            # All of it is in the spool file; parts that wait for nobody cost money.
            await self.forget_upload(entry.tag)
        self._means.reporter.closed(entry, frozenset())
        await entry.spool.retire()
        log.info("job ended", tag=str(entry.tag), state=job.state.value, reason=job.reason)
        return True
