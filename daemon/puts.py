"""The life of every put: hashed, brought to a storage node's desk, offered, and followed until it is stored.

Decides when to try again, with whom, and when to give up. Each put is a row before anything happens, so that it goes on
after a kill without a new command. One put is one task; what it shares with others (threads for hashing, links) is
bounded here. The conversation with a desk is desk.py's, the bytes are the engine's.

After it is stored the file stays in the library: we keep serving and helping.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Literal, Protocol

import structlog
import trio

from daemon.desk import Desk, withdraw
from daemon.events import Events
from daemon.hashing import FileChanged, hash_file
from daemon.library import Library
from daemon.neighbours import Neighbours
from daemon.putrecord import FINISHED_MAX, Put, PutState, forget_puts, insert_puts, read_puts, row_of_put, update_put
from daemon.tidying import tidy
from protocol import messages as m
from protocol.errors import (
    ChunkMissing,
    CommandError,
    LinkLost,
    NotFound,
    NotTrusted,
    RemoteProtocolError,
    StorageError,
    StorageFull,
    StorageUnavailable,
)
from protocol.ids import NodeAddress, Tag
from protocol.manifest import Manifest
from runtime.seam import Database, Runtime

log = structlog.get_logger()

Until = Literal["stored", "safe"]

# Each hashing uses all cores by itself; two hide the waits of small files.
HASHING_MAX = 2
# Small files spend their time waiting for an fsync at the other end.
SENDING_MAX = 32
# Full jitter, as everywhere; short at the top, because a person waits.
RETRY_SECONDS_FIRST = 0.5
RETRY_SECONDS_MAX = 10.0
# A desk that has no room, and a job that failed there: others may do better, but not for ever.
NO_SPACE_TRIES_MAX = 4
JOB_FAILURES_MAX = 3
# So often we look for the storage node that began with it before we take another one.
MISSES_MAX = 3
WITHDRAW_TRIES_MAX = 6
# Somebody may be at sealing files for so long before they are put.
SEALED_KEPT_SECONDS = 86400.0


class Tracker(Protocol):
    """What is needed of runtime.heartbeat.TrackerLink."""

    async def ask(self, factory: Callable[[int], m.Message]) -> m.Message:
        """Ask; see there."""
        ...


class Puts:
    """All puts of this node. ``load`` them, then ``run``. ``sealed``: folder of sealed copies, which are removed when
    their put has ended."""

    def __init__(
        self,
        runtime: Runtime,
        database: Database,
        library: Library,
        neighbours: Neighbours,
        tracker: Tracker,
        desk: Desk,
        events: Events,
        sealed: Path | None = None,
    ) -> None:
        self._runtime = runtime
        self._database = database
        self._library = library
        self._neighbours = neighbours
        self._tracker = tracker
        self._desk = desk
        self._events = events
        self._sealed = sealed
        # The folder that a file's path must not lead out of, by links on the way either; None: it may.
        self.confined: Callable[[Path], Path | None] = lambda path: None
        self._random = Random(runtime.random.getrandbits(64))
        self._puts: dict[int, Put] = {}
        self._scopes: dict[int, trio.CancelScope] = {}
        self._attempts: dict[int, trio.CancelScope] = {}
        self._withheld: dict[int, Tag] = {}
        self._hashing = trio.Semaphore(HASHING_MAX)
        self._sending = trio.Semaphore(SENDING_MAX)
        self._nursery: trio.Nursery | None = None
        self._paused = False
        self._adding = trio.Lock()
        self._resumed = trio.Event()
        self._nudged = trio.Event()

    async def load(self) -> None:
        """Read what was begun in earlier lives."""
        await tidy(self._database, forget_puts)
        for put in await self._database.read(read_puts):
            self._puts[put.number] = put
        await self._sweep_sealed()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Go on with every put that has not ended, until cancelled; then all stay as they are."""
        try:
            async with trio.open_nursery() as lives:
                self._nursery = lives
                for put in self.active():
                    if put.paused:
                        self._withhold(put)
                    self._start(put)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    # --- what the user says ---

    async def put(self, path: Path, name: str) -> Put:
        """Begin to put one file; see ``put_all``."""
        (put,) = await self.put_all([(path, name)])
        return put

    async def put_all(self, files: list[tuple[Path, str]], expires_seconds: int | None = None) -> list[Put]:
        """Begin to put files (path and name); durable when this returns. The same file under the same name joins a put
        under way. ``expires_seconds``: how long these names shall hold once they are stored; None: as storage is set.
        """
        async with self._adding:
            known = {(put.path, put.name): put for put in self.active()}
            fresh = list(dict.fromkeys(file for file in files if file not in known))
            began = int(max(0, self._runtime.clock.wall()))
            numbers = await self._database.transaction(
                lambda cursor: insert_puts(cursor, fresh, began, expires_seconds)
            )
            for number, (path, name) in zip(numbers, fresh, strict=True):
                put = known[path, name] = self._puts[number] = Put(number, path, name, began, expires_seconds)
                self._start(put)
            ended = [put.number for put in self._puts.values() if put.state.final]
            for number in ended[:-FINISHED_MAX]:
                del self._puts[number]
            return [known[file] for file in files]

    async def wait(self, put: Put, until: Until, notice: Callable[[Put], Awaitable[None]]) -> None:
        """Wait until ``put`` is stored or safe, or has failed; ``notice`` is called at each change."""
        while not (put.state.final or (until == "safe" and put.safe)):
            changed = put.changed
            await notice(put)
            await changed.wait()
        await notice(put)

    def find(self, put_id: str) -> Put:
        """Return the put that the user calls ``put_id``. Raises ``NotFound``."""
        put = next((put for put in self._puts.values() if put.id == put_id), None)
        if put is None:
            raise NotFound(f"there is no put {put_id[:40]!r}")
        return put

    def all(self) -> list[Put]:
        """Return every put that is remembered, oldest first."""
        return list(self._puts.values())

    def active(self) -> list[Put]:
        """Return the puts that have not ended."""
        return [put for put in self._puts.values() if not put.state.final]

    async def cancel(self, put: Put) -> None:
        """No longer want it stored; the storage node is told, if it can be reached within a minute or so."""
        if put.state.final:
            raise CommandError("ended", f"{put.id} has ended already: {put.state.value}", 1)
        await self._end(put, PutState.CANCELLED, None)
        scope = self._scopes.get(put.number)
        if scope is not None:
            scope.cancel()

    async def pause(self, put: Put) -> None:
        """Leave it as it is until ``resume``; nothing of it is offered meanwhile."""
        if put.state.final or put.paused:
            return
        put.paused = True
        self._cut_attempt(put)
        self._withhold(put)
        await self._write(put)
        put.touch()

    async def resume(self, put: Put) -> None:
        """Undo ``pause``."""
        if not put.paused:
            return
        put.paused = False
        self._offer_again(put)
        self._wake_paused()
        await self._write(put)
        put.touch()

    def set_paused(self, paused: bool) -> None:
        """Begin nothing while paused; what is under way stands still because the engine does."""
        self._paused = paused
        self._wake_paused()

    def look_again(self) -> None:
        """Something changed outside (the tracker is back): whoever waits to try again does so soon."""
        self._nudged.set()
        self._nudged = trio.Event()

    def file_lost(self, tag: Tag) -> None:
        """The library no longer holds ``tag``: puts of it must look at their file again."""
        for put in self.active():
            if put.tag == tag and not put.paused:
                self._cut_attempt(put)

    # --- one life ---

    def _start(self, put: Put) -> None:
        if self._nursery is None:
            return  # ``run`` will
        scope = self._scopes[put.number] = trio.CancelScope()
        self._nursery.start_soon(self._live, put, scope, name=f"put {put.id}")

    async def _live(self, put: Put, scope: trio.CancelScope) -> None:
        began = self._runtime.clock.monotonic()
        try:
            with scope:
                try:
                    await self._until_ended(put, began)
                except CommandError as error:
                    await self._end(put, PutState.FAILED, error, began)
        finally:
            self._scopes.pop(put.number, None)

    async def _until_ended(self, put: Put, began: float) -> None:
        failures = refusals = job_failures = 0
        while not put.state.final:
            await self._not_paused(put)
            stored_before = put.bytes_stored
            closed: m.JobClosed | None = None
            with trio.CancelScope() as attempt:
                self._attempts[put.number] = attempt
                try:
                    manifest = await self._known(put)
                    async with self._sending:
                        closed = await self._attempt(put, manifest)
                except (LinkLost, NotTrusted, StorageUnavailable, RemoteProtocolError, StorageFull) as error:
                    put.note = str(error)
                except ChunkMissing as error:
                    put.note = f"the file must be looked at again: {error}"
                except NotFound as error:
                    put.note = str(error)
                except CommandError as error:
                    refusals += 1
                    if error.code not in ("no-space", "busy", "no-storage") or (
                        error.code == "no-space" and refusals >= NO_SPACE_TRIES_MAX
                    ):
                        raise
                    put.storage = None
                    put.note = str(error)
                finally:
                    self._attempts.pop(put.number, None)
            if attempt.cancelled_caught:
                continue
            if closed is not None and closed.state is m.JobState.STORED:
                await self._end(put, PutState.STORED, None, began)
                return
            if closed is not None:
                job_failures += 1
                put.note = f"the storage node gave up the job: {closed.reason or closed.state.value}"
                if job_failures >= JOB_FAILURES_MAX:
                    raise CommandError("job-failed", put.note, 1)
            failures = 0 if put.bytes_stored > stored_before else failures + 1
            put.touch()
            log.info("put will be tried again", id=put.id, reason=put.note)
            await self._back_off(failures)

    async def _known(self, put: Put) -> Manifest:
        """Return the manifest of the file as it is now, hashing it only if it is not known.

        Raises:
            FileChanged: it is no longer the file that was put, and not all of it is safe elsewhere.
            CommandError: it is gone, or cannot be read.
        """
        known = await self._library.remembered(put.path)
        if known is not None:
            manifest = await self._library.manifest(known.tag)
            if manifest is not None:
                if known.name != put.name:
                    await self._library.add(manifest, put.path, known.status, put.name, "put")
                await self._tagged(put, manifest)
                return manifest
        if put.tag is None:
            put.state = PutState.HASHING
            put.touch()
        try:
            async with self._hashing:
                manifest, status = await hash_file(
                    self._runtime, put.path, lambda done: self._hashed(put, done), below=self.confined(put.path)
                )
            if put.tag is not None and manifest.tag != put.tag:
                raise FileChanged(put.path)
        except CommandError as error:
            kept = await self._library.manifest(put.tag) if put.tag is not None and put.safe else None
            if kept is None:
                # Not as NotFound: that is what the tracker says of a tag, and asking again may help then.
                raise CommandError(error.code, error.sentence, error.exit_code) from error
            return kept  # Others have all of it; we only wait for the good end.
        # In one transaction: of a thousand small files that is a thousand less.
        row = row_of_put(put, manifest.tag)
        await self._library.add(
            manifest, put.path, status, put.name, "put", beside=lambda cursor: update_put(cursor, row)
        )
        await self._tagged(put, manifest, written=True)
        return manifest

    async def _tagged(self, put: Put, manifest: Manifest, *, written: bool = False) -> None:
        put.bytes_total = put.bytes_hashed = manifest.size_bytes
        if put.tag is None:
            put.tag = manifest.tag
            put.state = PutState.ASKING
            if not written:
                await self._write(put)
            self._events.add("put hashed", id=put.id, tag=str(put.tag), name=put.name, size=put.bytes_total)
        put.touch()

    async def _attempt(self, put: Put, manifest: Manifest) -> m.JobClosed:
        put.state = PutState.ASKING
        put.touch()
        storage = await self._whereabouts(put, manifest)
        put.misses += 1
        link = await self._neighbours.dial(storage)
        put.misses = 0
        if put.storage != storage:
            put.storage = storage
            await self._write(put)
        self._library.want_stored(manifest.tag)
        try:
            return await self._desk.store(link, put, manifest)
        finally:
            self._library.want_stored_no_more(manifest.tag)

    async def _whereabouts(self, put: Put, manifest: Manifest) -> NodeAddress:
        try:
            answer = await self._tracker.ask(
                lambda request: m.Where(
                    request=request, tag=manifest.tag, name=None, size_bytes=manifest.size_bytes, to_put=True
                )
            )
        except LinkLost:
            # The tracker only introduces us; whom it introduced last time we can meet without it.
            if put.storage is not None:
                return put.storage
            raise
        assert isinstance(answer, m.WhereAnswer)
        # A tracker that has just started may not have heard of the job that we know of.
        unknown = answer.state in (m.Whereabouts.ASSIGNED, m.Whereabouts.NONE)
        if unknown and put.storage is not None and put.misses < MISSES_MAX:
            same = answer.storage is not None and answer.storage.node == put.storage.node
            return answer.storage if same and answer.storage is not None else put.storage
        if answer.storage is None:
            raise StorageUnavailable("no storage node is there that has room")
        return answer.storage

    def _hashed(self, put: Put, done_bytes: int) -> None:
        put.bytes_hashed = done_bytes
        put.hashing.note(self._runtime.clock.monotonic(), done_bytes)
        put.touch()

    async def _end(self, put: Put, state: PutState, error: CommandError | None, began: float | None = None) -> None:
        if put.state.final:
            return
        put.state, put.error, put.note = state, error, ""
        if began is not None:
            put.seconds = round(self._runtime.clock.monotonic() - began, 3)
        if put.paused:
            put.paused = False
            self._offer_again(put)
        if state is PutState.STORED:
            put.bytes_stored = put.bytes_total
            put.safe = True
        with trio.CancelScope(shield=True):
            await self._write(put)
            await self._remove_sealed(put)
        if state is not PutState.STORED and put.tag and put.storage and self._nursery is not None:
            # Nobody may be left who can finish the job; the storage node need not wait for days.
            self._nursery.start_soon(self._withdraw, put.tag, put.storage, name=f"withdraw {put.id}")
        fields = {"reason": error.sentence} if error is not None else {"instant": put.instant}
        self._events.add(
            f"put {state.value}", id=put.id, tag=str(put.tag) if put.tag else None, name=put.name, **fields
        )
        put.touch()

    # --- small things ---

    async def _withdraw(self, tag: Tag, storage: NodeAddress) -> None:
        for failures in range(WITHDRAW_TRIES_MAX):
            if self._wanting(tag):
                return
            try:
                link = await self._neighbours.dial(storage)
            except (LinkLost, NotTrusted):
                await self._back_off(failures + 2)
            else:
                withdraw(link, tag)
                return
        # The storage node forgets jobs that nobody feeds by itself.
        log.warning("storage was not told of a cancelled put", tag=str(tag), node=storage.node)

    async def _remove_sealed(self, put: Put) -> None:
        """A sealed copy was made for its put alone (upswarm/sealing.py): nobody needs it any more."""
        if self._sealed is None or put.path.parent != self._sealed:
            return
        if any(other.path == put.path for other in self.active()):
            return
        await self._library.drop(put.path)
        with suppress(StorageError):
            await self._runtime.run_sync(self._runtime.disk.remove, put.path)

    async def _sweep_sealed(self) -> None:
        """Remove sealed copies that no put knows: whoever made them was killed before it told us."""
        folder = self._sealed
        if folder is None:
            return
        needed = {put.path for put in self.active()}
        made_before = self._runtime.clock.wall() - SEALED_KEPT_SECONDS

        def sweep() -> None:
            disk = self._runtime.disk
            try:
                names = disk.list_folder(folder)
            except FileNotFoundError:
                return
            for path in (folder / name for name in names):
                if path not in needed and disk.status(path).mtime_ns < made_before * 1e9:
                    log.warning("a sealed copy that nobody put; removed", path=str(path))
                    disk.remove(path)

        try:
            await self._runtime.run_sync(sweep)
        except (OSError, StorageError) as error:
            log.warning("sealed copies not looked through", path=str(folder), reason=str(error))

    def _withhold(self, put: Put) -> None:
        if put.tag is not None:
            self._withheld[put.number] = put.tag
            self._library.withhold(put.tag)

    def _offer_again(self, put: Put) -> None:
        tag = self._withheld.pop(put.number, None)
        if tag is not None:
            self._library.offer_again(tag)

    def _wanting(self, tag: Tag) -> bool:
        return any(put.tag == tag for put in self.active())

    def _cut_attempt(self, put: Put) -> None:
        attempt = self._attempts.get(put.number)
        if attempt is not None:
            attempt.cancel()

    async def _not_paused(self, put: Put) -> None:
        while put.paused or self._paused:
            await self._resumed.wait()

    def _wake_paused(self) -> None:
        self._resumed.set()
        self._resumed = trio.Event()

    async def _back_off(self, failures: int) -> None:
        ceiling = min(RETRY_SECONDS_MAX, RETRY_SECONDS_FIRST * 2 ** min(failures, 10))
        # A nudge does not bring all puts at once either.
        await trio.sleep(self._random.uniform(0.05, RETRY_SECONDS_FIRST))
        with trio.move_on_after(self._random.uniform(0.0, ceiling)):
            await self._nudged.wait()

    async def _write(self, put: Put) -> None:
        row = row_of_put(put)
        try:
            await self._database.transaction(lambda cursor: update_put(cursor, row))
        except StorageFull as error:
            # The row says less than is true; after a restart a little is done again.
            log.warning("put not written down", id=put.id, reason=str(error))
