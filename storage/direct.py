"""Direct mode: helpers put chunks of large files into the store by themselves; this node grants, checks and completes.

Who is granted what, grants.py decides. Here it is said, and when a helper says that a part is put, the store is asked
before it is believed. What the store has shown is acknowledged like any other chunk (durability.py). The store refuses
other bytes than the chunk's, because its digest is signed with the request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
import trio

from exchange.session import Session
from protocol import messages as m
from protocol.errors import ChunkMissing, StorageFull, StorageUnavailable
from protocol.ids import NodeId, Tag
from protocol.limits import DIRECT_PARTS
from runtime.seam import Runtime
from storage.durability import Durability
from storage.grants import Grants
from storage.parts import PartUpload
from storage.room import ROOM_SECONDS_BETWEEN
from storage.shelf import LiveJob

log = structlog.get_logger()

# A request must begin within this time; it may take longer.
VALID_SECONDS = 60
TICK_SECONDS = 0.25
CHECKS_AT_ONCE = 8
_CHECKS_MAX = 16 * 1024


@dataclass(frozen=True, slots=True)
class _Check:
    """A helper says that it put a part of this upload."""

    number: int
    chunk: int
    upload: str


@dataclass(eq=False)
class _Job:
    entry: LiveJob
    parts: PartUpload
    durability: Durability
    checks: trio.MemorySendChannel[_Check]
    grants: Grants = field(default_factory=Grants)
    granted: dict[tuple[int, int], str] = field(default_factory=dict)  # (helper, chunk) -> for which upload
    wake: trio.Event = field(default_factory=trio.Event)


class Direct:
    """Of all jobs. ``strike(node)``: it said what is not so."""

    def __init__(self, runtime: Runtime, strike: Callable[[NodeId], None]) -> None:
        self._runtime = runtime
        self._strike = strike
        self._jobs: dict[Tag, _Job] = {}

    def prepare(self, entry: LiveJob) -> None:
        """Nobody who may put parts of this job is asked for its blocks."""
        entry.swarm.rest_if(_can_put)

    async def run(self, entry: LiveJob, parts: PartUpload, durability: Durability) -> None:
        """Let helpers put parts of one job, until cancelled.

        Raises:
            LeaseLost: the job is another node's.
        """
        checks_in, checks = trio.open_memory_channel[_Check](_CHECKS_MAX)
        job = self._jobs[entry.tag] = _Job(entry, parts, durability, checks_in)
        try:
            async with trio.open_nursery() as working:
                for _ in range(CHECKS_AT_ONCE):
                    working.start_soon(self._check_all, job, checks)
                while True:
                    job.wake = trio.Event()
                    try:
                        await self._grant(job)
                    except (StorageUnavailable, StorageFull) as error:
                        log.warning("grants wait", tag=str(entry.tag), reason=str(error))
                        await trio.sleep(_seconds(error))
                    with trio.move_on_after(TICK_SECONDS):
                        await job.wake.wait()
        finally:
            del self._jobs[entry.tag]
            for number, chunk in list(job.granted):
                self._recall(job, number, chunk)

    def told(self, number: int, message: m.PartPut | m.PartFailed) -> None:
        """A link answers a grant."""
        job = self._jobs.get(message.tag)
        upload = job.granted.pop((number, message.chunk), None) if job is not None else None
        if job is None or upload is None:
            return  # of a job that has ended, or taken back long ago
        if isinstance(message, m.PartPut):
            try:
                job.checks.send_nowait(_Check(number, message.chunk, upload))
            except trio.WouldBlock:
                self._failed(job, number, message.chunk)
        elif message.code == "recalled":
            job.grants.dropped(number, message.chunk)
        else:
            log.info("a part was not put", tag=str(message.tag), chunk=message.chunk, code=message.code)
            if message.code == "refused":
                job.grants.refused(number)
            self._failed(job, number, message.chunk)
        job.wake.set()

    # --- granting ---

    async def _grant(self, job: _Job) -> None:
        swarm, now = job.entry.swarm, self._runtime.clock.monotonic()
        offers = {number: offer for number, offer in swarm.offers().items() if _can_put(offer[0])}
        for number in [number for number in job.grants.helpers if number not in offers]:
            for chunk in job.grants.leave(number):
                swarm.give_back(chunk)
            for key in [key for key in job.granted if key[0] == number]:
                del job.granted[key]
        for number, chunk in job.grants.silent(now):
            log.warning("a granted part does not come", tag=str(job.entry.tag), chunk=chunk)
            self._recall(job, number, chunk)
            job.granted.pop((number, chunk), None)
            self._failed(job, number, chunk)
        for number, (session, _) in offers.items():
            job.grants.join(number, session.link.peer.node)
            swarm.rest(number, not job.grants.helpers[number].normal)
        held = {number: have for number, (_, have) in offers.items()}
        fresh = {number: swarm.fresh(have) for number, have in held.items()}
        if not any(fresh.values()) and not any(helper.out for helper in job.grants.helpers.values()):
            return
        upload = await job.parts.upload()
        # Others may have begun some of it while the upload was.
        fresh = {number: swarm.fresh(have) for number, have in held.items()}
        for number, chunk in job.grants.next(fresh, held, now):
            if swarm.fresh(held[number]) and chunk in swarm.fresh(held[number]):
                swarm.hold_back(chunk)
            self._say(job, offers[number][0], number, chunk, upload)

    def _say(self, job: _Job, session: Session, number: int, chunk: int, upload: str) -> None:
        manifest = job.entry.job.manifest
        grant = job.parts.policy.store.grant(manifest.tag, upload, chunk, manifest.digests[chunk], VALID_SECONDS)
        job.granted[number, chunk] = upload
        session.link.post(
            m.PartGrant(
                tag=manifest.tag,
                chunk=chunk,
                url=grant.url,
                checksum=grant.headers["x-amz-checksum-sha256"],
                seconds=VALID_SECONDS,
            )
        )

    def _recall(self, job: _Job, number: int, chunk: int) -> None:
        offer = job.entry.swarm.offers().get(number)
        if offer is not None:
            offer[0].link.post(m.PartRecall(tag=job.entry.tag, chunk=chunk))

    def _failed(self, job: _Job, number: int, chunk: int) -> None:
        if job.grants.failed(number, chunk):
            job.entry.swarm.give_back(chunk)

    # --- checking ---

    async def _check_all(self, job: _Job, checks: trio.MemoryReceiveChannel[_Check]) -> None:
        async for check in checks:
            while True:
                try:
                    await self._check(job, check)
                    break
                except (StorageUnavailable, StorageFull) as error:
                    log.warning("a put part waits to be seen", tag=str(job.entry.tag), reason=str(error))
                    seconds = _seconds(error)
                await trio.sleep(seconds)
            job.wake.set()

    async def _check(self, job: _Job, check: _Check) -> None:
        entry, parts, chunk = job.entry, job.parts, check.chunk
        try:
            words = await parts.policy.store.find(entry.job.manifest, check.upload, chunk)
        except ChunkMissing as error:
            parts.lost(check.upload, str(error))
            self._failed(job, check.number, chunk)
            return
        helper = job.grants.helpers.get(check.number)
        if chunk not in words or parts.begun.id != check.upload:
            if chunk not in words and helper is not None:
                log.warning("a part that was said to be put is not there", tag=str(entry.tag), chunk=chunk)
                self._strike(helper.node)
            self._failed(job, check.number, chunk)
            return
        maker, others = job.grants.came(check.number, chunk, self._runtime.clock.monotonic())
        for other in others:
            self._recall(job, other, chunk)
        if chunk in parts.begun.words:
            return
        size_bytes = entry.job.manifest.layout.bytes_of(chunk)
        makers = {} if maker is None else {maker: size_bytes}
        entry.makers.note(chunk, makers)
        parts.arrived(chunk, words[chunk])
        if chunk not in entry.job.durable:
            job.durability.note(entry, chunk, makers)
        entry.swarm.came_otherwise(chunk)


def _can_put(session: Session) -> bool:
    return DIRECT_PARTS in session.link.features


def _seconds(error: StorageUnavailable | StorageFull) -> float:
    return error.retry_after_seconds if isinstance(error, StorageUnavailable) else ROOM_SECONDS_BETWEEN
