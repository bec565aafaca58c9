"""Files that arrive by tus, from their creation to the moment when they are stored, or nobody came for them any more.

Bytes are appended to a file of ours, made durable every now and then, and then recorded; what was recorded survives a
kill and a power cut, and there the client goes on. When all bytes are here they are hashed into chunks, and the file
becomes a job like any other that has all its chunks (``adopt``: storage/intake.py): verified, handed to the backend,
written to the ledger under its name. A file that is stored already is only named.

One request at a time appends to an upload: a later one interrupts it, because a client that comes again has lost its
connection, and the old one may take long to notice. Uploads are bounded in number and by the room that is left; those
that nobody went on with for ``expire_seconds`` are removed.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import structlog
import trio

from exchange.spool import Hash
from protocol.errors import ChunkMissing, StorageBroken, StorageError, StorageFull, StorageUnavailable
from protocol.ids import Tag
from protocol.limits import MIB
from protocol.manifest import Manifest
from runtime.seam import File, Runtime
from storage.ledger.base import LeaseLost
from storage.room import Room
from storage.tus.hashing import manifest_of
from storage.tus.headers import BAD_REQUEST, CONFLICT, MISMATCH, Checksum, Flaw
from storage.tus.records import Record, Records

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

log = structlog.get_logger()

UPLOADS_MAX = 1024
# What a kill may cost a client at most; a sync and a small file each time.
BYTES_BETWEEN_SYNCS = 32 * MIB
_WRITE_BYTES = 1 * MIB
SWEEP_SECONDS_BETWEEN = 60.0
RETRY_SECONDS = 5.0
_KEEP_SECONDS_MAX = 20.0
GONE, FULL, BUSY = 410, 507, 503

# ``adopt(tag, manifest, path, name)``: make the whole file ``path`` a stored one. Called again after a crash; None for
# the manifest says that ``path`` has gone that way already.
Adopt = Callable[[Tag, Manifest | None, Path, str], Awaitable[None]]


# ``excess(name, size_bytes)``: why so much may not be stored under that name; None when it may.
Excess = Callable[[str, int], Awaitable[str | None]]


@dataclass(eq=False, slots=True)
class Arrival:
    """One upload. ``ended``: stored, or failed for good."""

    record: Record
    turn: trio.Lock = field(default_factory=trio.Lock)
    scope: trio.CancelScope | None = None  # of the request that appends now
    ended: trio.Event = field(default_factory=trio.Event)

    @property
    def complete(self) -> bool:
        """Whether all bytes are here."""
        return self.record.offset == self.record.length


class Arrivals:
    """See the module. ``run`` must be running for files to become stored."""

    def __init__(
        self,
        runtime: Runtime,
        room: Room,
        folder: Path,
        adopt: Adopt,
        *,
        expire_seconds: float,
        excess: Excess,
        uploads_max: int = UPLOADS_MAX,
    ) -> None:
        self._excess = excess
        self.expire_seconds = expire_seconds
        self._runtime = runtime
        self._room = room
        self._records = Records(runtime.disk, folder)
        self._adopt = adopt
        self._uploads_max = uploads_max
        self._arrivals: dict[str, Arrival] = {}
        self._finishing: trio.Nursery | None = None
        self._broken: list[StorageBroken] = []
        self._wake = trio.Event()

    def __len__(self) -> int:
        return len(self._arrivals)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Go on with what an earlier process left, and finish and expire uploads until cancelled.

        Raises:
            StorageBroken: the disk failed; the process must end.
        """
        for record in await self._runtime.run_sync(self._records.load):
            self._arrivals[record.id] = Arrival(record)
        async with trio.open_nursery() as finishing:
            self._finishing = finishing
            for arrival in self._arrivals.values():
                self._promise(arrival.record)
                if arrival.record.stored or arrival.record.failed:
                    arrival.ended.set()
                elif arrival.complete:
                    finishing.start_soon(self._finish, arrival, name=f"tus {arrival.record.id[:8]}")
            task_status.started()
            while True:
                with trio.move_on_after(SWEEP_SECONDS_BETWEEN):
                    await self._wake.wait()
                # A request that finds the disk broken cannot end the process: the HTTP server would catch it.
                if self._broken:
                    raise self._broken[0]
                await self.sweep()

    # --- what requests do ---

    async def create(self, length: int, metadata: str, name: str) -> Arrival:
        """Begin an upload of ``length`` bytes.

        Raises:
            Flaw: there is no room for it, or there are too many.
        """
        if len(self._arrivals) >= self._uploads_max:
            raise Flaw(BUSY, f"{self._uploads_max} uploads are known here, which is as many as can be")
        reason = await self._excess(name, length)
        if reason is not None:
            raise Flaw(FULL, f"quota: {reason}")
        free = await self._room.free_bytes()
        if length > free:
            raise Flaw(FULL, f"no room: {length} bytes do not fit, {free} bytes are free beyond the reserve")
        id = self._runtime.token_bytes(16).hex()
        record = Record(id=id, length=length, metadata=metadata, name=name, moved_at=self._runtime.clock.wall())
        self._promise(record)
        try:
            await self._disk(self._records.write, record)
        except BaseException:
            self._room.release(("tus", id), void=True)
            raise
        arrival = self._arrivals[id] = Arrival(record)
        log.info("upload by tus", id=id, size_bytes=length, name=name)
        if not length:
            self._begin_finish(arrival)
        return arrival

    def get(self, id: str) -> Arrival | None:
        """Return an upload; None when there is none (any more)."""
        return self._arrivals.get(id)

    def expires_at(self, arrival: Arrival) -> float | None:
        """Return when an upload is given up if nobody goes on with it (wall clock); None when all bytes are here."""
        return None if arrival.complete else arrival.record.moved_at + self.expire_seconds

    async def settled(self, arrival: Arrival) -> None:
        """Interrupt whoever appends to ``arrival`` now, and wait until its offset is true."""
        async with self._taken_over(arrival):
            pass

    async def append(
        self, arrival: Arrival, offset: int, pieces: AsyncIterator[bytes], checksum: Checksum | None
    ) -> None:
        """Append ``pieces`` at ``offset``. What came before an error counts, unless there is a ``checksum``.

        Raises:
            Flaw: that is not where it goes on; more than was announced; another checksum; no room.
        """
        async with self._taken_over(arrival):
            record = arrival.record
            if record.failed:
                raise Flaw(GONE, record.failed)
            if offset != record.offset:
                raise Flaw(CONFLICT, f"Upload-Offset: {record.offset} bytes are here, not {offset}")
            with trio.CancelScope() as scope:
                arrival.scope = scope
                try:
                    await self._receive(arrival, pieces, checksum)
                finally:
                    arrival.scope = None
            if scope.cancelled_caught:
                raise Flaw(CONFLICT, "another request went on with this upload")
        if arrival.complete:
            self._begin_finish(arrival)

    async def end(self, arrival: Arrival) -> None:
        """The client gives the upload up; what is stored already stays stored.

        Raises:
            Flaw: it is being stored now.
        """
        async with self._taken_over(arrival):
            if arrival.complete and not arrival.ended.is_set():
                raise Flaw(CONFLICT, "all bytes are here, and are being stored now")
            await self._forget(arrival)

    # --- bytes ---

    @asynccontextmanager
    async def _taken_over(self, arrival: Arrival) -> AsyncIterator[None]:
        if arrival.scope is not None:
            arrival.scope.cancel()
        async with arrival.turn:
            if self._arrivals.get(arrival.record.id) is not arrival:
                raise Flaw(GONE, "this upload was given up")
            yield

    async def _receive(self, arrival: Arrival, pieces: AsyncIterator[bytes], checksum: Checksum | None) -> None:
        record = arrival.record
        file = await self._disk(self._runtime.disk.open_write, self._records.data_path(record.id))
        written = recorded = record.offset
        hasher: Hash | None = None if checksum is None else hashlib.new(checksum.algorithm, usedforsecurity=False)
        buffer = bytearray()
        try:
            try:
                async for piece in pieces:
                    if written + len(buffer) + len(piece) > record.length:
                        raise Flaw(BAD_REQUEST, f"more bytes than Upload-Length announced ({record.length})")
                    buffer += piece
                    if len(buffer) < _WRITE_BYTES:
                        continue
                    written = await self._write(file, buffer, written, hasher)
                    if hasher is None and written - recorded >= BYTES_BETWEEN_SYNCS:
                        recorded = await self._keep(arrival, file, written)
                written = await self._write(file, buffer, written, hasher)
                if checksum is not None and hasher is not None and hasher.digest() != checksum.digest:
                    raise Flaw(MISMATCH, f"the body is not what its {checksum.algorithm} says; nothing of it is kept")
                hasher = None
            finally:
                # Not kept: what has a checksum that nobody has compared.
                if hasher is None:
                    with trio.move_on_after(_KEEP_SECONDS_MAX, shield=True):
                        written = await self._write(file, buffer, written, None)
                        if written > recorded:
                            await self._keep(arrival, file, written)
        finally:
            file.close()

    async def _write(self, file: File, buffer: bytearray, at: int, hasher: Hash | None) -> int:
        data = bytes(buffer)
        buffer.clear()

        def work() -> None:
            file.write(data, at)
            if hasher is not None:
                hasher.update(memoryview(data))

        if data:
            await self._disk(work)
        return at + len(data)

    async def _keep(self, arrival: Arrival, file: File, offset: int) -> int:
        record = replace(arrival.record, offset=offset, moved_at=self._runtime.clock.wall())

        def work() -> None:
            file.sync()
            self._records.write(record)

        await self._disk(work)
        arrival.record = record
        self._promise(record)
        return offset

    async def _disk(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        try:
            return await self._runtime.run_sync(work, *args)
        except StorageFull as error:
            raise Flaw(FULL, f"no room: {error}") from error
        except StorageBroken as error:
            self._broken.append(error)
            self._wake.set()
            raise Flaw(BUSY, "the disk failed") from error

    def _promise(self, record: Record) -> None:
        self._room.promise(("tus", record.id), record.length - record.offset)

    # --- the end ---

    def _begin_finish(self, arrival: Arrival) -> None:
        assert self._finishing is not None
        if not arrival.ended.is_set():
            self._finishing.start_soon(self._finish, arrival, name=f"tus {arrival.record.id[:8]}")

    async def _finish(self, arrival: Arrival) -> None:
        async with arrival.turn:
            while not arrival.ended.is_set():
                try:
                    await self._store(arrival)
                # Lost: another storage node has its job; that one stores it, or lets it go.
                except (StorageFull, StorageUnavailable, LeaseLost) as error:
                    log.warning("an upload waits to be stored", id=arrival.record.id, reason=str(error))
                    await trio.sleep(RETRY_SECONDS)
                except StorageBroken:
                    raise
                except StorageError as error:
                    log.error("an upload cannot be stored", id=arrival.record.id, reason=str(error))
                    arrival.record = replace(arrival.record, failed=f"it could not be stored: {error}")
                    await self._runtime.run_sync(self._records.write, arrival.record)
                    arrival.ended.set()

    async def _store(self, arrival: Arrival) -> None:
        record = arrival.record
        path = self._records.data_path(record.id)
        tag, manifest = (Tag.parse(record.tag) if record.tag else None), None
        if await self._runtime.run_sync(self._records.has_data, record.id) or (tag is None and not record.length):
            manifest = await manifest_of(self._runtime, path, record.length)
            tag = manifest.tag
            # Before its bytes go: a process that comes after a crash must know what has become of them.
            arrival.record = replace(record, tag=str(tag))
            await self._runtime.run_sync(self._records.write, arrival.record)
        if tag is None:
            raise ChunkMissing("its bytes have disappeared from this storage node")
        await self._adopt(tag, manifest, path, record.name)
        arrival.record = replace(arrival.record, stored=True, moved_at=self._runtime.clock.wall())
        await self._runtime.run_sync(self._records.write, arrival.record)
        self._room.release(("tus", record.id))
        arrival.ended.set()
        log.info("stored what came by tus", id=record.id, tag=str(tag), size_bytes=record.length)

    # --- what nobody came for ---

    async def sweep(self) -> None:
        """Remove uploads that nobody went on with for too long, and records of those that ended."""
        now = self._runtime.clock.wall()
        for arrival in list(self._arrivals.values()):
            due = now - arrival.record.moved_at >= self.expire_seconds
            if due and not arrival.turn.locked() and (arrival.ended.is_set() or not arrival.complete):
                async with arrival.turn:
                    await self._forget(arrival)
                    log.info("upload by tus expired", id=arrival.record.id, offset=arrival.record.offset)

    async def _forget(self, arrival: Arrival) -> None:
        id = arrival.record.id
        self._arrivals.pop(id, None)
        self._room.release(("tus", id), void=True)
        await self._disk(self._records.remove, id)
