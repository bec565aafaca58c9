"""The life of every get: located, fetched from all who have it, verified as a whole, put into place.

Durable as a row before anything happens: a get goes on after a kill, and its verified chunks count as held (they can be
served, and the tracker orders us to push them to an open job). What an earlier life wrote is believed only after it was
read back. One fetch for each tag at a time; a second get of it copies from the first.

Who has it, holders.py says; where it goes, placing.py; which bytes come from whom, the engine.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
import trio

from daemon.events import Events
from daemon.fetching import Fetching
from daemon.getrecord import (
    FINISHED_MAX,
    Get,
    GetState,
    durable_chunks,
    forget_gets,
    insert_get,
    read_gets,
    row_of_get,
    update_get,
)
from daemon.holders import Holders, Located
from daemon.library import Library
from daemon.naming import part_path
from daemon.placing import choose_target, exists_error, is_there, place
from daemon.tidying import tidy
from protocol.bitmap import Bitmap
from protocol.errors import CommandError, LinkLost, NotFound, SizeRefuted, StorageError, StorageFull
from protocol.ids import Tag
from protocol.manifest import Manifest
from runtime.seam import Database, FileStatus, Runtime

log = structlog.get_logger()

# Whole files that are fetched at the same time; the links of each are bounded in fetching.py.
FETCHING_MAX = 8


class Gets:
    """All gets of this node. ``load`` them, then ``run``."""

    def __init__(
        self,
        runtime: Runtime,
        database: Database,
        library: Library,
        holders: Holders,
        fetching: Fetching,
        events: Events,
        folder: Path,
    ) -> None:
        self._runtime = runtime
        self._database = database
        self._library = library
        self._holders = holders
        self._fetching = fetching
        self._events = events
        self._folder = folder
        self._gets: dict[int, Get] = {}
        self._scopes: dict[int, trio.CancelScope] = {}
        self._attempts: dict[int, trio.CancelScope] = {}
        self._turns: dict[Tag, trio.Lock] = {}
        self._adding = trio.Lock()
        self._slots = trio.Semaphore(FETCHING_MAX)
        self._resumed = trio.Event()
        self._nursery: trio.Nursery | None = None

    async def load(self) -> None:
        """Read what was begun in earlier lives."""
        await tidy(self._database, forget_gets)
        for get in await self._database.read(read_gets):
            self._gets[get.number] = get

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Go on with every get that has not ended, until cancelled; then all stay as they are."""
        try:
            async with trio.open_nursery() as lives:
                self._nursery = lives
                for get in self.active():
                    self._start(get)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    # --- what the user says ---

    async def get(self, what: Tag | str, name: str, output: Path | None) -> Get:
        """Begin to fetch ``what``; durable when this returns. ``name`` is used when nobody knows a better one.

        Raises:
            NotFound: nobody has it.
            LinkLost: it is a name, and the tracker is away.
            CommandError: there is no place for it.
        """
        located = await self._locate(what, name)
        manifest = await self._holders.manifest(located)
        tag = manifest.tag
        target = await choose_target(self._runtime, output, self._folder, located.name, tag)
        # Told now, not after the download.
        await is_there(self._runtime, target, manifest)
        await self._library.remember_manifest(manifest)
        async with self._adding:
            return await self._add(manifest, located.name, target)

    async def _add(self, manifest: Manifest, name: str, target: Path) -> Get:
        tag, size_bytes = manifest.tag, manifest.size_bytes
        for get in self.active():
            if get.target == target:
                if get.tag == tag:
                    return get
                raise CommandError("busy", f"{get.id} is fetching another file to {target}", 5)
        part = part_path(target, tag)
        began = int(max(0, self._runtime.clock.wall()))

        def insert(cursor: Any) -> tuple[int, Bitmap]:
            durable = durable_chunks(cursor, tag, part)
            return insert_get(cursor, tag, size_bytes, name, target, part, began), durable

        number, durable = await self._database.transaction(insert)
        get = self._gets[number] = Get(number, tag, size_bytes, name, target, part, began, durable)
        self._start(get)
        ended = [get.number for get in self._gets.values() if get.state.final]
        for old in ended[:-FINISHED_MAX]:
            del self._gets[old]
        return get

    async def wait(self, get: Get, notice: Callable[[Get], Awaitable[None]]) -> None:
        """Wait until ``get`` has ended; ``notice`` is called at each change."""
        while not get.state.final:
            changed = get.changed
            await notice(get)
            await changed.wait()
        await notice(get)

    def find(self, get_id: str) -> Get:
        """Return the get that the user calls ``get_id``. Raises ``NotFound``."""
        get = next((get for get in self._gets.values() if get.id == get_id), None)
        if get is None:
            raise NotFound(f"there is no get {get_id[:40]!r}")
        return get

    def all(self) -> list[Get]:
        """Return every get that is remembered, oldest first."""
        return list(self._gets.values())

    def active(self) -> list[Get]:
        """Return the gets that have not ended."""
        return [get for get in self._gets.values() if not get.state.final]

    async def cancel(self, get: Get) -> None:
        """Give it up; what was fetched of it is removed."""
        if get.state.final:
            raise CommandError("ended", f"{get.id} has ended already: {get.state.value}", 1)
        scope = self._scopes.get(get.number)
        await self._end(get, GetState.CANCELLED, None)
        if scope is not None:
            scope.cancel()

    async def pause(self, get: Get) -> None:
        """Leave it as it is until ``resume``."""
        if get.state.final or get.paused:
            return
        get.paused = True
        attempt = self._attempts.get(get.number)
        if attempt is not None:
            attempt.cancel()
        await self._write(get)
        get.touch()

    async def resume(self, get: Get) -> None:
        """Undo ``pause``."""
        if not get.paused:
            return
        get.paused = False
        self._resumed.set()
        self._resumed = trio.Event()
        await self._write(get)
        get.touch()

    # --- one fetch for each tag at a time ---

    def turn(self, tag: Tag) -> trio.Lock:
        """Return the lock that whoever fetches ``tag`` holds; ``forget_turn`` after its release."""
        return self._turns.setdefault(tag, trio.Lock())

    def forget_turn(self, tag: Tag) -> None:
        """Drop that lock if nobody holds it or waits for it."""
        turn = self._turns.get(tag)
        if turn is not None and not turn.locked() and not turn.statistics().tasks_waiting:
            del self._turns[tag]

    # --- one life ---

    async def _locate(self, what: Tag | str, name: str) -> Located:
        mine = self._library.newest_named(what) if isinstance(what, str) else None
        try:
            located = await self._holders.locate(what)
        except (CommandError, LinkLost):
            # What we have ourselves we can always give a second name.
            if isinstance(what, Tag) and self._library.files_of(what):
                return Located(what, name or self._library.files_of(what)[0].name, None, ())
            if mine is None:
                raise
            return Located(mine.tag, mine.name, None, ())
        return Located(located.tag, name or located.name, located.size_bytes, located.sources)

    def _start(self, get: Get) -> None:
        if self._nursery is not None:
            scope = self._scopes[get.number] = trio.CancelScope()
            self._nursery.start_soon(self._live, get, scope, name=f"get {get.id}")

    async def _live(self, get: Get, scope: trio.CancelScope) -> None:
        began = self._runtime.clock.monotonic()
        turn = self.turn(get.tag)
        try:
            with scope:
                try:
                    while not get.state.final:
                        while get.paused:
                            await self._resumed.wait()
                        with trio.CancelScope() as attempt:
                            self._attempts[get.number] = attempt
                            try:
                                async with turn, self._slots:
                                    await self._attempt(get)
                                await self._end(get, GetState.DONE, None, began)
                            finally:
                                self._attempts.pop(get.number, None)
                except CommandError as error:
                    await self._end(get, GetState.FAILED, error, began)
                except StorageFull as error:
                    await self._end(get, GetState.FAILED, CommandError("no-space", str(error), 9), began)
            if get.state is GetState.CANCELLED:
                # It is in a folder of the user's choice: when that is broken we leave it as it is.
                with suppress(StorageError):
                    await self._runtime.run_sync(self._runtime.disk.remove, get.part)
        finally:
            self._scopes.pop(get.number, None)
            self.forget_turn(get.tag)

    async def _attempt(self, get: Get) -> None:
        manifest = await self._library.manifest(get.tag)
        if manifest is None:
            # Only a damaged database leads here: its row was written before this get's.
            try:
                manifest = await self._holders.manifest(await self._holders.locate(get.tag))
            except LinkLost as error:
                raise CommandError("unfinished", f"nobody can be asked now: {error}", 7) from error
            await self._library.remember_manifest(manifest)
        refuted: set[int] = set()
        while True:
            status = await is_there(self._runtime, get.target, manifest)
            if status is not None:
                break
            try:
                status = await self._fetch(get, manifest)
                break
            except SizeRefuted as error:
                refuted.add(manifest.size_bytes)
                manifest = await self._resized(get, manifest, error, refuted)
        await self._library.add(manifest, get.target, status, get.name, "get")

    async def _resized(self, get: Get, manifest: Manifest, error: SizeRefuted, refuted: set[int]) -> Manifest:
        """Return the manifest with the next size that somebody vouches for; the digests are bound by the tag."""
        size_bytes = next((size for size in error.claims if size not in refuted), None)
        if size_bytes is None:
            await self._library.forget_manifest(manifest.tag)
            raise CommandError("unfinished", f"{error}; nobody says otherwise any more", 7) from error
        log.warning("another size is tried", id=get.id, size_bytes=size_bytes, refuted=manifest.size_bytes)
        manifest = manifest.of_size(size_bytes)
        await self._library.remember_manifest(manifest)
        get.size_bytes = size_bytes
        get.touch()
        return manifest

    async def _fetch(self, get: Get, manifest: Manifest) -> FileStatus:
        async def save() -> None:
            await self._write(get)

        status: FileStatus | None = None
        async with self._fetching.whole(get, manifest, save):
            status = await place(self._runtime, get.part, get.target)
            if status is None:
                status = await is_there(self._runtime, get.target, manifest)
                if status is None:
                    raise exists_error(get.target)
            # Held as a file before the download is forgotten: there is no moment at which we hold nothing.
            await self._library.add(manifest, get.target, status, get.name, "get")
        return status

    async def _end(self, get: Get, state: GetState, error: CommandError | None, began: float | None = None) -> None:
        if get.state.final:
            return
        get.state, get.error, get.note, get.paused = state, error, "", False
        if began is not None:
            get.seconds = round(self._runtime.clock.monotonic() - began, 3)
        if state is GetState.DONE:
            get.bytes_done = get.size_bytes
        with trio.CancelScope(shield=True):
            await self._write(get)
        fields = {"reason": error.sentence} if error is not None else {}
        self._events.add(f"get {state.value}", id=get.id, tag=str(get.tag), name=get.name, **fields)
        get.touch()

    async def _write(self, get: Get) -> None:
        row = row_of_get(get)
        try:
            await self._database.transaction(lambda cursor: update_get(cursor, row))
        except StorageFull as error:
            # The row says less than is true; after a restart a little is done again.
            log.warning("get not written down", id=get.id, reason=str(error))
