"""A large file on its way into the store, a part for each chunk, while it is still coming.

Chunks are sent from the spool file as they are verified; helpers may put others straight into the store (direct.py).
The upload's word stands in the ledger before any part of it counts, so that whoever has the job next goes on with it.
An upload that nobody is to go on with is taken out of the ledger first and aborted then.

Where nodes share a ledger, what is only in this node's spool file is lost to the next owner: there a chunk is durable
once it is a part (``remote``).

    local   readable from the spool file
    words   parts that the store has, and its words for them
    apart   durable as parts alone, as it stands in the ledger
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog
import trio

from exchange.spool import Spool
from protocol.bitmap import Bitmap
from protocol.errors import ChunkMissing, IntegrityError, StorageFull, StorageUnavailable
from protocol.ids import NodeId
from protocol.limits import MIB
from protocol.manifest import Manifest
from runtime.bodies import PiecedBody
from runtime.seam import Runtime
from storage.backends.base import Parts
from storage.ledger.base import Acknowledgement, KeptJob, Ledger
from storage.room import ROOM_SECONDS_BETWEEN
from storage.shared import Shared

log = structlog.get_logger()

_READ_BYTES = 1 * MIB
# The store refused a part although its bytes are right here: a bad moment of somebody's memory.
_AGAIN_SECONDS = 1.0


@dataclass(slots=True)
class Begun:
    """What is known of a job's upload. ``whole``: the object is there already."""

    id: str | None
    words: dict[int, str]
    apart: Bitmap
    local: Bitmap
    whole: bool = False


@dataclass(frozen=True, slots=True)
class PartPolicy:
    """``remote``: a chunk counts as durable once it is a part, and not before. ``at_once``: parts of one job."""

    store: Parts
    remote: bool
    at_once: int
    limit: trio.CapacityLimiter  # over all jobs


class SpoolPart(PiecedBody):
    """A chunk of the spool file as the body of a request."""

    def __init__(self, spool: Shared[Spool], chunk: int, size_bytes: int) -> None:
        super().__init__(size_bytes, _READ_BYTES)
        self._spool = spool
        self._chunk = chunk

    async def piece(self, offset: int, size_bytes: int) -> bytes:
        """See ``PiecedBody``."""
        piece = bytearray(size_bytes)
        try:
            async with self._spool.use() as spool:
                await spool.read_block(self._chunk, offset, memoryview(piece))
        except ChunkMissing as error:
            # Not the store's "gone": our own file cannot be read there.
            raise IntegrityError(str(error)) from error
        return bytes(piece)


@dataclass(eq=False)
class PartUpload:
    """The upload of one live job. ``put(chunk, makers)`` is called when the store has a part that was sent from here;
    ``rotten(chunk)`` when the spool file is not what it was; ``vanished(chunks)`` when the store has lost an upload,
    and these chunks with it."""

    runtime: Runtime
    ledger: Ledger
    policy: PartPolicy
    manifest: Manifest
    spool: Shared[Spool]
    begun: Begun
    put: Callable[[int, Mapping[NodeId, int]], None]
    rotten: Callable[[int], None]
    vanished: Callable[[list[int]], None]
    changed: trio.Event = field(default_factory=trio.Event)
    _waiting: dict[int, None] = field(default_factory=dict)
    _makers: dict[int, Mapping[NodeId, int]] = field(default_factory=dict)
    _wake: trio.Event = field(default_factory=trio.Event)
    _opening: trio.Lock = field(default_factory=trio.Lock)

    def __post_init__(self) -> None:
        if not self.begun.whole:
            for chunk in self.begun.local:
                self.send(chunk)

    @property
    def complete(self) -> bool:
        """Whether the store has all parts."""
        return self.begun.whole or len(self.begun.words) == self.manifest.layout.chunks

    def poke(self) -> None:
        """Something changed that whoever sees the job through may wait for."""
        self.changed.set()
        self.changed = trio.Event()

    def verified(self, chunk: int, makers: Mapping[NodeId, int]) -> None:
        """A chunk is right and in the spool file, by these bytes of these senders."""
        self.begun.local.add(chunk)
        self._makers[chunk] = makers
        self.send(chunk)

    def send(self, chunk: int) -> None:
        """Put it, unless the store has it."""
        if chunk not in self.begun.words:
            self._waiting[chunk] = None
            self._wake.set()

    def forget(self, chunk: int) -> None:
        """It is not in the spool file after all."""
        self._waiting.pop(chunk, None)
        self.begun.local.discard(chunk)

    def arrived(self, chunk: int, word: str) -> None:
        """Somebody else put a part; the store has shown it."""
        self.begun.words[chunk] = word
        self.begun.apart.add(chunk)
        self.poke()

    async def upload(self) -> str:
        """Return the upload's word; one is begun, and written down, if there is none."""
        async with self._opening:
            if self.begun.id is None:
                upload = await self.policy.store.begin(self.manifest.tag)
                await self.ledger.set_upload(self.manifest.tag, upload)
                self.begun.id = upload
            return self.begun.id

    async def run(self) -> None:
        """Send what is to be sent, until cancelled.

        Raises:
            LeaseLost: the job is another node's.
            StorageBroken: the ledger failed.
        """
        async with trio.open_nursery() as senders:
            for number in range(self.policy.at_once):
                senders.start_soon(self._work, name=f"part {self.manifest.tag.root.hex()[:8]} {number}")

    async def _work(self) -> None:
        while True:
            while not self._waiting:
                self._wake = trio.Event()
                await self._wake.wait()
            chunk = next(iter(self._waiting))
            del self._waiting[chunk]
            try:
                async with self.policy.limit:
                    await self._put(chunk)
            except StorageUnavailable as error:
                await self._pause(chunk, str(error), error.retry_after_seconds)
            except StorageFull as error:
                await self._pause(chunk, f"no room: {error}", ROOM_SECONDS_BETWEEN)

    async def _put(self, chunk: int) -> None:
        if chunk in self.begun.words or chunk not in self.begun.local:
            return
        upload = await self.upload()
        layout = self.manifest.layout
        body = SpoolPart(self.spool, chunk, layout.bytes_of(chunk))
        try:
            word = await self.policy.store.put(self.manifest.tag, upload, chunk, body, self.manifest.digests[chunk])
        except ChunkMissing as error:
            self.lost(upload, str(error))
            self.send(chunk)
            return
        except IntegrityError as error:
            await self._look(chunk, str(error))
            return
        if self.begun.id != upload:
            self.send(chunk)  # it went into one that was lost meanwhile
            return
        self.begun.words[chunk] = word
        if self.policy.remote:
            self.begun.apart.add(chunk)
        self.put(chunk, self._makers.pop(chunk, {}))
        self.poke()

    async def _look(self, chunk: int, reason: str) -> None:
        async with self.spool.use() as spool:
            right = await spool.verify_chunk(chunk)
        if right:
            await self._pause(chunk, reason, _AGAIN_SECONDS)
            return
        log.error("a chunk rotted in the spool file", tag=str(self.manifest.tag), chunk=chunk)
        self.forget(chunk)
        self.rotten(chunk)
        self.poke()

    async def _pause(self, chunk: int, reason: str, seconds: float) -> None:
        log.warning("part waits", tag=str(self.manifest.tag), chunk=chunk, seconds=seconds, reason=reason)
        self.send(chunk)
        await trio.sleep(seconds)

    def lost(self, upload: str, reason: str) -> None:
        """The store knows this upload no more; another one is begun."""
        if self.begun.id != upload:
            return
        log.warning("the store lost an upload", tag=str(self.manifest.tag), reason=reason)
        gone = [chunk for chunk in self.begun.words if chunk not in self.begun.local]
        self.begun.id = None
        self.begun.words.clear()
        self.begun.apart = Bitmap(self.manifest.layout.chunks)
        for chunk in self.begun.local:
            self.send(chunk)
        self.vanished(gone)
        self.poke()

    async def finish(self) -> None:
        """Make the object of all parts; returns when it is there and right.

        Raises:
            ChunkMissing: the store has lost the upload; ``vanished`` was called, and all is to be sent again.
            StorageUnavailable, StorageFull: call again.
        """
        if self.begun.whole:
            return
        upload = self.begun.id
        assert upload is not None
        store = self.policy.store
        try:
            await store.complete(self.manifest, upload, self.begun.words)
        except ChunkMissing as error:
            # Completed already: an answer was lost, or an owner before us came so far.
            if await store.is_whole(self.manifest, upload):
                return
            self.lost(upload, str(error))
            raise


async def found(ledger: Ledger, store: Parts, kept: KeptJob, local: Bitmap) -> Begun:
    """Compare what the ledger says of a job's parts with what the store has; what is durable is written down anew, if
    it is not what it was (and in ``kept.job``). ``local``: what of the durable chunks is in this node's spool file.

    Raises:
        StorageUnavailable: the store does not answer.
    """
    job = kept.job
    begun = await _found(ledger, store, kept, local)
    durable = local | begun.apart
    if durable != job.durable or (kept.upload is not None and begun.apart != kept.upload.apart):
        if job.durable - durable:
            log.warning("chunks are gone", tag=str(job.tag), count=len(job.durable - durable))
        await ledger.acknowledge(
            [Acknowledgement(tag=job.tag, durable=durable, apart=begun.apart if begun.id is not None else None)],
            kept.moved_at,
        )
        job.durable = durable
    return begun


async def _found(ledger: Ledger, store: Parts, kept: KeptJob, local: Bitmap) -> Begun:
    manifest, chunks = kept.job.manifest, kept.job.manifest.layout.chunks
    if kept.upload is not None:
        try:
            words = await store.find(manifest, kept.upload.id)
        except ChunkMissing as error:
            reason = str(error)
        else:
            return Begun(kept.upload.id, words, Bitmap.of(chunks, words) - local, local.copy())
    upload = kept.upload.id if kept.upload is not None else None
    if await store.is_whole(manifest, upload):
        # Whoever completed it did not come to say so.
        return Begun(upload, {}, Bitmap.full(chunks) - local, local.copy(), whole=True)
    if kept.upload is not None:
        log.warning("the store lost an upload", tag=str(manifest.tag), reason=reason)
        await ledger.drop_upload(manifest.tag)
    return Begun(None, {}, Bitmap(chunks), local.copy())
