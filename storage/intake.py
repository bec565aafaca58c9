"""Jobs from their opening to their end: each has a spool file, a swarm that fills it, and a task that sees it through.

    open:    spool file with all its room, its folder synced, ledger row; only then is the job announced
    fill:    the swarm requests, verifies and writes; durability.py acknowledges
    commit:  everything is read back (commit.py); rotten chunks go back to the swarm
    store:   the backend takes the file (fsync, rename, fsync of the folders)
    ledger:  job state and names in one transaction; only then anybody hears "stored"

A large file goes into a store of parts while it is still being filled (parts.py): there the store judges each part by
its digest, so that nothing is read back, and "store" is only the word that makes an object of all parts.

A SIGKILL between any two steps is mended at the next start by recovery.py. A full disk pauses a job, with a reason,
until there is room; a failed fsync ends the process. Who may open a job, and what it is granted, is not decided here
(desk.py, jobs.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVarTuple

import structlog
import trio

from exchange.engine import Engine
from exchange.spool import Spool
from protocol.bitmap import Bitmap
from protocol.errors import ChunkMissing, SizeRefuted, StorageFull, StorageUnavailable
from protocol.ids import NodeId, Tag
from protocol.manifest import Manifest
from protocol.messages import JobState
from runtime.link import Link
from runtime.seam import Runtime
from storage.backends.base import Backend
from storage.commit import rotten_in_spool
from storage.direct import Direct
from storage.durability import Durability
from storage.jobs import Job
from storage.ledger.base import LeaseLost, Ledger
from storage.maps import Makers
from storage.parts import Begun, PartPolicy, PartUpload, found
from storage.reports import Reporter
from storage.room import ROOM_SECONDS_BETWEEN, Room
from storage.shared import Shared, Turns
from storage.shelf import LiveJob, Shelf

log = structlog.get_logger()

Ts = TypeVarTuple("Ts")


def _is_there(runtime: Runtime, path: Path) -> bool:
    try:
        runtime.disk.status(path)
    except FileNotFoundError:
        return False
    return True


def spool_path(folder: Path, tag: Tag) -> Path:
    """Return where the spool file of ``tag`` is. Made of the tag alone: a name never becomes a path."""
    return folder / str(tag)


class Intake:
    """``turns``: opening, claiming, withdrawing and storing of one tag happen one after the other."""

    def __init__(
        self,
        runtime: Runtime,
        engine: Engine,
        ledger: Ledger,
        backend: Backend,
        shelf: Shelf,
        reporter: Reporter,
        room: Room,
        spool_folder: Path,
        parts: PartPolicy | None = None,
        direct: Direct | None = None,
    ) -> None:
        self.turns: Turns[Tag] = Turns()
        self._runtime = runtime
        self._engine = engine
        self._ledger = ledger
        self._backend = backend
        self._shelf = shelf
        self._reporter = reporter
        self._room = room
        self._spool_folder = spool_folder
        self._parts = parts
        self._direct = direct
        self._durability = Durability(runtime, ledger, self._acknowledged)
        self._jobs: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look after all jobs until cancelled.

        Raises:
            StorageBroken: what the disk holds is unknown; the process must end.
        """
        async with trio.open_nursery() as jobs:
            self._jobs = jobs
            await jobs.start(self._durability.run)
            task_status.started()

    def beside(self, work: Callable[[*Ts], Awaitable[object]], *args: *Ts) -> None:
        """Do ``work`` beside all jobs: whoever asked for it may go, and it is done all the same."""
        assert self._jobs is not None
        self._jobs.start_soon(work, *args, name="opening")

    # --- opening ---

    async def open_job(self, manifest: Manifest, node: NodeId, names: Sequence[str]) -> LiveJob:
        """Open a job that ``node`` claims, or one that rests. The caller has its turn.

        Raises:
            StorageFull: no room; nothing has changed.
        """
        tag = manifest.tag
        spool = await self._open_spool(manifest)
        try:
            await self._ledger.open_job(manifest, node, names, self._runtime.clock.wall())
        except (StorageFull, LeaseLost):
            await spool.aclose()
            if tag not in self._shelf.resting:
                await self.remove_spool(tag)
            raise
        job = self._shelf.resting[tag].job if tag in self._shelf.resting else Job(manifest)
        # The desk took another size only if it can be true: what is durable is right by both.
        job.manifest = manifest
        for name in names:
            job.claim(node, name)
        return self._begin(job, spool, begun=await self._begun(job, job.durable))

    async def resume(self, job: Job, *, ours: bool = True) -> None:
        """Go on with an open job, of a process before or of another node. One that has no room any more fails. The
        caller has its turn, or nobody else is there yet. ``ours``: what is durable may be in our spool file."""
        try:
            begun = await self._begun(job, job.durable if ours else Bitmap(job.tag.chunks))
            spool = await self._open_spool(job.manifest)
        except LeaseLost as error:
            log.warning("another storage node was quicker", tag=str(job.tag), reason=str(error))
            return
        except StorageFull as error:
            job.fail(f"no room to go on: {error}")
            wall = self._runtime.clock.wall()
            await self._ledger.end_job(job.tag, job.state, job.reason, wall)
            self._shelf.put_resting(job, wall)
            log.warning("job failed", tag=str(job.tag), reason=job.reason)
            return
        self._begin(job, spool, begun=begun)

    async def _begun(self, job: Job, local: Bitmap) -> Begun | None:
        """Return how far a job's parts have come; None: it has none. ``local``: what is durable in the spool file, if
        that file is there, and beside what is apart."""
        if self._parts is None or not self._parts.store.takes(job.manifest.size_bytes):
            return None
        kept = await self._ledger.take(job.tag)
        if kept is None:
            raise LeaseLost(job.tag, "another storage node is at it")
        path = spool_path(self._spool_folder, job.tag)
        if not await self._runtime.run_sync(_is_there, self._runtime, path):
            local = Bitmap(job.tag.chunks)
        elif kept.upload is not None:
            local = local - kept.upload.apart
        while True:
            try:
                begun = await found(self._ledger, self._parts.store, kept, local)
            except StorageUnavailable as error:
                log.warning("job waits for the store", tag=str(job.tag), reason=str(error))
                await trio.sleep(error.retry_after_seconds)
                continue
            job.durable = kept.job.durable
            return begun

    async def set_aside(self, entry: LiveJob) -> Job:
        """Stop the work on an open job, without its end: nobody is told, and the caller begins it again (``go_on``)
        before it gives back the tag's turn."""
        entry.scope.cancel()
        await entry.ended.wait()
        if entry.job.state is JobState.COMMITTING:
            entry.job.reopen(())
        del self._shelf.live[entry.tag]
        entry.swarm.close()
        await entry.spool.retire()
        return entry.job

    async def go_on(self, job: Job, audience: Iterable[Link] = ()) -> LiveJob:
        """Work on an open job whose spool file and ledger row say what ``job`` says. The caller has the tag's turn.

        Raises:
            StorageFull: no room for the spool file.
        """
        begun = await self._begun(job, job.durable)
        entry = self._begin(job, await self._open_spool(job.manifest), audience, begun)
        # Whoever downloads it hears of the chunks that came all at once.
        self._engine.gained(job.tag, list(job.durable))
        return entry

    async def _open_spool(self, manifest: Manifest) -> Spool:
        path = spool_path(self._spool_folder, manifest.tag)
        try:
            # The file's name must be as durable as what is acknowledged in it.
            return await Spool.open(self._runtime, path, manifest, durable=True)
        except StorageFull:
            if manifest.tag not in self._shelf.resting:
                await self.remove_spool(manifest.tag)
            raise

    async def remove_spool(self, tag: Tag) -> None:
        """Remove a spool file, durably; absent is fine."""

        def work() -> None:
            self._runtime.disk.remove(spool_path(self._spool_folder, tag))
            self._runtime.disk.sync_folder(self._spool_folder)

        await self._runtime.run_sync(work)

    async def forget_upload(self, tag: Tag) -> None:
        """Abort what the store has of a job that nobody is to go on with. The caller has its turn."""
        upload = (await self._ledger.uploads()).get(tag)
        if upload is None or self._parts is None:
            return
        await self._ledger.drop_upload(tag)
        try:
            await self._parts.store.abort(tag, upload)
        except StorageUnavailable as error:
            log.warning("an upload could not be aborted; it is later", tag=str(tag), reason=str(error))

    def _begin(self, job: Job, spool: Spool, audience: Iterable[Link] = (), begun: Begun | None = None) -> LiveJob:
        assert self._jobs is not None and job.tag not in self._shelf.live
        wall = self._runtime.clock.wall()
        held: list[LiveJob] = []

        def on_verified(chunk: int, makers: Mapping[NodeId, int]) -> None:
            entry = held[0]
            entry.makers.note(chunk, makers)
            if entry.parts is None or not entry.parts.policy.remote:
                self._durability.note(entry, chunk, makers)
            if entry.parts is not None:
                entry.parts.verified(chunk, makers)

        swarm = self._engine.fetch(job.manifest, spool, job.durable, on_verified)
        entry = LiveJob(
            job,
            Shared(spool, spool.aclose),
            swarm,
            opened_at=int(wall),
            moved_at=wall,
            makers=Makers(job.durable.length),
            audience=dict.fromkeys(audience),
        )
        held.append(entry)
        if begun is not None:
            entry.parts = self._part_upload(entry, begun)
            if self._direct is not None:
                self._direct.prepare(entry)
        if job.durable.complete:
            entry.all_durable.set()
        self._shelf.put_live(entry)
        self._jobs.start_soon(self._live, entry, name=f"job {job.tag.root.hex()[:8]}")
        self._reporter.turned(entry)
        log.info("job open", tag=str(job.tag), size_bytes=job.manifest.size_bytes, chunks_stored=len(job.durable))
        return entry

    def _part_upload(self, entry: LiveJob, begun: Begun) -> PartUpload:
        assert self._parts is not None

        policy = self._parts

        def put(chunk: int, makers: Mapping[NodeId, int]) -> None:
            if policy.remote and chunk not in entry.job.durable:
                self._durability.note(entry, chunk, makers)

        return PartUpload(
            runtime=self._runtime,
            ledger=self._ledger,
            policy=policy,
            manifest=entry.job.manifest,
            spool=entry.spool,
            begun=begun,
            put=put,
            rotten=lambda chunk: entry.gone.append(chunk),
            vanished=lambda chunks: entry.gone.extend(chunks),
        )

    # --- who takes part ---

    def join(self, link: Link, tag: Tag) -> None:
        """``link`` uploads or helps; it hears how the job of ``tag`` goes, if there is one."""
        entry = self._shelf.live.get(tag)
        if entry is not None:
            entry.audience[link] = None
            self._reporter.moved(entry)

    def leave(self, link: Link) -> None:
        """``link`` has ended."""
        for entry in self._shelf.live.values():
            if entry.audience.pop(link, "") is None:
                self._reporter.moved(entry)

    def offers_changed(self, tag: Tag) -> None:
        """Somebody offers more or less of ``tag``: whether it is safe may have changed."""
        entry = self._shelf.live.get(tag)
        if entry is not None:
            self._reporter.moved(entry)

    async def claim(self, entry: LiveJob, node: NodeId, name: str) -> None:
        """``node`` wants a live job's file, under ``name``. The caller has the tag's turn."""
        await self._ledger.claim(entry.tag, node, name)
        entry.job.claim(node, name)
        self._reporter.turned(entry)

    async def withdraw(self, tag: Tag, node: NodeId) -> None:
        """``node`` no longer wants it; the last one's word cancels the job."""
        async with self.turns.of(tag):
            entry = self._shelf.live.get(tag)
            if entry is None or node not in entry.job.uploaders:
                return
            try:
                if entry.job.withdraw(node):
                    await self._stop(entry)
                else:
                    await self._ledger.withdraw(tag, node)
                    self._reporter.turned(entry)
            except LeaseLost as error:
                log.warning("a withdrawal is for another storage node to hear", reason=str(error))
                entry.disown(str(error))

    async def cancel(self, entry: LiveJob, reason: str) -> None:
        """End an open job unfinished; what is durable rests. The caller has the tag's turn."""
        if entry.job.state is JobState.OPEN:
            entry.job.cancel(reason)
            await self._stop(entry)

    async def _stop(self, entry: LiveJob) -> None:
        entry.scope.cancel()
        await entry.ended.wait()
        while not entry.disowned:
            if await self._close(entry):
                return
            await trio.sleep(ROOM_SECONDS_BETWEEN)

    # --- the way of a job ---

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
        self._shelf.drop_live(entry, resting_since=None)
        entry.swarm.close()
        for link in links:
            link.close("busy", "another storage node has this job now")
        await entry.spool.retire()
        await self.remove_spool(entry.tag)

    async def _see_through_parts(self, entry: LiveJob, parts: PartUpload) -> None:
        async with trio.open_nursery() as sending:
            sending.start_soon(parts.run, name=f"parts {entry.tag.root.hex()[:8]}")
            sending.start_soon(self._mend, entry, parts, name=f"mend {entry.tag.root.hex()[:8]}")
            if self._direct is not None:
                sending.start_soon(self._direct.run, entry, parts, self._durability, name="direct")
            await self._fill_parts(entry, parts)
            sending.cancel_scope.cancel()
        while True:
            async with self.turns.of(entry.tag):
                if await self._store(entry):
                    break
            await trio.sleep(ROOM_SECONDS_BETWEEN)
        await self.remove_spool(entry.tag)

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
                self._reporter.turned(entry)
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
        while True:
            await self._fill(entry)
            await entry.all_durable.wait()
            entry.job.begin_commit()
            self._reporter.turned(entry)
            async with entry.spool.use() as spool:
                rotten = await rotten_in_spool(self._runtime, spool)
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
        while True:
            async with self.turns.of(entry.tag):
                if await finish(entry):
                    return
            await trio.sleep(ROOM_SECONDS_BETWEEN)

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
                self._reporter.turned(entry)
                await trio.sleep(ROOM_SECONDS_BETWEEN)
                await self._room.wait_free(1)
                entry.job.pause("")
                self._reporter.turned(entry)

    async def _refuted(self, entry: LiveJob, reason: str) -> None:
        async with self.turns.of(entry.tag):
            if self._shelf.live.get(entry.tag) is entry:
                await self.cancel(entry, reason)

    def _acknowledged(self, entry: LiveJob, chunks: list[int]) -> None:
        self._shelf.note_progress(entry)
        self._reporter.stored(entry, chunks)
        self._engine.gained(entry.tag, [chunk for chunk in chunks if chunk in entry.readable])
        if entry.job.durable.complete:
            entry.all_durable.set()
        if entry.parts is not None:
            entry.parts.poke()

    async def _fetch_again(self, entry: LiveJob, rotten: list[int]) -> None:
        durable = entry.job.durable.copy()
        for chunk in rotten:
            durable.discard(chunk)
        await self._ledger.set_durable(entry.tag, durable)
        entry.job.lose(rotten)
        entry.all_durable = trio.Event()
        entry.swarm.reopen(rotten)
        self._shelf.note_progress(entry)
        self._reporter.turned(entry)
        # While it was complete, new offers were answered "complete" and forgotten.
        for link in list(entry.audience):
            self._engine.ask(link, entry.tag)

    async def _hand_over(self, entry: LiveJob) -> None:
        """Let the backend take the file, again and again while it has no room or does not answer."""
        while True:
            try:
                path = spool_path(self._spool_folder, entry.tag)
                await self._backend.store(entry.tag, path, entry.job.manifest.size_bytes)
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
        grants = job.grants()
        try:
            files = await self._ledger.store(entry.tag, grants, self._runtime.clock.wall())
        except StorageFull as error:
            log.warning("commit waits", tag=str(entry.tag), reason=str(error))
            return False
        job.finish()
        self._shelf.put_stored(files)
        self._shelf.drop_live(entry, resting_since=None)
        entry.swarm.close()
        self._reporter.closed(entry, frozenset(node for node, _ in grants))
        await entry.spool.retire()
        log.info("stored", tag=str(entry.tag), size_bytes=job.manifest.size_bytes, names=[name for _, name in grants])
        return True

    async def _close(self, entry: LiveJob) -> bool:
        """It was cancelled or has failed: ledger, and then everybody. False: the ledger has no room."""
        job, wall = entry.job, self._runtime.clock.wall()
        try:
            await self._ledger.end_job(entry.tag, job.state, job.reason, wall)
        except StorageFull as error:
            log.warning("end of a job waits", tag=str(entry.tag), reason=str(error))
            return False
        self._shelf.drop_live(entry, resting_since=wall)
        entry.swarm.close()
        self._engine.lost(entry.tag)
        if entry.parts is not None and not entry.parts.begun.apart:
            # All of it is in the spool file; parts that wait for nobody cost money.
            await self.forget_upload(entry.tag)
        self._reporter.closed(entry, frozenset())
        await entry.spool.retire()
        log.info("job ended", tag=str(entry.tag), state=job.state.value, reason=job.reason)
        return True
