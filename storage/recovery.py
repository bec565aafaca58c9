"""What the last process left: ledger, spool folder and backend are brought into agreement before anything is served.

The ledger says what was acknowledged, the files say what is there. Where a crash left them apart:

    job, no spool file, object in the backend   it was renamed and not yet written down: verify it, write it down; if
                                                some of it is rotten, it is the spool file again, and that is missing
    job, no spool file, no object               nothing of it is held: no chunk counts as durable
    job, spool file of another size             it was being made: the same
    spool file, no job                          it was being made, or its job is stored or forgotten: removed
    job of a large file in a store of parts     what the store has of it counts, too (parts.py), when it is resumed
    stored, no object (or of another size)      lost; a failed job, and an error in the log, until it is put again

Chunks that were acknowledged are not read here; they are verified with all others at commit. Objects that no row speaks
of are left alone: a ledger that was restored from a backup must not make us delete files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import structlog

from protocol.bitmap import Bitmap
from protocol.errors import ChunkMissing, StorageBroken
from protocol.ids import Tag
from protocol.messages import JobState
from runtime.seam import Runtime
from storage.backends.base import Backend
from storage.commit import rotten_in_object
from storage.jobs import Job
from storage.ledger.base import KeptJob, Ledger
from storage.shelf import Shelf
from storage.spools import spool_path

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Recovered:
    """``open_jobs``: to be resumed by the intake. The rest is on the shelf."""

    open_jobs: list[Job]


async def recover(runtime: Runtime, ledger: Ledger, backend: Backend, shelf: Shelf, spool_folder: Path) -> Recovered:
    """Bring ledger and files into agreement and fill the shelf.

    Raises:
        ConfigError, StorageBroken, StorageFull: it cannot be done; nothing that was acknowledged is lost by that.
    """
    spools = await runtime.run_sync(_spool_sizes, runtime, spool_folder)
    objects = await backend.list()
    await _check_stored(runtime, ledger, backend, objects)
    open_jobs = []
    for kept in await ledger.jobs():
        job = kept.job
        tag, size = job.tag, job.manifest.size_bytes
        if backend.parts is not None and backend.parts.takes(size):
            # How far it came is seen when it is resumed: some of it may be in the store alone.
            if job.live:
                open_jobs.append(job)
            else:
                shelf.put_resting(job, kept.moved_at)
            continue
        if spools.get(str(tag)) != size:
            renamed = job.live and objects.get(tag) == size
            rotten = await _commit_again(runtime, ledger, backend, job, spool_folder) if renamed else None
            if rotten is not None:
                if not rotten:
                    continue
                durable = Bitmap.full(tag.chunks) - Bitmap.of(tag.chunks, rotten)
                await ledger.set_durable(tag, durable)
                kept = KeptJob(_with(job, durable), kept.moved_at)
            elif job.durable:
                log.warning("spool file is gone; its chunks are fetched again", tag=str(tag), chunks=len(job.durable))
                await ledger.set_durable(tag, Bitmap(tag.chunks))
                kept = KeptJob(_with(job, Bitmap(tag.chunks)), kept.moved_at)
        if kept.job.live:
            open_jobs.append(kept.job)
        else:
            shelf.put_resting(kept.job, kept.moved_at)
    shelf.put_stored(await ledger.stored())
    wanted = {str(job.tag) for job in open_jobs} | {str(tag) for tag in shelf.resting}
    orphans = sorted(set(spools) - wanted)
    await runtime.run_sync(_remove, runtime, spool_folder, orphans)
    log.info(
        "recovered",
        stored=len(shelf.stored),
        open_jobs=len(open_jobs),
        resting_jobs=len(shelf.resting),
        spool_files_removed=len(orphans),
    )
    return Recovered(open_jobs)


async def lose(runtime: Runtime, ledger: Ledger, tag: Tag, reason: str) -> None:
    """Something that was stored is not there any more: write it down as a failed job without chunks."""
    log.error("a stored file is lost", tag=str(tag), reason=reason)
    await ledger.lose(tag, reason, runtime.clock.wall())


async def _check_stored(runtime: Runtime, ledger: Ledger, backend: Backend, objects: dict[Tag, int]) -> None:
    for file in await ledger.stored():
        size = objects.get(file.tag)
        if size is None and ledger.shared:
            # Another node may have stored it since we looked.
            size = await backend.size_of(file.tag)
        if size is None:
            await lose(runtime, ledger, file.tag, "its object is not in the backend any more")
        elif size != file.size_bytes:
            await lose(runtime, ledger, file.tag, f"its object has {size} bytes, not {file.size_bytes}")


async def _commit_again(
    runtime: Runtime, ledger: Ledger, backend: Backend, job: Job, spool_folder: Path
) -> list[int] | None:
    """The object of an open job is in the backend already: it is stored now, or the spool file of the job again, and
    these chunks of it are rotten. None: it is not there after all."""
    tag, size = job.tag, job.manifest.size_bytes
    try:
        async with await backend.open(tag) as opened:
            rotten = await rotten_in_object(runtime, opened, job.manifest)
    except ChunkMissing:
        return None
    if rotten:
        log.error("an object is not what its digests say", tag=str(tag), chunks=rotten[:16], count=len(rotten))
        await backend.take_back(tag, spool_path(spool_folder, tag), size)
        return rotten
    # The rename may have happened without its folder being synced; the backend makes sure of that.
    await backend.store(tag, spool_path(spool_folder, tag), size)
    await ledger.store(tag, job.grants(), runtime.clock.wall())
    log.info("stored by the process before", tag=str(tag))
    return []


def _with(job: Job, durable: Bitmap) -> Job:
    """Return ``job`` with other durable chunks; nobody is said to have given them."""
    reason = job.reason if job.state is not JobState.OPEN else ""
    return Job(job.manifest, state=job.state, reason=reason, durable=durable, claims=job.claims)


def _spool_sizes(runtime: Runtime, folder: Path) -> dict[str, int]:
    try:
        names = runtime.disk.list_folder(folder)
        found = [(name, runtime.disk.status(folder / name)) for name in names]
    except OSError as error:
        raise StorageBroken(f"{folder}: {error}") from error
    return {name: status.size_bytes for name, status in found if status.kind == "file"}


def _remove(runtime: Runtime, folder: Path, names: list[str]) -> None:
    for name in names:
        runtime.disk.remove(folder / name)
    if names:
        runtime.disk.sync_folder(folder)
