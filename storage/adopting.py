"""A whole file that came another way than chunk by chunk becomes a job that has all its chunks, like any other.

    row      the job is opened, and all chunks are acknowledged: they are durable in the file that came
    rename   the file becomes the job's spool file; both folders are synced
    commit   intake.py: everything is read back, handed to the backend, written to the ledger

A crash between the first two steps leaves a job whose chunks are not in its spool file; recovery.py sees that, and the
file is still there and is adopted again. If others upload the same file just now, their job is the one that goes on.
"""

from __future__ import annotations

import math
from pathlib import Path

import structlog
import trio

from protocol.bitmap import Bitmap
from protocol.errors import ChunkMissing, StorageFull
from protocol.ids import NodeId, Tag
from protocol.manifest import Manifest
from protocol.messages import JobState
from runtime.seam import Runtime
from storage.intake import Intake
from storage.jobs import Job, bytes_in
from storage.ledger.base import Acknowledgement, Ledger
from storage.passage import Passage
from storage.room import ROOM_SECONDS_BETWEEN
from storage.shelf import LiveJob, Shelf
from storage.spools import spool_path

log = structlog.get_logger()

LOOK_SECONDS_BETWEEN = 1.0


class Adopter:
    """``node``: who is said to have delivered such files: this node itself."""

    def __init__(
        self,
        runtime: Runtime,
        ledger: Ledger,
        shelf: Shelf,
        intake: Intake,
        passage: Passage,
        spool_folder: Path,
        node: NodeId,
    ) -> None:
        self._runtime = runtime
        self._ledger = ledger
        self._shelf = shelf
        self._intake = intake
        self._passage = passage
        self._spool_folder = spool_folder
        self._node = node

    async def adopt(self, tag: Tag, manifest: Manifest | None, path: Path, name: str) -> None:
        """Store the whole file ``path``, durable and on the spool's file system; return once it is stored as ``name``.

        ``manifest`` None: an earlier call, maybe of an earlier process, has taken ``path`` away already.

        Raises:
            ChunkMissing: its job came to another end.
            StorageFull: no room for a row; nothing has changed.
        """
        while True:
            async with self._intake.turns.of(tag):
                if tag in self._shelf.stored:
                    files = await self._ledger.add_name(tag, self._node, name, self._runtime.clock.wall())
                    self._shelf.put_stored(files)
                    if any(file.tag == tag for file in files):
                        await self._runtime.run_sync(self._remove, path)
                        return
                    # It was removed in this moment.
                    self._shelf.drop_stored(tag)
                entry = self._shelf.live.get(tag)
                if manifest is not None and (entry is None or entry.job.state is JobState.OPEN):
                    entry = await self._take(entry, manifest, path, name)
                    manifest = None
            if entry is None:
                raise ChunkMissing(f"the job of {tag} has ended, and it is not stored")
            # One that is committing may turn out rotten, and be open again; then ours takes its place.
            with trio.move_on_after(LOOK_SECONDS_BETWEEN if manifest is not None else math.inf):
                await entry.ended.wait()

    async def _take(self, entry: LiveJob | None, manifest: Manifest, path: Path, name: str) -> LiveJob:
        tag = manifest.tag
        await self._ledger.open_job(manifest, self._node, (name,), self._runtime.clock.wall())
        audience = tuple(entry.audience) if entry is not None else ()
        if entry is not None:
            log.info("a whole file takes the place of what came of it so far", tag=str(tag))
            job = await self._passage.set_aside(entry)
        else:
            resting = self._shelf.resting.get(tag)
            job = resting.job if resting is not None else Job(manifest)
        if job.may_claim(self._node, name):
            job.claim(self._node, name)
        missing = job.durable.missing()
        given = {self._node: bytes_in(manifest.layout, missing)}
        full = Acknowledgement(
            tag=tag,
            durable=Bitmap.full(tag.chunks),
            pushed={self._node: job.pushed.get(self._node, 0) + given[self._node]},
            apart=Bitmap(tag.chunks),
        )
        while True:
            try:
                await self._ledger.acknowledge([full], self._runtime.clock.wall())
                break
            except StorageFull as error:
                # From here there is no way back: the job's task has ended.
                log.warning("ledger has no room; an upload waits", reason=str(error))
                await trio.sleep(ROOM_SECONDS_BETWEEN)
        await self._runtime.run_sync(self._rename, path, spool_path(self._spool_folder, tag))
        job.acknowledge(missing, given)
        return await self._intake.go_on(job, audience)

    def _rename(self, source: Path, target: Path) -> None:
        disk = self._runtime.disk
        disk.rename(source, target)
        disk.sync_folder(target.parent)
        disk.sync_folder(source.parent)

    def _remove(self, path: Path) -> None:
        self._runtime.disk.remove(path)
        self._runtime.disk.sync_folder(path.parent)
