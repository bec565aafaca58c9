"""How jobs come to be open, and who takes part in them.

A job is open when it has a spool file with all its room and a ledger row; only then is it announced. That the file
has a name after a power cut is seen to when the first chunk in it is acknowledged (exchange/spool.py): before, nobody
would miss it. Each has a swarm that fills the file, and a task that sees it through to its end (passage.py).

A SIGKILL between any two steps is mended at the next start by recovery.py. Who may open a job, and what it is granted,
is not decided here (desk.py, jobs.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import structlog
import trio

from exchange.spool import Spool
from protocol.bitmap import Bitmap
from protocol.errors import StorageFull, StorageUnavailable
from protocol.ids import NodeId, Tag
from protocol.manifest import Manifest
from runtime.link import Link
from storage.jobs import Job
from storage.ledger.base import LeaseLost
from storage.maps import Makers
from storage.parts import Begun, PartUpload, found
from storage.passage import Means, Passage
from storage.shared import Shared
from storage.shelf import LiveJob

log = structlog.get_logger()


class Intake:
    """``turns``: opening, claiming, withdrawing and storing of one tag happen one after the other."""

    def __init__(self, means: Means, passage: Passage) -> None:
        self.turns = passage.turns
        self.beside = passage.beside
        self._means = means
        self._passage = passage

    # --- opening ---

    async def open_job(self, manifest: Manifest, node: NodeId, names: Sequence[str]) -> LiveJob:
        """Open a job that ``node`` claims, or one that rests. The caller has its turn.

        Raises:
            StorageFull: no room; nothing has changed.
        """
        tag = manifest.tag
        resting = self._means.shelf.resting.get(tag)
        at_once = self._at_once(manifest) and (resting is None or not resting.job.durable)
        spool = await self._open_spool(manifest)
        try:
            await self._means.ledger.open_job(manifest, node, names, self._means.runtime.clock.wall())
        except (StorageFull, LeaseLost):
            await spool.aclose()
            if tag not in self._means.shelf.resting:
                await self._means.spools.remove(tag)
            raise
        job = resting.job if resting is not None else Job(manifest)
        # The desk took another size only if it can be true: what is durable is right by both.
        job.manifest = manifest
        for name in names:
            job.claim(node, name)
        return self._begin(job, spool, begun=await self._begun(job, job.durable), at_once=at_once)

    def _at_once(self, manifest: Manifest) -> bool:
        """Whether a file is acknowledged by being stored (passage.py): one chunk, and a backend that is near."""
        return self._means.parts is None and manifest.tag.chunks == 1

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
            wall = self._means.runtime.clock.wall()
            await self._means.ledger.end_job(job.tag, job.state, job.reason, wall)
            self._means.shelf.put_resting(job, wall)
            log.warning("job failed", tag=str(job.tag), reason=job.reason)
            return
        self._begin(job, spool, begun=begun)

    async def _begun(self, job: Job, local: Bitmap) -> Begun | None:
        """Return how far a job's parts have come; None: it has none. ``local``: what is durable in the spool file, if
        that file is there, and beside what is apart."""
        if self._means.parts is None or not self._means.parts.store.takes(job.manifest.size_bytes):
            return None
        kept = await self._means.ledger.take(job.tag)
        if kept is None:
            raise LeaseLost(job.tag, "another storage node is at it")
        if not await self._means.spools.is_there(job.tag):
            local = Bitmap(job.tag.chunks)
        elif kept.upload is not None:
            local = local - kept.upload.apart
        while True:
            try:
                begun = await found(self._means.ledger, self._means.parts.store, kept, local)
            except StorageUnavailable as error:
                log.warning("job waits for the store", tag=str(job.tag), reason=str(error))
                await trio.sleep(error.retry_after_seconds)
                continue
            job.durable = kept.job.durable
            return begun

    async def go_on(self, job: Job, audience: Iterable[Link] = ()) -> LiveJob:
        """Work on an open job whose spool file and ledger row say what ``job`` says. The caller has the tag's turn.

        Raises:
            StorageFull: no room for the spool file.
        """
        begun = await self._begun(job, job.durable)
        entry = self._begin(job, await self._open_spool(job.manifest), audience, begun)
        # Whoever downloads it hears of the chunks that came all at once.
        self._means.engine.gained(job.tag, list(job.durable))
        return entry

    async def _open_spool(self, manifest: Manifest) -> Spool:
        try:
            return await self._means.spools.open(manifest)
        except StorageFull:
            if manifest.tag not in self._means.shelf.resting:
                await self._means.spools.remove(manifest.tag)
            raise

    def _begin(
        self,
        job: Job,
        spool: Spool,
        audience: Iterable[Link] = (),
        begun: Begun | None = None,
        *,
        at_once: bool = False,
    ) -> LiveJob:
        assert job.tag not in self._means.shelf.live
        wall = self._means.runtime.clock.wall()
        held: list[LiveJob] = []

        def on_verified(chunk: int, makers: Mapping[NodeId, int]) -> None:
            entry = held[0]
            entry.makers.note(chunk, makers)
            if entry.at_once:
                entry.pending[chunk] = dict(makers)
            elif entry.parts is None or not entry.parts.policy.remote:
                self._passage.durability.note(entry, chunk, makers)
            if entry.parts is not None:
                entry.parts.verified(chunk, makers)

        swarm = self._means.engine.fetch(job.manifest, spool, job.durable, on_verified)
        entry = LiveJob(
            job,
            Shared(spool, spool.aclose),
            swarm,
            opened_at=int(wall),
            moved_at=wall,
            makers=Makers(job.durable.length),
            audience=dict.fromkeys(audience),
            at_once=at_once,
        )
        held.append(entry)
        if begun is not None:
            entry.parts = self._part_upload(entry, begun)
            if self._means.direct is not None:
                self._means.direct.prepare(entry)
        if job.durable.complete:
            entry.all_durable.set()
        self._means.shelf.put_live(entry)
        self._passage.begin(entry)
        if at_once:
            # Mostly it has ended by the time this is told.
            self._means.reporter.moved(entry)
        else:
            self._means.reporter.turned(entry)
        # As above: of a folder of small files "stored" is what anybody looks for in the log.
        say = log.debug if at_once else log.info
        say("job open", tag=str(job.tag), size_bytes=job.manifest.size_bytes, chunks_stored=len(job.durable))
        return entry

    def _part_upload(self, entry: LiveJob, begun: Begun) -> PartUpload:
        assert self._means.parts is not None

        policy = self._means.parts

        def put(chunk: int, makers: Mapping[NodeId, int]) -> None:
            if policy.remote and chunk not in entry.job.durable:
                self._passage.durability.note(entry, chunk, makers)

        return PartUpload(
            runtime=self._means.runtime,
            ledger=self._means.ledger,
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
        entry = self._means.shelf.live.get(tag)
        if entry is not None:
            entry.audience[link] = None
            self._means.reporter.moved(entry)

    def leave(self, link: Link) -> None:
        """``link`` has ended."""
        for entry in self._means.shelf.live.values():
            if entry.audience.pop(link, "") is None:
                self._means.reporter.moved(entry)

    def offers_changed(self, tag: Tag) -> None:
        """Somebody offers more or less of ``tag``: whether it is safe may have changed."""
        entry = self._means.shelf.live.get(tag)
        if entry is not None:
            self._means.reporter.moved(entry)

    async def claim(self, entry: LiveJob, node: NodeId, name: str) -> None:
        """``node`` wants a live job's file, under ``name``. The caller has the tag's turn."""
        await self._means.ledger.claim(entry.tag, node, name)
        entry.job.claim(node, name)
        self._means.reporter.turned(entry)

    async def withdraw(self, tag: Tag, node: NodeId) -> None:
        """``node`` no longer wants it; the last one's word cancels the job."""
        async with self.turns.of(tag):
            entry = self._means.shelf.live.get(tag)
            if entry is None or node not in entry.job.uploaders:
                return
            try:
                if entry.job.withdraw(node):
                    await self._passage.stop(entry)
                else:
                    await self._means.ledger.withdraw(tag, node)
                    self._means.reporter.turned(entry)
            except LeaseLost as error:
                log.warning("a withdrawal is for another storage node to hear", reason=str(error))
                entry.disown(str(error))
